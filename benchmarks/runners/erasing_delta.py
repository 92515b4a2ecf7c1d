"""Delta (delta-rs): delete, then vacuum without retention, checkpoint and clean the log, which is all that it offers."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve


class Delta(Erasing):
    """``kind``: ``cleaned``, or ``deleted`` for the delete alone."""

    def make(self, folder: Path) -> None:
        write_deltalake(
            str(folder), self.rows, configuration={"delta.logRetentionDuration": "interval 0 days"}
        )

    def forget(self, folder: Path) -> dict[str, float]:
        began, table = time.perf_counter(), DeltaTable(str(folder))
        table.delete(f"user_id IN ({', '.join(map(str, self.ids))})")
        if self.args["kind"] == "cleaned":
            table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
            table.create_checkpoint()
            table.cleanup_metadata()
        return {"s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        n, wanted = 0, pa.array(self.ids)
        for path in folder.glob("*.parquet"):
            users = pq.read_table(path, columns=["user_id"])["user_id"]
            n += int(pc.sum(pc.is_in(users, value_set=wanted)).as_py() or 0)
        return n

    def rows_left(self, folder: Path) -> int:
        return int(DeltaTable(str(folder)).to_pyarrow_table(columns=["user_id"]).num_rows)


if __name__ == "__main__":
    serve(Delta)
