"""A mixed day under one policy: a streaming query, two analysts with SQL over a table of our store, and a backfill.

Nobody tells the scheduler what anything costs; it learns by the job's class, in a first day that is thrown away. "-P" cuts the
backfill and lets our plugin cut the scans and shuffles that it can.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import InheritableThread

from benchmarks.crowd import CORES
from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import acting, application
from headrace import storage
from headrace.storage.spark import register

ROWS = 60_000
BACKFILLS, BACKFILL_ROWS = 3, 1_500
SLOW = "sum(aggregate(sequence(1, 16000), 0D, (a, x) -> a + sqrt(x + id % 7)))"
THINKS_S = 0.6
BATCH_EVERY = "500 milliseconds"


class Day(Runner):
    """``args``: policy, clock, arms (one, which says whether jobs are ``partitioned``), master, scratch."""

    def __init__(self, args: Args) -> None:
        self._args = args
        (self._name, arm), *_ = args["arms"].items()
        self._cut = bool(arm["partitioned"])
        users = ("stream", "ann", "bob", "backfill")
        self._spark = application(args, users, partitioning=self._cut)
        self._spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")  # else the store is not read
        register(self._spark)
        self._table = Path(args["scratch"]) / "table"
        rng = np.random.default_rng(5)
        rows = {"shop": rng.integers(0, 50, ROWS), "price": rng.integers(1, 9_000, ROWS)}
        storage.write(self._table, pa.table(rows))
        self._days = 0

    def run(self) -> Result:
        self._days += 1
        self._over = threading.Event()
        self._answers: list[float] = []
        stream = self._stream()
        try:
            while not stream.recentProgress:
                time.sleep(0.02)
            began = time.monotonic()
            users = [InheritableThread(target=self._ask, args=(name,)) for name in ("ann", "bob")]
            backfills = [InheritableThread(target=self._backfill) for _ in range(BACKFILLS)]
            for thread in (*users, *backfills):
                thread.start()
            for thread in backfills:
                thread.join()
            makespan = time.monotonic() - began
            self._over.set()
            for thread in users:
                thread.join()
        finally:
            stream.stop()
        if not self._answers:
            raise ValueError(
                "expected analysts to be answered while the backfill ran, none was; their errors are above"
            )
        batches = [
            progress.durationMs["triggerExecution"] / 1e3
            for progress in stream.recentProgress[1:]
            if progress.numInputRows
        ]
        return Result(
            {
                "small": sum(self._answers) / len(self._answers),
                "slowest": max(self._answers),
                "batch": sum(batches) / len(batches),
                "makespan": makespan,
                "answers": float(len(self._answers)),
            }
        )

    def _stream(self) -> Any:
        """Each batch is counted by key, as the pipeline's second opinion does."""
        rows = self._spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 2_000).load()

        def count(batch: Any, _: int) -> None:
            batch.selectExpr("value % 20 AS k").groupBy("k").count().collect()

        with acting(self._spark, self._args, "stream", job_class="batch"):
            return (
                rows.writeStream.foreachBatch(count)
                .option("checkpointLocation", str(Path(self._args["scratch"]) / f"checkpoint{self._days}"))
                .trigger(processingTime=BATCH_EVERY)
                .start()
            )

    def _ask(self, name: str) -> None:
        while not self._over.wait(THINKS_S):
            began = time.monotonic()
            with acting(self._spark, self._args, name, job_class="prices by shop"):
                rows = self._spark.read.format("headrace").load(str(self._table))
                rows.groupBy("shop").avg("price").orderBy("shop").collect()
            self._answers.append(time.monotonic() - began)

    def _backfill(self) -> None:
        parts = 24 if self._cut else CORES
        with acting(self._spark, self._args, "backfill", job_class="backfill"):
            self._spark.range(0, BACKFILL_ROWS, 1, parts).selectExpr(SLOW).collect()

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(Day)
