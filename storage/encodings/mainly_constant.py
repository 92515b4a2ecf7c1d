"""One frequent value, and the others where it is not.

    offset  bytes
    0       4    u32 n, at least 1
    4       4    u32 n_others
    8       8    the frequent value's bits, zero-extended to u64
    16           child: bool[n], True where another value is
    ..           child: the other values, in order, of the stream's dtype

Wins where defaults, zeros or one category make up most of a column: a bit and less per value, and a fill when read. The
first child is a stream of bools like any other, so the cascade gives it a bitmap or positions, whichever is smaller. The
frequent value is that of a sample of about 1,024, so equal streams give equal bytes. Nothing can be erased in place: the
bools tell whether a value was the frequent one. There is no kernel: numpy fills, and scatters the others only.
(BtrBlocks, SIGMOD 2023, section 2.2, "Frequency".)
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import nested
from headrace.storage.encodings.bitmap import Bitmap, packed_bits
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
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream

_HEADER: Final = struct.Struct("<IIQ")
_BOOL: Final = np.dtype(np.bool_)
SAMPLE_VALUES: Final = 1024


class MainlyConstant(Encoding):
    """A frequent value, which values are others, and those."""

    id: ClassVar[int] = 14
    name: ClassVar[str] = "mainly_constant"

    def can_encode(self, stats: Stats) -> bool:
        return stats.n > 0

    def size(self, stats: Stats) -> int | None:
        """None: the children decide."""
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if not len(stored):
            raise refuse_encode(self.name, "it needs one value or more")
        seen, counts = np.unique(stored[:: -(-len(stored) // SAMPLE_VALUES)], return_counts=True)
        frequent = seen[counts.argmax()]
        others = stored != frequent
        found = values[others]
        header = _HEADER.pack(len(stored), len(found), int(frequent))
        return b"".join((header, nested.write(others, child), nested.write(found, child)))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        frequent, n_others, which, values = _opened(payload, len(out), out.itemsize)
        others = np.empty(len(out), _BOOL)
        which.decode(others, depth)
        positions = _counted(others, n_others)
        found = np.empty(n_others, out.dtype)
        values.decode(found, depth)
        target.fill(frequent)
        target[positions] = bits(found)
        checked_bools(out, self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        frequent, n_others, which, values = _opened(payload, n, out.itemsize)
        if isinstance(which.encoding, Bitmap):
            bitmap = packed_bits(which.payload, n, _BOOL)
            ends = np.cumsum(np.bitwise_count(bitmap), dtype=np.int64)
            if ends[-1] != n_others:
                raise _miscounted(n_others, int(ends[-1]))
            byte, bit = bitmap[at >> 3], (at & 7).astype(np.uint8)
            hit = np.flatnonzero((byte >> bit) & np.uint8(1))
            # How many others lie before each: those up to the end of its byte, less those from itself on.
            ranks = (ends[at >> 3] - np.bitwise_count(byte >> bit))[hit]
            touched = blocks_touched(at)
        else:
            others = np.empty(n, _BOOL)
            which.decode(others, depth)
            hit = np.flatnonzero(others[at])
            ranks = np.searchsorted(_counted(others, n_others), at[hit])
            touched = -(-n // BLOCK_VALUES)
        found = np.empty(len(hit), out.dtype)
        touched += values.take(n_others, ranks, found, depth)
        target.fill(frequent)
        target[hit] = bits(found)
        checked_bools(out, self.name)
        return touched

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        _, n_others, which, values = _opened(payload, n, dtype.itemsize)
        return (
            ("which", which.encoding.id, which.payload, n, _BOOL),
            ("others", values.encoding.id, values.payload, n_others, dtype),
        )


def _opened(payload: Bytes, n: int, itemsize: int) -> tuple[int, int, nested.Part, nested.Part]:
    """The frequent value's bits, how many others there are, and the children."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(
            f"mainly_constant: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes"
        )
    found, n_others, frequent = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or not n or n_others > n:
        raise CorruptStream(
            f"mainly_constant: expected {n} values (at least 1), at most all of them others, found {found} and {n_others}"
        )
    if frequent >> (8 * itemsize):
        raise CorruptStream(f"mainly_constant: expected a value of {itemsize} bytes, found {frequent:#x}")
    which = nested.read(payload, _HEADER.size, "mainly_constant")
    values = nested.read(payload, which.end, "mainly_constant")
    nested.finish(payload, values.end, "mainly_constant")
    return frequent, n_others, which, values


def _counted(others: NDArray[np.bool_], n_others: int) -> NDArray[np.intp]:
    """Where the others are, if there are as many as expected."""
    positions = np.flatnonzero(others)
    if len(positions) != n_others:
        raise _miscounted(n_others, len(positions))
    return positions


def _miscounted(expected: int, found: int) -> CorruptStream:
    return CorruptStream(f"mainly_constant: expected {expected} other values, found {found} marked")
