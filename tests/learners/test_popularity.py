"""The baseline: counts that can be checked by hand."""

import numpy as np
import pytest

from headrace.streaming.learners.checkpoint import State, dump, load
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.popularity import Popularity


def learnt() -> Popularity:
    model = Popularity(bits=3, strength=2.0)
    model.learn_hashed(np.array([1, 1, 1, 5], np.uint32), np.array([1, 0, 1, 0], np.uint8))
    return model


def test_the_rate_is_smoothed_towards_the_overall_one():
    overall = (2 + 1) / (4 + 2)
    served = learnt().predict_hashed(np.array([1, 5, 0], np.uint32))
    assert served.dtype == np.float32
    assert served == pytest.approx([(2 + 2 * overall) / 5, (0 + 2 * overall) / 3, overall])


def test_before_the_first_row_it_says_a_half():
    assert Popularity().predict_hashed(np.array([7], np.uint32)).tolist() == [0.5]


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    items, labels = rng.integers(0, 8, 500).astype(np.uint32), rng.integers(0, 2, 500).astype(np.uint8)
    once, shuffled, order = Popularity(3), Popularity(3), rng.permutation(500)
    once.learn_hashed(items, labels)
    shuffled.learn_hashed(items[order], labels[order])
    every = np.arange(8, dtype=np.uint32)
    assert np.array_equal(once.predict_hashed(every), shuffled.predict_hashed(every))


def test_learning_tells_what_it_would_have_said_row_by_row():
    rng = np.random.default_rng(1)
    items, labels = rng.integers(0, 8, 300).astype(np.uint32), rng.integers(0, 2, 300).astype(np.uint8)
    rows, once = Popularity(3, strength=3.0), Popularity(3, strength=3.0)
    expected = []
    for start in range(300):
        row = slice(start, start + 1)
        expected.append(rows.predict_hashed(items[row])[0])
        rows.learn_hashed(items[row], labels[row])
    told = np.concatenate(
        [once.learn_hashed(items[part], labels[part]) for part in (slice(0, 77), slice(77, 300))]
    )
    assert told.astype(np.float32).tolist() == expected
    assert once.learn_hashed(items[:0], labels[:0]).tolist() == []


def test_full_counts_are_halved_and_keep_their_rate():
    model = Popularity(bits=2)
    model.views[3], model.clicks[3] = 2**31 - 1, 2**30
    model.learn_hashed(np.array([3], np.uint32), np.array([0], np.uint8))
    assert (model.views[3], model.clicks[3]) == (2**30, 2**29)
    assert model.predict_hashed(np.array([3], np.uint32))[0] == pytest.approx(0.5)


def test_a_restored_baseline_is_the_same():
    model = learnt()
    restored = Popularity.from_state(load(dump(model.state(version=2)), "popularity"))
    assert np.array_equal(restored.views, model.views)
    assert np.array_equal(restored.clicks, model.clicks)
    assert (restored.n_learned, restored.n_clicks, restored.strength) == (4, 2, 2.0)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {name: np.zeros(1, np.uint32) for name in ("seen", "views")},
        {"seen": np.array([8], np.uint32), "views": np.zeros(1, np.uint32), "clicks": np.zeros(1, np.uint32)},
        {"seen": np.array([0], np.uint32), "views": np.zeros(2, np.uint32), "clicks": np.zeros(2, np.uint32)},
    ],
)
def test_states_of_something_else_are_refused(arrays):
    with pytest.raises(BadCheckpoint):
        Popularity.from_state(State("popularity", 0, 0, learnt().state().params, arrays))


@pytest.mark.parametrize("arguments", [{"bits": 0}, {"strength": 0.0}])
def test_impossible_hyper_parameters_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        Popularity(**arguments)


def test_rows_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="of one length"):
        learnt().learn_hashed(np.array([1], np.uint32), np.array([1, 0], np.uint8))
