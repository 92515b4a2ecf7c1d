"""kill -9 of the driver's JVM: nothing is lost and nothing comes twice.

The oracle stands outside the job: what was sent. ``kill_rounds`` is also what ``make soak ROOM=jobs`` runs, with more kills.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest

from headrace import storage
from headrace.jobs.feed import HUGE_BYTES
from headrace.jobs.install import write_conf
from headrace.jobs.places import cache, fetch_jars, java
from headrace.jobs.progress import PROGRESS, Progress, last_commit, read_progress
from headrace.jobs.settings import Kafka, Settings, Stream
from headrace.jobs.submit import SubmitLine, submit_line
from headrace.storage.errors import TableNotFound
from headrace.streaming import jars
from headrace.streaming.ad_feed import AdFeed, Produced
from headrace.streaming.broker import EmbeddedBroker
from headrace.streaming.producer import Producer
from headrace.streaming.source import create_topics, read

FAULTY = Path(__file__).with_name("faulty.py")


@dataclass(frozen=True)
class Outcome:
    """What a run with kills ended with."""

    kills: int
    produced: Produced
    progress: Progress
    stored_ids: int
    distinct_ids: int
    letters: int
    distinct_letters: int
    orphan_files: int


def kill_rounds(
    kills: int,
    seed: int,
    folder: Path,
    *,
    forced: tuple[str, ...] = (),
    events: int = 8_000,
    batch: int = 1_000,
) -> Outcome:
    """Send ``events``, kill the job ``kills`` times at random moments and once per ``forced`` spot, let it finish."""
    rng = np.random.default_rng(seed)
    connector = fetch_jars()
    produced = Produced()
    with EmbeddedBroker(folder / "kafka", jars.broker_classpath(cache()), java().path) as broker:
        stream = Stream(
            topic="feed",
            table=folder / "table",
            checkpoint=folder / "checkpoint",
            trigger_ms=0,
            max_events_per_batch=batch,
        )
        settings = Settings(kafka=Kafka(bootstrap=broker.bootstrap), stream=stream)
        conf = write_conf(folder / "conf", settings, connector)
        create_topics(broker.bootstrap, {"feed": 2, "feed.dlq": 1})
        with Producer(broker.bootstrap, topic="feed") as producer:
            feed = AdFeed(seed=seed, n_users=400, broken_share=0.02, huge_bytes=HUGE_BYTES)
            for key, value, headers in feed.messages(events, produced):
                producer.send_raw(key, value, headers)
        line = submit_line(conf.settings, caught_up=True)
        for spot in forced:
            assert _run_faulty(line, spot, folder / "job.log") != 0, "the planted kill must happen"
        for _ in range(kills):
            _kill_at_random(line, stream.table, rng, folder / "job.log")
        with line.start(folder / "job.log") as process:
            assert process.wait(300) == 0, (folder / "job.log").read_text()[-3_000:]
        letters = [letter.key for letter in read(broker.bootstrap, "feed.dlq")]
    table = storage.open(stream.table)
    commit = last_commit(table)
    assert commit is not None
    ids = table.scan(columns=["event_id"]).to_table().column("event_id")
    return Outcome(
        kills + len(forced),
        produced,
        read_progress(commit.attachment(PROGRESS)),
        len(ids),
        pc.count_distinct(ids).as_py(),
        len(letters),
        len(set(letters)),
        len(list((stream.table / "data").glob("*.hrc"))) - len(table.files),
    )


def check(outcome: Outcome) -> None:
    """0 gap, 0 duplicate, by the counters and by the rows."""
    total = outcome.progress.total
    assert total.balance == 0
    assert total.events == outcome.produced.messages, "a gap, or a batch counted twice"
    assert total.dead == sum(outcome.produced.broken.values())
    assert total.stored + total.late + total.duplicates == outcome.produced.good
    assert outcome.stored_ids == outcome.distinct_ids == total.stored
    assert outcome.distinct_letters == total.dead + total.late <= outcome.letters


def _run_faulty(line: SubmitLine, spot: str, log: Path) -> int:
    command = tuple(str(FAULTY) if part.endswith("pipeline.py") else part for part in line.command)
    faulty = replace(line, command=command, environment={**line.environment, "HEADRACE_TEST_KILL": spot})
    with faulty.start(log) as process:
        return process.wait(300)


def _kill_at_random(line: SubmitLine, table: Path, rng: np.random.Generator, log: Path) -> None:
    """Start the job, let it live until its first commit and a random moment longer, then kill its JVM."""
    before = _version(table)
    began = time.monotonic()
    with line.start(log) as process:
        while _version(table) == before and process.poll() is None and time.monotonic() - began < 120:
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 3)))
        for child in _tree(process):
            if child.name() == "java":
                os.kill(child.pid, signal.SIGKILL)
        process.wait(120)
    _await_end(line, began)


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _await_end(line: SubmitLine, began: float) -> None:
    """Wait for the Python driver that the killed JVM leaves behind: it ends once it notices."""
    while time.monotonic() - began < 180:
        if not any(line.command[-2] in (p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])):
            return
        time.sleep(0.1)
    raise AssertionError("a driver outlived its JVM by minutes")


def _version(table: Path) -> int:
    try:
        return storage.open(table).version
    except TableNotFound:
        return 0


@pytest.mark.spark
@pytest.mark.broker
def test_no_gap_and_no_duplicate_after_kills_around_the_commit_and_at_random(tmp_path: Path) -> None:
    outcome = kill_rounds(1, seed=1, folder=tmp_path, forced=("before:1", "after:2"))
    check(outcome)
    assert not list((tmp_path / "table").glob("_staging/*")), "no killed run's sample of events stays"
    assert outcome.orphan_files >= 1, "the kill before the manifest left a staged file behind"
    assert Counter(outcome.produced.broken).total() > 0
