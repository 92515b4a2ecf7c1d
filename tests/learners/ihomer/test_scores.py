"""Metrics, baselines and the prequential runner: what they count, and that they agree with a recount from all rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import metrics

from headrace.streaming.learners.ihomer.metrics import ExampleF1, HammingLoss, PrecisionAtK
from headrace.streaming.learners.ihomer.model import IHOMER
from headrace.streaming.learners.ihomer.prequential import LabelScores, run
from headrace.streaming.learners.ihomer.trivial import MajorityLabelset, NoChange

from .conftest import made, scores

ROWS = st.lists(st.tuples(*[st.lists(st.booleans(), min_size=3, max_size=3)] * 2), min_size=1, max_size=30)


def named(values: list[bool]) -> dict[str, bool]:
    return dict(zip("abc", values, strict=True))


@given(rows=ROWS)
def test_scores_equal_a_recount(rows):
    hamming, example, kept = HammingLoss(), ExampleF1(), LabelScores()
    exact, macro = metrics.multioutput.ExactMatch(), metrics.multioutput.MicroAverage(metrics.F1())
    for true, said in rows:
        for metric in (hamming, example, exact, macro):
            metric.update(named(true), named(said))
        kept.add(named(true), named(said))
    y, p = (np.array([row[k] for row in rows]).astype(np.uint8) for k in (0, 1))
    both, size = (y & p).sum(1), y.sum(1) + p.sum(1)
    found, expected = kept.as_dict(), scores(p, y)
    assert hamming.get() == pytest.approx(expected["hamming"]) == found["hamming_loss"]
    assert example.get() == pytest.approx(np.where(size > 0, 2 * both / np.maximum(size, 1), 1.0).mean())
    assert example.get() == pytest.approx(found["example_f1"])
    assert exact.get() == pytest.approx(expected["subset"]) == found["subset_accuracy"]
    assert macro.get() == pytest.approx(expected["micro"]) == found["micro_f1"]


def test_an_empty_row_predicted_empty_scores_what_was_agreed():
    for convention in (0.0, 1.0):
        metric = ExampleF1(zero_division=convention)
        metric.update({"a": False}, {})
        assert metric.get() == convention


def test_a_label_that_is_not_known_is_not_scored():
    metric = HammingLoss()
    metric.update({"a": None, "b": True}, {"a": True, "b": False})
    assert metric.get() == 1.0
    metric.revert({"a": None, "b": True}, {"a": True, "b": False})
    assert metric.get() == 0.0
    assert metric.works_with(NoChange())
    assert not metric.bigger_is_better


def test_precision_at_k_looks_at_the_first_k():
    metric = PrecisionAtK(k=2)
    metric.update({"a": True, "b": False, "c": True}, {"a": {True: 0.9}, "b": {True: 0.5}, "c": {True: 0.1}})
    assert metric.get() == 0.5
    metric.update({"a": True}, {"a": {True: 0.9}, "b": {True: 0.95}})
    assert metric.get() == 0.5
    with pytest.raises(ValueError, match="k >= 1"):
        PrecisionAtK(k=0)


def test_the_trivial_models_do_what_they_say():
    stay, most = NoChange(), MajorityLabelset()
    assert stay.predict_one({}) == most.predict_one({}) == {}
    for y in ({"a": True, "b": False}, {"a": True, "b": False}, {"b": True}):
        for model in (stay, most):
            model.learn_one({}, y)
    assert stay.predict_one({}) == {"a": False, "b": True}
    assert most.predict_one({}) == {"a": True, "b": False}
    assert most.predict_proba_one({})["a"][True] == pytest.approx(2 / 3)


def test_the_runner_scores_before_it_learns_and_windows_add_up():
    stream = made(30, 250)
    rows = [(dict(enumerate(x)), {i: bool(v) for i, v in enumerate(y)}) for x, y in zip(stream.x.tolist(), stream.y.tolist(), strict=True)]  # fmt: skip
    model, said = IHOMER(), np.zeros_like(stream.y)
    for at, (x, y) in enumerate(rows):
        for label, on in model.predict_one(x).items():
            said[at, label] = on
        model.learn_one(x, y)
    windows = list(run(rows, IHOMER(), window=100))
    assert [window["rows"] for window in windows] == [100, 100, 50]
    for at, window in enumerate(windows):
        part = slice(at * 100, at * 100 + 100)
        assert window["micro_f1"] == pytest.approx(scores(said[part], stream.y[part])["micro"])
        assert window["subset_accuracy"] == pytest.approx(scores(said[part], stream.y[part])["subset"])
    assert windows[-1]["micro_f1"] > windows[0]["micro_f1"]


def test_sets_of_labels_are_truth_about_all_labels_known():
    windows = list(run([({}, {"a"}), ({}, {"b"})], NoChange()))
    assert windows[0]["hamming_loss"] == pytest.approx((1.0 + 1.0) / 2)
