"""What executors need is packed, and a standalone cluster whose workers have nothing else reads and writes tables with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from headrace.jobs import pack as packing
from headrace.jobs.errors import PackFailed
from tests.storage.cluster import submitted

from .test_submit_lines import standalone


def test_an_archive_is_packed_once_and_runs_alone(tmp_path: Path, packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert {"bin/python", "lib/headrace/storage/table.py", "lib/headrace/storage/FORMAT.md"} <= set(names)
    assert not [name for name in names if name.startswith("lib/pyspark/") or name.endswith(".pyc")]
    code = "import headrace.storage, pyarrow; print(headrace.storage.__file__, pyarrow.__file__)"
    done = subprocess.run(
        [str(tmp_path / "bin" / "python"), "-c", code],
        env={"PATH": "/usr/bin:/bin", "HEADRACE_PYTHON": os.path.realpath(sys.executable)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(str(tmp_path) in place for place in done.stdout.split())
    with pytest.raises(PackFailed, match="choose another"):
        packing.pack(packed)
    with pytest.raises(PackFailed, match="pip install"):
        packing.closure(root="no-such-distribution")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "headrace-env.tar.gz"
    told: list[tuple[int, int]] = []
    found = packing.pack(path, on_progress=lambda done, of: told.append((done, of)))
    assert found.bytes == path.stat().st_size
    assert told[-1][0] == told[-1][1] == found.files - 1
    assert any(name.startswith("pyarrow==") for name in found.distributions)
    return path


@pytest.mark.spark
def test_a_standalone_cluster_with_the_archive(tmp_path: Path, packed: Path) -> None:
    with tarfile.open(packed) as archive:  # the driver plans in a Python of the same name
        archive.extractall(tmp_path / "environment", filter="data")
    with standalone(tmp_path) as master:
        said = submitted(
            tmp_path,
            *("--master", master, "--archives", f"{packed}#environment"),
            *("--conf", "spark.pyspark.python=./environment/bin/python"),
            *("--conf", f"spark.pyspark.driver.python={sys.executable}"),
            *("--conf", f"spark.executorEnv.HEADRACE_PYTHON={os.path.realpath(sys.executable)}"),
            environment={
                name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_")
            },
            where="environment",
        )
    assert said.endswith("fine with 1 executors")
