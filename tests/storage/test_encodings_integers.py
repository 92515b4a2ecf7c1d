"""Encodings of integers and bools made after the first five: oracle, sizes, frozen and broken bytes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import (
    BY_ID,
    DTYPES,
    CannotEncode,
    CorruptStream,
    Encoding,
    bitpack,
    delta,
    dictionary,
    pfor,
    rle,
    stats,
    varint,
)

from . import naive
from .golden.encodings import rewrite
from .streams import CASES, SHAPES, decoded, header, noise, runs, small

Array = NDArray[Any]

ENCODINGS = PFOR, DELTA, VARINT, ZIGZAG, BITMAP, SPARSE_BOOL, MAINLY_CONSTANT = tuple(
    BY_ID[number] for number in (3, 6, 7, 8, 12, 13, 14)
)


PATHS = ("numpy", "kernel")


def force(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one of the two fast paths taken, whatever the length."""
    for module in (bitpack, delta, dictionary, pfor, rle, varint):
        monkeypatch.setattr(module, "pick", lambda n, twin, compiled: twin if path == "numpy" else compiled)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    force(chosen, monkeypatch)
    return chosen


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_bytes_equal_the_oracle_and_come_back(
    dtype: np.dtype[Any], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = SHAPES[shape](dtype)
    counted = stats(values)
    for encoding in ENCODINGS:
        if encoding.can_encode(counted):
            expected = naive.ENCODE[encoding.name](values)
            for path in PATHS:
                force(path, monkeypatch)
                payload = encoding.encode(values)
                assert payload == expected, (encoding.name, path)
                assert decoded(encoding, payload, values).tobytes() == values.tobytes(), (encoding.name, path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_oracle_reads_its_own_bytes(dtype: np.dtype[Any]) -> None:
    for shape in ("runs", "few outliers", "small 2060"):
        values = SHAPES[shape](dtype)
        for encoding in ENCODINGS:
            if encoding.can_encode(stats(values)):
                back = naive.DECODE[encoding.name](encoding.encode(values), dtype)
                assert back.tobytes() == values.tobytes(), encoding.name


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_values_come_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    raw = data.draw(hnp.arrays(f"u{dtype.itemsize}", st.integers(0, 300)))
    values = raw % 2 == 1 if dtype.kind == "b" else raw.view(dtype)
    values = np.repeat(values, data.draw(st.integers(1, 9)))
    counted = stats(values, count_bit_lengths=True)
    for encoding in ENCODINGS:
        if encoding.can_encode(counted):
            payload = encoding.encode(values)
            assert decoded(encoding, payload, values).tobytes() == values.tobytes()
            assert encoding.size(counted) in (None, len(payload))


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_sizes_are_exact_where_they_are_known(dtype: np.dtype[Any], shape: str) -> None:
    values = SHAPES[shape](dtype)
    counted = stats(values, count_bit_lengths=True)
    for encoding in (PFOR, BITMAP):
        if encoding.can_encode(counted):
            assert encoding.size(counted) == len(encoding.encode(values)), encoding.name
    assert PFOR.size(stats(values)) is None


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("width", range(65))
def test_exceptions_at_every_width(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2**width - 1, 1100, dtype=np.uint64, endpoint=True)
    values[[0, 1024]] = 0
    values[[7, 1030]] = 2**64 - 1
    payload = PFOR.encode(values)
    assert payload[4] + payload[6] == 64
    assert payload[4] >= width or width >= 60
    assert (decoded(PFOR, payload, values) == values).all()


def test_exceptions_win_on_a_long_tail() -> None:
    values = small(np.dtype(np.int64), 8192)
    values[::500] = 10**15
    assert len(PFOR.encode(values)) * 5 < len(bitpack.BitPack().encode(values))


def test_bit_lengths_are_counted_per_block() -> None:
    values = np.concatenate([np.full(1024, 100), [7, 8, 9, 7 + 2**53, 7 + 2**62]])
    counted = stats(values, count_bit_lengths=True)
    assert counted.bit_lengths is not None
    assert [k for k, count in enumerate(counted.bit_lengths) for _ in range(count)][-5:] == [0, 1, 2, 54, 63]
    assert len(counted.bit_lengths) == counted.width_bits + 1
    extremes = stats(np.array([0, 2**64 - 1, 2**53 - 1, 2**54 - 1], np.uint64), count_bit_lengths=True)
    assert [k for k, count in enumerate(extremes.bit_lengths or ()) if count] == [0, 53, 54, 64]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("n", [65_536, 70_001])
def test_long_streams(n: int) -> None:
    values = np.cumsum(small(np.dtype(np.int32), n), dtype=np.int32)
    for encoding in (PFOR, DELTA, VARINT, ZIGZAG, MAINLY_CONSTANT):
        assert (decoded(encoding, encoding.encode(values), values) == values).all()
    for encoding in (BITMAP, SPARSE_BOOL):
        assert (decoded(encoding, encoding.encode(values < 0), values < 0) == (values < 0)).all()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_children_are_written_by_whom_the_caller_says(encoding: Encoding) -> None:
    values = rewrite.VALUES[encoding.name]
    asked: list[Array] = []

    def child(inner: Array) -> tuple[int, bytes]:
        asked.append(inner)
        return 1, inner.tobytes()

    payload = np.frombuffer(encoding.encode(values, child), np.uint8)
    assert decoded(encoding, payload.tobytes(), values).tobytes() == values.tobytes()
    parts = encoding.parts(payload, len(values), values.dtype)
    assert [(number, n, dtype) for _, number, _, n, dtype in parts] == [
        (1, len(inner), inner.dtype) for inner in asked
    ]
    assert all(
        part.tobytes() == inner.tobytes() for (_, _, part, _, _), inner in zip(parts, asked, strict=True)
    )


def test_payload_may_lie_at_any_alignment() -> None:
    for encoding in ENCODINGS:
        values = rewrite.VALUES[encoding.name]
        payload = encoding.encode(values)
        for shift in range(1, 8):
            buffer = np.zeros(len(payload) + shift, np.uint8)
            buffer[shift:] = np.frombuffer(payload, np.uint8)
            out = np.empty_like(values)
            encoding.decode(buffer[shift:], out)
            assert out.tobytes() == values.tobytes()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_golden_bytes(encoding: Encoding) -> None:
    frozen = (rewrite.FOLDER / f"{encoding.name}.bin").read_bytes()
    values = rewrite.VALUES[encoding.name]
    assert encoding.encode(values) == frozen, "files written before can no longer be read"
    assert decoded(encoding, frozen, values).tobytes() == values.tobytes()


# -- broken bytes ------------------------------------------------------------------------------------------------------


def streams(encoding: Encoding, n: int) -> list[Array]:
    dtypes = [np.dtype(name) for name in ("int8", "int64", "float32", "bool", "uint32")]
    some = [runs(dtype, n) for dtype in dtypes] + [np.where(np.arange(n) % 30 == 0, 10**9, np.arange(n))]
    return [values for values in some if encoding.can_encode(stats(values))]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_no_other_length_is_accepted(encoding: Encoding) -> None:
    for values in streams(encoding, 40):
        payload = encoding.encode(values)
        for length in range(len(payload)):
            with pytest.raises(CorruptStream, match="expected"):
                decoded(encoding, payload[:length], values)
        with pytest.raises(CorruptStream, match="expected"):
            decoded(encoding, payload + b"\0", values)
        for other in (values[1:], np.append(values, values[:1])):
            with pytest.raises(CorruptStream, match="expected"):
                decoded(encoding, payload, other)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_flipped_bytes_raise_or_return(encoding: Encoding) -> None:
    rng = np.random.default_rng(7)
    refused = 0
    for values in streams(encoding, 1100):
        payload = np.frombuffer(encoding.encode(values), np.uint8)
        at = rng.integers(0, len(values), 9)
        for attempt in range(200):
            broken = payload.copy()
            # Headers are a few bytes in thousands, so half of the attempts aim at the first 64.
            reach = min(64, len(broken)) if attempt % 2 else len(broken)
            where = rng.integers(0, reach, rng.integers(1, 5))
            broken[where] = rng.integers(0, 256, len(where))
            out = np.zeros_like(values)
            try:
                encoding.decode(broken, out)
                encoding.take(broken, len(values), at, out[: len(at)])
            except CorruptStream:
                refused += 1
            else:
                assert out.dtype.kind != "b" or out.view(np.uint8).max() <= 1
    assert refused


def test_each_header_field_is_checked() -> None:
    outliers = np.where(np.arange(300) == 200, 2**40, np.arange(300) % 7)
    bools = np.arange(300) % 90 == 7
    packed, rare = PFOR.encode(outliers), SPARSE_BOOL.encode(bools)
    bits, steps = BITMAP.encode(bools[:299]), DELTA.encode(outliers)
    mainly, folded = MAINLY_CONSTANT.encode(outliers.astype(np.int64)), ZIGZAG.encode(outliers)
    broken = [
        (PFOR, outliers, header(packed, 0, 301, 4), "300 values"),
        (PFOR, outliers, header(packed, 4, 64, 1), "64 bits"),
        (PFOR, outliers, header(packed, 5, 4, 1), "8 bytes"),
        (PFOR, outliers, header(packed, 6, 63, 1), "64 bits"),
        (PFOR, outliers, header(packed, 7, 1, 1), "a zero"),
        (PFOR, outliers, header(packed, 8, 2, 4), "2 of 1"),
        (PFOR, outliers, header(packed, 12, 301, 4), "of 301"),
        (PFOR, outliers, header(packed, 12, 17, 4), "its header says"),
        (DELTA, outliers, header(steps, 0, 301, 4), "300 values"),
        (DELTA, outliers, header(steps, 4, 1, 4), "a zero"),
        (DELTA, outliers, header(steps, 12, 2**32 - 1, 4), "a child"),
        (DELTA, outliers, header(steps, 8, 255, 1), "encoding 255"),
        (DELTA, outliers, header(steps, 8, 12, 1), "bools"),
        (ZIGZAG, outliers, header(folded, 0, 8, 1), "signed"),
        (ZIGZAG, outliers, header(folded, 0, 4, 1), "another encoding"),
        (BITMAP, bools[:299], header(bits, 0, 300, 4), "299 bools"),
        (BITMAP, bools[:299], header(bits, 4, 1, 4), "a zero"),
        (BITMAP, bools[:299], header(bits, len(bits) - 1, 128, 1), "past the last"),
        (SPARSE_BOOL, bools, header(rare, 0, 301, 4), "300 bools"),
        (SPARSE_BOOL, bools, header(rare, 4, 2, 1), "of them 2"),
        (SPARSE_BOOL, bools, header(rare, 5, 1, 1), "zeros"),
        (SPARSE_BOOL, bools, header(rare, 8, 151, 4), "at most half"),
        (SPARSE_BOOL, bools, header(rare, 12, 1, 4), "zeros"),
        (MAINLY_CONSTANT, outliers, header(mainly, 0, 301, 4), "300 values"),
        (MAINLY_CONSTANT, outliers, header(mainly, 4, 301, 4), "300 values"),
        (MAINLY_CONSTANT, outliers, header(mainly, 4, 9, 4), "9 other"),
    ]
    for encoding, values, payload, message in broken:
        with pytest.raises(CorruptStream, match=message):
            decoded(encoding, payload, values)
    with pytest.raises(CorruptStream, match="1 bytes"):
        decoded(MAINLY_CONSTANT, header(MAINLY_CONSTANT.encode(bools), 8, 256, 8), bools)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x80", "open end"),
        (b"\x01\x02", "found 2"),
        (b"\x01\x80", "open end"),
        (b"\x80\x80\x80\x80\x80\x00", "at most 5 bytes"),
        (b"\xff\xff\xff\xff\x10", "32 bits"),
        (b"", "found 0"),
    ],
)
def test_varints_end_within_their_bytes(payload: bytes, message: str) -> None:
    with pytest.raises(CorruptStream, match=message):
        decoded(VARINT, payload, np.zeros(1, np.uint32))


def test_positions_stay_within_the_stream() -> None:
    bools = np.arange(300) % 90 == 7
    gaps = np.array([7, 89, 89, 200], np.uint32)
    payload = SPARSE_BOOL.encode(bools, lambda _: (1, gaps.tobytes()))
    with pytest.raises(CorruptStream, match="up to 299"):
        decoded(SPARSE_BOOL, payload, bools)
    far = SPARSE_BOOL.encode(bools, lambda _: (1, np.full(4, 2**32 - 1, np.uint32).tobytes()))
    with pytest.raises(CorruptStream, match="up to 299"):
        decoded(SPARSE_BOOL, far, bools)


def test_exceptions_ascend_within_the_stream() -> None:
    values = np.arange(300) % 7
    values[[5, 9]] = 2**40
    payload = PFOR.encode(values)
    assert int.from_bytes(payload[8:12], "little") == 2
    # Positions of 9 bits: one row, so each is the first bits of its lane's word, behind one base and the low bits.
    at = 16 + 8 + 8 * bitpack.n_words(300, payload[4])
    for first, second in ((9, 9), (9, 5), (5, 300), (5, 511)):
        wrong = header(header(payload, at, first, 8), at + 8, second, 8)
        with pytest.raises(CorruptStream, match="ascend"):
            decoded(PFOR, wrong, values)


def test_encodings_lie_in_each_other_to_a_depth_of_three() -> None:
    values = np.arange(100)

    def nest(times: int) -> Any:
        return lambda inner: (
            (8, ZIGZAG.encode(inner.view(np.int64), nest(times - 1))) if times else (1, inner.tobytes())
        )

    assert (decoded(ZIGZAG, ZIGZAG.encode(values, nest(0)), values) == values).all()
    payload = DELTA.encode(values, lambda inner: (8, ZIGZAG.encode(inner)))
    assert (decoded(DELTA, payload, values) == values).all()
    deep = DELTA.encode(values, lambda inner: (6, DELTA.encode(inner, lambda more: (8, ZIGZAG.encode(more)))))
    with pytest.raises(CorruptStream, match="at most 3"):
        decoded(DELTA, deep, values)


@pytest.mark.parametrize(
    ("encoding", "values", "message"),
    [
        (VARINT, np.array([True]), "bools"),
        (DELTA, np.array([True]), "bools"),
        (ZIGZAG, np.array([1], np.uint8), "signed"),
        (BITMAP, np.array([1], np.uint8), "needs bools"),
        (SPARSE_BOOL, np.array([1], np.uint8), "needs bools"),
        (MAINLY_CONSTANT, np.empty(0), "one value or more"),
    ],
)
def test_values_that_an_encoding_has_no_bytes_for(encoding: Encoding, values: Array, message: str) -> None:
    assert not encoding.can_encode(stats(values))
    with pytest.raises(CannotEncode, match=message):
        encoding.encode(values)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_noise_of_the_wrong_kind_is_refused(encoding: Encoding) -> None:
    for dtype in DTYPES:
        if not encoding.can_encode(stats(noise(dtype, 5))):
            payload = encoding.encode(rewrite.VALUES[encoding.name])
            with pytest.raises(CorruptStream, match="expected a stream of"):
                decoded(encoding, payload, np.zeros(len(rewrite.VALUES[encoding.name]), dtype))
