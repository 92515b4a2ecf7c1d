"""Integers in as many bytes as they need, seven bits in each (LEB128).

    offset  bytes
    0            per value: its bits from the lowest, seven to a byte; the highest bit is set in all its bytes but the last

Wins on few values of very different sizes, and is cold: a value's place is known only after all before it, so reading is
several times slower than bit-packing, and nothing can be erased in place, since its length would tell its magnitude.
Bytes are counted before a value is read: as many last bytes as values, none of them too long. (DWARF's and Protocol
Buffers' unsigned integers.) Signed streams should be folded by `zigzag` first.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick, words
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


@kernel
def _decode(payload: Array, out: Array) -> None:
    """uint8[n_bytes] with n last bytes, none beyond the first ten of its value -> uint[n]."""
    at = np.uint64(0)
    for i in range(np.uint64(len(out))):
        byte = np.uint64(payload[at])
        at += np.uint64(1)
        value = byte & np.uint64(127)
        shift = np.uint64(7)
        while byte >= np.uint64(128):
            byte = np.uint64(payload[at])
            at += np.uint64(1)
            value |= (byte & np.uint64(127)) << shift
            shift += np.uint64(7)
        out[i] = value


def _decode_numpy(payload: Array, out: Array) -> None:
    """The numpy twin of `_decode`."""
    starts, lengths = _places(np.flatnonzero(payload < 128))
    _gather(payload, starts, lengths, out)


class Varint(Encoding):
    """LEB128 of the values' bits."""

    id: ClassVar[int] = 7
    name: ClassVar[str] = "varint"

    def can_encode(self, stats: Stats) -> bool:
        return stats.dtype.kind != "b"

    def size(self, stats: Stats) -> int | None:
        """None: a trial tells."""
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if values.dtype.kind == "b":
            raise refuse_encode(self.name, "bools need a bit, not a byte")
        lengths = np.ones(len(stored), np.int64)
        for shift in range(7, 8 * stored.itemsize, 7):
            lengths += stored >> stored.dtype.type(shift) != 0
        starts = np.cumsum(lengths) - lengths
        payload = np.empty(int(lengths.sum()), np.uint8)
        for byte in range(_max_bytes(stored.itemsize)):
            some = np.flatnonzero(lengths > byte)
            low = (stored[some] >> stored.dtype.type(7 * byte)).astype(np.uint8) & np.uint8(127)
            payload[starts[some] + byte] = low | ((lengths[some] > byte + 1).astype(np.uint8) << np.uint8(7))
        return payload.tobytes()

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        _checked_ends(payload, len(out), out.dtype)
        pick(len(out), _decode_numpy, _decode)(words(payload, "u1"), target)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        starts, lengths = _places(_checked_ends(payload, n, out.dtype))
        _gather(payload, starts[at], lengths[at], target)
        return blocks_touched(at)


def least_bytes(stats: Stats) -> int:
    """Bytes that `Varint.encode` writes at least: a value is no shorter than what it lies above its block's smallest."""
    if stats.bit_lengths is None or stats.min is None or stats.min < 0:
        return stats.n
    return sum(max(1, -(-length // 7)) * n for length, n in enumerate(stats.bit_lengths))


def _max_bytes(itemsize: int) -> int:
    return -(-8 * itemsize // 7)


def _places(ends: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each value starts and of how many bytes it is, from where it ends."""
    lengths = np.diff(ends, prepend=-1)
    return ends + 1 - lengths, lengths


def _gather(payload: Bytes, starts: NDArray[np.intp], lengths: NDArray[np.intp], out: Array) -> None:
    """Fill `out` with the values that start at some bytes."""
    out[:] = payload[starts] & np.uint8(127)
    for byte in range(1, int(lengths.max(initial=0))):
        some = np.flatnonzero(lengths > byte)
        more = (payload[starts[some] + byte] & np.uint8(127)).astype(out.dtype)
        out[some] |= more << out.dtype.type(7 * byte)


def _checked_ends(payload: Bytes, n: int, dtype: np.dtype[np.generic]) -> NDArray[np.intp]:
    """Where each value's last byte is, if there are n values of the dtype and nothing else."""
    if dtype.kind == "b":
        raise CorruptStream("varint: expected a stream of numbers, found one of bools")
    ends = np.flatnonzero(payload < 128)
    if len(ends) != n or (n and ends[-1] != len(payload) - 1) or (not n and len(payload)):
        raise CorruptStream(
            f"varint: expected {n} values in {len(payload)} bytes, found {len(ends)} and an open end"
        )
    most = _max_bytes(dtype.itemsize)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max(initial=0) > most:
        raise CorruptStream(f"varint: expected at most {most} bytes per value, found {lengths.max()}")
    highest = payload[ends[lengths == most]].max(initial=0)
    if int(highest) >> (8 * dtype.itemsize - 7 * (most - 1)):
        raise CorruptStream(f"varint: expected values of {8 * dtype.itemsize} bits, found more bits")
    return ends
