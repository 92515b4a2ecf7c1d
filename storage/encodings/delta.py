"""Differences along the 16 lanes of a block: each value less the one 16 places before it.

    offset  bytes
    0       4    u32 n
    4       4    zero
    8            child: bases, the first row (16 values) of each block of 1,024; integers of the stream's size and sign
    ..           child: differences of all other rows, signed integers of the stream's size

Blocks, rows and lanes are those of `bitpack`. A running sum per lane gives the values back: 16 sums that do not wait for
each other, where neighbouring differences would make each value wait for the one before. The price is that differences
span 16 steps: four bits more on steady slopes. Each block starts anew, so a value is found by decoding its own block.

Differences stay signed, since a frame of reference then takes care of slopes in both directions; a cascade that wants
them folded at zero puts `zigzag` there. Arithmetic is modulo 2**(8*itemsize), so any values come back. Wins on
timestamps, sequence numbers and sorted ids; nothing can be erased in place, for each value is the sum of others.
Source: the transposed deltas of FastLanes (VLDB 2023), without its transposition.
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import nested
from headrace.storage.encodings._jit import kernel_with, pick
from headrace.storage.encodings._vector import LANES, add_rows, register
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

_STEPS: Final = BLOCK_VALUES - LANES
_HEADER: Final = struct.Struct("<II")


@kernel_with(register)
def _integrate(bases: Array, differences: Array, out: Array) -> None:
    """uint[n_bases], uint[n - n_bases] -> uint[n]."""
    n, lanes = np.uint64(len(out)), np.uint64(LANES)
    base = step = start = np.uint64(0)
    while start < n:
        end = min(start + np.uint64(BLOCK_VALUES), n)
        at = min(start + lanes, n)
        for i in range(start, at):
            out[i] = bases[base]
            base += np.uint64(1)
        whole = (end - at) // lanes
        if whole:
            add_rows(out, at, differences, step, whole)
        at += whole * lanes
        step += whole * lanes
        while at < end:
            out[at] = out[at - lanes] + differences[step]
            at += np.uint64(1)
            step += np.uint64(1)
        start = end


def _integrate_numpy(bases: Array, differences: Array, out: Array) -> None:
    """The numpy twin of `_integrate`."""
    whole = len(out) // BLOCK_VALUES
    rows = out[: whole * BLOCK_VALUES].reshape(whole, BLOCK_VALUES // LANES, LANES)
    rows[:, 0] = bases[: whole * LANES].reshape(whole, LANES)
    rows[:, 1:] = differences[: whole * _STEPS].reshape(whole, _STEPS // LANES, LANES)
    np.add.accumulate(rows, axis=1, out=rows)
    rest = out[whole * BLOCK_VALUES :]
    rest[:LANES] = bases[whole * LANES :]
    rest[LANES:] = differences[whole * _STEPS :]
    for at in range(LANES, len(rest), LANES):
        row = rest[at : at + LANES]
        row += rest[at - LANES : at - LANES + len(row)]


class Delta(Encoding):
    """Bases and differences along 16 lanes, both children."""

    id: ClassVar[int] = 6
    name: ClassVar[str] = "delta"

    def can_encode(self, stats: Stats) -> bool:
        return stats.dtype.kind != "b"

    def size(self, stats: Stats) -> int | None:
        """None: the children decide."""
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if values.dtype.kind == "b":
            raise refuse_encode(self.name, "bools have no differences")
        whole = len(stored) // BLOCK_VALUES * BLOCK_VALUES
        rows = stored[:whole].reshape(-1, BLOCK_VALUES // LANES, LANES)
        rest = stored[whole:]
        bases = np.append(rows[:, 0].ravel(), rest[:LANES])
        differences = np.append((rows[:, 1:] - rows[:, :-1]).ravel(), rest[LANES:] - rest[:-LANES])
        return b"".join(
            (
                _HEADER.pack(len(stored), 0),
                nested.write(bases.view(_bases_dtype(values.dtype)), child),
                nested.write(differences.view(f"i{stored.itemsize}"), child),
            )
        )

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        first, rest = _opened(payload, len(out), out.dtype)
        bases = np.empty(_n_bases(len(out)), target.dtype)
        differences = np.empty(len(out) - len(bases), target.dtype)
        first.decode(bases.view(_bases_dtype(out.dtype)), depth)
        rest.decode(differences.view(f"i{out.itemsize}"), depth)
        pick(len(out), _integrate_numpy, _integrate)(bases, differences, target)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        first, rest = _opened(payload, n, out.dtype)
        # Blocks put side by side are a stream of their own: only the last of all may be short, and it stays last.
        blocks, which = np.unique(at // BLOCK_VALUES, return_inverse=True)
        if len(blocks) * 4 * BLOCK_VALUES > n:
            # Values taken one by one cost several times those decoded in a row.
            return super().take(payload, n, at, out, depth)
        n_bases = _n_bases(n)
        where = _spread(blocks, LANES, n_bases)
        bases = np.empty(len(where), target.dtype)
        first.take(n_bases, where, bases.view(_bases_dtype(out.dtype)), depth)
        where = _spread(blocks, _STEPS, n - n_bases)
        differences = np.empty(len(where), target.dtype)
        rest.take(n - n_bases, where, differences.view(f"i{out.itemsize}"), depth)
        some = np.empty(len(bases) + len(differences), target.dtype)
        pick(len(some), _integrate_numpy, _integrate)(bases, differences, some)
        target[:] = some[which * BLOCK_VALUES + at % BLOCK_VALUES]
        return len(blocks)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        first, rest = _opened(payload, n, dtype)
        n_bases = _n_bases(n)
        signed = np.dtype(f"i{dtype.itemsize}")
        return (
            ("bases", first.encoding.id, first.payload, n_bases, _bases_dtype(dtype)),
            ("differences", rest.encoding.id, rest.payload, n - n_bases, signed),
        )


def _opened(payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[nested.Part, nested.Part]:
    if dtype.kind == "b":
        raise CorruptStream("delta: expected a stream of numbers, found one of bools")
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"delta: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    found, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if found != n or zero:
        raise CorruptStream(f"delta: expected {n} values and a zero, found {found} and {zero}")
    first = nested.read(payload, _HEADER.size, "delta")
    rest = nested.read(payload, first.end, "delta")
    nested.finish(payload, rest.end, "delta")
    return first, rest


def _n_bases(n: int) -> int:
    whole, rest = divmod(n, BLOCK_VALUES)
    return whole * LANES + min(rest, LANES)


def _bases_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"i{dtype.itemsize}" if dtype.kind == "i" else f"u{dtype.itemsize}")


def _spread(blocks: NDArray[np.int64], each: int, n: int) -> NDArray[np.int64]:
    """The positions of some blocks' items, `each` of them in every block but the last, which n ends."""
    where = (blocks[:, None] * each + np.arange(each)).ravel()
    return where[where < n]
