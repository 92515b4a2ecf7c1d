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
from typing import ClassVar, Final

import numpy as np

from headrace.storage.encodings._jit import kernel, pick, words
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    block_extremes,
    checked_bools,
    checked_target,
    ordered,
    range_bits,
)
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


def packed_bytes(n: int, width: int) -> int:
    """Payload bytes of n values at a width in bits."""
    return _HEADER.size + 8 * -(-n // BLOCK_VALUES) + 8 * _n_words(n, width)


def pack(values: Array, bases: Array, width: int) -> bytes:
    """Write values against given bases: `BitPack` passes each block's smallest value, `Dictionary` zeros.

    Args:
        values: uint[n], bit patterns.
        bases: uint64[n_blocks], at most the smallest value of each block in the stream's order.
        width: bits of the largest difference, 0..64.
    """
    packed = np.zeros(_n_words(len(values), width), np.uint64)
    if width:
        pick(len(values), _pack_numpy, _pack)(values, bases, width, packed)
    header = _HEADER.pack(len(values), width, values.itemsize, 0)
    return b"".join((header, bases.tobytes(), packed.tobytes()))


def unpack(payload: Bytes, out: Array, encoding: str) -> None:
    """Check a payload and fill `out`, unsigned integers; errors speak of `encoding`.

    Raises:
        CorruptStream: the header contradicts `out` or the number of bytes.
    """
    if len(payload) < _HEADER.size:
        raise CorruptStream(
            f"{encoding}: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes"
        )
    n, width, itemsize, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if n != len(out) or itemsize != out.itemsize or zero:
        raise CorruptStream(
            f"{encoding}: expected {len(out)} values of {out.itemsize} bytes and a zero, "
            f"found {n} of {itemsize} and {zero}"
        )
    if width > 8 * itemsize:
        raise CorruptStream(f"{encoding}: expected a width of at most {8 * itemsize} bits, found {width}")
    if len(payload) != packed_bytes(n, width):
        raise CorruptStream(
            f"{encoding}: expected {packed_bytes(n, width)} bytes for {n} values at {width} bits, found {len(payload)}"
        )
    end = _HEADER.size + 8 * -(-n // BLOCK_VALUES)
    bases = words(payload[_HEADER.size : end], "<u8")
    if width:
        pick(n, _unpack_numpy, _unpack)(words(payload[end:], "<u8"), bases, width, out)
    else:
        out[:] = np.repeat(bases.astype(out.dtype), BLOCK_VALUES)[:n]


class BitPack(Encoding):
    """Frame-of-reference bit-packing; one width per stream, one base per 1,024 values."""

    id: ClassVar[int] = 2
    name: ClassVar[str] = "bitpack"

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


def _n_words(n: int, width: int) -> int:
    whole, rest = divmod(n, BLOCK_VALUES)
    rows = -(-rest // LANES)
    return LANES * (whole * width + -(-rows * width // 64))


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


def _mask(width: int) -> np.uint64:
    return np.uint64((1 << width) - 1)
