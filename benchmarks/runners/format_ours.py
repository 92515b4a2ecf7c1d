"""Ours: a table, or one file, with ``user_id`` as its erase key, everything verified as shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import headrace.storage as storage
from benchmarks.runners.cells import start
from benchmarks.runners.protocol import Args, serve
from headrace.storage.reader import File
from headrace.storage.writer import Writer

ERASE_KEY = "user_id"


class Ours:
    """One profile; ``list_view`` hands out lists whose rows share items."""

    def __init__(self, profile: str, list_view: bool = False) -> None:
        self.key = f"ours-{profile}"
        self._profile, self._list_view = profile, list_view

    def write(self, table: pa.Table, path: Path) -> None:
        storage.write(path, table, erase_key=ERASE_KEY, profile=self._profile)

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        return storage.open(path).scan(columns, list_view=self._list_view).to_table()

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return storage.open(path).take(rows, columns)

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        return storage.open(path).scan(columns, filter=[(column, "==", value)]).to_table()


class OneFile(Ours):
    """A file without a table around it, as most peers' are: what is measured is how columns are found in a file."""

    def __init__(self, profile: str) -> None:
        super().__init__(profile)
        self.key = f"ours-file-{profile}"

    def write(self, table: pa.Table, path: Path) -> None:
        with Writer(path, table.schema, erase_key=ERASE_KEY, profile=self._profile) as writer:
            writer.write(table)
            writer.close()

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        with File(path) as file:
            return pa.Table.from_batches(file.batches(columns, list_view=self._list_view))


def ours(args: Args, profile: str) -> Ours:
    """A file alone where files are opened, else a table."""
    return OneFile(profile) if args["op"] == "open" else Ours(profile, bool(args.get("list_view", False)))


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: ours(args, profile)))
