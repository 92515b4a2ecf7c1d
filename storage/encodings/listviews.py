"""Rows of a page as parts of one array: the reading half of `sequence`.

A row that shares with the row before it lies right in front of that row's first item, so the literals of a chain, written from the
back of an array to its front, are all its rows at once; Arrow's ListView says where each starts and how long it is. Of
lists kept oldest first the array is turned round, and rows grow at their end. Arrow's List wants rows one behind the
other: `gather_list` copies them out, in any order, out of an array that is small enough to stay in the cache.

Nothing is checked here but what int32 can hold: streams come through `sequence.measure` first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.errors import UnsupportedArray
from headrace.storage.encodings.sequence import MAX_ITEMS, Edits, firsts, shares, unsigned


def views(
    edits: Edits,
    sizes: NDArray[np.int32],
    child: Array,
    starts: NDArray[np.int32],
    *,
    base: int = 0,
) -> None:
    """Rows as parts of one array of items: row t is `child[starts[t] - base :][: sizes[t]]`.

    Args:
        edits: what `measure` passed.
        sizes: int32[n_rows], what `measure` filled.
        child: [child_items], of the literals' dtype; filled.
        starts: int32[n_rows]; filled.
        base: where `child` starts in the array that all pages' items are collected in.

    Raises:
        UnsupportedArray: `child` ends beyond what int32 can say; read fewer rows at once.
    """
    if base + len(child) > MAX_ITEMS:
        raise UnsupportedArray(
            f"list views reach {MAX_ITEMS} items, these would reach {base + len(child)}; read fewer rows at once"
        )
    pick(len(child) + len(starts), _views_numpy, _views)(
        *edits.controls(),
        unsigned(edits.literals),
        int(edits.oldest_first),
        base,
        unsigned(sizes),
        child.view(f"u{child.itemsize}"),
        starts,
    )


def gather_list(
    child: Array,
    starts: NDArray[np.int32],
    sizes: NDArray[np.int32],
    order: NDArray[np.int64] | None,
    offsets: NDArray[np.int32],
    values: Array,
) -> None:
    """Copy rows out of views, in any order: what Arrow's List needs.

    Args:
        child: [child_items].
        starts: int32[n_rows], row t is `child[starts[t] : starts[t] + sizes[t]]`; from `views`, with base 0.
        sizes: int32[n_rows].
        order: int64[k], the row that comes k-th, each 0..n_rows-1; None for all rows as they are.
        offsets: int32[k + 1], filled.
        values: [sum of the sizes of the rows in order], of the child's dtype; filled.
    """
    if order is not None:
        starts, sizes = starts[order], sizes[order]
    offsets[0] = 0
    np.cumsum(sizes, out=offsets[1:])
    size = f"u{child.itemsize}"
    pick(len(values), _gather_numpy, _gather)(unsigned(child), unsigned(starts), offsets, values.view(size))


@kernel
def _views(
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    literals: Array,
    oldest: int,
    base: int,
    sizes: Array,
    child: Array,
    starts: Array,
) -> None:
    """Measured streams, uint[] -> uint[child_items], int32[n]. Later rows lie in front of earlier ones."""
    n_new = n_copies = n_literals = np.int64(0)
    front = np.int64(len(child))
    for row in range(len(mode)):
        copies = np.int64(mode[row])
        theirs = front
        if copies > 1 or (copies == 1 and skip[n_copies] > 0):
            front -= np.int64(sizes[row])
        else:
            front -= np.int64(new[n_new])
        at = front
        for copy in range(max(copies, np.int64(1))):
            fresh = np.uint64(new[n_new])
            to, start = np.uint64(at), np.uint64(n_literals)
            # One or two are the rule, and less than what a loop takes to begin.
            if fresh > np.uint64(0):
                child[to] = literals[start]
                if fresh > np.uint64(1):
                    child[to + np.uint64(1)] = literals[start + np.uint64(1)]
                    for i in range(np.uint64(2), fresh):
                        child[to + i] = literals[start + i]
            at += np.int64(new[n_new])
            n_literals += np.int64(new[n_new])
            n_new += 1
            if copies > 0:
                theirs += np.int64(skip[n_copies])
                taken = np.int64(keep[n_copies])
                if copy + 1 == copies:
                    taken = front + np.int64(sizes[row]) - at
                n_copies += 1
                # A row that shares finds these items where they are.
                if at != theirs:
                    to, start = np.uint64(at), np.uint64(theirs)
                    for i in range(np.uint64(taken)):
                        child[to + i] = child[start + i]
                at += taken
                theirs += taken
        starts[row] = base + front
    if oldest == 1:
        whole = np.uint64(len(child))
        for i in range(whole >> np.uint64(1)):
            swap = child[i]
            last = whole - i - np.uint64(1)
            child[i] = child[last]
            child[last] = swap
        for row in range(len(mode)):
            starts[row] = base + len(child) - (starts[row] - base) - sizes[row]


def _views_numpy(
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    literals: Array,
    oldest: int,
    base: int,
    sizes: Array,
    child: Array,
    starts: Array,
) -> None:
    """The numpy twin of `_views`: literals of rows that share in one go, the others row by row."""
    first_new, first_copy = firsts(mode)
    sharing = shares(mode, skip)
    own = sizes.astype(np.int64)
    own[sharing] = new[first_new[sharing]]
    fronts = len(child) - np.cumsum(own)
    used = np.concatenate(([0], np.cumsum(new, dtype=np.int64)))
    to, first, n = fronts[sharing], used[first_new[sharing]], own[sharing]
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    child[np.repeat(to, n) + within] = literals[np.repeat(first, n) + within]
    for row in np.flatnonzero(~sharing).tolist():
        at, end, theirs = int(fronts[row]), int(fronts[row] + sizes[row]), int(fronts[row - 1])
        for i in range(int(mode[row])):
            a, b = first_new[row] + i, first_copy[row] + i
            child[at : at + int(new[a])] = literals[used[a] : used[a + 1]]
            at, theirs = at + int(new[a]), theirs + int(skip[b])
            taken = int(keep[b]) if i + 1 < mode[row] else end - at
            child[at : at + taken] = child[theirs : theirs + taken]
            at, theirs = at + taken, theirs + taken
    if oldest:
        child[:] = child[::-1].copy()
        fronts = len(child) - fronts - sizes
    starts[:] = base + fronts


@kernel
def _gather(child: Array, starts: Array, offsets: Array, values: Array) -> None:
    """uint[], int32[n], int32[n+1] -> uint[offsets[n]]."""
    for row in range(len(starts)):
        at, start = np.uint64(offsets[row]), np.uint64(starts[row])
        for i in range(np.uint64(offsets[row + 1]) - at):
            values[at + i] = child[start + i]


def _gather_numpy(child: Array, starts: Array, offsets: Array, values: Array) -> None:
    """The numpy twin of `_gather`."""
    shift = starts.astype(np.int64) - offsets[:-1]
    np.take(child, np.repeat(shift, np.diff(offsets)) + np.arange(len(values)), out=values, mode="clip")
