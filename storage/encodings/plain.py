"""Plain: the values' own bytes.

    offset  bytes
    0       n * itemsize   little-endian values; bools are one byte, 0 or 1

Wins on noise: floats from a model, hashes, random ids. It is also the yardstick, since no choice may be larger, and
the only payload without a header, so a page can hand it out without a copy. There is no kernel: this is a memcpy.
"""

from typing import ClassVar

from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    bits,
    checked_bools,
    checked_target,
)
from headrace.storage.encodings.errors import CorruptStream


class Plain(Encoding):
    """Values as they are in memory."""

    id: ClassVar[int] = 1
    name: ClassVar[str] = "plain"

    def can_encode(self, stats: Stats) -> bool:
        return True

    def size(self, stats: Stats) -> int:
        return stats.n * stats.dtype.itemsize

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        return bits(values).tobytes()

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        if len(payload) != out.nbytes:
            raise CorruptStream(
                f"plain: expected {out.nbytes} bytes for {len(out)} {out.dtype}, found {len(payload)}"
            )
        target.view("u1")[:] = payload
        checked_bools(out, self.name)
