"""The whole way, hash → predict → join → score → learn, on a stream whose truth is known.

What would make every reported number worthless is a prediction by a model that has already learnt the answer, so
that is audited here, and the audit is shown to catch it.
"""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from headrace.streaming.joins import JoinedLabel
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.loop import Loop, LoopError, Snapshot, Task

TASK = Task(
    FeatureSpec(ids=("user", "item", "domain"), dense=("price",), bits=16, crosses=(("user", "domain"),)),
    JoinedLabel(window_us=10_000_000),
    item="item",
    domain="domain",
)
N_IMPRESSIONS = 60_000
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("kind", pa.string()),
        ("impression_id", pa.string()),
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("domain", pa.string()),
        ("price", pa.float32()),
        ("_offset", pa.int64()),
    ]
)


def stream(seed: int, permuted: bool) -> pa.RecordBatch:
    """Impressions, 100 a second, and for a tenth of them a click within five seconds, in order of time.

    The log-odds of a click are effects of user, item, price and of the user in a domain. `permuted`: the same
    clicks, given to impressions at random.
    """
    rng = np.random.default_rng(seed)
    n = N_IMPRESSIONS
    user, item = rng.integers(0, 300, n), np.minimum(rng.geometric(0.02, n) - 1, 199)
    domain, price = item % 4, rng.random(n).astype(np.float32)
    log_odds = rng.normal(0, 1.0, 300)[user] + rng.normal(0, 0.6, 200)[item]
    log_odds += rng.normal(0, 1.2, (300, 4))[user, domain] - price
    clicked = rng.random(n) < 1 / (1 + np.exp(2.8 - log_odds))
    if permuted:
        clicked = rng.permutation(clicked)
    shown_us = np.sort(rng.integers(0, n * 10_000, n))
    clicks = np.flatnonzero(clicked)
    row = np.concatenate([np.arange(n), clicks])
    time_us = np.concatenate([shown_us, shown_us[clicks] + rng.integers(1, 5_000_000, len(clicks))])
    order = np.argsort(time_us, kind="stable")
    row, time_us, is_click = row[order], time_us[order], order >= n
    names = np.char.add("i", row.astype(str))
    columns = [
        pa.array(np.where(is_click, np.char.add("c", row.astype(str)), names)),
        pa.array(time_us).cast(pa.timestamp("us", "UTC")),
        pa.array(np.where(is_click, "click", "impression")),
        pa.array(names, mask=~is_click),
        pa.array(user[row]),
        pa.array(item[row], mask=is_click),
        pa.array(np.char.add("d", domain[row].astype(str)), mask=is_click),
        pa.array(price[row], mask=is_click),
        pa.array(np.arange(len(row))),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class RecordingLoop(Loop):
    """Notes which impressions each version will have learnt first."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.learnt_for: dict[str, int] = {}

    def _learn(self, resolved: pa.RecordBatch) -> None:
        super()._learn(resolved)
        self.learnt_for |= dict.fromkeys(resolved.column("event_id").to_pylist(), self.version + 1)


class Pipeline:
    """What jobs do with a loop, in one process: predict a whole batch, then feed it, then publish."""

    def __init__(self) -> None:
        self.loop = RecordingLoop(TASK)
        self.snapshots = {0: Snapshot.empty(TASK)}
        self.served: list[pa.RecordBatch] = []

    def run(self, rows: pa.RecordBatch, batch_rows: int = 6_000) -> dict:
        for start in range(0, rows.num_rows, batch_rows):
            self.batch(rows.slice(start, batch_rows))
        self.loop.flush()
        return self.loop.finish_batch().metrics

    def batch(self, rows: pa.RecordBatch) -> None:
        self.served.append(self.snapshot(rows).with_predictions(rows))
        for start in range(0, rows.num_rows, 2_048):
            self.loop.feed(0, self.served[-1].slice(start, 2_048))
        published = self.loop.finish_batch()
        self.snapshots[published.version] = Snapshot.from_bytes(published.data)

    def snapshot(self, rows: pa.RecordBatch) -> Snapshot:
        return self.snapshots[self.loop.version]

    def audit(self) -> None:
        """Every prediction is that of the version it names, and that version had learnt none of its rows."""
        for served in self.served:
            shown = served.filter(served.column("prediction").is_valid())
            for version in shown.column("model_version").unique().to_pylist():
                of_version = shown.filter(pa.array(shown.column("model_version").to_numpy() == version))
                prediction, baseline = self.snapshots[version].predict(of_version)
                assert np.array_equal(of_version.column("prediction").to_numpy(), prediction)
                assert np.array_equal(of_version.column("baseline").to_numpy(), baseline)
                first = [self.loop.learnt_for[name] for name in of_version.column("event_id").to_pylist()]
                assert version < min(first)


class Peeking(Pipeline):
    """The planted bug: the batch is learnt before it is predicted. `lying`: and says an older version did it."""

    def __init__(self, lying: bool) -> None:
        super().__init__()
        self.lying = lying

    def snapshot(self, rows: pa.RecordBatch) -> Snapshot:
        ahead = copy.deepcopy(self.loop)
        ahead.feed(0, super().snapshot(rows).with_predictions(rows))
        peeked = Snapshot.from_bytes(ahead.finish_batch().data)
        return replace(peeked, version=self.loop.version) if self.lying else peeked


@pytest.fixture(scope="module")
def true_run() -> tuple[Pipeline, dict]:
    pipeline = Pipeline()
    return pipeline, pipeline.run(stream(1, permuted=False))


@pytest.fixture(scope="module")
def permuted_run() -> tuple[Pipeline, dict]:
    pipeline = Pipeline()
    return pipeline, pipeline.run(stream(1, permuted=True))


def test_permuted_labels_leave_nothing_to_learn(permuted_run):
    _, metrics = permuted_run
    assert metrics["positives"] >= 5_000
    assert metrics["model"]["auc"] == pytest.approx(0.5, abs=0.02)
    assert metrics["baseline"]["auc"] == pytest.approx(0.5, abs=0.02)


def test_the_model_beats_popularity_where_there_is_something_to_learn(true_run):
    _, metrics = true_run
    model, baseline = metrics["model"], metrics["baseline"]
    assert metrics["positives"] >= 5_000
    assert baseline["auc"] > 0.55
    assert model["auc"] > baseline["auc"] + 0.05
    assert model["log_loss"] < baseline["log_loss"] - 0.01
    window = metrics["window"]
    assert window["model"]["auc"] > model["auc"]  # it still gets better
    assert window["model"]["calibration"] == pytest.approx(1.0, abs=0.1)
    for name, domain in metrics["domains"].items():
        assert domain["model"]["auc"] > domain["baseline"]["auc"], name


def test_every_prediction_was_made_by_a_version_that_had_not_learnt_it(true_run, permuted_run):
    for pipeline, _ in (true_run, permuted_run):
        pipeline.audit()
        assert len(pipeline.loop.learnt_for) == N_IMPRESSIONS


def test_served_versions_lie_before_learnt_versions_and_never_fall(true_run):
    pipeline, metrics = true_run
    versions = [batch.column("model_version").drop_null().unique().to_pylist() for batch in pipeline.served]
    assert versions == [[number] for number in range(len(pipeline.served))]
    assert metrics["version"] == len(pipeline.served) + 1
    assert [pipeline.snapshots[n].version for n in sorted(pipeline.snapshots)] == [*range(len(versions) + 1)]


def test_the_counts_balance(true_run):
    pipeline, metrics = true_run
    kinds = np.concatenate([batch.column("kind").to_numpy(zero_copy_only=False) for batch in pipeline.served])
    assert metrics["impressions"] == (kinds == "impression").sum() == metrics["rows"] == metrics["learnt"]
    assert metrics["positives"] == (kinds == "click").sum()
    assert metrics["positives"] + metrics["negatives"] == metrics["impressions"]
    assert (metrics["late_labels"], metrics["repeated_labels"], metrics["waiting"]) == (0, 0, 0)


def test_a_loop_that_peeks_is_stopped_at_once():
    with pytest.raises(LoopError, match="a prediction by version 1, but the last published is 0"):
        Peeking(lying=False).run(stream(1, permuted=True).slice(0, 6_000))


def test_a_loop_that_peeks_and_lies_about_it_fails_the_audit_and_the_permuted_labels():
    peeking = Peeking(lying=True)
    metrics = peeking.run(stream(1, permuted=True))
    with pytest.raises(AssertionError):
        peeking.audit()
    assert metrics["model"]["auc"] > 0.52


def test_the_same_rows_make_the_same_model_however_they_are_cut(true_run):
    rows = stream(2, permuted=False).slice(0, 20_000)
    states = []
    for chunk in (1_000, 8_192):
        loop, snapshot = Loop(TASK), Snapshot.empty(TASK)
        for start in range(0, rows.num_rows, 10_000):
            predicted = snapshot.with_predictions(rows.slice(start, 10_000))
            for place in range(0, predicted.num_rows, chunk):
                loop.feed(0, predicted.slice(place, chunk))
            snapshot = Snapshot.from_bytes(loop.finish_batch().data)
        states.append(snapshot)
    first, second = states
    for name in ("z", "n", "weights"):
        assert getattr(first.model, name).tobytes() == getattr(second.model, name).tobytes()
    assert np.array_equal(first.popularity.views, second.popularity.views)
    assert first.model.n_learned == second.model.n_learned > 15_000


def test_repeating_a_run_repeats_every_byte():
    rows, results = stream(3, permuted=False).slice(0, 9_000), []
    for _ in range(2):
        loop, snapshot = Loop(TASK), Snapshot.empty(TASK)
        for start, stop in itertools.pairwise(range(0, 9_001, 3_000)):
            loop.feed(0, snapshot.with_predictions(rows.slice(start, stop - start)))
            published = loop.finish_batch()
            snapshot = Snapshot.from_bytes(published.data)
        results.append(published)
    assert results[0] == results[1]
