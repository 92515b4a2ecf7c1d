"""Fixtures that cost seconds and are therefore made once for the whole run: one Spark session, one broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


NEEDS_SPARK = {"spark", "kafka", "demo"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a JVM comes first, since it takes longest: two processes that share files out then end together."""
    items.sort(key=lambda item: not _starts_a_jvm(item))


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
    """One small demo, run as a person runs it, for every test that looks at what a demo leaves."""
    root = tmp_path_factory.mktemp("demo") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "headrace.jobs.cli", "demo", "--events", "40000", "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return Demo(root, done.stdout)


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
    """One local session, ordered by our scheduler, for every test that needs Spark; loopback only, no user interface."""
    from pyspark.sql import SparkSession

    from headrace import scheduler
    from headrace.jobs.places import fetch_jars

    os.environ["PYSPARK_PYTHON"] = sys.executable
    scratch = tmp_path_factory.mktemp("spark")
    builder = (
        SparkSession.builder.master("local[2]")
        .appName("headrace-tests")
        .config("spark.ui.enabled", "false")
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
