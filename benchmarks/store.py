"""Table ``store``: how small a feature table becomes, and how fast it is written and read, against other formats."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import OURS, Case, Contestant, Metric, Profile, Repetition, Table
from benchmarks.data.ads import FAMILIES
from benchmarks.data.ground import WITHOUT_EMBEDDING, ground
from benchmarks.formats import OURS_PACKAGES, READERS, Data, repetitions, size_case, timed_case

PROJECTION = ("user_id", "cat_05", "den_01")
FILTERED = ("user_id", "cat_05", "den_01", "label", "device")
FLAT = (*FAMILIES["key"], *FAMILIES["cat"], *FAMILIES["den"])
SMALL_ROWS = 5_000
SMALL = ("user_id", "ts", "label", *FAMILIES["cat"][:4], *FAMILIES["den"][:4], "country")
"""Times ``SMALL_ROWS``: 60,000 values, for which ours does not load its compiled kernels."""


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` has a tenth of the rows."""
    rows = 20_000 if profile is Profile.QUICK else 200_000
    whole = Data("ads", "all", None, rows)
    return (
        size_case("size total", whole),
        size_case("size without emb", Data("ads", "without-emb", WITHOUT_EMBEDDING, rows)),
        *_full_reads(whole, profile),
        _quick_reads(
            "projection",
            "3 of 50 columns",
            whole,
            {"op": "read", "read_columns": list(PROJECTION)},
            profile,
        ),
        _quick_reads(
            "filter",
            "cat_02 == 40, 5 columns",
            whole,
            {"op": "filter", "column": "cat_02", "value": 40, "read_columns": list(FILTERED)},
            profile,
        ),
        timed_case(
            "write",
            "the whole table",
            whole,
            {"op": "write"},
            names=READERS,
            repetitions=min(repetitions(profile), 4),
            expected_s=rows / 30_000,
        ),
        *_first_reads(rows, profile),
        _imports(profile),
    )


def _full_reads(data: Data, profile: Profile) -> tuple[Case, ...]:
    found = []
    for word, list_view in (("read full list", False), ("read full listview", True)):
        for about, op in (("all columns", "read"), ("all columns, then the sum of all ids", "read_sum")):
            found.append(
                timed_case(
                    word,
                    about,
                    data,
                    {"op": op},
                    names=READERS,
                    repetitions=repetitions(profile),
                    expected_s=data.rows / 200_000,
                    ours={"list_view": list_view},
                    slug=f"{word} {op}".replace(" ", "-"),
                    sized=op == "read",
                )
            )
    return tuple(found)


def _quick_reads(word: str, about: str, data: Data, args: dict[str, object], profile: Profile) -> Case:
    return timed_case(
        word,
        about,
        data,
        {"calls": 10 if profile is Profile.QUICK else 30, **args},
        names=READERS,
        repetitions=repetitions(profile),
        expected_s=1.0,
    )


@dataclass(frozen=True)
class _Seconds:
    """Reads one of a repetition's times, in milliseconds."""

    value: str

    def __call__(self, repetition: Repetition) -> float:
        return repetition.values[self.value] * 1_000


def _first_reads(rows: int, profile: Profile) -> tuple[Case, ...]:
    found = []
    for about, columns, first_rows in (
        ("60 K values", SMALL, SMALL_ROWS),
        (f"{rows * len(FLAT) // 100_000 / 10} M values", FLAT, rows),
    ):
        data = Data("ads", f"first-{first_rows}", columns, rows)
        found.append(
            Case(
                name=f"first-read-{len(columns)}-columns",
                contestants=(
                    Contestant(OURS, "benchmarks.runners.first_ours", packages=OURS_PACKAGES),
                    Contestant("pyarrow parquet", "benchmarks.runners.first_parquet", "pyarrow"),
                ),
                metrics=(
                    Metric(f"[first read] {about}, import and read", "ms", "lower", _Seconds("s")),
                    Metric(f"[first read] {about}, read alone", "ms", "lower", _Seconds("read_s")),
                ),
                repetitions=repetitions(profile),
                discard=1,
                expected_s=2.0,
                fresh_process=True,
                args={**data.args, "profile": "balanced", "first_rows": first_rows},
            )
        )
    return tuple(found)


def _imports(profile: Profile) -> Case:
    return Case(
        name="import",
        contestants=(
            Contestant(
                OURS,
                "benchmarks.runners.imports",
                packages=OURS_PACKAGES,
                args={"module": "headrace.storage", "name": "open"},
            ),
            Contestant(
                "pyarrow", "benchmarks.runners.imports", packages=("pyarrow",), args={"module": "pyarrow"}
            ),
        ),
        metrics=(
            Metric("[import] headrace.storage against pyarrow", "ms", "lower", _Seconds("s")),
            Metric("[import] and all that reading a table uses", "ms", "lower", _Seconds("used_s")),
        ),
        repetitions=3 * repetitions(profile),
        discard=1,
        expected_s=0.5,
        fresh_process=True,
        args={"datasets": [], "rows_of_data": 0},
    )


TABLE = Table(
    name="store",
    title="A feature table of 50 columns: size, reading, writing",
    cases=cases,
    ground=ground,
    notes=(
        "user_id is our erase key everywhere, and every page we hand out was checked with BLAKE3. Timed reads and writes of ours are",
        "those of the balanced profile, whose size is printed with them. Row groups and batches are 65,536 rows in every format.",
        "Each call opens its file anew, from the page cache. Every contestant's first answer was equal to the source.",
        "parquet tuned: per column the smallest encoding by a trial, zstd-9. first read and import: new processes.",
    ),
)
