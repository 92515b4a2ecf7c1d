"""The recommender on a topic: ranked by the last snapshot on the executors, learnt, kept with the commit; restarts go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from headrace import storage
from headrace.jobs import check
from headrace.jobs.errors import BadSettings, LearnerChanged
from headrace.jobs.forgetting import forget_in_learners
from headrace.jobs.progress import LEARNER, RECOMMENDER, attached, attachment_path, last_commit
from headrace.jobs.recommend import restored
from headrace.jobs.settings import Recommend, Settings, Stream
from headrace.jobs.sink import Sink, set_aside
from headrace.jobs.train_recommender import for_recommender
from headrace.storage.erase import suppress
from headrace.storage.errors import CommitFenced
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
from headrace.streaming.learners.dynamic_sparse.serving import Recommender

from .conftest import Pipeline

Make = Callable[..., Pipeline]


def recommending(job: Pipeline, **recommend: object) -> Pipeline:
    chosen = Recommend(**({"budget_bytes": 400_000, "admit_after": 1} | recommend))  # type: ignore[arg-type]
    return Pipeline(job.spark, for_recommender(job.settings.model_copy(update={"recommend": chosen})))


@pytest.mark.spark
@pytest.mark.broker
def test_clicks_are_ranked_then_learnt_and_a_restart_goes_on(pipeline: Make) -> None:
    job = recommending(pipeline(max_events_per_batch=2_000))
    feed = list(AdFeed(seed=9, n_users=200, n_items=200).messages(8_000))
    job.send(feed[:5_000])
    job.run()
    beside = job.settings.stream.table.with_name(f"{job.settings.stream.table.name}_recommender")
    first = storage.open(beside).to_table()
    job.send(feed[5_000:])
    job.run()
    table = storage.open(job.settings.stream.table)
    last = last_commit(table)
    assert last is not None
    assert attachment_path(last, LEARNER) is None
    rows = table.to_table().to_pylist()
    clicks = sum(row["kind"] == "click" for row in rows)
    report = storage.open(beside).to_table()
    assert report.slice(0, first.num_rows).equals(first)
    batches = report.to_pylist()
    assert sum(row["interactions"] for row in batches) == clicks > 0
    assert batches[-1]["learnt"] == clicks
    assert [row["batch"] for row in batches] == list(range(len(batches)))
    assert batches[0]["recall_20"] is None
    assert batches[0]["ranked"] == 0
    for row in batches[1:]:
        assert row["ranked"] == row["interactions"]
        assert 0 <= row["ndcg_20"] <= row["recall_20"] <= 1
    assert all(row["bytes"] <= 400_000 for row in batches)
    path = attachment_path(last, RECOMMENDER)
    assert path is not None
    served = Recommender.load(path)
    kept = DSLRecommender.load(path)
    assert served.n_learned == kept.n_learned == clicks
    users = sorted({row["user_id"] for row in rows if row["kind"] == "click"})[:5]
    assert served.recommend_many(users, 5) == kept.recommend_many(users, 5)
    with pytest.raises(LearnerChanged, match="code differ"):
        recommending(job, code="int8").run()


@pytest.mark.spark
@pytest.mark.broker
def test_a_job_that_runs_while_persons_are_erased_does_not_bring_them_back(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has them in its memory, and is kept from committing; it begins the batch anew, without them."""
    job = recommending(pipeline(partitions=1, max_events_per_batch=2_000))
    feed = list(AdFeed(seed=9, n_users=50, n_items=50).messages(4_000))
    job.send(feed[:2_000])
    job.run()
    path, honest = job.settings.stream.table, check.check
    clicks = [row for row in storage.open(path).to_table().to_pylist() if row["kind"] == "click"]
    users = list(dict.fromkeys(row["user_id"] for row in clicks))[:2]
    begun = 0

    def meanwhile(*arguments: object) -> bytes:
        nonlocal begun
        begun += 1
        for user in users if begun == 1 else []:
            table = storage.open(path)
            suppress(table, [user])
            reach = forget_in_learners(table, [user])
            assert reach[0].note.startswith("1 embedding rows")
        return honest(*arguments)  # type: ignore[arg-type]

    job.send(feed[2_000:])
    monkeypatch.setattr(check, "check", meanwhile)
    total = job.run().total
    assert begun == 2, "the batch came twice"
    assert (total.events, total.balance) == (4_000, 0)
    assert total.forgotten > 0
    kept = attached(last_commit(storage.open(path)), RECOMMENDER)
    assert kept is not None
    learnt = DSLRecommender.from_bytes(kept)
    assert not any(learnt.forget(user=user) for user in users)
    assert learnt.n_learned > 0


def test_a_driver_that_another_one_followed_is_not_only_set_aside(tmp_path: Path) -> None:
    """It must end: what it would begin anew from is the other's by now."""
    storage.create(tmp_path / "t", pa.schema([("n", pa.int64())]))
    first, second = (Sink(storage.open(tmp_path / "t")) for _ in range(2))
    first.take_over("q")
    assert not first.is_set_aside()
    for _ in range(2):
        set_aside(storage.open(tmp_path / "t"), "q")
    assert first.is_set_aside()
    second.take_over("q")
    assert not first.is_set_aside()
    set_aside(storage.open(tmp_path / "t"), "q")
    assert (first.is_set_aside(), second.is_set_aside()) == (False, True)
    with pytest.raises(CommitFenced, match="an erasure of persons, after epoch 4"):
        second.commit([], ("q", 0))


def test_a_snapshot_of_an_earlier_release_goes_on_as_it_was_made() -> None:
    params = {"budget_bytes": 20_000, "rows": 40, "seed": 3}
    earlier = DSLRecommender(**params, first_blocks=1, filter_newcomers=True)
    earlier.learn_one({"user_id": 1, "item_id": 2})
    again = restored(earlier.to_bytes(), params, "scores")
    assert again.to_bytes() == earlier.to_bytes()
    with pytest.raises(LearnerChanged, match=r"made otherwise: rows, seed differ"):
        restored(earlier.to_bytes(), params | {"rows": 41, "seed": 4}, "scores")


CONTRACT = """
topic = "plain"
version = 1
doc = "Nothing to want."
[[columns]]
name = "id"
type = "int64"
required = true
[[columns]]
name = "at"
type = "timestamp"
required = true
[features]
event_id = "id"
event_time = "at"
key = "id"
"""


def test_a_contract_that_does_not_say_who_wanted_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(CONTRACT)
    with pytest.raises(BadSettings, match=r"expected features.item and features.label in contract 'plain'"):
        for_recommender(Settings(stream=Stream(contract=str(path))))
    assert not for_recommender(Settings()).learner.enabled
    assert for_recommender(Settings()).recommend.enabled
