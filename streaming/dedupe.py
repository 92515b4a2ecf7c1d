"""`separate`: which events of a partition are new, which come too late, and which have come before.

On the executors, after the contract and before anything is predicted or stored. An event is late when its time lies
more than the allowed lateness before the watermark its Kafka partition had when the batch began; it is a duplicate
when its id is among the partition's `SeenIds` or earlier in the same batch. Nothing is raised and nothing is lost:
three masks say where each row goes, and together they cover every row once.

The watermark is fixed for the whole batch, so that cutting the batch into chunks changes nothing. `SeenIds` is plain
ids and times, rebuilt from the stored table by whichever executor gets the partition next; keep ids at least as long
as events may be late, and an event that comes again is either recognised or late.

Deliberately absent: duplicates across partitions. Producers key events, and one key stays in one partition.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.streaming.ids import I64, IdIndex, micros, plain

Mask = npt.NDArray[np.bool_]


class SeenIds:
    """The ids one partition has brought within `horizon_us` of event time before its watermark.

    >>> seen = SeenIds(horizon_us=10)
    >>> seen.add(pa.array(["a", "b"]), pa.array([100, 200]))
    >>> seen.contains(pa.array(["a", "b", "c"]), watermark_us=200).tolist()
    [False, True, False]
    """

    def __init__(self, horizon_us: int) -> None:
        if horizon_us < 0:
            raise ValueError(f"horizon_us must not be negative, came {horizon_us}")
        self.horizon_us = horizon_us
        self._parts: list[tuple[IdIndex, I64]] = []  # an index and the times of its ids

    def __len__(self) -> int:
        return sum(len(index) for index, _ in self._parts)

    def add(self, ids: pa.Array, times: pa.Array) -> None:
        """Remember `ids: [n]` (strings or integers) with their event `times: [n]` (timestamps or microseconds)."""
        if not len(ids):
            return
        index, at = IdIndex(ids), micros(times)
        # Merged by doubling, like a binary counter: an id is moved a logarithmic number of times.
        while self._parts and len(self._parts[-1][0]) <= len(index):
            older, older_at = self._parts.pop()
            index = IdIndex(pa.concat_arrays([older.ids, index.ids.cast(older.ids.type)]))
            at = np.concatenate([older_at, at])
        self._parts.append((index, at))

    def contains(self, ids: pa.Array, watermark_us: int | None) -> Mask:
        """Which of `ids: [n]` are remembered with a time within the horizon of `watermark_us` (None: any time)."""
        found = np.zeros(len(ids), dtype=np.bool_)
        for index, at in self._parts:
            needle, row = index.pairs(ids)
            found[needle[self._alive(at[row], watermark_us)]] = True
        return found

    def forget(self, watermark_us: int) -> None:
        """Let go of what `contains` no longer finds at this watermark or a later one."""
        kept: list[tuple[IdIndex, I64]] = []
        for index, at in self._parts:
            alive = self._alive(at, watermark_us)
            if alive.all():
                kept.append((index, at))
            elif alive.any():
                kept.append((IdIndex(index.ids.filter(pa.array(alive))), at[alive]))
        self._parts = kept

    def _alive(self, at: I64, watermark_us: int | None) -> Mask:
        if watermark_us is None:
            return np.ones(len(at), dtype=np.bool_)
        return at >= watermark_us - self.horizon_us


@dataclass(frozen=True)
class Separation:
    """Where each of n rows goes: three `bool[n]` of which exactly one is True in every row."""

    fresh: Mask
    late: Mask
    duplicate: Mask


def separate(
    ids: pa.Array, times: pa.Array, *, watermark_us: int | None, lateness_us: int, seen: SeenIds
) -> Separation:
    """Sort one partition's next rows into fresh, late and duplicate; the fresh ones are added to `seen`.

    ids: strings or integers [n]; a null id equals no other. times: event times [n]. watermark_us: the partition's
    largest event time before this batch, None if it has none. A row that is late is not looked up. Raises ValueError
    if `seen` forgets ids before their events are late.

    >>> parted = separate(
    ...     pa.array(["a", "b", "a"]), pa.array([5, 1, 5]), watermark_us=9, lateness_us=4, seen=SeenIds(4)
    ... )
    >>> parted.fresh.tolist(), parted.late.tolist(), parted.duplicate.tolist()
    ([True, False, False], [False, True, False], [False, False, True])
    """
    if seen.horizon_us < lateness_us:
        raise ValueError(
            f"ids are kept for {seen.horizon_us} us, but events may be {lateness_us} us late: between the two a "
            "duplicate would pass as new; keep ids at least that long"
        )
    at = micros(times)
    late = np.zeros(len(at), dtype=np.bool_) if watermark_us is None else at < watermark_us - lateness_us
    candidate = ~late & ~seen.contains(ids, watermark_us)
    rows = np.flatnonzero(candidate)
    fresh = np.zeros(len(at), dtype=np.bool_)
    fresh[rows[_first(ids.take(pa.array(rows)))]] = True
    seen.add(ids.filter(pa.array(fresh)), times.filter(pa.array(fresh)))
    return Separation(fresh, late, ~late & ~fresh)


def _first(ids: pa.Array) -> Mask:
    """Which rows are the first of their id, `bool[n]`; a null always is."""
    codes = plain(ids).dictionary_encode().indices
    first: Mask = ids.is_null().to_numpy(zero_copy_only=False).copy()
    known = np.flatnonzero(~first)
    _, place = np.unique(codes.fill_null(-1).to_numpy(zero_copy_only=False)[known], return_index=True)
    first[known[place]] = True
    return first
