"""Lists that slide, between Arrow and the edits of ``encodings.sequence``: when they pay, and in which order rows are stored.

The writer asks `worth_it` about each list column of a row group: whether neighbouring rows overlap, which end is the new
one, and whether rows should be *clustered* first. Rows that arrive in the order of time interleave the histories of
many users; each is then a stranger to the row before. So rows get the number of their cluster (the erase key's value,
by first appearance in the group), lists are stored in the order of a stable sort by that number, and the number is
stored as one hidden column, from which a reader computes the order again. All other columns stay as they arrived.

A chain of edits never crosses a change of the key, whatever the order, so no row is needed to decode another user's.
What pages, nulls and encodings of the streams are is for ``chunk`` and ``page``; which lists follow which is tried by the writer
with `follow_pages`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import alignment, following, listviews
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.errors import CannotErase
from headrace.storage.encodings.sequence import Edits, measure

SAMPLED_PAIRS: Final = 64
"""Neighbouring rows that are compared."""
_COMPARED: Final = 8
"""Items of the row before that are looked for in the next."""
_SHIFTS: Final = 17
"""Up to one less new items in front of them."""
WORTH: Final = 0.75
"""Lists are sequences if at most this part of their items must be written."""
_NUMBER_BYTES: Final = 8
"""What a row's cluster number may cost, well above what it does, before clustering pays."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a list column would be stored as a sequence."""

    oldest_first: bool
    """Whether the newest item of a row is its last."""
    clustered: bool
    """Whether rows must be ordered by cluster for it."""
    literals: float
    """Part of the sampled items that would be written, 0..1."""


def cluster_numbers(keys: pa.Array) -> NDArray[np.uint32]:
    """Each row's cluster: equal keys have equal numbers, counted from 0 in order of first appearance.

    Args:
        keys: any type that Arrow can encode as a dictionary; nulls are one cluster.

    Returns:
        uint32[n].

    >>> cluster_numbers(pa.array(["b", "a", "b"])).tolist()
    [0, 1, 0]
    """
    coded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode(null_encoding="encode")
    indices = coded.indices
    if indices.null_count:  # a column that was a dictionary before may have nulls, and entries in any order
        indices = indices.fill_null(len(coded.dictionary))
    codes = arrays.numbers(indices.cast(pa.int32()), np.dtype(np.int32))
    if coded is not keys:
        return codes.astype(np.uint32)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.uint32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.uint32)
    return rank[inverse.reshape(-1)]


def clustered_order(numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The row that is stored k-th: int64[n], rows of a cluster together, within one as they arrived.

    >>> clustered_order(np.array([0, 1, 0], np.uint32)).tolist()
    [0, 2, 1]
    """
    few = int(numbers.max(initial=0)) < 2**16
    # numpy sorts 16-bit numbers by radix, ten times as fast.
    return np.argsort(numbers.astype(np.uint16) if few else numbers, kind="stable")


def arrival_order(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row is stored, the inverse of `clustered_order`: what a reader gathers by."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back


def restarts(numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """bool[n]: rows, in the order in which they are stored, whose cluster is not that of the row before."""
    changed = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=changed[1:])
    return changed


def flat(lists: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets of the rows that are not null, from 0, and their items.

    Args:
        lists: List, LargeList, or a slice of one.

    Returns:
        int64[n_valid + 1], items without the nulls' leftovers.
    """
    present = lists.drop_null() if lists.null_count else lists
    lengths = arrays.numbers(present.value_lengths().cast(pa.int64()), np.dtype(np.int64))
    offsets = np.zeros(len(present) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, present.flatten()


def ordered(
    offsets: NDArray[np.int64], items: Array, order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], Array]:
    """The same lists in another order: offsets int32[n + 1] and items, copied."""
    sizes = np.diff(offsets).astype(np.int32)
    begins = np.empty(len(order) + 1, np.int32)
    values = np.empty(int(sizes[order].sum(dtype=np.int64)), items.dtype)
    listviews.gather_list(items, offsets[:-1].astype(np.int32), sizes, order, begins, values)
    return begins, values


def slide_pages(
    offsets: Array, items: Array, cuts: NDArray[np.int64], restart: NDArray[np.bool_], *, oldest_first: bool
) -> list[Edits]:
    """A chunk's lists as edits, page by page.

    Args:
        offsets: int32 or int64[n + 1], of the rows that are not null, in the order in which they are stored.
        items: their items, as they are stored.
        cuts: int64[n_pages + 1], where pages end, in rows that are not null.
        restart: bool[n], from `restarts`.
        oldest_first: whether the newest item of a row is its last.
    """
    return [
        alignment.encode(offsets[first : last + 1], items, restart[first:last], oldest_first=oldest_first)
        for first, last in pairwise(cuts.tolist())
    ]


def follow_pages(
    leaders: list[Edits], offsets: Array, items: Array, cuts: NDArray[np.int64]
) -> list[Edits] | None:
    """Another column's lists with the edits of `leaders`, its own literals in them; None if it does not follow."""
    found = []
    for leader, (first, last) in zip(leaders, pairwise(cuts.tolist()), strict=True):
        literals = following.follow(leader, offsets[first : last + 1], items)
        if literals is None:
            return None
        found.append(replace(leader, literals=literals))
    return found


def literals_of(edits: Edits, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the literals of some rows lie, to be overwritten in place (`Encoding.erase`); other rows still decode as they were.

    That blanks what the rows held. How long they were, and where they changed, stays in the other four streams: whoever must
    erase that too encodes `without` into the page's slot instead.

    Args:
        edits: of one page.
        rows: bool[n_rows], in the order in which they are stored: whole chains, as all rows of one key are.

    Returns:
        int64[k], ascending positions in `edits.literals`.

    Raises:
        CannotErase: a row that stays is made of one that goes.
    """
    heads = edits.mode == 0
    torn = ~heads[1:] & (rows[1:] != rows[:-1])
    if torn.any():
        raise CannotErase(
            f"sequence: row {1 + int(np.argmax(torn))} is written as edits of the row before, and only one of the two is to "
            "go; encode the page anew with `sequences.without`"
        )
    writes = np.maximum(edits.mode, 1).astype(np.int64)
    return np.flatnonzero(np.repeat(np.repeat(rows, writes), edits.new.astype(np.int64)))


def without(edits: Edits, n_items: int, rows: NDArray[np.bool_]) -> Edits:
    """The page with some rows emptied and no trace of what they held: never more items than before.

    Args:
        edits: of one page, its own or those it follows with its literals in them.
        n_items: items of all rows.
        rows: bool[n_rows], in the order in which they are stored; any rows.

    Raises:
        CorruptStream: the edits are damaged.
    """
    n = len(edits.mode)
    sizes, starts, offsets = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n + 1, np.int32)
    child = np.empty(measure(edits, n_items, sizes), edits.literals.dtype)
    listviews.views(edits, sizes, child, starts)
    sizes[rows] = 0
    items = np.empty(int(sizes.sum(dtype=np.int64)), child.dtype)
    listviews.gather_list(child, starts, sizes, None, offsets, items)
    return alignment.encode(offsets, items, edits.mode == 0, oldest_first=edits.oldest_first)


def worth_it(
    offsets: Array,
    items: Array,
    numbers: NDArray[np.uint32] | None,
    order: NDArray[np.int64] | None,
    *,
    seed: int = 0,
) -> Layout | None:
    """Decide from a few pairs of neighbouring rows whether lists should be stored as a sequence, and how.

    Args:
        offsets: int32 or int64[n + 1], of the rows that are not null, as they arrived.
        items: their items, as they are stored.
        numbers: uint32[n], their clusters, which edits must not cross; None if there are none.
        order: int64[n], `clustered_order(numbers)`, or None if rows may only be stored as they arrived.
        seed: which pairs are compared.

    Returns:
        None if lists are better stored as they are.
    """
    n = len(offsets) - 1
    if n < 2 or offsets[n] == offsets[0]:
        return None
    arrived = _literals(offsets, items, numbers, None, seed)
    best, oldest_first, clustered = min(arrived), arrived[1] < arrived[0], False
    if (
        order is not None
        and numbers is not None
        and np.count_nonzero(restarts(numbers)) > 1 + int(numbers.max())
    ):
        together = _literals(offsets, items, numbers, order, seed)
        saved = (best - min(together)) * (int(offsets[n]) - int(offsets[0])) * items.itemsize
        if saved > _NUMBER_BYTES * n:
            best, oldest_first, clustered = min(together), together[1] < together[0], True
    return Layout(oldest_first, clustered, best) if best <= WORTH else None


def _literals(
    offsets: Array,
    items: Array,
    numbers: NDArray[np.uint32] | None,
    order: NDArray[np.int64] | None,
    seed: int,
) -> tuple[float, float]:
    """Part of all items that would be written: newest first, and oldest first.

    Rows that begin a cluster anew are written whole. They may be few and yet hold most of what is written, so they are
    counted and not sampled.
    """
    n = len(offsets) - 1
    whole = np.arange(n) == 0 if numbers is None else restarts(numbers if order is None else numbers[order])
    follow = np.flatnonzero(~whole)
    if not len(follow):
        return 1.0, 1.0
    after = follow[
        np.sort(np.random.default_rng(seed).integers(0, len(follow), min(SAMPLED_PAIRS, len(follow))))
    ]
    before = after - 1
    rows = np.flatnonzero(whole)
    if order is not None:
        before, after, rows = order[before], order[after], order[rows]
    begun = int((offsets[rows + 1] - offsets[rows]).sum()) / (int(offsets[n]) - int(offsets[0]))
    newest, oldest = _changed(offsets, items, before, after)
    return begun + (1 - begun) * newest, begun + (1 - begun) * oldest


def _changed(offsets: Array, items: Array, before: Array, after: Array) -> tuple[float, float]:
    """Part of the items of rows `after` that rows `before` do not have: newest first, and oldest first."""
    patterns = items.view(f"u{items.itemsize}")
    first, last = offsets[before].astype(np.int64), offsets[before + 1].astype(np.int64)
    start, end = offsets[after].astype(np.int64), offsets[after + 1].astype(np.int64)
    lengths, mine = last - first, end - start
    total = max(1, int(mine.sum()))
    near, far = np.arange(_COMPARED), np.arange(_COMPARED + _SHIFTS - 1)
    has = np.lib.stride_tricks.sliding_window_view(far < mine[:, None], _COMPARED, axis=1)
    both = has & (near < lengths[:, None])[:, None, :]
    compared = both.sum(axis=2)
    found = []
    for head, other, step in ((first, start, 1), (last - 1, end - 1, -1)):
        x = patterns.take(head[:, None] + step * near, mode="clip")
        y = patterns.take(other[:, None] + step * far, mode="clip")
        windows = np.lib.stride_tricks.sliding_window_view(y, _COMPARED, axis=1)
        same = ((windows == x[:, None, :]) & both).sum(axis=2)
        agree = (4 * same >= 3 * compared) & (same > 0)
        shift = np.argmax(agree, axis=1)
        kept = np.where(agree.any(axis=1), np.minimum(mine - shift, lengths), 0)
        # A part of them is taken to differ all along as it does at the front.
        front = np.take_along_axis(same, shift[:, None], 1)[:, 0] / np.maximum(
            1, np.take_along_axis(compared, shift[:, None], 1)[:, 0]
        )
        found.append(1 - float((kept * front).sum()) / total)
    return found[0], found[1]
