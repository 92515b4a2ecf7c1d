"""Parquet by polars, handed over as Arrow without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa

from benchmarks.runners.cells import BATCH_ROWS, start
from benchmarks.runners.protocol import serve


class PolarsParquet:
    """zstd at polars' own level, row groups of ``BATCH_ROWS`` rows."""

    key = "polars-parquet"

    def write(self, table: pa.Table, path: Path) -> None:
        frame = polars.DataFrame(table)
        frame.write_parquet(path, compression="zstd", row_group_size=BATCH_ROWS)

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        return self._frame(path, columns).to_arrow()

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return self._frame(path, columns)[rows].to_arrow()

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        wanted = polars.scan_parquet(path).filter(polars.col(column) == value).select(columns)
        return wanted.collect().to_arrow()

    def _frame(self, path: Path, columns: Sequence[str] | None) -> polars.DataFrame:
        return polars.read_parquet(path, columns=None if columns is None else list(columns))


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: PolarsParquet()))
