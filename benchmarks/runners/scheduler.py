"""One arm of the table ``scheduler``: a Spark application of its own, with one policy, that plays a crowd's scenario.

Each repetition is the next seed. Tasks spin for so many CPU seconds in Python workers, so that a job's work is the same in
every arm, whatever else the machine does. Peers are Spark's own pools without our plugin, except CFQ, which Spark lacks.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import InheritableThread
from pyspark.sql import SparkSession

from benchmarks.crowd import SCENARIOS, TARGET_S, Work, estimates, summary
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace import scheduler

CORES = 2
_CONF = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "600m",
    "spark.executor.memory": "600m",
    "spark.executor.cores": "1",
}


def spin(seconds: float) -> Callable[[Any], None]:
    """A task that works for so many CPU seconds."""

    def work(_: Any) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return work


class Arm(Runner):
    """``args``: scenario, policy, clock, partitioned, estimates, seed (of the first repetition), master."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._seed = int(args["seed"])
        os.environ["PYSPARK_PYTHON"] = sys.executable
        builder = SparkSession.Builder().master(args["master"]).appName("headrace-benchmark")
        for name, value in {**_CONF, "spark.local.dir": args["scratch"]}.items():
            builder = builder.config(name, value)
        if args["policy"] in ("uwfq", "cfq"):
            builder = scheduler.configure(
                builder, policy=args["policy"], clock=args["clock"], partitioning=False
            )
        elif args["policy"] in ("fair", "ujf"):
            builder = builder.config("spark.scheduler.mode", "FAIR")
        if args["policy"] == "ujf":
            builder = builder.config("spark.scheduler.allocation.file", self._pools())
        self._spark = builder.getOrCreate()
        self._spark.sparkContext.setLogLevel("ERROR")
        self._context = self._spark.sparkContext
        self._warm()

    def _pools(self) -> str:
        """A FAIR pool for each user: what somebody would write who wants users to be treated alike."""
        users = {job.user for scenario in SCENARIOS.values() for job in scenario(random.Random(0))}
        pools = "".join(
            f"<pool name='{user}'><schedulingMode>FAIR</schedulingMode></pool>" for user in sorted(users)
        )
        path = Path(self._args["scratch"]) / "pools.xml"
        path.write_text(f"<allocations>{pools}</allocations>")
        return str(path)

    def _warm(self) -> None:
        for _ in range(3):
            self._context.parallelize(range(4), 4).foreach(spin(0.02))

    def prepare(self) -> None:
        self._jobs = SCENARIOS[self._args["scenario"]](random.Random(self._seed))
        self._told = estimates(self._jobs, self._args["estimates"], random.Random(self._seed + 1_000))
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._done = {job.name: threading.Event() for job in self._jobs}
        self._seed += 1
        time.sleep(1.0)  # what the last repetition left in the queue is settled

    def run(self) -> Result:
        self._start = time.monotonic()
        threads = [InheritableThread(target=self._play, args=(job,)) for job in self._jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Result(summary(self._jobs, self._began, self._ended))

    def _play(self, job: Work) -> None:
        after = self._start
        if job.follows is not None:
            self._done[job.follows].wait()
            after = time.monotonic()
        time.sleep(max(0.0, after + job.at - time.monotonic()))
        tasks = max(CORES, round(job.core_s / TARGET_S)) if self._args["partitioned"] else CORES
        self._began[job.name] = time.monotonic() - self._start
        if self._args["policy"] in ("uwfq", "cfq"):
            with scheduler.run_as(self._spark, job.user, cost_ms=1_000 * self._told[job.name]):
                self._spin(job, tasks)
        else:
            pool = job.user if self._args["policy"] == "ujf" else None
            self._context.setLocalProperty("spark.scheduler.pool", pool)  # pyright: ignore[reportArgumentType]
            self._spin(job, tasks)
        self._ended[job.name] = time.monotonic() - self._start
        self._done[job.name].set()

    def _spin(self, job: Work, tasks: int) -> None:
        self._context.parallelize(range(tasks), tasks).foreach(spin(job.core_s / tasks))

    def finish(self) -> None:
        """Every job has ended.

        Raises:
            ValueError: one has not.
        """
        if missing := {job.name for job in self._jobs} - set(self._ended):
            raise ValueError(f"expected every job to end, missing: {sorted(missing)}")

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(Arm)
