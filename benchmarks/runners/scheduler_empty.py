"""Empty jobs in one JVM, in turns with the scheduler installed and with it taken out: what two JVMs make of the same code differs by more than it costs.

Not counted are what loading our classes costs, and a thread that looks twenty times a second whether somebody waits for a cap.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import application, compiled

SOURCE = Path(__file__).with_name("Toggle.java")
TURN_JOBS, WARM_JOBS = 20, 4_000
IN_TURNS = (True, False, False, True) * 20
"""Whether we are in, turn by turn of some tenths of a second: the machine's moods, which last for seconds, meet both alike."""


class EmptyJobs(Runner):
    """One application; a job is one task of a partition without rows, as seen by who waits for it."""

    def __init__(self, args: Args) -> None:
        self._spark = application(args, (), jar=compiled(SOURCE, Path(args["scratch"])))
        java: Any = self._spark.sparkContext._jsc
        jvm: Any = self._spark.sparkContext._jvm
        self._rdd = java.parallelize([], 1)
        self._toggle = jvm.headrace.scheduler.Toggle(java.sc())
        self._warm = False

    def prepare(self) -> None:
        """What jobs need, in both ways, is compiled before the first is counted."""
        if not self._warm:
            self._warm = True
            self._seconds(WARM_JOBS)
            self._without(WARM_JOBS)

    def run(self) -> Result:
        spent_s = {True: 0.0, False: 0.0}
        for installed in IN_TURNS:
            spent_s[installed] += self._seconds(TURN_JOBS) if installed else self._without(TURN_JOBS)
        jobs = TURN_JOBS * len(IN_TURNS) // 2
        return Result({"ours|per_s": jobs / spent_s[True], "without us|per_s": jobs / spent_s[False]})

    def _without(self, jobs: int) -> float:
        orders = self._toggle.orders()
        self._toggle.takeOut()
        try:
            return self._seconds(jobs)
        finally:
            self._toggle.putBack()
            if self._toggle.orders() - orders > 2:
                raise RuntimeError("the scheduler ordered task sets while it was taken out")

    def _seconds(self, jobs: int) -> float:
        began = time.perf_counter()
        for _ in range(jobs):
            self._rdd.count()
        return time.perf_counter() - began

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(EmptyJobs)
