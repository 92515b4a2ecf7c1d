"""Quantised storage: bounds that hold on every value, reports that say what was lost, rows that keep them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import BY_ID, UnsupportedArray
from headrace.storage.errors import CorruptFooter, StorageError, UnknownQuantisation
from headrace.storage.quantise import (
    CHEAPEST_FIRST,
    KINDS,
    ROW_BYTES,
    Kind,
    Quantisation,
    Report,
    cheapest,
    encoder,
    for_chunk,
    measure,
    pack,
    parse,
    unpack,
)

from .damage import decoded

Array = NDArray[Any]


def normal(n: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(dtype)


def as_stored(values: Array, kind: Kind) -> Array:
    encoding = encoder(kind)
    return decoded(BY_ID[encoding.id], encoding.encode(values), values)


def worst(values: Array, stored: Array) -> tuple[float, float]:
    """Largest absolute and relative error, value by value with Python's floats; infinite where infinities differ."""
    absolute = relative = 0.0
    for value, back in zip(values.tolist(), stored.tolist(), strict=True):
        if value != value:
            assert back != back
        elif value != back:
            error = abs(back - value)
            absolute = max(absolute, error)
            of = abs(value)
            relative = max(relative, error / of if of and of < math.inf else math.inf)
    return absolute, relative


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_name_or_a_bound() -> None:
    for kind in KINDS:
        assert parse(kind) == Quantisation(kind)
    assert parse({"max_abs_err": 1}) == Quantisation(None, 1.0)
    assert parse({"max_rel_err": 0.5, "max_abs_err": 2}) == Quantisation(None, 2.0, 0.5)
    assert parse(Quantisation("bf16")) == Quantisation("bf16")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bf61", "did you mean 'bf16'"),
        ("fp8", "did you mean 'fp8_e"),
        ("", "one of fp16"),
        ({}, "max_abs_err, max_rel_err or both"),
        ({"max_err": 1}, "max_abs_err, max_rel_err or both"),
        ({"max_abs_err": 0}, "above 0"),
        ({"max_abs_err": -1.0}, "above 0"),
        ({"max_rel_err": math.nan}, "finite"),
        ({"max_rel_err": math.inf}, "finite"),
        ({"max_rel_err": True}, "True"),
        ({"max_rel_err": "1"}, "'1'"),
        (3, "3"),
    ],
)
def test_anything_else_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(UnknownQuantisation, match=message):
        parse(spec)
    assert issubclass(UnknownQuantisation, ValueError)
    assert issubclass(UnknownQuantisation, StorageError)


# -- measuring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_reports_are_what_every_value_says(kind: Kind, dtype: Any) -> None:
    values = np.concatenate((normal(3000, dtype), [0.0, -0.0, np.nan, np.inf, -np.inf, 0.5, 1e-30])).astype(
        dtype
    )
    report = measure(values, kind)
    stored = as_stored(values, kind)
    absolute, relative = worst(values, stored)
    assert report.max_abs_err == pytest.approx(absolute, rel=1e-12)
    assert report.max_rel_err == pytest.approx(relative, rel=1e-12)
    assert (report.kind, report.n, report.n_nan, report.n_inf) == (kind, 3007, 1, 2)
    assert report.overflow == (2 if kind == "fp8_e4m3" else 0)
    finite = np.isfinite(values)
    errors = stored[finite].astype(np.float64) - values[finite]
    assert report.rms_err == pytest.approx(math.sqrt(float((errors**2).sum()) / 3006), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "value", "overflow", "error"),
    [
        ("fp16", 1e5, 1, math.inf),
        ("fp16", 65504.0, 0, 0.0),
        ("bf16", 1e5, 0, 160.0),
        ("bf16", 1e39, 1, math.inf),
        ("fp8_e4m3", 500.0, 1, 52.0),
        ("fp8_e4m3", 448.0, 0, 0.0),
        ("fp8_e5m2", 1e6, 1, math.inf),
        ("int8", 1e300, 1, 1e300),
    ],
)
def test_overflows_are_counted(kind: Kind, value: float, overflow: int, error: float) -> None:
    for sign in (1, -1):
        report = measure(np.array([sign * value]), kind)
        assert report.overflow == overflow
        assert report.max_abs_err == pytest.approx(error, rel=1e-3)


def test_reports_add_up() -> None:
    values = normal(300_000)
    values[::1000] = np.nan
    for kind in KINDS:
        whole = measure(values, kind)
        parts = measure(values[:65_536], kind) + measure(values[65_536:], kind)
        assert whole.max_abs_err == parts.max_abs_err
        assert whole.rms_err == pytest.approx(parts.rms_err)
        assert (
            (whole.n, whole.n_nan, whole.kind) == (parts.n, parts.n_nan, parts.kind) == (300_000, 300, kind)
        )
    mixed = measure(values, "bf16") + measure(values, "fp16")
    assert mixed.kind == "mixed"
    assert mixed.kinds == ("fp16", "bf16")
    assert Report() + mixed == mixed
    assert Report().kind == "exact"


def test_only_floats_are_measured() -> None:
    for dtype in (np.float16, np.int32):
        with pytest.raises(UnsupportedArray, match="float32 and float64"):
            measure(np.zeros(3, dtype), "bf16")


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_the_cheapest_that_holds() -> None:
    values = normal(5000)
    assert cheapest(values, parse({"max_abs_err": 0.1})) == "fp8_e4m3"
    assert cheapest(values * 10_000, parse({"max_rel_err": 0.13})) == "fp8_e5m2"
    assert cheapest(values, parse({"max_abs_err": 0.003})) == "int8"
    assert cheapest(values, parse({"max_abs_err": 0.0003})) == "fp16"
    assert cheapest(values * 1e6, parse({"max_rel_err": 0.004})) == "bf16"
    assert cheapest(values, parse({"max_abs_err": 1e-9})) is None
    assert cheapest(values, parse("int8")) == "int8"
    assert cheapest(np.arange(16, dtype=np.float32), parse({"max_abs_err": 1e-9})) == "fp8_e4m3"


def test_one_value_breaks_a_bound() -> None:
    """On all values, not on a sample: whichever value it is."""
    bound = parse({"max_rel_err": 0.001})
    for at in (0, 1, 12_345, 199_999):
        values = np.ones(200_000, np.float32)
        assert cheapest(values, bound) == "fp8_e4m3"
        values[at] = 1.01
        assert cheapest(values, bound) == "int8"
        values[[at, at ^ 1]] = [1e6, 3]  # too far apart for one scale, too large for fp16
        assert cheapest(values, bound) == "bf16"
        values[at] = 2.0**20 * (1 + 2.0**-8)  # between two numbers of bf16
        assert cheapest(values, bound) is None


def test_a_chunk_that_breaks_the_bound_is_stored_finer_or_exactly() -> None:
    wanted = parse({"max_abs_err": 0.01})
    kind, first = for_chunk([normal(4000), normal(3000, seed=1)], wanted)
    assert (kind, first.n, first.n_exact, first.bound) == ("int8", 7000, 0, wanted)
    # Wider values: the same format breaks the bound.
    kind, second = for_chunk([normal(4000) * 20], wanted, "int8")
    assert kind == "fp16"
    kind, third = for_chunk([normal(4000) * 1e6, np.array([np.nan, np.inf], np.float32)], wanted, kind)
    assert kind is None
    assert (third.kind, third.n, third.n_exact, third.max_abs_err) == ("exact", 4002, 4002, 0.0)
    assert (third.n_nan, third.n_inf) == (1, 1)
    # What served the chunks before is kept where it serves, though a cheaper format would too.
    kind, fourth = for_chunk([np.ones(100, np.float32)], wanted, "fp16")
    assert kind == "fp16"
    whole = first + second + third + fourth
    assert whole.kinds == ("exact", "fp16", "int8")
    assert whole.max_abs_err <= 0.01
    assert whole.bound == wanted


def test_a_named_format_takes_what_comes() -> None:
    kind, report = for_chunk([np.array([1e9, 2.0], np.float32)], parse("fp8_e4m3"))
    assert kind == "fp8_e4m3"
    assert report.overflow == 1
    assert report.bound == Quantisation("fp8_e4m3")


def test_blocks_are_those_of_pages() -> None:
    """int8 spans a page's blocks, so that a page is what must be measured."""
    low, high = np.zeros(1000, np.float32), np.linspace(100, 101, 1000, dtype=np.float32)
    bound = parse({"max_abs_err": 0.005})
    assert for_chunk([low, high], bound, "int8")[0] == "int8"
    assert for_chunk([np.concatenate((low, high))], bound, "int8")[0] is None


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(["max_abs_err", "max_rel_err"]),
    st.sampled_from([1e-6, 1e-3, 0.01, 0.1, 1.0, 1e3]),
)
def test_bounds_hold_on_all_values(data: st.DataObject, name: str, limit: float) -> None:
    width = data.draw(st.sampled_from([32, 64]))
    numbers = st.one_of(
        st.floats(width=width),
        st.floats(-10, 10, width=width),
        st.integers(-500, 500).map(float),
    )
    values = data.draw(hnp.arrays(f"f{width // 8}", st.integers(1, 60), elements=numbers))
    kind, report = for_chunk([values], parse({name: limit}))
    if kind is None:
        return
    absolute, relative = worst(values, as_stored(values, kind))
    assert (absolute if name == "max_abs_err" else relative) <= limit * (1 + 1e-12)
    assert report.max_abs_err == pytest.approx(absolute, rel=1e-9)


def test_formats_are_tried_from_the_cheapest() -> None:
    assert {*CHEAPEST_FIRST} == {*KINDS}
    sizes = [
        len(encoder(kind).encode(normal(4096), lambda values: (1, values.tobytes())))
        for kind in CHEAPEST_FIRST
    ]
    assert sizes[:2] == [4096 + 16] * 2
    assert sizes[2] < 4200
    assert sizes[3:] == [8192 + 16] * 2


# -- the section's rows ------------------------------------------------------------------------------------------------


def test_rows_keep_reports() -> None:
    assert ROW_BYTES == 96
    wanted = parse({"max_abs_err": 0.01, "max_rel_err": 10})
    _, report = for_chunk([normal(4000)], wanted)
    for kept in (
        Report(),
        report,
        report + for_chunk([np.array([1e30, np.nan])], wanted)[1],
        measure(np.array([1e9, np.inf, np.nan]), "fp16"),
        measure(np.array([1e300, -1e300, 1e299]), "int8"),
    ):
        row = pack(kept)
        assert len(row) == 96
        assert unpack(row) == kept


def test_the_row_is_laid_out_as_it_says() -> None:
    report = Report(("exact", "int8"), 7, 0.5, 0.25, 2.0, 1, 2, 3, 4, Quantisation(None, 0.75, None))
    assert pack(report).hex() == (
        "2101" + "00" * 6 + "0700000000000000"
        "000000000000e03f" + "000000000000d03f" + "0000000000000040"
        "0100000000000000" + "0200000000000000" + "0300000000000000"
        "000000000000e83f" + "0000000000000000" + "0400000000000000" + "00" * 8
    )


def test_damaged_rows_are_refused() -> None:
    row = pack(for_chunk([normal(400)], parse({"max_abs_err": 0.01}))[1])
    nan = np.array(np.nan).tobytes()
    for broken in (
        row[:-1],
        row + b"\0",
        b"\x40" + row[1:],
        row[:1] + b"\x04" + row[2:],
        row[:2] + b"\1" + row[3:],
        row[:16] + nan + row[24:],
        row[:24] + np.array(-1.0).tobytes() + row[32:],
        row[:40] + (401).to_bytes(8, "little") + row[48:],
        row[:80] + (401).to_bytes(8, "little") + row[88:],
        row[:-1] + b"\1",
        row[:72] + np.array(1.0).tobytes() + row[80:],
    ):
        with pytest.raises(CorruptFooter, match="quantisation report at byte 77"):
            unpack(broken, "a file", 77)
