"""The label tree: counts are exact, the partition is one after every row, planted clusters are found, drift merges and splits."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import base

from headrace.streaming.learners.ihomer.label_odac import LabelODAC
from headrace.streaming.learners.ihomer.pair_counts import PairCounts
from headrace.streaming.learners.ihomer.splitting import bound, distances, share

LABELSETS = st.lists(st.sets(st.integers(0, 11), max_size=5), min_size=1, max_size=120)


def grouped(rows: int, groups: list[list[int]], seed: int, stray: float = 0.05) -> list[list[int]]:
    """Rows with most labels of one group, and seldom others."""
    rng = random.Random(seed)
    every = [label for group in groups for label in group]
    return [
        sorted(
            {label for label in rng.choice(groups) if rng.random() < 0.7}
            | {label for label in every if rng.random() < stray}
        )
        for _ in range(rows)
    ]


@settings(deadline=None, max_examples=60)
@given(rows=LABELSETS, decay=st.sampled_from([1.0, 0.9]))
def test_counts_equal_a_recount(rows, decay):
    counts = PairCounts(decay)
    for row in rows:
        counts.add(np.array(sorted(row), np.int32), 12)
    weights = [decay ** (len(rows) - 1 - at) for at in range(len(rows))]
    ones = [sum(w for w, row in zip(weights, rows, strict=True) if i in row) for i in range(12)]
    pairs = [
        [sum(w for w, row in zip(weights, rows, strict=True) if {i, j} <= row and i != j) for j in range(12)]
        for i in range(12)
    ]
    exactly = {"rtol": 0, "atol": 0} if decay == 1.0 else {"rtol": 1e-9}
    np.testing.assert_allclose(counts.of_labels(), ones, **exactly)
    np.testing.assert_allclose(counts.together(np.arange(12)), pairs, **exactly)
    np.testing.assert_allclose(
        counts.between(np.array([3, 0]), np.arange(12)), np.array(pairs)[[3, 0]], **exactly
    )
    group = np.arange(12) % 3
    sums = [[np.array(pairs)[np.ix_(group == a, group == b)].sum() for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(counts.by_group(group, 3), sums, rtol=1e-9)
    assert counts.of_rows() == pytest.approx(sum(weights))


def test_the_store_grows_forgets_and_drops():
    counts, rng = PairCounts(), np.random.default_rng(1)
    rows = [np.sort(rng.choice(300, 12, replace=False)).astype(np.int32) for _ in range(400)]
    for row in rows:
        counts.add(row, 300)
    whole = counts.together(np.arange(300))
    assert whole.sum() == 400 * 12 * 11
    assert len(counts.keys) < 300**2, "the whole is read by a walk through the table, the parts by look-ups"
    np.testing.assert_array_equal(counts.together(np.arange(40, 80)), whole[40:80, 40:80])
    counts.forget()
    np.testing.assert_allclose(counts.together(np.arange(300)), whole / 2)
    counts.drop(7)
    np.testing.assert_allclose(counts.together(np.arange(299)), np.delete(np.delete(whole, 7, 0), 7, 1) / 2)
    assert len(counts.of_labels()) == 299


def test_old_rows_fade_without_overflow():
    counts = PairCounts(0.5)
    for _ in range(3000):
        counts.add(np.array([0, 1], np.int32), 2)
    assert counts.of_rows() == pytest.approx(2.0)
    assert counts.together(np.arange(2))[0, 1] == pytest.approx(2.0)


def test_distances_are_jaccard_s_on_the_rows_where_either_is_set():
    d, sample = distances(np.array([4.0, 2.0, 0.0]), np.array([[0, 2, 0], [2, 0, 0], [0, 0, 0.0]]))
    assert (d[0, 1], sample[0, 1]) == (0.5, 4.0)
    assert (d[0, 2], sample[0, 2]) == (1.0, 4.0)
    assert bound(0.05, 100) == pytest.approx(0.1224, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(rows=LABELSETS, n_min=st.sampled_from([5, 20]), drop=st.integers(0, 11))
def test_after_every_row_each_label_is_in_exactly_one_cluster(rows, n_min, drop):
    odac = LabelODAC(n_min=n_min, delta=0.9, min_pair=1, max_size=4, decay=0.95)
    seen: set[int] = set()
    for at, row in enumerate(rows * 3):
        odac.learn_one(row)
        seen |= row
        if at == len(rows) and drop in seen:
            odac.drop_label(drop)
            seen -= {drop}
        if at >= len(rows):
            odac.forget()
        clusters = odac.clusters
        assert sum(map(len, clusters)) == len(seen)
        assert set().union(*clusters) == seen
        assert all(len(cluster) <= 4 for cluster in clusters) or odac.n_seen % n_min


@pytest.mark.parametrize("test", ["share", "gain"])
def test_planted_clusters_are_found(test):
    groups = [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    odac = LabelODAC(split_test=test, min_size=2)
    for row in grouped(4000, groups, 2):
        odac.learn_one(row)
    assert sorted(map(sorted, odac.clusters)) == groups
    assert odac.height == 2
    assert [change.kind for change in odac.changes] == ["split", "split"]
    assert odac.predict_one({3: True, 4: True, 9: False}) == odac.clusters.index({3, 4, 5, 6})


def test_odac_s_own_test_splits_what_has_a_farthest_pair():
    """Its third condition compares the extremes with the mean, so that two equal halves never part: a fault of the test's own."""
    parted, halves = LabelODAC(split_test="odac", min_size=1), LabelODAC(split_test="odac", min_size=2)
    for row in grouped(4000, [[0, 1, 2, 3, 4, 5, 6], [7]], 3):
        parted.learn_one(row)
    for row in grouped(4000, [[0, 1, 2], [3, 4, 5]], 3, stray=0.2):
        halves.learn_one(row)
    assert {7} in parted.clusters
    assert len(halves.clusters) == 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), size=st.integers(3, 12))
def test_sums_over_sides_share_as_the_whole_matrix_does(seed, size):
    rng = np.random.default_rng(seed)
    half = np.triu(rng.integers(0, 9, (size, size)), 1).astype(np.float64)
    together, left = half + half.T, rng.permutation(size)[: size // 2]
    right = np.setdiff1d(np.arange(size), left)
    kept = sum(together[np.ix_(side, side)].sum() for side in (left, right)) / max(together.sum(), 1)
    degree = together.sum(1) / max(together.sum(), 1)
    chance = sum(degree[side].sum() ** 2 for side in (left, right))
    gain, eps = share(together, left, right, 0.05)
    assert gain == pytest.approx(kept - chance if together.sum() else 0.0, abs=1e-12)
    assert eps == pytest.approx(bound(0.05, together.sum() / 2) if together.sum() else 1.0)


def test_labels_without_structure_stay_together():
    rng = random.Random(4)
    odac = LabelODAC()
    for _ in range(5000):
        odac.learn_one([label for label in range(8) if rng.random() < 0.4])
    assert len(odac.clusters) == 1


def test_correlations_that_drift_merge_what_they_no_longer_part_and_part_anew():
    odac = LabelODAC(decay=0.998, min_size=2)
    for row in grouped(3000, [[0, 1, 2], [3, 4, 5]], 5):
        odac.learn_one(row)
    assert sorted(map(sorted, odac.clusters)) == [[0, 1, 2], [3, 4, 5]]
    at = len(odac.changes)
    for row in grouped(6000, [[0, 3, 1], [4, 2, 5]], 6):
        odac.learn_one(row)
    assert [change.kind for change in odac.changes[at:]][:2] == ["merge", "split"]
    assert sorted(map(sorted, odac.clusters)) == [[0, 1, 3], [2, 4, 5]]
    merge = odac.changes[at]
    assert set().union(*merge.before) == set().union(*merge.after) == set(range(6)), (
        "a merge keeps every label"
    )


def test_without_forgetting_an_alarm_s_halving_lets_the_tree_follow():
    slow, told = LabelODAC(min_size=2), LabelODAC(min_size=2)
    for row in grouped(4000, [[0, 1, 2], [3, 4, 5]], 7):
        for odac in (slow, told):
            odac.learn_one(row)
    for at, row in enumerate(grouped(4000, [[0, 3, 1], [4, 2, 5]], 8)):
        for odac in (slow, told):
            odac.learn_one(row)
        if at in (200, 600, 1000):
            told.forget()

    def first(odac: LabelODAC) -> float:
        return min((change.row for change in odac.changes if change.kind == "merge"), default=float("inf"))

    assert first(told) < first(slow)


def test_sizes_are_kept_and_nothing_changes_within_its_cool_down():
    odac = LabelODAC(max_size=8, n_min=100)
    for row in grouped(3000, [list(range(k, k + 5)) for k in range(0, 60, 5)], 9):
        odac.learn_one(row)
    assert all(2 <= len(cluster) <= 8 for cluster in odac.clusters)
    # What max_size demands is done at once; whatever is chosen is one change per evaluation.
    chosen = [change.row for change in odac.changes if len(change.before[0]) <= 8]
    assert len(chosen) == len(set(chosen))


def test_many_labels_are_cut_before_anything_is_known_of_them():
    odac = LabelODAC(max_size=64)
    for label in range(5000):
        odac.add_label(label)
    odac.evaluate()
    assert max(map(len, odac.clusters)) <= 64
    assert sum(map(len, odac.clusters)) == 5000


def test_it_is_river_s_kind_of_clusterer():
    odac = LabelODAC(n_min=50)
    assert isinstance(odac, base.Clusterer)
    odac.learn_one({"a": True, "b": False})
    assert odac.clusters == [{"a", "b"}]
    assert odac.clone().clusters == []
    assert odac.clone()._get_params() == odac._get_params()


def test_the_order_of_labels_does_not_matter():
    order = np.random.default_rng(10).permutation(10).tolist()
    a, b = LabelODAC(min_size=2), LabelODAC(min_size=2)
    for odac, names in ((a, list(range(10))), (b, order)):
        for label in names:
            odac.add_label(label)
    for row in grouped(3000, [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]], 11):
        a.learn_one(row)
        b.learn_one([order[label] for label in row])
    assert {frozenset(order[i] for i in c) for c in a.clusters} == {frozenset(c) for c in b.clusters}
