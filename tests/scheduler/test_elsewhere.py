"""Other masters, a Connect server, applications with something wrong: each in processes of their own, on loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark
import pytest

pytestmark = pytest.mark.spark

APPLICATIONS = Path(__file__).with_name("applications.py")


def application(*arguments: str) -> tuple[dict[str, Any], str]:
    """What an application found, and what was logged meanwhile."""
    done = subprocess.run(
        [sys.executable, str(APPLICATIONS), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        check=False,
    )
    found = re.search(r"^FOUND (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout[-2_000:] + done.stderr[-4_000:]
    return json.loads(found[1]), done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _passes(ended: dict[str, float]) -> None:
    """The query waits for what was running when it came, and for no more of the backfill."""
    assert ended["query"] < 0.5 * max(ended["heavy0"], ended["heavy1"])


@pytest.fixture(scope="module")
def cluster() -> tuple[dict[str, Any], str]:
    """What one application on a local cluster found, for both tests that look at it."""
    return application("cluster")


def test_a_local_cluster(cluster: tuple[dict[str, Any], str]) -> None:
    found = cluster[0]["race"]
    _passes(found["ended"])
    assert found["snapshot"]["cores"] == 2
    assert not found["snapshot"]["stepped_back"]


def test_a_standalone_master_and_two_workers_with_speculation(tmp_path: Path) -> None:
    with standalone(tmp_path) as master:
        found, said = application("speculation", master)
    _passes(found["ended"])
    assert found["copied"] == 1, "the copy is what ended"
    assert found["took"] < 40
    told = found["snapshot"]
    assert (told["stepped_back"], told["jobs"], told["running"]) == (False, 0, 0), said[-2_000:]


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A master and two workers with a core each, on loopback addresses that are two hosts to Spark; all end with the block."""
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    web = ["--webui-port", str(free_port())]
    running = [_daemon("master.Master", "127.0.0.1", folder, "--port", str(port), *web)]
    try:
        _await_port(port)
        for host in ("127.0.0.1", "127.0.0.2"):
            web = ["--webui-port", str(free_port())]
            running.append(
                _daemon("worker.Worker", host, folder, "--cores", "1", "--memory", "700m", *web, address)
            )
        yield address
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def _daemon(kind: str, host: str, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    home = Path(pyspark.__file__).parent
    return subprocess.Popen(
        [
            str(home / "bin" / "spark-class"),
            f"org.apache.spark.deploy.{kind}",
            "--host",
            host,
            *arguments,
        ],
        env={
            **os.environ,
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_IP": host,
            "SPARK_WORKER_DIR": str(folder / host),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _await_port(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, "the master did not come up"
            time.sleep(0.1)


def test_failures_exclusion_and_dynamic_allocation(cluster: tuple[dict[str, Any], str]) -> None:
    found, said = cluster
    assert found["flaky"] == list(range(8))
    assert found["dying"] == [[0, 12], [1, 16]]
    assert found["executors_left"] == 0, "nothing was left to let go of"
    assert found["after"] == 4
    told = found["snapshot"]
    assert (told["stepped_back"], told["jobs"], told["running"]) == (False, 0, 0), said[-2_000:]


def test_two_clients_of_a_connect_server_are_two_users() -> None:
    found, _ = application("connect", str(free_port()))
    assert {"ann", "heavy"} <= set(found["users"])
    assert found["took"]["ann"] < 0.6 * found["took"]["heavy"]


def test_whatever_is_wrong_is_told_once_and_jobs_are_done(tmp_path: Path) -> None:
    found, said = application("safe", str(tmp_path))
    logs = dict(
        re.findall(r"^CASE (\w+)\n(.*?)(?=^CASE |\Z)", "CASE start\n" + said, re.MULTILINE | re.DOTALL)
    )
    before = {  # what is logged before an application runs stands in the log of the one before it
        "weight": ("plain", "'-1'"),
        "nan": ("weight", "'NaN'"),
        "policy": ("nan", "'fairest'"),
        "xml": ("policy", "broken.xml"),
        "twice": ("none", "name one scheduler plugin"),
        "history": ("twice", "history.json"),
        "broken": ("broken", "stepped back"),
    }
    for case, (log, words) in before.items():
        warnings = [line for line in logs[log].splitlines() if "WARN" in line and "headrace" in line]
        assert len(warnings) == 1, (case, warnings)
        assert words in warnings[0] + logs[log], (case, warnings)
    assert all(found[case]["count"] == 10 for case in found if case not in ("broken", "warm"))
    installed = {case for case, told in found.items() if isinstance(told, dict) and told.get("installed")}
    assert installed == {"plain", "history", "pools"}
    assert found["pools"]["weights"]["etl"] == 3.0
    assert found["broken"] == {"stepped_back": True}
    warm = found["warm"]
    assert warm["first"] == 4_000.0, "nothing was known"
    assert warm["second"] == pytest.approx(warm["first_spent"], rel=0.01), "the next application starts warm"
