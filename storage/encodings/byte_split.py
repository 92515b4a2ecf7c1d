"""Byte split: all lowest bytes of a stream, then all second ones, and so on; each such plane is a stream of its own.

    offset  bytes
    0       4      u32 n
    4       1      u8 itemsize: 2, 4 or 8
    5       1      u8 flags; bit 0: words were rotated left by one bit before they were split
    6       2      zero
    8       ..     `itemsize` children, uint8[n] each, lowest byte first (see `nested`)

Wins on floats from a model: mantissas are noise and stay plain while the plane of exponents, a few values by far the
commonest, goes through zstd. Floats are rotated by one bit first, so that the exponent of a float32 is one whole byte
and the sign is the lowest bit of a mantissa; without it each half of an exponent would share its byte with noise. Also
on integers whose high bytes repeat. Planes that lie plain in the payload are read from there, without a copy; each
value has a fixed place per plane, so it can be overwritten where it is if its planes allow it.

Source: Parquet's BYTE_STREAM_SPLIT. The rotation is our own.
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import Kernel, kernel, pick
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
from headrace.storage.encodings.errors import CannotErase, CorruptStream
from headrace.storage.encodings.nested import Part, finish, read, write

_HEADER: Final = struct.Struct("<IBBH")
_ROTATED: Final = 1
_PLAIN_ID: Final = 1


@kernel
def _join2(p0: Array, p1: Array, turn: int, out: Array) -> None:
    """2 x uint8[n], 0 or 1 -> uint16[n], rotated right by `turn`."""
    # Two loops and no run-time shift: known shifts by 1 and 15 become one rotation, at more than twice the speed.
    if turn:
        for i in range(np.uint64(len(out))):
            word = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
            out[i] = np.uint16(word >> np.uint32(1)) | np.uint16((word & np.uint32(1)) << np.uint32(15))
    else:
        for i in range(np.uint64(len(out))):
            out[i] = np.uint16(np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8)))


@kernel
def _join4(p0: Array, p1: Array, p2: Array, p3: Array, turn: int, out: Array) -> None:
    """4 x uint8[n], 0 or 1 -> uint32[n], rotated right by `turn`."""
    if turn:
        for i in range(np.uint64(len(out))):
            low = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
            word = np.uint32(low | (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i]) << np.uint32(24)))
            out[i] = np.uint32(word >> np.uint32(1)) | np.uint32((word & np.uint32(1)) << np.uint32(31))
    else:
        for i in range(np.uint64(len(out))):
            low = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
            out[i] = np.uint32(
                low | (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i]) << np.uint32(24))
            )


@kernel
def _join8(
    p0: Array,
    p1: Array,
    p2: Array,
    p3: Array,
    p4: Array,
    p5: Array,
    p6: Array,
    p7: Array,
    turn: int,
    out: Array,
) -> None:
    """8 x uint8[n], 0 or 1 -> uint64[n], rotated right by `turn`."""
    for i in range(np.uint64(len(out))):
        a = np.uint32(p0[i]) | (np.uint32(p1[i]) << np.uint32(8))
        low = np.uint32(a | (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i]) << np.uint32(24)))
        b = np.uint32(p4[i]) | (np.uint32(p5[i]) << np.uint32(8))
        high = np.uint32(b | (np.uint32(p6[i]) << np.uint32(16)) | (np.uint32(p7[i]) << np.uint32(24)))
        out[i] = np.uint64(low) | (np.uint64(high) << np.uint64(32))
    if turn:
        for i in range(np.uint64(len(out))):
            out[i] = (out[i] >> np.uint64(1)) | (out[i] << np.uint64(63))


def _join_numpy(*planes_turn_out: Any) -> None:
    """The numpy twin of all three."""
    *planes, turn, out = planes_turn_out
    interleaved = out.view(np.uint8).reshape(len(out), len(planes))
    for place, plane in enumerate(planes):
        interleaved[:, place] = plane
    if turn:
        one, top = out.dtype.type(1), out.dtype.type(8 * out.itemsize - 1)
        out[:] = (out >> one) | (out << top)


_JOIN: Final[dict[int, Kernel[...]]] = {2: _join2, 4: _join4, 8: _join8}


class ByteSplit(Encoding):
    """Planes of bytes as children; floats rotated by one bit."""

    id: ClassVar[int] = 9
    name: ClassVar[str] = "byte_split"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return stats.n > 0 and stats.dtype.itemsize > 1

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        size = stored.itemsize
        if not len(stored) or size == 1:
            raise refuse_encode(
                self.name, f"it needs one value or more of 2, 4 or 8 bytes, got {values.dtype}"
            )
        turn = int(values.dtype.kind == "f")
        if turn:
            one, top = stored.dtype.type(1), stored.dtype.type(8 * size - 1)
            stored = (stored << one) | (stored >> top)
        planes = stored.view(np.uint8).reshape(-1, size)
        children = [write(np.ascontiguousarray(planes[:, place]), child) for place in range(size)]
        return b"".join((_HEADER.pack(len(stored), size, turn, 0), *children))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        turn, children = _children(payload, len(out), out.itemsize)
        planes = []
        for part in children:
            if part.encoding.id == _PLAIN_ID and len(part.payload) == len(out):
                plane = part.payload.view()
            else:
                plane = np.empty(len(out), np.uint8)
                part.decode(plane, depth)
            plane.flags.writeable = False  # always, so that a kernel compiles for one layout
            planes.append(plane)
        pick(len(out), _join_numpy, _JOIN[out.itemsize])(*planes, turn, target)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        turn, children = _children(payload, n, out.itemsize)
        planes = []
        for part in children:
            if part.encoding.id == _PLAIN_ID and len(part.payload) == n:
                planes.append(part.payload[at])
                continue
            planes.append(np.empty(len(at), np.uint8))
            part.take(n, at, planes[-1], depth)
        _join_numpy(*planes, turn, target)
        return blocks_touched(at)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        _, children = _children(payload, n, dtype.itemsize)
        for part in children:
            if not part.encoding.in_place:
                raise CannotErase(
                    f"byte_split: a plane is {part.encoding.name}, where single values have no place of their own; "
                    "encode the page again"
                )
        for part in children:
            part.erase(n, np.dtype(np.uint8), at)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        _, children = _children(payload, n, dtype.itemsize)
        return tuple(
            (f"byte {place}", part.encoding.id, part.payload, n, np.dtype(np.uint8))
            for place, part in enumerate(children)
        )


def _children(payload: Bytes, n: int, itemsize: int) -> tuple[int, list[Part]]:
    """Whether words were rotated, and the planes, lowest byte first."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(
            f"byte_split: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes"
        )
    stored_n, size, flags, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if stored_n != n or size != itemsize or itemsize == 1 or flags > _ROTATED or zero:
        raise CorruptStream(
            f"byte_split: expected {n} values of {itemsize} bytes, flags of at most {_ROTATED} and a zero, "
            f"found {stored_n} of {size}, {flags} and {zero}"
        )
    children: list[Part] = []
    end = _HEADER.size
    for _ in range(size):
        children.append(read(payload, end, "byte_split"))
        end = children[-1].end
    finish(payload, end, "byte_split")
    return flags, children
