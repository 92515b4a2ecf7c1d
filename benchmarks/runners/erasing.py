"""What every contestant of table ``erase`` does: forget the same persons, and be looked at by its own reader and byte by byte.

The table is made once and copied for each turn. ``run`` forgets, with whatever the contestant needs until nothing is left that it
can remove; bytes written are the process's own count (``wchar`` of /proc/self/io), so journals, logs and metadata are in it.
"""

from __future__ import annotations

import resource
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.runners.protocol import Args, Result, Runner

BLOCK = 4096
LOOKED_FOR = 24
"""Persons whose ids are looked for in the bytes; all of them are by decoding."""


def persons(rows: pa.Table, clustered: bool) -> pa.Table:
    """Rows whose ``user_id`` is a number that no other byte resembles; clustered: a person's rows lie together."""
    small = np.asarray(rows["user_id"].combine_chunks()).astype(np.uint64)
    large = ((small + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(2)
    ids = pa.array((large | np.uint64(1 << 60)).astype(np.int64))
    found = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", ids)
    return found.sort_by("user_id").combine_chunks() if clustered else found


def chosen(rows: pa.Table, share: float, seed: int) -> list[int]:
    """So many of all persons, at random."""
    everyone = np.unique(np.asarray(rows["user_id"].combine_chunks()))
    n = max(1, round(share * len(everyone)))
    return sorted(np.random.default_rng(seed).choice(everyone, n, replace=False).tolist())


class Erasing(Runner):
    """One contestant; a subclass says how it makes a table, forgets, and reads."""

    def __init__(self, args: Args) -> None:
        self.args = args
        with pa.memory_map(args["data"][args["dataset"]]["path"]) as file:
            rows = pa.ipc.open_file(file).read_all()
        self.rows = persons(rows, args["clustered"])
        self.ids = chosen(self.rows, args["share"], args["seed"])
        name = f"{type(self).__name__}-{args.get('kind', '')}-{args['clustered']}".lower()
        self.made, self.folder = Path(args["files"], name), Path(args["files"], f"{name}-turn")
        self.made.parent.mkdir(parents=True, exist_ok=True)
        self.before = 0

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Write the table."""

    @abstractmethod
    def forget(self, folder: Path) -> dict[str, float]:
        """Forget ``ids``; ``blocks`` of 4,096 bytes of data, where the contestant knows them."""

    @abstractmethod
    def found(self, folder: Path) -> int:
        """Rows of ``ids`` that some version still gives to its reader."""

    def rows_left(self, folder: Path) -> int:
        """Rows of the newest version."""
        raise TypeError(f"{type(self).__name__} has no rows_left()")

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.made.exists():
            self.make(self.made)
            if not self.found(self.made):
                raise ValueError("the reader does not find whom it is to forget")
        shutil.copytree(self.made, self.folder)
        self.before = sum(path.stat().st_size for path in data_files(self.folder))

    def run(self) -> Result:
        start = written()
        counted = self.forget(self.folder)
        n_bytes = written() - start
        values = {"bytes": n_bytes, "share_bytes": n_bytes / self.before, "size": self.before}
        values["share_blocks"] = counted.get("blocks", n_bytes / BLOCK) / (self.before / BLOCK)
        values["remains"] = self.found(self.folder) + seen(self.folder, self.ids[:LOOKED_FOR])
        values["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        values["s"] = counted["s"]
        return Result(values)

    def finish(self) -> None:
        left = self.rows_left(self.folder)
        gone = np.isin(np.asarray(self.rows["user_id"].combine_chunks()), self.ids).sum()
        if left != self.rows.num_rows - gone:
            raise ValueError(f"expected {self.rows.num_rows - gone} rows of others, got {left}")


def data_files(folder: Path) -> list[Path]:
    """Files with rows."""
    return [p for p in folder.rglob("*") if p.suffix in {".hrc", ".parquet", ".arrow", ".lance"}]


def written() -> int:
    """Bytes that this process has handed to the kernel to write."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def seen(folder: Path, ids: Sequence[int]) -> int:
    """How often ids stand in any file: 8 bytes in either order, or decimal text."""
    patterns = [
        form for one in ids for form in (one.to_bytes(8, "little"), one.to_bytes(8, "big"), str(one).encode())
    ]
    return sum(
        data.count(form)
        for path in folder.rglob("*")
        if path.is_file()
        for data in [path.read_bytes()]
        for form in patterns
    )
