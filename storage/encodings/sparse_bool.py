"""Bools of which one kind is rare: where the rare ones are.

    offset  bytes
    0       4    u32 n
    4       1    u8, 0 or 1: the rarer value
    5       3    zero
    8       4    u32 n_rare
    12      4    zero
    16           child: uint32[n_rare], how many values lie between each rare one and the one before (the first: before it)

Gaps and not positions: they are small wherever the page starts, so any child packs them well, and a running sum of the
few makes positions of them. Wins below one in about ten; no gap can be overwritten without moving what follows. There is
no kernel: numpy's running sum and scatter touch the rare values only. (Roaring's arrays, here without its chunks.)
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import nested
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
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

_HEADER: Final = struct.Struct("<IBBHII")
_GAPS: Final = np.dtype(np.uint32)


class SparseBool(Encoding):
    """The positions of the rarer of two values, as gaps."""

    id: ClassVar[int] = 13
    name: ClassVar[str] = "sparse_bool"

    def can_encode(self, stats: Stats) -> bool:
        return stats.dtype.kind == "b"

    def size(self, stats: Stats) -> int | None:
        """None: the child decides."""
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if values.dtype.kind != "b":
            raise refuse_encode(self.name, f"it needs bools, got {values.dtype}")
        rarer = int(2 * np.count_nonzero(stored) <= len(stored))
        positions = np.flatnonzero(stored == rarer)
        gaps = (np.diff(positions, prepend=-1) - 1).astype(_GAPS)
        return _HEADER.pack(len(stored), rarer, 0, 0, len(gaps), 0) + nested.write(gaps, child)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        rarer, positions = _positions(payload, len(out), out.dtype, depth)
        target.fill(1 - rarer)
        target[positions] = rarer

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        rarer, positions = _positions(payload, n, out.dtype, depth)
        # Positions ascend: one is among them if those up to it and those before it differ in number.
        hit = np.searchsorted(positions, at, side="right") > np.searchsorted(positions, at)
        target[:] = np.where(hit, rarer, 1 - rarer)
        return -(-len(positions) // BLOCK_VALUES)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        _, n_rare, part = _opened(payload, n, dtype)
        return (("gaps", part.encoding.id, part.payload, n_rare, _GAPS),)


def _opened(payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[int, int, nested.Part]:
    """The rarer value, how many there are, and the child."""
    if dtype.kind != "b":
        raise CorruptStream(f"sparse_bool: expected a stream of bools, found one of {dtype}")
    if len(payload) < _HEADER.size:
        raise CorruptStream(
            f"sparse_bool: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes"
        )
    found, rarer, zero, zeros, n_rare, last = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or rarer > 1 or n_rare > n // 2 or zero or zeros or last:
        raise CorruptStream(
            f"sparse_bool: expected {n} bools, at most half of them rare, and zeros, found {found}, {n_rare} of them {rarer}"
        )
    part = nested.read(payload, _HEADER.size, "sparse_bool")
    nested.finish(payload, part.end, "sparse_bool")
    return rarer, n_rare, part


def _positions(payload: Bytes, n: int, dtype: np.dtype[Any], depth: int) -> tuple[int, NDArray[np.int64]]:
    """The rarer value and where it is, ascending."""
    rarer, n_rare, part = _opened(payload, n, dtype)
    gaps = np.empty(n_rare, _GAPS)
    part.decode(gaps, depth)
    # At most 2**31 gaps below 2**32 each: the sum fits.
    positions = np.cumsum(gaps, dtype=np.int64)
    positions += np.arange(n_rare)
    if n_rare and positions[-1] >= n:
        raise CorruptStream(f"sparse_bool: expected positions up to {n - 1}, found {positions[-1]}")
    return rarer, positions
