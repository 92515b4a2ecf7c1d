"""The loop's seams: snapshots, restarts, both kinds of label, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.contracts import load
from headrace.streaming.errors import StreamingError
from headrace.streaming.joins import InlineLabel, JoinedLabel
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.learners.ftrl import Rates
from headrace.streaming.loop import PREDICTIONS, Loop, LoopError, Snapshot, Task, task_of

JOINED = Task(
    FeatureSpec(ids=("user",), bits=10),
    JoinedLabel(window_us=20),
    item="item",
    domain="domain",
    window_rows=7,
)
INLINE = Task(FeatureSpec(ids=("user",), dense=("age",), bits=10), InlineLabel("rating", 4.0), item="item")


def clicks(seed: int, n: int) -> list[dict]:
    """Rows of two partitions, with impressions, clicks on earlier ones, and now and then neither."""
    rng, rows = np.random.default_rng(seed), []
    offsets = [0, 0]
    for number in range(n):
        partition = int(rng.integers(0, 2))
        kind = str(rng.choice(["impression", "click", "other"], p=[0.7, 0.25, 0.05]))
        rows.append(
            {
                "event_id": f"e{number}",
                "event_time": number + int(rng.integers(0, 8)),
                "kind": kind,
                "impression_id": f"e{max(0, number - int(rng.integers(1, 30)))}" if kind == "click" else None,
                "user": int(rng.integers(0, 5)),
                "item": f"item{rng.integers(0, 4)}" if kind == "impression" else None,
                "domain": None if rng.random() < 0.1 else "d",
                "partition": partition,
                "_offset": offsets[partition],
            }
        )
        offsets[partition] += 1
    return rows


SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", pa.int64()),
        ("kind", pa.string()),
        ("impression_id", pa.string()),
        ("user", pa.int64()),
        ("item", pa.string()),
        ("domain", pa.string()),
        ("partition", pa.int64()),
        ("_offset", pa.int64()),
    ]
)


def batch_of(rows: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def of_partition(batch: pa.RecordBatch, partition: int, start: int = 0) -> pa.RecordBatch:
    mine = batch.column("partition").to_numpy() == partition
    return batch.filter(pa.array(mine & (batch.column("_offset").to_numpy() >= start)))


def step(loop: Loop, snapshot: Snapshot, rows: list[dict], stored: list[pa.RecordBatch]) -> bytes:
    """One micro-batch; what was predicted is appended to `stored`."""
    stored.append(snapshot.with_predictions(batch_of(rows)))
    for partition in (0, 1):
        loop.feed(partition, of_partition(stored[-1], partition))
    return loop.finish_batch().data


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), stops=st.sets(st.integers(0, 5)))
def test_a_loop_that_is_restarted_between_batches_ends_with_the_same_bytes(seed, stops):
    rows = clicks(seed, 120)
    results = []
    for restarts in (set(), stops):
        loop, data, stored = Loop(JOINED), None, []
        for number in range(6):
            snapshot = Snapshot.empty(JOINED) if data is None else Snapshot.from_bytes(data)
            data = step(loop, snapshot, rows[20 * number : 20 * number + 20], stored)
            if number in restarts:
                loop = Loop(JOINED, data)
                for partition, start in loop.replay_from.items():
                    for batch in stored:
                        loop.replay(partition, of_partition(batch, partition, start))
                assert loop.version == number + 1
        loop.flush()
        results.append(loop.finish_batch())
    assert results[0] == results[1]
    assert results[0].metrics["impressions"] == sum(row["kind"] == "impression" for row in rows)


def test_a_restart_remembers_the_watermark_of_rows_it_does_not_replay():
    def row(offset: int, kind: str, time: int) -> pa.RecordBatch:
        event = dict.fromkeys(SCHEMA.names) | {"event_id": f"e{offset}", "kind": kind, "event_time": time}
        return Snapshot.empty(JOINED).with_predictions(batch_of([event | {"_offset": offset, "user": 1}]))

    loop = Loop(JOINED)
    loop.feed(0, row(0, "other", 1000))
    loop.feed(0, row(1, "impression", 995))
    restarted = Loop(JOINED, loop.finish_batch().data)
    assert restarted.replay_from == {0: 1}
    restarted.replay(0, row(1, "impression", 995))
    assert (
        restarted.feed(0, row(2, "impression", 977)) == 1
    )  # its window ended at 997, three before the watermark
    assert restarted.flush() == 1


def test_metrics_are_plain_json_and_balance():
    loop, stored = Loop(JOINED), []
    step(loop, Snapshot.empty(JOINED), clicks(1, 200), stored)
    metrics = loop.finish_batch().metrics
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["impressions"] == metrics["positives"] + metrics["negatives"] + metrics["waiting"]
    assert metrics["rows"] == metrics["learnt"] == metrics["positives"] + metrics["negatives"]
    named = sum(row["kind"] == "click" for row in clicks(1, 200))
    waiting_clicked = named - metrics["positives"] - metrics["late_labels"] - metrics["repeated_labels"]
    assert 0 <= waiting_clicked <= metrics["waiting"]
    assert set(metrics["domains"]) <= {"d", "(null)"}
    assert loop.flush() == metrics["waiting"]
    assert loop.finish_batch().metrics["waiting"] == 0


def test_a_snapshot_predicts_what_the_loop_has_learnt_and_nothing_else():
    loop, stored = Loop(JOINED), []
    data = step(loop, Snapshot.empty(JOINED), clicks(2, 300), stored)
    snapshot = Snapshot.from_bytes(data)
    assert snapshot.version == 1
    assert snapshot.task == JOINED
    assert np.array_equal(snapshot.model.weights, loop.model.weights)
    rows = batch_of(clicks(3, 40))
    prediction, baseline = snapshot.predict(rows)
    assert prediction.dtype == baseline.dtype == np.float32
    assert len(set(prediction.tolist())) > 3
    again = snapshot.predict(rows.slice(7))
    assert np.array_equal(again[0], prediction[7:])
    assert np.array_equal(again[1], baseline[7:])
    before = Snapshot.empty(JOINED).predict(rows)
    assert set(before[0].tolist()) == set(before[1].tolist()) == {0.5}


def test_only_impressions_get_predictions():
    rows = batch_of(clicks(4, 60))
    predicted = Snapshot.empty(JOINED).with_predictions(rows)
    shown = np.array(rows.column("kind").to_pylist()) == "impression"
    for field in PREDICTIONS:
        assert predicted.schema.field(field.name).type == field.type
        assert np.array_equal(predicted.column(field.name).is_valid().to_numpy(zero_copy_only=False), shown)
    assert predicted.select(rows.schema.names).equals(rows)


def ratings(n: int, seed: int = 0) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    return pa.RecordBatch.from_pydict(
        {
            "event_id": pa.array(np.arange(n)),
            "event_time": pa.array(np.arange(n)).cast(pa.timestamp("us", "UTC")),
            "user": pa.array(rng.integers(0, 5, n)),
            "item": pa.array(rng.integers(0, 9, n)),
            "age": pa.array(rng.integers(10, 60, n), mask=rng.random(n) < 0.1),
            "rating": pa.array(rng.integers(1, 6, n).astype(np.float32)),
        }
    )


def test_inline_labels_are_learnt_at_once():
    loop, rows = Loop(INLINE), ratings(50)
    assert loop.feed(0, Snapshot.empty(INLINE).with_predictions(rows)) == 50
    published = loop.finish_batch()
    positives = int((rows.column("rating").to_numpy() >= 4).sum())
    assert published.metrics["positives"] == published.metrics["impressions"] - published.metrics["negatives"]
    assert (published.metrics["positives"], published.metrics["learnt"]) == (positives, 50)
    assert published.metrics["domains"] == {}
    assert loop.replay_from == {}
    assert loop.flush() == 0
    restarted = Loop(INLINE, published.data)
    restarted.replay(0, Snapshot.empty(INLINE).with_predictions(rows))
    assert restarted.finish_batch() == loop.finish_batch()


def test_the_columns_are_exactly_those_that_are_read():
    for task, rows in ((JOINED, batch_of(clicks(5, 30))), (INLINE, ratings(30))):
        predicted = Snapshot.empty(task).with_predictions(rows)
        loop = Loop(task)
        loop.feed(0, predicted.select(loop.columns))
        for name in loop.columns:
            with pytest.raises((KeyError, TypeError)):
                Loop(task).feed(0, predicted.select([other for other in loop.columns if other != name]))


def test_an_empty_chunk_changes_nothing():
    for task, rows in ((JOINED, batch_of([])), (INLINE, ratings(0))):
        loop = Loop(task)
        before = loop.finish_batch()
        assert loop.feed(0, Snapshot.empty(task).with_predictions(rows)) == 0
        assert loop.finish_batch().metrics == {**before.metrics, "version": 2}


@pytest.mark.parametrize("column", ["prediction", "baseline", "model_version"])
def test_impressions_without_a_prediction_are_refused(column):
    predicted = Snapshot.empty(INLINE).with_predictions(ratings(3))
    place = predicted.schema.get_field_index(column)
    broken = predicted.set_column(
        place, predicted.schema.field(place), pa.nulls(3, predicted.schema.types[place])
    )
    with pytest.raises(LoopError, match=f"3 impressions without a {column}"):
        Loop(INLINE).feed(0, broken)
    assert issubclass(LoopError, StreamingError)


def test_a_prediction_of_a_version_not_published_yet_is_refused():
    predicted = replace(Snapshot.empty(INLINE), version=1).with_predictions(ratings(3))
    loop = Loop(INLINE)
    with pytest.raises(LoopError, match="by version 1, but the last published is 0"):
        loop.feed(0, predicted)
    loop.finish_batch()
    assert loop.feed(0, predicted) == 3


def test_a_snapshot_of_another_task_is_refused():
    data = Loop(INLINE).finish_batch().data
    with pytest.raises(BadCheckpoint, match="learnt another task"):
        Loop(replace(INLINE, rates=Rates(alpha=0.5)), data)
    with pytest.raises(BadCheckpoint, match="learnt another task"):
        Loop(JOINED, data)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_snapshots_are_refused(data):
    loop = Loop(INLINE)
    loop.feed(0, Snapshot.empty(INLINE).with_predictions(ratings(20)))
    whole = bytearray(loop.finish_batch().data)
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadCheckpoint):
        Snapshot.from_bytes(bytes(whole))
    with pytest.raises(BadCheckpoint):
        Loop(INLINE, bytes(whole))


def test_a_task_without_features_is_refused():
    with pytest.raises(ValueError, match="at least one feature"):
        Task(FeatureSpec(), InlineLabel("rating", 4.0))


@pytest.mark.parametrize("name", ["ad_feed", "movielens"])
def test_shipped_contracts_describe_tasks(name):
    contract = load(name)
    task = task_of(contract, bits=12, seed=3)
    assert set(task.columns) - {*PREDICTIONS.names, "_offset"} <= set(contract.schema.names)
    assert (task.features.bits, task.features.seed) == (12, 3)
    rows = contract.schema.empty_table().to_batches()
    empty = rows[0] if rows else pa.RecordBatch.from_pylist([], schema=contract.schema)
    assert Snapshot.empty(task).with_predictions(empty).num_rows == 0
    with pytest.raises(ValueError, match="names no label"):
        task_of(replace(contract, features=replace(contract.features, label=None)))
