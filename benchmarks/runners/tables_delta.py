"""Delta tables by delta-rs. It can order rows by z-order of one column, and does not keep rows in order of a quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
from deltalake.exceptions import CommitFailedError  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

from benchmarks.runners.protocol import serve
from benchmarks.runners.tables import Cell, retried


class Delta:
    """``Tables`` of delta-rs."""

    def create(self, path: Path, rows: pa.Table) -> None:
        write_deltalake(str(path), rows)

    def append(self, path: Path, rows: pa.Table) -> int:
        return retried(lambda: write_deltalake(str(path), rows, mode="append"), (CommitFailedError,))

    def append_files(self, path: Path, rows: pa.Table, files: int) -> None:
        part = pa.array([number % files for number in range(len(rows))], pa.int32())
        write_deltalake(str(path), rows.append_column("part", part), mode="append", partition_by=["part"])

    def first_batch(self, path: Path) -> int:
        found: Any = DeltaTable(str(path)).to_pyarrow_dataset().head(1)
        return int(found.num_rows)

    def compact(self, path: Path, key: str | None) -> None:
        table = DeltaTable(str(path))
        if key and key != "quality-first":
            table.optimize.z_order([key])
        else:
            table.optimize.compact()

    def rows(self, path: Path) -> int:
        return int(DeltaTable(str(path)).to_pyarrow_dataset().count_rows())

    def live_bytes(self, path: Path) -> int:
        table = DeltaTable(str(path))
        return sum(Path(name.removeprefix("file://")).stat().st_size for name in table.file_uris())

    def check(self, path: Path) -> int:
        raise TypeError("files without checksums: nothing to hold their pages against")

    def best(self, path: Path, column: str, threshold: float, share: float) -> pa.Table:
        found: Any = DeltaTable(str(path)).to_pyarrow_dataset().to_table(filter=pc.field(column) >= threshold)
        return found


if __name__ == "__main__":
    serve(lambda args: Cell(Delta(), args))
