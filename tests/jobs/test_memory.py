"""The driver's memory does not follow the size of a batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.producer import Producer
from headrace.streaming.source import create_topics

SCRIPT = Path(__file__).with_name("driver_memory.py")
SMALL, LARGE = 10_000, 200_000
ALLOWED_BYTES = 50 * 10**6


@pytest.mark.spark
@pytest.mark.broker
def test_the_driver_grows_by_less_than_50_mb_from_batches_of_10_000_to_200_000(
    kafka: str, tmp_path: Path
) -> None:
    runs = {"memory-small": 4 * SMALL, "memory-large": LARGE}
    create_topics(kafka, dict.fromkeys(runs, 4) | dict.fromkeys((f"{topic}.dlq" for topic in runs), 1))
    for topic, events in runs.items():
        with Producer(kafka, topic=topic) as producer:
            for key, value, headers in AdFeed(seed=0).messages(events):
                producer.send_raw(key, value, headers)
    small, large = _measured(kafka, tmp_path / "first")
    if large[
        "compiled"
    ]:  # a compiler's memory, whatever the size of a batch: the next process finds its kernels cached
        small, large = _measured(kafka, tmp_path / "cached")
    assert not large["compiled"]
    assert small["batches"] >= 4
    assert small["rows"] <= SMALL < 0.95 * LARGE <= large["rows"]
    assert large["bytes"] - small["bytes"] < ALLOWED_BYTES, f"{small} {large}"


def _measured(kafka: str, folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """What the batches of both sizes cost a driver that has just begun."""
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            kafka,
            str(folder),
            "memory-small",
            str(SMALL),
            "memory-large",
            str(LARGE),
        ],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    small, large = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return small, large
