"""A minute of fuzzing: whatever is changed in a file, only errors of the store come out.

Every input is a small file with some bytes changed and every hash made right again, so that what reads it gets past the
hashes. Two processes of their own share the minute, both under a limit on memory: in one, atheris sees which branches
of the reader a file takes (its modules are rewritten on import, so numpy's twins stand in for the kernels); in the
other the compiled kernels read. `make soak ROOM=storage` runs each longer, the kernels with every index checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tree import ROOT

SECONDS = int(os.environ.get("HEADRACE_FUZZ_SECONDS", "60"))
TRACED, COMPILED = SECONDS * 2 // 3, SECONDS // 3


@pytest.mark.timeout(SECONDS + 120)
def test_only_errors_of_the_store_come_out_of_a_changed_file(tmp_path: Path) -> None:
    found = fuzz("fuzzing", tmp_path, TRACED, seed=7)
    assert found["runs"] > 20 * TRACED, found
    assert found["CorruptPage"] > 0, found
    assert found["read"] > 0, found


@pytest.mark.timeout(SECONDS + 300)
def test_compiled_kernels_survive_a_changed_file(tmp_path: Path) -> None:
    found = fuzz("mutating", tmp_path, COMPILED, seed=7)
    assert found["runs"] > 20 * COMPILED, found
    for said in ("CorruptPage", "CorruptFooter", "UnsupportedFeature", "read"):
        assert found[said] > 0, found


def fuzz(
    process: str, folder: Path, seconds: int, seed: int, settings: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Fuzz for so long in one of the two processes; how often the reader said what.

    Raises:
        AssertionError: with the process's last words, where something else than an error of the store came out.
    """
    answer = folder / "answer.json"
    line = [
        sys.executable,
        "-m",
        f"tests.storage.{process}",
        str(folder),
        str(answer),
        str(seconds),
        str(seed),
    ]
    environment = {**os.environ, **(settings or {})}
    ran = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 280
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    found: dict[str, int] = json.loads(answer.read_text())
    return found
