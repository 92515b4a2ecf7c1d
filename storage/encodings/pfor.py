"""Bit-packing with exceptions: a width that most values fit, and the high bits of the few that do not.

    offset  bytes
    0       4              u32 n
    4       1              u8 width, 0..8*itemsize, of every value's low bits
    5       1              u8 itemsize, 1, 2, 4 or 8
    6       1              u8 high_width: of every exception's high bits; width + high_width <= 8*itemsize
    7       1              zero
    8       4              u32 n_exceptions
    12      4              u32 n_slots, n_exceptions or more: room for so many, the unused ones zero
    16      8 * n_blocks   u64 bases, as in `bitpack`
    ..      n values at `width`, packed as in `bitpack`
    ..      n_slots positions at (n-1).bit_length() bits, packed against base 0; those of the exceptions ascend
    ..      n_slots high bits at `high_width`, packed against base 0

A value is its block's base + its low bits, + its high bits << width if its position is among the exceptions. The width
is the one that makes the payload smallest: how many exceptions each would have is counted in `Stats.bit_lengths`.

Erasing zeroes the value's low bits and takes its exception out: those behind move up, the room at the end is zeroed. What
stays is what was chosen for the whole stream (width, high_width, n_slots) and the base, which `rebase` renews.

Wins on counts, gaps, lengths and prices with a long tail, where one outlier would widen 64 blocks of bit-packing. Loses
8 bytes to it where there is none. Sources: Zukowski et al., "Super-Scalar RAM-CPU Cache Compression" (ICDE 2006); Lemire
and Boytsov (2015), whose OptPFD also weighs every width. No children: exceptions have to lie where they can be erased.
"""

import struct
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick, words
from headrace.storage.encodings.bitpack import (
    LANES,
    clear_words,
    n_words,
    pack_words,
    survivors_bases,
    take_words,
    unpack_words,
)
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    blocks_touched,
    checked_bools,
    checked_target,
    ordered,
)
from headrace.storage.encodings.counting import above, bit_lengths, block_extremes
from headrace.storage.encodings.errors import CorruptStream

_HEADER: Final = struct.Struct("<IBBBBII")


@kernel
def _unpack_exceptions(
    slots: Array, position_width: int, parts: Array, high_width: int, n: int, positions: Array, highs: Array
) -> None:
    """uint64[n_words] at 1..32 bits, uint64[n_words] at 1..64 bits -> uint32[1 + k], uint64[k].

    Behind the positions: 1 if they ascend to below n, else 0.
    """
    keep_position = ~np.uint64(0) >> np.uint64(64 - position_width)
    keep_high = ~np.uint64(0) >> np.uint64(64 - high_width)
    least = np.uint64(0)
    for i in range(len(highs)):
        row, lane = (i & 1023) >> 4, i & 15
        bit = row * position_width
        word = np.uint64((i >> 10) * position_width * 16 + (bit >> 6) * 16 + lane)
        found = slots[word] >> np.uint64(bit & 63)
        if (bit & 63) + position_width > 64:
            found |= slots[word + np.uint64(16)] << np.uint64(64 - (bit & 63))
        found &= keep_position
        if found < least or found >= np.uint64(n):
            positions[len(highs)] = 0
            return
        positions[i] = found
        least = found + np.uint64(1)
        bit = row * high_width
        word = np.uint64((i >> 10) * high_width * 16 + (bit >> 6) * 16 + lane)
        found = parts[word] >> np.uint64(bit & 63)
        if (bit & 63) + high_width > 64:
            found |= parts[word + np.uint64(16)] << np.uint64(64 - (bit & 63))
        highs[i] = found & keep_high
    positions[len(highs)] = 1


def _unpack_exceptions_numpy(
    slots: Array, position_width: int, parts: Array, high_width: int, n: int, positions: Array, highs: Array
) -> None:
    """The numpy twin of `_unpack_exceptions`."""
    at = np.arange(len(highs))
    bases = np.zeros(-(-len(highs) // BLOCK_VALUES), np.uint64)
    found = positions[:-1]
    take_words(slots, bases, position_width, at, found)
    take_words(parts, bases, high_width, at, highs)
    positions[-1] = found[-1] < n and (found[1:] > found[:-1]).all()


@kernel
def _add_highs(positions: Array, highs: Array, width: int, out: Array) -> None:
    """uint32[k] within out, uint64[k], 0..63 -> added to uint[n]."""
    shift = np.uint64(width)
    for i in range(len(highs)):
        out[np.uint64(positions[i])] += highs[i] << shift


@kernel
def _add_taken(positions: Array, highs: Array, width: int, at: Array, out: Array) -> None:
    """uint32[k] ascending, uint64[k], 0..63, int64[m] -> added to uint[m] where a position is among the k."""
    shift = np.uint64(width)
    for i in range(len(at)):
        low, high = 0, len(positions)
        while low < high:
            middle = (low + high) >> 1
            if np.int64(positions[middle]) < at[i]:
                low = middle + 1
            else:
                high = middle
        if low < len(positions) and np.int64(positions[low]) == at[i]:
            out[i] += highs[low] << shift


def _add_taken_numpy(positions: Array, highs: Array, width: int, at: Array, out: Array) -> None:
    """The numpy twin of `_add_taken`."""
    found = np.minimum(np.searchsorted(positions, at), len(positions) - 1)
    hit = np.flatnonzero(positions[found] == at)
    out[hit] += (highs[found[hit]] << np.uint64(width)).astype(out.dtype)


def _add_highs_numpy(positions: Array, highs: Array, width: int, out: Array) -> None:
    """The numpy twin of `_add_highs`."""
    out[positions] += (highs << np.uint64(width)).astype(out.dtype)


class _Layout(NamedTuple):
    """A header, and where what follows it ends."""

    n: int
    width: int
    itemsize: int
    high_width: int
    n_exceptions: int
    n_slots: int
    position_width: int
    bases_end: int
    packed_end: int
    positions_end: int
    end: int

    def pack(self) -> bytes:
        return _HEADER.pack(
            self.n, self.width, self.itemsize, self.high_width, 0, self.n_exceptions, self.n_slots
        )


def _layout(n: int, width: int, itemsize: int, high_width: int, n_exceptions: int, n_slots: int) -> _Layout:
    position_width = max(0, n - 1).bit_length()
    bases_end = _HEADER.size + 8 * -(-n // BLOCK_VALUES)
    packed_end = bases_end + 8 * n_words(n, width)
    positions_end = packed_end + 8 * n_words(n_slots, position_width)
    end = positions_end + 8 * n_words(n_slots, high_width)
    header = (n, width, itemsize, high_width, n_exceptions, n_slots)
    return _Layout(*header, position_width, bases_end, packed_end, positions_end, end)


class PFOR(Encoding):
    """Frame-of-reference bit-packing with exceptions; one width per stream."""

    id: ClassVar[int] = 3
    name: ClassVar[str] = "pfor"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return True

    def size(self, stats: Stats) -> int | None:
        """Exact; None if the stats were taken without `bit_lengths`."""
        if stats.bit_lengths is None:
            return None
        return _smallest(stats.n, stats.dtype.itemsize, np.array(stats.bit_lengths)).end

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        lows, _ = block_extremes(ordered(values))
        differences = above(values, lows)
        layout = _smallest(len(values), values.itemsize, bit_lengths(differences))
        bases = bits(lows).astype(np.uint64)
        return b"".join((layout.pack(), bases.tobytes(), *_body(differences, layout)))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        layout = _opened(payload, len(out), out.itemsize)
        bases, packed = _low_parts(payload, layout)
        unpack_words(packed, bases, layout.width, target)
        positions, highs = _exceptions(payload, layout)
        if len(highs):
            pick(len(highs), _add_highs_numpy, _add_highs)(positions, highs, layout.width, target)
        checked_bools(out, self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        layout = _opened(payload, n, out.itemsize)
        bases, packed = _low_parts(payload, layout)
        take_words(packed, bases, layout.width, at, target)
        positions, highs = _exceptions(payload, layout)
        if len(positions):
            pick(len(at), _add_taken_numpy, _add_taken)(positions, highs, layout.width, at, target)
        checked_bools(out, self.name)
        return blocks_touched(at)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Zero the values' low bits and take their exceptions out: each reads as its block's base from then on."""
        layout = _opened(payload, n, dtype.itemsize)
        clear_words(payload[layout.bases_end : layout.packed_end].view("<u8"), layout.width, at)
        positions, highs = _exceptions(payload, layout)
        left = ~np.isin(positions, at)
        if not left.all():
            _rewrite_exceptions(payload, layout, positions[left], highs[left])

    def rebase(self, payload: Bytes, n: int, dtype: np.dtype[Any], erased: NDArray[np.int64]) -> None:
        """Take each base from values that are still there, so that no base tells what an erased one was.

        Args:
            payload: as for `erase`, which need not have been called.
            n: number of values in the stream.
            dtype: theirs.
            erased: int64[k], every position erased up to now, not only the last ones.
        """
        values = np.empty(n, dtype)
        self.decode(payload, values)
        layout = _opened(payload, n, dtype.itemsize)
        lows = survivors_bases(values, erased)
        # Bases only rise, so what lies above them needs no more bits and no more exceptions than before.
        differences = above(values, lows.astype(f"u{dtype.itemsize}"))
        differences[erased] = 0
        body = _body(differences, layout)
        payload[_HEADER.size : layout.bases_end] = lows.view(np.uint8)
        payload[layout.bases_end : layout.packed_end] = np.frombuffer(body[0], np.uint8)
        positions = _exceptional(differences, layout.width)
        _rewrite_exceptions(payload, layout, positions, _highs(differences[positions], layout.width))


def _smallest(n: int, itemsize: int, counts: NDArray[np.intp]) -> _Layout:
    """The layout of the smallest payload for values of which counts[k] have k bits above their base."""
    widest = len(counts) - 1
    widths = np.arange(widest + 1)
    exceptions = n - np.cumsum(counts)
    position_width = max(0, n - 1).bit_length()
    # `bitpack.n_words` of all widths at once: of the values, of the exceptions' positions and of their high bits.
    whole, rows = n // BLOCK_VALUES, -(-(n % BLOCK_VALUES) // LANES)
    blocks, more = exceptions // BLOCK_VALUES, (exceptions % BLOCK_VALUES + (LANES - 1)) // LANES
    cost = (
        whole * widths
        + (rows * widths + 63) // 64
        + blocks * (position_width + widest - widths)
        + (more * position_width + 63) // 64
        + (more * (widest - widths) + 63) // 64
    )
    # Of equals the widest, which has the fewest exceptions.
    width = widest - int(cost[::-1].argmin())
    n_exceptions = int(exceptions[width])
    return _layout(n, width, itemsize, widest - width, n_exceptions, n_exceptions)


def _exceptional(differences: Array, width: int) -> NDArray[np.uint32]:
    """The positions of what needs more than `width` bits."""
    return np.flatnonzero(differences > (1 << width) - 1).astype(np.uint32)


def _highs(differences: Array, width: int) -> Array:
    """What lies above `width` bits; a shift by all bits of a word would be undefined."""
    highs: Array = (
        np.zeros_like(differences)
        if width == 8 * differences.itemsize
        else differences >> differences.dtype.type(width)
    )
    return highs


def _body(differences: Array, layout: _Layout) -> tuple[bytes, bytes, bytes]:
    """Low bits, positions, high bits."""
    bases = np.zeros(-(-layout.n // BLOCK_VALUES), np.uint64)
    positions = _exceptional(differences, layout.width)
    return (
        pack_words(differences, bases, layout.width).tobytes(),
        *_packed_exceptions(layout, positions, _highs(differences[positions], layout.width)),
    )


def _packed_exceptions(layout: _Layout, positions: Array, highs: Array) -> tuple[bytes, bytes]:
    bases = np.zeros(-(-layout.n_slots // BLOCK_VALUES), np.uint64)
    slots = np.zeros(layout.n_slots, np.uint32)
    slots[: len(positions)] = positions
    parts = np.zeros(layout.n_slots, highs.dtype)
    parts[: len(highs)] = highs
    return (
        pack_words(slots, bases, layout.position_width).tobytes(),
        pack_words(parts, bases, layout.high_width).tobytes(),
    )


def _rewrite_exceptions(payload: Bytes, layout: _Layout, positions: Array, highs: Array) -> None:
    """Put fewer exceptions where the old ones lie."""
    slots, parts = _packed_exceptions(layout, positions, highs)
    payload[: _HEADER.size] = np.frombuffer(layout._replace(n_exceptions=len(positions)).pack(), np.uint8)
    payload[layout.packed_end : layout.positions_end] = np.frombuffer(slots, np.uint8)
    payload[layout.positions_end : layout.end] = np.frombuffer(parts, np.uint8)


def _opened(payload: Bytes, n: int, itemsize: int) -> _Layout:
    """The header, checked against the number of values and of bytes."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"pfor: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    found, width, size, high_width, zero, n_exceptions, n_slots = _HEADER.unpack(
        payload[: _HEADER.size].tobytes()
    )
    if found != n or size != itemsize or zero:
        raise CorruptStream(
            f"pfor: expected {n} values of {itemsize} bytes and a zero, found {found} of {size} and {zero}"
        )
    if width + high_width > 8 * itemsize or not n_exceptions <= n_slots <= n:
        raise CorruptStream(
            f"pfor: expected at most {8 * itemsize} bits and {n} exceptions, "
            f"found {width} + {high_width} and {n_exceptions} of {n_slots}"
        )
    layout = _layout(n, width, itemsize, high_width, n_exceptions, n_slots)
    if len(payload) != layout.end:
        raise CorruptStream(f"pfor: expected {layout.end} bytes as its header says, found {len(payload)}")
    return layout


def _low_parts(payload: Bytes, layout: _Layout) -> tuple[Array, Array]:
    bases = words(payload[_HEADER.size : layout.bases_end], "<u8")
    return bases, words(payload[layout.bases_end : layout.packed_end], "<u8")


def _exceptions(payload: Bytes, layout: _Layout) -> tuple[Array, Array]:
    """Positions (uint32) and high bits (uint64) of the exceptions; the highs fit above the width.

    Raises:
        CorruptStream: positions do not ascend, or leave the stream; or there are exceptions without high bits.
    """
    k, position_width, end = layout.n_exceptions, layout.position_width, layout.positions_end
    positions, highs = np.empty(k + 1, np.uint32), np.empty(k, np.uint64)
    if not k:
        return positions[:0], highs
    if not layout.high_width:
        raise CorruptStream(f"pfor: expected no exceptions without high bits, found {k}")
    if not position_width:  # of one value
        positions[:] = 0, k == 1
        highs[:] = words(payload[end : end + 8], "<u8") & np.uint64((1 << layout.high_width) - 1)
    else:
        slots = words(payload[layout.packed_end : end], "<u8")
        parts = words(payload[end : layout.end], "<u8")
        pick(k, _unpack_exceptions_numpy, _unpack_exceptions)(
            slots, position_width, parts, layout.high_width, layout.n, positions, highs
        )
    if not positions[k]:
        raise CorruptStream(f"pfor: expected positions that ascend to at most {layout.n - 1}, found others")
    return positions[:k], highs
