"""A generated ad feed: impressions and the clicks that follow, in the order in which they would reach Kafka.

Start of the flow where no real topic is at hand: demonstrations, tests and benchmarks read it through the
contract `ad_feed`. Time passes here, in the world of `ad_world`: users are shown items, some click seconds to
minutes later, each impression carries the user's real last clicks, some events are delayed, some sent twice, some
messages broken (`ad_broken`). Halfway the clusters' tastes change. The same arguments give the same events, byte
for byte, whatever the batch size.

It learns nothing from what is predicted: who is shown what does not depend on any model.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming import ad_world as world_of
from headrace.streaming.ad_broken import REASONS, Message, break_message
from headrace.streaming.ad_histories import Histories
from headrace.streaming.ad_world import Floats, Ints, draw, floats, make_world, words
from headrace.streaming.contracts import VERSION_HEADER, load
from headrace.streaming.contracts.encode import encode_json

START_US = 1_767_225_600_000_000
"""Event time of the beginning, 2026-01-01T00:00:00Z, in microseconds since 1970."""
LATENESS_S = 600.0
ROUTED_BY = ("user_id",)
"""In whom the feed hides its clusters. What else it knows before an item is chosen only blurs them: decision 14 has the figures."""
STEP_EVENTS = 128
"""So short a learning step suits it: 20,000 users come ten times each."""
MAX_HISTORY = 256

_BLOCK_ROWS = 8_192
_MOST_IDLE_US = 3_600_000_000
_DELAYED, _TOO_LATE, _DUPLICATE = 1, 2, 4
# Kept apart from impression numbers, so that a broken message is never taken for a duplicate.
_BROKEN_IDS_FROM = 10**12


@dataclass
class Produced:
    """What an iterator over the feed has handed out so far; all counts are of events.

    Attributes:
        impressions, clicks: good events, those sent twice counted twice.
        duplicates: good events that had been sent before, with the same bytes.
        delayed: good events that came 20 seconds to 2 minutes after their time.
        too_late: good events that came 15 to 30 minutes after their time, beyond any sensible lateness.
        broken: broken messages by kind, see `ad_broken.REASONS`.
    """

    impressions: int = 0
    clicks: int = 0
    duplicates: int = 0
    delayed: int = 0
    too_late: int = 0
    broken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))

    @property
    def good(self) -> int:
        return self.impressions + self.clicks

    @property
    def messages(self) -> int:
        return self.good + sum(self.broken.values())


@dataclass(frozen=True)
class AdFeed:
    """An endless ad feed; its methods take as much of it as is wanted, always from the beginning.

    >>> feed = AdFeed(seed=7, n_users=100, n_items=50)
    >>> next(feed.batches(10, batch_rows=10)).num_rows
    10

    Attributes:
        ctr: share of impressions that are clicked, about, before and after the drift.
        permute_labels: clicks come as often, but do not depend on anything that is sent.
        drift_at: share of the events asked for after which the tastes have changed; 1 or more for never.
        late_share: share of events delayed by 20 to 120 seconds; all others come within a few seconds.
        too_late_share: share of events delayed by 15 to 30 minutes.
        duplicate_share: share of events that are sent a second time within half a minute.
        broken_share: broken messages per good event, only in `messages`.
        impressions_per_s: rate in event time; the default makes 200,000 events last about three hours.
        huge_bytes: least size of a broken message of the kind `huge`.
    """

    seed: int
    n_users: int = 20_000
    n_items: int = 5_000
    n_advertisers: int = 400
    ctr: float = 0.1
    permute_labels: bool = False
    drift_at: float = 0.5
    late_share: float = 0.02
    too_late_share: float = 0.005
    duplicate_share: float = 0.01
    broken_share: float = 0.0
    impressions_per_s: float = 17.0
    huge_bytes: int = (1 << 20) + 1

    def batches(
        self, n_events: int, batch_rows: int = 8_192, produced: Produced | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Good events in order of arrival, the contract's schema, all batches but the last of `batch_rows` rows.

        Args:
            n_events: rows in all, duplicates included.
            produced: counts what is handed out.
        """
        stream = _Stream(self, n_events)
        waiting: list[tuple[pa.RecordBatch, Ints]] = []
        rows, left = 0, n_events
        while left:
            while rows < min(batch_rows, left):
                waiting.append(stream.arrivals())
                rows += waiting[-1][0].num_rows
            batch = pa.concat_batches([part for part, _ in waiting])
            flags = np.concatenate([part for _, part in waiting])
            cut = 0
            while left and rows - cut >= min(batch_rows, left):
                size = min(batch_rows, left)
                if produced is not None:
                    _count(produced, batch.slice(cut, size), flags[cut : cut + size])
                yield batch.slice(cut, size)
                cut += size
                left -= size
            waiting = [(batch.slice(cut), flags[cut:])]
            rows -= cut

    def messages(self, n_events: int, produced: Produced | None = None) -> Iterator[Message]:
        """Kafka messages: the good events as JSON, keyed by user, and broken messages between them.

        Args:
            n_events: good events; broken ones come on top, `broken_share` of that number.
            produced: counts what is handed out.
        """
        rng = np.random.default_rng([self.seed, 3])
        places = np.sort(rng.integers(0, n_events, round(self.broken_share * n_events))).tolist()
        headers = [(VERSION_HEADER, b"1")]
        made = sent = 0
        for batch in self.batches(n_events, produced=produced):
            keys = [str(user).encode() for user in batch.column("user_id").to_numpy().tolist()]
            values = encode_json(batch)
            model = pc.index(batch.column("kind"), "impression").as_py()
            for key, value in zip(keys, values, strict=True):
                yield key, value, headers
                sent += 1
                while made < len(places) and places[made] < sent:
                    kind = _broken_kind(made)
                    event_id = f"i{_BROKEN_IDS_FROM + made}"
                    yield break_message(
                        kind, keys[model], values[model], event_id, huge_bytes=self.huge_bytes
                    )
                    made += 1
                    if produced is not None:
                        produced.broken[kind] += 1


def _broken_kind(number: int) -> str:
    kind = tuple(REASONS)[number % len(REASONS)]
    # A message of a megabyte in every tenth round only, or they would be most of the bytes.
    return "bad_json" if kind == "huge" and number // len(REASONS) % 10 else kind


def _count(produced: Produced, batch: pa.RecordBatch, flags: Ints) -> None:
    impressions = int(np.count_nonzero(batch.column("impression_id").is_null()))
    produced.impressions += impressions
    produced.clicks += batch.num_rows - impressions
    produced.delayed += int(np.count_nonzero(flags & _DELAYED))
    produced.too_late += int(np.count_nonzero(flags & _TOO_LATE))
    produced.duplicates += int(np.count_nonzero(flags & _DUPLICATE))


class _Stream:
    """Where the feed stands: who clicked what, which clicks are yet to come, which events are under way."""

    def __init__(self, feed: AdFeed, n_events: int) -> None:
        self._feed = feed
        self._drift_from = feed.drift_at * n_events
        self._rng = np.random.default_rng([feed.seed, 1])
        self._schema = load("ad_feed").schema
        self._world = make_world(
            np.random.default_rng([feed.seed, 0]), feed.n_users, feed.n_items, feed.n_advertisers
        )
        self._histories = Histories(*self._world.past_clicks(self._rng, MAX_HISTORY))
        self._last_seen_us = np.full(feed.n_users, START_US - _MOST_IDLE_US)
        self._now_us = START_US
        self._impressions = self._events = 0
        self._log_odds_offset = self._calibrate()
        # Clicks to come: time, user, item, domain, impression number.
        self._clicks: Ints = np.zeros((0, 5), np.int64)
        self._under_way = pa.RecordBatch.from_pylist([], self._schema)
        self._arrival_us: Ints = np.zeros(0, np.int64)
        self._flags: Ints = np.zeros(0, np.int64)

    def arrivals(self) -> tuple[pa.RecordBatch, Ints]:
        """Lets one more block of impressions pass; what has arrived by its end, in order, and its flags."""
        batch = self._block()
        rng, feed = self._rng, self._feed
        n = batch.num_rows
        chance = rng.random(n)
        too_late = chance < feed.too_late_share
        delayed = ~too_late & (chance < feed.too_late_share + feed.late_share)
        delay_s = rng.exponential(0.4, n)
        delay_s = np.where(delayed, rng.uniform(20.0, 120.0, n), delay_s)
        delay_s = np.where(too_late, rng.uniform(1.5 * LATENESS_S, 3.0 * LATENESS_S, n), delay_s)
        arrival_us = _times(batch) + (delay_s * 1e6).astype(np.int64)
        flags = delayed * _DELAYED + too_late * _TOO_LATE
        again = np.flatnonzero(rng.random(n) < feed.duplicate_share)
        again_us = arrival_us[again] + (rng.uniform(0.1, 30.0, len(again)) * 1e6).astype(np.int64)
        self._events += n + len(again)

        events = pa.concat_batches([self._under_way, batch, batch.take(pa.array(again))])
        arrival_us = np.concatenate([self._arrival_us, arrival_us, again_us])
        flags = np.concatenate([self._flags, flags, flags[again] | _DUPLICATE])
        order = np.argsort(arrival_us, kind="stable")
        there = int(np.count_nonzero(arrival_us <= self._now_us))
        self._under_way = events.take(pa.array(order[there:]))
        self._arrival_us, self._flags = arrival_us[order[there:]], flags[order[there:]]
        return events.take(pa.array(order[:there])), flags[order[:there]]

    def _block(self) -> pa.RecordBatch:
        """The next impressions and all clicks until the last of them, impressions first."""
        rng, n = self._rng, _BLOCK_ROWS
        gaps_us = rng.exponential(1e6 / self._feed.impressions_per_s, n).astype(np.int64)
        time_us = (self._now_us + np.cumsum(gaps_us)) // 1000 * 1000
        self._now_us = int(time_us[-1])
        number = self._impressions + np.arange(n)
        self._impressions += n
        user, item, shown = self._shown(n)
        # Each impression makes about 1 + ctr events.
        drifted = self._events + np.arange(n) * (1.0 + self._feed.ctr) >= self._drift_from
        chance = _sigmoid(self._world.log_odds(user, item, shown, drifted) + self._log_odds_offset)
        if self._feed.permute_labels:
            chance = np.full(n, chance.mean())
        clicked = np.flatnonzero(rng.random(n) < chance)
        wait_us = (np.minimum(rng.lognormal(np.log(10.0), 1.2, len(clicked)), 900.0) * 1e3).astype(
            np.int64
        ) * 1000
        new = [
            time_us[clicked] + wait_us,
            user[clicked],
            item[clicked],
            shown["domain"][clicked],
            number[clicked],
        ]
        clicks = np.concatenate([self._clicks, np.stack(new, axis=1)])
        due = clicks[:, 0] <= self._now_us
        self._clicks, clicks = clicks[~due], clicks[due]
        columns = self._columns(number, time_us, user, item, shown)
        columns["clicked_items"] = self._histories.before(time_us, user, clicks)
        return pa.concat_batches([_batch(columns, n, self._schema), self._click_batch(clicks)])

    def _shown(self, n: int) -> tuple[Ints, Ints, dict[str, Any]]:
        """Who is shown what, and how: whatever a click depends on."""
        rng, world = self._rng, self._world
        shown: dict[str, Any] = {
            "domain": draw(rng, world.domain_share, n),
            "placement": rng.integers(0, len(world_of.PLACEMENTS), n),
            "device": draw(rng, np.array([0.6, 0.1, 0.25, 0.05]), n),
            "position": np.minimum(rng.geometric(0.2, n) - 1, 63),
            "relevance": np.round(rng.normal(0.0, 1.0, n), 4),
            "viewability": np.round(rng.beta(2.0, 1.5, n), 4),
            "quality": np.round(rng.beta(4.0, 3.0, n), 4),
        }
        return draw(rng, world.user_share, n), draw(rng, world.item_share, n), shown

    def _calibrate(self) -> float:
        """What to add to the log-odds so that the asked share of impressions is clicked, by bisection."""
        user, item, shown = self._shown(20_000)
        log_odds = self._world.log_odds(user, item, shown, np.zeros(20_000, np.bool_))
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if _sigmoid(log_odds + middle).mean() > self._feed.ctr else (middle, high)
            )
        return low

    def _idle_s(self, time_us: Ints, user: Ints) -> Floats:
        """Seconds since each impression's user was last shown anything, at most an hour."""
        order = np.argsort(user, kind="stable")
        same = np.concatenate([[False], user[order][1:] == user[order][:-1]])
        earlier = np.where(same, np.roll(time_us[order], 1), self._last_seen_us[user[order]])
        idle_us = np.empty(len(user), np.int64)
        idle_us[order] = time_us[order] - earlier
        self._last_seen_us[user] = time_us  # of several the last one stays, which is the latest
        return np.minimum(idle_us, _MOST_IDLE_US) / 1e6

    def _columns(
        self,
        number: Ints,
        time_us: Ints,
        user: Ints,
        item: Ints,
        shown: dict[str, Any],
    ) -> dict[str, pa.Array]:
        rng, n = self._rng, len(number)
        hours = time_us // 3_600_000_000
        columns = {name: values.take(pa.array(user)) for name, values in self._world.user_columns.items()}
        columns |= {name: values.take(pa.array(item)) for name, values in self._world.item_columns.items()}
        bid = rng.lognormal(0.5, 0.6, n)
        session_s = rng.gamma(1.5, 120.0, n)
        return columns | {
            "event_id": _ids("i", number),
            "event_time": _timestamps(time_us),
            "kind": pa.repeat(pa.scalar("impression"), n),
            "user_id": pa.array(user),
            "item_id": pa.array(item),
            "domain": words(world_of.DOMAINS, shown["domain"]),
            "site_id": pa.array(shown["domain"] * 100 + draw(rng, world_of.zipf(100, 1.0), n), pa.int32()),
            "page_type": words(world_of.PAGE_TYPES, rng.integers(0, len(world_of.PAGE_TYPES), n)),
            "placement": words(world_of.PLACEMENTS, shown["placement"]),
            "position": pa.array(shown["position"], pa.int8()),
            "ad_format": words(world_of.AD_FORMATS, rng.integers(0, len(world_of.AD_FORMATS), n)),
            "device": words(world_of.DEVICES, shown["device"]),
            "connection": words(world_of.CONNECTIONS, rng.integers(0, len(world_of.CONNECTIONS), n)),
            "hour": pa.array(hours % 24, pa.int8()),
            "weekday": pa.array((hours // 24 + 3) % 7, pa.int8()),  # 1970 began on a Thursday
            "logged_in": pa.array(rng.random(n) < 0.7),
            "bid": floats(np.minimum(bid, 900.0), 3),
            "floor_price": floats(np.minimum(bid, 900.0) * rng.uniform(0.1, 0.9, n), 3),
            "budget_left": floats(rng.random(n), 3),
            "pacing": floats(np.minimum(rng.lognormal(0.0, 0.2, n), 10.0), 3),
            "quality": floats(shown["quality"], 4),
            "item_age_h": floats((item * 7919 % 2000) + (time_us - START_US) / 3.6e9, 2),
            "session_s": floats(session_s, 1),
            "session_depth": floats(np.floor(session_s / 30.0), 0),
            "idle_s": floats(self._idle_s(time_us, user), 1),
            "scroll_depth": floats(rng.random(n), 3),
            "viewability": floats(shown["viewability"], 4),
            "load_ms": floats(np.minimum(rng.lognormal(6.0, 0.6, n), 900_000.0), 0),
            "relevance": floats(shown["relevance"], 4),
        }

    def _click_batch(self, clicks: Ints) -> pa.RecordBatch:
        n = len(clicks)
        columns = {
            "event_id": _ids("c", clicks[:, 4]),
            "event_time": _timestamps(clicks[:, 0]),
            "kind": pa.repeat(pa.scalar("click"), n),
            "impression_id": _ids("i", clicks[:, 4]),
            "user_id": pa.array(clicks[:, 1]),
            "item_id": pa.array(clicks[:, 2]),
            "domain": words(world_of.DOMAINS, clicks[:, 3]),
        }
        return _batch(columns, n, self._schema)


def _batch(columns: dict[str, pa.Array], rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """The columns in contract order, those that are absent null."""
    arrays = [
        columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _ids(prefix: str, numbers: Ints) -> pa.StringArray:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _timestamps(time_us: Ints) -> pa.TimestampArray:
    return pa.array(np.ascontiguousarray(time_us)).view(pa.timestamp("us", tz="UTC"))


def _times(batch: pa.RecordBatch) -> Ints:
    return batch.column("event_time").view(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def _sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))
