"""The distribution alone is the store: installed without extras it writes and reads, and nothing else comes along.

The environment is made of the checkout itself and of what `constraints.txt` names, through pip and its cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .test_wheel import (
    Built,
    built,  # noqa: F401 (a fixture)
)
from .tree import ROOT

STRANGERS = [
    "confluent_kafka",
    "cryptography",
    "duckdb",
    "fsspec",
    "great_expectations",
    "kafka",
    "matplotlib",
    "obstore",
    "pandas",
    "polars",
    "psutil",
    "pydantic_settings",
    "py4j",
    "pyspark",
    "river",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
]


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The interpreter of a clean environment with the wheel and its own dependencies."""
    folder = tmp_path_factory.mktemp("alone") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", *options]
    ran = subprocess.run(
        [*command, "-c", str(ROOT / "constraints.txt"), str(built.wheel)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return interpreter


def _said(python: Path, script: str, folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [str(python), "-I", "-W", "error", "-c", script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


STORE = """
import importlib.util, json, sys
import pyarrow as pa
from headrace import storage
rows = pa.table({"user": [1, 2, 1], "items": [[7, 9], [], [4]], "price": [0.5, None, 2.0], "word": ["a", "b", None]})
table = storage.write("clicks", rows, erase_key="user")
table.append(rows)
back = storage.open("clicks").scan(columns=["items", "price"], filter=[("user", "==", 1)]).to_table()
assert back.to_pylist() == [{"items": [7, 9], "price": 0.5}, {"items": [4], "price": 2.0}] * 2, back
assert pa.table(storage.open("clicks").scan()).num_rows == 6
print(json.dumps({
    "installed": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "loaded": [name for name in sys.argv[1:] + ["numba", "pydantic", "typer", "rich", "headrace.streaming", "headrace.jobs"]
               if name in sys.modules],
    "from": storage.__file__,
}))
"""


def test_the_store_works_alone(python: Path, tmp_path: Path) -> None:
    said = json.loads(_said(python, STORE, tmp_path, *STRANGERS))
    assert said["installed"] == []
    assert said["loaded"] == []
    assert Path(said["from"]).is_relative_to(python.parent.parent), "the store came from the checkout"


LONG = """
import pyarrow as pa
from headrace import storage
rows = pa.table({"user": [n % 1000 for n in range(70_000)]})
storage.write("long", rows)
assert storage.open("long").to_table().equals(rows)
from headrace.storage.encodings import bitpack
import numpy as np
out = np.empty(70_000, np.uint32)
values = np.arange(70_000, dtype=np.uint32)
bitpack.BitPack().decode(np.frombuffer(bitpack.BitPack().encode(values), np.uint8), out)
assert (out == values).all()
import sys
assert "numba" in sys.modules
"""


def test_kernels_compile_in_what_is_installed(python: Path, tmp_path: Path) -> None:
    _said(python, LONG, tmp_path)


def test_the_command_line_names_the_missing_extra_and_shows_no_traceback(
    python: Path, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [str(python.with_name("headrace")), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = ran.stdout + ran.stderr
    assert "Traceback" not in said
    assert ran.returncode == 0 or "headrace[stream]" in said
