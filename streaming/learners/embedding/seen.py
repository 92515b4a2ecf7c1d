"""Which pairs of rows have met, in a fixed number of bytes: four bytes a pair, the oldest of a bucket forgotten first.

In the flow: beside the table, for `exclude_seen` and for negatives that are none. A pair is remembered by 32 bits of fingerprint over
both rows and both generations, in a bucket of eight: a pair that was never seen is taken for one with probability 2**-29 at most, a pair
that was seen is forgotten once eight others fell into its bucket. A recycled row has another generation, so it inherits nothing.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding.index import home
from headrace.streaming.learners.ihomer.jit import kernel

U32 = npt.NDArray[np.uint32]
BUCKET: Final = 8


class SeenPairs:
    """At most `nbytes` of pairs; 0 remembers nothing."""

    def __init__(self, nbytes: int) -> None:
        buckets = nbytes // (4 * BUCKET)
        self.table = np.zeros((1 << (buckets.bit_length() - 1) if buckets else 0, BUCKET), np.uint32)

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def add(self, left: U32, right: U32, generations: U32) -> None:
        """Remember that `left[n]` met `right[n]`; pairs with row 0 are nobody's and are passed over."""
        if len(self.table):
            _add(self.table, left, right, generations)

    def met(self, left: U32, right: U32, generations: U32) -> npt.NDArray[np.bool_]:
        """`bool[n, m]`: whether `left: uint32[n]` is remembered to have met each of `right: uint32[m]`."""
        found = np.zeros((len(left), len(right)), np.bool_)
        if len(self.table):
            _met(self.table, left, right, generations, found)
        return found

    def forget(self, row: int, generations: U32) -> None:
        """Let go of every pair that `row`, as it is now, was part of, also with ids that have no row any more.

        Takes as many steps as rows were ever given out.
        """
        if len(self.table):
            _forget(self.table, row, generations)


@kernel
def as_of(row: Any, generation: Any) -> Any:
    """64 bits of a row as it was in one generation."""
    return (np.uint64(row) << np.uint64(32)) | np.uint64(generation)


@kernel
def fold(a: Any, b: Any) -> Any:
    """64 bits of a pair of rows, each as it was."""
    low = np.uint64(home(a, b, 0xFFFFFFFF))
    return (np.uint64(home(b, a, 0xFFFFFFFF)) << np.uint64(32)) | low


@kernel
def pair(left: Any, right: Any, generations: Any) -> Any:
    """64 bits of a pair of rows as they are now."""
    return fold(as_of(left, generations[left]), as_of(right, generations[right]))


@kernel
def is_met(table: Any, left: Any, right: Any, generations: Any) -> Any:
    """Whether one pair is remembered."""
    if table.shape[0] == 0:
        return False
    mixed = pair(left, right, generations)
    bucket = np.int64(mixed & np.uint64(table.shape[0] - 1))
    mark = np.uint32(mixed >> np.uint64(32)) | np.uint32(1)
    found = False
    for place in range(table.shape[1]):
        found = found or table[bucket, place] == mark
    return found


@kernel
def _add(table: Any, left: Any, right: Any, generations: Any) -> None:
    for at in range(left.shape[0]):
        if left[at] == 0 or right[at] == 0:
            continue
        mixed = pair(left[at], right[at], generations)
        bucket = np.int64(mixed & np.uint64(table.shape[0] - 1))
        mark = np.uint32(mixed >> np.uint64(32)) | np.uint32(1)
        end = table.shape[1] - 1
        for place in range(table.shape[1]):
            if table[bucket, place] == mark or table[bucket, place] == 0:
                end = place
                break
        for place in range(end, 0, -1):
            table[bucket, place] = table[bucket, place - 1]
        table[bucket, 0] = mark


@kernel
def _met(table: Any, left: Any, right: Any, generations: Any, found: Any) -> None:
    for at in range(left.shape[0]):
        for place in range(right.shape[0]):
            found[at, place] = is_met(table, left[at], right[place], generations)


@kernel
def _forget(table: Any, row: Any, generations: Any) -> None:
    own = as_of(row, generations[row])
    for other in range(1, generations.shape[0]):
        for generation in range(generations[other] + 1):
            _remove(table, fold(own, as_of(other, generation)))
            _remove(table, fold(as_of(other, generation), own))


@kernel
def _remove(table: Any, mixed: Any) -> None:
    """Take one pair out of its bucket; those behind it move up."""
    bucket = np.int64(mixed & np.uint64(table.shape[0] - 1))
    mark = np.uint32(mixed >> np.uint64(32)) | np.uint32(1)
    kept = 0
    for place in range(table.shape[1]):
        found = table[bucket, place]
        if found != mark:
            table[bucket, kept] = found
            kept += 1
    for place in range(kept, table.shape[1]):
        table[bucket, place] = 0
