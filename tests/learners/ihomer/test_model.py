"""IHOMER as its users hold it: River's contract, every way in gives the same model, nothing looks ahead, bad input has its place."""

import importlib.util
import itertools
import math
import sys
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from river import base, checks, datasets, metrics

from headrace.streaming.learners.ihomer.model import IHOMER
from headrace.streaming.learners.ihomer.rows import BadBatch

from .conftest import Labelled, made, prequential, scores

FORMS = {
    "default": {},
    "plain": {"ensemble": False},
    "no parts": {"ensemble": False, "partition": "none", "drift": False},
    "subset": {"decision": "subset", "ensemble": False},
    "hamming": {"decision": "hamming"},
    "conditional": {"clusters_for": "conditional", "n_min": 50},
    "prune": {"clusters_for": "prune", "n_min": 50, "ensemble": False},
    "chain": {"clusters_for": "chain", "n_min": 50, "ensemble": False},
    "meta": {"clusters_for": "meta", "n_min": 50, "ensemble": False},
    "without": {"without": {"persistence", "replay", "near", "scaling"}},
    "tree": {"tree": True, "ensemble": False, "grace_period": 100, "tau": 0.5},
}


def dicts(stream: Labelled) -> list[tuple[dict, dict]]:
    return [
        (dict(enumerate(x)), {i: bool(v) for i, v in enumerate(y)})
        for x, y in zip(stream.x.tolist(), stream.y.tolist(), strict=True)
    ]


class Music:
    """Rows like those of `river.datasets.Music`: 72 numbers and 6 moods by name."""

    def take(self, k: int) -> list[tuple[dict, dict]]:
        stream = made(11, k, features=72, labels=6)
        return [
            ({f"feature {i}": v for i, v in enumerate(x)}, {f"mood {i}": bool(v) for i, v in enumerate(y)})
            for x, y in zip(stream.x.tolist(), stream.y.tolist(), strict=True)
        ]


@pytest.fixture
def _river_data(monkeypatch):
    # River downloads the data of its multi-label checks; a stream of the same shape stands in, so that tests need no network.
    monkeypatch.setattr(datasets, "Music", Music)
    # river's checks import scikit-learn for data sets of multi-output regressors, which no check of a classifier reads.
    if importlib.util.find_spec("sklearn") is None:
        package = types.ModuleType("sklearn")
        package.datasets = types.ModuleType("sklearn.datasets")
        monkeypatch.setitem(sys.modules, "sklearn", package)


@pytest.mark.usefixtures("_river_data")
def test_river_takes_it_for_an_estimator():
    model = IHOMER()
    assert isinstance(model, base.MultiLabelClassifier)
    assert model._unit_test_skips() == set()
    checks.check_estimator(model)


@pytest.mark.parametrize("form", FORMS)
def test_what_river_checks_of_other_classifiers_holds_too(form):
    """Pure prediction, {} before the first row, features that come, go and change places, clones that share nothing."""
    rows = Music().take(60)
    model = IHOMER(**FORMS[form])
    assert model.predict_one(rows[0][0]) == {} == model.predict_proba_one(rows[0][0])
    rng = np.random.default_rng(1)
    for x, y in rows:
        keep = {name: value for name, value in x.items() if rng.random() < 0.8}
        before = model.to_bytes()
        said, p = model.predict_one(keep), model.predict_proba_one(keep)
        assert model.predict_one(dict(reversed(keep.items()))).keys() == said.keys()
        assert model.to_bytes() == before, "a prediction left a trace"
        assert all(math.isclose(sum(pair.values()), 1.0) and 0.0 <= pair[True] <= 1.0 for pair in p.values())
        assert said.keys() == p.keys()
        model.learn_one(keep | {f"new {len(keep)}": 1.0}, y)
    fresh = model.clone()
    assert fresh.predict_one(rows[0][0]) == {}
    assert fresh._get_params() == model._get_params()
    assert set(model.predict_one({})) == set(rows[0][1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sparse", [False, True])
def test_every_way_in_makes_the_same_model_to_the_last_bit(form, sparse):
    stream = made(2, 130, sparse=sparse)
    options = FORMS[form] | {"sparse": sparse}
    one = IHOMER(**options)
    for x, y in dicts(stream):
        one.learn_one(x, y)
    frame, labels = pd.DataFrame(stream.x), pd.DataFrame(stream.y.astype(bool))
    ways = {
        "array": (stream.x, stream.y),
        "frame": (frame, labels),
        "dicts": tuple(map(list, zip(*dicts(stream), strict=True))),
    }
    if sparse:
        ways["csr"] = (scipy.sparse.csr_matrix(stream.x), scipy.sparse.csr_matrix(stream.y))
    for name, (x, y) in ways.items():
        many = IHOMER(**options)
        cut = 77
        many.learn_many(x[:cut], y[:cut])
        many.learn_many(x[cut:], y[cut:])
        assert many.to_bytes() == one.to_bytes(), name
        assert many.n_learned == 130


@pytest.mark.parametrize("form", ["default", "plain", "subset"])
def test_dicts_without_zeros_predict_what_whole_rows_do(form):
    """A word that is new at prediction has no weight yet, but it is part of the row by whose length all are scaled."""
    stream = made(12, 250, features=60, sparse=True)
    whole, short = IHOMER(sparse=True, **FORMS[form]), IHOMER(sparse=True, **FORMS[form])
    said = np.zeros((250, 2), np.int64)
    for at, (x, y) in enumerate(dicts(stream)):
        some = {name: value for name, value in x.items() if value}
        p, q = whole.predict_proba_one(x), short.predict_proba_one(some)
        assert all(math.isclose(p[label][True], q[label][True], abs_tol=2e-3) for label in p)
        said[at] = sum(whole.predict_one(x).values()), sum(short.predict_one(some).values())
        whole.learn_one(x, y)
        short.learn_one(some, y)
    assert (said[:, 0] == said[:, 1]).mean() > 0.95


def test_arrow_tables_and_their_nulls_are_rows_like_others():
    stream = made(3, 90)
    names = [f"f{i}" for i in range(stream.x.shape[1])]
    x = pa.table(
        {name: pa.array(v, mask=np.arange(90) % 7 == 0) for name, v in zip(names, stream.x.T, strict=True)}
    )
    y = pa.table({f"l{i}": pa.array(v.astype(bool)) for i, v in enumerate(stream.y.T)})
    many, one = IHOMER(), IHOMER()
    many.learn_many(x, y)
    for row, truth in zip(x.to_pylist(), y.to_pylist(), strict=True):
        one.learn_one(row, truth)
    assert many.to_bytes() == one.to_bytes()
    assert many.predict_many(x).shape == (90, 7)
    assert many.predict_many(x).iloc[5].to_dict() == one.predict_one(x.to_pylist()[5])


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 260), max_size=4),
    form=st.sampled_from(sorted(FORMS)),
)
def test_where_mini_batches_are_cut_does_not_matter(seed, cuts, form):
    stream = made(seed % 1000, 260)
    whole, parts = IHOMER(**FORMS[form]), IHOMER(**FORMS[form])
    whole.learn_many(stream.x, stream.y)
    for a, b in itertools.pairwise([0, *sorted(cuts), 260]):
        parts.learn_many(stream.x[a:b], stream.y[a:b])
    assert whole.to_bytes() == parts.to_bytes()


@pytest.mark.parametrize("form", ["default", "plain", "subset", "tree"])
def test_half_a_stream_predicts_like_the_first_half_of_the_whole(form):
    stream = made(4, 500)
    half = Labelled(stream.x[:250], stream.y[:250])
    whole = prequential(IHOMER(**FORMS[form]), stream)
    assert (prequential(IHOMER(**FORMS[form]), half) == whole[:250]).all()
    changed = Labelled(stream.x, np.concatenate([stream.y[:250], 1 - stream.y[250:]]))
    assert (prequential(IHOMER(**FORMS[form]), changed)[:251] == whole[:251]).all(), (
        "labels to come had a say"
    )


def test_a_row_is_predicted_the_same_whatever_comes_with_it():
    stream = made(5, 200)
    for form in ("default", "plain"):
        model = IHOMER(**FORMS[form])
        model.learn_many(stream.x[:150], stream.y[:150])
        said = np.concatenate(
            [model.predict_many(stream.x[at : at + 1]).to_numpy() for at in range(150, 200)]
        )
        assert (model.predict_many(stream.x[150:]).to_numpy() == said).all()
    together = model.predict_proba_many(stream.x[150:]).to_numpy()
    alone = np.concatenate(
        [model.predict_proba_many(stream.x[at : at + 1]).to_numpy() for at in range(150, 200)]
    )
    assert (together == alone).all()


def test_labels_permuted_against_the_features_leave_nothing_to_learn(yeast):
    model, order = IHOMER(), np.random.default_rng(0).permutation(len(yeast))
    permuted = Labelled(yeast.x, yeast.y[order])
    majority = np.zeros_like(yeast.y)
    counts = {}
    for at, row in enumerate(permuted.y):
        if counts:
            majority[at] = np.frombuffer(max(counts, key=counts.__getitem__), np.uint8)
        counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
    learnt = scores(prequential(model, permuted), permuted.y)["micro"]
    assert learnt < scores(majority, permuted.y)["micro"] + 0.03
    assert scores(prequential(IHOMER(), yeast), yeast.y)["micro"] > learnt + 0.06


@pytest.mark.parametrize("form", ["default", "plain", "chain"])
def test_the_order_of_labels_does_not_matter_to_a_label(form):
    """Equivariance: labels in another order give the same probabilities in that order (to rounding, where sums are over labels)."""
    stream = made(6, 200)
    order = np.random.default_rng(6).permutation(stream.y.shape[1])
    options = FORMS[form] | ({"partition": "one"} if form == "chain" else {})
    a, b = IHOMER(**options), IHOMER(**options)
    if (
        form == "chain"
    ):  # a chain has an order, by frequency at the time of its making: the only form that has
        options["clusters_for"] = "inspection"
    a.learn_many(stream.x, stream.y)
    b.learn_many(stream.x, stream.y[:, order])
    if form != "chain":
        p, q = (m.predict_proba_many(stream.x[:20]).to_numpy() for m in (a, b))
        assert np.allclose(p[:, order], q, atol=1e-4)
    assert {frozenset(c) for c in a.clusters} == {frozenset(int(order[i]) for i in c) for c in b.clusters}


def test_new_labels_come_at_any_time_and_can_go():
    stream = made(7, 600)
    model = IHOMER()
    for at, (x, y) in enumerate(dicts(stream)):
        model.learn_one(x, {label: value for label, value in y.items() if label < (3 if at < 200 else 7)})
    assert set(model.predict_one(dicts(stream)[0][0])) == set(range(7))
    late = [
        scores((model.predict_many(stream.x).to_numpy()).astype(np.uint8)[:, [i]], stream.y[:, [i]])["micro"]
        for i in (4, 5)
    ]
    assert min(late) > 0.5, "labels that came late were not learnt"
    kept = model.predict_proba_many(stream.x[:5])
    model.drop_label(2)
    assert set(model.predict_one(dicts(stream)[0][0])) == {0, 1, 3, 4, 5, 6}
    assert set().union(*model.clusters) == {0, 1, 3, 4, 5, 6}
    after = model.predict_proba_many(stream.x[:5])
    for form in ("plain", "subset", "conditional", "tree"):
        other = IHOMER(**FORMS[form])
        other.learn_many(stream.x, stream.y)
        before = other.predict_proba_many(stream.x[:5])
        other.drop_label(2)
        for label in (0, 1, 3, 6):
            assert np.allclose(before[label], other.predict_proba_many(stream.x[:5])[label], atol=0.2), form
        other.learn_many(stream.x[:60], np.delete(stream.y, 2, 1)[:60])
    assert np.abs(kept.drop(columns=2).to_numpy() - after.to_numpy()).max() < 0.2
    model.learn_one(*dicts(stream)[3])
    assert set(model.predict_one({})) == set(range(7))
    with pytest.raises(KeyError, match="never seen"):
        model.drop_label("nobody")


class TestBadInput:
    def model(self) -> IHOMER:
        model = IHOMER(ensemble=False)
        model.learn_one({"a": 1.0, "b": 2.0}, {"x": True, "y": False})
        return model

    @pytest.mark.parametrize(
        ("x", "y", "column", "why"),
        [
            ({"a": math.inf, "b": 1.0}, {"x": True}, "a", "infinite"),
            ({"a": -math.inf, "b": 1.0}, {"x": True}, "a", "infinite"),
            ({"a": 1.0, "b": "red"}, {"x": True}, "b", "'red' of type str"),
            ({"a": 1.0, "b": [1]}, {"x": True}, "b", "type list"),
            ({"a": 1.0}, {"x": "maybe"}, "x", "'maybe'"),
            ({"a": 1.0}, {"x": 2}, "x", "came 2"),
        ],
    )
    def test_a_row_that_cannot_be_used_is_refused_and_learning_goes_on(self, x, y, column, why):
        model, twin = self.model(), self.model()
        model.learn_one(x, y)
        assert (model.n_refused, model.n_learned) == (1, 1)
        [refused] = model.refused
        assert (refused.row, refused.column) == (1, column)
        assert why in refused.why
        assert model.predict_one(x).keys() == {"x", "y"}
        for each in (model, twin):
            each.learn_one({"a": 3.0, "b": 1.0}, {"x": False, "y": True})
        assert model.predict_proba_one({"a": 1.0, "b": 0.0}) == twin.predict_proba_one({"a": 1.0, "b": 0.0})

    def test_a_bad_row_of_a_mini_batch_is_left_out_alone(self):
        stream = made(8, 60)
        x = stream.x.copy()
        x[17, 3] = np.inf
        y = stream.y.astype(np.float64)
        y[40, 2] = 0.5
        model, twin = IHOMER(), IHOMER()
        model.learn_many(pd.DataFrame(x), pd.DataFrame(y))
        keep = np.delete(np.arange(60), [17, 40])
        twin.learn_many(stream.x[keep], stream.y[keep])
        assert [(r.row, r.column) for r in model.refused] == [(17, 3), (40, 2)]
        assert (model.predict_proba_many(stream.x) == twin.predict_proba_many(stream.x)).all(axis=None)

    def test_what_is_not_known_counts_for_nothing(self):
        stream = made(9, 100)
        rows = dicts(stream)
        a, b, c = IHOMER(), IHOMER(), IHOMER()
        for at, (x, y) in enumerate(rows):
            a.learn_one(x | {0: math.nan} if at % 3 and at else x, y)
            b.learn_one({k: v for k, v in x.items() if k != 0} if at % 3 and at else x, y)
            c.learn_one(x | {0: None} if at % 3 and at else x, y)
        assert a.to_bytes() == b.to_bytes() == c.to_bytes()

    def test_a_label_that_is_not_known_teaches_nothing(self):
        stream = made(10, 100)
        model = IHOMER(ensemble=False, drift=False)
        model.learn_many(stream.x[:80], stream.y[:80])
        before = model._core.learner.block.w[:, 3].copy()
        others = model._core.learner.block.w[:, 2].copy()
        for x, y in dicts(stream)[80:]:
            model.learn_one(x, y | {3: None})
        assert (model._core.learner.block.w[:, 3] == before).all()
        assert (model._core.learner.block.w[:, 2] != others).any()

    def test_empty_rows_are_rows(self):
        model = self.model()
        model.learn_one({}, {"x": True})
        model.learn_one({"a": 1.0}, set())
        assert model.n_learned == 3
        assert set(model.predict_one({})) == {"x", "y"}
        model.learn_many(
            pd.DataFrame(columns=["a", "b"], dtype=float), pd.DataFrame(columns=["x"], dtype=bool)
        )
        assert model.n_learned == 3

    @pytest.mark.parametrize(
        ("x", "y", "says"),
        [
            (np.zeros((3, 2)), np.zeros((2, 2)), "as many rows"),
            (pd.DataFrame({"a": ["red", "blue"]}), np.zeros((2, 1)), "column 'a' of the features"),
            (np.zeros((2, 2, 2)), np.zeros((2, 1)), "2-D"),
            (np.array([["a"], ["b"]]), np.zeros((2, 1)), "2-D array of numbers"),
            ("ab", np.zeros((2, 1)), "DataFrame"),
            (np.zeros((2, 1)), pd.DataFrame({(1, 2): [1, 0]}), "names that are str or int"),
        ],
    )
    def test_a_mini_batch_of_the_wrong_kind_or_shape_is_refused_whole(self, x, y, says):
        model = self.model()
        with pytest.raises(BadBatch, match=says):
            model.learn_many(x, y)
        assert (model.n_learned, model.n_refused) == (1, 0)

    @pytest.mark.parametrize(
        ("x", "y", "says"),
        [
            ([1.0], {"x"}, "a dict of features"),
            ({"a": 1.0}, "x", "labels"),
            ({"a": 1}, {(1,): True}, "names"),
        ],
    )
    def test_what_is_no_row_is_refused(self, x, y, says):
        with pytest.raises(BadBatch, match=says):
            self.model().learn_one(x, y)

    @pytest.mark.parametrize(
        "options",
        [
            {"decision": "best"},
            {"partition": "kmeans"},
            {"clusters_for": "fun"},
            {"n_min": 130},
            {"without": {"thresholds"}},
            {"learning_rate": 0.0},
            {"partition": [{"a"}, {"a", "b"}]},
            {"max_cluster_size": 1},
            {"split_test": "coin"},
            {"decay": 0.0},
        ],
    )
    def test_options_that_do_not_exist_are_refused(self, options):
        with pytest.raises(ValueError, match=r"expected|disjoint"):
            IHOMER(**options)


def test_parts_that_are_left_out_say_nothing():
    rng = np.random.default_rng(5)
    sorted_by_label = Labelled(rng.normal(size=(600, 5)), np.repeat(np.eye(6, dtype=np.uint8), 100, 0))
    whole = scores(prequential(IHOMER(), sorted_by_label), sorted_by_label.y)["micro"]
    blind = IHOMER(without={"persistence"})
    assert whole > scores(prequential(blind, sorted_by_label), sorted_by_label.y)["micro"] + 0.3
    stream = made(4, 300)
    model = IHOMER(without={"replay", "near", "scaling", "stacker", "joint", "before"})
    for x, y in dicts(stream):
        model.learn_one(x, y)
    ensemble = model._core.ensemble
    assert not ensemble.blocks[1].w.any()
    assert ensemble.blocks[0].w.any()
    assert not ensemble._clipped[3].any()
    assert not model._core.moments.n.any()
    assert model._core.decision._stand_f1.tolist() == [True, True, False, False, False, False]


def test_river_can_score_and_pipe_it():
    metric = metrics.multioutput.ExactMatch()
    model = IHOMER()
    for x, y in Music().take(100):
        said = model.predict_one(x)
        metric.update(y, {label: said.get(label, False) for label in y})
        model.learn_one(x, y)
    assert 0.0 < metric.get() < 1.0


def test_it_names_its_parts(yeast):
    model = IHOMER(ensemble=False, tree=True, tau=2.0)
    model.learn_many(yeast.x[:1500], yeast.y[:1500])
    summary = model.summary
    assert summary["n_learned"] == 1500
    assert summary["n_labels"] == 14
    assert summary["n_clusters"] == len(model.clusters) > 1
    assert summary["n_tree_leaves"] > 1
    assert model.render_ascii().count("\n") >= summary["n_clusters"]
    assert [event.kind for event in model.events].count("split") == summary["n_splits"]
    assert all(set(event.as_row()) == {"row", "kind", "before", "after"} for event in model.events)


def test_a_picture_of_the_clusters_is_drawn(yeast):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    model = IHOMER(ensemble=False)
    model.learn_many(yeast.x, yeast.y)
    figure, axes = plt.subplots()
    assert model.plot(axes) is axes
    assert len(axes.get_yticklabels()) == 14
    plt.close(figure)
