"""Who used the application, and how long each waited: response times and core-seconds by user.

In the flow: ``pipeline`` and ``analysts`` note how long each piece of work took; the core-seconds come from Spark's own status
store, by job tag, so that they mean the same with our scheduler and without it. Written as JSON at the end, for the demo.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from headrace import scheduler

PIPELINE, QUALITY = "pipeline", "quality"
"""The users that the main job itself is: its streaming query, and the second opinion on each batch."""
_TAG = "headrace-user-"


@dataclass(frozen=True)
class Account:
    """One user's row: pieces of work, seconds each took, core-seconds of all, and their share of everybody's."""

    user: str
    jobs: int
    mean_s: float
    p95_s: float
    core_s: float
    share: float


class Accounts:
    """Notes of one application; any thread may write."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._lock = threading.Lock()
        self._responses: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def acting(self, user: str, job_class: str) -> Iterator[None]:
        """Run this thread's jobs as ``user``, tagged so that their core-seconds are found again."""
        context = self._spark.sparkContext
        before = context.getLocalProperty("spark.job.tags")
        context.setLocalProperty("spark.job.tags", _TAG + user)
        try:
            with scheduler.run_as(self._spark, user, job_class=job_class):
                yield
        finally:
            context.setLocalProperty("spark.job.tags", before)  # pyright: ignore[reportArgumentType]

    @contextmanager
    def timed(self, user: str) -> Iterator[None]:
        """Note how long this piece of work of ``user`` took; one that failed is not noted."""
        began = time.monotonic()
        yield
        with self._lock:
            self._responses[user].append(time.monotonic() - began)

    def rows(self) -> list[Account]:
        """An account for each user, the largest share first."""
        core_s = self._core_seconds()
        total = sum(core_s.values())
        with self._lock:
            responses = {user: sorted(seconds) for user, seconds in self._responses.items()}
        rows = [
            Account(
                user,
                jobs=len(seconds),
                mean_s=sum(seconds) / len(seconds),
                p95_s=seconds[math.ceil(0.95 * len(seconds)) - 1],
                core_s=core_s.get(user, 0.0),
                share=core_s.get(user, 0.0) / total if total else 0.0,
            )
            for user, seconds in responses.items()
        ]
        return sorted(rows, key=lambda row: -row.share)

    def write(self, path: Path) -> None:
        """Leave the rows at ``path``."""
        path.write_text(json.dumps([asdict(row) for row in self.rows()]) + "\n")

    def _core_seconds(self) -> Mapping[str, float]:
        """Executors' run time by user, of the jobs that Spark remembers (the last thousand)."""
        context: Any = self._spark.sparkContext._jsc
        store = context.sc().statusStore()
        jobs, spent = store.jobsList(None), defaultdict[str, float](float)
        for number in range(jobs.size()):
            job = jobs.apply(number)
            tags = job.jobTags().mkString("\n").split("\n")
            user = next((tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)), None)
            if user is None:
                continue
            stages = job.stageIds()
            for place in range(stages.size()):
                spent[user] += store.lastStageAttempt(stages.apply(place)).executorRunTime() / 1e3
        return spent


def read_accounts(path: Path) -> list[Account]:
    """The rows that ``write`` left; none where there is no file."""
    return [Account(**row) for row in json.loads(path.read_text())] if path.exists() else []


def accounts_text(rows: Sequence[Account], policy: str) -> str:
    """The demo's last table."""
    if not rows:
        return ""
    lines = [
        f"who shared the application (policy {policy}):",
        f"  {'user':<12}{'jobs':>6}{'mean':>10}{'p95':>10}{'core-s':>10}{'share':>8}",
    ]
    lines += [
        f"  {row.user:<12}{row.jobs:>6}{row.mean_s:>8.2f} s{row.p95_s:>8.2f} s{row.core_s:>10.1f}{row.share:>8.0%}"
        for row in rows
    ]
    return "\n".join(lines)
