"""Spark over tables where executors are processes of their own: what only the driver knows must travel to them and back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.spark
def test_two_executors_write_read_and_fail(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--master", "local-cluster[2,1,1024]", "--driver-memory", "1g"),
            *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.driver.bindAddress=127.0.0.1"),
            *("--conf", "spark.ui.enabled=false"),
            *("--conf", f"spark.executor.extraJavaOptions={os.environ.get('SPARK_SUBMIT_OPTS', '')}"),
            *(str(Path(__file__).with_name("cluster_job.py")), str(tmp_path / "tables")),
        ],
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    said = "\n".join(line for line in done.stderr.splitlines() if " INFO " not in line)
    assert done.returncode == 0, said[-4000:]
    assert done.stdout.strip().endswith("fine with 2 executors")
