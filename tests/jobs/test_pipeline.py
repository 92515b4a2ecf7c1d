"""The main job against a real broker and a real Spark: what went in, what came out, and that both add up."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from headrace import storage
from headrace.jobs import check
from headrace.jobs.errors import CheckpointLost, ContractChanged, LearnerChanged, Overtaken
from headrace.jobs.feed import HUGE_BYTES
from headrace.jobs.progress import (
    GATE,
    LEARNER,
    PROGRESS,
    Progress,
    attached,
    attachment_path,
    last_commit,
    read_progress,
)
from headrace.jobs.settings import Learner, Tags
from headrace.jobs.sink import Sink
from headrace.storage.compaction import compact
from headrace.storage.errors import CommitFenced
from headrace.streaming.ad_feed import AdFeed, Produced
from headrace.streaming.contracts import GateDisagreement, load
from headrace.streaming.loop import Snapshot

from .conftest import Pipeline

pytestmark = [pytest.mark.spark, pytest.mark.broker]
Make = Callable[..., Pipeline]

CLICKS = """
topic = "shop"
version = 1
doc = "Known to this test alone."
[[columns]]
name = "id"
type = "int64"
required = true
[[columns]]
name = "at"
type = "timestamp"
required = true
[[columns]]
name = "who"
type = "string"
required = true
max_length = 8
[[columns]]
name = "what"
type = "string"
required = true
[[columns]]
name = "stars"
type = "float64"
required = true
between = [0.0, 5.0]
[features]
event_id = "id"
event_time = "at"
key = "who"
erase_key = "who"
item = "what"
ids = ["who", "what"]
[features.label]
column = "stars"
positive_at = 4.0
"""


def test_everything_produced_is_accounted_for_and_every_letter_is_whole(pipeline: Make) -> None:
    job = pipeline()
    produced = Produced()
    sent = list(
        AdFeed(seed=3, n_users=500, broken_share=0.02, huge_bytes=HUGE_BYTES).messages(9_000, produced)
    )
    job.send(sent)
    progress = job.run()

    total = progress.total
    assert total.balance == 0
    assert total.events == produced.messages == 9_180
    assert total.dead == sum(produced.broken.values())
    assert total.duplicates + total.late + total.stored == produced.good
    assert 0 < total.duplicates <= produced.duplicates

    rows = job.rows()
    assert rows.num_rows == total.stored
    assert pc.count_distinct(rows.column("event_id")).as_py() == total.stored
    sent_ids = {
        json.loads(value)["event_id"]
        for _, value, _ in sent
        if value and value.startswith(b'{"event_id":"i') and _is_json(value)
    }
    assert set(rows.column("event_id").to_pylist()) - sent_ids <= {f"c{i}" for i in range(10**6)}

    letters = job.letters()
    assert len({letter.key for letter in letters}) == total.dead + total.late
    by_value = Counter(value for _, value, _ in sent)
    reasons: Counter[str] = Counter()
    for letter in letters:
        headers = {name: text.decode() for name, text in letter.headers}
        assert by_value[letter.value] >= 1, "a dead letter holds the original bytes"
        assert (
            letter.key
            == f"{job.settings.stream.topic}/{headers['source_partition']}/{headers['source_offset']}/0".encode()
        )
        assert headers["contract"] == "ad_feed v1"
        reasons.update(headers["reason"].split(","))
    late = reasons.pop("late", 0)
    assert late == total.late
    assert dict(reasons) == total.reasons


def _is_json(value: bytes) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


def test_a_prediction_comes_from_a_version_that_had_not_seen_its_row(pipeline: Make) -> None:
    job = pipeline()
    job.send(AdFeed(seed=5, n_users=300).messages(10_000))
    progress = job.run()
    assert progress.batch_id >= 2

    # What each version had been fed, by partition: all offsets below the ones its commit recorded.
    fed: dict[int, dict[int, int]] = {0: {}}
    for commit in storage.open(job.settings.stream.table).history():
        if attachment_path(commit, PROGRESS) is not None:
            done = read_progress(commit.attachment(PROGRESS))
            assert done.metrics is not None
            fed[done.metrics["version"]] = done.next_offsets
    rows = job.rows()
    shown = rows.filter(pc.field("kind") == "impression")
    assert shown.column("prediction").null_count == 0
    assert (
        rows.filter(pc.field("kind") == "click").column("prediction").null_count
        == rows.num_rows - shown.num_rows
    )
    versions = shown.column("model_version").to_numpy()
    assert len(np.unique(versions)) == progress.batch_id + 1
    for version, partition, offset in zip(
        versions, shown.column("_partition").to_pylist(), shown.column("_offset").to_pylist(), strict=True
    ):
        assert offset >= fed[version].get(partition, 0)


def test_a_stored_prediction_is_what_that_version_says_again(pipeline: Make) -> None:
    job = pipeline()
    job.send(AdFeed(seed=6, n_users=300).messages(9_000))
    job.run()
    table = storage.open(job.settings.stream.table)
    commits = {c.key[1]: c for c in table.history() if c.key is not None}
    snapshot = Snapshot.from_bytes(commits[1].attachment("learner"))
    rows = table.scan(filter=[("model_version", "==", snapshot.version)]).to_table()
    assert rows.num_rows > 500
    [batch] = rows.select(load("ad_feed").schema.names).combine_chunks().to_batches()
    again = snapshot.with_predictions(batch)
    assert again.column("prediction").equals(rows.column("prediction").combine_chunks())
    assert again.column("baseline").equals(rows.column("baseline").combine_chunks())


def test_a_restart_goes_on_where_it_stopped_and_learns_the_same(pipeline: Make) -> None:
    feed = list(AdFeed(seed=7, n_users=300).messages(9_000))
    whole = pipeline(partitions=1, max_events_per_batch=3_000)
    whole.send(feed)
    expected = whole.run()

    parts = pipeline(partitions=1, max_events_per_batch=3_000)
    parts.send(feed[:3_000])
    parts.run()
    parts.send(feed[3_000:6_000])
    parts.run()
    before = storage.open(parts.settings.stream.table).version
    parts.run()  # nothing new: nothing happens
    assert storage.open(parts.settings.stream.table).version == before
    parts.send(feed[6_000:])
    progress = parts.run()

    assert progress.batch_id == expected.batch_id == 2
    assert progress.total == expected.total
    assert progress.metrics == expected.metrics, "waiting impressions came back from the table"


def test_arrow_messages_go_the_same_way(pipeline: Make) -> None:
    job = pipeline()
    batches = list(AdFeed(seed=8, n_users=200).batches(5_000))
    spoiled = batches[0].slice(0, 50)
    price = pa.array([-1.0] * 50, pa.float32())
    spoiled = spoiled.set_column(spoiled.schema.get_field_index("price"), "price", price)
    with job.producer() as producer:
        for batch in batches:
            producer.send_batch(batch, format="arrow")
        producer.send_batch(spoiled, format="arrow")
        producer.send_raw(b"1", b"no arrow", [("format", b"arrow"), ("rows", b"17")])
    total = job.run().total
    assert total.balance == 0
    assert total.events == 5_000 + 50 + 17
    assert total.reasons == {"bad_arrow": 17, "between:price": 50}
    assert job.rows().num_rows == total.stored
    letters = [x for x in job.letters() if dict(x.headers)["reason"] == b"between:price"]
    assert letters
    assert all(pa.ipc.open_stream(letter.value).read_all().num_rows == 1 for letter in letters)


def test_a_topic_that_only_this_test_knows_runs_through_the_same_job(pipeline: Make, tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CLICKS)
    job = pipeline(contract=path, max_events_per_batch=500)
    rng = np.random.default_rng(0)
    with job.producer() as producer:
        for i in range(2_000):
            what = int(rng.integers(0, 20))
            stars = float(np.clip(what / 4 + rng.normal(0, 0.7), 0, 5))
            producer.send(
                {
                    "id": i,
                    "at": f"2026-01-01T00:{i // 60 % 60:02}:{i % 60:02}Z",
                    "who": f"u{i % 50}",
                    "what": f"w{what}",
                    "stars": stars,
                }
            )
        producer.send({"id": 9_999, "at": "2026-01-01T00:00:00Z", "who": "u1", "what": "w1", "stars": 9.0})
    progress = job.run()
    assert progress.total.reasons == {"between:stars": 1}
    assert progress.metrics is not None
    assert progress.metrics["rows"] == progress.total.stored
    assert progress.metrics["model"]["auc"] > 0.75
    opened = storage.open(job.settings.stream.table)
    assert opened.erase_key == "who"


def test_a_lost_checkpoint_is_refused_and_adopting_goes_on_without_gap_or_repeat(pipeline: Make) -> None:
    job = pipeline()
    feed = list(AdFeed(seed=9, n_users=200).messages(6_000))
    job.send(feed[:3_000])
    job.run()
    shutil.rmtree(job.settings.stream.checkpoint)
    job.send(feed[3_000:])
    with pytest.raises(CheckpointLost, match="--adopt"):
        job.run()
    total = job.run(adopt=True).total
    assert total.balance == 0
    assert total.events == 6_000
    assert pc.count_distinct(job.rows().column("event_id")).as_py() == total.stored
    more = job.run().total  # and the adopted checkpoint is now the table's own
    assert more == total


def test_a_checkpoint_without_its_table_is_refused(pipeline: Make) -> None:
    job = pipeline()
    job.send(AdFeed(seed=10, n_users=200).messages(1_000))
    job.run()
    shutil.rmtree(job.settings.stream.table)
    with pytest.raises(CheckpointLost, match="is empty"):
        job.run()


def test_another_contract_on_the_same_table_is_refused(pipeline: Make, tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(CLICKS)
    job = pipeline(contract=path)
    job.run()
    path.write_text(CLICKS.replace('type = "float64"', 'type = "float32"'))
    with pytest.raises(ContractChanged, match="stars"):
        job.run()


def test_another_learner_on_the_same_table_is_refused_with_what_differs(pipeline: Make) -> None:
    job = pipeline()
    job.send(AdFeed(seed=13, n_users=100).messages(500))
    job.run()
    changed = job.settings.model_copy(update={"learner": Learner(bits=16, window_events=700)})
    with pytest.raises(LearnerChanged, match="window_rows"):
        Pipeline(job.spark, changed).run()


def test_a_disagreement_stops_the_query_before_the_commit(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pipeline()
    tags = Tags(column="tags", window_events=100)
    job = Pipeline(job.spark, job.settings.model_copy(update={"tags": tags}))
    job.send(AdFeed(seed=11, n_users=200).messages(1_000))
    honest = check.check

    def forget_a_rule(*arguments: object) -> bytes:
        result = json.loads(honest(*arguments))  # type: ignore[arg-type]
        assert result["disagreements"] == []
        result["disagreements"] = [{"rule": "between:price", "only_masks": 0, "only_expectations": 3}]
        return json.dumps(result).encode()

    monkeypatch.setattr(check, "check", forget_a_rule)
    with pytest.raises(GateDisagreement, match="between:price"):
        job.run()
    table = job.settings.stream.table
    reported = table.with_name(f"{table.name}_tags")
    assert storage.open(table).num_rows == storage.open(reported).num_rows == 0
    monkeypatch.undo()
    assert job.run().total.events == 1_000
    assert storage.open(reported).num_rows > 0


def test_a_driver_that_was_taken_for_dead_commits_nothing_more(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it works on a batch, a second driver takes the query over; the batch comes once, by the second."""
    job = pipeline(partitions=1, max_events_per_batch=1_000)
    job.send(AdFeed(seed=14, n_users=200).messages(1_000))
    assert job.run().batch_id == 0
    last = storage.open(job.settings.stream.table).last_commit
    query_id = json.loads((job.settings.stream.checkpoint / "metadata").read_text())["id"]
    honest, taken = check.check, list[Sink]()

    def meanwhile(*arguments: object) -> bytes:
        taken.append(Sink(storage.open(job.settings.stream.table)))
        assert taken[-1].take_over(query_id)
        return honest(*arguments)  # type: ignore[arg-type]

    job.send(AdFeed(seed=15, n_users=200).messages(1_000))
    monkeypatch.setattr(check, "check", meanwhile)
    with pytest.raises(CommitFenced, match=f"batch 1 of query '{query_id}' comes from epoch 2, .* epoch 3"):
        job.run()
    monkeypatch.undo()
    assert last(query_id).key == (query_id, 0), "nothing of the batch was committed"  # type: ignore[union-attr]
    total = job.run().total
    assert (total.events, total.balance) == (2_000, 0)
    assert job.rows().num_rows == total.stored
    with pytest.raises(CommitFenced, match=r"epoch 3, .* epoch 4"):
        taken[0].commit([], (query_id, 2))


def test_compaction_between_two_starts_changes_nothing(pipeline: Make) -> None:
    """What has been stored and what waits for its label is read from files that are no longer those of the batches."""
    feed = list(AdFeed(seed=18, n_users=200, impressions_per_s=4.0).messages(6_000))
    reached, rows, learnt = list[Progress](), list[set[str]](), list[bytes | None]()
    for compacted in (False, True):
        job = pipeline(max_events_per_batch=2_000)
        job.send(feed[:4_000])
        before = job.run().metrics
        assert before is not None
        assert before["waiting"] > 0 < before["learnt"]
        if compacted:
            done = compact(storage.open(job.settings.stream.table), cluster_by="user_id", everything=True)
            assert done.files_before > done.files_after == 1
        job.send(feed[3_500:])  # some come twice
        reached.append(job.run())
        rows.append(set(job.rows().column("event_id").to_pylist()))
        learnt.append(attached(last_commit(storage.open(job.settings.stream.table)), LEARNER))
    plain, after = reached
    assert after.total == plain.total
    assert after.total.duplicates >= 500
    assert after.metrics == plain.metrics
    assert rows[0] == rows[1]
    assert len(rows[0]) == after.total.stored
    assert learnt[0] == learnt[1] is not None


def test_a_driver_that_was_overtaken_before_its_first_batch_says_so(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pipeline(partitions=1, max_events_per_batch=1_000)
    job.send(AdFeed(seed=16, n_users=200).messages(1_000))
    job.run()
    table = storage.open(job.settings.stream.table)
    done = next(commit for commit in table.history() if attachment_path(commit, PROGRESS))
    honest = Sink.take_over

    def late(self: Sink, query_id: str) -> bool:
        monkeypatch.undo()
        table.commit([], attachments={PROGRESS: done.attachment(PROGRESS)})  # by the one that was not dead
        return honest(self, query_id)

    job.send(AdFeed(seed=17, n_users=200).messages(1_000))
    monkeypatch.setattr(Sink, "take_over", late)
    with pytest.raises(Overtaken, match="start this one again"):
        job.run()
    assert job.run().total.events == 2_000


def test_the_gate_result_of_each_batch_is_kept_without_values(pipeline: Make) -> None:
    job = pipeline()
    feed = AdFeed(seed=12, n_users=200, broken_share=0.05, huge_bytes=HUGE_BYTES)
    job.send(feed.messages(2_000))
    progress = job.run()
    kept = [c for c in storage.open(job.settings.stream.table).history() if attachment_path(c, GATE)]
    results = [json.loads(c.attachment(GATE)) for c in kept]
    assert sum(result["rows"] for result in results) == progress.total.events
    assert all(
        set(result) == {"rows", "rejected", "failures", "disagreements", "seconds"} for result in results
    )
    allowed = {*load("ad_feed").rules, "_decode_error"}
    assert all(set(result["failures"]) <= allowed for result in results)
