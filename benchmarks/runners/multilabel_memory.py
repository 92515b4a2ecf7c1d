"""``python -m benchmarks.runners.multilabel_memory X.npy Y.npy``: learn the rows by dicts and print MB, four numbers.

The process after its imports, after the last row, and at its peak; and the arrays, counts and names that the model holds, as its
checkpoint writes them. Rows are read from the files one by one, so that the data set is no part of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from headrace.streaming.learners.ihomer.model import IHOMER


def held_mb(what: str) -> float:
    """`VmRSS` or `VmHWM` of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(f"{what}:"))


def main(x_path: str, y_path: str) -> None:
    """Learn and print."""
    imported = held_mb("VmRSS")
    model = IHOMER(sparse=True)
    x_rows, y_rows = np.load(x_path, mmap_mode="r"), np.load(y_path, mmap_mode="r")
    for begin in range(
        0, len(x_rows), 100
    ):  # mapped anew, since pages that were read count as the process's own
        x_part, y_part = np.array(x_rows[begin : begin + 100]), np.array(y_rows[begin : begin + 100])
        x_rows, y_rows = np.load(x_path, mmap_mode="r"), np.load(y_path, mmap_mode="r")
        for x, y in zip(x_part, y_part, strict=True):
            row = {int(i): float(x[i]) for i in np.flatnonzero(x)}
            model.predict_one(row)
            model.learn_one(row, dict(enumerate(y.astype(bool).tolist())))
    print(imported, held_mb("VmRSS"), held_mb("VmHWM"), len(model.to_bytes()) / 2**20)


if __name__ == "__main__":
    main(*sys.argv[1:])
