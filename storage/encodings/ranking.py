"""Which of some numbers is the smallest, the next, and so on: sorting by digits, for the entries of large dictionaries.

In the flow: ``headrace.storage.entries`` orders the distinct values of a chunk by it. Eleven bits at a time, lowest first, each
pass keeping the order of the one before; digits that all numbers share cost a count and no pass. Tens of thousands of ids
take a quarter of the time of a comparing sort.

Source: least-significant-digit radix sort as in Knuth, "The Art of Computer Programming", volume 3, section 5.2.5.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array

_DIGIT: Final = 11
FEW: Final = 2048
"""Up to here numpy's sort is as quick."""


@kernel
def _rank(numbers: Array, counts: Array, order: Array, other: Array) -> None:
    """uint[n] -> uint32[n] in ``order``. counts: uint32[passes, 2048] of zeros; other: uint32[n], overwritten."""
    n = np.uint64(len(numbers))
    passes = len(counts)
    keep = np.uint64((1 << _DIGIT) - 1)
    for i in range(n):
        order[i] = i
        value = np.uint64(numbers[i])
        for at in range(passes):
            counts[at, (value >> np.uint64(_DIGIT * at)) & keep] += np.uint32(1)
    for at in range(passes):
        shift = np.uint64(_DIGIT * at)
        if counts[at, (np.uint64(numbers[0]) >> shift) & keep] == n:
            continue
        start = np.uint32(0)
        for place in range(1 << _DIGIT):
            size = counts[at, place]
            counts[at, place] = start
            start += size
        for i in range(n):
            other[i] = order[i]
        for i in range(n):
            one = other[i]
            digit = (np.uint64(numbers[one]) >> shift) & keep
            order[counts[at, digit]] = one
            counts[at, digit] += np.uint32(1)


def _rank_numpy(numbers: Array, counts: Array, order: Array, other: Array) -> None:
    """The numpy twin of `_rank`."""
    order[:] = np.argsort(numbers, kind="stable")


def ascending(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of the smallest number, of the next, …; equal ones in the order in which they stand.

    Args:
        numbers: unsigned, [n], fewer than 2**32.

    >>> ascending(np.array([30, 10, 20], np.uint64)).tolist()
    [1, 2, 0]
    """
    if len(numbers) <= FEW:
        return np.argsort(numbers, kind="stable")
    order, other = (np.empty(len(numbers), np.uint32) for _ in range(2))
    counts = np.zeros((-(-8 * numbers.itemsize // _DIGIT), 1 << _DIGIT), np.uint32)
    pick(len(numbers), _rank_numpy, _rank)(np.ascontiguousarray(numbers), counts, order, other)
    return order.astype(np.int64)
