"""Hostile files that claim far more than their bytes justify: each refused within a second, under a limit on memory.

They are read in a process of its own whose address space, all of it, is limited to 512 MiB: what Python, numpy and
Arrow map when they are imported, about 200 MiB, included. numba is not imported: no bomb gets as far as a long stream.
`make soak ROOM=storage` tries fifty times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.storage.page import NULL_ROW_BYTES
from headrace.storage.reader import File, read_file
from headrace.storage.writer import Writer
from tests.tree import ROOT

from .bits import same_table
from .bombs import FAMILIES, bombs

SECONDS = 1.0
# Arrow's own pool reserves address space by the gigabyte, and numpy's linear algebra a stack for each of its threads.
LEAN = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def blow(folder: Path, seed: int) -> dict[str, Any]:
    """Make all bombs of a seed and read them under the limit: how many there were, what was said, and the slowest.

    Raises:
        AssertionError: with what went wrong, where one was read or took too much of anything.
    """
    made = list(bombs(folder, seed))
    for number, bomb in enumerate(made):
        (folder / f"{number}.bomb").write_bytes(bomb.data)
    (folder / "names.json").write_text(json.dumps([bomb.name for bomb in made]))
    line = [sys.executable, "-m", "tests.storage.bombing", str(folder)]
    ran = subprocess.run(line, cwd=ROOT, env=os.environ | LEAN, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["n"] == len(made)
    assert not found["not refused"], found
    assert found["slowest"] < SECONDS, found
    assert not found["numba"]
    return found


def test_no_bomb_goes_off(tmp_path: Path) -> None:
    found = blow(tmp_path, seed=1)
    assert found["n"] >= 200
    assert set(found["said"]) == {"BadFile", "CorruptFooter", "CorruptPage", "TooLarge", "UnsupportedFeature"}
    assert len(FAMILIES) == 11


@pytest.mark.parametrize("width", [4, 20_000])
def test_nulls_as_wide_as_these_still_come_back(tmp_path: Path, width: int) -> None:
    """A bomb's shape with an honest writer: nulls of wide rows, whose room in memory no byte of a value pays for."""
    items = pa.array(np.arange(3 * width, dtype=np.float32))
    some = pa.FixedSizeListArray.from_arrays(items, width)
    type_ = some.type
    nulls = pa.nulls(1500, type_)
    wide = pa.concat_arrays([nulls, some, pa.nulls(30, type_)])
    within = pa.StructArray.from_arrays([wide], ["x"], mask=pa.array([i % 3 > 0 for i in range(len(wide))]))
    data = pa.table({"wide": wide, "within": within})
    with Writer(tmp_path / "f", data.schema, seed=1) as writer:
        writer.write(data)
        writer.close()
    back = pa.Table.from_batches(read_file(tmp_path / "f"))
    back.validate(full=True)
    assert same_table(back, data)
    paid = 4 * width > NULL_ROW_BYTES
    assert (tmp_path / "f").stat().st_size < 12 * width * 3 + 20_000 + paid * 3 * 1533 * 4 * width // 1024
    with File(tmp_path / "f") as file:
        taken = file.take([0, 1500, 1531, 1502])
    assert same_table(pa.Table.from_batches([taken]), data.take(pa.array([0, 1500, 1531, 1502])))
