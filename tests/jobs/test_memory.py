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
EVENTS = 200_000
ALLOWED_BYTES = 50 * 10**6


@pytest.mark.spark
@pytest.mark.broker
def test_the_driver_grows_by_less_than_50_mb_from_batches_of_10_000_to_200_000(
    kafka: str, tmp_path: Path
) -> None:
    create_topics(kafka, {"memory": 4, "memory.dlq": 1})
    with Producer(kafka, topic="memory") as producer:
        for key, value, headers in AdFeed(seed=0).messages(EVENTS):
            producer.send_raw(key, value, headers)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kafka, "memory", str(tmp_path), "10000", str(EVENTS)],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    small, large = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert small["rows"] <= 10_000 < 190_000 <= large["rows"]
    assert large["bytes"] - small["bytes"] < ALLOWED_BYTES, (small, large)
