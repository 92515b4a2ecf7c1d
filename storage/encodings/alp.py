"""ALP: floats that were decimals once, as integers, and the few that were not as exceptions.

    offset  bytes
    0       4      u32 n
    4       1      i8 exponent, -9..18: value = integer / 10**exponent
    5       1      u8 itemsize: 4 or 8
    6       2      zero
    8       4      u32 n_exceptions
    12      4      zero
    16      ..     child: integers, int32[n] for float32 and int64[n] for float64
    ..      ..     child: exceptions' positions, uint32[n_exceptions], ascending; absent if there are none
    ..      ..     child: exceptions' bits, uint32 or uint64[n_exceptions]; absent if there are none

A value comes back bit for bit or is an exception: NaNs, infinities, -0.0 and whatever is no short decimal. Where an
exception lies, the integers hold a filler within their block's range: one round number per block, not a neighbour's
value, so that nobody's value stays behind when it is erased. Wins on prices, ratings, percentages, coordinates: anything
rounded to a few decimals, and on whole numbers kept as floats; loses on results of arithmetic.

Source: Afroozeh, Kuffó and Boncz, "ALP: Adaptive lossless floating-point compression" (SIGMOD 2024). Unlike there, one
exponent serves a whole stream and decoding is one division (for float32 one product in doubles), not two products: the
quotient of two exact numbers is the float nearest to the decimal, which is what a parser or `round` made it from.
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
    bits,
    checked,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CannotErase, CorruptStream
from headrace.storage.encodings.nested import Part, finish, read, write

EXPONENTS: Final = range(-9, 19)
SAMPLE_VALUES: Final = 512

_HEADER: Final = struct.Struct("<IbBHII")
_LIMIT: Final = {4: 2.0**31 - 1, 8: 2.0**53}
"""Largest integers that are tried: int32, and what a double holds exactly."""


@kernel
def _divide(integers: Array, exponent: int, power: float, out: Array) -> None:
    """int[n], power = 10**abs(exponent) -> float[n]; float32 from int32, float64 from int64."""
    if out.itemsize == 4:
        factor = power if exponent < 0 else np.divide(1.0, power)
        for i in range(np.uint64(len(out))):
            out[i] = np.float32(np.float64(integers[i]) * factor)
    elif exponent < 0:
        for i in range(np.uint64(len(out))):
            out[i] = np.float64(integers[i]) * power
    else:
        for i in range(np.uint64(len(out))):
            # Not `/`, for which numba tests for zero and forgoes SIMD.
            out[i] = np.divide(np.float64(integers[i]), power)


def _divide_numpy(integers: Array, exponent: int, power: float, out: Array) -> None:
    """The numpy twin of `_divide`; its operations in its order, since each bit counts."""
    exact = integers.astype(np.float64)
    if exponent < 0:
        exact *= power
    elif out.itemsize == 4:
        exact *= 1.0 / power
    else:
        exact /= power
    with np.errstate(over="ignore"):
        out[:] = exact


@kernel
def _round(values: Array, factor: float, limit: float, integers: Array) -> None:
    """float[n] -> the integers that may stand for them, int32[n] or int64[n]; 0 where none can."""
    for i in range(np.uint64(len(values))):
        scaled = np.rint(np.float64(values[i]) * factor)
        # Chosen before it is converted: what fits no integer has no defined one.
        integers[i] = np.int64(scaled if abs(scaled) <= limit else 0.0)


def _round_numpy(values: Array, factor: float, limit: float, integers: Array) -> None:
    """The numpy twin of `_round`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = np.rint(values.astype(np.float64) * factor)
        integers[:] = np.where(np.abs(scaled) <= limit, scaled, 0.0)


def find_exponent(values: Array) -> int:
    """The exponent that makes the fewest bits of a few hundred values, taken at even distances.

    >>> find_exponent(np.array([0.25, 1.75, 13.5]))
    2
    """
    sample = values[:: max(1, len(values) // SAMPLE_VALUES)][:SAMPLE_VALUES].copy()
    best, fewest = 0, 0
    for exponent in EXPONENTS[-EXPONENTS[0] :]:
        n_bits, all_good = _bits_needed(sample, exponent)
        if exponent == 0 or n_bits < fewest:
            best, fewest = exponent, n_bits
        if all_good:  # more decimals would only make the integers longer
            break
    if best == 0:
        for exponent in range(-1, EXPONENTS[0] - 1, -1):
            n_bits, _ = _bits_needed(sample, exponent)
            if n_bits >= fewest:
                break
            best, fewest = exponent, n_bits
    return best


class ALP(Encoding):
    """Decimal floats as integers, with exceptions."""

    id: ClassVar[int] = 10
    name: ClassVar[str] = "alp"
    in_place: ClassVar[bool] = True

    def can_encode(self, stats: Stats) -> bool:
        return stats.n > 0 and stats.dtype in (np.float32, np.float64)

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        stored = bits(values)
        if not len(stored) or values.dtype not in (np.float32, np.float64):
            raise refuse_encode(
                self.name, f"it needs one value or more of float32 or float64, got {values.dtype}"
            )
        contiguous = checked(values)
        exponent = find_exponent(contiguous)
        integers, exact = _integers(contiguous, exponent)
        positions = np.flatnonzero(~exact).astype(np.uint32)
        if len(positions):
            _fill(integers, exact)
        pieces = [_HEADER.pack(len(stored), exponent, values.itemsize, 0, len(positions), 0)]
        pieces.append(write(integers, child))
        if len(positions):
            pieces += (write(positions, child), write(stored[positions], child))
        return b"".join(pieces)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        exponent, integers, exceptions = _children(payload, len(out), out.dtype)
        whole = np.empty(len(out), f"i{out.itemsize}")
        integers.decode(whole, depth)
        pick(len(out), _divide_numpy, _divide)(whole, exponent, 10.0 ** abs(exponent), out)
        if exceptions:
            positions, raw = _exceptions(*exceptions, len(out), target.dtype, depth)
            target[positions] = raw

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        target = checked_target(payload, out)
        exponent, integers, exceptions = _children(payload, n, out.dtype)
        some = np.empty(len(at), f"i{out.itemsize}")
        blocks = integers.take(n, at, some, depth)
        _divide_numpy(some, exponent, 10.0 ** abs(exponent), out)
        if exceptions:
            positions, raw = _exceptions(*exceptions, n, target.dtype, depth)
            found = np.minimum(np.searchsorted(positions, at), len(positions) - 1)
            there = positions[found] == at
            target[there] = raw[found[there]]
        return blocks

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """As `Encoding.erase`; an exception's position tells what it was not, so a page that erases one is rewritten."""
        _, integers, exceptions = _children(payload, n, dtype)
        if exceptions:
            positions, _ = _exceptions(*exceptions, n, np.dtype(f"u{dtype.itemsize}"), 0)
            if np.isin(at, positions).any():
                raise CannotErase("alp: a value to erase is an exception; encode the page again")
        integers.erase(n, np.dtype(f"i{dtype.itemsize}"), at)

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        exponent, integers, exceptions = _children(payload, n, dtype)
        whole = np.dtype(f"i{dtype.itemsize}")
        rows = [(f"integers / 1e{exponent}", integers.encoding.id, integers.payload, n, whole)]
        if exceptions:
            positions, raw, count = exceptions
            rows += (
                (
                    "exceptions' positions",
                    positions.encoding.id,
                    positions.payload,
                    count,
                    np.dtype(np.uint32),
                ),
                ("exceptions' bits", raw.encoding.id, raw.payload, count, np.dtype(f"u{dtype.itemsize}")),
            )
        return tuple(rows)


def _integers(values: Array, exponent: int) -> tuple[Array, Array]:
    """The integers at an exponent, and where they give the value back bit for bit (bool[n])."""
    power = 10.0 ** abs(exponent)
    integers = np.empty(len(values), f"i{values.itemsize}")
    factor = power if exponent >= 0 else 1.0 / power
    pick(len(values), _round_numpy, _round)(values, factor, _LIMIT[values.itemsize], integers)
    back = np.empty_like(values)
    pick(len(values), _divide_numpy, _divide)(integers, exponent, power, back)
    return integers, bits(back) == bits(values)


def _bits_needed(sample: Array, exponent: int) -> tuple[int, bool]:
    """How many bits a sample takes at an exponent, and whether none of it is an exception."""
    integers, exact = _integers(sample, exponent)
    good = integers[exact]
    width = (int(good.max()) - int(good.min())).bit_length() if len(good) else 0
    missing = len(sample) - len(good)
    return len(sample) * width + missing * (32 + 8 * sample.itemsize), not missing


def _fill(integers: Array, exact: Array) -> None:
    """Put a round number within the range of its block wherever an exception lies."""
    round_number = integers.dtype.type(0)
    for start in range(0, len(integers), BLOCK_VALUES):
        block, good = integers[start : start + BLOCK_VALUES], exact[start : start + BLOCK_VALUES]
        if good.all():
            continue
        kept = block[good]
        if len(kept):
            low, high = int(kept.min()), int(kept.max())
            # The highest multiple of a power of two that is in the range: it says how large values are, not which.
            shift = max((high - low).bit_length() - 1, 0)
            round_number = integers.dtype.type(high >> shift << shift)
        block[~good] = round_number


def _children(
    payload: Bytes, n: int, dtype: np.dtype[Any]
) -> tuple[int, Part, tuple[Part, Part, int] | None]:
    """Exponent, integers, and positions, bits and number of exceptions, if any."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"alp: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    stored_n, exponent, size, zero, n_exceptions, zeros = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if stored_n != n or size != dtype.itemsize or dtype not in (np.float32, np.float64) or zero or zeros:
        raise CorruptStream(
            f"alp: expected {n} floats of {dtype.itemsize} bytes and zeros, found {stored_n} of {size}, {zero} and {zeros}"
        )
    if exponent not in EXPONENTS or n_exceptions > n:
        raise CorruptStream(
            f"alp: expected an exponent of {EXPONENTS[0]}..{EXPONENTS[-1]} and at most {n} exceptions, "
            f"found {exponent} and {n_exceptions}"
        )
    integers = read(payload, _HEADER.size, "alp")
    if not n_exceptions:
        finish(payload, integers.end, "alp")
        return exponent, integers, None
    positions = read(payload, integers.end, "alp")
    raw = read(payload, positions.end, "alp")
    finish(payload, raw.end, "alp")
    return exponent, integers, (positions, raw, n_exceptions)


def _exceptions(
    positions: Part, raw: Part, count: int, n: int, dtype: np.dtype[Any], depth: int
) -> tuple[Array, Array]:
    """Positions, checked to ascend within n values, and bits."""
    at = np.empty(count, np.uint32)
    positions.decode(at, depth)
    if at[-1] >= n or (at[1:] <= at[:-1]).any():
        raise CorruptStream(f"alp: expected {count} positions that ascend below {n}, found others")
    stored = np.empty(count, dtype)
    raw.decode(stored, depth)
    return at, stored
