"""What is counted about a stream before an encoding is chosen: extremes, runs, and how wide its blocks of 1,024 values are.

In the flow: `stats` first, then `headrace.storage.select` compares what encodings make of them, then one encoding writes, for
which bit-packing and its kin need each block's extremes again. All of it comes from one pass over the values, `blocks`.
Nothing is decided here, and no value is looked at as what it means: floats are bit patterns.
"""

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
    DISTINCT_CAP,
    Array,
    Stats,
    bits,
    checked,
    ordered,
)


def stats(values: Array, *, count_distinct: bool = True, count_bit_lengths: bool = False) -> Stats:
    """Count what sizes are computed from.

    Args:
        values: any 1-D array with a dtype in `DTYPES`.
        count_distinct: False leaves `n_distinct` None and spares the costliest count, of use to dictionaries only.
        count_bit_lengths: True fills `bit_lengths`, of use to bit-packing with exceptions only.

    Raises:
        UnsupportedArray: another shape or dtype.

    >>> stats(np.array([7, 7, 9], dtype=np.int16))
    Stats(n=3, dtype=dtype('int16'), min=7, max=9, n_runs=2, n_distinct=2, width_bits=2, bit_lengths=None)
    """
    n = len(checked(values))
    if n == 0:
        return Stats(0, values.dtype, None, None, 0, 0, 0, (0,) if count_bit_lengths else None)
    found = blocks(values, lengths=count_bit_lengths)
    return Stats(
        n=n,
        dtype=values.dtype,
        min=found.low,
        max=found.high,
        n_runs=1 + found.n_changes,
        n_distinct=_count_distinct(ordered(values)) if count_distinct else None,
        width_bits=found.width_bits,
        bit_lengths=found.lengths,
    )


class Blocks(NamedTuple):
    """What one pass over a stream tells of it and of its blocks of 1,024 values."""

    lows: Array
    """Each block's smallest value, uint[n_blocks]: bit patterns."""
    highs: Array
    """Each block's largest value, uint[n_blocks]."""
    low: int
    """Smallest of all, as a number of the stream's order."""
    high: int
    """Largest of all."""
    n_changes: int
    """How many values differ from the one before."""
    width_bits: int
    """Bits of the widest block's range."""
    lengths: tuple[int, ...] | None
    """[k]: how many values are k bits above their block's smallest; None when not counted."""


_TOTALS: Final = 4


@kernel
def _measure(stored: Array, sign: np.uint64, lows: Array, highs: Array, counts: Array) -> None:
    """uint[n], the highest bit if the order is of signed integers, else 0 -> uint[n_blocks], uint[n_blocks], uint64[4 or 68].

    counts: values unlike the one before; smallest and largest, both with `sign` flipped; the widest block's range; from
    there on, of how many values more than k bits are needed to say how far they lie above their block's smallest.
    """
    n = np.uint64(len(stored))
    flip = np.uint64(sign)
    changes = np.uint64(0)
    lowest = ~np.uint64(0)
    highest = np.uint64(0)
    widest = np.uint64(0)
    for block in range(np.uint64(len(lows))):
        start = block * np.uint64(1024)
        end = min(start + np.uint64(1024), n)
        low = ~np.uint64(0)
        high = np.uint64(0)
        for i in range(start, end):
            value = np.uint64(stored[i]) ^ flip
            low = min(low, value)
            high = max(high, value)
        for i in range(max(start, np.uint64(1)), end):
            changes += np.uint64(stored[i] != stored[i - np.uint64(1)])
        lows[block] = low ^ flip
        highs[block] = high ^ flip
        lowest = min(lowest, low)
        highest = max(highest, high)
        reach = high - low
        widest = max(widest, reach)
        if len(counts) > 4:
            shift = np.uint64(0)
            while shift < np.uint64(64) and reach >> shift:
                longer = np.uint64(0)
                for i in range(start, end):
                    longer += np.uint64((((np.uint64(stored[i]) ^ flip) - low) >> shift) != np.uint64(0))
                counts[np.uint64(4) + shift] += longer
                shift += np.uint64(1)
    counts[0] = changes
    counts[1] = lowest
    counts[2] = highest
    counts[3] = widest


def _measure_numpy(stored: Array, sign: np.uint64, lows: Array, highs: Array, counts: Array) -> None:
    """The numpy twin of `_measure`."""
    integers = stored.view(f"i{stored.itemsize}") if sign else stored
    lowest, highest = _extremes(integers)
    lows[:], highs[:] = lowest.view(stored.dtype), highest.view(stored.dtype)
    counts[0] = np.count_nonzero(stored[1:] != stored[:-1])
    counts[1], counts[2] = int(lowest.min()) + int(sign), int(highest.max()) + int(sign)
    counts[3] = (highs - lows).max()
    if len(counts) > _TOTALS:
        lengths = bit_lengths(above(integers, lowest))
        counts[_TOTALS : _TOTALS + len(lengths) - 1] = len(stored) - np.cumsum(lengths)[:-1]


def blocks(values: Array, *, lengths: bool = False) -> Blocks:
    """Look at every value once.

    Args:
        values: any stream of at least one value.
        lengths: whether to count how many bits values lie above their block's smallest.

    Raises:
        UnsupportedArray: another shape or dtype.
    """
    stored = bits(values)
    stored.flags.writeable = False  # always, so that the kernel compiles for one layout
    n, size = len(stored), stored.itemsize
    n_blocks = -(-n // BLOCK_VALUES)
    lows, highs = np.empty(n_blocks, stored.dtype), np.empty(n_blocks, stored.dtype)
    counts = np.zeros(_TOTALS + 64 if lengths else _TOTALS, np.uint64)
    sign = 1 << (8 * size - 1) if values.dtype.kind == "i" else 0
    # Counting alone never repays a compiler.
    pick(0, _measure_numpy, _measure)(stored, np.uint64(sign), lows, highs, counts)
    changes, low, high, reach, *longer = counts.tolist()
    width = reach.bit_length()
    exact = None
    if lengths:
        exact = tuple(before - after for before, after in pairwise((n, *longer[:width], 0)))
    return Blocks(lows, highs, low - sign, high - sign, changes, width, exact)


def block_extremes(integers: Array) -> tuple[Array, Array]:
    """Smallest and largest of each 1,024-value block: two arrays of n_blocks values."""
    if not len(integers):
        return integers[:0], integers[:0]
    found = blocks(integers)
    return found.lows.view(integers.dtype), found.highs.view(integers.dtype)


def _extremes(integers: Array) -> tuple[Array, Array]:
    """As `block_extremes`, by numpy."""
    whole = len(integers) // BLOCK_VALUES
    square = integers[: whole * BLOCK_VALUES].reshape(whole, BLOCK_VALUES)
    lows, highs = square.min(axis=1), square.max(axis=1)
    rest = integers[whole * BLOCK_VALUES :]
    if not len(rest):
        return lows, highs
    return np.append(lows, rest.min()), np.append(highs, rest.max())


def range_bits(lows: Array, highs: Array) -> int:
    """Bits of the widest of the ranges `highs - lows`; 0 for no ranges."""
    # The difference of two signed integers always fits their unsigned type, modulo its size.
    return int((bits(highs) - bits(lows)).max(initial=0)).bit_length()


def above(values: Array, lows: Array) -> Array:
    """How far each value lies above its block's `lows`: unsigned integers of the values' size."""
    stored, bases = bits(values), bits(lows)
    differences = np.empty_like(stored)
    whole = len(stored) // BLOCK_VALUES * BLOCK_VALUES
    shape = (-1, BLOCK_VALUES)
    np.subtract(
        stored[:whole].reshape(shape),
        bases[: whole // BLOCK_VALUES, None],
        out=differences[:whole].reshape(shape),
    )
    if whole < len(stored):
        np.subtract(stored[whole:], bases[-1], out=differences[whole:])
    return differences


def bit_lengths(differences: Array) -> NDArray[np.intp]:
    """[k]: how many unsigned integers have k bits, from 0 to the widest."""
    counts = np.zeros(1023 + 65, np.intp)
    # A few blocks at a time, so that what numpy makes in between stays in the cache.
    for start in range(0, len(differences), 8 * BLOCK_VALUES):
        some = differences[start : start + 8 * BLOCK_VALUES]
        # A float's exponent is its integer's bit length, if rounding cannot carry into the next power of two: so the
        # bit below the highest is cleared first.
        exponents = (some & ~(some >> np.uint8(1))).astype(np.float64).view(np.int64)
        exponents >>= 52
        counts += np.bincount(exponents, minlength=len(counts))
    # Exponents are biased by 1,023, so an integer of one bit has 1,023; zero has 0.
    lengths = np.append(counts[:1], counts[1023:])
    return lengths[: 1 + int(np.flatnonzero(lengths).max(initial=0))]


def _count_distinct(integers: Array) -> int | None:
    seen = np.unique(integers[:DISTINCT_CAP])
    for start in range(DISTINCT_CAP, len(integers), DISTINCT_CAP):
        seen = np.union1d(seen, integers[start : start + DISTINCT_CAP])
        if len(seen) > DISTINCT_CAP:
            return None
    return len(seen)
