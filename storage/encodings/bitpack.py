"""Bit-packing with a frame of reference: each value minus its block's base, in as few bits as the stream needs.

    offset          bytes
    0               4              u32 n
    4               1              u8 width, 0..8*itemsize, the same for all blocks
    5               1              u8 itemsize, 1, 2, 4 or 8
    6               2              zero
    8               8 * n_blocks   u64 bases, each block's smallest value (its bits, zero-extended)
    8+8*n_blocks    128 * width    per block of 1,024 values, as u64 words; the last block see below

A block is 64 rows of 16 lanes: value i is row i // 16 of lane i % 16, and word k of lane l is at [16*k + l]. Row r
starts at bit r*width of every lane, so shift and word are the same for 16 neighbouring values: the inner loops are
plain SIMD and values come out in natural order. Each value has a fixed place, so it can be overwritten where it is.
The last block is filled up with zero bits to a whole word per lane and ends there: 128 * ceil(rows * width / 64) bytes.

Arithmetic is modulo 2**(8*itemsize) on bit patterns, so signed integers, floats and bools need no path of their own.
One width per stream and not per block: a stream is a page of a few blocks, the size is known from `Stats` alone, and
a value's place is one multiplication. Wins on ids, counts, timestamps, codes and bools, anything whose range in 1,024
neighbours is narrow; loses to plain by its header when the range is full.

Sources: Lemire and Boytsov, "Decoding billions of integers per second through vectorization" (2015); interleaved lanes
as in FastLanes (VLDB 2023), without its transposed order. It has no exceptions: one outlier widens its whole stream.
"""

import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick, words
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
from headrace.storage.encodings.counting import block_extremes, range_bits
from headrace.storage.encodings.errors import CorruptStream

LANES: Final = 16
ROWS: Final = BLOCK_VALUES // LANES
_HEADER: Final = struct.Struct("<IBBH")


@kernel
def _pack(values: Array, bases: Array, width: int, packed: Array) -> None:
    """uint[n], uint64[n_blocks], 1..64 -> uint64[n_words], given zeroed."""
    n = len(values)
    keep = ~np.uint64(0) >> np.uint64(64 - width)
    for block in range(len(bases)):
        base = bases[block]
        start = block * width * 16
        for row in range((min(1024, n - block * 1024) + 15) >> 4):
            bit = row * width
            # Indices are unsigned, else each would be tested for counting from the end, at half the speed.
            at = np.uint64(block * 1024 + row * 16)
            lanes = np.uint64(min(16, n - block * 1024 - row * 16))
            word = np.uint64(start + (bit >> 6) * 16)
            shift = np.uint64(bit & 63)
            for lane in range(lanes):
                packed[word + lane] |= ((np.uint64(values[at + lane]) - base) & keep) << shift
            if (bit & 63) + width > 64:
                word += np.uint64(16)
                back = np.uint64(64 - (bit & 63))
                for lane in range(lanes):
                    packed[word + lane] = ((np.uint64(values[at + lane]) - base) & keep) >> back


@kernel
def _unpack(packed: Array, bases: Array, width: int, out: Array) -> None:
    """uint64[n_words], uint64[n_blocks], 1..64 -> uint[n]."""
    n = len(out)
    keep = ~np.uint64(0) >> np.uint64(64 - width)
    for block in range(len(bases)):
        base = bases[block]
        start = block * width * 16
        for row in range((min(1024, n - block * 1024) + 15) >> 4):
            bit = row * width
            at = np.uint64(block * 1024 + row * 16)
            lanes = np.uint64(min(16, n - block * 1024 - row * 16))
            word = np.uint64(start + (bit >> 6) * 16)
            shift = np.uint64(bit & 63)
            if (bit & 63) + width > 64:
                over = word + np.uint64(16)
                back = np.uint64(64 - (bit & 63))
                for lane in range(lanes):
                    whole = (packed[word + lane] >> shift) | (packed[over + lane] << back)
                    out[at + lane] = (whole & keep) + base
            else:
                for lane in range(lanes):
                    out[at + lane] = ((packed[word + lane] >> shift) & keep) + base


@kernel
def _take(packed: Array, bases: Array, width: int, at: Array, out: Array) -> None:
    """uint64[n_words], uint64[n_blocks], 1..64, int64[k] within the stream -> uint[k]."""
    keep = ~np.uint64(0) >> np.uint64(64 - width)
    for i in range(len(at)):
        block = at[i] >> 10
        bit = ((at[i] & 1023) >> 4) * width
        word = np.uint64(block * width * 16 + (bit >> 6) * 16 + (at[i] & 15))
        found = packed[word] >> np.uint64(bit & 63)
        if (bit & 63) + width > 64:
            found |= packed[word + np.uint64(16)] << np.uint64(64 - (bit & 63))
        out[i] = (found & keep) + bases[np.uint64(block)]


def _pack_numpy(values: Array, bases: Array, width: int, packed: Array) -> None:
    """The numpy twin of `_pack`, for streams too short to load a compiler for."""
    word, shift = _places(width)
    # A row is at most 64 bits, so each of the words has a row that starts in it.
    first_rows = np.searchsorted(word, np.arange(width))
    split = np.flatnonzero(shift + np.uint64(width) > 64)
    for some_values, some_bases, some_packed in _groups(values, bases, width, packed):
        padded = np.zeros(len(some_bases) * BLOCK_VALUES, np.uint64)
        padded[: len(some_values)] = some_values
        rows = padded.reshape(-1, ROWS, LANES)
        rows -= some_bases[:, None, None]
        rows &= _mask(width)
        padded[len(some_values) :] = 0
        lanes = np.bitwise_or.reduceat(rows << shift[:, None], first_rows, axis=1)
        lanes[:, word[split] + 1, :] |= rows[:, split, :] >> (np.uint64(64) - shift[split])[:, None]
        some_packed[:] = lanes.reshape(-1)[: len(some_packed)]


def _unpack_numpy(packed: Array, bases: Array, width: int, out: Array) -> None:
    """The numpy twin of `_unpack`."""
    word, shift = _places(width)
    next_word = np.minimum(word + 1, width - 1)
    for some_out, some_bases, some_packed in _groups(out, bases, width, packed):
        missing = len(some_bases) * width * LANES - len(some_packed)
        lanes = (np.pad(some_packed, (0, missing)) if missing else some_packed).reshape(-1, width, LANES)
        rows = lanes[:, word, :] >> shift[:, None]
        # Where a row ends in its own word, the next word's bits land above the mask. Shifted twice, since one shift
        # by 64 is undefined.
        rows |= (lanes[:, next_word, :] << (np.uint64(63) - shift)[:, None]) << np.uint64(1)
        rows &= _mask(width)
        rows += some_bases[:, None, None]
        some_out[:] = rows.reshape(-1)[: len(some_out)].astype(some_out.dtype)


def _take_numpy(packed: Array, bases: Array, width: int, at: Array, out: Array) -> None:
    """The numpy twin of `_take`."""
    block, word, shift, split = _slots(width, at)
    found = packed[word] >> shift
    found[split] |= packed[word[split] + LANES] << (np.uint64(64) - shift[split])
    found &= _mask(width)
    found += bases[block]
    out[:] = found.astype(out.dtype)


def packed_bytes(n: int, width: int) -> int:
    """Payload bytes of n values at a width in bits."""
    return _HEADER.size + 8 * -(-n // BLOCK_VALUES) + 8 * n_words(n, width)


def n_words(n: int, width: int) -> int:
    """How many u64 hold n values at a width in bits."""
    whole, rest = divmod(n, BLOCK_VALUES)
    rows = -(-rest // LANES)
    return LANES * (whole * width + -(-rows * width // 64))


def pack_words(values: Array, bases: Array, width: int) -> Array:
    """uint[n], uint64[n_blocks] and 0..64 to uint64[n_words]: what lies above each block's base, cut to the width."""
    packed = np.zeros(n_words(len(values), width), np.uint64)
    if width:
        pick(len(values), _pack_numpy, _pack)(values, bases, width, packed)
    return packed


def unpack_words(packed: Array, bases: Array, width: int, out: Array) -> None:
    """The opposite of `pack_words`; lengths have been checked, `packed` and `bases` come from `words`."""
    if width:
        pick(len(out), _unpack_numpy, _unpack)(packed, bases, width, out)
    else:
        out[:] = np.repeat(bases.astype(out.dtype), BLOCK_VALUES)[: len(out)]


def take_words(packed: Array, bases: Array, width: int, at: NDArray[np.int64], out: Array) -> None:
    """Fill `out` with the values at some positions, without touching any others."""
    if width:
        pick(len(at), _take_numpy, _take)(packed, bases, width, at, out)
    else:
        out[:] = bases[at // BLOCK_VALUES].astype(out.dtype)


def clear_words(packed: Array, width: int, at: NDArray[np.int64]) -> None:
    """Zero the bits of the values at some positions, where they lie: they become their block's base."""
    if not width:
        return
    _, word, shift, split = _slots(width, at)
    # Several of them may lie in one word.
    np.bitwise_and.at(packed, word, ~(_mask(width) << shift))
    np.bitwise_and.at(packed, word[split] + LANES, ~(_mask(width) >> (np.uint64(64) - shift[split])))


def pack(values: Array, bases: Array, width: int) -> bytes:
    """Write values against given bases: `BitPack` passes each block's smallest value, `Dictionary` zeros.

    Args:
        values: uint[n], bit patterns.
        bases: uint64[n_blocks], at most the smallest value of each block in the stream's order.
        width: bits of the largest difference, 0..64.
    """
    header = _HEADER.pack(len(values), width, values.itemsize, 0)
    return b"".join((header, bases.tobytes(), pack_words(values, bases, width).tobytes()))


class Opened(NamedTuple):
    """A payload whose header and length have been checked."""

    width: int
    bases: Bytes
    packed: Bytes


def opened(payload: Bytes, n: int, itemsize: int, encoding: str) -> Opened:
    """Check a payload of n values of `itemsize` bytes; errors speak of `encoding`.

    Raises:
        CorruptStream: the header contradicts the arguments or the number of bytes.
    """
    if len(payload) < _HEADER.size:
        raise CorruptStream(
            f"{encoding}: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes"
        )
    found, width, size, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or size != itemsize or zero:
        raise CorruptStream(
            f"{encoding}: expected {n} values of {itemsize} bytes and a zero, found {found} of {size} and {zero}"
        )
    if width > 8 * itemsize:
        raise CorruptStream(f"{encoding}: expected a width of at most {8 * itemsize} bits, found {width}")
    if len(payload) != packed_bytes(n, width):
        raise CorruptStream(
            f"{encoding}: expected {packed_bytes(n, width)} bytes for {n} values at {width} bits, found {len(payload)}"
        )
    end = _HEADER.size + 8 * -(-n // BLOCK_VALUES)
    return Opened(width, payload[_HEADER.size : end], payload[end:])


def unpack(payload: Bytes, out: Array, encoding: str) -> None:
    """Check a payload and fill `out`, unsigned integers; errors speak of `encoding`.

    Raises:
        CorruptStream: as `opened`.
    """
    width, bases, packed = opened(payload, len(out), out.itemsize, encoding)
    unpack_words(words(packed, "<u8"), words(bases, "<u8"), width, out)


def take(payload: Bytes, n: int, at: NDArray[np.int64], out: Array, encoding: str) -> int:
    """As `Encoding.take`; `out` is unsigned integers."""
    width, bases, packed = opened(payload, n, out.itemsize, encoding)
    take_words(words(packed, "<u8"), words(bases, "<u8"), width, at, out)
    return blocks_touched(at)


def erase(payload: Bytes, n: int, itemsize: int, at: NDArray[np.int64], encoding: str) -> None:
    """As `Encoding.erase`."""
    width, _, packed = opened(payload, n, itemsize, encoding)
    clear_words(packed.view("<u8"), width, at)


def survivors_bases(values: Array, erased: NDArray[np.int64]) -> Array:
    """uint64[n_blocks]: each block's smallest value of those not erased, 0 where all are.

    Args:
        values: any stream.
        erased: int64[k], positions, 0..n-1.
    """
    integers = ordered(values).copy()
    integers[erased] = np.iinfo(integers.dtype).max
    lows = bits(block_extremes(integers)[0]).astype(np.uint64)
    left = np.ones(len(lows) * BLOCK_VALUES, bool)
    left[erased] = False
    left[len(values) :] = False
    lows[~left.reshape(-1, BLOCK_VALUES).any(axis=1)] = 0
    return lows


class BitPack(Encoding):
    """Frame-of-reference bit-packing; one width per stream, one base per 1,024 values."""

    id: ClassVar[int] = 2
    name: ClassVar[str] = "bitpack"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return True

    def size(self, stats: Stats) -> int:
        return packed_bytes(stats.n, stats.width_bits)

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        lows, highs = block_extremes(ordered(values))
        return pack(bits(values), bits(lows).astype(np.uint64), range_bits(lows, highs))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        unpack(payload, checked_target(payload, out), self.name)
        checked_bools(out, self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        touched = take(payload, n, at, checked_target(payload, out), self.name)
        checked_bools(out, self.name)
        return touched

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Zero the values' bits: each reads as its block's base from then on."""
        erase(payload, n, dtype.itemsize, at, self.name)

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
        width, bases, packed = opened(payload, n, dtype.itemsize, self.name)
        lows = survivors_bases(values, erased)
        stored = bits(values)
        stored[erased] = lows[erased // BLOCK_VALUES].astype(stored.dtype)
        bases[:] = lows.view(np.uint8)
        packed[:] = pack_words(stored, lows, width).view(np.uint8)


def _groups(values: Array, bases: Array, width: int, packed: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Values, bases and words of a few blocks at a time: numpy's temporaries then stay in the cache."""
    for first in range(0, len(bases), 8):
        end = first + 8
        yield (
            values[first * BLOCK_VALUES : end * BLOCK_VALUES],
            bases[first:end],
            packed[first * width * LANES : end * width * LANES],
        )


def _places(width: int) -> tuple[Array, Array]:
    """For each row of a block: the word it starts in (int64[64]) and the bit within it (uint64[64])."""
    bit = np.arange(ROWS) * width
    return bit >> 6, (bit & 63).astype(np.uint64)


def _slots(
    width: int, at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, NDArray[np.intp]]:
    """Block, word and shift (uint64) of the values at some positions; and which of them go on in the next word."""
    block, within = at >> 10, at & 1023
    bit = (within >> 4) * width
    word = block * (LANES * width) + (bit >> 6) * LANES + (within & 15)
    bit &= 63
    return block, word, bit.astype(np.uint64), np.flatnonzero(bit + width > 64)


def _mask(width: int) -> np.uint64:
    return np.uint64((1 << width) - 1)
