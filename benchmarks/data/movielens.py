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
from benchmarks.data.latent import Clicks

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


def clicks_in_time(folder: Path) -> Clicks:
    """Ratings in time order as clicks (above 3) on the fields of ``latent``: occupation stands for segment, gender for device, the first
    genre for category, and the domains are three bands of age. There is no hidden state to know: it is 0."""
    home = folder / FILE.parent
    data = np.loadtxt(home / FILE.name, dtype=np.int64, skiprows=1)
    user, item, rating, when = data[np.argsort(data[:, 3], kind="stable")].T
    people = {row[0]: row for row in _table(home / "ml-100k.user")}
    films = {row[0]: row for row in _table(home / "ml-100k.item")}
    of = [people[str(number)] for number in user]
    age = np.array([int(person[1]) for person in of])
    kinds = [films[str(number)][3].split(" ")[0] if str(number) in films else "" for number in item]
    columns = [
        user,
        item,
        np.unique([person[3] for person in of], return_inverse=True)[1],
        np.unique(kinds, return_inverse=True)[1],
        when // 3_600 % 24,
        np.unique([person[2] for person in of], return_inverse=True)[1],
        np.digitize(age, [25, 35]),
    ]
    nothing = np.zeros(len(user), np.int64)
    return Clicks(
        np.stack(columns, 1).astype(np.int64),
        (rating > 3).astype(np.float32),
        nothing,
        nothing.astype(np.float64),
    )


def _table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def _before(values: Ints, start: Ints) -> Ints:
    """All clicks in the order in which rows find them: a row that is not its user's first finds the one before it."""
    n = np.arange(len(values))
    found: Ints = values[n[n != start] - 1]
    return found
