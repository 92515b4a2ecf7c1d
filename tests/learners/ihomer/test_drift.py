"""Drift: the detectors are River's, alarms replace nothing, bounds do; the global tree grows, forks and swaps."""

import itertools

import numpy as np
import pytest
from river import drift

from headrace.streaming.learners.ihomer import adwin
from headrace.streaming.learners.ihomer.clustered import Clustered
from headrace.streaming.learners.ihomer.entropy import Statistics, entropy
from headrace.streaming.learners.ihomer.global_tree import GlobalTree, Growing
from headrace.streaming.learners.ihomer.linear import new_block
from headrace.streaming.learners.ihomer.model import IHOMER
from headrace.streaming.learners.ihomer.plain import Plain
from headrace.streaming.learners.ihomer.thresholds import new_cuts
from headrace.streaming.learners.ihomer.watching import PATIENCE, Background, Watch, take_over

from .conftest import Labelled, made, prequential, scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bits", "reals"])
def test_the_detectors_cut_where_river_s_do(seed, kind):
    rng = np.random.default_rng(seed)
    level = np.repeat([0.2, 0.5, 0.1, 0.1, 0.7], 700)
    values = (
        (rng.random(3500) < level).astype(float) if kind == "bits" else np.clip(rng.normal(level, 0.1), 0, 1)
    )
    theirs, ours, rows = drift.ADWIN(), adwin.new_adwins(1), []
    expected = []
    for at, value in enumerate(values):
        theirs.update(value)
        rising = np.zeros(1, np.int64)
        adwin.watch(ours, np.full((1, 1), value), adwin.DELTA, rising)
        if theirs.drift_detected:
            expected.append(at)
        if rising[0]:
            rows.append(at)
        assert ours.state[0, 0] == theirs.width
    assert rows == expected
    assert len(rows) >= 3
    assert ours.state[0, 1] / ours.state[0, 0] == pytest.approx(theirs.estimation)


def test_many_detectors_are_as_many_single_ones_and_nan_feeds_none():
    rng = np.random.default_rng(3)
    values = rng.random((500, 3)) < np.repeat([0.1, 0.7], 250)[:, None]
    values = np.where(rng.random((500, 3)) < 0.1, np.nan, values.astype(float))
    many, rising = adwin.new_adwins(3), np.zeros(3, np.int64)
    adwin.watch(many, values, adwin.DELTA, rising)
    for d in range(3):
        one, up = adwin.new_adwins(1), np.zeros(1, np.int64)
        adwin.watch(one, values[~np.isnan(values[:, d])][:, [d]], adwin.DELTA, up)
        assert (one.state[0] == many.state[d]).all()
        assert up[0] == rising[d] == 1


def test_detectors_of_clusters_that_stay_keep_what_they_know():
    watch = Watch()
    watch.restructure([[0, 1], [2, 3]])
    watch.add(np.ones((40, 4), np.uint8))
    before = watch.adwins.state.copy()
    watch.restructure([[0, 1], [2], [3]])
    assert (watch.adwins.state[:2] == before[:2]).all()
    assert (watch.adwins.state[2:] == 0).all()


def turned(seed: int = 0, n: int = 3000, labels: int = 6) -> Labelled:
    """Half way, the first three labels mean the opposite; the others stay as they are."""
    stream = made(seed, n, 10, labels)
    y = stream.y.copy()
    y[n // 2 :, :3] = 1 - y[n // 2 :, :3]
    return Labelled(stream.x, y)


def test_a_cluster_whose_meaning_turns_is_replaced_by_bound_and_recovers_sooner():
    stream = turned()
    parts = [{0, 1, 2}, {3, 4, 5}]
    watching, not_ = (IHOMER(ensemble=False, drift=d, partition=parts) for d in (True, False))
    with_, without = (prequential(m, stream, 10)[1700:2400] for m in (watching, not_))
    kinds = [(event.kind, set(event.before[0])) for event in watching.events if event.before]
    assert ("alarm", {0, 1, 2}) in kinds
    assert ("swap", {0, 1, 2}) in kinds
    assert ("swap", {3, 4, 5}) not in kinds
    assert any(event.kind == "drift" for event in watching.events)
    alarm = next(e.row for e in watching.events if e.kind == "alarm")
    swap = next(e.row for e in watching.events if e.kind == "swap")
    assert 1500 <= alarm <= 1700
    assert swap - alarm >= PATIENCE
    truth = stream.y[1700:2400, :3]
    assert scores(with_[:, :3], truth)["micro"] >= scores(without[:, :3], truth)["micro"] - 0.01


def test_a_stream_without_drift_raises_few_alarms_and_swaps_nothing():
    model = IHOMER(ensemble=False)
    stream = made(4, 6000)
    model.learn_many(stream.x, stream.y)
    kinds = [event.kind for event in model.events]
    assert kinds.count("swap") == 0
    assert kinds.count("alarm") <= 1


def test_a_background_learner_takes_over_its_own_columns_alone():
    rng = np.random.default_rng(5)
    block, cuts = new_block(4, 5), new_cuts(5)
    block.w[:] = rng.normal(size=(4, 5))
    cuts.positive[:], cuts.all_positive[:] = 2, 10
    before = block.w.copy()
    background = Background.fresh([1, 3], 4)
    background.block.w[:] = 7.0
    background.cuts.positive[:] = 5
    take_over(block, cuts, background)
    assert (block.w[:, [1, 3]] == 7.0).all()
    assert (block.w[:, [0, 2, 4]] == before[:, [0, 2, 4]]).all()
    assert (cuts.positive.sum(0) == cuts.all_positive).all()


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"), [(0.1, 0.3, "swap"), (0.3, 0.1, "give up"), (0.2, 0.21, "wait")]
)
def test_the_bound_decides(mine, theirs, verdict):
    background = Background.fresh([0], 1)
    background.rows, background.mistakes, background.mistakes_deciding = (
        300,
        round(300 * mine),
        round(300 * theirs),
    )
    assert background.verdict() == verdict
    background.rows = PATIENCE - 1
    assert background.verdict() == "wait"


def test_a_restructured_learner_of_clusters_keeps_every_column():
    stream = made(6, 300)
    for use in ("conditional", "meta"):
        model = IHOMER(clusters_for=use, partition=[{0, 1, 2}, {3, 4, 5, 6}], ensemble=False, drift=False)
        model.learn_many(stream.x, stream.y)
        learner: Clustered = model._core.learner
        labels, metas = [a.copy() for a in learner.block], [a.copy() for a in learner.meta]
        learner.restructure([[0, 1], [2], [3, 4, 5, 6]])
        assert all((a == b).all() for a, b in zip(learner.block, labels, strict=True)), (
            "labels keep their columns"
        )
        for mine, theirs in zip(learner.meta, metas, strict=True):
            assert (mine == theirs[..., [0, 0, 1]]).all(), (
                "a cluster inherits the column of the one it came from"
            )
        learner.restructure([[0, 1, 2, 3, 4, 5, 6]])
        assert learner.meta.b.shape == (1,)
        assert sorted(i for members in learner.partition for i in members) == list(range(7))


def test_pruning_opens_few_labels_and_says_no_to_the_others():
    rng = np.random.default_rng(7)
    topic = rng.integers(0, 40, 3000)
    x = np.zeros((3000, 40))
    x[np.arange(3000), topic] = 1.0
    y = np.zeros((3000, 200), np.uint8)
    for k in range(5):
        y[np.arange(3000), topic * 5 + k] = rng.random(3000) < 0.6
    parts = [set(range(k * 5, k * 5 + 5)) for k in range(40)]
    plain, prune = (
        IHOMER(ensemble=False, drift=False, partition=parts, clusters_for=use, sparse=True)
        for use in ("inspection", "prune")
    )
    whole, pruned = (scores(prequential(m, Labelled(x, y), 50), y)["micro"] for m in (plain, prune))
    assert pruned > whole - 0.05
    assert prune._core.learner.opened_labels < 0.5 * 200 * 3000


def test_entropy_is_that_of_independent_labels():
    assert entropy(np.array([0.5, 0.5])) == pytest.approx(2.0)
    assert entropy(np.array([0.0, 1.0])) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_leaf_splits_on_the_feature_that_parts_its_labels(sparse):
    rng = np.random.default_rng(8)
    statistics = Statistics(5, 2, sparse)
    for _ in range(600):
        x = rng.normal(size=5) if not sparse else (rng.random(5) < 0.4) * 1.0
        on = np.flatnonzero([x[3] > 0, x[3] <= 0]).astype(np.int32)
        index = np.flatnonzero(x).astype(np.int32)
        statistics.add(index, x[index].astype(np.float32), on)
    found = statistics.best(1e-7, 0.01)
    assert found is not None
    assert found.feature == 3
    assert found.threshold == pytest.approx(0.0, abs=0.15)
    assert found.merit > (0.7 if not sparse else 1.5)
    assert Statistics(5, 2, sparse).best(1e-7, 0.01) is None


def parted(n: int = 3000, seed: int = 9) -> Labelled:
    """Two regions in which the same features mean opposite things: a linear learner cannot, a tree of them can."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x[:, 0] = np.where(rng.random(n) < 0.5, 2.0, -2.0) + 0.2 * rng.normal(size=n)
    sign = np.sign(x[:, 0])
    y = np.stack([x[:, 0] > 0, sign * x[:, 1] > 0, sign * x[:, 2] > 0.5, x[:, 0] + x[:, 3] > 0], axis=1)
    return Labelled(x, y.astype(np.uint8))


def test_the_tree_wins_where_regions_differ():
    stream = parted()
    alone, tree = (IHOMER(ensemble=False, drift=False, tree=t) for t in (False, True))
    linear, parts = (scores(prequential(m, stream, 10), stream.y)["micro"] for m in (alone, tree))
    assert tree.summary["n_tree_leaves"] >= 2
    assert tree._core.learner.root.feature == 0
    assert parts > linear + 0.05


def test_a_tree_whose_leaves_know_nothing_new_begins_as_copies_of_their_parent():
    tree = GlobalTree(Plain, Growing(grace_period=100, tau=5.0), sparse=False)
    tree.grow(6, 4)
    stream = parted(100)
    index = np.arange(6, dtype=np.int32)
    persist = np.zeros((3, 4), np.float32)
    for x, y in zip(stream.x.astype(np.float32), stream.y, strict=True):
        tree.learn(index, x, persist, y, np.float32(1.0))
    left, right = tree.root.children
    assert (left.learner.block.w == right.learner.block.w).all()
    assert left.learner.block.w is not right.learner.block.w
    assert left.learner.block.w.any()
    assert tree.path(index, stream.x[0].astype(np.float32))[0][0] == tree.root.feature


def test_a_node_s_alternate_takes_its_place_by_bound():
    before, after = parted(1500), parted(3000)
    x, y = np.concatenate([before.x, after.x]), np.concatenate([before.y, 1 - after.y])
    model = IHOMER(ensemble=False, drift=False, tree=True)
    model.learn_many(x, y)
    tree = model._core.learner
    assert tree.n_swaps + tree.n_given_up >= 1
    assert len(tree.root.leaves()) <= 16


@pytest.mark.parametrize("cuts", [[1], [333, 340, 1777], [50, 1501, 1733]])
def test_alarms_and_backgrounds_do_not_depend_on_the_cut_into_mini_batches(cuts):
    stream = turned(n=2400)
    parts = [{0, 1, 2}, {3, 4, 5}]
    whole, cut = (IHOMER(ensemble=False, partition=parts) for _ in range(2))
    whole.learn_many(stream.x, stream.y)
    for a, b in itertools.pairwise([0, *cuts, 2400]):
        cut.learn_many(stream.x[a:b], stream.y[a:b])
    assert cut.to_bytes() == whole.to_bytes()
    assert any(event.kind == "alarm" for event in whole.events)
