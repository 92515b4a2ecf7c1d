"""Table ``seq``: click and rating histories, as they are in a table ordered by user and in one ordered by time."""

from __future__ import annotations

import os

from benchmarks.case import Case, Profile, Table
from benchmarks.data.ground import SEQUENCES, ground
from benchmarks.data.movielens import DataSetMissing, ratings
from benchmarks.formats import READERS, Data, repetitions, size_case, timed_case

RATINGS = 100_000
ONE_HISTORY = ("user_id", "label", "seq_a")


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` has a tenth of the rows."""
    rows = 20_000 if profile is Profile.QUICK else 200_000
    rated = RATINGS // 10 if profile is Profile.QUICK else RATINGS
    missing = _missing()
    return (
        size_case("size sequences", Data("ads", "sequences", SEQUENCES, rows)),
        size_case("size sequences noise", Data("noisy", "sequences", None, rows)),
        size_case("size movielens by user", Data("movielens-user", "all", None, rated), skipped=missing),
        size_case(
            "size movielens by arrival", Data("movielens-arrival", "all", None, rated), skipped=missing
        ),
        timed_case(
            "read sequence",
            "user_id, label and one history",
            Data("ads", "all", None, rows),
            {"op": "read", "read_columns": list(ONE_HISTORY), "calls": 2},
            names=READERS,
            repetitions=repetitions(profile),
            expected_s=rows / 100_000,
        ),
        timed_case(
            "read sequence",
            "user_id, label and one history, ours as a list view",
            Data("ads", "all", None, rows),
            {"op": "read", "read_columns": list(ONE_HISTORY), "calls": 2},
            names=READERS,
            repetitions=repetitions(profile),
            expected_s=rows / 100_000,
            ours={"list_view": True},
            slug="read-sequence-listview",
            sized=False,
        ),
    )


def _missing() -> str | None:
    try:
        ratings(os.environ)
    except DataSetMissing as error:
        return str(error)
    return None


TABLE = Table(
    name="seq",
    title="Histories of ids: size and reading",
    cases=cases,
    ground=ground,
    notes=(
        "Every file holds user_id, our erase key, beside the histories; sizes are those of whole files.",
        "noise: 2 % of new clicks change places with their neighbour, 1 % are removed later, 1 % arrive up to 32 clicks late; rows in",
        "the order of time, users mixed. movielens: MovieLens 100K, each user's last 200 items and ratings at each rating.",
        "[read sequence] reads the table of 50 columns, as the balanced profile wrote it. Each call opens its file anew.",
    ),
)
