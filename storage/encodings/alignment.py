"""Finding the edits that turn each row of a page into the next: the writing half of `sequence`, which says what they are.

Where a row is some new items and then the row before, which is nearly always, one comparison of contiguous memory settles
it. Otherwise the rows are aligned greedily: from the place where they part, pairs of positions further on are tried in
order of distance until a few items agree again. All pairs are tried near by and only narrow bands further out, and the
distance that one row may look at is bounded by its length, so unrelated rows cost a few comparisons per item. The script
is not the shortest there is. Items are compared by bit pattern; NaNs and zeros of either sign come back as they were.

The numpy twins find the very same edits: files do not depend on whether a compiler was loaded.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.errors import UnsupportedArray
from headrace.storage.encodings.sequence import MAX_ITEMS, Edits, unsigned

MAX_SHIFT: Final = 64
"""New items in front of an otherwise unchanged row that the fast path tries."""

_NEAR: Final = 8
"""Distance up to which a search for where two rows meet again takes one equal item for an answer."""
_WINDOW: Final = 32
"""Distance up to which it tries all pairs of positions, and takes `_AGREE_FAR` equal items or the end of the row."""
_AGREE_FAR: Final = 3
_BAND: Final = 4
"""Further out it tries pairs that pass over fewer items than this in one of the rows."""
_PROBES: Final = 4
"""Items at the front of the row before, and as many spread over it, of which one must be in the row to look that far."""


def encode(offsets: Array, items: Array, restart: NDArray[np.bool_], *, oldest_first: bool) -> Edits:
    """Write the lists of one page as edits of each other.

    Args:
        offsets: int32 or int64[n_rows + 1], ascending, within `items`: rows without nulls, as in Arrow's List.
        items: 1-D, any dtype in `DTYPES`.
        restart: bool[n_rows], True where a row must not depend on the row before it. The first never does.
        oldest_first: whether the newest item of a row is its last.

    Raises:
        UnsupportedArray: arrays of other shapes or dtypes, or more than `MAX_ITEMS` items.

    >>> e = encode(np.array([0, 2, 5]), np.array([7, 8, 9, 7, 8]), np.zeros(2, bool), oldest_first=False)
    >>> e.mode.tolist(), e.new.tolist(), e.skip.tolist(), e.keep.tolist(), e.literals.tolist(), e.cap
    ([0, 1], [2, 1], [0], [0], [7, 8, 9], 3)
    """
    n_rows = len(restart)
    begins = checked_offsets(offsets, len(items), n_rows)
    patterns = unsigned(items)
    cap, n_items = int(np.diff(begins).max(initial=0)), int(begins[-1] - begins[0])
    # Each copy of a row advances in it, so there are never more copies than items and rows.
    mode = np.empty(n_rows, np.uint32)
    new, skip, keep = (np.empty(n_rows + n_items, np.uint32) for _ in range(3))
    literals, counts = np.empty(n_items, patterns.dtype), np.zeros(3, np.int64)
    pick(n_items + n_rows, _encode_numpy, _encode)(
        begins,
        patterns,
        np.ascontiguousarray(restart, np.uint8),
        int(oldest_first),
        cap,
        mode,
        new,
        skip,
        keep,
        literals,
        counts,
    )
    n_new, n_copies, n_literals = (int(count) for count in counts)
    return Edits(
        mode,
        new[:n_new].copy(),
        skip[:n_copies].copy(),
        keep[:n_copies].copy(),
        literals[:n_literals].copy().view(items.dtype),
        cap,
        oldest_first,
    )


@kernel
def _encode(
    offsets: Array,
    items: Array,
    restart: Array,
    oldest: int,
    cap: int,
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    literals: Array,
    counts: Array,
) -> None:
    """int64[n+1], uint[], u8[n], 0 or 1, longest row -> u32 streams, uint[], and how long they are as int64[3]."""
    n_new = n_copies = n_literals = 0
    for row in range(len(mode)):
        low, high = offsets[row], offsets[row + 1]
        length = high - low
        before_low = before_high = low
        if row > 0 and restart[row] == 0:
            before_low = offsets[row - 1]
        before = before_high - before_low

        # Some new items, then the row before from its newest item on.
        shift = max(0, length - before)
        slides = False
        while before > 0 and shift < length and shift <= min(MAX_SHIFT, length >> 1):
            count = length - shift
            if oldest == 1:
                mine, theirs = low, before_high - count
                first, other = high - 1 - shift, before_high - 1
            else:
                mine, theirs = low + shift, before_low
                first, other = mine, theirs
            if items[first] == items[other]:
                # In pieces without a way out, which become plain SIMD.
                at, beside = np.uint64(mine), np.uint64(theirs)
                differ = np.uint64(0)
                while count > 0 and differ == 0:
                    piece = np.uint64(min(count, 64))
                    for i in range(piece):
                        differ |= np.uint64(items[at + i] ^ items[beside + i])
                    at += piece
                    beside += piece
                    count -= 64
                if differ == 0:
                    slides = True
                    break
            shift += 1
        if slides:
            mode[row] = 1
            new[n_new] = shift
            skip[n_copies] = 0
            keep[n_copies] = min(before, cap - shift) - (length - shift)
            for i in range(shift):
                literals[n_literals + i] = items[high - 1 - i] if oldest == 1 else items[low + i]
            n_new += 1
            n_copies += 1
            n_literals += shift
            continue

        # Where the rows part, find the nearest place at which they meet again.
        step = -1 if oldest == 1 else 1
        mine = high - 1 if oldest == 1 else low
        theirs = before_high - 1 if oldest == 1 else before_low
        at_mine = at_theirs = copies = written = taken = 0
        allowance = length + before
        seen = False
        while before > 0 and at_mine < length:
            fresh, passed = length - at_mine, 0
            reach = min(allowance, fresh + before - at_theirs) if at_theirs < before else 0
            distance = 0
            met = False
            while distance < reach and not met:
                if distance == _NEAR + 1 and not seen:
                    # Unrelated rows are not worth the search: once, look for items of one anywhere in the other.
                    for probe in range(2 * _PROBES):
                        y = at_theirs + probe
                        if probe >= _PROBES:
                            y = at_theirs + (before - at_theirs) * (probe - _PROBES + 1) // (_PROBES + 1)
                        if y < before and not seen:
                            wanted = items[theirs + step * y]
                            at = np.uint64(low if oldest == 1 else low + at_mine)
                            for i in range(np.uint64(length - at_mine)):
                                seen |= items[at + i] == wanted
                    if not seen:
                        break
                ahead = max(0, distance - (before - at_theirs - 1))
                while ahead <= min(distance, length - at_mine - 1):
                    if distance > _WINDOW and _BAND <= ahead <= distance - _BAND:
                        ahead = distance - _BAND + 1
                        continue
                    x, y = at_mine + ahead, at_theirs + distance - ahead
                    wants = 1 if distance <= _NEAR else _AGREE_FAR
                    agreed = 0
                    while agreed < wants and x < length and y < before:
                        if items[mine + step * x] != items[theirs + step * y]:
                            break
                        x += 1
                        y += 1
                        agreed += 1
                    if agreed == wants or (agreed > 0 and x == length):
                        met = True
                        fresh, passed = ahead, distance - ahead
                        break
                    ahead += 1
                distance += 1
            allowance -= distance
            for i in range(fresh):
                literals[n_literals + written + i] = items[mine + step * (at_mine + i)]
            written += fresh
            at_mine += fresh
            at_theirs += passed
            taken = 0
            while at_mine < length and at_theirs < before:
                if items[mine + step * at_mine] != items[theirs + step * at_theirs]:
                    break
                at_mine += 1
                at_theirs += 1
                taken += 1
            new[n_new + copies] = fresh
            skip[n_copies + copies] = passed
            keep[n_copies + copies] = taken
            copies += 1
        # A copy must repay its three numbers; the first of a row that passes over nothing costs none.
        free = 2 if copies > 0 and skip[n_copies] == 0 and written < length else 0
        if copies > 0 and written + 2 * copies - free <= length:
            mode[row] = copies
            keep[n_copies + copies - 1] = min(before - (at_theirs - taken), cap - (length - taken)) - taken
            n_new += copies
            n_copies += copies
            n_literals += written
        else:
            mode[row] = 0
            new[n_new] = length
            for i in range(length):
                literals[n_literals + i] = items[mine + step * i]
            n_new += 1
            n_literals += length
    counts[0] = n_new
    counts[1] = n_copies
    counts[2] = n_literals


def _encode_numpy(
    offsets: Array,
    items: Array,
    restart: Array,
    oldest: int,
    cap: int,
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    literals: Array,
    counts: Array,
) -> None:
    """The numpy twin of `_encode`."""
    n_new = n_copies = n_literals = 0
    before = items[:0]
    for row in range(len(mode)):
        mine = items[offsets[row] : offsets[row + 1]]
        if oldest:
            mine = mine[::-1]
        copies = _copies(mine, before[:0] if restart[row] else before)
        at = used = taken = 0
        for fresh, passed, taken in copies:
            literals[n_literals : n_literals + fresh] = mine[at : at + fresh]
            used += passed + taken
            at += fresh + taken
            new[n_new], skip[n_copies], keep[n_copies] = fresh, passed, taken
            n_new, n_copies, n_literals = n_new + 1, n_copies + 1, n_literals + fresh
        if copies:
            keep[n_copies - 1] = min(len(before) - used + taken, cap - at + taken) - taken
        else:
            new[n_new], literals[n_literals : n_literals + len(mine)] = len(mine), mine
            n_new, n_literals = n_new + 1, n_literals + len(mine)
        mode[row] = len(copies)
        before = mine
    counts[:] = n_new, n_copies, n_literals


def _copies(mine: Array, before: Array) -> list[tuple[int, int, int]]:
    """What `_encode` writes of a row: (new, skip, items taken) of each copy, none for a restart."""
    length, reach = len(mine), len(mine) + len(before)
    low, high = max(0, length - len(before)), min(MAX_SHIFT, length >> 1, length - 1)
    if len(before) and low <= high:
        for shift in np.flatnonzero(mine[low : high + 1] == before[0]).tolist():
            kept = length - low - shift
            if np.array_equal(mine[low + shift :], before[:kept]):
                return [(low + shift, 0, kept)]
    copies: list[tuple[int, int, int]] = []
    at = used = written = 0
    related = False
    while len(before) and at < length:
        distance, fresh = _meet(mine[at:], before[used:], reach, related)
        reach -= distance + 1
        related = related or distance > _NEAR
        fresh, passed = (fresh, distance - fresh) if fresh >= 0 else (length - at, 0)
        at, used, written = at + fresh, used + passed, written + fresh
        n = min(length - at, len(before) - used)
        differ = np.flatnonzero(mine[at : at + n] != before[used : used + n])
        taken = int(differ[0]) if len(differ) else n
        at, used = at + taken, used + taken
        copies.append((fresh, passed, taken))
    free = 2 if copies and copies[0][1] == 0 and written < length else 0
    return copies if written + 2 * len(copies) - free <= length else []


def _meet(mine: Array, before: Array, allowance: int, related: bool) -> tuple[int, int]:
    """The nearest place at which two rows agree: its distance and the items of `mine` before it, -1 for nowhere."""
    n, m = len(mine), len(before)
    reach = min(allowance, n + m) if m else 0
    near = np.arange(_NEAR + 1)
    found = _nearest(
        mine, before, np.repeat(near, _NEAR + 1), np.tile(near, _NEAR + 1), min(reach, _NEAR + 1), 1
    )
    if found or reach <= _NEAR + 1:
        return found or (0, -1)
    probes = np.arange(2 * _PROBES)
    probes[_PROBES:] = m * (probes[_PROBES:] - _PROBES + 1) // (_PROBES + 1)
    if not related and not np.isin(before[probes[probes < m]], mine).any():
        return 0, -1
    window = np.arange(_WINDOW + 1)
    found = _nearest(
        mine,
        before,
        np.repeat(window, _WINDOW + 1),
        np.tile(window, _WINDOW + 1),
        min(reach, _WINDOW + 1),
        _AGREE_FAR,
    )
    if found:
        return found
    band = np.arange(_BAND)
    ahead = np.concatenate((np.repeat(band, m), np.tile(np.arange(n), _BAND)))
    passed = np.concatenate((np.tile(np.arange(m), _BAND), np.repeat(band, n)))
    return _nearest(mine, before, ahead, passed, reach, _AGREE_FAR) or (0, -1)


def _nearest(
    mine: Array, before: Array, ahead: Array, passed: Array, reach: int, wants: int
) -> tuple[int, int] | None:
    """The best of some pairs of positions at which `wants` items agree, or all to the end: as from `_meet`."""
    n, m = len(mine), len(before)
    tried = (ahead < n) & (passed < m) & (ahead + passed < reach)
    ahead, passed = ahead[tried], passed[tried]
    for k in range(wants):
        x, y = ahead + k, passed + k
        same = (x >= n) if k else np.zeros(len(x), np.bool_)
        same |= (y < m) & (mine[np.minimum(x, n - 1)] == before[np.minimum(y, m - 1)])
        ahead, passed = ahead[same], passed[same]
    if not len(ahead):
        return None
    best = np.lexsort((ahead, ahead + passed))[0]
    return int(ahead[best] + passed[best]), int(ahead[best])


def checked_offsets(offsets: Array, n_items: int, n_rows: int) -> NDArray[np.int64]:
    """`offsets` as int64, if they are those of `n_rows` lists within `n_items` items."""
    if offsets.ndim != 1 or offsets.dtype not in (np.int32, np.int64) or len(offsets) != n_rows + 1:
        raise UnsupportedArray(
            f"offsets of {n_rows} rows are int32 or int64[{n_rows + 1}], got {offsets.dtype}{list(offsets.shape)}"
        )
    begins = np.ascontiguousarray(offsets, np.int64)
    if begins[0] < 0 or begins[-1] > n_items or (n_rows and int(np.diff(begins).min()) < 0):
        raise UnsupportedArray(f"offsets ascend within {n_items} items, got {begins[0]} to {begins[-1]}")
    if begins[-1] - begins[0] > MAX_ITEMS:
        raise UnsupportedArray(
            f"a page's lists hold at most {MAX_ITEMS} items, got {begins[-1] - begins[0]}; write several"
        )
    return begins
