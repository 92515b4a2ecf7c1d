"""Constant: one value, however often it is repeated.

    offset  bytes
    0       4      u32 n, at least 1
    4       4      zero
    8       8      the value's bits, zero-extended to u64

Wins whenever all values of a page are equal, which is common for partition-like columns, defaults and version numbers.
There is no kernel: numpy's fill is already a memset. (BtrBlocks, SIGMOD 2023, section 2.2, "One Value".)
"""

import struct
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    checked_bools,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream

_LAYOUT: Final = struct.Struct("<IIQ")


class Constant(Encoding):
    """All values equal; 16 bytes."""

    id: ClassVar[int] = 0
    name: ClassVar[str] = "constant"

    def can_encode(self, stats: Stats) -> bool:
        return stats.n_runs == 1

    def size(self, stats: Stats) -> int:
        return _LAYOUT.size

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if not len(stored) or (stored != stored[0]).any():
            raise refuse_encode(self.name, "it needs one value or more, all equal")
        return _LAYOUT.pack(len(stored), 0, int(stored[0]))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        target.fill(_value(payload, len(out), out.itemsize))
        checked_bools(out, self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        """As `Encoding.take`; there is no block to decode, so it returns 0."""
        checked_target(payload, out).fill(_value(payload, n, out.itemsize))
        checked_bools(out, self.name)
        return 0


def _value(payload: Bytes, n: int, itemsize: int) -> int:
    """The bits of the one value of a checked payload."""
    if len(payload) != _LAYOUT.size:
        raise CorruptStream(f"constant: expected {_LAYOUT.size} bytes, found {len(payload)}")
    found, zero, value = _LAYOUT.unpack(payload.tobytes())
    if found != n or zero or not n:
        raise CorruptStream(
            f"constant: expected {n} values (at least 1) and a zero, found {found} and {zero}"
        )
    if value >> (8 * itemsize):
        raise CorruptStream(f"constant: expected a value of {itemsize} bytes, found {value:#x}")
    return int(value)
