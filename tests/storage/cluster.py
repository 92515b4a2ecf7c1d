"""``cluster_job`` submitted to a cluster of this machine, as a person would from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

JOB = Path(__file__).with_name("cluster_job.py")


def submitted(folder: Path, *options: str, environment: Mapping[str, str], where: str | None = None) -> str:
    """What the job says last.

    Args:
        folder: to run in; tables lie in ``tables`` there.
        options: of ``spark-submit``, the master among them.
        environment: of the driver, beside the path to this Python.
        where: executors' imports must lie in a folder of this name.
    """
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *options,
            *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.driver.bindAddress=127.0.0.1"),
            *("--conf", "spark.ui.enabled=false"),
            *("--conf", f"spark.executor.extraJavaOptions={os.environ.get('SPARK_SUBMIT_OPTS', '')}"),
            *(str(JOB), str(folder / "tables"), *([where] if where is not None else [])),
        ],
        env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    said = "\n".join(line for line in done.stderr.splitlines() if " INFO " not in line)
    assert done.returncode == 0, said[-4000:]
    return done.stdout.strip()
