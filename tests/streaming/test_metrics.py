"""Prequential metrics against exact ones, within the bound they state themselves."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.errors import StreamingError
from headrace.streaming.metrics import BINS, BadMetrics, Duel, Prequential, Score, bins_of


def exact_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Every pair, by definition."""
    positives, negatives = scores[labels == 1].astype(float), scores[labels == 0].astype(float)
    above = (positives[:, None] > negatives[None, :]).sum() + 0.5 * (
        positives[:, None] == negatives[None, :]
    ).sum()
    return float(above / (len(positives) * len(negatives)))


def sample(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = (1 / (1 + np.exp(-rng.normal(-2, 1.5, n)))).astype(np.float32)
    return scores, (rng.random(n) < scores).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_auc_and_log_loss_are_exact_within_the_stated_bound(seed):
    scores, labels = sample(seed)
    score = Score()
    score.update(scores, labels)
    assert abs(score.auc - exact_auc(scores, labels)) <= score.auc_error < 0.002
    p = scores.astype(np.float64)
    assert score.log_loss == pytest.approx(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))
    assert score.calibration == pytest.approx(p.sum() / labels.sum())
    assert score.rows == len(labels)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.1, 0.1001]), st.integers(0, 1)), max_size=60
    )
)
def test_the_bound_holds_for_any_scores(rows):
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    labels = np.array([label for _, label in rows], dtype=np.uint8)
    score = Score()
    score.update(scores, labels)
    if 0 < labels.sum() < len(labels):
        assert abs(score.auc - exact_auc(scores, labels)) <= score.auc_error + 1e-12
    else:
        assert score.auc is None
        assert score.auc_error is None
    assert score.log_loss is None or np.isfinite(score.log_loss)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_bins_never_fall_as_scores_rise(scores):
    place, _ = bins_of(np.array(sorted(scores), dtype=np.float32))
    assert (np.diff(place) >= 0).all()
    assert place.min() >= 0
    assert place.max() < BINS


def test_before_the_first_row_there_is_nothing_to_say():
    assert set(Score().summary().values()) == {None}
    assert Prequential().row()["window"] is None


def fill(metrics: Prequential, seed: int, cuts: list[int], domains: bool = True) -> None:
    scores, labels = sample(seed, 500)
    names = pa.array(np.random.default_rng(seed).choice(["ski", "see", None], 500))
    edges = [0, *sorted(cuts), 500]
    for start, stop in itertools.pairwise(edges):
        part = names.slice(start, stop - start) if domains else None
        metrics.update(scores[start:stop], scores[::-1][start:stop], labels[start:stop], part)


def rounded(value):
    """Sums of floats depend on how they were grouped, in their last bits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return (
        [rounded(inner) for inner in value]
        if isinstance(value, list)
        else (round(value, 9) if isinstance(value, float) else value)
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 500), max_size=5))
def test_how_rows_are_cut_into_updates_changes_nothing(cuts):
    whole, parts = Prequential(window_rows=120), Prequential(window_rows=120)
    fill(whole, 1, [])
    fill(parts, 1, cuts)
    assert rounded(parts.to_dict()) == rounded(whole.to_dict())


def test_windows_hold_exactly_their_rows():
    scores, labels = sample(2, 250)
    metrics = Prequential(window_rows=100)
    metrics.update(scores, scores, labels)
    assert metrics.windows == 2
    last = metrics.row()["window"]
    alone = Duel()
    alone.update(scores[100:200], scores[100:200], labels[100:200])
    assert rounded(last) == rounded({"window": 1, **alone.summary()})
    assert metrics.row()["rows"] == 250


def test_domains_are_kept_apart_and_are_bounded():
    metrics = Prequential(max_domains=2)
    names = pa.array(["b", "a", None, "a", "c", "d"])
    metrics.update(
        *(np.full(6, p, np.float32) for p in (0.5, 0.1)), np.array([1, 0, 1, 1, 0, 1], np.uint8), names
    )
    row = metrics.row()
    assert {name: (d["rows"], d["positives"]) for name, d in row["domains"].items()} == {
        "a": (2, 1),
        "b": (1, 1),
        "(other)": (2, 1),
    }
    assert row["rows"] == 6
    assert row["model"]["log_loss"] < row["baseline"]["log_loss"]


def test_the_state_goes_through_json_and_comes_back():
    metrics = Prequential(window_rows=120, max_domains=3)
    fill(metrics, 3, [77])
    restored = Prequential.from_dict(json.loads(json.dumps(metrics.to_dict())))
    assert restored.to_dict() == metrics.to_dict()
    assert restored.row() == metrics.row()
    fill(metrics, 4, [])
    fill(restored, 4, [])
    assert restored.to_dict() == metrics.to_dict()


def test_two_scores_merge_into_one():
    a, b, both = Score(), Score(), Score()
    for part, seed in ((a, 5), (b, 6)):
        part.update(*sample(seed))
        both.update(*sample(seed))
    a.merge(b)
    assert rounded(a.to_dict()) == rounded(both.to_dict())


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"bins": [[1, 2]], "loss": 0.0, "predicted": 0.0},
        {"bins": [[BINS, 1, 1]], "loss": 0.0, "predicted": 0.0},
        {"bins": [[-1, 1, 1]], "loss": 0.0, "predicted": 0.0},
        {"bins": [[1, -1, 1]], "loss": 0.0, "predicted": 0.0},
        {"bins": [], "loss": "much", "predicted": 0.0},
    ],
)
def test_states_of_something_else_are_refused(data):
    with pytest.raises(BadMetrics):
        Score.from_dict(data)
    with pytest.raises(BadMetrics):
        Prequential.from_dict(data)
    with pytest.raises(BadMetrics):
        Duel.from_dict(data)
    assert issubclass(BadMetrics, StreamingError)


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="window_rows"):
        Prequential(window_rows=0)
