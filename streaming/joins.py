"""`LabelJoin`: an impression waits for one window; if a click names it by then it comes out as a 1, else as a 0.

Between the store (which gives back the rows of a batch with the predictions made for them) and scoring and learning.
Time is event time alone: a Kafka partition's watermark is the largest event time it has brought. For each row in
arrival order, the watermark advances first, then every impression whose time + window lies before it ends; a click
counts for the newest impression of that id which came before it and has not ended. So the outcome, and the order in
which rows come out, depends on the rows alone and not on how they were cut into chunks or batches.

Every impression comes out exactly once, clicked or not when its window ends. A click that came out at once would be
fresher, but clicks would then run a window ahead of the views without one: everything would start with a rate of 1,
and every change of traffic would look like a change of taste. Clicks that name none waiting are counted as late,
second clicks as repeated; neither is an error. Duplicates of impressions are `dedupe`'s business: here each waits.

Deliberately absent: corrections for labels later than the window, and any state on disk: what waits is the rows
stored last, and `replay` rebuilds it from them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming.ids import I64, IdIndex, micros, plain
from headrace.streaming.learners.hashing import hash_values

_SEGMENT_ROWS = 8192  # a chunk: below this, segments are merged; above, merging costs more than it saves
_NEVER = -(2**63)
Mask = npt.NDArray[np.bool_]


class InlineLabel(msgspec.Struct, frozen=True, tag="inline"):
    """The label is in the event itself: 1 where `column` >= `positive_at`."""

    column: str
    positive_at: float


class JoinedLabel(msgspec.Struct, frozen=True, tag="joined"):
    """The label is another event: kind `click`, naming in `refers_to` the event id of an impression it clicked."""

    window_us: int
    kind: str = "kind"
    impression: str = "impression"
    click: str = "click"
    refers_to: str = "impression_id"


@dataclass
class JoinCounts:
    """What has happened since the start; impressions = positives + negatives + waiting. Replays count nothing."""

    impressions: int = 0
    positives: int = 0
    negatives: int = 0
    late_labels: int = 0
    repeated_labels: int = 0


@dataclass
class _Segment:
    """Impressions that came together and wait: `rows` with their index, and per row four arrays of that length."""

    rows: pa.RecordBatch
    index: IdIndex
    ends: I64  # event time in us after which the impression ends
    arrival: I64  # place in the partition's sequence of rows
    waiting: Mask  # not ended yet
    clicked: Mask

    def __post_init__(self) -> None:
        self.first_end = int(self.ends.min())


@dataclass
class _Partition:
    watermark: int = _NEVER
    arrived: int = 0
    segments: list[_Segment] = field(default_factory=list)


class LabelJoin:
    """Joins clicks to impressions, one state for each Kafka partition; see the module.

    `carry` names the columns of an impression that come out again, beside `label: uint8`. Memory is what waits: the
    carried columns of the impressions of one window, plus an index of 16 bytes for each. After a restart, give the
    `watermarks_us` and `counts` it had, then `replay`.
    """

    def __init__(
        self,
        label: JoinedLabel,
        carry: tuple[str, ...],
        *,
        event_id: str = "event_id",
        event_time: str = "event_time",
        watermarks_us: Mapping[int, int] | None = None,
        counts: JoinCounts | None = None,
    ) -> None:
        if label.window_us < 0:
            raise ValueError(f"window_us must not be negative, came {label.window_us}")
        self.label = label
        self.carry = carry
        self.counts = JoinCounts() if counts is None else counts
        self._event_id, self._event_time = event_id, event_time
        self._partitions = {p: _Partition(watermark) for p, watermark in (watermarks_us or {}).items()}

    def feed(self, partition: int, chunk: pa.RecordBatch) -> pa.RecordBatch:
        """Take the next rows of a partition, in arrival order; return the impressions whose windows they end.

        The result has the carried columns and `label`, in the order in which the rows of `chunk` end them.
        Raises ValueError for a null event time.
        """
        state = self._partitions.setdefault(partition, _Partition())
        times = micros(chunk.column(self._event_time))
        if not len(times):
            return self._resolved(chunk.schema, [])
        watermarks = np.maximum(np.maximum.accumulate(times), state.watermark)
        kinds = chunk.column(self.label.kind)
        shown, clicks = rows_of_kind(kinds, self.label.impression), rows_of_kind(kinds, self.label.click)
        if len(shown):
            state.segments.append(self._segment(chunk, shown, times, state.arrived))
        self.counts.impressions += len(shown)
        self._click(state, chunk.column(self.label.refers_to), clicks, watermarks)
        out = [_end(segment, state.arrived, watermarks) for segment in state.segments]
        state.watermark = int(watermarks[-1])
        state.arrived += len(times)
        state.segments = _compact(state.segments)
        return self._resolved(chunk.schema, out)

    def replay(self, partition: int, chunk: pa.RecordBatch) -> None:
        """Rebuild what waits from rows that were fed before: the same feed, with nothing emitted or counted.

        The rows must be those of the partition, in arrival order, from its oldest waiting impression on (`oldest`);
        more do no harm. With the watermark given at construction, what had ended ends again at once.
        """
        before = replace(self.counts)
        self.feed(partition, chunk)
        vars(self.counts).update(vars(before))

    def flush(self) -> Iterator[pa.RecordBatch]:
        """End every waiting impression, oldest first, as if time had passed; a batch for each partition with any."""
        for _, state in sorted(self._partitions.items()):
            rows = [np.flatnonzero(segment.waiting) for segment in state.segments]
            ended = [
                _Ended(segment, n, np.zeros(len(n), dtype=np.int64))
                for segment, n in zip(state.segments, rows, strict=True)
            ]
            state.segments = []
            if ended:
                yield self._resolved(ended[0].segment.rows.schema, ended)

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(sorted(self._partitions))

    @property
    def watermarks_us(self) -> dict[int, int]:
        """The largest event time that each partition has brought."""
        return {p: s.watermark for p, s in sorted(self._partitions.items()) if s.watermark > _NEVER}

    @property
    def waiting(self) -> int:
        """Impressions that have not ended, clicked ones included."""
        return sum(int(segment.waiting.sum()) for s in self._partitions.values() for segment in s.segments)

    def oldest(self, partition: int, column: str) -> int | None:
        """The carried integer `column` (such as the offset) of the first impression to have come that still waits."""
        for segment in self._partitions[partition].segments:
            rows = np.flatnonzero(segment.waiting)
            if len(rows):
                first = rows[np.argmin(segment.arrival[rows])]
                return int(segment.rows.column(column)[int(first)].as_py())
        return None

    def _segment(self, chunk: pa.RecordBatch, shown: I64, times: I64, arrived: int) -> _Segment:
        names = dict.fromkeys((*self.carry, self._event_id))
        rows = chunk.select(list(names)).take(pa.array(shown))  # a copy: the chunk itself can go
        index = IdIndex(rows.column(self._event_id))
        fresh = np.zeros(len(shown), dtype=np.bool_)
        return _Segment(rows, index, times[shown] + self.label.window_us, arrived + shown, ~fresh, fresh)

    def _click(self, state: _Partition, refers_to: pa.Array, clicks: I64, watermarks: I64) -> None:
        """Give each click, in the chunk's rows `clicks`, the newest impression it names that waits when it comes."""
        named = plain(refers_to).take(pa.array(clicks))
        hashes = hash_values(named)
        found = []
        for place, segment in enumerate(state.segments):
            click, row = segment.index.pairs(named, hashes)
            at = clicks[click]
            alive = segment.waiting[row] & (segment.arrival[row] < state.arrived + at)
            alive &= segment.ends[row] >= watermarks[at]
            found.append(
                (click[alive], np.full(int(alive.sum()), place), row[alive], segment.arrival[row[alive]])
            )
        if not found:
            self.counts.late_labels += len(clicks)
            return
        click, places, row, arrival = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((-arrival, click))  # a click's newest impression first
        click, places, row = click[order], places[order], row[order]
        newest = np.ones(len(click), dtype=np.bool_)
        newest[1:] = click[1:] != click[:-1]
        places, row = places[newest], row[newest]
        self.counts.late_labels += len(clicks) - len(row)
        self.counts.repeated_labels += len(row)
        for number in np.unique(places):
            segment = state.segments[number]
            named_here = np.unique(row[places == number])
            self.counts.repeated_labels -= int((~segment.clicked[named_here]).sum())
            segment.clicked[named_here] = True

    def _resolved(self, schema: pa.Schema, ended: "list[_Ended]") -> pa.RecordBatch:
        carried = pa.schema([schema.field(name) for name in self.carry])
        ended = [part for part in ended if len(part.rows)]
        if not ended:
            return pa.RecordBatch.from_pylist([], schema=carried.append(pa.field("label", pa.uint8())))
        labels = np.concatenate([part.segment.clicked[part.rows] for part in ended]).astype(np.uint8)
        places = np.concatenate([part.places for part in ended])
        arrival = np.concatenate([part.segment.arrival[part.rows] for part in ended])
        positives = int(labels.sum())
        self.counts.positives += positives
        self.counts.negatives += len(labels) - positives
        order = np.lexsort((arrival, places))
        rows = pa.concat_batches(
            [part.segment.rows.select(list(self.carry)).take(pa.array(part.rows)) for part in ended]
        )
        return rows.take(pa.array(order)).append_column("label", pa.array(labels[order]))


@dataclass
class _Ended:
    segment: _Segment
    rows: I64
    places: I64  # the chunk's row that ended each


def _end(segment: _Segment, arrived: int, watermarks: I64) -> _Ended:
    """End what the watermarks have passed."""
    if segment.first_end >= watermarks[-1]:
        nothing = np.empty(0, dtype=np.int64)
        return _Ended(segment, nothing, nothing)
    places = np.searchsorted(watermarks, segment.ends, side="right")
    places = np.maximum(places, segment.arrival - arrived)  # one that comes too late ends as it comes
    rows = np.flatnonzero(segment.waiting & (places < len(watermarks)))
    segment.waiting[rows] = False
    return _Ended(segment, rows, places[rows])


def inline_labels(chunk: pa.RecordBatch, label: InlineLabel) -> npt.NDArray[np.uint8]:
    """Labels that are in the events: `uint8[n]`, 1 where the column reaches `positive_at`; null counts as 0."""
    reached = pc.call_function("greater_equal", [chunk.column(label.column), pa.scalar(label.positive_at)])
    labels: npt.NDArray[np.uint8] = reached.fill_null(False).cast(pa.uint8()).to_numpy(zero_copy_only=False)
    return labels


def rows_of_kind(kinds: pa.Array, kind: str) -> I64:
    """The rows of `kinds: [n]`, strings or a dictionary of them, that are of one kind; nulls are of none."""
    return np.flatnonzero(
        pc.call_function("equal", [plain(kinds), pa.scalar(kind)])
        .fill_null(False)
        .to_numpy(zero_copy_only=False)
    )


def _compact(segments: list[_Segment]) -> list[_Segment]:
    """Let go of what has ended, and merge small neighbours, doubling, so that each row is moved a few times at most."""
    kept: list[_Segment] = []
    for segment in segments:
        n_waiting = int(segment.waiting.sum())
        if not n_waiting:
            continue
        current = _gather([segment]) if 2 * n_waiting < len(segment.waiting) else segment
        while kept and len(kept[-1].ends) <= len(current.ends) <= _SEGMENT_ROWS // 2:
            current = _gather([kept.pop(), current])
        kept.append(current)
    return kept


def _gather(segments: list[_Segment]) -> _Segment:
    """One segment of the rows of several that still wait."""
    keep = [np.flatnonzero(segment.waiting) for segment in segments]
    pairs = list(zip(segments, keep, strict=True))
    rows = pa.concat_batches([segment.rows.take(pa.array(k)) for segment, k in pairs])
    ids = pa.concat_arrays([segment.index.ids.take(pa.array(k)) for segment, k in pairs])
    return _Segment(
        rows,
        IdIndex(ids),
        np.concatenate([segment.ends[k] for segment, k in pairs]),
        np.concatenate([segment.arrival[k] for segment, k in pairs]),
        np.ones(len(ids), dtype=np.bool_),
        np.concatenate([segment.clicked[k] for segment, k in pairs]),
    )
