"""Cast and int8: the nearest code for every value, the same number back in both paths, nothing lost that is kept."""

import struct
from bisect import bisect_left
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import BY_ID, CannotEncode, cast, deviation, int8, stats
from headrace.storage.encodings.cast import CODE_DTYPE, FORMATS, LARGEST, Cast, Format, narrow, widen
from headrace.storage.encodings.errors import CannotErase
from headrace.storage.encodings.int8 import Int8
from headrace.storage.encodings.zstd import Zstd

from .damage import decoded, header, holds_out, plain, refused, taken

Array = NDArray[Any]

SHAPE = {"fp16": (5, 10), "bf16": (8, 7), "fp8_e4m3": (4, 3), "fp8_e5m2": (5, 2)}
"""Bits of exponent and mantissa."""
READS, READS_INT8 = BY_ID[18], BY_ID[19]
WRITES_INT8 = Int8(writes=True)


@pytest.fixture(params=["numpy", "kernel"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one of the two fast paths, whatever the length."""
    chosen: str = request.param
    for module in (cast, int8):
        monkeypatch.setattr(module, "pick", lambda n, twin, compiled: twin if chosen == "numpy" else compiled)
    return chosen


def patterns(dtype: Any, n: int) -> Array:
    """Random bits: all exponents are as likely."""
    size = np.dtype(dtype).itemsize
    return np.random.default_rng(n).integers(0, 256, n * size, dtype=np.uint8).view(dtype)


def magnitudes(dtype: Any, n: int) -> Array:
    """Numbers of both signs around what fp8 and fp16 can hold."""
    rng = np.random.default_rng(n)
    return (rng.normal(0, 1, n) * 10.0 ** rng.integers(-9, 6, n)).astype(dtype)


def ties(form: Format, dtype: Any) -> Array:
    """Every tie between neighbouring codes, and the next floats on both sides."""
    positive = np.array(sorted(numbers(form)), np.float64)
    middle = (positive[1:] + positive[:-1]) / 2
    middle = np.append(middle, positive[-1] + (positive[-1] - positive[-2]) / 2).astype(dtype)
    around = np.concatenate((middle, np.nextafter(middle, dtype(0)), np.nextafter(middle, dtype(np.inf))))
    return np.concatenate((around, -around))[:: 7 if len(around) > 50_000 else 1]


# -- slow twins --------------------------------------------------------------------------------------------------------


def numbers(form: Format) -> dict[float, int]:
    """Every finite number of a format that is not negative, and its code, from the definition."""
    exponent_bits, mantissa_bits = SHAPE[form]
    bias = 2 ** (exponent_bits - 1) - 1
    found = {}
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = code >> mantissa_bits, code & (1 << mantissa_bits) - 1
        if form == "fp8_e4m3":
            if code == 0x7F:
                continue
        elif exponent == (1 << exponent_bits) - 1:
            continue
        scale = 2.0 ** (max(exponent, 1) - bias - mantissa_bits)
        found[(mantissa + (1 << mantissa_bits if exponent else 0)) * scale] = code
    return found


TABLES = {form: numbers(form) for form in FORMATS}
SORTED = {form: sorted(table) for form, table in TABLES.items()}


def naive_narrow(value: float, form: Format) -> int | None:
    """The code of the nearest number, of two the even one, by exact arithmetic; None for NaN."""
    exponent_bits, mantissa_bits = SHAPE[form]
    sign = int(np.signbit(value)) << (exponent_bits + mantissa_bits)
    if value != value:
        return None
    value = abs(value)
    finite, codes = SORTED[form], TABLES[form]
    beyond = codes[finite[-1]] if form == "fp8_e4m3" else codes[finite[-1]] + 1
    if value == float("inf"):
        return sign | beyond
    half_step = (Fraction(finite[-1]) - Fraction(finite[-2])) / 2
    if Fraction(value) >= Fraction(finite[-1]) + half_step:
        return sign | beyond
    at = min(bisect_left(finite, value), len(finite) - 1)
    low, high = finite[max(at - 1, 0)], finite[at]
    above, below = abs(Fraction(high) - Fraction(value)), abs(Fraction(value) - Fraction(low))
    if above == below:
        return sign | min(codes[low], codes[high], key=lambda code: code & 1)
    return sign | (codes[high] if above < below else codes[low])


def naive_widen(code: int, form: Format) -> float:
    exponent_bits, mantissa_bits = SHAPE[form]
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    code &= (1 << (exponent_bits + mantissa_bits)) - 1
    for number, other in TABLES[form].items():
        if code == other:
            return sign * number
    infinite = form != "fp8_e4m3" and code & (1 << mantissa_bits) - 1 == 0
    return sign * float("inf") if infinite else float("nan")


# -- cast --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMATS)
def test_codes_are_the_nearest(form: Format, dtype: Any) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, LARGEST[form], -LARGEST[form], 1e300], np.float64)
    with np.errstate(over="ignore"):
        special = special.astype(dtype)
    tied = ties(form, dtype)
    step = max(1, len(tied) // 3000)
    values = np.concatenate((special, magnitudes(dtype, 1500), patterns(dtype, 800), tied[::step]))
    codes = narrow(values, form)
    assert codes.dtype == CODE_DTYPE[form]
    for value, code in zip(values, codes, strict=True):
        expected = naive_narrow(float(value), form)
        if expected is None:
            assert np.isnan(naive_widen(int(code), form))
        else:
            assert int(code) == expected, (value, form)


def test_doubles_are_rounded_once() -> None:
    # Just above a tie of bf16, but on it once rounded to float32.
    value = 1 + 2.0**-8 + 2.0**-40
    assert narrow(np.array([value]), "bf16")[0] == 0x3F81
    assert narrow(np.array([value], np.float32), "bf16")[0] == 0x3F80
    value = 17 + 2.0**-40
    assert widened("fp8_e4m3", narrow(np.array([value]), "fp8_e4m3"))[0] == 18
    assert widened("fp8_e4m3", narrow(np.array([17.0]), "fp8_e4m3"))[0] == 16


def widened(form: Format, codes: Array, dtype: Any = np.float32) -> Array:
    out = np.empty(len(codes), dtype)
    widen(codes, form, out)
    return out


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMATS)
def test_every_code_gives_its_number(form: Format, dtype: Any) -> None:
    kind = CODE_DTYPE[form]
    codes = np.arange(1 << 8 * kind.itemsize).astype(kind)
    values = widened(form, codes, dtype)
    some = codes if kind.itemsize == 1 else codes[:: 65_536 // 600]
    for code in some:
        expected, got = naive_widen(int(code), form), float(values[int(code)])
        assert (got == expected and np.signbit(got) == np.signbit(expected)) or (
            got != got and expected != expected
        )
    # And back: what is a number of the format has its own code.
    back = narrow(values, form)
    nan = np.isnan(values)
    kept = ~nan if form != "fp8_e4m3" else ~nan & ~np.isinf(values)
    assert (back[kept] == codes[kept]).all()
    assert np.isnan(widened(form, back[nan])).all()


@pytest.mark.parametrize("form", FORMATS)
def test_widen_equals_twin_and_plain_python(form: Format) -> None:
    kind = CODE_DTYPE[form]
    codes = cast.checked_codes(np.arange(1 << 8 * kind.itemsize).astype(kind))
    twin, kernel = cast._WIDEN[form]
    results = []
    for function in (twin, kernel):
        out = np.empty(len(codes), np.uint32)
        function(codes, out)
        results.append(out)
    assert (results[0] == results[1]).all()
    some = cast.checked_codes(codes[:: max(1, len(codes) // 2000)])
    out = np.empty(len(some), np.uint32)
    kernel.function(some, out)
    assert (out == results[0][some]).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMATS)
def test_cast_streams(form: Format, dtype: Any) -> None:
    values = np.concatenate((magnitudes(dtype, 3000), patterns(dtype, 500)))
    expected = widened(form, narrow(values, form), dtype)
    at = np.random.default_rng(0).integers(0, len(values), 300)
    for child in (None, plain, lambda codes: (30, Zstd().encode(codes))):
        payload = Cast(form).encode(values, child)
        raw = np.frombuffer(payload, np.uint8)
        assert decoded(READS, payload, values).tobytes() == expected.tobytes()
        assert taken(READS, payload, len(values), at, values.dtype).tobytes() == expected[at].tobytes()
        stored_form, codes = READS.stored(raw, len(values), values.dtype)
        assert stored_form == form
        assert codes.tobytes() == narrow(values, form).tobytes()
        ((what, _, _, n, kind),) = READS.parts(raw, len(values), values.dtype)
        assert (what, n, kind) == (form, len(values), CODE_DTYPE[form])
    assert decoded(READS, Cast(form).encode(values[:0]), values[:0]).tobytes() == b""


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FORMATS), hnp.arrays("u4", st.integers(1, 100)).map(lambda raw: raw.view("f4")))
def test_any_floats_have_nearest_codes(form: Format, values: Array) -> None:
    for value, code in zip(values, narrow(values, form), strict=True):
        expected = naive_narrow(float(value), form)
        assert int(code) == expected if expected is not None else np.isnan(naive_widen(int(code), form))


def test_nothing_is_lossy_unless_named() -> None:
    counted = stats(np.zeros(9, np.float32))
    assert not READS.can_encode(counted)
    assert not READS_INT8.can_encode(counted)
    assert Cast("fp16").can_encode(counted)
    assert WRITES_INT8.can_encode(counted)
    for encoding in (READS, READS_INT8):
        with pytest.raises(CannotEncode, match="lossy"):
            encoding.encode(np.zeros(9, np.float32))
    for encoding in (Cast("bf16"), WRITES_INT8):
        assert not encoding.can_encode(stats(np.zeros(9, np.int32)))
        with pytest.raises(CannotEncode, match="float32"):
            encoding.encode(np.zeros(9, np.float16))


def test_cast_headers_are_checked() -> None:
    values = magnitudes(np.float32, 30)
    payload = Cast("bf16").encode(values, plain)
    for broken, message in (
        (header(payload, 0, 31, 4), "30 values"),
        (header(payload, 4, 0, 1), "a format"),
        (header(payload, 4, 5, 1), "a format"),
        (header(payload, 4, 3, 1), "plain"),
        (header(payload, 5, 8, 1), "30 values"),
        (header(payload, 6, 1, 2), "a zero"),
        (payload[:7], "header"),
        (payload + bytes(8), "expected"),
    ):
        refused(READS, broken, values, message)
    refused(READS, payload, values.view(np.int32), "30 values")


# -- int8 --------------------------------------------------------------------------------------------------------------


def naive_int8(payload: bytes, dtype: np.dtype[Any]) -> list[float]:
    """From the layout, with Python's floats; children are plain."""
    n, size, zero = struct.unpack_from("<IB3s", payload)
    assert (size, zero) == (dtype.itemsize, bytes(3))
    children, at = [], 8
    for _ in range(3):
        _, _, _, length = struct.unpack_from("<BBHI", payload, at)
        children.append(payload[at + 8 : at + 8 + length])
        at += 8 + (length + 7) // 8 * 8
    scales = struct.unpack(f"<{len(children[0]) // 4}f", children[0])
    zeros = struct.unpack(f"<{len(children[1]) // 4}f", children[1])
    special = {253: float("-inf"), 254: float("inf"), 255: float("nan")}
    return [
        special[code] if code in special else zeros[i // 1024] + scales[i // 1024] * code
        for i, code in enumerate(children[2][:n])
    ]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 2500])
def test_int8_equals_the_slow_twin_and_errs_by_half_a_step(dtype: Any, n: int) -> None:
    values = np.random.default_rng(n).normal(3, 0.1, n).astype(dtype)
    values[5::97] = np.nan
    values[6::97] = np.inf
    values[7::97] = -np.inf
    payload = WRITES_INT8.encode(values, plain)
    back = decoded(READS_INT8, payload, values)
    assert back.tobytes() == np.array(naive_int8(payload, values.dtype)).astype(dtype).tobytes()
    finite = np.isfinite(values)
    assert (np.isnan(back) == np.isnan(values)).all()
    assert (back[np.isinf(values)] == values[np.isinf(values)]).all()
    codes, scales, _ = READS_INT8.stored(np.frombuffer(payload, np.uint8), n, values.dtype)
    half_steps = np.repeat(scales / 2, 1024)[:n]
    assert (np.abs(back[finite] - values[finite]) <= half_steps[finite] * 1.0001 + 1e-6).all()
    assert codes[finite].max(initial=0) <= 252
    at = np.random.default_rng(0).integers(0, n, 100) if n else np.empty(0, np.int64)
    for child in (None, plain):
        payload = WRITES_INT8.encode(values, child)
        assert taken(READS_INT8, payload, n, at, values.dtype).tobytes() == back[at].tobytes()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    "values",
    [
        np.full(1500, -7.25, np.float32),
        np.full(40, np.nan),
        np.array([np.inf, -np.inf]),
        np.array([3.4e38, -3.4e38, 0], np.float32),
        np.array([1e-45, 0, 3e-45], np.float32),
        np.array([1e300, -1e300, 5.0, np.inf]),
        np.array([1 + 1e-12, 1 + 2e-12]),
    ],
    ids=["constant", "nan", "infinities", "huge", "subnormal", "beyond float32", "finer than float32"],
)
def test_int8_at_the_limits(values: Array) -> None:
    payload = WRITES_INT8.encode(values, plain)
    back = decoded(READS_INT8, payload, values)
    assert back.tobytes() == np.array(naive_int8(payload, values.dtype)).astype(values.dtype).tobytes()
    assert (np.isnan(back) == np.isnan(values)).all()
    assert (np.isinf(back) == np.isinf(values)).all()
    largest = float(np.finfo(np.float32).max)
    near = np.clip(values[np.isfinite(values)].astype(np.float64), -largest, largest)
    span = float(np.ptp(near)) if len(near) else 0.0
    errors = np.abs(back[np.isfinite(values)].astype(np.float64) - near)
    assert errors.max(initial=0.0) <= span / 504 * 1.001 + 1e-7 * np.abs(near).max(initial=0.0) + 1e-44


@settings(max_examples=100, deadline=None)
@given(hnp.arrays("u4", st.integers(1, 100)).map(lambda raw: raw.view("f4")))
def test_any_floats_keep_what_they_are(values: Array) -> None:
    back = decoded(READS_INT8, WRITES_INT8.encode(values), values)
    assert (np.isnan(back) == np.isnan(values)).all()
    assert (back[np.isinf(values)] == values[np.isinf(values)]).all()
    assert np.isfinite(back[np.isfinite(values)]).all()


def test_int8_widen_equals_twin_and_plain_python() -> None:
    codes = np.resize(np.arange(256), 2000).astype(np.uint8)
    scales, zeros = np.array([0.5, 1e30], np.float32), np.array([-3, 1e-3], np.float32)
    for dtype in (np.float32, np.float64):
        results = []
        for function in (int8._widen_numpy, int8._widen, int8._widen.function):
            out = np.empty(2000, dtype)
            function(codes, scales, zeros, out)
            results.append(out.tobytes())
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_narrowing_equals_twin_and_plain_python(dtype: Any) -> None:
    values = np.concatenate((magnitudes(dtype, 900), patterns(dtype, 1024), np.full(30, np.nan, dtype)))
    for some in (values, values[:1], values[:0], np.full(1024, np.nan, dtype)):
        results = []
        n_blocks = -(-len(some) // 1024)
        for function in (int8._narrow_numpy, int8._narrow, int8._narrow.function):
            codes, scales, zeros = np.empty(len(some), np.uint8), *np.empty((2, n_blocks), np.float32)
            with np.errstate(all="ignore"):
                function(some, codes, scales, zeros)
            results.append(codes.tobytes() + scales.tobytes() + zeros.tobytes())
        assert results[0] == results[1] == results[2]
    exact = cast.checked_codes(
        cast._odd(np.concatenate((values, ties("fp8_e4m3", dtype), ties("fp8_e5m2", dtype))))
    )
    for shape in ((3, 7, 0x7E, 0x7E), (2, 15, 0x7B, 0x7C)):
        results = []
        for function in (cast._round_fp8_numpy, cast._round_fp8, cast._round_fp8.function):
            codes = np.empty(len(exact), np.uint8)
            with np.errstate(all="ignore"):
                function(exact, *shape, codes)
            results.append(codes.tobytes())
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_deviation_equals_twin_and_plain_python(dtype: Any) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0, 0, 5], dtype)
    values = np.concatenate((magnitudes(dtype, 900), patterns(dtype, 500), special))
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values * dtype(1.001)
    stored[-6:] = [np.nan, 448, np.inf, 0, 1, -np.inf]
    for some in (slice(None), slice(0, 900), slice(0, 0), slice(-2, None)):
        results = []
        for function in (deviation._deviate_numpy, deviation._deviate, deviation._deviate.function):
            found = np.zeros(6)
            with np.errstate(all="ignore"):
                function(values[some], stored[some], 448.0, found)
            results.append(found.tolist())
        assert results[0] == results[1] == results[2]


def test_int8_fields_are_checked() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1500).astype(np.float32)
    payload = WRITES_INT8.encode(values, plain)
    for broken, message in (
        (header(payload, 0, 1501, 4), "1500 values"),
        (header(payload, 4, 8, 1), "1500 values"),
        (header(payload, 5, 1, 1), "zeros"),
        (header(payload, 16, 0x7F800000, 4), "finite"),
        (header(payload, 16, 0xBF800000, 4), "finite"),
        (header(payload, 32, 0x7FC00000, 4), "finite"),
        (payload[:7], "header"),
        (payload + bytes(8), "expected"),
    ):
        refused(READS_INT8, broken, values, message)


# -- erasing and damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [*map(Cast, FORMATS), WRITES_INT8], ids=[*FORMATS, "int8"])
def test_erased_values_leave_nothing(encoding: Any) -> None:
    """Two streams that differ in the erased values alone are equal afterwards."""
    values = np.random.default_rng(1).normal(0, 1, 2100).astype(np.float32)
    values[[0, 1, 1024, 1025, 2048, 2049]] = [-9, 9] * 3
    other = values.copy()
    at = np.array([5, 700, 1500, 2099])
    other[at] = [-1.5, np.nan, np.inf, 0.75]
    reads = BY_ID[encoding.id]
    kept = np.delete(decoded(reads, encoding.encode(values, plain), values), at).tobytes()
    payloads = []
    for given_values in (values, other):
        payload = np.frombuffer(bytearray(encoding.encode(given_values, plain)), np.uint8)
        reads.erase(payload, len(values), values.dtype, at)
        assert np.delete(decoded(reads, payload.tobytes(), values), at).tobytes() == kept
        payloads.append(payload.tobytes())
    assert payloads[0] == payloads[1]


def test_a_scale_that_tells_is_not_left_behind() -> None:
    values = np.random.default_rng(2).normal(0, 1, 1500).astype(np.float32)
    for extreme in (int(values[:1024].argmax()), int(values[:1024].argmin())):
        before = WRITES_INT8.encode(values, plain)
        payload = np.frombuffer(bytearray(before), np.uint8)
        with pytest.raises(CannotErase, match="block 0"):
            READS_INT8.erase(payload, 1500, values.dtype, np.array([1400, extreme]))
        assert payload.tobytes() == before


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", [*map(Cast, FORMATS), WRITES_INT8], ids=[*FORMATS, "int8"])
def test_damage_is_refused_or_gives_other_values(encoding: Any) -> None:
    for dtype in (np.float32, np.float64):
        values = magnitudes(dtype, 90)
        for child in (None, plain):
            payload = encoding.encode(values, child)
            assert holds_out(BY_ID[encoding.id], payload, values, flips=150) > 20
