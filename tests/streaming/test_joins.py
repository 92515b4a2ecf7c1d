"""The label join against a twin made of dicts, over random interleavings and ways to cut them into chunks."""

import itertools
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.joins import InlineLabel, JoinCounts, JoinedLabel, LabelJoin, inline_labels

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("kind", pa.string()),
        ("impression_id", pa.string()),
        ("row", pa.int64()),
    ]
)
LABEL = JoinedLabel(window_us=10)
CARRY = ("row", "event_time")


class NaiveJoin:
    """One event at a time, as the module's docstring tells it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.watermark: int | None = None
        self.waiting: list[dict] = []  # in order of arrival
        self.counts = JoinCounts()

    def event(self, event_id, time, kind, refers_to, row):
        out = []
        self.watermark = time if self.watermark is None else max(self.watermark, time)
        if kind == "impression":
            self.waiting.append({"id": event_id, "end": time + self.window, "clicked": False, "row": row})
            self.counts.impressions += 1
        for impression in list(self.waiting):
            if impression["end"] < self.watermark:
                self.waiting.remove(impression)
                out.append(self._out(impression))
        if kind == "click":
            named = [i for i in self.waiting if i["id"] == refers_to and refers_to is not None]
            if not named:
                self.counts.late_labels += 1
            elif named[-1]["clicked"]:
                self.counts.repeated_labels += 1
            else:
                named[-1]["clicked"] = True
        return out

    def flush(self):
        out = [self._out(impression) for impression in self.waiting]
        self.waiting = []
        return out

    def _out(self, impression):
        if impression["clicked"]:
            self.counts.positives += 1
        else:
            self.counts.negatives += 1
        return impression["row"], int(impression["clicked"])


def batch(events, start=0) -> pa.RecordBatch:
    rows = [dict(zip(SCHEMA.names, (*event, start + n), strict=True)) for n, event in enumerate(events)]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def outcomes(resolved: pa.RecordBatch) -> list[tuple[int, int]]:
    return list(zip(resolved.column("row").to_pylist(), resolved.column("label").to_pylist(), strict=True))


def fed(join: LabelJoin, events, cuts) -> list[tuple[int, int]]:
    out, edges = [], [0, *sorted(cut % (len(events) + 1) for cut in cuts), len(events)]
    for start, stop in itertools.pairwise(edges):
        out += outcomes(join.feed(0, batch(events[start:stop], start)))
    return out


names = st.sampled_from(["a", "b", "c"])
event = st.one_of(
    st.tuples(names, st.integers(0, 40), st.just("impression"), st.none()),
    st.tuples(names, st.integers(0, 40), st.just("click"), st.none() | names),
    st.tuples(names, st.integers(0, 40), st.just("other") | st.none(), st.none() | names),
)
streams = st.lists(event, max_size=40)
ways = st.lists(st.integers(0, 1000), max_size=6)


@settings(deadline=None, max_examples=200)
@given(events=streams, cuts=ways, window=st.integers(0, 20))
def test_it_does_what_the_naive_twin_does_however_the_rows_are_cut(events, cuts, window):
    naive = NaiveJoin(window)
    expected = [row for n, event in enumerate(events) for row in naive.event(*event, n)]
    join = LabelJoin(JoinedLabel(window), CARRY)
    assert fed(join, events, cuts) == expected
    assert join.waiting == len(naive.waiting)
    assert [row for part in join.flush() for row in outcomes(part)] == naive.flush()
    assert join.counts == naive.counts
    assert join.counts.impressions == join.counts.positives + join.counts.negatives
    assert join.waiting == 0


@settings(deadline=None)
@given(events=streams, cuts=ways, stop=st.integers(0, 40), window=st.integers(0, 20))
def test_a_restart_goes_on_as_if_nothing_had_happened(events, cuts, stop, window):
    """What waits is rebuilt from the rows from `oldest` on, the watermark and the counts."""
    label, stop = JoinedLabel(window), stop % (len(events) + 1)
    whole = LabelJoin(label, CARRY)
    fed(whole, events[:stop], cuts)
    oldest = whole.oldest(0, "row")
    restarted = LabelJoin(
        label, CARRY, watermarks_us=whole.watermarks_us, counts=JoinCounts(**asdict(whole.counts))
    )
    if oldest is not None:
        for start in range(oldest, stop, 3):
            restarted.replay(0, batch(events[start : min(start + 3, stop)], start))
    assert restarted.counts == whole.counts
    assert restarted.waiting == whole.waiting
    rest = batch(events[stop:], stop)
    assert outcomes(restarted.feed(0, rest)) == outcomes(whole.feed(0, rest))
    assert [outcomes(part) for part in restarted.flush()] == [outcomes(part) for part in whole.flush()]
    assert restarted.counts == whole.counts


def test_a_click_within_the_window_makes_a_one_and_the_rest_are_told_apart():
    join = LabelJoin(LABEL, CARRY)
    events = [
        ("i1", 0, "impression", None),
        ("i2", 1, "impression", None),
        ("c1", 5, "click", "i1"),
        ("c2", 6, "click", "i1"),  # again
        ("c3", 7, "click", "nobody"),
        ("c4", 10, "click", "i1"),  # the window's last moment: again
        ("i3", 11, "impression", None),  # ends i1
        ("c5", 12, "click", "i2"),  # ends i2, and comes too late for it
    ]
    resolved = join.feed(0, batch(events))
    assert outcomes(resolved) == [(0, 1), (1, 0)]
    assert resolved.schema.names == ["row", "event_time", "label"]
    assert resolved.column("label").type == pa.uint8()
    assert join.counts == JoinCounts(3, positives=1, negatives=1, late_labels=2, repeated_labels=2)
    assert join.watermarks_us == {0: 12}
    assert (join.waiting, join.oldest(0, "row")) == (1, 6)


def test_a_click_is_for_the_newest_impression_it_names_that_waits():
    join = LabelJoin(LABEL, CARRY)
    events = [
        ("i", 0, "impression", None),
        ("i", 5, "impression", None),
        ("c1", 6, "click", "i"),
        ("i", 9, "impression", None),
        ("c2", 10, "click", "i"),
        ("late", 100, "other", None),
    ]
    assert outcomes(join.feed(0, batch(events))) == [(0, 0), (1, 1), (3, 1)]


def test_partitions_do_not_see_each_other():
    join = LabelJoin(LABEL, CARRY)
    join.feed(0, batch([("i1", 0, "impression", None)]))
    assert outcomes(join.feed(1, batch([("c1", 100, "click", "i1")]))) == []
    assert join.counts.late_labels == 1
    assert (join.waiting, join.watermarks_us) == (1, {0: 0, 1: 100})
    assert join.oldest(1, "row") is None


def test_a_batch_of_nothing_is_nothing():
    join = LabelJoin(LABEL, CARRY)
    assert join.feed(3, batch([])).schema.names == ["row", "event_time", "label"]
    assert list(join.flush()) == []
    assert join.watermarks_us == {}


def test_what_waits_is_bounded_by_the_window_not_by_what_came():
    join = LabelJoin(JoinedLabel(1000), CARRY)
    sizes = []
    for start in range(0, 24_000, 50):  # many small chunks, and now and then an event from the future
        events = [
            (f"i{n}", n + (900 if n % 500 == 0 else 0), "impression", None) for n in range(start, start + 50)
        ]
        join.feed(0, batch(events, start))
        segments = join._partitions[0].segments
        sizes.append((len(segments), sum(len(segment.ends) for segment in segments)))
    assert max(count for count, _ in sizes) <= 16
    assert max(rows for _, rows in sizes[20:]) <= 2 * 1950 + 50  # at most half of a segment has ended


def test_ids_may_be_numbers_and_columns_dictionaries():
    def numbered(events):
        plain = batch(events)
        columns = {name: plain.column(name) for name in SCHEMA.names}
        columns["event_id"] = pa.array([int(value[1:]) for value in plain.column("event_id").to_pylist()])
        references = [value and int(value[1:]) for value in plain.column("impression_id").to_pylist()]
        columns["impression_id"] = pa.array(references, pa.int64())
        columns["kind"] = plain.column("kind").dictionary_encode()
        return pa.RecordBatch.from_pydict(columns)

    join = LabelJoin(LABEL, CARRY)
    events = [("i1", 0, "impression", None), ("c2", 1, "click", "i1"), ("i3", 50, "impression", None)]
    assert outcomes(join.feed(0, numbered(events))) == [(0, 1)]


def test_impossible_windows_and_times_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        LabelJoin(JoinedLabel(-1), CARRY)
    with pytest.raises(ValueError, match="event times are null"):
        LabelJoin(LABEL, CARRY).feed(0, batch([("i1", None, "impression", None)]))


def test_inline_labels_are_read_where_they_stand():
    chunk = pa.RecordBatch.from_pydict({"rating": pa.array([4.0, 3.9, None, 5.0], pa.float32())})
    labels = inline_labels(chunk, InlineLabel("rating", 4.0))
    assert labels.tolist() == [1, 0, 0, 1]
    assert labels.dtype == np.uint8
