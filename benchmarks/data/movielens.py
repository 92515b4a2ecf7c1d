"""Rating histories of MovieLens 100K: at each rating, what its user had rated before, newest first.

The data set is not part of the project: ``HEADRACE_DATASETS`` names a folder that holds it as RecBole's atomic file,
``recsys/ml-100k/ml-100k.inter``. A hundred thousand rows with two histories are 140 MB in Arrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from benchmarks.data.clicks import Ints, windows

CAP = 200
"""A row sees at most so many earlier ratings."""
FILE = Path("recsys") / "ml-100k" / "ml-100k.inter"


class DataSetMissing(FileNotFoundError):
    """The environment names no folder of data sets, or this one is not in it."""


def ratings(environment: Mapping[str, str]) -> Path:
    """The file of ratings.

    Raises:
        DataSetMissing: saying what to set.
    """
    folder = environment.get("HEADRACE_DATASETS")
    if not folder:
        raise DataSetMissing(f"HEADRACE_DATASETS is not set; name a folder that holds {FILE}")
    path = Path(folder) / FILE
    if not path.is_file():
        raise DataSetMissing(f"no '{path}'; HEADRACE_DATASETS names a folder that holds {FILE}")
    return path


def histories(path: Path, order: Literal["user", "arrival"], rows: int | None = None) -> pa.Table:
    """``user_id``, ``items`` and ``ratings`` (lists of int64), a row per rating.

    Args:
        order: rows by user, each user's by time; or all by time.
        rows: only the first so many ratings of the file.
    """
    data = np.loadtxt(path, dtype=np.int64, skiprows=1, max_rows=rows, ndmin=2)
    user, _, _, time = data.T
    user, item, rating, time = data[np.lexsort((time, user))].T  # stable: ties stay in the file's order
    n = np.arange(len(user))
    start = np.maximum.accumulate(np.where(np.r_[True, user[1:] != user[:-1]], n, 0))
    # What a row has rated itself belongs to the next row's history: each row finds one click more than the one before.
    came = (n != start).astype(np.int64)
    table = pa.table(
        {
            "user_id": user,
            "items": windows(_before(item, start), came, start, CAP),
            "ratings": windows(_before(rating, start), came, start, CAP),
        }
    )
    return table if order == "user" else table.take(pa.array(np.argsort(time, kind="stable")))


def _before(values: Ints, start: Ints) -> Ints:
    """All clicks in the order in which rows find them: a row that is not its user's first finds the one before it."""
    n = np.arange(len(values))
    found: Ints = values[n[n != start] - 1]
    return found
