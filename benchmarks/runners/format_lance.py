"""Lance datasets of one fragment, in a given version of its file format; with ``zstd`` it is asked to compress every column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lance  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import pyarrow as pa

from benchmarks.runners.cells import start
from benchmarks.runners.protocol import serve

ZSTD = {"lance-encoding:compression": "zstd"}


class Lance:
    """``version`` is the file format's, as ``data_storage_version``."""

    def __init__(self, version: str, zstd: bool) -> None:
        self.key = f"lance-{version}{'-zstd' if zstd else ''}"
        self._version, self._zstd = version, zstd

    def write(self, table: pa.Table, path: Path) -> None:
        if self._zstd:
            table = table.cast(pa.schema([_compressed(field) for field in table.schema]))
        lance.write_dataset(table, str(path), data_storage_version=self._version)

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        return lance.dataset(str(path)).to_table(columns=columns)

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return lance.dataset(str(path)).take(rows.tolist(), columns=columns)

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        return lance.dataset(str(path)).to_table(columns=columns, filter=f"{column} = {value}")


def _compressed(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_list(kind):
        kind = pa.list_(kind.value_field.with_metadata(ZSTD))
    return pa.field(field.name, kind, field.nullable, ZSTD)


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: Lance(args["version"], args["zstd"])))
