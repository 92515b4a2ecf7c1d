"""`Pending`: impressions that wait for their label, with the prediction that was made for each and the version that made it.

In the flow: an impression is `show`n when it arrives; a label `join`s it; when its window has passed it is `resolve`d: clicked or not, once.
What comes out has the features to learn from and the prediction to score: the one of its arrival, never a fresh one.

Bad labels are counted and change nothing: for an impression that was never shown or has been resolved (`late`, and given back to be
kept), for one that is clicked already (`repeated`). An impression shown twice while it waits waits once (`shown_twice`). Above
`capacity` the oldest are resolved early, as they stand, and counted (`cut_short`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding.keys import U64

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


class Impressions(NamedTuple):
    """n impressions."""

    event: U64  # [n, 2] key of the event's id
    time: F64  # [n] when it was shown
    keys: U64  # [n, F, 2]
    numbers: F32  # [n, N]
    scores: F32  # [n, S] predictions made when it arrived; the first is the learner's own
    version: I64  # [n] of the snapshot that predicted
    domain: I64  # [n] place in the learner's list of domains
    group: npt.NDArray[np.uint64]  # [n] whose impression it is, for GAUC
    clicked: U8  # [n]

    def take(self, places: Any) -> "Impressions":
        """Some of them, in that order."""
        parts: list[Any] = [column[places] for column in self]
        return Impressions(*parts)


class Counts(msgspec.Struct):
    """What happened since the start; shown = resolved + waiting."""

    shown: int = 0
    clicked: int = 0
    resolved: int = 0
    late: int = 0
    repeated: int = 0
    shown_twice: int = 0
    cut_short: int = 0
    no_id: int = 0


@dataclass
class _Segment:
    """Impressions that came together, the low words of their events sorted beside them, and which still wait."""

    rows: Impressions
    order: I64
    sorted_low: U64
    waits: Bool


class Pending:
    """See the module. window: how long an impression waits, in the unit of its time. capacity: impressions that may wait.

    Raises ValueError.
    """

    def __init__(self, window: float, capacity: int = 1 << 20) -> None:
        if not window >= 0 or capacity < 1:
            raise ValueError(f"expected window >= 0 and capacity >= 1, came {window} and {capacity}")
        self.window, self.capacity = window, capacity
        self.counts = Counts()
        self._segments: list[_Segment] = []

    @property
    def waiting(self) -> int:
        """Impressions that wait."""
        return sum(int(segment.waits.sum()) for segment in self._segments)

    def show(self, rows: Impressions) -> Bool:
        """Let `rows` wait; which of them do, `bool[n]`: not those that wait already or came before in `rows`."""
        fresh = np.ones(len(rows.time), bool)
        _, first = np.unique(_whole(rows.event), return_index=True)
        repeated = np.ones(len(rows.time), bool)
        repeated[first] = False
        fresh &= ~repeated
        for segment in self._segments:
            places, at = _meet(segment, rows.event)
            fresh[at[segment.waits[places]]] = False
        self.counts.shown_twice += int((~fresh).sum())
        self._append(rows.take(fresh))
        self.counts.shown += int(fresh.sum())
        return fresh

    def join(self, events: U64) -> tuple[Impressions, I64]:
        """Clicks on `events: uint64[n, 2]`: the impressions that are clicked now, and the places among `events` that came late."""
        met = np.zeros(len(events), bool)
        found: list[Impressions] = []
        joined = 0
        for segment in self._segments:
            places, at = _meet(segment, events)
            waits = segment.waits[places]
            places, at = places[waits], at[waits]
            met[at] = True
            new = np.unique(places[segment.rows.clicked[places] == 0])
            segment.rows.clicked[new] = 1
            joined += len(new)
            if len(new):
                found.append(segment.rows.take(new))
        late = np.flatnonzero(~met)
        self.counts.clicked += joined
        self.counts.repeated += int(met.sum()) - joined
        self.counts.late += len(late)
        return _joined(found), late

    def resolve(self, now: float) -> Impressions:
        """What has waited for its window at time `now`, in the order of arrival, with what `clicked` says by then."""
        out: list[Impressions] = []
        for segment in self._segments:
            ended = segment.waits & (segment.rows.time + self.window <= now)
            if ended.any():
                out.append(segment.rows.take(np.flatnonzero(ended)))
                segment.waits[ended] = False
        over = self.waiting - self.capacity
        for segment in self._segments:
            if over <= 0:
                break
            early = np.flatnonzero(segment.waits)[:over]
            out.append(segment.rows.take(early))
            segment.waits[early] = False
            self.counts.cut_short += len(early)
            over -= len(early)
        self._segments = [segment for segment in self._segments if segment.waits.any()]
        resolved = _joined(out)
        self.counts.resolved += len(resolved.time)
        return resolved

    def drop(self, which: Callable[[Impressions], Bool]) -> int:
        """Drop what waits and is meant by `which`, unlearnt, to the last byte; how many."""
        waiting = self.all()
        if not len(waiting.time):
            return 0
        kept = waiting.take(~which(waiting))
        self._segments = []
        self._append(kept)
        dropped = len(waiting.time) - len(kept.time)
        self.counts.shown -= dropped
        return dropped

    def all(self) -> Impressions:
        """Everything that waits, in the order of arrival."""
        return _joined([segment.rows.take(np.flatnonzero(segment.waits)) for segment in self._segments])

    def restore(self, rows: Impressions, counts: Counts) -> None:
        """Wait for what `all` gave."""
        self._segments = []
        self._append(rows)
        self.counts = counts

    def _append(self, rows: Impressions) -> None:
        if len(rows.time):
            order = np.argsort(rows.event[:, 0], kind="stable")
            self._segments.append(_Segment(rows, order, rows.event[order, 0], np.ones(len(rows.time), bool)))


def _meet(segment: _Segment, events: U64) -> tuple[I64, I64]:
    """Pairs of equal events: places in the segment, places in `events: uint64[n, 2]`."""
    start = np.searchsorted(segment.sorted_low, events[:, 0], "left")
    stop = np.searchsorted(segment.sorted_low, events[:, 0], "right")
    times = stop - start
    at = np.repeat(np.arange(len(events)), times)
    run = np.arange(len(at)) - np.repeat(np.cumsum(times) - times, times)
    places = segment.order[np.repeat(start, times) + run]
    same = segment.rows.event[places, 1] == events[at, 1]
    return places[same], at[same]


def _whole(keys: U64) -> Any:
    return np.ascontiguousarray(keys).view([("low", np.uint64), ("high", np.uint64)]).reshape(len(keys))


def _joined(parts: list[Impressions]) -> Impressions:
    parts = [part for part in parts if len(part.time)]
    if not parts:
        return NOTHING
    if len(parts) == 1:
        return parts[0]
    whole: list[Any] = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    return Impressions(*whole)


NOTHING = Impressions(
    np.zeros((0, 2), np.uint64),
    np.zeros(0),
    np.zeros((0, 1, 2), np.uint64),
    np.zeros((0, 0), np.float32),
    np.zeros((0, 1), np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint64),
    np.zeros(0, np.uint8),
)
"""No impressions; whatever is joined with it keeps its own widths."""
