"""INT8: floats as one of 253 evenly spaced numbers per block of 1,024. Lossy, so only where the user named it.

    offset  bytes
    0       4      u32 n
    4       1      u8 itemsize of the values: 4 or 8
    5       3      zero
    8       ..     child: scales, float32[n_blocks], finite and not negative (see `nested`)
    ..      ..     child: zeros, float32[n_blocks], finite
    ..      ..     child: codes, uint8[n]

A code of 0..252 stands for zero + scale * code, computed in doubles; 253 is minus infinity, 254 infinity and 255 NaN
(any payload). Scale and zero span the finite values of a block, so the error is at most half a scale. Doubles beyond
the range of float32 come back as its largest number. Wins on embeddings and scores whose values in a block have about
the same size: a quarter of the bytes, at an even error where fp8 has an error that grows with the value.

`erase` overwrites codes where they lie, unless a block's smallest or largest code is among the erased alone: scale and
zero then still tell the value, and the page must be encoded again. The cascade never picks it: the instance in
`encodings.ALL` reads and does not write; `Int8(writes=True)` does. Source: Jacob et al., "Quantization and training of
neural networks for efficient integer-arithmetic-only inference" (CVPR 2018), section 2.1, per block.
"""

import struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import (
    BLOCK_VALUES,
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    checked,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CannotErase, CorruptStream
from headrace.storage.encodings.nested import Part, finish, read, write

LEVELS: Final = 252
"""The highest code of a finite value."""
MINUS_INF: Final = 253
INF: Final = 254
NAN: Final = 255

_HEADER: Final = struct.Struct("<IB3s")
_LARGEST: Final = float(np.finfo(np.float32).max)


@kernel
def _widen(codes: Array, scales: Array, zeros: Array, out: Array) -> None:
    """uint8[n], float32[n_blocks] twice -> float32[n] or float64[n]."""
    n = len(out)
    for block in range(len(scales)):
        scale = np.float64(scales[block])
        zero = np.float64(zeros[block])
        for i in range(np.uint64(block * 1024), np.uint64(min(n, block * 1024 + 1024))):
            code = codes[i]
            out[i] = zero + scale * np.float64(code)
            if code > 252:
                out[i] = np.nan if code == 255 else (np.inf if code == 254 else -np.inf)


def _widen_numpy(codes: Array, scales: Array, zeros: Array, out: Array) -> None:
    """The numpy twin of `_widen`."""
    for block, (scale, zero) in enumerate(zip(scales.tolist(), zeros.tolist(), strict=True)):
        at = slice(block * BLOCK_VALUES, (block + 1) * BLOCK_VALUES)
        out[at] = _numbers(codes[at], np.float64(scale), np.float64(zero))


def _numbers(codes: Array, scale: Array | np.float64, zero: Array | np.float64) -> Array:
    """What codes stand for, float64."""
    values: Array = zero + scale * codes.astype(np.float64)
    special = codes > LEVELS
    if special.any():
        values[special] = np.array([-np.inf, np.inf, np.nan])[codes[special] - MINUS_INF]
    return values


@kernel
def _narrow(values: Array, codes: Array, scales: Array, zeros: Array) -> None:
    """float[n] -> uint8[n], float32[n_blocks] twice."""
    n = len(values)
    for block in range(len(scales)):
        start, end = np.uint64(block * 1024), np.uint64(min(n, block * 1024 + 1024))
        low, high = np.inf, -np.inf
        for i in range(start, end):
            value = np.float64(values[i])
            if abs(value) < np.inf:
                low = min(low, value)
                high = max(high, value)
        if low > high:  # nothing finite
            low, high = 0.0, 0.0
        zeros[block] = min(max(low, -_LARGEST), _LARGEST)
        zero = np.float64(zeros[block])
        # Not below 0: a double's zero may have been rounded up, beyond its block's values.
        scales[block] = max((min(max(high, -_LARGEST), _LARGEST) - zero) / 252.0, 0.0)
        step = np.float64(scales[block])
        if step == 0.0:
            step = np.float64(1.0)
        for i in range(start, end):
            value = np.float64(values[i])
            level = np.rint(np.divide(value - zero, step))
            if abs(value) < np.inf:
                codes[i] = np.uint8(min(max(level, 0.0), 252.0))
            else:
                codes[i] = np.uint8(255 if value != value else (254 if value > 0.0 else 253))


def _narrow_numpy(values: Array, codes: Array, scales: Array, zeros: Array) -> None:
    """The numpy twin of `_narrow`."""
    padded = np.full(len(scales) * BLOCK_VALUES, np.nan)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        padded[: len(values)] = values
    blocks = padded.reshape(-1, BLOCK_VALUES)
    finite = np.isfinite(blocks)
    some = finite.any(axis=1)
    lows = np.where(some, np.where(finite, blocks, np.inf).min(axis=1, initial=np.inf), 0.0)
    highs = np.where(some, np.where(finite, blocks, -np.inf).max(axis=1, initial=-np.inf), 0.0)
    with np.errstate(under="ignore"):
        zeros[:] = np.clip(lows, -_LARGEST, _LARGEST)
        scales[:] = np.maximum((np.clip(highs, -_LARGEST, _LARGEST) - zeros) / LEVELS, 0.0)
    steps = np.where(scales > 0, scales, 1).astype(np.float64)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        levels = np.clip(np.rint((blocks - zeros[:, None]) / steps), 0, LEVELS)
    special = np.where(np.isnan(blocks), NAN, np.where(blocks > 0, INF, MINUS_INF))
    codes[:] = np.where(finite, levels, special).reshape(-1)[: len(values)]


def narrow(values: Array) -> tuple[Array, Array, Array]:
    """Codes, scales and zeros of float32[n] or float64[n]: uint8[n], float32[n_blocks] twice."""
    codes = np.empty(len(values), np.uint8)
    scales, zeros = np.empty((2, -(-len(values) // BLOCK_VALUES)), np.float32)
    pick(len(values), _narrow_numpy, _narrow)(np.ascontiguousarray(values), codes, scales, zeros)
    return codes, scales, zeros


def widen(codes: Array, scales: Array, zeros: Array, out: Array) -> None:
    """Fill float32[n] or float64[n] with what codes stand for."""
    pick(len(codes), _widen_numpy, _widen)(codes, scales, zeros, out)


class Int8(Encoding):
    """Affine 8-bit codes with a scale and a zero per 1,024 values.

    >>> payload = Int8(writes=True).encode(np.array([0.0, 0.5, 1.0, np.nan], np.float32))
    >>> Int8().decode(np.frombuffer(payload, np.uint8), out := np.empty(4, np.float32))
    >>> out
    array([0. , 0.5, 1. , nan], dtype=float32)
    """

    id: ClassVar[int] = 19
    name: ClassVar[str] = "int8"
    in_place: ClassVar[bool] = True

    def __init__(self, *, writes: bool = False) -> None:
        self.writes: Final = writes

    def can_encode(self, stats: Stats) -> bool:
        return self.writes and stats.dtype in (np.float32, np.float64)

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        contiguous = checked(values)
        if not self.writes or values.dtype not in (np.float32, np.float64):
            raise refuse_encode(
                self.name, f"it is lossy, needs Int8(writes=True) and float32 or float64; got {values.dtype}"
            )
        codes, scales, zeros = narrow(contiguous)
        header = _HEADER.pack(len(values), values.itemsize, bytes(3))
        return b"".join((header, write(scales, child), write(zeros, child), write(codes, child)))

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        checked_target(payload, out)
        codes, scales, zeros = _decoded(payload, len(out), out.dtype, depth)
        widen(codes, scales, zeros, out)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        checked_target(payload, out)
        codes, scales, zeros, blocks = self.take_stored(payload, n, out.dtype, at, depth)
        of = at // BLOCK_VALUES
        out[:] = _numbers(codes, scales[of].astype(np.float64), zeros[of].astype(np.float64))
        return blocks

    def take_stored(
        self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64], depth: int = 0
    ) -> tuple[Array, Array, Array, int]:
        """As `take`, but codes as they are stored, scales and zeros of all blocks, and how many were decoded."""
        part, scales, zeros = _children(payload, n, dtype, depth)
        codes = np.empty(len(at), np.uint8)
        return codes, scales, zeros, part.take(n, at, codes, depth)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        part, _, _ = _children(payload, n, dtype, 0)
        self._refuse_extremes(payload, n, dtype, at)
        part.erase(n, np.dtype(np.uint8), at)

    def with_codes(
        self,
        payload: Bytes,
        dtype: np.dtype[Any],
        codes: Array,
        at: NDArray[np.int64],
        child: Child | None = None,
    ) -> bytes:
        """The payload with other codes at some positions, scales and zeros as they were.

        Args:
            payload: as for `decode`.
            dtype: the values' own.
            codes: uint8[n], all of them.
            at: where they are others than before.
            child: as for `encode`.

        Raises:
            CannotErase: as `erase`.
        """
        self._refuse_extremes(payload, len(codes), dtype, at)
        return payload[: _read(payload, len(codes), dtype)[1].end].tobytes() + write(codes, child)

    def _refuse_extremes(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        part, _, _ = _children(payload, n, dtype, 0)
        codes = np.empty(n, np.uint8)
        part.decode(codes, 0)
        erased = np.zeros(n, np.bool_)
        erased[at] = True
        for block in np.unique(at // BLOCK_VALUES).tolist():
            some = slice(block * BLOCK_VALUES, (block + 1) * BLOCK_VALUES)
            of_block = codes[some]
            kept = of_block[~erased[some] & (of_block <= LEVELS)]
            gone = of_block[erased[some] & (of_block <= LEVELS)]
            if len(gone) and (not len(kept) or gone.min() < kept.min() or gone.max() > kept.max()):
                raise CannotErase(
                    f"int8: the scale of block {block} comes from a value to erase; encode the page again"
                )

    def stored(self, payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
        """Codes, scales and zeros as they are stored: uint8[n], float32[n_blocks] twice.

        Args:
            payload: as for `decode`.
            n: number of values.
            dtype: the values' own, float32 or float64.

        Raises:
            CorruptStream: as `decode`.
        """
        return _decoded(payload, n, dtype, 0)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        n_blocks = -(-n // BLOCK_VALUES)
        shapes = (("scales", n_blocks, np.float32), ("zeros", n_blocks, np.float32), ("codes", n, np.uint8))
        return tuple(
            (what, part.encoding.id, part.payload, count, np.dtype(kind))
            for part, (what, count, kind) in zip(_read(payload, n, dtype), shapes, strict=True)
        )


def _read(payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[Part, Part, Part]:
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"int8: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    stored_n, size, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if stored_n != n or size != dtype.itemsize or dtype not in (np.float32, np.float64) or any(zero):
        raise CorruptStream(
            f"int8: expected {n} values of {dtype} and zeros, found {stored_n} of {size} bytes and {zero.hex()}"
        )
    scales = read(payload, _HEADER.size, "int8")
    zeros = read(payload, scales.end, "int8")
    codes = read(payload, zeros.end, "int8")
    finish(payload, codes.end, "int8")
    return scales, zeros, codes


def _children(payload: Bytes, n: int, dtype: np.dtype[Any], depth: int) -> tuple[Part, Array, Array]:
    """Codes, not decoded, and scales and zeros, checked."""
    scales_part, zeros_part, codes = _read(payload, n, dtype)
    scales, zeros = np.empty((2, -(-n // BLOCK_VALUES)), np.float32)
    scales_part.decode(scales, depth)
    zeros_part.decode(zeros, depth)
    if not (np.isfinite(scales).all() and np.isfinite(zeros).all() and (scales >= 0).all()):
        raise CorruptStream("int8: expected finite zeros and scales, none negative, found others")
    return codes, scales, zeros


def _decoded(payload: Bytes, n: int, dtype: np.dtype[Any], depth: int) -> tuple[Array, Array, Array]:
    part, scales, zeros = _children(payload, n, dtype, depth)
    codes = np.empty(n, np.uint8)
    part.decode(codes, depth)
    return codes, scales, zeros
