"""What the scheduler itself costs: an order of many task sets beside Spark's FAIR in the same JVM, the queue, empty jobs.

``args``: installed (with the plugin or without), task_sets (for the order; 0 measures empty jobs only).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import compiled
from headrace import scheduler

SOURCE = Path(__file__).with_name("Ordering.java")
EMPTY_JOBS, WARM_JOBS = 500, 4_000


class Cost(Runner):
    """One application; the task sets that are ordered wait behind two tasks that sleep."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._warm = False
        builder = SparkSession.Builder().master("local[2]").appName("headrace-benchmark")
        for name, value in {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": args["scratch"],
            "spark.jars": str(compiled(SOURCE, Path(args["scratch"]))),
        }.items():
            builder = builder.config(name, value)
        if args["installed"]:
            builder = scheduler.configure(builder, partitioning=False)
        self._spark = builder.getOrCreate()
        self._spark.sparkContext.setLogLevel("ERROR")
        self._jvm: Any = self._spark.sparkContext._jvm
        self._java: Any = self._spark.sparkContext._jsc

    def run(self) -> Result:
        values = {"empty_jobs_per_s": max(self._jobs(EMPTY_JOBS) for _ in range(2))}
        if self._args["task_sets"]:
            values |= self._orders()
            for users in (100, 1_000, 10_000):
                self._jvm.headrace.scheduler.Ordering.clockUs(users, 100_000)
                values[f"clock_us_{users}"] = self._jvm.headrace.scheduler.Ordering.clockUs(users, 200_000)
        return Result(values)

    def prepare(self) -> None:
        """What jobs need is compiled before the first is counted."""
        if not self._warm:
            self._warm = True
            self._jobs(WARM_JOBS)

    def _jobs(self, count: int) -> float:
        rdd = self._java.parallelize([], 1)
        began = time.perf_counter()
        for _ in range(count):
            rdd.count()
        return count / (time.perf_counter() - began)

    def _orders(self) -> dict[str, float]:
        context, ordering = self._java.sc(), self._jvm.headrace.scheduler.Ordering
        values = {}
        for count in self._args["task_sets"]:
            blocking: Any = self._spark.sparkContext.parallelize(range(2), 2).map(lambda _: time.sleep(8))
            held = blocking._to_java_object_rdd().countAsync()
            time.sleep(1.5)
            futures = []
            for n in range(count):
                self._spark.sparkContext.setLocalProperty("headrace.user", f"user{n % 50}")
                futures.append(self._java.parallelize([], 1).countAsync())
            while ordering.waiting(context) < count:
                time.sleep(0.01)
            for which in ("ours", "fair", "ours", "fair"):
                values[f"{which}_us_{count}"] = ordering.sortUs(context, which, 400)
            for future in (held, *futures):
                future.get()
        return values

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(Cost)
