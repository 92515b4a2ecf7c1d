"""Dictionary: each distinct value once, elsewhere; here only its number, bit-packed.

The payload is that of `bitpack` for uint32 codes with every base zero. Codes count entries from 1; code 0 is never
written and means *erased*: zero bases and a fixed width let an eraser overwrite any code by 0 where it lies. The
entries live outside the page, in the dictionary of the chunk or file, so this class speaks of codes only:

    entries, codes = build(values)          # once per chunk
    payload = Dictionary().encode(codes)    # once per page, any slice of the codes
    Dictionary().decode(payload, codes)
    gather(entries, codes, out)             # erased values come out as zero bits; the caller masks codes == 0
    decode_values(payload, table(entries), out)   # both in one, without the codes; tells how many were erased

Wins on values that repeat but are far apart: item ids, prices, categories, hashes. Loses to bit-packing when the
range of values is as narrow as their number. (BtrBlocks, SIGMOD 2023, section 2.2; the reserved code is our own.)
Strings use the same codes; their entries are the page format's concern.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel_with, pick, words
from headrace.storage.encodings._vector import FOUR, look_up_four, register
from headrace.storage.encodings.bitpack import (
    _unpack_numpy,
    erase,
    opened,
    pack,
    packed_bytes,
    take,
    unpack,
)
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    checked,
    checked_target,
    ordered,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream, UnsupportedArray

Codes = NDArray[np.uint32]


@kernel_with(register)
def _gather(table: Array, codes: Array, out: Array) -> None:
    """uint[1 + n_entries], uint32[n] all below len(table) -> uint[n]."""
    n = np.uint64(len(codes))
    whole = n - n % np.uint64(FOUR)
    for at in range(np.uint64(0), whole, np.uint64(FOUR)):
        look_up_four(table, codes, at, out, at)
    for at in range(whole, n):
        out[at] = table[np.uint64(codes[at])]


@kernel_with(register)
def _unpack_gather(packed: Array, width: int, entries: Array, codes: Array, found: Array, out: Array) -> None:
    """uint64[n_words], 1..32, uint[1 + n_entries] -> uint[n].

    codes: uint32[1024], overwritten. found: uint32[2]: the highest code and the lowest, given as 0 and anything above.
    Stops at the first block with a code beyond the entries.
    """
    n = len(out)
    keep = ~np.uint64(0) >> np.uint64(64 - width)
    for block in range((n + 1023) >> 10):
        start = block * width * 16
        size = min(1024, n - block * 1024)
        for row in range((size + 15) >> 4):
            bit = row * width
            at = np.uint64(row * 16)
            lanes = np.uint64(min(16, size - row * 16))
            word = np.uint64(start + (bit >> 6) * 16)
            shift = np.uint64(bit & 63)
            if (bit & 63) + width > 64:
                over = word + np.uint64(16)
                back = np.uint64(64 - (bit & 63))
                for lane in range(lanes):
                    codes[at + lane] = ((packed[word + lane] >> shift) | (packed[over + lane] << back)) & keep
            else:
                for lane in range(lanes):
                    codes[at + lane] = (packed[word + lane] >> shift) & keep
        highest = codes[0]
        lowest = codes[0]
        for i in range(np.uint64(size)):
            highest = max(highest, codes[i])
            lowest = min(lowest, codes[i])
        found[0] = max(found[0], highest)
        found[1] = min(found[1], lowest)
        if np.uint64(highest) >= np.uint64(len(entries)):
            return
        at = np.uint64(block * 1024)
        whole = np.uint64(size - size % FOUR)
        for i in range(np.uint64(0), whole, np.uint64(FOUR)):
            look_up_four(entries, codes, i, out, at + i)
        for i in range(whole, np.uint64(size)):
            out[at + i] = entries[np.uint64(codes[i])]


def _unpack_gather_numpy(
    packed: Array, width: int, entries: Array, codes: Array, found: Array, out: Array
) -> None:
    """The numpy twin of `_unpack_gather`, which makes an array of the codes: blocks are too short for numpy."""
    unpacked = np.empty(len(out), np.uint32)
    _unpack_numpy(packed, np.zeros(-(-len(out) // BLOCK_VALUES), np.uint64), width, unpacked)
    found[:] = unpacked.max(), unpacked.min()
    if found[0] < len(entries):
        np.take(entries, unpacked, out=out, mode="clip")


def _gather_numpy(table: Array, codes: Array, out: Array) -> None:
    """The numpy twin of `_gather`; 'clip' because take would copy `out` to be able to raise."""
    np.take(table, codes, out=out, mode="clip")


def build(values: Array) -> tuple[Array, Codes]:
    """Number the distinct values in ascending order (floats: of their bit patterns).

    Returns:
        entries: values' dtype [n_distinct], ascending and distinct.
        codes: uint32[n], 1..n_distinct, with values == entries[codes - 1].

    >>> build(np.array([30, 10, 30]))
    (array([10, 30]), array([2, 1, 2], dtype=uint32))
    """
    entries, inverse = np.unique(ordered(values), return_inverse=True)
    return entries.view(values.dtype), (inverse + 1).astype(np.uint32)


def gather(entries: Array, codes: Codes, out: Array) -> None:
    """Fill `out` with the entries that codes name; code 0, erased, gives zero bits.

    Args:
        entries: [n_entries], of `out`'s dtype.
        codes: uint32[n], 0..n_entries.
        out: [n], contiguous and writeable.

    Raises:
        CorruptStream: a code above n_entries.
        UnsupportedArray: lengths or dtypes differ.
    """
    if entries.dtype != out.dtype or codes.dtype != np.uint32 or codes.shape != out.shape:
        raise UnsupportedArray(
            f"gather fills as many values as codes, uint32, in the entries' dtype {entries.dtype}; "
            f"got {len(codes)} codes of {codes.dtype} for {len(out)} values of {out.dtype}"
        )
    look_up(table(entries), codes, out)


def look_up(rows: Array, codes: Codes, out: Array) -> None:
    """As `gather`, for entries that are used more than once.

    Args:
        rows: uint[1 + n_entries], from `table`.
        codes: uint32[n], 0..n_entries.
        out: [n], contiguous and writeable, of as many bytes per value.

    Raises:
        CorruptStream: a code above n_entries.
    """
    _check_highest(int(codes.max(initial=0)), len(rows) - 1)
    target = checked_target(np.empty(0, np.uint8), out)
    pick(len(codes), _gather_numpy, _gather)(rows, checked(codes), target)


def table(entries: Array) -> Array:
    """uint[1 + n_entries]: the entries' bits behind a zero for erased values, so that codes are indices."""
    rows = np.zeros(len(entries) + 1, f"u{entries.itemsize}")
    rows[1:] = bits(entries)
    return rows


def decode_values(payload: Bytes, entries: Array, out: Array) -> bool:
    """Fill `out` with the entries that a payload's codes name, a block at a time, so that no array of codes is made.

    Args:
        payload: as `Dictionary.encode` wrote it.
        entries: uint[1 + n_entries], from `table`.
        out: [n], contiguous and writeable, of as many bytes per value.

    Returns:
        Whether some value is erased: it comes out as zero bits, and `Dictionary.decode` tells which it is.

    Raises:
        CorruptStream: the payload cannot be one for n values, or has a code above n_entries.
        UnsupportedArray: `entries` and `out` differ in their bytes per value.
    """
    target = checked_target(payload, out)
    if entries.dtype != target.dtype or not len(entries):
        raise UnsupportedArray(
            f"values of {out.dtype} come from a table of {target.dtype}, got {len(entries)} {entries.dtype}; "
            "make it with dictionary.table"
        )
    width, bases, packed = opened(payload, len(out), 4, Dictionary.name)
    if bases.any():
        raise CorruptStream("dictionary: expected zero bases, found others")
    if not width or not len(out):
        target.fill(0)
        return len(out) > 0
    found = np.array([0, 2**32 - 1], np.uint32)
    codes = np.empty(BLOCK_VALUES, np.uint32)
    pick(len(out), _unpack_gather_numpy, _unpack_gather)(
        words(packed, "<u8"), width, entries, codes, found, target
    )
    _check_highest(int(found[0]), len(entries) - 1)
    return not found[1]


def _check_highest(code: int, n_entries: int) -> None:
    if code > n_entries:
        raise CorruptStream(
            f"dictionary: expected codes up to {n_entries}, the number of entries, found {code}"
        )


class Dictionary(Encoding):
    """Codes of a dictionary whose entries lie outside the page."""

    id: ClassVar[int] = 4
    name: ClassVar[str] = "dictionary"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        """Whether values, not codes, with these stats have a dictionary at all."""
        return stats.n > 0 and stats.n_distinct is not None

    def size(self, stats: Stats) -> int:
        """Bytes of the codes and of the plain entries together, exact for one payload with all the codes."""
        entries = stats.n if stats.n_distinct is None else stats.n_distinct
        return packed_bytes(stats.n, entries.bit_length()) + entries * stats.dtype.itemsize

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        """Write codes, uint32[n], as `build` numbered them."""
        if values.dtype != np.uint32:
            raise refuse_encode(self.name, f"it needs uint32 codes from dictionary.build, got {values.dtype}")
        codes = bits(values)
        bases = np.zeros(-(-len(codes) // BLOCK_VALUES), np.uint64)
        return pack(codes, bases, int(codes.max(initial=0)).bit_length())

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        """Fill `out`, uint32[n], with codes; `gather` checks them against the entries."""
        _check_codes(out.dtype)
        unpack(payload, checked_target(payload, out), self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        _check_codes(out.dtype)
        return take(payload, n, at, checked_target(payload, out), self.name)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Zero the codes: each reads as erased from then on."""
        _check_codes(dtype)
        erase(payload, n, dtype.itemsize, at, self.name)


def _check_codes(dtype: np.dtype[Any]) -> None:
    if dtype != np.uint32:
        raise UnsupportedArray(
            f"dictionary codes are decoded into uint32, got {dtype}; gather them afterwards"
        )
