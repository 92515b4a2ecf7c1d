"""Tags of Arrow rows: the cut into micro-batches does not matter, scores come before learning, state and report are whole."""

import numpy as np
import pyarrow as pa
import pytest

from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.errors import BadCheckpoint, WrongFeatures
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.learners.ihomer.tagging import LEARNER, ROWS, Tagger, TagTask

from .conftest import made, scores

DENSE = TagTask("labels", FeatureSpec(dense=tuple(f"f{i}" for i in range(12))), window_rows=100)
FEED = TagTask(
    "tags",
    FeatureSpec(ids=("item_id", "category", "brand_id"), dense=("price", "quality"), bits=10),
    window_rows=500,
)


def dense_rows(n: int = 430) -> pa.RecordBatch:
    stream = made(50, n)
    columns = {f"f{i}": pa.array(v) for i, v in enumerate(stream.x.T)}
    labels = [[f"label {i}" for i in np.flatnonzero(row)] for row in stream.y]
    return pa.RecordBatch.from_pydict(columns | {"labels": pa.array(labels, pa.list_(pa.string()))})


def feed_rows(n: int) -> pa.RecordBatch:
    return (
        pa.Table.from_batches(AdFeed(seed=1, n_users=200, n_items=300).batches(n))
        .combine_chunks()
        .to_batches()[0]
    )


def test_windows_are_scored_before_their_rows_are_learnt():
    tagger, batch = Tagger(DENSE), dense_rows()
    tagger.feed(batch)
    tagger.finish()
    report = tagger.report()
    assert report.schema == ROWS
    windows = [row for row in report.to_pylist() if row["kind"] == "window"]
    assert [(row["row"], row["rows"]) for row in windows] == [
        (100, 100),
        (200, 100),
        (300, 100),
        (400, 100),
        (430, 30),
    ]
    assert windows[3]["micro_f1"] > windows[0]["micro_f1"]
    assert tagger.report().num_rows == 0
    # The same by hand: 50 rows are predicted, then learnt.
    twin, stream = Tagger(DENSE).model, made(50, 430)
    place = [tagger.model._labels.index[f"label {i}"] for i in range(7)]
    y, said = np.zeros_like(stream.y), np.zeros_like(stream.y)
    y[:, place] = stream.y
    for at in range(0, 430, 50):
        x = pa.table({f"f{i}": v for i, v in enumerate(stream.x[at : at + 50].T)})
        if at:
            said[at : at + 50] = twin.predict_many(x).to_numpy()
        twin.learn_many(x, y[at : at + 50])
    for at, window in enumerate(windows):
        part = slice(at * 100, at * 100 + 100)
        assert window["micro_f1"] == pytest.approx(scores(said[part], y[part])["micro"])


@pytest.mark.parametrize("task", [DENSE, FEED], ids=["dense", "hashed"])
def test_the_cut_into_micro_batches_and_restarts_do_not_matter(task):
    batch = dense_rows() if task is DENSE else feed_rows(900)
    whole = Tagger(task)
    whole.feed(batch)
    parts, reported = Tagger(task), []
    for at, size in ((0, 7), (7, 260), (267, 1), (268, batch.num_rows)):
        parts.feed(batch.slice(at, size))
        reported += parts.report().to_pylist()
        parts = Tagger.from_bytes(parts.to_bytes())
    assert parts.model.to_bytes() == whole.model.to_bytes()
    assert reported + parts.report().to_pylist() == whole.report().to_pylist()
    for tagger in (whole, parts):
        tagger.finish()
    assert parts.report().to_pylist() == whole.report().to_pylist()


def test_the_tags_of_the_feed_follow_the_item_and_are_learnt():
    tagger = Tagger(FEED)
    tagger.feed(feed_rows(6000))
    windows = [row for row in tagger.report().to_pylist() if row["kind"] == "window"]
    assert windows[-1]["micro_f1"] > windows[0]["micro_f1"] + 0.1
    assert windows[-1]["micro_f1"] > 0.6


def test_a_row_without_truth_is_passed_over_and_an_empty_list_is_a_truth():
    batch = dense_rows(120)
    labels = batch.column("labels").to_pylist()
    labels[3], labels[4] = None, []
    changed = batch.set_column(
        batch.schema.get_field_index("labels"), "labels", pa.array(labels, pa.list_(pa.string()))
    )
    tagger = Tagger(DENSE)
    tagger.feed(changed)
    tagger.finish()
    assert tagger.model.n_learned == 119


def test_what_is_missing_or_damaged_is_said():
    tagger = Tagger(DENSE)
    with pytest.raises(WrongFeatures, match="f3 is not there"):
        tagger.feed(dense_rows(5).drop_columns(["f3"]))
    tagger.feed(dense_rows(70))
    kept = bytearray(tagger.to_bytes())
    kept[-5] ^= 1
    with pytest.raises(BadCheckpoint):
        Tagger.from_bytes(bytes(kept))


def test_rows_that_are_kept_as_they_came_can_be_let_go():
    tagger, batch = Tagger(DENSE), dense_rows()
    tagger.feed(batch)
    ensemble = tagger.model._core.ensemble
    assert ensemble.held == 400
    assert tagger.forget_rows() == batch.num_rows, "30 of them wait for a full step"
    assert not any(part.any() for part in ensemble.ring)
    assert tagger.forget_rows() == 0
    left = Tagger.from_bytes(tagger.to_bytes())
    for again in (tagger, left):
        again.feed(batch)
        again.finish()
    assert left.to_bytes() == tagger.to_bytes()
    assert tagger.model.n_learned == 400 + batch.num_rows
    whole = Tagger(DENSE)
    for _ in range(2):
        whole.feed(batch)
    windows, unbroken = (one.report().column("micro_f1").to_pylist() for one in (tagger, whole))
    assert np.mean(windows[4:8]) == pytest.approx(np.mean(unbroken[4:8]), abs=0.05)


def test_numbers_beyond_a_floats_digits_are_rounded_and_texts_refused():
    task = TagTask("labels", FeatureSpec(dense=("n",)))
    tagger, twin = Tagger(task), Tagger(task)
    rows = {"n": [2**60 + 1, None, 3] * 20, "labels": [["a"], [], ["a", "b"]] * 20}
    tagger.feed(pa.RecordBatch.from_pydict(rows))
    twin.feed(pa.RecordBatch.from_pydict(rows | {"n": [2.0**60, None, 3.0] * 20}))
    assert tagger.to_bytes() != Tagger(task).to_bytes()
    assert tagger.model.to_bytes() == twin.model.to_bytes()
    with pytest.raises(WrongFeatures, match="expected numbers in column 'n', came string"):
        Tagger(task).feed(pa.RecordBatch.from_pydict(rows | {"n": ["x"] * 60}))


def test_a_learner_without_rows_has_none_to_let_go():
    assert Tagger(DENSE).forget_rows() == 0
    alone = Tagger(DENSE, ensemble=False)
    alone.feed(dense_rows(100))
    assert alone.forget_rows() == 0


def test_states_of_early_releases_open_where_their_task_is_told():
    tagger = Tagger(DENSE)
    tagger.feed(dense_rows(120))
    now = checkpoint.load(tagger.to_bytes(), LEARNER)
    early = checkpoint.dump(checkpoint.State(LEARNER, now.version, now.n_learned, {}, now.arrays))
    with pytest.raises(BadCheckpoint, match="does not say its task"):
        Tagger.from_bytes(early)
    assert Tagger.from_bytes(early, DENSE).to_bytes() == tagger.to_bytes()
    assert Tagger.from_bytes(tagger.to_bytes(), FEED).task == DENSE
