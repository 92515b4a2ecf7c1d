"""Checkpoints: plain data, restored to the last bit, in every form the learner can take; earlier ones stay readable."""

from pathlib import Path

import numpy as np
import pytest

from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.ihomer import state
from headrace.streaming.learners.ihomer.model import IHOMER

from .conftest import made
from .test_model import FORMS

GOLDEN = Path(__file__).parent / "golden"


def drifting(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose labels change their meaning half way, so that backgrounds, alternates and events are part of the state."""
    before, after = made(seed, 700), made(seed + 100, 300)
    return np.concatenate([before.x, after.x]), np.concatenate([before.y, after.y])


@pytest.mark.parametrize("form", FORMS)
def test_a_restored_learner_goes_on_as_the_kept_one_would(form):
    x, y = drifting(1)
    model = IHOMER(**FORMS[form])
    model.learn_many(x[:860], y[:860])
    kept = model.to_bytes()
    restored = IHOMER.from_bytes(kept)
    assert restored.to_bytes() == kept
    assert restored._get_params() == model._get_params()
    for each in (model, restored):
        each.learn_many(x[860:], y[860:])
    assert restored.to_bytes() == model.to_bytes() != kept
    assert (restored.predict_proba_many(x[:50]) == model.predict_proba_many(x[:50])).all(axis=None)
    assert restored.clusters == model.clusters
    assert restored.summary == model.summary
    assert restored.events == model.events


def test_an_empty_learner_and_one_with_given_clusters_are_kept_too():
    assert IHOMER.from_bytes(IHOMER(seed=3).to_bytes())._get_params() == IHOMER(seed=3)._get_params()
    model = IHOMER(partition=[{"a", "b"}, {"c"}], clusters_for="conditional")
    for at in range(60):
        model.learn_one({"x": float(at % 2)}, {"a": at % 2 == 0, "b": True, "c": at % 3 == 0, "d": False})
    restored = IHOMER.from_bytes(model.to_bytes())
    assert restored.clusters == model.clusters == [{"a", "b"}, {"c"}, {"d"}]
    assert restored.to_bytes() == model.to_bytes()


def test_refused_rows_and_counters_are_kept():
    model = IHOMER()
    model.learn_one({"a": 1.0}, {"x"})
    model.learn_one({"a": float("inf")}, {"x"})
    restored = IHOMER.from_bytes(model.to_bytes())
    assert (restored.n_learned, restored.n_refused, list(restored.refused)) == (1, 1, list(model.refused))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_checkpoints_of_earlier_formats_stay_readable(path):
    """Each was written after 120 rows of `made(42, 200, 4, 3)`; the others are learnt, and the whole has to come out the same."""
    model = IHOMER.from_bytes(path.read_bytes())
    stream = made(42, 200, 4, 3)
    assert model.n_learned == 120
    fresh = IHOMER(**model._get_params())
    fresh.learn_many(stream.x[:120], stream.y[:120])
    for each in (model, fresh):
        each.learn_many(stream.x[120:], stream.y[120:])
    p, q = (each.predict_proba_many(stream.x).to_numpy() for each in (model, fresh))
    assert np.allclose(p, q, atol=1e-5)
    assert model.clusters == fresh.clusters


def test_there_is_a_golden_checkpoint_of_the_format_as_it_is():
    versions = {checkpoint.load(path.read_bytes(), state.LEARNER).version for path in GOLDEN.glob("*.bin")}
    assert versions == set(range(1, state.VERSION + 1))


def test_bytes_that_are_damaged_or_of_something_else_are_refused():
    model = IHOMER(ensemble=False)
    model.learn_many(made(2, 50).x, made(2, 50).y)
    kept = model.to_bytes()
    rng = np.random.default_rng(2)
    for at in rng.integers(0, len(kept), 60):
        damaged = bytearray(kept)
        damaged[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(BadCheckpoint):
            IHOMER.from_bytes(bytes(damaged))
    with pytest.raises(BadCheckpoint):
        IHOMER.from_bytes(kept[:-1])
    whole = checkpoint.load(kept, state.LEARNER)
    newer = checkpoint.dump(checkpoint.State(state.LEARNER, state.VERSION + 1, 50, {}, whole.arrays))
    with pytest.raises(BadCheckpoint, match="newer release"):
        IHOMER.from_bytes(newer)
    missing = {name: array for name, array in whole.arrays.items() if name != "core.persist"}
    with pytest.raises(BadCheckpoint, match=r"core\.persist"):
        IHOMER.from_bytes(checkpoint.dump(checkpoint.State(state.LEARNER, state.VERSION, 50, {}, missing)))
