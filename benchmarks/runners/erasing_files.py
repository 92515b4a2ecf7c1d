"""A Parquet or Arrow file written anew without the persons' rows, synced, and put in the old one's place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve


class Files(Erasing):
    """``kind``: ``parquet`` (zstd) or ``ipc`` (zstd)."""

    def _path(self, folder: Path) -> Path:
        return folder / ("rows.parquet" if self.args["kind"] == "parquet" else "rows.arrow")

    def _write(self, rows: pa.Table, path: Path) -> None:
        if self.args["kind"] == "parquet":
            pq.write_table(rows, path, compression="zstd", row_group_size=65_536)
        else:
            feather.write_feather(rows, str(path), compression="zstd", chunksize=65_536)

    def _read(self, folder: Path) -> pa.Table:
        path = self._path(folder)
        return pq.read_table(path) if self.args["kind"] == "parquet" else feather.read_table(str(path))

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._write(self.rows, self._path(folder))

    def forget(self, folder: Path) -> dict[str, float]:
        began, path = time.perf_counter(), self._path(folder)
        rows = self._read(folder)
        kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=pa.array(self.ids))))
        new = path.with_name("new" + path.suffix)
        self._write(kept, new)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
        return {"s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        return int(pc.sum(pc.is_in(self._read(folder)["user_id"], value_set=pa.array(self.ids))).as_py())

    def rows_left(self, folder: Path) -> int:
        return int(self._read(folder).num_rows)


if __name__ == "__main__":
    serve(Files)
