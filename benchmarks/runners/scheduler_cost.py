"""What an order costs: of many task sets, beside Spark's FAIR in the same JVM, and the queue's clock with many users.

``args``: those of the application, and task_sets, how many wait.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import application, compiled

SOURCE = Path(__file__).with_name("Ordering.java")


class Cost(Runner):
    """One application; the task sets that are ordered wait behind two tasks that sleep."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._spark = application(args, (), jar=compiled(SOURCE, Path(args["scratch"])))
        self._jvm: Any = self._spark.sparkContext._jvm
        self._java: Any = self._spark.sparkContext._jsc

    def run(self) -> Result:
        values = self._orders()
        for users in (100, 1_000, 10_000):
            self._jvm.headrace.scheduler.Ordering.clockUs(users, 100_000)
            values[f"clock_us_{users}"] = self._jvm.headrace.scheduler.Ordering.clockUs(users, 200_000)
        return Result(values)

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
