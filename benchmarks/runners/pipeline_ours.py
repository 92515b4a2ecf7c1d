"""Ours in the table ``pipeline``: the main job as users run it, from the topic's beginning to its end."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.spark import start_spark
from headrace.jobs.pipeline import Options, run
from headrace.jobs.progress import Progress
from headrace.jobs.settings import Kafka, Settings, Stream


class Pipeline(Runner):
    """Contract, gate, dead letters, learner and our store, on a fresh table with a fresh checkpoint each time."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._folder = Path(args["scratch"]) / "repetition"
        self._spark = start_spark(args)
        self._progress: Progress | None = None

    def prepare(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._settings = Settings(
            kafka=Kafka(bootstrap=self._args["bootstrap"]),
            stream=Stream(
                topic=self._args["topic"],
                contract=self._args["contract"],
                table=self._folder / "table",
                checkpoint=self._folder / "checkpoint",
                dead_letter_topic=self._args["dead_letters"],
                max_events_per_batch=self._args["max_events_per_batch"],
            ),
        )

    def run(self) -> Result:
        seconds: Counter[str] = Counter()
        self._progress = run(
            self._spark,
            self._settings,
            Options(caught_up=True),
            report=lambda progress: seconds.update(progress.seconds),
        )
        return Result({"events": self._progress.total.events}, seconds)

    def finish(self) -> None:
        """Every event is accounted for, and a learner has scored some.

        Raises:
            ValueError: not so.
        """
        assert self._progress is not None
        total, wanted = self._progress.total, self._args["messages"][self._args["topic"]]
        if total.events != wanted or total.balance != 0:
            raise ValueError(
                f"expected {wanted} events that add up, got {total.events} with {total.balance} unaccounted for"
            )
        if not self._progress.metrics:
            raise ValueError(
                "expected a learner's metrics in the last commit, got none; is the learner enabled?"
            )

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(Pipeline)
