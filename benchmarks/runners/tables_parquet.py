"""A folder of Parquet files, filtered: what has no quality order has to do for the best rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.runners.protocol import serve
from benchmarks.runners.tables import Cell


class Parquet:
    """The part of ``Tables`` that a folder of files can do; zstd at its default level."""

    def create(self, path: Path, rows: pa.Table) -> None:
        path.mkdir()
        self.append(path, rows)

    def append(self, path: Path, rows: pa.Table) -> int:
        to = path / f"{len(list(path.iterdir())):06d}.parquet"
        pq.write_table(rows, to, compression="zstd", write_page_checksum=True)
        return 0

    def append_files(self, path: Path, rows: pa.Table, files: int) -> None:
        raise TypeError("a folder of files has no commits; it has no part in this case")

    def first_batch(self, path: Path) -> int:
        return int(ds.dataset(path).head(1).num_rows)

    def compact(self, path: Path, key: str | None) -> None:
        """Nothing does that to a folder."""

    def rows(self, path: Path) -> int:
        return int(ds.dataset(path).count_rows())

    def live_bytes(self, path: Path) -> int:
        return sum(file.stat().st_size for file in path.iterdir())

    def check(self, path: Path) -> int:
        for file in path.iterdir():
            pq.ParquetFile(file, page_checksum_verification=True).read()
        return self.live_bytes(path)

    def best(self, path: Path, column: str, threshold: float, share: float) -> pa.Table:
        return ds.dataset(path).to_table(filter=pc.field(column) >= threshold)


if __name__ == "__main__":
    serve(lambda args: Cell(Parquet(), args))
