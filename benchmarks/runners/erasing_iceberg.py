"""Iceberg (pyiceberg): delete, which writes files anew, then expire every snapshot but the newest, which is all that it offers."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
from pyiceberg.expressions import In  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve


class Iceberg(Erasing):
    """``kind``: ``cleaned``, or ``deleted`` for the delete alone."""

    def prepare(self) -> None:
        # Metadata holds absolute paths, so a copy would read the first one's files.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.make(self.folder)
        self.before = sum(path.stat().st_size for path in self.folder.rglob("*.parquet"))

    def _catalog(self, folder: Path) -> Any:
        return SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        catalog = self._catalog(folder)
        catalog.create_namespace("t")
        catalog.create_table("t.rows", self.rows.schema).append(self.rows)

    def forget(self, folder: Path) -> dict[str, float]:
        began, table = time.perf_counter(), self._catalog(folder).load_table("t.rows")
        table.delete(In("user_id", self.ids))
        if self.args["kind"] == "cleaned":
            table.maintenance.expire_snapshots().older_than(datetime.now(UTC)).commit()
        return {"s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        n, wanted = 0, pa.array(self.ids)
        for path in folder.rglob("*.parquet"):
            users = pq.read_table(path, columns=["user_id"])["user_id"]
            n += int(pc.sum(pc.is_in(users, value_set=wanted)).as_py() or 0)
        return n

    def rows_left(self, folder: Path) -> int:
        return int(
            self._catalog(folder).load_table("t.rows").scan(selected_fields=("user_id",)).to_arrow().num_rows
        )


if __name__ == "__main__":
    serve(Iceberg)
