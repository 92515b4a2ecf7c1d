"""What parts a table's rows into files, as it is declared and as manifests write it down.

Below ``manifest``. How values part rows is ``partition``'s to say, and what a period means ``retention``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXPIRES = "expires on day"
"""In a file's ``partition``: the first day, counted from 1970 in UTC, on which none of its rows may be there; None if it has none."""


@dataclass(frozen=True)
class PartitionBy:
    """A column whose values, or whose hashes modulo ``buckets``, part the rows into files."""

    column: str
    buckets: int | None = None


@dataclass(frozen=True)
class Retention:
    """How long rows may be kept: the column that names their class, the one their period begins at, and days by class.

    Deletion days are grouped by ``every_days``, so that files are not many; a row outlives its period by less than a day and that.
    """

    column: str
    since: str
    days: Mapping[str, int]
    every_days: int = 1
