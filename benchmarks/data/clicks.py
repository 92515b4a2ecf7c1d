"""Click histories: what a user's log of clicked ids looked like at each of his rows, newest first.

``windows`` shows logs that only grow. ``noisy_windows`` edits them as they grow, the way real logs are edited: clicks that come
out of order, clicks that are taken back, clicks that arrive after younger ones. An edit stays in the user's log, and
all his later rows see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
_ROWS_AT_A_TIME = 8_192


@dataclass(frozen=True)
class Noise:
    """How a user's click log is edited as it grows.

    Attributes:
        swap_share: new clicks that change places with the click before them.
        remove_share: clicks that are removed at a later row of their user, any with the same probability; those that his
            first row found are among them.
        late_share: new clicks that arrive late: they are inserted behind younger ones.
        late_back: behind 1 to so many of them.
    """

    swap_share: float = 0.02
    remove_share: float = 0.01
    late_share: float = 0.01
    late_back: int = 32


def windows(ids: Ints, came: Ints, start: Ints, cap: int) -> pa.Array:
    """Histories of logs that only grow.

    Args:
        ids: all clicks, in the order in which they came, row by row.
        came: for each row, how many clicks its user's log grew by since his row before.
        start: for each row, the number of its user's first row; a user's rows are neighbours.
        cap: at most so many clicks are seen.

    Returns:
        list<int64>, one list per row.
    """
    ends = np.cumsum(came)
    lengths = np.minimum(ends - (ends - came)[start], cap)
    offsets = _offsets(lengths)
    out = np.empty(offsets[-1], np.int64)
    for low in range(0, len(came), _ROWS_AT_A_TIME):
        high = min(low + _ROWS_AT_A_TIME, len(came))
        span = slice(offsets[low], offsets[high])
        back = np.arange(span.start, span.stop) - np.repeat(offsets[low:high], lengths[low:high])
        out[span] = ids[np.repeat(ends[low:high] - 1, lengths[low:high]) - back]
    return _lists(offsets, out)


def noisy_windows(
    ids: Ints, came: Ints, start: Ints, cap: int, noise: Noise, rng: np.random.Generator
) -> pa.Array:
    """Histories of logs that are edited as they grow; arguments as for ``windows``, in the order of users too."""
    swapped = rng.random(len(ids)) < noise.swap_share
    late = np.where(
        rng.random(len(ids)) < noise.late_share, rng.integers(1, noise.late_back + 1, len(ids)), 0
    )
    removals = _removals(came, start, noise.remove_share, rng)
    log = _Log(swapped.tolist(), late.tolist())
    parts: list[Ints] = []
    for row, end in enumerate(np.cumsum(came).tolist()):
        began = end - int(came[row])
        if start[row] == row:
            log.begin(began, end)
        else:
            for click in range(began, end):
                log.add(click)
        for click in removals.get(row, ()):
            log.remove(click)
        parts.append(log.newest(cap))
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    return _lists(_offsets(lengths), ids[np.concatenate(parts)])


def _removals(came: Ints, start: Ints, share: float, rng: np.random.Generator) -> dict[int, list[int]]:
    """By row, the clicks that are gone from then on. Those of a user's last row have no later one and stay."""
    rows = np.arange(len(came))
    last = np.searchsorted(start, start, side="right") - 1
    row_of = np.repeat(rows, came)
    doomed = np.flatnonzero((rng.random(len(row_of)) < share) & (row_of < last[row_of]))
    now = row_of[doomed]
    removed: dict[int, list[int]] = {}
    for click, row in zip(doomed.tolist(), rng.integers(now + 1, last[now] + 1).tolist(), strict=True):
        removed.setdefault(row, []).append(click)
    return removed


class _Log:
    """One user's log: the numbers of his clicks, oldest first, in a buffer that all users share in turn."""

    def __init__(self, swapped: list[bool], late: list[int]) -> None:
        self._swapped, self._late = swapped, late
        self._clicks = np.empty(1_024, np.int64)
        self._n = 0

    def begin(self, first: int, end: int) -> None:
        """Another user's log, which holds clicks ``first`` to ``end`` already."""
        self._n = end - first
        self._grow(self._n)
        self._clicks[: self._n] = np.arange(first, end)

    def add(self, click: int) -> None:
        """One more click, wherever it belongs."""
        self._grow(self._n + 1)
        log, n = self._clicks, self._n
        back = min(self._late[click], n)
        log[n - back + 1 : n + 1] = log[n - back : n].copy()
        log[n - back] = click
        self._n = n + 1
        if back == 0 and n and self._swapped[click]:
            log[n], log[n - 1] = log[n - 1], log[n]

    def remove(self, click: int) -> None:
        """Take a click of this log back."""
        at = int(np.flatnonzero(self._clicks[: self._n] == click)[0])
        self._clicks[at : self._n - 1] = self._clicks[at + 1 : self._n].copy()
        self._n -= 1

    def newest(self, cap: int) -> Ints:
        """The last ``cap`` clicks, newest first."""
        return self._clicks[max(self._n - cap, 0) : self._n][::-1].copy()

    def _grow(self, wanted: int) -> None:
        if wanted > len(self._clicks):
            larger = np.empty(2 * wanted, np.int64)
            larger[: len(self._clicks)] = self._clicks
            self._clicks = larger


def _offsets(lengths: Ints) -> Ints:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _lists(offsets: Ints, items: Ints) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(items))
