"""Bools, one bit each, as Arrow lays them out.

    offset  bytes
    0       4                u32 n
    4       4                zero
    8       ceil(n / 8)      value i is bit i % 8, least significant first, of byte i // 8; bits past n are zero

Wins on bools without long runs and on the validity of columns with many nulls. Erasing clears the bit where it lies. There
is no kernel: numpy packs and unpacks bits with vector instructions. (Arrow's validity layout.)
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    blocks_touched,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream

_HEADER: Final = struct.Struct("<II")


class Bitmap(Encoding):
    """One bit per bool."""

    id: ClassVar[int] = 12
    name: ClassVar[str] = "bitmap"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return stats.dtype.kind == "b"

    def size(self, stats: Stats) -> int:
        return _HEADER.size + -(-stats.n // 8)

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if values.dtype.kind != "b":
            raise refuse_encode(self.name, f"it needs bools, got {values.dtype}")
        return _HEADER.pack(len(stored), 0) + np.packbits(stored, bitorder="little").tobytes()

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        bitmap = packed_bits(payload, len(out), out.dtype)
        target[:] = np.unpackbits(bitmap, count=len(out), bitorder="little")

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        bitmap = packed_bits(payload, n, out.dtype)
        checked_target(payload, out)[:] = (bitmap[at >> 3] >> (at & 7).astype(np.uint8)) & np.uint8(1)
        return blocks_touched(at)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Clear the bits: each reads as False from then on."""
        bitmap = packed_bits(payload, n, dtype)
        # Several of them may lie in one byte.
        np.bitwise_and.at(bitmap, at >> 3, ~(np.uint8(1) << (at & 7).astype(np.uint8)))


def packed_bits(payload: Bytes, n: int, dtype: np.dtype[Any]) -> Bytes:
    """The bits of a checked payload, uint8[ceil(n / 8)].

    Raises:
        CorruptStream: the payload is not that of n bools.
    """
    if dtype.kind != "b":
        raise CorruptStream(f"bitmap: expected a stream of bools, found one of {dtype}")
    expected = _HEADER.size + -(-n // 8)
    if len(payload) != expected:
        raise CorruptStream(f"bitmap: expected {expected} bytes for {n} bools, found {len(payload)}")
    found, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or zero:
        raise CorruptStream(f"bitmap: expected {n} bools and a zero, found {found} and {zero}")
    bitmap = payload[_HEADER.size :]
    if n % 8 and int(bitmap[-1]) >> (n % 8):
        raise CorruptStream(f"bitmap: expected zero bits past the last of {n} bools, found others")
    return bitmap
