"""Table ``tables``: commits, opening, compaction and the best rows of tables, beside Delta (delta-rs) and Lance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.formats import OURS_PACKAGES

RIVALS = {"delta": "delta", "lance": "lance", "parquet": "pyarrow"}


def _value(name: str, scale: float = 1.0) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.values[name] * scale


def _case(
    op: str,
    slug: str,
    metrics: Sequence[Metric],
    args: Mapping[str, Json],
    *,
    rivals: Sequence[str] = ("delta", "lance"),
    repetitions: int,
    expected_s: float,
) -> Case:
    names = (OURS, *rivals)
    return Case(
        name=slug,
        contestants=tuple(
            Contestant(
                name,
                f"benchmarks.runners.tables_{name}",
                None if name == OURS else RIVALS[name],
                packages=OURS_PACKAGES if name == OURS else (),
                args={"contestant": f"{slug}-{name}"},
            )
            for name in names
        ),
        metrics=tuple(metrics),
        repetitions=repetitions,
        discard=1,
        expected_s=expected_s,
        args={"op": op, **args},
    )


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` does a tenth or less of everything."""
    quick = profile is Profile.QUICK
    turns = {Profile.QUICK: 1, Profile.DEFAULT: 3, Profile.FULL: 7}[profile]
    rows = 20_000 if quick else 300_000
    commits, versions = (2, 20) if quick else (8, 1_000)

    def commit_metrics(about: str) -> list[Metric]:
        return [
            Metric(f"[commits] {about}, a second", "1/s", "higher", _value("rate")),
            Metric(f"[commits] {about}, median", "ms", "lower", _value("median_s", 1e3)),
            Metric(f"[commits] {about}, 99 %", "ms", "lower", _value("p99_s", 1e3)),
            Metric(f"[commits] {about}, lost races", "", "lower", _value("beaten")),
        ]

    return (
        _case(
            "commits",
            "commits-one",
            commit_metrics("one writer")[:3],
            {"writers": 1, "commits": commits * 8},
            repetitions=turns,
            expected_s=3.0,
        ),
        _case(
            "commits",
            "commits-many",
            commit_metrics("16 writers"),
            {"writers": 16, "commits": commits},
            repetitions=turns,
            expected_s=15.0,
        ),
        _case(
            "plan",
            "plan",
            [
                Metric(
                    f"[plan] {versions * 10:,} files, {versions:,} versions", "ms", "lower", _value("s", 1e3)
                )
            ],
            {"versions": versions, "files": versions * 10, "calls": 3},
            repetitions=turns,
            expected_s=5.0 if quick else 60.0,
        ),
        _case(
            "compaction",
            "compaction",
            [
                Metric("[compaction] many files to one", "MB/s", "higher", _value("rate")),
                Metric("[compaction] the file's size", "MB", "lower", _value("bytes", 1e-6)),
            ],
            {"rows": rows, "files": 20 if quick else 100},
            repetitions=turns,
            expected_s=5.0,
        ),
        _case(
            "compaction",
            "size-compacted",
            [
                Metric(
                    "[size compacted] by user, of the size when written sorted", "x", "lower", _value("ratio")
                ),
                Metric("[size compacted] by user", "MB", "lower", _value("bytes", 1e-6)),
                Metric("[compaction] by user", "MB/s", "higher", _value("rate")),
            ],
            {"rows": rows, "files": 20 if quick else 100, "key": "user"},
            rivals=("delta",),
            repetitions=turns,
            expected_s=6.0,
        ),
        _case(
            "check",
            "verify",
            [Metric("[verify] every page against its hash, a CPU second", "GiB/s", "higher", _value("rate"))],
            {"rows": rows, "files": 2 if quick else 10, "calls": 3},
            rivals=("parquet",),
            repetitions=turns,
            expected_s=2.0,
        ),
        _case(
            "quality",
            "quality",
            [Metric("[quality 30 %] the best 30 % of rows", "ms", "lower", _value("s", 1e3))],
            {"rows": rows, "calls": 3},
            rivals=("parquet", "delta", "lance"),
            repetitions=turns,
            expected_s=3.0,
        ),
    )


@contextmanager
def ground(pending: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Json]]:
    """A folder for what contestants write."""
    folder = scratch / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    yield {"scratch": str(folder)}


TABLE = Table(
    name="tables",
    title="Tables of many files: commits, plans, compaction, the best rows",
    cases=cases,
    ground=ground,
    notes=(
        "Rows are made with a fixed seed: users that come back, embeddings, a quality. Each commit adds 100 rows; ours is synced "
        "to the disk before it is acknowledged, delta-rs and Lance leave that to the system.",
        "Writers are threads of one process, each with its own handle. A lost race is a version that another writer took first; "
        "delta-rs and Lance retry some by themselves, which are not counted.",
        "MB of compaction are those of the rows in memory, the same for all. Delta orders by z_order, Lance keeps the order of arrival. "
        "Nothing but ours keeps rows in order of a quality: the others filter. verify: of bytes in files; Parquet has checksums of "
        "pages, which a reader can be told to check while it decodes.",
    ),
)
