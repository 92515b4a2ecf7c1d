"""Table ``take``: a thousand rows from anywhere, of few columns and of all."""

from __future__ import annotations

from benchmarks.case import Case, Profile, Table
from benchmarks.data.ground import ground
from benchmarks.formats import Data, repetitions, timed_case
from benchmarks.store import PROJECTION

ROWS = 1_000
SEED = 1
NAMES = ("parquet zstd-3", "ipc zstd", "lance 2.0", "lance 2.1", "lance 2.2 zstd", "vortex")


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` has a tenth of the rows."""
    rows = 20_000 if profile is Profile.QUICK else 200_000
    whole = Data("ads", "all", None, rows)
    calls = 5 if profile is Profile.QUICK else 30
    return (
        timed_case(
            "take",
            "1,000 rows of 3 columns",
            whole,
            {"op": "take", "rows": ROWS, "seed": SEED, "read_columns": list(PROJECTION), "calls": calls},
            names=NAMES,
            repetitions=repetitions(profile),
            expected_s=1.0,
        ),
        timed_case(
            "take wide",
            "1,000 rows of 50 columns",
            whole,
            {"op": "take", "rows": ROWS, "seed": SEED, "calls": max(2, calls // 10)},
            names=NAMES,
            repetitions=repetitions(profile),
            expected_s=2.0,
        ),
    )


TABLE = Table(
    name="take",
    title="A thousand rows from anywhere in 200,000",
    cases=cases,
    ground=ground,
    notes=(
        "The rows are drawn with a fixed seed and ascend. Each call opens its file anew, from the page cache.",
        "Ours is the balanced profile with user_id as its erase key; its size is printed. Lance's random access is best in 2.0.",
    ),
)
