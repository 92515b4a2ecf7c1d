"""Ours: persons of a table of many columns suppressed, each turn others of the same table; one column is theirs, the rest is weight."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import headrace.storage as storage
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.storage import erase

BATCH_ROWS = 1 << 16


class Wide(Runner):
    """``rows`` of ``columns``, ten of each person, in the order of their arrival."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.rng = np.random.default_rng(args["seed"])
        self.everyone = self.rng.permutation(args["rows"] // 10) + (1 << 60)
        self.folder = Path(args["files"], "erasing-wide")
        self.asked = self.everyone[:0]

    def prepare(self) -> None:
        if not self.folder.exists():
            self._make()
        self.asked, self.everyone = np.split(self.everyone, [self.args["persons"]])

    def _make(self) -> None:
        names = [f"feature_{number:04d}" for number in range(self.args["columns"] - 1)]
        features = {
            name: self.rng.integers(0, 100, BATCH_ROWS).astype(np.float32) for name in names
        }  # the same in every batch

        def batches() -> Iterator[pa.RecordBatch]:
            for start in range(0, self.args["rows"], BATCH_ROWS):
                n = min(BATCH_ROWS, self.args["rows"] - start)
                users = self.rng.choice(self.everyone, n)
                yield pa.record_batch({"user_id": users, **{k: v[:n] for k, v in features.items()}})

        schema = pa.schema([("user_id", pa.int64()), *((name, pa.float32()) for name in names)])
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        storage.write(self.folder, reader, erase_key="user_id")

    def run(self) -> Result:
        table, began = storage.open(self.folder), time.perf_counter()
        done = erase.suppress(table, self.asked.tolist())
        s = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        size = sum(path.stat().st_size for path in self.folder.glob("data/*.hrc"))
        return Result({"s": s, "rows": done.rows, "memory": memory, "size": size})

    def finish(self) -> None:
        """None of them may be seen by a reader who opens the table now."""
        shown = storage.open(self.folder).scan(["user_id"]).to_table()["user_id"]
        if np.isin(np.asarray(shown), self.asked).any():
            raise ValueError("persons who were suppressed are still shown")


if __name__ == "__main__":
    serve(Wide)
