"""Zstandard as last stage: another encoding's payload, compressed as a whole.

    offset  bytes
    0       1      wire id of the child's encoding
    1       3      zero
    4       4      u32 n_bytes of the child's payload
    8       the rest  one zstd frame (RFC 8878) that states its content size, n_bytes, and no dictionary

Wins on cold data whose bytes repeat in ways that no lighter encoding sees, and on skewed bytes such as the exponents of
floats, where its Huffman stage comes near the entropy. Reading one value costs the whole page, and nothing can be
erased in place, so it is never under an erase key. There is no kernel: the codec is Arrow's, which releases the GIL.
The child is decoded from the frame's content; without a `child` it is plain. What a reader sets aside for the content
is bounded by the array it was asked to fill, so a frame cannot claim more than that (a zip bomb is refused unread).
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from headrace.storage.encodings.contract import Array, Bytes, Child, Encoding, Stats, bits, checked_target
from headrace.storage.encodings.errors import CorruptStream
from headrace.storage.encodings.nested import Part

LEVEL: Final = 3
"""What the writer uses unless told otherwise; reading knows no levels."""

SLACK_BYTES: Final = 65_536
"""Headers and padding that a child may have beyond twice its values' own bytes."""

_HEADER: Final = struct.Struct("<BBHI")
_MAGIC: Final = 0xFD2FB528
_CHILD_ID: Final = 1


class Zstd(Encoding):
    """One child, compressed. `level` concerns writing alone.

    >>> payload = np.frombuffer(Zstd().encode(np.arange(1000) % 7), np.uint8)
    >>> Zstd().decode(payload, out := np.empty(1000, np.int64))
    >>> out[:9].tolist(), len(payload) < 100
    ([0, 1, 2, 3, 4, 5, 6, 0, 1], True)
    """

    id: ClassVar[int] = 30
    name: ClassVar[str] = "zstd"

    def __init__(self, level: int = LEVEL) -> None:
        self.level: Final = level

    def can_encode(self, stats: Stats) -> bool:
        return stats.n > 0

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        number, payload = child(values) if child else (_CHILD_ID, stored.tobytes())
        return _HEADER.pack(number, 0, 0, len(payload)) + compress(payload, self.level)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        checked_target(payload, out)
        _content(payload, out.nbytes).decode(out, depth)

    def take(self, payload: Bytes, n: int, at: Array, out: Array, depth: int = 0) -> int:
        checked_target(payload, out)
        _content(payload, n * out.itemsize).take(n, at, out, depth)
        return -(-n // 1024)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        content = _content(payload, n * dtype.itemsize)
        return (("content", content.encoding.id, content.payload, n, dtype),)


def compress(content: bytes, level: int) -> bytes:
    """One zstd frame that states its content size."""
    frame: bytes = pa.Codec("zstd", compression_level=level).compress(content, asbytes=True)
    return frame


def decompress(frame: Bytes, n_bytes: int, encoding: str) -> Bytes:
    """The content of one frame, if it is `n_bytes` long by its own account too; errors speak of `encoding`.

    The caller has checked that `n_bytes` is a size it will pay for.

    Raises:
        CorruptStream: no frame, another size, or damage within.
    """
    stated = _stated_bytes(frame[:18].tobytes())
    if stated != n_bytes:
        raise CorruptStream(f"{encoding}: expected a zstd frame of {n_bytes} bytes, found one of {stated}")
    try:
        content = pa.Codec("zstd").decompress(pa.py_buffer(frame), decompressed_size=n_bytes)
    except (OSError, ValueError) as error:
        raise CorruptStream(
            f"{encoding}: expected a whole zstd frame, found a damaged one: {error}"
        ) from error
    return np.frombuffer(content, np.uint8)


def _content(payload: Bytes, value_bytes: int) -> Part:
    """The child, decompressed; `value_bytes` is what its values take."""
    from headrace.storage.encodings import BY_ID  # here, as in `nested`: the package imports this module

    if len(payload) < _HEADER.size:
        raise CorruptStream(f"zstd: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    number, zero, zeros, n_bytes = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if zero or zeros:
        raise CorruptStream(f"zstd: expected zeros after the child's number, found {zero} and {zeros}")
    if n_bytes > 2 * value_bytes + SLACK_BYTES:
        raise CorruptStream(
            f"zstd: {value_bytes} bytes of values cannot need the {n_bytes} bytes that the header claims"
        )
    encoding = BY_ID.get(number)
    if encoding is None:
        raise CorruptStream(
            f"zstd: the child has encoding {number}, which this reader does not know; update headrace"
        )
    return Part(encoding, decompress(payload[_HEADER.size :], n_bytes, "zstd"), len(payload))


def _stated_bytes(head: bytes) -> int | None:
    """The content size that a frame's header states (RFC 8878, on frame headers); None if it is no such header."""
    if len(head) < 5 or int.from_bytes(head[:4], "little") != _MAGIC:
        return None
    descriptor = head[4]
    single_segment, size_flag = descriptor >> 5 & 1, descriptor >> 6
    n_size_bytes = (single_segment, 2, 4, 8)[size_flag]
    start = 5 + (1 - single_segment)
    if descriptor & 0b11 or not n_size_bytes or start + n_size_bytes > len(head):
        return None
    stated = int.from_bytes(head[start : start + n_size_bytes], "little")
    return stated + 256 if n_size_bytes == 2 else stated
