"""Table ``wide``: open a table of many columns, check it, and read ten of them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Case, Metric, Profile, Repetition, Table
from benchmarks.data.ground import ground
from benchmarks.formats import contestants, repetitions

WIDTHS = (1_000, 20_000)
ROWS = 1_000
READ = 10
SEED = 3
NAMES = ("parquet zstd-3", "polars-parquet", "orc zstd", "ipc zstd", "lance 2.1", "vortex")
QUICK_NAMES = ("parquet zstd-3", "polars-parquet", "ipc zstd")
"""The others take half a minute and more to write 20,000 columns."""


@dataclass(frozen=True)
class _Open:
    """Milliseconds for one width; or, over ``narrow``, how many times as long."""

    width: int
    narrow: int | None = None

    def __call__(self, repetition: Repetition) -> float:
        seconds = repetition.values[f"s_wide-{self.width}"]
        return (
            seconds * 1_000 if self.narrow is None else seconds / repetition.values[f"s_wide-{self.narrow}"]
        )


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` has fewer rows and contestants, never fewer columns."""
    quick = profile is Profile.QUICK
    narrow, broad = WIDTHS
    return (
        Case(
            name="open",
            contestants=contestants(QUICK_NAMES if quick else NAMES),
            metrics=(
                *(Metric(f"[open {READ} of {width}]", "ms", "lower", _Open(width)) for width in WIDTHS),
                Metric(
                    f"[open {READ} of {broad}] / [open {READ} of {narrow}]",
                    "x",
                    "lower",
                    _Open(broad, narrow),
                ),
            ),
            repetitions=repetitions(profile),
            discard=1,
            expected_s=5.0,
            args={
                "op": "open",
                "datasets": [f"wide-{width}" for width in WIDTHS],
                "rows_of_data": 100 if quick else ROWS,
                "read": READ,
                "seed": SEED,
                "calls": 5 if quick else 10,
                "profile": "balanced",
            },
        ),
    )


TABLE = Table(
    name="wide",
    title="Ten columns out of many: open, check, read",
    cases=cases,
    ground=ground,
    notes=(
        "float32 columns of 1,000 rows, values at random, and user_id, our erase key. Each call makes new objects and opens the file",
        "anew, from the page cache. Ours is one file, no table around it; it checks the parts of the footer that it reads and the ten",
        "columns' pages with BLAKE3.",
    ),
)
