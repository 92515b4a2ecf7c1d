"""The click model: River's checks, the compiled kernel against the interpreted one, and what it promises."""

import importlib.util
import itertools
import math
import sys
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import base, checks

from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.click_model import ClickModel
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.ftrl import Ftrl, Rates, logit
from headrace.streaming.learners.kernels import learn_rows

RATES = [Rates(), Rates(alpha=0.5, beta=0.1, l1=0.7, l2=0.0)]


@pytest.fixture
def _river_data(monkeypatch):
    # river's checks import scikit-learn for data sets of multi-output regressors, which no check of a classifier reads.
    if importlib.util.find_spec("sklearn") is None:
        package = types.ModuleType("sklearn")
        package.datasets = types.ModuleType("sklearn.datasets")
        monkeypatch.setitem(sys.modules, "sklearn", package)


@pytest.mark.usefixtures("_river_data")
def test_river_takes_it_for_an_estimator():
    model = ClickModel()
    assert isinstance(model, base.MiniBatchClassifier)
    assert model._unit_test_skips() == set()
    checks.check_estimator(model)


def rows(seed: int, n: int = 300, width: int = 5, bits: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2**bits, (n, width), dtype=np.uint32)
    return ids, (rng.random(n) < 0.3).astype(np.uint8)


def same_state(a: Ftrl, b: Ftrl) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in ((a.z, b.z), (a.n, b.n), (a.weights, b.weights)))


@pytest.mark.parametrize("rates", RATES)
def test_the_compiled_kernel_equals_the_interpreted_one_to_the_last_bit(rates):
    ids, labels = rows(1)
    compiled, interpreted = Ftrl(5, rates), Ftrl(5, rates)
    compiled.learn(ids, labels)
    learn_rows(
        ids, labels, np.zeros(len(ids)), interpreted.z, interpreted.n, interpreted.weights, rates.as_tuple()
    )
    assert same_state(compiled, interpreted)
    assert compiled.weights.any()


def one_step(ids: list[int], label: int, state: dict[int, list[float]], rates: Rates) -> float:
    """McMahan et al., algorithm 1, with a dict for a table and float64 throughout; the bias is id -1."""
    touched = [*ids, -1]

    def weight(i: int) -> float:
        z, n = state.setdefault(i, [0.0, 0.0])
        l1 = 0.0 if i == -1 else rates.l1
        if abs(z) <= l1:
            return 0.0
        return -(z - math.copysign(l1, z)) / ((rates.beta + math.sqrt(n)) / rates.alpha + rates.l2)

    weights = [weight(i) for i in touched]
    p = 1 / (1 + math.exp(-sum(weights)))
    for i, w in zip(touched, weights, strict=True):
        z, n = state[i]
        g = p - label
        sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / rates.alpha
        state[i] = [z + g - sigma * w, n + g * g]
    return p


@pytest.mark.parametrize("rates", RATES)
def test_it_is_the_algorithm_of_the_paper(rates):
    rng = np.random.default_rng(2)
    ids = np.array([rng.permutation(32)[:5] for _ in range(300)], dtype=np.uint32)  # no id twice in a row
    labels = (rng.random(300) < 0.3).astype(np.uint8)
    model, state = ClickModel(5, rates.alpha, rates.beta, rates.l1, rates.l2), {}
    for row, label in zip(ids, labels, strict=True):
        served = model.predict_hashed(row[None, :])[0]
        assert served == pytest.approx(one_step(row.tolist(), int(label), state, rates), rel=2e-5)
        model.learn_hashed(row[None, :], label[None])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_many_rows_at_once_equal_one_after_the_other_to_the_last_bit(seed, cuts):
    ids, labels = rows(seed, n=60)
    once, parts = Ftrl(5), Ftrl(5)
    once.learn(ids, labels)
    edges = [0, *sorted(cuts), 60]
    for start, stop in itertools.pairwise(edges):
        parts.learn(ids[start:stop], labels[start:stop])
    assert same_state(once, parts)
    assert once.n_learned == parts.n_learned == 60


def test_learn_many_equals_learn_one_to_the_last_bit():
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "user": rng.choice(["ann", "bo", None], 80),
            "price": np.where(rng.random(80) < 0.2, np.nan, rng.random(80)),
            "new": rng.random(80) < 0.5,
            7: rng.integers(0, 5, 80),
        },
        index=range(100, 180),
    )
    labels = pd.Series(rng.random(80) < 0.4, index=table.index)
    many, one = ClickModel(bits=12), ClickModel(bits=12)
    many.learn_many(table, labels)
    for record, label in zip(table.to_dict("records"), labels, strict=True):
        one.learn_one(dict(reversed(record.items())), label)
    assert same_state(many._ftrl, one._ftrl)
    probabilities = many.predict_proba_many(table)
    assert probabilities.index.equals(table.index)
    assert probabilities[True].tolist() == [one.predict_proba_one(r)[True] for r in table.to_dict("records")]


def test_a_row_without_features_learns_the_base_rate():
    model = ClickModel()
    for number in range(1000):
        model.learn_one({}, number % 4 == 0)
    assert model.predict_proba_one({})[True] == pytest.approx(0.25, abs=0.02)
    assert np.count_nonzero(model.weights) == 1


def test_one_id_many_times_in_a_row_stays_tame():
    model = ClickModel(bits=4)
    ids = np.full((2000, 50), 3, dtype=np.uint32)
    labels = (np.arange(2000) % 5 == 0).astype(np.uint8)
    model.learn_hashed(ids, labels)
    assert np.isfinite(model.weights).all()
    assert 0.02 < model.predict_hashed(ids[:1])[0] < 0.6


def test_predictions_are_calibrated():
    rng = np.random.default_rng(4)
    effect = rng.normal(0, 1, 64)
    ids = rng.integers(0, 64, (30_000, 1)).astype(np.uint32)
    truth = 1 / (1 + np.exp(2 - effect[ids[:, 0]]))
    labels = (rng.random(30_000) < truth).astype(np.uint8)
    model = ClickModel(bits=6, alpha=0.5)
    model.learn_hashed(ids[:20_000], labels[:20_000])
    served = model.predict_hashed(ids[20_000:])
    assert served.mean() == pytest.approx(truth[20_000:].mean(), rel=0.05)
    high = served > np.median(served)
    assert served[high].mean() == pytest.approx(truth[20_000:][high].mean(), rel=0.07)
    assert np.abs(served - truth[20_000:]).mean() < 0.03


def test_l1_keeps_ids_without_evidence_at_zero():
    ids, labels = rows(5, n=200, width=1, bits=8)
    assert np.count_nonzero(ClickModel(bits=8).weights) == 0
    dense, sparse = ClickModel(bits=8), ClickModel(bits=8, l1=2.0)
    dense.learn_hashed(ids, labels)
    sparse.learn_hashed(ids, labels)
    assert np.count_nonzero(sparse.weights) < np.count_nonzero(dense.weights) / 4
    assert sparse.weights[-1] != 0  # the bias is not penalised


def test_sums_too_large_for_float32_to_grow_do_no_harm():
    model = Ftrl(1)
    ids, labels = np.zeros((1000, 1), dtype=np.uint32), (np.arange(1000) % 2).astype(np.uint8)
    model.learn(ids, labels)
    model.n[:] = 2.0**40  # adding a squared gradient changes nothing any more
    before = model.predict(ids[:1])[0]
    model.learn(ids, labels)
    assert model.predict(ids[:1])[0] == pytest.approx(before, abs=0.05)
    assert (model.n[:1] == 2.0**40).all()


def test_predicting_changes_nothing_and_ends_within_zero_and_one():
    ids, labels = rows(6)
    model = Ftrl(5, Rates(alpha=100.0, l2=0.0))
    model.learn(ids, np.ones_like(labels))
    model.weights[:] *= 1e6
    before = model.weights.copy()
    for sign in (1, -1):
        model.weights[:] = before * sign
        served = model.predict(ids)
        assert served.dtype == np.float32
        assert ((served > 0) & (served < 1)).all()
    assert np.array_equal(model.weights, -before)


def test_offsets_are_where_it_starts_from():
    ids, labels = rows(8)
    offsets = np.full(len(ids), -2.0)
    model = Ftrl(5)
    assert model.predict(ids, offsets) == pytest.approx(1 / (1 + np.exp(2.0)))
    assert logit(np.array([0.25], dtype=np.float32)) == pytest.approx([np.log(1 / 3)])
    model.learn(ids, labels, offsets)
    plain = Ftrl(5)
    plain.learn(ids, labels)
    assert model.weights[-1] > plain.weights[-1]  # it has to make up for what the offsets lack
    with pytest.raises(ValueError, match="expected offsets"):
        model.predict(ids, offsets[:3])
    with pytest.raises(ValueError, match="expected offsets"):
        model.learn(ids, labels, offsets.astype(np.float32))


@pytest.mark.parametrize("rates", RATES)
def test_a_restored_model_goes_on_to_the_last_bit(rates):
    ids, labels = rows(7)
    model = ClickModel(5, rates.alpha, rates.beta, rates.l1, rates.l2, seed=9)
    model.learn_hashed(ids[:150], labels[:150])
    model.version = 4
    restored = ClickModel.from_bytes(model.to_bytes())
    assert same_state(restored._ftrl, model._ftrl)
    assert (restored.version, restored.n_learned, restored.seed) == (4, 150, 9)
    assert repr(restored) == repr(model)
    model.learn_hashed(ids[150:], labels[150:])
    restored.learn_hashed(ids[150:], labels[150:])
    assert same_state(restored._ftrl, model._ftrl)
    assert restored.to_bytes() == model.to_bytes()


def test_a_checkpoint_lists_only_what_was_touched():
    model = ClickModel(bits=18)
    empty = len(model.to_bytes())
    model.learn_hashed(np.array([[1, 2, 3]], dtype=np.uint32), np.array([1], dtype=np.uint8))
    assert len(model.to_bytes()) == empty + 4 * 12  # three ids and the bias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {"bits": 5}}, "not a state"),
        ({"params": {"bits": 99, "alpha": 1.0, "beta": 1.0, "l1": 0.0, "l2": 0.0}}, "not a state"),
        ({"arrays": {}}, "not a state"),
        ({"z": np.zeros(3, dtype=np.float32)}, "equally long"),
        ({"touched": np.array([-1, 0], dtype=np.int64)}, "equally long"),
        ({"touched": np.array([0, 40], dtype=np.uint32)}, "lies beyond"),
    ],
)
def test_states_of_something_else_are_refused(changes, message):
    state = Ftrl(5).state("click_model")
    two = {"touched": np.array([0, 1], np.uint32), "z": np.ones(2, np.float32), "n": np.ones(2, np.float32)}
    arrays = changes.get("arrays", {**two, **{k: v for k, v in changes.items() if k in two}})
    data = checkpoint.dump(checkpoint.State("click_model", 0, 0, changes.get("params", state.params), arrays))
    with pytest.raises(BadCheckpoint, match=message):
        ClickModel.from_bytes(data)


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        (np.array([[32]], np.uint32), np.array([0], np.uint8)),
        (np.array([[0]], np.int64), np.array([0], np.uint8)),
        (np.array([0], np.uint32), np.array([0], np.uint8)),
        (np.array([[0]], np.uint32), np.array([2], np.uint8)),
        (np.array([[0]], np.uint32), np.array([0, 1], np.uint8)),
        (np.array([[0]], np.uint32), np.array([0.0])),
    ],
)
def test_rows_the_kernel_could_not_index_are_refused(ids, labels):
    model = ClickModel(bits=5)
    with pytest.raises(ValueError, match="expected"):
        model.learn_hashed(ids, labels)
    assert model.n_learned == 0
    assert not model.weights.any()


@pytest.mark.parametrize(
    "arguments", [{"bits": 0}, {"alpha": 0.0}, {"beta": 0.0}, {"l1": -1.0}, {"l2": math.nan}]
)
def test_impossible_hyper_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected|must"):
        ClickModel(**arguments)
