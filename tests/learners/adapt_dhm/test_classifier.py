"""The classifier: River's checks, labels that come late or never, what it keeps, and bad input."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks

from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
from headrace.streaming.learners.adapt_dhm.fields import Fields
from headrace.streaming.learners.adapt_dhm.noted import Noted
from headrace.streaming.learners.adapt_dhm.watch import Watch
from headrace.streaming.learners.errors import BadCheckpoint, WrongFeatures

GOLDEN = Path(__file__).parent / "golden"
CROSSES = (("user", "shop"),)
SMALL = {"rows": 500, "contexts": 100, "clusters": 8, "hidden": (8,)}


@pytest.fixture
def _river_data(monkeypatch):
    # river's checks import scikit-learn for data sets of multi-output regressors, which no check of a classifier reads.
    if importlib.util.find_spec("sklearn") is None:
        package = types.ModuleType("sklearn")
        package.__spec__ = importlib.machinery.ModuleSpec("sklearn", None)
        package.datasets = types.ModuleType("sklearn.datasets")
        monkeypatch.setitem(sys.modules, "sklearn", package)


@pytest.mark.usefixtures("_river_data")
@pytest.mark.parametrize("routing", ["lar", "reference"])
def test_river_takes_it_for_an_estimator(routing):
    checks.check_estimator(AdaptDHMClassifier(routing=routing, **(SMALL | {"clusters": 8})))


def stream(**options) -> AdaptDHMClassifier:
    chosen = {
        "ids": ("user", "item", "shop"),
        "numbers": ("price",),
        "context": ("user", "shop"),
        "domain": "shop",
    }
    return AdaptDHMClassifier(**(chosen | SMALL | {"window": 10.0, "group": "user", "seed": 5} | options))


def views(n: int, at: float, seed: int = 0, prefix: str = "") -> tuple[pa.RecordBatch, np.ndarray]:
    """Impressions at one time, and who clicks: users of an item's parity."""
    rng = np.random.default_rng([seed, int(at * 1000)])
    user, item = rng.integers(0, 30, n), rng.integers(0, 12, n)
    batch = pa.record_batch(
        {
            "event_id": [f"{prefix}{at}-{number}" for number in range(n)],
            "event_time": np.full(n, at),
            "user": user,
            "item": pa.array([f"item {number}" for number in item]).dictionary_encode(),
            "shop": [f"shop {number % 3}" for number in user],
            "price": rng.normal(20, 5, n),
        }
    )
    return batch, (user + item) % 2 == 1


def clicked(batch: pa.RecordBatch, which: np.ndarray) -> pa.Array:
    return batch.column("event_id").filter(pa.array(which))


def play(model: AdaptDHMClassifier, start: int, stop: int, each=lambda turn, resolved: None) -> None:
    """Turns of 80 views; clicks come three turns later; whatever is shown is resolved ten later."""
    for turn in range(start, stop):
        batch, _ = views(80, turn)
        model.show(batch)
        if turn >= 3:
            earlier, wanted = views(80, turn - 3)
            model.click(clicked(earlier, wanted))
        each(turn, model.resolve(turn))
        model.version += 1


def test_it_learns_from_a_stream_and_scores_what_was_predicted_then():
    model, noted = stream(), {}
    hits: list[bool] = []

    def look(turn, resolved):
        for event, score, version, label in zip(
            resolved.rows.event[:, 0],
            resolved.rows.scores[:, 0],
            resolved.rows.version,
            resolved.rows.clicked,
            strict=True,
        ):
            assert noted.pop(int(event)) == (score, version)
            assert version <= turn - 10
            if turn > 120:
                hits.append((score > 0.5) == (label > 0))

    for turn in range(150):
        batch, _ = views(80, turn)
        before = model.predict(model.fields.arrow(batch))
        said = model.show(batch)
        np.testing.assert_array_equal(before, said)  # the model of its arrival
        waiting = model.pending.all()
        for event, score in zip(waiting.event[-80:, 0].tolist(), said, strict=True):
            noted[event] = (score, model.version)
        if turn >= 3:
            earlier, wanted = views(80, turn - 3)
            assert model.click(clicked(earlier, wanted)) == []
        look(turn, model.resolve(turn))
        model.version += 1
    assert np.mean(hits) > 0.9
    counts = model.pending.counts
    assert counts.shown == 150 * 80 == counts.resolved + model.pending.waiting
    assert model.n_learned == counts.resolved


def test_permuted_labels_teach_nothing():
    model, scores, labels = stream(), [], []
    rng = np.random.default_rng(0)
    for turn in range(60):
        batch, _ = views(200, turn)
        model.show(batch)
        model.click(clicked(batch, rng.random(200) < 0.4))
        rows = model.resolve(turn).rows
        scores.append(rows.scores[:, 0])
        labels.append(rows.clicked)
    score, label = np.concatenate(scores), np.concatenate(labels)
    below = (score[label == 0][:, None] < score[label == 1]).mean()
    assert below == pytest.approx(0.5, abs=0.02)


def test_a_prediction_of_an_unpublished_version_is_refused():
    model = stream()
    model.publish()
    snapshot = AdaptDHMClassifier.from_bytes(model.to_bytes())
    snapshot.version = 2
    noted = Noted.from_bytes(snapshot.note(views(5, 0)[0]).to_bytes())
    with pytest.raises(ValueError, match="it may have learnt what it is to be scored on"):
        model.take(noted)
    model.publish()
    model.take(noted)
    assert model.pending.waiting == 5


def test_a_snapshot_elsewhere_notes_what_the_learner_itself_would_have():
    model, other = stream(), stream()
    for turn in range(6):
        snapshot = AdaptDHMClassifier.from_bytes(model.to_bytes())
        batch, wanted = views(40, turn)
        before = snapshot.to_bytes()
        noted = snapshot.note(batch)
        assert snapshot.to_bytes() == before
        model.take(Noted.from_bytes(noted.to_bytes()))
        other.show(batch)
        for each in (model, other):
            each.click(clicked(batch, wanted))
            each.resolve(turn + 8)
    assert model.to_bytes() == other.to_bytes()


def test_labels_without_impressions_and_the_reverse_and_twice():
    model = stream()
    batch, wanted = views(50, 0)
    assert model.click(pa.array(["nobody"])) == [0]
    model.show(batch)
    model.show(batch)  # delivered again
    model.show(pa.concat_batches([views(3, 1)[0], views(3, 1)[0]]))
    ids = clicked(batch, wanted)
    model.click(ids)
    model.click(ids)
    model.click(pa.array([None, "0-0 "]))
    counts = model.pending.counts
    assert (counts.shown, counts.shown_twice, counts.clicked) == (53, 53, wanted.sum())
    assert (counts.repeated, counts.late, counts.no_id) == (wanted.sum(), 2, 1)
    rows = model.resolve(10.0).rows
    assert len(rows.time) == 50
    assert rows.clicked.sum() == wanted.sum()
    assert model.click(ids) == list(range(len(ids)))  # beyond the horizon: given back
    assert counts.late == 2 + len(ids)
    assert model.resolve(11.0).rows.clicked.sum() == 0


def test_what_waits_never_exceeds_its_capacity_and_a_person_can_be_forgotten():
    model = stream(capacity=100)
    for turn in range(3):
        model.show(views(80, turn)[0])
        model.resolve(turn)
        assert model.pending.waiting <= 100
    assert model.pending.counts.cut_short == 140
    user = views(80, 2)[0].column("user")[0].as_py()
    held = model.pending.all()
    gone, had_row = model.forget(user, "user")
    assert gone == int((held.keys[:, 0, 0] == user).sum()) > 0
    assert had_row
    assert not (model.pending.all().keys[:, 0, 0] == user).any()
    assert model.model.table.find(held.keys[held.keys[:, 0, 0] == user])[0, 0] == 0
    assert model.forget(user, "user") == (0, False)
    counts = model.pending.counts
    assert counts.shown == counts.resolved + model.pending.waiting
    with pytest.raises(ValueError, match="among the ids"):
        model.forget(user, "age")


def test_a_forgotten_negative_that_was_to_be_learnt_at_once_is_not_learnt():
    model = stream(delay="now")
    batch, _ = views(80, 0)
    user = batch.column("user")[0].as_py()
    model.show(batch)
    others = 80 - batch.column("user").to_pylist().count(user)
    model.forget(user, "user")
    model.resolve(0.0)
    assert model.n_learned == others


@pytest.mark.parametrize("delay", ["wait", "now"])
def test_delayed_feedback_converges_to_the_true_rate(delay):
    """20 % click, after a delay; learning pending views as they are would end below."""
    rng = np.random.default_rng(3)
    model = AdaptDHMClassifier(
        ids=("page",), routing="none", window=30.0, delay=delay, lr=2e-3, rows=50, hidden=(4,), seed=1
    )
    due: dict[int, list[str]] = {}
    served = []
    for turn in range(900):
        names = [f"{turn}-{n}" for n in range(60)]
        batch = pa.record_batch(
            {"event_id": names, "event_time": np.full(60, float(turn)), "page": np.zeros(60, np.int64)}
        )
        served.append(float(model.show(batch)[0]))
        for name in np.array(names)[rng.random(60) < 0.2]:
            due.setdefault(turn + int(rng.integers(0, 28)), []).append(str(name))
        model.click(pa.array(due.pop(turn, []), pa.string()))
        model.resolve(float(turn))
    assert np.mean(served[-300:]) == pytest.approx(0.2, abs=0.015)


def test_without_the_weights_an_immediate_negative_would_be_biased():
    """The control of the test above: clicks learnt once as 0 and once as 1 end at p / (1 + p)."""
    model = AdaptDHMClassifier(ids=("page",), routing="none", lr=2e-3, rows=50, hidden=(4,), seed=1)
    rng, served = np.random.default_rng(3), []
    for _ in range(900):
        wanted = (rng.random(60) < 0.2).sum()
        page = {"page": np.zeros(60 + wanted, np.int64)}
        model.learn_many(pd.DataFrame(page), pd.Series([0] * 60 + [1] * wanted))
        served.append(model.predict_proba_one({"page": 0})[True])
    assert np.mean(served[-300:]) == pytest.approx(0.2 / 1.2, abs=0.01)


def test_fewer_negatives_and_the_rate_is_still_the_true_one():
    model = AdaptDHMClassifier(
        ids=("page",), routing="none", negative_rate=0.25, lr=2e-3, rows=50, hidden=(4,), seed=1
    )
    rng, served = np.random.default_rng(3), []
    for _ in range(600):
        frame = pd.DataFrame({"page": np.zeros(100, np.int64)})
        model.learn_many(frame, pd.Series(rng.random(100) < 0.1))
        served.append(model.predict_proba_one({"page": 0})[True])
    assert np.mean(served[-200:]) == pytest.approx(0.1, abs=0.01)
    assert model.n_learned == pytest.approx(600 * (10 + 90 * 0.25), rel=0.03)


def test_a_drift_raises_an_alarm_in_its_domain_and_the_rates_with_it():
    rng, watch = np.random.default_rng(0), Watch()
    for turn in range(60):
        loss = rng.exponential(0.4, 300)
        domains = rng.integers(0, 3, 300)
        if turn >= 40:
            loss[domains == 1] += 0.6
        raised = watch.feed(loss, domains)
        assert raised in ([], [1]) if turn >= 40 else not raised
    assert watch.alarms[1] >= 1
    assert watch.alarms.sum() == watch.alarms[1]
    assert 1.0 < watch.faster <= 1.5
    watch.feed(np.zeros(30_000), np.zeros(30_000, np.int64))
    assert watch.faster == 1.0


def test_losses_count_the_same_however_they_are_cut():
    rng = np.random.default_rng(1)
    losses, domains = rng.exponential(0.5, 5_000), rng.integers(0, 70, 5_000)
    whole, cut = Watch(), Watch()
    whole.feed(losses, domains)
    for start in range(0, 5_000, 37):
        cut.feed(losses[start : start + 37], domains[start : start + 37])
    for a, b in zip(whole.adwins, cut.adwins, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"field_gates": True, "crosses": CROSSES},
        {"routing": "reference"},
        {"routing": "none"},
        {"delay": "now"},
    ],
    ids=["lar", "reference", "none", "now"],
)
def test_killed_at_twenty_points_it_ends_where_it_would_have(options, tmp_path):
    whole = stream(**options)
    play(whole, 0, 40)
    model, path = stream(**options), tmp_path / "model"
    rng, at = np.random.default_rng(1), 0
    for stop in sorted(rng.choice(np.arange(1, 40), 20, replace=False).tolist()):
        play(model, at, stop)
        model.save(path)
        play(model, stop, stop + 1)  # lost with the process
        model, at = AdaptDHMClassifier.load(path), stop
    play(model, at, 40)
    assert model.to_bytes() == whole.to_bytes()


def golden_model() -> AdaptDHMClassifier:
    model = stream(rows=120, contexts=40, crosses=CROSSES)
    play(model, 0, 12)
    return model


@pytest.mark.parametrize("format_", [1, 2, 3])  # 1 has no crosses
def test_checkpoints_of_each_format_stay_readable(format_):
    model = AdaptDHMClassifier.from_bytes((GOLDEN / f"format{format_}.safetensors").read_bytes())
    assert (model.n_learned, model.version, model.pending.waiting) == (160, 12, 800)
    assert model.crosses == (None if format_ == 1 else CROSSES)
    said = model.predict(model.fields.arrow(views(5, 99)[0]))
    expected = np.loadtxt(GOLDEN / f"format{format_}.txt", dtype=np.float32)
    np.testing.assert_allclose(said, expected, atol=1e-5)
    play(model, 12, 14)
    assert model.n_learned == 320


def test_scores_that_once_counted_by_their_fields_values_alone_say_the_same():
    model = AdaptDHMClassifier.from_bytes((GOLDEN / "format2_users.safetensors").read_bytes())
    assert model.context == ("user",)
    assert model.model.table.factors[0, 0] == 10  # it was 10 * 64 / 284
    said = model.predict(model.fields.arrow(views(5, 99)[0]))
    np.testing.assert_allclose(said, np.loadtxt(GOLDEN / "format2_users.txt", dtype=np.float32), atol=2e-6)
    batch, wanted = views(80, 100)
    model.learn_arrow(batch.append_column("clicked", pa.array(wanted.astype(np.int8))), "clicked")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_whole(data):
    good = (GOLDEN / "format1.safetensors").read_bytes()
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(8, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    try:
        found = AdaptDHMClassifier.from_bytes(bad)
    except BadCheckpoint:
        return
    # A flip inside the header may spell another valid parameter; what was learnt is what it was.
    assert (
        hashlib.sha256(found.model.table.store.arrays.fp32).digest()
        == hashlib.sha256(AdaptDHMClassifier.from_bytes(good).model.table.store.arrays.fp32).digest()
    )


def test_a_checkpoint_of_another_schema_is_refused():
    data = stream().to_bytes()
    with pytest.raises(BadCheckpoint, match="another program"):
        AdaptDHMClassifier.from_bytes(b"something else")
    with pytest.raises(BadCheckpoint, match="expected 'adapt-dhm'"):
        AdaptDHMClassifier.from_bytes(data.replace(b"adapt-dhm", b"other-dhm"))
    with pytest.raises(BadCheckpoint, match="format 3 or earlier"):
        AdaptDHMClassifier.from_bytes(data.replace(b'\\"format\\":3', b'\\"format\\":9'))
    assert stream().to_bytes() == data


@pytest.mark.parametrize(
    "options", [{"context": ("age",)}, {"domain": "age"}, {"crosses": (("user", "age"),)}], ids=str
)
def test_what_is_no_id_is_refused_by_name(options):
    with pytest.raises(ValueError, match="among the ids user, item, shop, came 'age'"):
        stream(**options)


def test_unknown_and_missing_fields_and_ids_of_any_type():
    model = stream(domain=None)
    for number in range(30):
        model.learn_one({"user": number % 3, "item": "a", "shop": 1.5, "price": number}, number % 3 == 0)
    usual = model.predict_proba_one({"user": 1, "item": "a", "shop": 1.5, "price": 3.0})[True]
    assert (
        model.predict_proba_one({"user": 1.0, "item": "a", "shop": 1.5, "price": 3, "more": [1]})[True]
        == usual
    )
    odd = [
        {},
        {"user": None, "item": float("nan"), "price": "dear"},
        {"user": [1], "item": b"a", "shop": 2**70},
    ]
    for row in odd:
        p = model.predict_proba_one(row)
        assert 0 < p[True] < 1
        assert p[True] + p[False] == pytest.approx(1)
        model.learn_one(row, True)
    assert model.n_missing > 5
    model.learn_one({"user": 1}, None)
    model.learn_one({"user": 1}, float("nan"))
    assert model.n_unlabelled == 2
    assert model.n_learned == 33
    with pytest.raises(WrongFeatures, match="shop, price is not among"):
        model.learn_arrow(pa.record_batch({"user": [1], "item": [2], "y": [1]}), "y")
    with pytest.raises(WrongFeatures, match="expected a column 'y'"):
        model.learn_arrow(pa.record_batch({"user": [1]}), "y")


def test_columns_and_rows_are_the_same_events():
    batch, wanted = views(60, 0)
    named = batch.select(["user", "item", "shop", "price"])
    by_arrow, by_frame, by_row = (
        stream(domain=None),
        stream(domain=None),
        Fields(("user", "item", "shop"), ("price",)),
    )
    by_arrow.learn_arrow(named.append_column("y", pa.array(wanted.astype(np.int8))), "y")
    by_frame.learn_many(named.to_pandas(), pd.Series(wanted))
    assert by_arrow.to_bytes() == by_frame.to_bytes()
    np.testing.assert_array_equal(by_row.rows(named.to_pylist()).keys, by_row.arrow(named).keys)
    nulls = pa.record_batch(
        {
            "user": pa.array([None, 3]),
            "item": pa.array(["a", None]),
            "shop": pa.array([1, 1]),
            "price": [None, 2.0],
        }
    )
    assert by_row.arrow(nulls).missing == 3
    np.testing.assert_array_equal(by_row.rows(nulls.to_pylist()).keys, by_row.arrow(nulls).keys)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delay": "later"}, "delay wait or now"),
        ({"negative_rate": 0.0}, "negative_rate in"),
        ({"delay": "now", "negative_rate": 0.5}, "may still be clicked"),
        ({"context": ("where",)}, "'where'"),
        ({"domain": "price"}, "'price'"),
        ({"window": -1.0}, "window >= 0"),
        ({"ids": ("a", "a")}, "distinct fields"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        stream(**options)
