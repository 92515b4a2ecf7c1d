"""Cast: floats in a narrower floating-point format. Lossy, so only where the user named the format.

    offset  bytes
    0       4      u32 n
    4       1      u8 format: 1 fp16, 2 bf16, 3 fp8 e4m3, 4 fp8 e5m2
    5       1      u8 itemsize of the values: 4 or 8
    6       2      zero
    8       ..     child: codes, uint16[n] for fp16 and bf16, uint8[n] for fp8

Values are rounded to the nearest code, ties to the even one, once: doubles are not rounded to float32 on the way.

    format     bits (sign, exponent, mantissa)   largest     beyond it       NaN
    fp16       1 5 10   IEEE 754 binary16        65504       infinity        kept, payload cut
    bf16       1 8 7    upper half of float32    3.39e38     infinity        kept, payload cut
    fp8 e4m3   1 4 3    no infinity              448         +-448           one code per sign
    fp8 e5m2   1 5 2    upper half of fp16       57344       infinity        one code per sign

Wins on embeddings and features whose last bits are noise: a half or a quarter of the bytes, and codes that a trainer
can use as they are (`stored`). `erase` overwrites codes where they lie. The cascade never picks it: the instance in
`encodings.ALL` reads every format and writes none; `Cast("bf16")` writes. Sources: IEEE 754-2019; "FP8 formats for
deep learning" (Micikevicius et al., 2022) and its OCP form, whose e4m3 saturates.
"""

import struct
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    checked,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream
from headrace.storage.encodings.nested import Part, finish, read, write

Format: TypeAlias = Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
"""In the order of their wire numbers, from 1."""

CODE_DTYPE: Final[dict[Format, np.dtype[Any]]] = {
    "fp16": np.dtype(np.uint16),
    "bf16": np.dtype(np.uint16),
    "fp8_e4m3": np.dtype(np.uint8),
    "fp8_e5m2": np.dtype(np.uint8),
}
LARGEST: Final[dict[Format, float]] = {
    "fp16": 65504.0,
    "bf16": float.fromhex("0x1.fep127"),
    "fp8_e4m3": 448.0,
    "fp8_e5m2": 57344.0,
}

_HEADER: Final = struct.Struct("<IBBH")


# A kernel per format: bits of float32, from codes. Each is a few shifts and one product, which SIMD does 16 at a time;
# a table of 256 entries would be a gather and three times slower.


@kernel
def _widen_bf16(codes: Array, out: Array) -> None:
    """uint16[n] -> uint32[n], bits of float32."""
    for i in range(np.uint64(len(out))):
        out[i] = np.uint32(codes[i]) << np.uint32(16)


@kernel
def _widen_fp16(codes: Array, out: Array) -> None:
    """uint16[n] -> uint32[n], bits of float32."""
    for i in range(np.uint64(len(out))):
        code = np.uint32(codes[i])
        # Exponent and mantissa in float32's places are a number 2**112 times too small, subnormal or not.
        small = np.uint32((code & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32)
        magnitude = np.float32(small * np.float32(2.0**112)).view(np.uint32)
        special = np.uint32(0x7F800000) if (code & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
        out[i] = magnitude | special | np.uint32((code & np.uint32(0x8000)) << np.uint32(16))


@kernel
def _widen_e5m2(codes: Array, out: Array) -> None:
    """uint8[n] -> uint32[n], bits of float32."""
    for i in range(np.uint64(len(out))):
        code = np.uint32(codes[i])
        small = np.uint32((code & np.uint32(0x7F)) << np.uint32(21)).view(np.float32)
        magnitude = np.float32(small * np.float32(2.0**112)).view(np.uint32)
        special = np.uint32(0x7F800000) if (code & np.uint32(0x7C)) == np.uint32(0x7C) else np.uint32(0)
        out[i] = magnitude | special | np.uint32((code & np.uint32(0x80)) << np.uint32(24))


@kernel
def _widen_e4m3(codes: Array, out: Array) -> None:
    """uint8[n] -> uint32[n], bits of float32."""
    for i in range(np.uint64(len(out))):
        code = np.uint32(codes[i])
        small = np.uint32((code & np.uint32(0x7F)) << np.uint32(20)).view(np.float32)
        magnitude = np.float32(small * np.float32(2.0**120)).view(np.uint32)
        special = np.uint32(0x7FC00000) if (code & np.uint32(0x7F)) == np.uint32(0x7F) else np.uint32(0)
        out[i] = magnitude | special | np.uint32((code & np.uint32(0x80)) << np.uint32(24))


def _widen_bf16_numpy(codes: Array, out: Array) -> None:
    """The numpy twin of `_widen_bf16`."""
    np.left_shift(codes, np.uint32(16), out=out, dtype=np.uint32)


def _widen_fp16_numpy(codes: Array, out: Array) -> None:
    """The numpy twin of `_widen_fp16`."""
    out.view(np.float32)[:] = codes.view(np.float16)
    # numpy quiets nothing, but a signalling NaN may be quieted by the processor.
    special = (codes & np.uint16(0x7C00)) == 0x7C00
    some = codes[special].astype(np.uint32)
    out[special] = (some & 0x8000) << 16 | 0x7F800000 | (some & 0x3FF) << 13


def _widen_e5m2_numpy(codes: Array, out: Array) -> None:
    """The numpy twin of `_widen_e5m2`."""
    _widen_fp16_numpy(np.left_shift(codes, 8, dtype=np.uint16), out)


def _widen_e4m3_numpy(codes: Array, out: Array) -> None:
    """The numpy twin of `_widen_e4m3`."""
    np.take(_E4M3.view(np.uint32), codes, out=out, mode="clip")


_WIDEN: Final = {
    "fp16": (_widen_fp16_numpy, _widen_fp16),
    "bf16": (_widen_bf16_numpy, _widen_bf16),
    "fp8_e4m3": (_widen_e4m3_numpy, _widen_e4m3),
    "fp8_e5m2": (_widen_e5m2_numpy, _widen_e5m2),
}


@kernel
def _round_fp8(exact: Array, mantissa_bits: int, bias: int, largest: int, beyond: int, codes: Array) -> None:
    """Bits of float32, uint32[n] -> uint8[n]; codes above `largest` become `beyond`."""
    lowest = np.uint32(128 - bias)  # float32's biased exponent of the smallest normal number
    drop = np.uint32(23 - mantissa_bits)
    for i in range(np.uint64(len(exact))):
        magnitude = np.uint32(exact[i] & np.uint32(0x7FFFFFFF))
        exponent = np.uint32(magnitude >> np.uint32(23))
        fraction = np.uint32(magnitude & np.uint32(0x7FFFFF))
        if exponent > np.uint32(0):
            fraction |= np.uint32(1 << 23)
        exponent = max(exponent, np.uint32(1))
        # Below the smallest normal number the mantissa loses a bit per power of two, down to none.
        lost = np.uint32(min(np.uint32(lowest - min(exponent, lowest)), np.uint32(mantissa_bits + 2)))
        shift = np.uint32(drop + lost)
        half = np.uint32(np.uint32(1) << np.uint32(shift - np.uint32(1)))
        even = np.uint32((fraction >> shift) & np.uint32(1))
        kept = np.uint32(np.uint32(fraction + half - np.uint32(1) + even) >> shift)
        code = np.uint32(kept + np.uint32((max(exponent, lowest) - lowest) << np.uint32(mantissa_bits)))
        if code > np.uint32(largest):
            code = np.uint32(beyond)
        if magnitude > np.uint32(0x7F800000):
            code = np.uint32(0x7F)
        codes[i] = np.uint8(code | np.uint32((exact[i] >> np.uint32(31)) << np.uint32(7)))


def _round_fp8_numpy(
    exact: Array, mantissa_bits: int, bias: int, largest: int, beyond: int, codes: Array
) -> None:
    """The numpy twin of `_round_fp8`."""
    magnitude = exact & np.uint32(0x7FFFFFFF)
    lowest = 128 - bias
    exponent = (magnitude >> np.uint32(23)).astype(np.int32)
    fraction = (magnitude & np.uint32(0x7FFFFF)) | np.where(exponent, np.uint32(1 << 23), np.uint32(0))
    exponent = np.maximum(exponent, 1)
    shift = (23 - mantissa_bits + np.clip(lowest - exponent, 0, mantissa_bits + 2)).astype(np.uint32)
    half = np.uint32(1) << (shift - np.uint32(1))
    even = (fraction >> shift) & np.uint32(1)
    kept = (fraction + half - np.uint32(1) + even) >> shift
    some = kept.astype(np.int32) + (np.maximum(exponent - lowest, 0) << mantissa_bits)
    some = np.where(some > largest, beyond, some)
    some = np.where(magnitude > 0x7F800000, 0x7F, some)
    codes[:] = some | (exact >> np.uint32(31) << np.uint32(7))


def narrow(values: Array, form: Format) -> Array:
    """Codes of the nearest numbers: float32[n] or float64[n] -> uint16[n] or uint8[n].

    >>> narrow(np.array([1.0, -2.5], np.float32), "bf16")
    array([16256, 49184], dtype=uint16)
    """
    if form == "fp16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(np.float16).view(np.uint16)
    exact = _odd(values)
    if form == "bf16":
        return _round_bf16(exact)
    codes = np.empty(len(values), np.uint8)
    shape = (3, 7, 0x7E, 0x7E) if form == "fp8_e4m3" else (2, 15, 0x7B, 0x7C)
    pick(len(values), _round_fp8_numpy, _round_fp8)(checked_codes(exact), *shape, codes)
    return codes


def widen(codes: Array, form: Format, out: Array) -> None:
    """Fill float32[n] or float64[n] with the numbers that codes stand for, exactly."""
    twin, compiled = _WIDEN[form]
    if out.itemsize == 4:
        pick(len(codes), twin, compiled)(checked_codes(codes), out.view(np.uint32))
        return
    for start in range(0, len(codes), _PIECE):
        some = np.empty(min(_PIECE, len(codes) - start), np.float32)
        widen(codes[start : start + _PIECE], form, some)
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            out[start : start + _PIECE] = some


class Cast(Encoding):
    """Floats in the format that the user named; `Cast()` reads all formats and writes none.

    >>> payload = Cast("fp16").encode(np.array([0.1, 1e6], np.float32))
    >>> Cast().decode(np.frombuffer(payload, np.uint8), out := np.empty(2, np.float32))
    >>> out
    array([0.09997559,        inf], dtype=float32)
    """

    id: ClassVar[int] = 18
    name: ClassVar[str] = "cast"
    in_place: ClassVar[bool] = True

    def __init__(self, form: Format | None = None) -> None:
        self.form: Final = form

    def can_encode(self, stats: Stats) -> bool:
        return self.form is not None and stats.dtype in (np.float32, np.float64)

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        contiguous = checked(values)
        if self.form is None or values.dtype not in (np.float32, np.float64):
            raise refuse_encode(
                self.name,
                f"it is lossy, needs the name of a format ({', '.join(FORMATS)}) and float32 or float64; "
                f"got {self.form} and {values.dtype}",
            )
        header = _HEADER.pack(len(values), 1 + FORMATS.index(self.form), values.itemsize, 0)
        return header + write(narrow(contiguous, self.form), child)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        checked_target(payload, out)
        form, part = _child(payload, len(out), out.dtype)
        codes = np.empty(len(out), CODE_DTYPE[form])
        part.decode(codes, depth)
        widen(codes, form, out)

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        checked_target(payload, out)
        form, codes, blocks = self.take_stored(payload, n, out.dtype, at, depth)
        widen(codes, form, out)
        return blocks

    def take_stored(
        self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64], depth: int = 0
    ) -> tuple[Format, Array, int]:
        """As `take`, but the format and the codes as they are stored; and how many blocks were decoded."""
        form, part = _child(payload, n, dtype)
        codes = np.empty(len(at), CODE_DTYPE[form])
        return form, codes, part.take(n, at, codes, depth)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        form, part = _child(payload, n, dtype)
        part.erase(n, CODE_DTYPE[form], at)

    def with_codes(
        self,
        payload: Bytes,
        dtype: np.dtype[Any],
        codes: Array,
        at: NDArray[np.int64],
        child: Child | None = None,
    ) -> bytes:
        """The payload with other codes, in the same format; arguments as of `Int8.with_codes`."""
        _child(payload, len(codes), dtype)
        return payload[: _HEADER.size].tobytes() + write(codes, child)

    def stored(self, payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[Format, Array]:
        """The format and the codes as they are stored, uint16[n] or uint8[n], not converted.

        Args:
            payload: as for `decode`.
            n: number of values.
            dtype: the values' own, float32 or float64.

        Raises:
            CorruptStream: as `decode`.
        """
        form, part = _child(payload, n, dtype)
        codes = np.empty(n, CODE_DTYPE[form])
        part.decode(codes, 0)
        return form, codes

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        form, part = _child(payload, n, dtype)
        return ((form, part.encoding.id, part.payload, n, CODE_DTYPE[form]),)


def _child(payload: Bytes, n: int, dtype: np.dtype[Any]) -> tuple[Format, Part]:
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"cast: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    stored_n, number, size, zero = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if stored_n != n or size != dtype.itemsize or dtype not in (np.float32, np.float64) or zero:
        raise CorruptStream(
            f"cast: expected {n} values of {dtype} and a zero, found {stored_n} of {size} bytes and {zero}"
        )
    if not 1 <= number <= len(FORMATS):
        raise CorruptStream(f"cast: expected a format of 1..{len(FORMATS)}, found {number}")
    part = read(payload, _HEADER.size, "cast")
    finish(payload, part.end, "cast")
    return FORMATS[number - 1], part


def checked_codes(codes: Array) -> Array:
    """Codes as kernels want them, always read-only: each then compiles for one layout."""
    view = np.ascontiguousarray(codes).view()
    view.flags.writeable = False
    return view


def _odd(values: Array) -> Array:
    """float64[n] -> bits of float32[n], rounded to odd: what is rounded again then comes out as if rounded once."""
    if values.itemsize == 4:
        return values.view(np.uint32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        nearest = values.astype(np.float32)
        rounded = nearest.view(np.uint32)
        away = np.abs(nearest.astype(np.float64)) > np.abs(values)
        inexact = nearest != values
    inexact &= ~np.isnan(values)
    odd: Array = (rounded - (away & inexact)) | inexact
    return odd


def _round_bf16(exact: Array) -> Array:
    """Bits of float32, uint32[n] -> uint16[n]."""
    kept = exact >> np.uint32(16)
    nearest = (exact + np.uint32(0x7FFF) + (kept & np.uint32(1))) >> np.uint32(16)
    # Rounding must not turn a NaN into an infinity or carry it over to zero.
    nan = (exact & np.uint32(0x7FFFFFFF)) > 0x7F800000
    codes: Array = np.where(nan, kept | np.uint32(0x40), nearest).astype(np.uint16)
    return codes


def _e4m3_table() -> Array:
    """All 256 numbers as float32."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    numbers = np.where(exponent, 8 + mantissa, mantissa) * 2.0 ** (np.maximum(exponent, 1) - 10)
    table: Array = np.where(codes & 0x80, -numbers, numbers).astype(np.float32)
    table.view(np.uint32)[[0x7F, 0xFF]] = [0x7FF00000, 0xFFF00000]
    table.flags.writeable = False
    return table


_E4M3: Final = _e4m3_table()
_PIECE: Final = 65_536
