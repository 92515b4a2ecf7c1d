"""Each spark-submit line of the README's table is run as it stands there, on one machine and on a standalone cluster."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace import storage
from headrace.jobs.install import write_conf
from headrace.jobs.places import fetch_jars
from headrace.jobs.progress import PROGRESS, last_commit, read_progress
from headrace.jobs.settings import Kafka, Settings, Spark, Stream
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.producer import Producer
from headrace.streaming.source import create_topics

pytestmark = [pytest.mark.spark, pytest.mark.broker]
CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOOPBACK = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.memory": "1g",
    "spark.executor.extraJavaOptions": os.environ.get("SPARK_SUBMIT_OPTS", ""),
}


def lines() -> list[tuple[str, str]]:
    """(where, line) of every cell of the README's table of jobs."""
    rows = [
        line.split("|")[1:-1]
        for line in (CHECKOUT / "README.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    head, *jobs = [row for row in rows if any("spark-submit" in cell or "machine" in cell for cell in row)]
    names = [cell.strip() for cell in head]
    return [
        (f"{row[0].strip().split(':')[0]} on {name}", cell.strip().strip("`"))
        for row in jobs
        for name, cell in zip(names[1:], row[1:], strict=True)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A master and one worker on loopback; the master's address."""
    port = free_port()
    # spark-class asks the first python3 on the path where pyspark is.
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    deploy = "org.apache.spark.deploy"
    address = f"spark://127.0.0.1:{port}"
    with ExitStack() as stack:
        for name, arguments in (
            ("master.Master", ["--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]),
            (
                "worker.Worker",
                [
                    "--host",
                    "127.0.0.1",
                    "--webui-port",
                    "0",
                    "--cores",
                    "2",
                    "--memory",
                    "2g",
                    "--work-dir",
                    str(folder / "work"),
                    address,
                ],
            ),
        ):
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [str(BIN / "spark-class"), f"{deploy}.{name}", *arguments],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
            stack.callback(process.terminate)
            if name.startswith("master"):
                await_port(port, process, folder / f"{name}.log")
        yield address


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One standalone cluster for all lines; each application has ended before the next begins."""
    with standalone(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2_000:])


def test_the_table_has_a_line_for_each_job_and_place() -> None:
    jobs = ["pipeline.py", "train_tags.py", "train_recommender.py", "train_ctr.py"]
    places = ["one machine", "standalone cluster"]
    found = [(re.findall(r"jobs/(\S+)", line)[0], where.rpartition(" on ")[2]) for where, line in lines()]
    assert found == [(job, place) for job in jobs for place in places]


@pytest.mark.parametrize(("where", "line"), lines(), ids=[where for where, _ in lines()])
def test_the_line_runs(where: str, line: str, kafka: str, request: Any, tmp_path: Path) -> None:
    topic = re.sub(r"\W+", "-", where)
    cluster = "standalone" in where
    master = request.getfixturevalue("master") if cluster else "local[2]"
    stream = Stream(
        topic=topic,
        table=tmp_path / "table",
        checkpoint=tmp_path / "checkpoint",
        max_events_per_batch=3_000,
    )
    spark = Spark(master=master, conf=LOOPBACK if cluster else {})
    settings = Settings(spark=spark, kafka=Kafka(bootstrap=kafka), stream=stream)
    write_conf(tmp_path / "conf", settings, fetch_jars())
    create_topics(kafka, {topic: 2, f"{topic}.dlq": 1})
    with Producer(kafka, topic=topic) as producer:
        for key, value, headers in AdFeed(seed=1, n_users=200).messages(5_000):
            producer.send_raw(key, value, headers)
    typed = line.replace(".headrace/conf", str(tmp_path / "conf")).replace("spark://host:7077", master)
    done = subprocess.run(
        ["bash", "-c", f"{typed} --caught-up"],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1_500:] + done.stderr[-3_000:]
    commit = last_commit(storage.open(stream.table))
    assert commit is not None
    total = read_progress(commit.attachment(PROGRESS)).total
    assert (total.events, total.balance) == (5_000, 0)
