"""Generated tables are what their modules say: reproducible, of the stated size, and edited in the stated shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.data.ads import CATEGORIES, FAMILIES, HISTORIES, Ads, ads, zipf
from benchmarks.data.clicks import Noise, noisy_windows, windows
from benchmarks.data.movielens import CAP, DataSetMissing, histories, ratings

SMALL = Ads(rows=3_000)


@pytest.fixture(scope="module")
def small() -> pa.Table:
    return ads(SMALL)


def test_the_table_has_its_families_and_is_reproducible(small: pa.Table) -> None:
    assert small.column_names == [name for family in FAMILIES.values() for name in family]
    assert small.equals(ads(SMALL))
    assert not small.equals(ads(Ads(rows=3_000, seed=1)))


def test_200_000_rows_are_702_mb(small: pa.Table) -> None:
    # The histories' share is checked on the full table when it is measured; here, that a row weighs what it should.
    assert small.nbytes / small.num_rows == pytest.approx(702e6 / 200_000, rel=0.05)


def test_rows_are_ordered_by_user_and_time(small: pa.Table) -> None:
    user, ts = small["user_id"].to_numpy(), small["ts"].cast(pa.int64()).to_numpy()
    assert (np.lexsort((ts, user)) == np.arange(small.num_rows)).all()
    users = len(np.unique(user))
    assert small.num_rows / users == pytest.approx(20, rel=0.2)
    assert pc.mean(small["label"]).as_py() == pytest.approx(0.03, abs=0.01)


def test_features_are_of_their_kinds(small: pa.Table) -> None:
    per_user = small.group_by("user_id").aggregate(
        [("cat_03", "count_distinct"), ("den_02", "count_distinct")]
    )
    assert pc.max(per_user["cat_03_count_distinct"]).as_py() == 1
    assert pc.max(per_user["den_02_count_distinct"]).as_py() == 1
    for number, name in enumerate(FAMILIES["cat"]):
        column = small[name]
        assert column.type == (pa.int64() if number % 5 == 4 else pa.int32())
        assert pc.count_distinct(column).as_py() <= CATEGORIES[number % 10]
    assert pc.mean(pc.equal(small["den_03"], 0)).as_py() == pytest.approx(0.7, abs=0.05)
    cents = small["den_01"].to_numpy().astype(np.float64) * 100
    assert np.allclose(cents, np.round(cents), atol=1e-2)


def test_zipf_prefers_small_values() -> None:
    drawn = zipf(np.random.default_rng(0), 20_000, 1_000, 1.1)
    assert drawn.min() == 0
    assert drawn.max() < 1_000
    weights = np.arange(1, 1_001) ** -1.1
    assert (drawn == 0).mean() == pytest.approx(weights[0] / weights.sum(), rel=0.05)


def test_histories_slide(small: pa.Table) -> None:
    user = small["user_id"].to_numpy()
    for history in HISTORIES:
        lists = small[history.name].to_pylist()
        assert max(map(len, lists)) <= history.cap
        for row in range(1, 500):
            if user[row] == user[row - 1]:
                before, now = lists[row - 1], lists[row]
                keeps = any(
                    now[new:] == before[: len(now) - new] and len(now) == min(history.cap, len(before) + new)
                    for new in range(20)
                )
                assert keeps, (history.name, row)


def test_a_log_that_only_grows() -> None:
    ids = np.array([5, 6, 7, 8, 9, 100, 101], np.int64)
    came, start = np.array([2, 1, 0, 2, 1, 1]), np.array([0, 0, 0, 0, 4, 4])
    expected = [[6, 5], [7, 6, 5], [7, 6, 5], [9, 8, 7], [100], [101, 100]]
    assert windows(ids, came, start, 3).to_pylist() == expected
    silent = Noise(swap_share=0, remove_share=0, late_share=0)
    rng = np.random.default_rng(0)
    assert noisy_windows(ids, came, start, 3, silent, rng).to_pylist() == expected


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (Noise(1.0, 0.0, 0.0, 1), [[2, 1], [2, 3, 1], [2, 4, 3, 1]]),
        (Noise(0.0, 0.0, 1.0, 1), [[2, 1], [2, 3, 1], [2, 4, 3, 1]]),
    ],
)
def test_edits_stay_in_the_log(noise: Noise, expected: list[list[int]]) -> None:
    ids = np.array([1, 2, 3, 4], np.int64)
    came, start = np.array([2, 1, 1]), np.zeros(3, np.int64)
    found = noisy_windows(ids, came, start, 10, noise, np.random.default_rng(0)).to_pylist()
    assert found == expected


def test_noise_edits_the_stated_shares_of_clicks() -> None:
    rows, noise = 20_000, Noise()
    came, start = np.ones(rows, np.int64), np.zeros(rows, np.int64)
    lists = noisy_windows(np.arange(rows), came, start, 400, noise, np.random.default_rng(3))
    seen = np.split(lists.values.to_numpy(), lists.offsets.to_numpy()[1:-1])
    places = [np.flatnonzero(window[:33] == row) for row, window in enumerate(seen)]
    place = np.array([found[0] if len(found) else 0 for found in places])
    # A click that arrives one back looks like a swapped one: one of 32 late ones.
    assert (place > 1).mean() == pytest.approx(noise.late_share * 31 / 32, rel=0.2)
    assert (place == 1).mean() == pytest.approx(noise.swap_share, rel=0.2)


def test_clicks_are_removed_at_a_later_row_and_never_come_back() -> None:
    ids = np.arange(2_000)
    came = np.zeros(50, np.int64)
    came[0] = len(ids)
    lists = noisy_windows(
        ids, came, np.zeros(50, np.int64), 2_000, Noise(0, 0.1, 0, 1), np.random.default_rng(1)
    )
    lengths = np.array([len(window) for window in lists])
    assert lengths[0] == len(ids)
    assert (np.diff(lengths) <= 0).all()
    assert 1 - lengths[-1] / len(ids) == pytest.approx(0.1, rel=0.15)
    halfway = (lengths[0] - lengths[25]) / (lengths[0] - lengths[-1])
    assert halfway == pytest.approx(0.5, abs=0.15)
    assert set(lists[49].as_py()) <= set(lists[25].as_py())


def test_noise_puts_the_rows_in_the_order_of_time_and_changes_nothing_else(small: pa.Table) -> None:
    noisy = ads(Ads(rows=3_000, noise=Noise()))
    assert (np.diff(noisy["ts"].cast(pa.int64()).to_numpy()) >= 0).all()
    others = [name for name in small.column_names if name not in FAMILIES["seq"]]
    assert noisy.select(others).equals(small.select(others).take(pc.sort_indices(small["ts"])))
    assert not noisy["seq_a"].equals(small["seq_a"])


def test_rating_histories(tmp_path: Path) -> None:
    file = tmp_path / "ratings"
    file.write_text("u\ti\tr\tt\n7\t1\t5\t30\n8\t2\t4\t20\n7\t3\t3\t10\n7\t4\t2\t40\n")
    by_user = histories(file, "user")
    assert by_user.to_pydict() == {
        "user_id": [7, 7, 7, 8],
        "items": [[], [3], [1, 3], []],
        "ratings": [[], [3], [5, 3], []],
    }
    assert histories(file, "arrival").to_pydict() == {
        "user_id": [7, 8, 7, 7],
        "items": [[], [], [3], [1, 3]],
        "ratings": [[], [], [3], [5, 3]],
    }


def test_real_rating_histories(datasets: Path) -> None:
    table = histories(ratings({"HEADRACE_DATASETS": str(datasets)}), "arrival", rows=5_000)
    assert table.num_rows == 5_000
    assert pc.max(pc.list_value_length(table["items"])).as_py() <= CAP
    assert pc.list_value_length(table["items"]).equals(pc.list_value_length(table["ratings"]))


def test_a_missing_data_set_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataSetMissing, match="HEADRACE_DATASETS is not set"):
        ratings({})
    with pytest.raises(DataSetMissing, match=r"ml-100k\.inter"):
        ratings({"HEADRACE_DATASETS": str(tmp_path)})
