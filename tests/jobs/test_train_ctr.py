"""AdaptDHM on a topic: predicted by the last snapshots on the executors, joined, scored, learnt, kept with the commit; restarts go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace import storage
from headrace.jobs.ctr import _now_us, open_clicks
from headrace.jobs.errors import BadSettings, LearnerChanged
from headrace.jobs.progress import (
    CLICKS,
    CLICKS_CONTROL,
    LEARNER,
    Progress,
    Tally,
    attachment_path,
    last_commit,
)
from headrace.jobs.settings import Clicks, Settings
from headrace.jobs.train_ctr import for_clicks
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.contracts import load
from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier

from .conftest import Pipeline

Make = Callable[..., Pipeline]


def test_windows_end_by_the_partition_furthest_behind_of_those_that_bring_events() -> None:
    first = {0: Tally(next_offset=10, watermark_us=2_000), 1: Tally(next_offset=10, watermark_us=1_000)}
    before = Progress("t", 1, "", -1).advanced("q", 0, first.items())
    now = Tally(next_offset=20, watermark_us=9_000)
    assert _now_us(before.advanced("q", 1, [(0, now)])) == 9_000, "1 had nothing"
    unstored = Tally(next_offset=11)
    assert _now_us(before.advanced("q", 1, [(0, now), (1, unstored)])) == 1_000
    new = Tally(next_offset=5)  # of a partition of which nothing could be stored yet
    assert _now_us(before.advanced("q", 1, [(0, now), (1, unstored), (2, new)])) == 1_000
    assert _now_us(before.advanced("q", 1, [])) == 0


def clicking(job: Pipeline, **clicks: object) -> Pipeline:
    chosen = Clicks(**({"rows": 4_000, "window_events": 500} | clicks))  # type: ignore[arg-type]
    return Pipeline(job.spark, for_clicks(job.settings.model_copy(update={"clicks": chosen})))


@pytest.mark.spark
@pytest.mark.broker
def test_views_are_predicted_then_learnt_and_a_restart_goes_on(pipeline: Make) -> None:
    job = clicking(pipeline(max_events_per_batch=2_000))
    feed = list(AdFeed(seed=9, n_users=200, n_items=200, impressions_per_s=3.0).messages(8_000))
    job.send(feed[:5_000])
    job.run()
    beside = job.settings.stream.table.with_name(f"{job.settings.stream.table.name}_clicks")
    first = storage.open(beside).to_table()
    job.send(feed[5_000:])
    job.run()
    table = storage.open(job.settings.stream.table)
    last = last_commit(table)
    assert last is not None
    assert attachment_path(last, LEARNER) is None
    rows = table.to_table().to_pylist()
    shown = {row["event_id"] for row in rows if row["kind"] == "impression"}
    clicks = sum(row["kind"] == "click" for row in rows)
    report = storage.open(beside).to_table()
    assert report.slice(0, first.num_rows).equals(first)
    said = report.to_pylist()
    batches = [row for row in said if row["scope"] == "batch"]
    total = [row for row in said if row["scope"] == "total"]
    assert [row["batch"] for row in batches] == list(range(len(batches)))
    path, control = attachment_path(last, CLICKS), attachment_path(last, CLICKS_CONTROL)
    assert path is not None
    assert control is not None
    kept, beside_it = AdaptDHMClassifier.load(path), AdaptDHMClassifier.load(control)
    counts = kept.pending.counts
    assert counts.shown == len(shown) == counts.resolved + kept.pending.waiting
    assert counts.resolved == kept.n_learned == beside_it.n_learned == total[-1]["rows"] > 0
    assert counts.clicked + counts.repeated + counts.late == clicks > 0
    assert counts.clicked > 0.9 * clicks
    assert kept.version == beside_it.version == len(batches)
    waiting = kept.pending.all()
    assert (waiting.version < kept.version).all()
    # What waits was predicted by a version that had not learnt it, and stands as it was predicted.
    newest = waiting.version == kept.version - 1
    assert newest.any()
    assert np.isfinite(waiting.scores).all()
    assert waiting.scores.shape[1] == 2
    domains = {row["scope"] for row in said} - {"batch", "total", "window"}
    assert domains == {f"domain:{row['domain']}" for row in rows if row["kind"] == "impression"}
    assert all(row["control_auc"] is not None for row in total if row["auc"] is not None)
    with pytest.raises(LearnerChanged, match="lr differ"):
        clicking(job, learning_rate=1e-3).run()
    with pytest.raises(LearnerChanged, match="learnt with a control"):
        clicking(job, control=False).run()


def test_settings_that_do_not_fit_the_contract_are_refused(tmp_path: Path) -> None:
    contract = load("ad_feed")
    with pytest.raises(BadSettings, match=r"clicks.context: nowhere is no id of contract 'ad_feed'"):
        open_clicks(None, None, contract, Clicks(context=("nowhere",)), 0)  # type: ignore[arg-type]
    with pytest.raises(BadSettings, match=r"clicks.crosses: item_id is not among the context"):
        open_clicks(None, None, contract, Clicks(context=("user_id",), crosses=(("user_id", "item_id"),)), 0)  # type: ignore[arg-type]
    assert not for_clicks(Settings()).learner.enabled
    assert for_clicks(Settings()).clicks.enabled
