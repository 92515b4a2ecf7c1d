"""Lists that slide: each row written as edits of the row before it, as click histories change from event to event.

A page's rows form chains. Row t is a *restart*, all of its items written out, or a sequence of *copies* from row t-1:

    for each copy: write `new` literals, pass over `skip` items of row t-1, take the next `keep` of them

    stream      values, u32     meaning
    mode        one per row     0: restart; k >= 1: k copies
    new         one per copy    literals before it; of a restart, one number: its length
    skip        one per copy    items of the row before that are passed over
    keep        one per copy    items taken; of a row's last copy, `predicted - taken` instead
    literals    the items       in the order in which rows use them, any fixed-width dtype

`predicted = min(items left of row t-1, cap - items of row t so far)` and `cap` is the page's longest row, so that a history
which only grows, or drops its oldest item when full, has zeros in `skip` and `keep`. What comes behind the last item
taken is one more copy that takes nothing. Rows are written newest item first; of lists kept oldest first, each row is
reversed before (`oldest_first`).

Wins by the length of the list wherever neighbouring rows overlap; on unrelated rows it is the lists themselves and two
streams of lengths, so the writer samples first (`headrace.storage.sequences`). Rows slide, are reordered, lose items, get
late ones: `alignment` finds these edits. A row never refers further back than to the row before it.

Rows without skips share memory when read: with row t-1 at `child[s:s+n]`, row t lies at `child[s-new:]`. So `views` hands out
Arrow's ListView without copying an item of them; other rows start a new stretch. Source: the sparse sliding-window delta
named in the abstract of Liao et al., "Bullion: A Column Store for Machine Learning" (CIDR 2025); the layout is our own.
The streams themselves are encoded as any others; nulls, pages and dictionaries are the page's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick, words
from headrace.storage.encodings.contract import Array, bits
from headrace.storage.encodings.errors import CorruptStream

MAX_ITEMS: Final = 2**31 - 1
"""Starts and offsets are int32, as Arrow's are."""

_FAULTS: Final = (
    "",
    "the first row to be a restart",
    "no row longer than the page's longest",
    "skips and copies within the row before",
    "a last copy of at most what is left",
    "all rows to have the page's number of items",
)


@dataclass(frozen=True, slots=True)
class Edits:
    """The streams of one page, see the module; what `encode` returns and `views` takes."""

    mode: NDArray[np.uint32]
    """uint32[n_rows]."""
    new: NDArray[np.uint32]
    """uint32[sum(max(mode, 1))]."""
    skip: NDArray[np.uint32]
    """uint32[sum(mode)]."""
    keep: NDArray[np.uint32]
    """uint32[sum(mode)]."""
    literals: Array
    """[sum(new)], the items' dtype."""
    cap: int
    """Items of the longest row."""
    oldest_first: bool
    """Whether rows were reversed before."""

    def controls(self) -> tuple[Array, Array, Array, Array]:
        """mode, new, skip and keep as kernels are compiled for."""
        return unsigned(self.mode), unsigned(self.new), unsigned(self.skip), unsigned(self.keep)


def unsigned(values: Array) -> Array:
    """The same memory as read-only unsigned integers, so that a kernel is compiled once for each width."""
    return words(bits(values), f"u{values.itemsize}")


def measure(edits: Edits, n_items: int, sizes: NDArray[np.int32]) -> int:
    """Check every number of a page's streams, and fill in the length of each row.

    Nothing is read or written beyond the arrays, whatever the streams say; `views` relies on what was checked here.

    Args:
        edits: as read; the literals may be those of a list that follows.
        n_items: items of all rows, as the page's head states.
        sizes: int32[n_rows], filled.

    Returns:
        How many items `views` will fill: at most `n_items`, and no fewer than there are literals.

    Raises:
        CorruptStream: the streams contradict each other, `cap` or `n_items`.
    """
    mode = edits.mode
    n_copies = int(mode.sum(dtype=np.uint64))
    n_new = n_copies + len(mode) - int(np.count_nonzero(mode))
    n_literals = int(edits.new.sum(dtype=np.uint64))
    found = (len(edits.new), len(edits.skip), len(edits.keep), len(edits.literals), len(sizes))
    expected = (n_new, n_copies, n_copies, n_literals, len(mode))
    if found != expected or n_items > MAX_ITEMS:
        raise CorruptStream(
            "sequence: expected {} counts of new items, {} skips, {} copies, {} literals and {} rows, found "
            "{}, {}, {}, {} and {}".format(*expected, *found)
            + f"; {n_items} items; read another copy"
        )
    if n_copies > n_items + len(mode):  # of a row, all but the last take, write or pass over something
        raise CorruptStream(
            f"sequence: expected at most {n_items + len(mode)} copies for {n_items} items of {len(mode)} rows, found "
            f"{n_copies}; read another copy"
        )
    status = np.zeros(3, np.int64)
    pick(n_items + len(mode), _measure_numpy, _measure)(
        *edits.controls(), min(edits.cap, MAX_ITEMS), n_items, sizes, status
    )
    fault, row, child_items = (int(number) for number in status)
    if fault:
        raise CorruptStream(
            f"sequence: expected {_FAULTS[fault]}, found otherwise at row {row} of {len(mode)}, cap {edits.cap}, "
            f"{n_items} items; read another copy"
        )
    return child_items


@kernel
def _measure(
    mode: Array, new: Array, skip: Array, keep: Array, cap: int, n_items: int, sizes: Array, status: Array
) -> None:
    """u32 streams of the right lengths, counts -> int32[n], int64[3] as (fault or 0, its row, items of the views)."""
    n_new = n_copies = total = child = before = np.int64(0)
    fault = 0
    row = 0
    for row in range(len(mode)):
        copies = np.int64(mode[row])
        length = used = np.int64(0)
        shares = copies == 0 or (copies == 1 and skip[n_copies] == 0)
        fresh = np.int64(new[n_new])
        if copies == 0:
            n_new += 1
            length = fresh
        elif row == 0:
            fault = 1
            break
        for copy in range(copies):
            length += np.int64(new[n_new])
            used += np.int64(skip[n_copies])
            taken = np.int64(keep[n_copies])
            n_new += 1
            n_copies += 1
            if length > cap:
                fault = 2
                break
            if used > before:
                fault = 3
                break
            if copy + 1 == copies:
                left = min(before - used, cap - length)
                if taken > left:
                    fault = 4
                    break
                taken = left - taken
            elif taken > before - used:
                fault = 3
                break
            used += taken
            length += taken
        if fault == 0 and length > cap:
            fault = 2
        total += length
        if fault == 0 and total > n_items:
            fault = 5
        if fault != 0:
            break
        child += fresh if shares else length
        sizes[row] = length
        before = length
    if fault == 0 and total != n_items:
        fault = 5
    status[0] = fault
    status[1] = row
    status[2] = child


def _measure_numpy(
    mode: Array, new: Array, skip: Array, keep: Array, cap: int, n_items: int, sizes: Array, status: Array
) -> None:
    """The numpy twin of `_measure`: rows that slide in one go, the others one by one."""
    first_new, first_copy = firsts(mode)
    slides = _slides(mode, skip, keep)
    fresh = np.zeros(len(mode), np.int64)
    fresh[mode <= 1] = new[first_new[mode <= 1]]
    if len(mode) and mode[0]:
        status[:2] = 1, 0
        return
    lengths = np.zeros(len(mode), np.int64)
    grown = np.cumsum(np.where(slides, fresh, 0))
    too_long = np.flatnonzero(fresh > cap)
    if len(too_long):
        status[:2] = 2, too_long[0]
        return
    # Between two rows that do not slide, a row is as long as the first and all that is new, up to the cap.
    heads = np.append(np.flatnonzero(~slides), len(mode))
    for head, end in zip(heads[:-1].tolist(), heads[1:].tolist(), strict=True):
        length = int(fresh[head])
        if mode[head]:
            a, b, n = int(first_new[head]), int(first_copy[head]), int(mode[head])
            fault, length = _walk(
                new[a : a + n].tolist(),
                skip[b : b + n].tolist(),
                keep[b : b + n].tolist(),
                int(lengths[head - 1]),
                cap,
            )
            if fault:
                status[:2] = fault, head
                return
        lengths[head] = length
        np.minimum(grown[head + 1 : end] - grown[head] + length, cap, out=lengths[head + 1 : end])
    if int(lengths.sum()) != n_items:
        status[:2] = 5, max(len(mode) - 1, 0)
        return
    sizes[:] = lengths
    status[2] = np.where(shares(mode, skip), fresh, lengths).sum()


def _walk(new: list[int], skip: list[int], keep: list[int], before: int, cap: int) -> tuple[int, int]:
    """What `_measure` finds in a row of copies: fault or 0, and its length."""
    length = used = 0
    for i, taken in enumerate(keep):
        length += new[i]
        used += skip[i]
        if length > cap:
            return 2, 0
        if used > before:
            return 3, 0
        left = before - used
        if i + 1 == len(keep):
            left = min(left, cap - length)
            if taken > left:
                return 4, 0
            taken = left - taken
        elif taken > left:
            return 3, 0
        used += taken
        length += taken
        if length > cap:
            return 2, 0
    return 0, length


def _slides(mode: Array, skip: Array, keep: Array) -> NDArray[np.bool_]:
    """bool[n]: rows of one copy which passes over nothing and takes all that was predicted."""
    slides: NDArray[np.bool_] = mode == 1
    at = firsts(mode)[1][slides]
    slides[slides] = (skip[at] | keep[at]) == 0
    return slides


def firsts(mode: Array) -> tuple[Array, Array]:
    """int64[n] each: where in `new`, and where in `skip` and `keep`, a row's numbers start."""
    counts = mode.astype(np.int64)
    written = np.maximum(counts, 1)
    return np.cumsum(written) - written, np.cumsum(counts) - counts


def shares(mode: Array, skip: Array) -> NDArray[np.bool_]:
    """bool[n]: rows of which `views` writes the literals only."""
    sharing: NDArray[np.bool_] = mode <= 1
    one = mode == 1
    sharing[one] = skip[firsts(mode)[1][one]] == 0
    return sharing
