"""Fixtures that cost seconds and are therefore made once for the whole run: one Spark session, one broker."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


NEEDS_SPARK = {"spark", "kafka", "demo"}
DEMO_HANGS_S = 900
"""A demo takes two minutes where it has two cores, three beside other tests, and longer where the machine is shared; not this long.

Below pytest's own timeout, which would end the demo without a word of where it stood."""
TELLING_THREADS = (
    '"main',
    '"Thread-',
    '"stream execution',
    '"Executor task',
    "Thread 0x",
    "Current thread 0x",
)
"""Of all stacks, those of a query, its tasks, and Python."""

# JVMs of tests live for seconds: half of their time would go to a compiler and a collector that pay off later. And two
# processes that share out the tests have a core each, so that no thread of a matrix product waits for another.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
os.environ.setdefault("SPARK_DAEMON_JAVA_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "jobs/test_demo.py",
    "jobs/test_submit_lines.py",
    "scheduler/test_elsewhere.py",
    "jobs/test_kill.py",
    "jobs/test_pack.py",
    "jobs/test_pipeline.py",
    "jobs/test_memory.py",
    "storage/test_crowd.py",
    "storage/test_spark.py",
    "storage/test_fuzz.py",
    "scheduler/test_partitioning.py",
    "learners/adapt_dhm/test_classifier.py",
    "storage/test_crash_states.py",
    "storage/test_local_cluster.py",
    "streaming/test_broker.py",
)
"""Files that take a minute or so, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, then what starts a JVM: two processes that share files out then end together."""
    place = {Path(__file__).parent / name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path, len(LONGEST)), not _starts_a_jvm(item)))


def _starts_a_jvm(item: pytest.Item) -> bool:
    marked = any(item.iter_markers("spark")) or any(item.iter_markers("broker"))
    return marked or not NEEDS_SPARK.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder of real data sets, named by ``HEADRACE_DATASETS``; a test that needs it is skipped without it."""
    folder = os.environ.get("HEADRACE_DATASETS")
    if not folder:
        pytest.skip("HEADRACE_DATASETS is not set")
    return Path(folder)


@dataclass(frozen=True)
class Demo:
    """A finished ``headrace demo``: its folder, and what it printed."""

    root: Path
    output: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One small demo, run as a person runs it, for every test that looks at what a demo leaves.

    Processes that share the tests out share it too: the first that needs it runs it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, said = folder / "demo", folder / "demo.txt"
    with (folder / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            output = _run_demo(root)
            said.write_text(output, encoding="utf-8")
    return Demo(root, said.read_text(encoding="utf-8"))


def _run_demo(root: Path) -> str:
    """What it printed; one that hangs says what it printed until then and where each of its threads stood."""
    with subprocess.Popen(
        [sys.executable, "-m", "headrace.jobs.cli", "demo", "--events", "40000", "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONFAULTHANDLER": "1"},
    ) as process:
        try:
            output, errors = process.communicate(timeout=DEMO_HANGS_S)
        except subprocess.TimeoutExpired:
            _print_stacks(process.pid)
            process.kill()  # what it started ends with it
            output, errors = process.communicate()
            log = root / "job.log"
            blocks = log.read_text(errors="replace").split("\n\n") if log.exists() else []
            threads = "\n\n".join(block for block in blocks if block.startswith(TELLING_THREADS))
            pytest.fail(
                f"the demo was not through after {DEMO_HANGS_S} s:\n{threads}\n{errors}\n{output[-2_000:]}",
                pytrace=False,
            )
    assert process.returncode == 0, output[-2_000:] + errors[-2_000:]
    return output


def _print_stacks(pid: int) -> None:
    """Have ``pid`` and all processes below it print the stack of each of their threads where they print to."""
    from headrace.jobs.submit import WARDEN

    process = psutil.Process(pid)
    below = process.children(recursive=True)
    for each in below:
        if each.name() == "java":
            each.send_signal(signal.SIGQUIT)
    time.sleep(5)
    for each in (*below, process):
        if each.is_running() and each.name().startswith("python") and str(WARDEN) not in each.cmdline():
            each.send_signal(signal.SIGABRT)  # faulthandler's, which is on; it ends the process too
    time.sleep(5)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One embedded broker for every test that needs Kafka; its address. Each test makes topics of its own."""
    from headrace.jobs.places import cache, fetch_jars, java
    from headrace.streaming import jars
    from headrace.streaming.broker import EmbeddedBroker

    fetch_jars()
    folder = tmp_path_factory.mktemp("kafka")
    with EmbeddedBroker(folder, jars.broker_classpath(cache()), java().path) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One local session, ordered by our scheduler, for every test that needs Spark; loopback only."""
    from pyspark.sql import SparkSession

    from headrace import scheduler
    from headrace.jobs.places import fetch_jars

    os.environ["PYSPARK_PYTHON"] = sys.executable
    scratch = tmp_path_factory.mktemp("spark")
    builder = (
        SparkSession.builder.master("local[2]")
        .appName("headrace-tests")
        .config("spark.ui.port", "0")  # it serves the metrics
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.local.dir", str(scratch / "local"))
        .config("spark.sql.python.filterPushdown.enabled", "true")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "8192")
        .config("spark.sql.streaming.noDataMicroBatches.enabled", "false")
        .config("spark.jars", ",".join(map(str, fetch_jars())))
    )
    session = scheduler.configure(builder).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
