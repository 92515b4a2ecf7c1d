"""Spark over tables where executors are processes of their own: what only the driver knows must travel to them and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .cluster import submitted


@pytest.mark.spark
def test_two_executors_write_read_and_fail(tmp_path: Path) -> None:
    said = submitted(
        tmp_path,
        *("--master", "local-cluster[2,1,1024]", "--driver-memory", "1g"),
        environment={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )
    assert said.endswith("fine with 2 executors")
