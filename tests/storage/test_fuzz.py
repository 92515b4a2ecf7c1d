"""A fuzzer that sees which branches of the reader a damaged file takes, for a minute: only errors of the store come out.

It runs in a process of its own, since coverage of the reader's modules is traced by rewriting them on import, and
under a limit on memory. Every input is a small file with some bytes changed and every hash made right again, so that
what reads it gets past the hashes. `make soak ROOM=storage` runs it longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import ROOT

SECONDS = int(os.environ.get("HEADRACE_FUZZ_SECONDS", "60"))


@pytest.mark.timeout(SECONDS + 120)
def test_only_errors_of_the_store_come_out_of_a_changed_file(tmp_path: Path) -> None:
    found = fuzz(tmp_path, SECONDS, seed=7)
    assert found["runs"] > 20 * SECONDS, found
    assert found["CorruptPage"] > 0, found
    assert found["read"] > 0, found


def fuzz(folder: Path, seconds: int, seed: int) -> dict[str, int]:
    """Fuzz for so long; how often the reader said what.

    Raises:
        AssertionError: with the process's last words, where something else than an error of the store came out.
    """
    answer = folder / "answer.json"
    line = [sys.executable, "-m", "tests.storage.fuzzing", str(folder), str(answer), str(seconds), str(seed)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 100)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    found: dict[str, int] = json.loads(answer.read_text())
    return found
