"""Table ``erase``: the same 2 % of persons forgotten in the same table, and what is left of them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import OURS, Case, Contestant, Metric, Profile, Repetition, Table
from benchmarks.data.ground import ground
from benchmarks.formats import OURS_PACKAGES

SHARE, SEED = 0.02, 3
_RUNNERS = "benchmarks.runners.erasing_"


@dataclass(frozen=True)
class _Value:
    """Reads a value off a repetition."""

    name: str
    scale: float = 1.0

    def __call__(self, repetition: Repetition) -> float:
        return repetition.values[self.name] * self.scale


def _ours(name: str, kind: str) -> Contestant:
    return Contestant(name, f"{_RUNNERS}ours", packages=OURS_PACKAGES, args={"kind": kind})


CONTESTANTS = (
    _ours(OURS, "compliance"),
    _ours("ours balanced", "balanced"),
    _ours("own rewrite", "compliance anew"),
    Contestant("parquet", f"{_RUNNERS}files", "pyarrow", args={"kind": "parquet"}),
    Contestant("ipc", f"{_RUNNERS}files", "pyarrow", args={"kind": "ipc"}),
    Contestant("lance deleted", f"{_RUNNERS}lance", "lance", args={"kind": "deleted"}),
    Contestant("lance", f"{_RUNNERS}lance", "lance", args={"kind": "cleaned"}),
    Contestant("delta deleted", f"{_RUNNERS}delta", "delta", args={"kind": "deleted"}),
    Contestant("delta", f"{_RUNNERS}delta", "delta", args={"kind": "cleaned"}),
    Contestant("iceberg deleted", f"{_RUNNERS}iceberg", "iceberg", args={"kind": "deleted"}),
    Contestant("iceberg", f"{_RUNNERS}iceberg", "iceberg", args={"kind": "cleaned"}),
)


def cases(profile: Profile) -> tuple[Case, ...]:
    """Rows as they came, and rows that lie together by person; 10,000, 40,000 or 200,000 of them by profile. Then reads, and a wide table."""
    rows = {Profile.QUICK: 10_000, Profile.DEFAULT: 40_000, Profile.FULL: 200_000}[profile]
    return (
        *(_case(where, rows, profile) for where in ("random", "clustered")),
        _reads(rows, profile),
        _wide(profile),
    )


def _reads(rows: int, profile: Profile) -> Case:
    return Case(
        name="erase-reads",
        contestants=(
            Contestant(OURS, f"{_RUNNERS}reads", packages=OURS_PACKAGES, args={"kind": "after"}),
            Contestant("before", f"{_RUNNERS}reads", packages=OURS_PACKAGES, args={"kind": "before"}),
        ),
        metrics=(Metric("[reads] of all rows, after 2 % were erased", "ms", "lower", _Value("s", 1e3)),),
        repetitions={Profile.QUICK: 2, Profile.DEFAULT: 5, Profile.FULL: 9}[profile],
        expected_s=2.0,
        args={"dataset": "ads", "rows_of_data": rows, "clustered": False, "share": SHARE, "seed": SEED},
    )


def _wide(profile: Profile) -> Case:
    rows = {Profile.QUICK: 20_000, Profile.DEFAULT: 1_000_000, Profile.FULL: 1_000_000}[profile]
    return Case(
        name="erase-wide",
        contestants=(Contestant(OURS, f"{_RUNNERS}wide", packages=OURS_PACKAGES),),
        metrics=(
            Metric(
                f"[suppressed] 1,000 persons of {rows:,} rows of 1,000 columns", "s", "lower", _Value("s")
            ),
            Metric("rows that were hidden", "", "higher", _Value("rows")),
            Metric("data, wide", "MB", "lower", _Value("size", 1e-6)),
            Metric("peak memory, wide", "MB", "lower", _Value("memory", 1e-6)),
        ),
        repetitions={Profile.QUICK: 1, Profile.DEFAULT: 3, Profile.FULL: 9}[profile],
        expected_s=5.0,
        args={"datasets": [], "rows": rows, "columns": 1_000, "persons": 1_000, "seed": SEED},
    )


def _case(where: str, rows: int, profile: Profile) -> Case:
    return Case(
        name=f"erase-{where}",
        contestants=CONTESTANTS,
        metrics=(
            Metric(f"[seconds] {where}", "ms", "lower", _Value("s", 1e3)),
            Metric(
                f"[pages {where}] 4-KiB blocks of data, of the data's",
                "%",
                "lower",
                _Value("share_blocks", 100),
            ),
            Metric(
                f"[bytes {where}] all that was written, of the data's size",
                "%",
                "lower",
                _Value("share_bytes", 100),
            ),
            Metric(f"[remains] {where}: rows by decoding and ids by scan", "", "lower", _Value("remains")),
            Metric(f"data, {where}", "MB", "lower", _Value("size", 1e-6)),
            Metric(f"peak memory, {where}", "MB", "lower", _Value("memory", 1e-6)),
        ),
        repetitions={Profile.QUICK: 1, Profile.DEFAULT: 2, Profile.FULL: 9}[profile],
        expected_s=6.0,
        args={
            "dataset": "ads",
            "rows_of_data": rows,
            "clustered": where == "clustered",
            "share": SHARE,
            "seed": SEED,
        },
    )


TABLE = Table(
    name="erase",
    title="2 % of persons forgotten, and what is left of them",
    cases=cases,
    ground=ground,
    notes=(
        "Bytes are what the process handed to the kernel, journals, logs and metadata included; seconds include all clean-up.",
        "'deleted' is the delete alone, as most people leave it; [remains] counts rows that any version or file still gives to a "
        "decoder, and ids that stand in the bytes of any file, of 24 persons.",
        "[reads]: the same table read whole with and without its 2 % erased in place, the quickest of twenty in each turn.",
        "Ours is the compliance profile in place; 'own rewrite' is its level canonical. The verifier and the copying are not timed.",
    ),
)
