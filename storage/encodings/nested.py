"""Streams within a payload: what an encoding that is made of others writes for each of them.

    offset  bytes
    0       1      wire id of the child's encoding
    1       3      zero
    4       4      u32 n_bytes
    8       n_bytes, then zeros up to a multiple of 8

The number and dtype of a child's values are its parent's to know; it checks them before it calls `Part.decode`. How deep
encodings may lie in each other is checked here (`MAX_DEPTH`), so a payload cannot make a reader recurse without end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings.contract import MAX_DEPTH, Array, Bytes, Child, Encoding
from headrace.storage.encodings.errors import CannotErase, CorruptStream, UnsupportedArray

_HEADER: Final = struct.Struct("<BBHI")
ALIGN_BYTES: Final = 8


def write(values: Array, child: Child | None) -> bytes:
    """One child: header, payload, zeros."""
    number, payload = (child or _bitpacked)(values)
    return b"".join((_HEADER.pack(number, 0, 0, len(payload)), payload, bytes(-len(payload) % ALIGN_BYTES)))


@dataclass(frozen=True, slots=True)
class Part:
    """A child as it lies in its parent's payload."""

    encoding: Encoding
    payload: Bytes
    end: int
    """Where the next child starts in the parent's payload."""

    def decode(self, out: Array, depth: int) -> None:
        """As `Encoding.decode`; `depth` is the parent's."""
        _descend(depth)
        try:
            self.encoding.decode(self.payload, out, depth + 1)
        except UnsupportedArray as error:
            raise self._misplaced(out.dtype) from error

    def take(self, n: int, at: NDArray[np.int64], out: Array, depth: int) -> int:
        """As `Encoding.take`; `depth` is the parent's."""
        _descend(depth)
        try:
            return self.encoding.take(self.payload, n, at, out, depth + 1)
        except UnsupportedArray as error:
            raise self._misplaced(out.dtype) from error

    def erase(self, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """As `Encoding.erase`."""
        if not self.encoding.in_place:
            raise CannotErase(
                f"{self.encoding.name}: single values have no place of their own; encode the page again"
            )
        self.encoding.erase(self.payload, n, dtype, at)

    def _misplaced(self, dtype: np.dtype[Any]) -> CorruptStream:
        """An encoding that writes no such values: the byte that names it is damaged, not the caller's array."""
        return CorruptStream(f"{self.encoding.name}: expected a child of another encoding for {dtype}")


def read(payload: Bytes, at: int, parent: str) -> Part:
    """The child that starts at byte `at` of `payload`; errors speak of `parent`.

    Raises:
        CorruptStream: it does not lie within the payload, or no encoding has its id.
    """
    from headrace.storage.encodings import (
        BY_ID,
    )  # here: the package lists the encodings, and they import this module

    if at + _HEADER.size > len(payload):
        raise CorruptStream(f"{parent}: expected a child at byte {at}, found {len(payload)} bytes in all")
    number, zero, zeros, n_bytes = _HEADER.unpack(payload[at : at + _HEADER.size].tobytes())
    start = at + _HEADER.size
    end = start + n_bytes + -n_bytes % ALIGN_BYTES
    if zero or zeros or end > len(payload):
        raise CorruptStream(
            f"{parent}: expected a child within {len(payload)} bytes, found one of {n_bytes} at {at}"
        )
    encoding = BY_ID.get(number)
    if encoding is None:
        raise CorruptStream(
            f"{parent}: a child has encoding {number}, which this reader does not know; update headrace"
        )
    return Part(encoding, payload[start : start + n_bytes], end)


def finish(payload: Bytes, end: int, parent: str) -> None:
    """Refuse bytes behind the last child."""
    if end != len(payload):
        raise CorruptStream(f"{parent}: expected {end} bytes, found {len(payload)}")


def _descend(depth: int) -> None:
    if depth + 1 >= MAX_DEPTH:
        raise CorruptStream(f"expected at most {MAX_DEPTH} encodings within each other, found more")


def _bitpacked(values: Array) -> tuple[int, bytes]:
    from headrace.storage.encodings.bitpack import BitPack

    return BitPack.id, BitPack().encode(values)
