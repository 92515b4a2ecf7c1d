"""The other process that `test_fuzz` starts: ``python -m tests.storage.mutating FOLDER ANSWER SECONDS SEED``.

Compiled kernels read every stream here, and in every way that rows can be asked for; nobody traces them, so inputs are
drawn at random. A kernel that reads or writes where it must not ends the process sooner or later; with
``NUMBA_BOUNDSCHECK=1`` in the environment, as in a soak, at once.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from pathlib import Path

import numpy as np

from headrace.storage.encodings import prefer_kernels
from headrace.storage.reader import File

from .hostile import MAX_PATCHES, PATCH, ROWS, Judge, changed, places, seeds

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    1023,
    1024,
    1025,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
HEAD_BYTES = 200


def drawn(rng: np.random.Generator, n_places: int) -> bytes:
    """Patches: half of them near the front of their place, where heads and tables are; of numbers, bits, or anything."""
    parts = []
    for _ in range(int(rng.integers(1, MAX_PATCHES + 1))):
        offset = int(rng.integers(HEAD_BYTES if rng.random() < 0.5 else 1 << 31))
        if rng.random() < 0.5:
            piece = int(rng.choice(NUMBERS)).to_bytes(8, "little")[: int(rng.choice([1, 2, 4, 8]))]
        else:
            piece = rng.bytes(int(rng.integers(1, 9)))
        parts.append(PATCH.pack(int(rng.integers(n_places)), offset, len(piece) - 1) + piece)
    return b"".join(parts)


def read(path: Path, how: int) -> int:
    """Rows that come out of the file in one of several ways."""
    with File(path) as file:
        if how == 0:
            return file.take([0, ROWS // 2, ROWS - 1, 1, ROWS // 2 + 1]).num_rows
        batches = file.batches(
            batch_rows=16 if how == 1 else 65_536, list_view=how == 2, as_stored=how == 3, threads=1
        )
        return sum(batch.num_rows for batch in batches)


def main(folder: Path, answer: Path, seconds: int, seed: int) -> None:
    """Read changed files until the time is over, then write down how often the reader said what."""
    faulthandler.enable()
    prefer_kernels()
    rng = np.random.default_rng(seed)
    files = [(raw, places(raw)) for raw in seeds(folder)]
    path = folder / "changed"
    for raw, _ in files:
        path.write_bytes(raw)
        for how in range(5):
            read(path, how)  # kernels are compiled, or loaded, before the clock runs
    judge = Judge()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        raw, where = files[int(rng.integers(len(files)))]
        hostile = changed(raw, where, drawn(rng, len(where)))
        if hostile is None:
            continue
        path.write_bytes(hostile)
        judge.read(len(hostile), lambda: read(path, int(rng.integers(5))))
    answer.write_text(json.dumps(judge.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
