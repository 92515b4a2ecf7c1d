"""What each user of the generated ad feed has clicked, as every impression would have seen it.

A block of time at a time: `ad_feed` hands over the block's impressions and clicks, and gets each impression's
window of the user's last clicks before it. All users at once, with sorting and index arithmetic instead of loops.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Histories:
    """The last clicks of every user.

    Args:
        clicked: int32[users, window], each user's clicked items, oldest first, the rest of the row unused; it is
            kept and changed.
        counts: int64[users], how many of each row are used.
    """

    def __init__(self, clicked: NDArray[np.int32], counts: Ints) -> None:
        self._clicked = clicked
        self._counts = counts

    def before(self, time_us: Ints, user: Ints, clicks: Ints) -> pa.ListArray:
        """Each impression's history, list<int64> newest first, then the block's clicks are added for good.

        A user's clicks are laid out as one run, the window kept from before followed by those of the block;
        each impression's history is then a piece of that run.

        Args:
            time_us, user: int64[n], the block's impressions.
            clicks: int64[m, at least 3], time, user and item of the block's clicks.
        """
        n, window = len(user), self._clicked.shape[1]
        who = np.concatenate([user, clicks[:, 1]])
        is_click = (np.arange(len(who)) >= n).astype(np.int64)
        order = np.lexsort((is_click, np.concatenate([time_us, clicks[:, 0]]), who))
        users, first, events = np.unique(who[order], return_index=True, return_counts=True)
        earlier: Ints = np.cumsum(is_click[order]) - is_click[order]
        clicks_before = np.empty(len(who), np.int64)
        clicks_before[order] = earlier - np.repeat(earlier[first], events)

        kept, fresh = self._counts[users], np.add.reduceat(is_click[order], first)
        start = np.concatenate([[0], np.cumsum(kept + fresh)])
        run = np.empty(start[-1], np.int32)
        run[_slots(start[:-1], kept, window)] = self._clicked[users][_slots(None, kept, window)]
        slot = np.searchsorted(users, who)
        end = start[slot] + kept[slot] + clicks_before
        run[end[n:]] = clicks[:, 2]
        self._keep(users, run, start, kept, fresh)
        return _pieces(run, end[:n], np.minimum(end[:n] - start[slot[:n]], window))

    def _keep(self, users: Ints, run: NDArray[np.int32], start: Ints, kept: Ints, fresh: Ints) -> None:
        """The window that the next block begins with, for the users who clicked."""
        window = self._clicked.shape[1]
        changed = np.flatnonzero(fresh)
        left = np.minimum(kept[changed] + fresh[changed], window)
        rows = np.zeros((len(changed), window), np.int32)
        rows[_slots(None, left, window)] = run[_slots(start[changed + 1] - left, left, window)]
        self._clicked[users[changed]], self._counts[users[changed]] = rows, left


def _slots(start: Ints | None, used: Ints, window: int) -> Ints | NDArray[np.bool_]:
    """The first `used` places of each row: as a mask of rows, or as places in a run that begin at `start`."""
    mask = np.arange(window) < used[:, None]
    return mask if start is None else np.asarray((start[:, None] + np.arange(window))[mask])


def _pieces(run: NDArray[np.int32], end: Ints, length: Ints) -> pa.ListArray:
    """Lists of the `length` values of `run` before `end`, last one first."""
    offsets = np.concatenate([[0], np.cumsum(length)])
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    values = run[np.repeat(end - 1, length) - steps]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int64()))
