"""The arms of one policy in the table ``scheduler``: a Spark application of its own that plays a crowd's scenario once for each.

Each repetition is the next seed. Tasks loop for so many CPU seconds, so that a job's work is the same in
every arm, whatever else the machine does. Peers are Spark's own pools without our plugin, except CFQ, which Spark lacks.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from pyspark import InheritableThread, SparkContext
from pyspark.sql import SparkSession

from benchmarks.crowd import CORES, SCENARIOS, TARGET_S, Work, estimates, summary
from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.scheduler_spark import acting, application, compiled

CROWD = Path(__file__).with_name("Crowd.java")
SETTLES_S = 0.7
"""After it, what the last play left in the queue is settled."""


class Arms(Runner):
    """``args``: scenario, policy, clock, arms, seed (of the first repetition), kept (repetitions), master.

    ``arms``: by name, whether jobs are ``partitioned`` and which ``estimates`` are told. Values are named ``arm|value``.
    """

    def __init__(self, args: Args) -> None:
        self._args = args
        self._seed = int(args["seed"]) + int(args["kept"])
        users = {job.user for scenario in SCENARIOS.values() for job in scenario(random.Random(0))}
        self._spark = application(args, users, jar=compiled(CROWD, Path(args["scratch"])))
        self._context = self._spark.sparkContext
        self._warm()

    def _warm(self) -> None:
        """Workers are started and the JVM has compiled what a job needs: no repetition is thrown away for it."""
        threads = [InheritableThread(target=self._warm_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _warm_up(self) -> None:
        for _ in range(50):
            _loop(self._context, 4, 0.008)

    def run(self) -> Result:
        values: dict[str, float] = {}
        arms = list(self._args["arms"].items())
        for name, arm in arms if self._seed % 2 else reversed(arms):  # the first is played on a colder JVM
            time.sleep(SETTLES_S)
            played = _Play(self._spark, self._args, arm, self._seed).run()
            values |= {f"{name}|{key}": value for key, value in played.items()}
        self._seed += 1
        return Result(values)

    def close(self) -> None:
        self._spark.stop()


class _Play:
    """One scenario with one seed, under one arm."""

    def __init__(self, spark: SparkSession, args: Args, arm: Args, seed: int) -> None:
        self._spark, self._args, self._arm = spark, args, arm
        self._jobs = SCENARIOS[args["scenario"]](random.Random(seed))
        self._told = estimates(self._jobs, arm["estimates"], random.Random(seed + 1_000))
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._done = {job.name: threading.Event() for job in self._jobs}

    def run(self) -> dict[str, float]:
        """What ``summary`` says of it.

        Raises:
            ValueError: a job has not ended.
        """
        self._start = time.monotonic()
        threads = [InheritableThread(target=self._play, args=(job,)) for job in self._jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if missing := {job.name for job in self._jobs} - set(self._ended):
            raise ValueError(f"expected every job to end, missing: {sorted(missing)}")
        return summary(self._jobs, self._began, self._ended)

    def _play(self, job: Work) -> None:
        after = self._start
        if job.follows is not None:
            self._done[job.follows].wait()
            after = time.monotonic()
        time.sleep(max(0.0, after + job.at - time.monotonic()))
        tasks = max(CORES, round(job.core_s / TARGET_S)) if self._arm["partitioned"] else CORES
        self._began[job.name] = time.monotonic() - self._start
        try:
            with acting(self._spark, self._args, job.user, cost_ms=1_000 * self._told[job.name]):
                _loop(self._spark.sparkContext, tasks, job.core_s)
            self._ended[job.name] = time.monotonic() - self._start
        finally:
            self._done[job.name].set()


def _loop(context: SparkContext, tasks: int, core_s: float) -> None:
    """A job of ``tasks`` that loop for ``core_s`` CPU seconds in all, in the JVM as the paper's do."""
    jvm: Any = context._jvm
    jvm.headrace.benchmarks.Crowd.job(context._jsc, tasks, round(1e6 * core_s / tasks))


if __name__ == "__main__":
    serve(Arms)
