"""Plain: the values' own bytes.

    offset  bytes
    0       n * itemsize   little-endian values; bools are one byte, 0 or 1

Wins on noise: floats from a model, hashes, random ids. It is also the yardstick, since no choice may be larger, and
the only payload without a header, so a page can hand it out without a copy. There is no kernel: this is a memcpy.
"""

from typing import Any, ClassVar

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
    checked_bools,
    checked_target,
)
from headrace.storage.encodings.errors import CorruptStream


class Plain(Encoding):
    """Values as they are in memory."""

    id: ClassVar[int] = 1
    name: ClassVar[str] = "plain"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return True

    def size(self, stats: Stats) -> int:
        return stats.n * stats.dtype.itemsize

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        return bits(values).tobytes()

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        _check_length(payload, len(out), out.dtype)
        target.view("u1")[:] = payload
        checked_bools(out, self.name)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        _check_length(payload, n, out.dtype)
        target[:] = payload.view(target.dtype)[at]
        checked_bools(out, self.name)
        return blocks_touched(at)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Zero the values' bytes."""
        _check_length(payload, n, dtype)
        payload.view(f"u{dtype.itemsize}")[at] = 0


def _check_length(payload: Bytes, n: int, dtype: np.dtype[Any]) -> None:
    if len(payload) != n * dtype.itemsize:
        raise CorruptStream(
            f"plain: expected {n * dtype.itemsize} bytes for {n} {dtype}, found {len(payload)}"
        )
