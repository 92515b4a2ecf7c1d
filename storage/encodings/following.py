"""Lists that change where another list does: ratings or times of the history whose ids a page holds as a sequence.

Their page holds literals only, and is decoded with the edits of the list that leads. Whether a column follows is settled
by trying: the literals are taken out where the leader's are, and every item that the edits would copy is compared, by bit
pattern, with the one it would be copied from. One difference in a page and the page must be written in another way.
"""

from __future__ import annotations

import numpy as np

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.alignment import checked_offsets
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.errors import CorruptStream
from headrace.storage.encodings.sequence import Edits, measure, unsigned


def follow(edits: Edits, offsets: Array, items: Array) -> Array | None:
    """The literals with which another list column has the same edits; None if it has not.

    Ratings or times of the same history change where its ids change. Their pages then hold literals only.

    Args:
        edits: the leader's.
        offsets: int32 or int64[n_rows + 1], of the list that might follow.
        items: its items, any dtype.

    Returns:
        [sum(new)], of the items' dtype: decoding the leader's edits with them gives `items` exactly.

    Raises:
        UnsupportedArray: as `encode`.
    """
    n_rows = len(edits.mode)
    begins = checked_offsets(offsets, len(items), n_rows)
    lengths = np.diff(begins)
    if int(lengths.max(initial=0)) != edits.cap:
        return None
    sizes = np.empty(n_rows, np.int32)
    try:
        measure(edits, int(begins[-1] - begins[0]), sizes)
    except CorruptStream:  # not as many items in all
        return None
    if not np.array_equal(sizes, lengths):
        return None
    patterns = unsigned(items)
    literals, differ = np.empty(len(edits.literals), patterns.dtype), np.zeros(1, np.uint64)
    pick(len(patterns) + n_rows, _follow_numpy, _follow)(
        *edits.controls(),
        int(edits.oldest_first),
        begins,
        patterns,
        literals,
        differ,
    )
    return None if differ[0] else literals.view(items.dtype)


@kernel
def _follow(
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    oldest: int,
    offsets: Array,
    items: Array,
    literals: Array,
    differ: Array,
) -> None:
    """Checked streams, int64[n+1], uint[] -> uint[n_literals]; uint64[1], given 0, other than 0 if items differ."""
    n_new = n_copies = n_literals = np.int64(0)
    step = -1 if oldest == 1 else 1
    for row in range(len(mode)):
        length = offsets[row + 1] - offsets[row]
        mine = offsets[row + 1] - 1 if oldest == 1 else offsets[row]
        theirs = 0
        if mode[row] > 0:
            theirs = offsets[row] - 1 if oldest == 1 else offsets[row - 1]
        at = used = np.int64(0)
        for i in range(max(np.int64(mode[row]), np.int64(1))):
            fresh = np.int64(new[n_new])
            for j in range(fresh):
                literals[n_literals + j] = items[mine + step * (at + j)]
            n_new += 1
            n_literals += fresh
            at += fresh
            if mode[row] > 0:
                used += np.int64(skip[n_copies])
                taken = np.int64(keep[n_copies])
                if i + 1 == mode[row]:
                    taken = length - at
                n_copies += 1
                # Contiguous and ascending whichever way rows run.
                x = np.uint64(mine - at - taken + 1 if oldest == 1 else mine + at)
                y = np.uint64(theirs - used - taken + 1 if oldest == 1 else theirs + used)
                parted = np.uint64(0)
                for j in range(np.uint64(taken)):
                    parted |= np.uint64(items[x + j] ^ items[y + j])
                differ[0] |= parted
                at += taken
                used += taken
        if differ[0] != 0:
            break


def _follow_numpy(
    mode: Array,
    new: Array,
    skip: Array,
    keep: Array,
    oldest: int,
    offsets: Array,
    items: Array,
    literals: Array,
    differ: Array,
) -> None:
    """The numpy twin of `_follow`."""
    n_new = n_copies = n_literals = 0
    before = items[:0]
    for row in range(len(mode)):
        mine = items[offsets[row] : offsets[row + 1]]
        if oldest:
            mine = mine[::-1]
        at = used = 0
        for left in range(max(int(mode[row]), 1), 0, -1):
            fresh = int(new[n_new])
            literals[n_literals : n_literals + fresh] = mine[at : at + fresh]
            n_new, n_literals, at = n_new + 1, n_literals + fresh, at + fresh
            if mode[row]:
                used += int(skip[n_copies])
                taken = int(keep[n_copies]) if left > 1 else len(mine) - at
                n_copies += 1
                if not np.array_equal(mine[at : at + taken], before[used : used + taken]):
                    differ[0] = 1
                    return
                at, used = at + taken, used + taken
        before = mine
