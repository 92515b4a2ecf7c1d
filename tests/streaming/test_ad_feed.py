"""The generated ad feed: reproducible, accepted by its contract, honest about its histories, learnable but not easily."""

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from headrace.streaming.ad_broken import REASONS
from headrace.streaming.ad_feed import LATENESS_S, MAX_HISTORY, START_US, AdFeed, Produced
from headrace.streaming.contracts import decode_json, gate, load

CONTRACT = load("ad_feed")


@cache
def events(n: int = 200_000, **settings: Any) -> tuple[pa.Table, Produced]:
    produced = Produced()
    feed = AdFeed(**{"seed": 11, **settings})
    return pa.Table.from_batches(feed.batches(n, produced=produced)), produced


def first_sent(table: pa.Table) -> pa.Table:
    """Without the events that had been sent before."""
    ids = table["event_id"].to_pylist()
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        seen.setdefault(name, row)
    return table.take(list(seen.values()))


def test_same_seed_same_events_whatever_the_batch_size() -> None:
    whole = pa.Table.from_batches(AdFeed(seed=5).batches(12_345, batch_rows=12_345))
    parts = list(AdFeed(seed=5).batches(12_345, batch_rows=1_000))
    assert [part.num_rows for part in parts] == [1_000] * 12 + [345]
    assert pa.Table.from_batches(parts).equals(whole)
    assert not pa.Table.from_batches(AdFeed(seed=6).batches(12_345)).equals(whole)


def test_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from headrace.streaming.ad_feed import AdFeed; digest = hashlib.sha256()\n"
        "for message in AdFeed(seed=3, broken_share=0.05, huge_bytes=2000).messages(300): digest.update(repr(message).encode())\n"
        "print(digest.hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_the_contract_accepts_every_good_event() -> None:
    table, produced = events()
    assert table.num_rows == produced.good == 200_000
    for batch in table.to_batches(max_chunksize=50_000):
        batch.validate(full=True)
        assert gate(batch, CONTRACT).failures == {}


def test_shares_and_span() -> None:
    table, produced = events()
    fresh = first_sent(table)
    assert fresh.num_rows == table.num_rows - produced.duplicates
    counts = Counter(fresh["kind"].to_pylist())
    assert 0.08 < counts["click"] / counts["impression"] < 0.12
    assert produced.clicks == Counter(table["kind"].to_pylist())["click"]
    assert 0.008 < produced.duplicates / produced.good < 0.012
    assert 0.017 < produced.delayed / produced.good < 0.023
    assert 0.003 < produced.too_late / produced.good < 0.006
    time_us = table["event_time"].cast(pa.int64()).to_numpy()
    assert time_us.min() >= START_US
    assert 2.5 < (time_us.max() - time_us.min()) / 3.6e9 < 3.5
    behind_s = (np.maximum.accumulate(time_us) - time_us) / 1e6
    assert np.count_nonzero(behind_s > LATENESS_S) >= produced.too_late
    assert np.count_nonzero((behind_s > 10) & (behind_s <= 150)) >= produced.delayed


def test_clicks_follow_their_impressions() -> None:
    table = first_sent(events()[0])
    impressions = table.filter(pc.equal(table["kind"], "impression"))
    clicks = table.filter(pc.equal(table["kind"], "click"))
    by_id = {
        row["event_id"]: row
        for row in impressions.select(["event_id", "event_time", "user_id", "item_id", "domain"]).to_pylist()
    }
    waits, orphans = [], 0
    for click in clicks.select(["impression_id", "event_time", "user_id", "item_id", "domain"]).to_pylist():
        shown = by_id.get(click["impression_id"])
        if shown is None:  # its impression is still under way when the feed ends
            orphans += 1
            continue
        assert [shown[name] for name in ("user_id", "item_id", "domain")] == [
            click[name] for name in ("user_id", "item_id", "domain")
        ]
        waits.append((click["event_time"] - shown["event_time"]).total_seconds())
    assert orphans < 0.01 * clicks.num_rows
    assert len(set(clicks["impression_id"].to_pylist())) == clicks.num_rows
    assert min(waits) > 0
    assert 5 < float(np.median(waits)) < 20
    assert 0.995 < np.mean(np.array(waits) <= 600) <= 1.0


def test_histories_are_the_users_real_clicks() -> None:
    # Nothing is delayed or repeated here, so that the twin sees all that the feed saw.
    table, _ = events(60_000, n_users=80, late_share=0.0, too_late_share=0.0, duplicate_share=0.0)
    rows = table.select(["kind", "event_time", "user_id", "item_id", "clicked_items"]).to_pylist()
    rows.sort(key=lambda row: (row["event_time"], row["kind"] == "click"))
    history: dict[int, list[int]] = {}
    started: dict[int, list[int]] = {}  # what the user had clicked before the feed began
    lengths = []
    for row in rows:
        user = row["user_id"]
        if row["kind"] == "click":
            history.setdefault(user, []).insert(0, row["item_id"])
            continue
        before = history.setdefault(user, [])
        seen = row["clicked_items"]
        lengths.append(len(seen))
        if user not in started:
            started[user] = seen[len(before) :]
        assert seen == (before + started[user])[:MAX_HISTORY]
    assert max(lengths) == MAX_HISTORY
    assert min(lengths) < 20


def test_popularity_is_zipf() -> None:
    table = events()[0]
    for name, share in (("user_id", 0.2), ("item_id", 0.3), ("advertiser_id", 0.4), ("domain", 0.45)):
        counts = np.sort(np.array(list(Counter(table[name].drop_null().to_pylist()).values())))[::-1]
        top = counts[: max(1, len(counts) // 10)].sum() / counts.sum()
        assert top > share / (1.5 if name != "domain" else 2)
        assert counts[0] > 4 * np.median(counts)


def test_broken_messages_are_rejected_for_their_reasons() -> None:
    produced = Produced()
    feed = AdFeed(seed=2, broken_share=0.05, huge_bytes=70_000)
    messages = list(feed.messages(6_000, produced))
    assert len(messages) == produced.messages == 6_300
    assert sum(produced.broken.values()) == 300
    assert all(count >= 3 for count in produced.broken.values())
    known = [headers == [("contract_version", b"1")] for _, _, headers in messages]
    assert known.count(False) == produced.broken["unknown_version"]
    kept = [message for message, good in zip(messages, known, strict=True) if good]
    decoded = decode_json(pa.array([value for _, value, _ in kept], pa.binary()), CONTRACT, max_bytes=65_536)
    verdict = gate(
        decoded.batch, CONTRACT, error=decoded.error, null_key=pa.array([key is None for key, _, _ in kept])
    )
    expected: Counter[str] = Counter()
    for kind, count in produced.broken.items():
        if kind != "unknown_version":
            expected[REASONS[kind]] += count
    assert verdict.failures == expected
    assert pc.sum(verdict.keep).as_py() == produced.good == 6_000
    assert all(len(reasons) <= 1 for reasons in verdict.reasons.to_pylist())
    good = decoded.batch.filter(verdict.keep)
    assert good.equals(pa.concat_batches(list(feed.batches(6_000))))
    assert [key for (key, _, _), keep in zip(kept, verdict.keep.to_pylist(), strict=True) if keep] == [
        str(user).encode() for user in good.column("user_id").to_pylist()
    ]


def test_messages_have_the_promised_size() -> None:
    values = [value for _, value, _ in AdFeed(seed=1).messages(5_000)]
    impressions = [len(value) for value in values if b'"kind":"impression"' in value]
    assert 800 < np.mean(impressions) < 1_500


def impressions_with_labels(**settings: Any) -> tuple[pa.Table, NDArray[np.float64]]:
    table = first_sent(events(**settings)[0])
    impressions = table.filter(pc.equal(table["kind"], "impression"))
    clicked = pc.is_in(impressions["event_id"], table["impression_id"].combine_chunks().drop_null())
    return impressions, clicked.to_numpy().astype(float)


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = labels.sum()
    return float(
        (ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))
    )


def learn_hashed(impressions: pa.Table, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictions made before learning, by a logistic model of hashed ids and dense features, AdaGrad."""
    size, features = 1 << 18, CONTRACT.features
    columns = []
    for place, name in enumerate(features.ids):
        codes = impressions[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy() + 2
        columns.append((codes.astype(np.int64) * 2_654_435_761 + place * 2_654_404_609) % 1_000_003 % size)
    hashed = np.stack(columns, axis=1)
    dense = np.stack([impressions[name].to_numpy().astype(float) for name in features.dense], axis=1)
    dense = ((dense - dense.mean(axis=0)) / (dense.std(axis=0) + 1e-9)).clip(-5, 5)
    weights, squares = np.zeros(size), np.ones(size)
    slopes, dense_squares, bias = np.zeros(dense.shape[1]), np.full(dense.shape[1], 1e-2), -2.2
    predictions = np.empty(len(labels))
    for start in range(0, len(labels), 256):
        rows = slice(start, start + 256)
        log_odds = weights[hashed[rows]].sum(axis=1) + dense[rows] @ slopes + bias
        predictions[rows] = 1 / (1 + np.exp(-log_odds))
        error = predictions[rows] - labels[rows]
        touched, where = np.unique(hashed[rows], return_inverse=True)
        gradient = np.bincount(where.ravel(), np.repeat(error, hashed.shape[1]))
        squares[touched] += gradient**2
        weights[touched] -= 0.08 * gradient / np.sqrt(squares[touched])
        slope = dense[rows].T @ error
        dense_squares += slope**2
        slopes -= 0.1 * slope / np.sqrt(dense_squares)
        bias -= 0.002 * error.sum()
    return predictions


def popularity(impressions: pa.Table, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each item's click rate so far, smoothed."""
    items = impressions["item_id"].to_numpy()
    shown, clicked, scores = np.full(items.max() + 1, 10.0), np.ones(items.max() + 1), np.empty(len(items))
    for row, item in enumerate(items):
        scores[row] = clicked[item] / shown[item]
        shown[item] += 1
        clicked[item] += labels[row]
    return scores


def test_a_hashed_linear_model_learns_and_popularity_does_not_suffice() -> None:
    impressions, labels = impressions_with_labels()
    later = slice(len(labels) // 2, None)
    learnt = auc(labels[later], learn_hashed(impressions, labels)[later])
    popular = auc(labels[later], popularity(impressions, labels)[later])
    assert learnt > 0.68
    assert popular < learnt - 0.08


def test_permuted_labels_cannot_be_learnt() -> None:
    impressions, labels = impressions_with_labels(n=60_000, permute_labels=True)
    assert 0.08 < labels.mean() < 0.12
    assert abs(auc(labels, learn_hashed(impressions, labels)) - 0.5) < 0.02


def test_clusters_drive_clicks_and_drift() -> None:
    from headrace.streaming.ad_feed import _Stream

    world = _Stream(AdFeed(seed=11), 1)._world
    impressions, labels = impressions_with_labels()
    pair = (
        world.user_cluster[impressions["user_id"].to_numpy()] * 12
        + world.item_theme[impressions["item_id"].to_numpy()]
    )
    half = len(labels) // 2

    def rates(rows: slice) -> NDArray[np.float64]:
        return np.asarray(np.bincount(pair[rows], labels[rows], 72) / np.bincount(pair[rows], minlength=72))

    early, middle, late = (
        rates(slice(0, half // 2)),
        rates(slice(half // 2, half - 5_000)),
        rates(slice(half + 5_000, None)),
    )
    assert np.corrcoef(early, middle)[0, 1] > 0.8
    assert abs(np.corrcoef(early, late)[0, 1]) < 0.5
    # What is sent says nothing of the cluster: neither the domain nor what is known of the user.
    cluster = world.user_cluster
    for name in ("age_band", "gender", "country", "os"):
        assert association(world.user_columns[name], cluster) < 0.08
    assert (
        association(impressions["domain"].combine_chunks(), cluster[impressions["user_id"].to_numpy()]) < 0.08
    )


def association(words: pa.StringArray, cluster: NDArray[np.int64]) -> float:
    """Share of the cases that would have to move for words and clusters to be independent, times two."""
    codes = words.dictionary_encode().indices.fill_null(-1).to_numpy() + 1
    table = np.zeros((codes.max() + 1, cluster.max() + 1))
    np.add.at(table, (codes, cluster), 1)
    independent = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(np.abs(table - independent).sum() / table.sum())


@pytest.mark.parametrize("kind", REASONS)
def test_each_kind_of_broken_message_differs_from_its_model(kind: str) -> None:
    from headrace.streaming.ad_broken import break_message

    key, value, _ = next(AdFeed(seed=1).messages(1))
    assert key is not None
    broken = break_message(kind, key, value, "i77", huge_bytes=2_000)
    assert b"i77" in broken[1]
    assert broken == break_message(kind, key, value, "i77", huge_bytes=2_000)
