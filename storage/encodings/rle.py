"""Run-length encoding by run ends: where each run of equal values ends, and its value.

    offset          bytes
    0               4              u32 n
    4               4              u32 n_runs, 0..n
    8               8              u64 ends_bytes
    16              ends_bytes     bit-packed uint32[n_runs]: exclusive end index of each run, ascending; the last is n
    16+ends_bytes   the rest       bit-packed values' bits [n_runs], no two neighbours equal

Ends and not lengths: a run is found by binary search, and decoding needs no running sum. Wins on sorted or clustered
columns with runs of about eight and more: partition keys, session ids, states. (Arrow's run-end encoded layout; Vortex
`RunEnd`; BtrBlocks, SIGMOD 2023, section 2.2.) Both children go through bit-packing and through nothing else.
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick, words
from headrace.storage.encodings.bitpack import BitPack, opened, packed_bytes, unpack_words
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
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

_HEADER: Final = struct.Struct("<IIQ")
_BITPACK: Final = BitPack()


@kernel
def _expand(ends: Array, values: Array, out: Array) -> None:
    """uint32[n_runs] ascending to n, uint[n_runs] -> uint[n]."""
    n = np.uint64(len(out))
    start = np.uint64(0)
    for run in range(len(ends)):
        end = np.uint64(ends[run])
        value = values[run]
        # Sixteen at once, past the end of a short run if need be: the next run overwrites them, and short runs, the
        # slow case, cost no loop of unknown length.
        if start + np.uint64(16) <= n:
            for i in range(np.uint64(16)):
                out[start + i] = value
            start += np.uint64(16)
        for i in range(start, end):
            out[i] = value
        start = end


def _expand_numpy(ends: Array, values: Array, out: Array) -> None:
    """The numpy twin of `_expand`."""
    out[:] = np.repeat(values, np.diff(ends, prepend=np.uint32(0)))


class RLE(Encoding):
    """Run ends and run values, both bit-packed."""

    id: ClassVar[int] = 5
    name: ClassVar[str] = "rle"

    def can_encode(self, stats: Stats) -> bool:
        return True

    def size(self, stats: Stats) -> int:
        """An upper bound: ends and values are taken to range over the whole stream in some block.

        It is exact up to the widths: at most 32 and 8 * itemsize bits too many for each run.
        """
        if not stats.n:
            return _HEADER.size + 2 * packed_bytes(0, 0)
        assert stats.min is not None
        assert stats.max is not None
        spread = (stats.max - stats.min).bit_length()
        ends = (stats.n - 1).bit_length() if stats.n_runs > 1 else 0
        return _HEADER.size + packed_bytes(stats.n_runs, ends) + packed_bytes(stats.n_runs, spread)

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        changes = np.flatnonzero(stored[1:] != stored[:-1]) + 1
        ends = np.append(changes, len(stored))[: len(stored)].astype(np.uint32)
        starts = np.append(0, changes)[: len(stored)]
        packed = _BITPACK.encode(ends)
        return b"".join(
            (_HEADER.pack(len(stored), len(ends), len(packed)), packed, _BITPACK.encode(values[starts]))
        )

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        n = len(out)
        n_runs, packed_ends, packed_values = _opened(payload, n)
        ends = _ends(packed_ends, n_runs, n)
        values = np.empty(n_runs, out.dtype)
        _BITPACK.decode(packed_values, values)
        pick(n, _expand_numpy, _expand)(ends, bits(values), target)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        """As `Encoding.take`: the blocks of 1,024 runs that a search leads to, their ends and what of their values is asked for.

        Where they are about all blocks, all are unpacked in one go.
        """
        checked_target(payload, out)
        n_runs, packed_ends, packed_values = _opened(payload, n)
        if not len(at):
            return 0
        width, bases, packed = opened(packed_ends, n_runs, 4, self.name)
        # Ends ascend, so a block's base is its first end: the last block whose base a value is not below holds the
        # ends up to it.
        firsts = words(bases, "<u8")
        if firsts[0] == 0 or firsts[-1] > n or (firsts[1:] <= firsts[:-1]).any():
            raise CorruptStream(f"rle: expected run ends that ascend from above 0 to {n}, found others")
        if len(at) >= len(firsts):
            runs = np.searchsorted(_ends(packed_ends, n_runs, n), at, side="right")
            touched = _BITPACK.take(packed_values, n_runs, runs, out)
            checked_bools(out, self.name)
            return max(len(firsts), touched)
        block = np.searchsorted(firsts, at.astype(np.uint64), side="right") - 1
        runs = np.zeros(len(at), np.int64)
        searched = np.unique(block[block >= 0])
        for number in searched.tolist():
            start = number * BLOCK_VALUES
            ends = np.empty(min(BLOCK_VALUES, n_runs - start), np.uint32)
            words_of_block = packed[number * 128 * width : (number + 1) * 128 * width]
            unpack_words(words(words_of_block, "<u8"), firsts[number : number + 1], width, ends)
            some = np.flatnonzero(block == number)
            runs[some] = start + np.searchsorted(ends, at[some], side="right")
        if runs.max() >= n_runs:
            raise CorruptStream(f"rle: expected run ends up to {n}, found none above {at[runs.argmax()]}")
        touched = _BITPACK.take(packed_values, n_runs, runs, out)
        checked_bools(out, self.name)
        return max(len(searched), touched)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        n_runs, ends, values = _opened(payload, n)
        return (
            ("ends", BitPack.id, ends, n_runs, np.dtype(np.uint32)),
            ("values", BitPack.id, values, n_runs, dtype),
        )


def _ends(packed: Bytes, n_runs: int, n: int) -> NDArray[np.uint32]:
    """All run ends, checked to ascend to n."""
    ends = np.empty(n_runs, np.uint32)
    _BITPACK.decode(packed, ends)
    if n and (ends[0] == 0 or ends[-1] != n or (ends[1:] <= ends[:-1]).any()):
        raise CorruptStream(f"rle: expected run ends that ascend from above 0 to {n}, found others")
    return ends


def _opened(payload: Bytes, n: int) -> tuple[int, Bytes, Bytes]:
    """The number of runs, their ends and their values, both as bit-packed payloads."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"rle: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    found, n_runs, ends_bytes = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or n_runs > n or (n_runs == 0) != (n == 0):
        raise CorruptStream(f"rle: expected {n} values in at most as many runs, found {found} in {n_runs}")
    children = payload[_HEADER.size :]
    if ends_bytes > len(children):
        raise CorruptStream(f"rle: expected {ends_bytes} bytes of run ends, found {len(children)}")
    # Bit-packing spends at least 8 bytes on 1,024 runs, so no header can ask for more memory than that.
    if 8 * -(-n_runs // BLOCK_VALUES) > ends_bytes:
        raise CorruptStream(f"rle: {n_runs} runs cannot lie in the {ends_bytes} bytes found")
    return n_runs, children[:ends_bytes], children[ends_bytes:]
