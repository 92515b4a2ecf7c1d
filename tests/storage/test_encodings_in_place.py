"""Single values: read without the rest, and overwritten so that nothing tells what they were."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.storage.encodings import (
    BY_ID,
    CorruptStream,
    Encoding,
    UnsupportedArray,
    bitpack,
    delta,
    dictionary,
    nested,
    stats,
)
from headrace.storage.encodings.errors import CannotErase

from .golden.encodings import rewrite
from .streams import CASES, SHAPES, decoded, header, noise, small

Array = NDArray[Any]

(
    CONSTANT,
    PLAIN,
    BITPACK,
    PFOR,
    DICTIONARY,
    RLE,
    DELTA,
    VARINT,
    ZIGZAG,
    BITMAP,
    SPARSE_BOOL,
    MAINLY_CONSTANT,
) = ENCODINGS = tuple(BY_ID[number] for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14))
IN_PLACE = (PLAIN, BITPACK, PFOR, DICTIONARY, ZIGZAG, BITMAP)


def streams(encoding: Encoding, values: Array) -> list[Array]:
    """What the encoding can be given of a stream: nothing, the values or their codes."""
    if not encoding.can_encode(stats(values)):
        return []
    return [dictionary.build(values)[1] if encoding is DICTIONARY else values]


def taken(encoding: Encoding, payload: Array, n: int, at: Array, dtype: np.dtype[Any]) -> tuple[Array, int]:
    out = np.empty(len(at), dtype)
    return out, encoding.take(payload, n, at, out)


# -- read --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["numpy", "kernel"])
@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_taken_values_are_those_decoded(
    dtype: np.dtype[Any], shape: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bitpack, delta):
        monkeypatch.setattr(module, "pick", lambda n, twin, compiled: twin if path == "numpy" else compiled)
    whole = SHAPES[shape](dtype)
    rng = np.random.default_rng(3)
    for encoding in ENCODINGS:
        for values in streams(encoding, whole):
            payload = np.frombuffer(encoding.encode(values), np.uint8)
            n = len(values)
            ends = np.array([n - 1, 0, n // 2, n - 1][: 4 * (n > 0)], np.int64)
            for at in (np.append(ends, rng.integers(0, max(1, n), 20 * (n > 0))), ends[:0]):
                out, touched = taken(encoding, payload, n, at, values.dtype)
                assert out.tobytes() == values[at].tobytes(), encoding.name
                assert 0 <= touched <= 2 * -(-n // 1024) + 1, encoding.name


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_few_values_touch_few_blocks(encoding: Encoding) -> None:
    n, at = 65_536, np.array([3, 9, 40_000])
    rng = np.random.default_rng(0)
    # Runs of about eight: half a million ends would be a stream of their own otherwise.
    values: Array = np.repeat(rng.integers(0, 2**40, n // 8), 8)
    if encoding in (BITMAP, SPARSE_BOOL):
        values = values % 50 == 0
    elif encoding is DICTIONARY:
        values = values.astype(np.uint32) >> 12
    elif encoding is CONSTANT:
        values = np.zeros(n)
    payload = np.frombuffer(encoding.encode(values), np.uint8)
    out, touched = taken(encoding, payload, n, at, values.dtype)
    assert (out == values[at]).all()
    # Positions of rare bools are decoded all, and so are the bools beside a frequent value unless they are a bitmap.
    most = {"constant": 0, "rle": 4, "sparse_bool": 2, "mainly_constant": 66}.get(encoding.name, 2)
    assert touched <= most


def test_many_positions_of_a_sum_are_found_by_decoding_it() -> None:
    values = np.cumsum(small(np.dtype(np.int64), 9000))
    payload = np.frombuffer(DELTA.encode(values), np.uint8)
    for at in (np.array([5, 8999]), np.arange(0, 9000, 700)):
        out, touched = taken(DELTA, payload, 9000, at, values.dtype)
        assert (out == values[at]).all()
        assert touched == (2 if len(at) == 2 else 9)


def test_others_are_found_in_a_bitmap_without_decoding_it() -> None:
    numbers = np.arange(65_536)
    values = np.where((numbers % 31 == 0) | (numbers % 31 == 2), numbers, 0)  # two of them to a byte, mostly

    def child(inner: Array) -> tuple[int, bytes]:
        chosen = BITMAP if inner.dtype.kind == "b" else BITPACK
        return chosen.id, chosen.encode(inner)

    payload = np.frombuffer(MAINLY_CONSTANT.encode(values, child), np.uint8)
    at = np.array([62, 63, 64, 2, 0, 65_534, 65_535, 31 * 2000, 31 * 2000 + 2])
    out, touched = taken(MAINLY_CONSTANT, payload, len(values), at, values.dtype)
    assert (out == values[at]).all()
    assert touched <= 3 + 3  # of the bitmap, and of the others


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_positions_of_any_runs_are_found(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=60))
    repeat = data.draw(st.sampled_from([1, 40]))
    values = np.repeat(np.arange(len(lengths) * repeat) % 5, lengths * repeat)
    at = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), max_size=30)), np.int64)
    payload = np.frombuffer(RLE.encode(values), np.uint8)
    assert (taken(RLE, payload, len(values), at, values.dtype)[0] == values[at]).all()


def test_broken_bytes_are_refused_for_single_values_too() -> None:
    at = np.array([0, 39])
    for encoding in ENCODINGS:
        values = rewrite.VALUES[encoding.name]
        at = np.array([0, len(values) - 1])
        payload = np.frombuffer(encoding.encode(values), np.uint8)
        for length in range(len(payload)):
            with pytest.raises(CorruptStream, match="expected"):
                taken(encoding, payload[:length], len(values), at, values.dtype)
        with pytest.raises(CorruptStream, match="expected"):
            taken(encoding, payload, len(values) + 1, at, values.dtype)


def test_runs_that_end_too_early_are_refused() -> None:
    values = np.repeat(np.array([3, 9, 3], np.uint16), 10)
    for ends, at in (([10, 20, 29], 29), ([0, 20, 30], 0), ([31, 32, 33], 0)):
        packed = BITPACK.encode(np.array(ends, np.uint32))
        head = b"".join(
            number.to_bytes(size, "little") for number, size in ((30, 4), (3, 4), (len(packed), 8))
        )
        payload = np.frombuffer(head + packed + BITPACK.encode(values[::10]), np.uint8)
        with pytest.raises(CorruptStream, match="run ends"):
            taken(RLE, payload, 30, np.array([at]), values.dtype)


# -- dictionaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_entries", [1, 3, 255, 256, 70_000])
def test_codes_are_looked_up_while_they_are_unpacked(n_entries: int) -> None:
    entries = np.arange(n_entries) * 7 - 9
    codes = np.random.default_rng(1).integers(1, n_entries + 1, 3000, dtype=np.uint32)
    codes[:2] = 1, n_entries
    table = dictionary.table(entries)
    for erased in (False, True):
        codes[1500] = 0 if erased else 1
        payload = np.frombuffer(DICTIONARY.encode(codes), np.uint8)
        for function in (dictionary._unpack_gather_numpy, dictionary._unpack_gather):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(dictionary, "pick", lambda n, twin, compiled, chosen=function: chosen)
                out = np.full(3000, -1)
                assert dictionary.decode_values(payload, table, out) is erased
                assert (out == table.view(np.int64)[codes]).all()
                if n_entries > 1:
                    with pytest.raises(CorruptStream, match=f"up to {n_entries - 1}"):
                        dictionary.decode_values(payload, table[:-1], out)


def test_tables_fit_what_is_filled() -> None:
    payload = np.frombuffer(DICTIONARY.encode(np.zeros(5, np.uint32)), np.uint8)
    out = np.ones(5, np.int32)
    assert dictionary.decode_values(payload, dictionary.table(np.array([4], np.int32)), out) is True
    assert out.tolist() == [0] * 5
    with pytest.raises(UnsupportedArray, match=r"dictionary\.table"):
        dictionary.decode_values(payload, dictionary.table(np.array([4])), out)
    none = np.frombuffer(DICTIONARY.encode(np.empty(0, np.uint32)), np.uint8)
    for width in (0, 3):
        damaged = np.frombuffer(header(none.tobytes(), 4, width, 1), np.uint8)
        assert dictionary.decode_values(damaged, dictionary.table(out[:0]), out[:0]) is False
    based = np.frombuffer(BITPACK.encode(np.arange(5, 10, dtype=np.uint32)), np.uint8)
    with pytest.raises(CorruptStream, match="zero bases"):
        dictionary.decode_values(based, dictionary.table(out), out)


# -- erase -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_others_stay_as_they_were(dtype: np.dtype[Any], shape: str) -> None:
    whole = SHAPES[shape](dtype)
    rng = np.random.default_rng(5)
    for encoding in IN_PLACE:
        for values in streams(encoding, whole):
            n = len(values)
            at = np.unique(rng.integers(0, max(1, n), n // 3 + (n > 0)))
            payload = np.frombuffer(encoding.encode(values), np.uint8).copy()
            for erased in (at, at, np.arange(n)):
                encoding.erase(payload, n, values.dtype, erased)
                left = np.setdiff1d(np.arange(n), erased)
                out = decoded(encoding, payload.tobytes(), values)
                assert out[left].tobytes() == values[left].tobytes(), encoding.name


def pairs(encoding: Encoding) -> tuple[Array, Array, Array]:
    """Two streams with the same smallest and widest values per block that differ at some positions, and those."""
    rng = np.random.default_rng(encoding.id)
    n = 3000
    if encoding is BITMAP:
        first, second = rng.random(n) < 0.5, rng.random(n) < 0.5
    else:
        kind = np.uint32 if encoding is DICTIONARY else np.int64
        low = 0 if encoding is DICTIONARY else -100
        first, second = rng.integers(low, 900, n).astype(kind), rng.integers(low, 900, n).astype(kind)
    at = np.unique(rng.integers(4, n, 500))
    at = at[at % 1024 > 3]
    result = first.copy()
    result[at] = second[at]
    for values in (first, result):
        # The block's bounds stay behind, and two values in a hundred are exceptions, whatever is erased.
        if encoding is not BITMAP:
            values[::1024], values[1::1024] = low, 899
    if encoding is PFOR:
        far = np.arange(n) % 50 == 7
        first[far] += 1 << 40
        result[far] += 1 << 40
    return first, result, at


@pytest.mark.parametrize("encoding", IN_PLACE, ids=lambda encoding: encoding.name)
def test_no_bit_tells_what_was_erased(encoding: Encoding) -> None:
    first, second, at = pairs(encoding)
    payloads = [np.frombuffer(encoding.encode(values), np.uint8).copy() for values in (first, second)]
    assert payloads[0].tobytes() != payloads[1].tobytes()
    for payload in payloads:
        encoding.erase(payload, len(first), first.dtype, at)
    assert payloads[0].tobytes() == payloads[1].tobytes()


@pytest.mark.parametrize("encoding", [BITPACK, PFOR], ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8], ids=lambda dtype: np.dtype(dtype).name)
def test_bases_are_taken_from_who_is_left(encoding: Any, dtype: type) -> None:
    n = 2500
    values = small(np.dtype(np.int64), n) + 60
    values[np.arange(n) % 100 == 50] = 110
    first, second = values.astype(dtype), values.astype(dtype)
    at = np.array([3, 700, 1024, 1500, 2400])
    # Erased values held the bases: 2 and 1 below all others.
    first[at], second[at] = 2, 1
    second[at[1]] = 30
    first[3], second[3] = 1, 1
    erased = [np.frombuffer(encoding.encode(stream), np.uint8).copy() for stream in (first, second)]
    for payload, stream in zip(erased, (first, second), strict=True):
        before = decoded(encoding, payload.tobytes(), stream)
        encoding.rebase(payload, n, stream.dtype, at)
        out = decoded(encoding, payload.tobytes(), stream)
        left = np.setdiff1d(np.arange(n), at)
        assert (out[left] == before[left]).all()
        for start in range(0, n, 1024):
            block = left[(left >= start) & (left < start + 1024)]
            assert (out[at[(at >= start) & (at < start + 1024)]] == out[block].min()).all()
    assert erased[0].tobytes() == erased[1].tobytes()


@pytest.mark.parametrize("encoding", [BITPACK, PFOR], ids=lambda encoding: encoding.name)
def test_nothing_is_left_of_a_block_erased_as_a_whole(encoding: Any) -> None:
    values = np.append(np.arange(-512, 512), [2**50, 7, 9])
    payload = np.frombuffer(encoding.encode(values), np.uint8).copy()
    encoding.rebase(payload, len(values), values.dtype, np.arange(1024))
    out = decoded(encoding, payload.tobytes(), values)
    assert not out[:1024].any()
    assert (out[1024:] == values[1024:]).all()


def test_an_exception_is_taken_out_and_its_room_zeroed() -> None:
    values = np.arange(3000) % 7
    far = np.array([5, 900, 1030, 2000])
    values[far] = 2**40 + far
    payload = np.frombuffer(PFOR.encode(values), np.uint8).copy()
    assert payload[8:16].view(np.uint32).tolist() == [4, 4]
    PFOR.erase(payload, 3000, values.dtype, np.array([900, 1031]))
    assert payload[8:16].view(np.uint32).tolist() == [3, 4]
    PFOR.erase(payload, 3000, values.dtype, np.array([5, 1030, 2000]))
    assert payload[8:16].view(np.uint32).tolist() == [0, 4]
    # No exception's position or high bits are left: one row of 16 lanes each, at the end.
    assert not payload[-256:].any()
    assert decoded(PFOR, payload.tobytes(), values)[far].max() < 7


def test_a_bool_column_forgets_in_every_bit() -> None:
    values = np.ones(2000, bool)
    payload = np.frombuffer(BITMAP.encode(values), np.uint8).copy()
    BITMAP.erase(payload, 2000, values.dtype, np.arange(2000))
    assert not payload[8:].any()


@pytest.mark.parametrize(
    "encoding", [e for e in ENCODINGS if e not in IN_PLACE], ids=lambda encoding: encoding.name
)
def test_values_without_a_place_of_their_own(encoding: Encoding) -> None:
    assert not encoding.in_place
    values = rewrite.VALUES[encoding.name]
    payload = np.frombuffer(encoding.encode(values), np.uint8).copy()
    with pytest.raises(CannotErase, match="encode"):
        encoding.erase(payload, len(values), values.dtype, np.array([0]))


def test_a_wrapper_erases_as_far_as_its_child_can() -> None:
    values = small(np.dtype(np.int32), 100)
    payload = np.frombuffer(ZIGZAG.encode(values, lambda inner: (7, VARINT.encode(inner))), np.uint8).copy()
    with pytest.raises(CannotErase, match="varint"):
        ZIGZAG.erase(payload, 100, values.dtype, np.array([0]))
    assert nested.read(payload, 0, "here").encoding is VARINT


def test_payloads_are_erased_at_any_alignment() -> None:
    for encoding in IN_PLACE:
        values = rewrite.VALUES[encoding.name]
        payload = encoding.encode(values)
        expected = np.frombuffer(payload, np.uint8).copy()
        encoding.erase(expected, len(values), values.dtype, np.array([1, 3]))
        for shift in range(1, 8):
            buffer = np.zeros(len(payload) + shift, np.uint8)
            buffer[shift:] = np.frombuffer(payload, np.uint8)
            encoding.erase(buffer[shift:], len(values), values.dtype, np.array([1, 3]))
            assert buffer[shift:].tobytes() == expected.tobytes(), encoding.name


def test_broken_bytes_are_not_erased() -> None:
    for encoding in IN_PLACE:
        values = rewrite.VALUES[encoding.name]
        payload = np.frombuffer(encoding.encode(values), np.uint8).copy()
        for length in range(len(payload)):
            with pytest.raises(CorruptStream, match="expected"):
                encoding.erase(payload[:length], len(values), values.dtype, np.array([0]))


def test_noise_is_read_and_erased_at_every_width() -> None:
    for width in range(1, 65):
        values = noise(np.dtype(np.uint64), 1100) >> np.uint64(64 - width)
        values[[0, 1024]], values[1] = 0, 2**width - 1
        payload = np.frombuffer(BITPACK.encode(values), np.uint8).copy()
        at = np.arange(0, 1100, 3)
        assert (taken(BITPACK, payload, 1100, at, values.dtype)[0] == values[at]).all()
        BITPACK.erase(payload, 1100, values.dtype, at)
        values[at] = 0
        assert (decoded(BITPACK, payload.tobytes(), values) == values).all()
