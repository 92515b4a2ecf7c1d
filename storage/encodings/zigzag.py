"""Signed integers as unsigned ones, small where they are near zero: 0, -1, 1, -2 become 0, 1, 2, 3.

    offset  bytes
    0            child: unsigned integers of the stream's size, (value << 1) ^ (value >> all bits but one)

A wrapper: what writes the child decides the size. Wins over a plain frame of reference where that cannot help itself:
before `varint`, which spends all bytes on a negative number, and before `pfor`, whose exceptions lie above the base
only. There is no kernel: numpy undoes it in place, a few blocks at a time. (Protocol Buffers' sint encoding.)
"""

from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import nested
from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream

_STEP_VALUES: Final = 4096


class Zigzag(Encoding):
    """Another encoding over signed integers folded at zero."""

    id: ClassVar[int] = 8
    name: ClassVar[str] = "zigzag"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return stats.dtype.kind == "i"

    def size(self, stats: Stats) -> int | None:
        """None: the child decides."""
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if values.dtype.kind != "i":
            raise refuse_encode(self.name, f"it needs signed integers, got {values.dtype}")
        signs = bits(np.ascontiguousarray(values) >> values.dtype.type(8 * values.itemsize - 1))
        return nested.write((stored << stored.dtype.type(1)) ^ signs, child)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        _opened(payload, out.dtype).decode(target, depth)
        for start in range(0, len(target), _STEP_VALUES):
            _unfold(target[start : start + _STEP_VALUES])

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        touched = _opened(payload, out.dtype).take(n, at, target, depth)
        _unfold(target)
        return touched

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        _opened(payload, dtype).erase(n, _unsigned(dtype), at)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        part = _opened(payload, dtype)
        return (("folded", part.encoding.id, part.payload, n, _unsigned(dtype)),)


def _opened(payload: Bytes, dtype: np.dtype[Any]) -> nested.Part:
    if dtype.kind != "i":
        raise CorruptStream(f"zigzag: expected a stream of signed integers, found one of {dtype}")
    part = nested.read(payload, 0, "zigzag")
    nested.finish(payload, part.end, "zigzag")
    return part


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _unfold(folded: Array) -> None:
    """Undo the fold where it lies, uint[n]."""
    one = folded.dtype.type(1)
    signs = folded & one
    np.negative(signs, out=signs)
    folded >>= one
    folded ^= signs
