"""What shares users really get: two users weighted two to one over a busy period, and one that is capped.

Tasks sleep, so that a busy machine does not change what a core of Spark's is. Service is the tasks' own time on a core, from
the times at which they say that they began and ended, and not from the plugin's books.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from pyspark import InheritableThread

from benchmarks.crowd import CORES
from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import acting, application
from headrace import scheduler

TASK_S, TASKS, JOB_MS = 0.05, 2, 100.0
BUSY_S = 15.0
CAP, WINDOW_S = 0.5, 10.0
Span = tuple[float, float]


def _timed(part: Iterator[int]) -> Iterator[Span]:
    for _row in part:
        began = time.time()
        time.sleep(TASK_S)
        yield began, time.time()


class Shares(Runner):
    """``args``: policy, clock, master, scratch."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._spark = application(args, (), weights={"double": 2.0})
        self._context = self._spark.sparkContext
        self._job(16)

    def _job(self, tasks: int) -> list[Span]:
        rows: Any = self._context.parallelize(range(tasks), tasks)
        return list(rows.mapPartitions(_timed).collect())

    def run(self) -> Result:
        return Result({"weights": self._weights(), "over_cap": self._over_cap()})

    def _weights(self) -> float:
        """Service of the user of weight 2 by that of weight 1, while both always have jobs that wait."""
        spans: dict[str, list[Span]] = {"double": [], "single": []}
        until = time.time() + BUSY_S

        def submit(user: str) -> None:
            while time.time() < until:
                with acting(self._spark, self._args, user, cost_ms=JOB_MS):
                    spans[user] += self._job(TASKS)

        threads = [InheritableThread(target=submit, args=(user,)) for user in spans for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        window = (until - BUSY_S + 1.0, until)
        return _service(spans["double"], window) / _service(spans["single"], window)

    def _over_cap(self) -> float:
        """Points by which a capped user's share was above its cap in its worst ten seconds, with another user beside it."""
        spans: list[Span] = []
        scheduler.set_cap(self._spark, "heavy", CAP)
        until = time.time() + BUSY_S

        def submit(user: str, tasks: int) -> None:
            while time.time() < until:
                with acting(self._spark, self._args, user, cost_ms=tasks * TASK_S * 1e3):
                    found = self._job(tasks)
                if user == "heavy":
                    spans.extend(found)

        threads = [InheritableThread(target=submit, args=("heavy", 40)) for _ in range(2)]
        threads.append(InheritableThread(target=submit, args=("ann", 2)))
        began = time.time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        starts = [began + step / 4 for step in range(int(4 * (until - WINDOW_S - began)) + 1)]
        shares = [_service(spans, (start, start + WINDOW_S)) / WINDOW_S / CORES for start in starts]
        return 100 * (max(shares) - CAP)

    def close(self) -> None:
        self._spark.stop()


def _service(spans: Sequence[Span], window: Span) -> float:
    """Core-seconds within a window."""
    return sum(max(0.0, min(end, window[1]) - max(begin, window[0])) for begin, end in spans)


if __name__ == "__main__":
    serve(Shares)
