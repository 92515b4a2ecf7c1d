"""Every encoding, every dtype, every shape: against the naive oracle, both fast paths, frozen bytes and broken bytes."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import (
    ALL,
    BY_ID,
    DTYPES,
    RESERVED_IDS,
    CannotEncode,
    CorruptStream,
    Encoding,
    EncodingError,
    UnsupportedArray,
    bitpack,
    delta,
    dictionary,
    pfor,
    rle,
    stats,
    varint,
)
from headrace.storage.encodings._jit import words

from . import naive
from .golden.encodings import rewrite
from .streams import CASES, SHAPES, decoded, header, noise, runs, small

Array = NDArray[Any]

ENCODINGS = CONSTANT, PLAIN, BITPACK, DICTIONARY, RLE = tuple(BY_ID[number] for number in (0, 1, 2, 4, 5))
KERNELS = {
    "pack": (bitpack._pack_numpy, bitpack._pack),
    "unpack": (bitpack._unpack_numpy, bitpack._unpack),
    "take": (bitpack._take_numpy, bitpack._take),
    "gather": (dictionary._gather_numpy, dictionary._gather),
    "expand": (rle._expand_numpy, rle._expand),
    "unpack and gather": (dictionary._unpack_gather_numpy, dictionary._unpack_gather),
    "integrate": (delta._integrate_numpy, delta._integrate),
    "varint": (varint._decode_numpy, varint._decode),
    "exceptions": (pfor._unpack_exceptions_numpy, pfor._unpack_exceptions),
    "add highs": (pfor._add_highs_numpy, pfor._add_highs),
    "add taken": (pfor._add_taken_numpy, pfor._add_taken),
}


def encoded_values(encoding: Encoding, values: Array) -> Array | None:
    """What the encoding is given: the values, or their codes; None if it cannot write them."""
    if not encoding.can_encode(stats(values)):
        return None
    return dictionary.build(values)[1] if encoding is DICTIONARY else values


@pytest.fixture(params=["numpy", "kernel"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one of the two fast paths, whatever the length."""
    chosen: str = request.param
    for module in (bitpack, dictionary, pfor, rle):
        monkeypatch.setattr(module, "pick", lambda n, twin, compiled: twin if chosen == "numpy" else compiled)
    return chosen


# -- the tuple ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ALL, ids=lambda encoding: encoding.name)
def test_a_module_tells_layout_then_kernels_then_class(encoding: Encoding) -> None:
    source = inspect.getsource(sys.modules[type(encoding).__module__])
    tree = ast.parse(source)
    told = ast.get_docstring(tree) or ""
    assert "Wins " in told or "wins " in told
    assert re.search(r"offset  +bytes", told) or "payload is that of" in told
    functions = {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef)}
    kernels = [
        line.split("(")[0].removeprefix("def ") for line in re.findall(r"@kernel\n(def _\w+\()", source)
    ]
    (class_line,) = [
        node.lineno
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == type(encoding).__name__
    ]
    for name in kernels:
        assert functions[name] < class_line, name
        twins = (f"{name}_numpy", f"{name}_python", f"{name.rstrip('0123456789')}_numpy")
        assert any(twin in functions for twin in twins), name


def test_wire_ids_are_the_published_ones() -> None:
    assert {encoding.name: encoding.id for encoding in ALL} == {
        "constant": 0,
        "plain": 1,
        "bitpack": 2,
        "pfor": 3,
        "dictionary": 4,
        "rle": 5,
        "delta": 6,
        "varint": 7,
        "zigzag": 8,
        "byte_split": 9,
        "alp": 10,
        "bitmap": 12,
        "sparse_bool": 13,
        "mainly_constant": 14,
        "fsst": 15,
        "cast": 18,
        "int8": 19,
        "zstd": 30,
    }
    assert [*BY_ID.values()] == [*ALL]
    assert all(BY_ID[encoding.id] is encoding for encoding in ALL)
    assert not BY_ID.keys() & RESERVED_IDS.keys()


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_bytes_equal_the_oracle_and_come_back(dtype: np.dtype[Any], shape: str) -> None:
    values = SHAPES[shape](dtype)
    for encoding in ENCODINGS:
        given_values = encoded_values(encoding, values)
        if given_values is None:
            continue
        payload = encoding.encode(given_values)
        assert payload == naive.ENCODE[encoding.name](given_values), encoding.name
        assert decoded(encoding, payload, given_values).tobytes() == given_values.tobytes(), encoding.name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_oracle_reads_its_own_bytes(dtype: np.dtype[Any]) -> None:
    values = runs(dtype, 1100)
    for encoding in ENCODINGS:
        given_values = encoded_values(encoding, values)
        if given_values is not None:
            payload = encoding.encode(given_values)
            back = naive.DECODE[encoding.name](payload, given_values.dtype)
            assert back.tobytes() == given_values.tobytes(), encoding.name


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("width", range(65))
def test_every_width(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2**width - 1, 1100, dtype=np.uint64, endpoint=True)
    values[0], values[-1] = 0, 2**width - 1
    values[1024] = 0
    payload = BITPACK.encode(values)
    assert payload[4] == width
    assert payload == naive.bitpack(values)
    assert (decoded(BITPACK, payload, values) == values).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dictionary_gives_values_back(dtype: np.dtype[Any]) -> None:
    for shape in SHAPES.values():
        values = shape(dtype)
        entries, codes = dictionary.build(values)
        out = np.empty(len(values), dtype)
        dictionary.gather(entries, codes, out)
        assert out.tobytes() == values.tobytes()
        assert len(set(naive.patterns(entries))) == len(entries) == len(set(naive.patterns(values)))
        assert codes.min(initial=1) == 1


@pytest.mark.usefixtures("path")
def test_erased_code_gives_zero_bits() -> None:
    entries, codes = dictionary.build(np.array([1.5, -2.5, 1.5]))
    codes[1] = 0
    out = np.full(3, np.nan)
    dictionary.gather(entries, codes, out)
    assert out.tolist() == [1.5, 0.0, 1.5]


def test_any_code_can_be_erased_where_it_lies() -> None:
    codes = np.random.default_rng(0).integers(900, 1000, 1024, dtype=np.uint32)
    payload = bytearray(DICTIONARY.encode(codes))
    # Width 10: value 5 is row 0, lane 5, so the low ten bits of the sixth word after header and base.
    assert payload[4] == 10
    word = int.from_bytes(payload[16 + 40 : 16 + 48], "little")
    payload[16 + 40 : 16 + 48] = (word & ~1023).to_bytes(8, "little")
    codes[5] = 0
    assert (decoded(DICTIONARY, bytes(payload), codes) == codes).all()


@pytest.mark.parametrize("n", [65_536, 65_537, 70_001])
def test_long_streams(n: int) -> None:
    values = runs(np.dtype(np.int32), n)
    for encoding in (PLAIN, BITPACK, RLE):
        assert (decoded(encoding, encoding.encode(values), values) == values).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_values_come_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    raw = data.draw(hnp.arrays(f"u{dtype.itemsize}", st.integers(0, 300)))
    values = raw % 2 == 1 if dtype.kind == "b" else raw.view(dtype)
    values = np.repeat(values, data.draw(st.integers(1, 9)))
    counted = stats(values)
    for encoding in ENCODINGS:
        given_values = encoded_values(encoding, values)
        if given_values is not None:
            payload = encoding.encode(given_values)
            assert payload == naive.ENCODE[encoding.name](given_values)
            assert decoded(encoding, payload, given_values).tobytes() == given_values.tobytes()
            assert len(payload) <= encoding.size(counted)


def test_payload_may_lie_at_any_alignment() -> None:
    values = small(np.dtype(np.int64), 1100)
    for encoding in (BITPACK, RLE):
        payload = encoding.encode(values)
        for shift in range(1, 8):
            buffer = np.zeros(len(payload) + shift, np.uint8)
            buffer[shift:] = np.frombuffer(payload, np.uint8)
            out = np.empty_like(values)
            encoding.decode(buffer[shift:], out)
            assert (out == values).all()


# -- kernels and their twins -------------------------------------------------------------------------------------------


def arguments(name: str, size: int) -> Iterator[tuple[Array | int, ...]]:
    """Random calls of one kernel; the last argument is what it fills. Short, so that plain Python can run them too."""
    rng = np.random.default_rng(size)
    for n in (1, 16, 1000):
        if name == "expand":
            ends = np.unique(np.append(rng.integers(1, n + 1, 1 + n // 5), n)).astype(np.uint32)
            yield ends, noise(np.dtype(f"u{size}"), len(ends)), np.empty(n, f"u{size}")
        elif name == "integrate":
            n += 1024 * (n == 1000)
            n_bases = min(n, 16) + 16 * (n > 1024)
            yield (
                noise(np.dtype(f"u{size}"), n_bases),
                noise(np.dtype(f"u{size}"), n - n_bases),
                np.empty(n, f"u{size}"),
            )
        elif name == "varint":
            payload = BY_ID[7].encode(noise(np.dtype(f"u{size}"), n))
            yield words(np.frombuffer(payload, np.uint8), "u1"), np.empty(n, f"u{size}")
        elif name == "unpack and gather":
            packed = bitpack.pack_words(rng.integers(0, 9, n, dtype=np.uint32), np.zeros(1, np.uint64), 4)
            scratch, found = np.empty(1024, np.uint32), np.array([0, 2**32 - 1], np.uint32)
            yield packed, 4, noise(np.dtype(f"u{size}"), 9), scratch, found, np.empty(n, f"u{size}")
        elif name in ("exceptions", "add highs", "add taken"):
            high_width = min(8 * size, 63)
            positions = np.flatnonzero(rng.random(n) < 0.3).astype(np.uint32)
            highs = rng.integers(0, 2**high_width - 1, len(positions), dtype=np.uint64, endpoint=True)
            if name == "add highs":
                yield positions, highs, 64 - high_width, noise(np.dtype(f"u{size}"), n)
            elif name == "add taken":
                if len(positions):
                    yield (
                        positions,
                        highs,
                        64 - high_width,
                        rng.permutation(n),
                        noise(np.dtype(f"u{size}"), n),
                    )
            elif len(positions):
                bases, width = np.zeros(1, np.uint64), max(1, (n - 1).bit_length())
                slots, parts = (
                    bitpack.pack_words(positions, bases, width),
                    bitpack.pack_words(highs, bases, high_width),
                )
                yield (
                    slots,
                    width,
                    parts,
                    high_width,
                    n,
                    np.empty(len(highs) + 1, np.uint32),
                    np.empty_like(highs),
                )
        elif name == "gather":
            yield (
                noise(np.dtype(f"u{size}"), 9),
                rng.integers(0, 9, n, dtype=np.uint32),
                np.empty(n, f"u{size}"),
            )
        else:
            for width in {1, 3, 8 * size}:
                base = rng.integers(0, 2**64 - 1, 1, dtype=np.uint64)
                n_words = 16 * (((n + 15) // 16 * width + 63) // 64)
                if name == "take":
                    at = rng.integers(0, n, 1 + n // 3)
                    yield noise(np.dtype("u8"), n_words), base, width, at, np.empty(len(at), f"u{size}")
                elif name == "pack":
                    yield noise(np.dtype(f"u{size}"), n), base, width, np.zeros(n_words, np.uint64)
                else:
                    yield noise(np.dtype("u8"), n_words), base, width, np.empty(n, f"u{size}")


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_twin_and_plain_python(name: str, size: int) -> None:
    twin, compiled = KERNELS[name]
    for call in arguments(name, size):
        results = []
        for function in (twin, compiled, compiled.function):
            filled = call[-1].copy()  # type: ignore[union-attr]
            with np.errstate(over="ignore"):
                function(*call[:-1], filled)  # type: ignore[arg-type]
            results.append(filled.tobytes())
        assert results[0] == results[1] == results[2]


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_sizes_are_known_beforehand(dtype: np.dtype[Any], shape: str) -> None:
    values = SHAPES[shape](dtype)
    counted = stats(values)
    for encoding in ENCODINGS:
        given_values = encoded_values(encoding, values)
        if given_values is None:
            continue
        actual = len(encoding.encode(given_values))
        predicted = encoding.size(counted)
        if encoding is DICTIONARY:
            actual += dictionary.build(values)[0].nbytes
        if encoding is RLE:
            # The documented bound: too wide by no more than 32 and 8 * itemsize bits for each run, in whole words.
            rows = -(-counted.n_runs // 16) + 64
            assert actual <= predicted <= actual + rows * 2 * (32 + 8 * dtype.itemsize)
        else:
            assert actual == predicted, encoding.name


def test_stats_count_what_they_say() -> None:
    counted = stats(np.array([-5, -5, 7, 7, 7, -5], np.int8))
    assert (counted.n, counted.min, counted.max) == (6, -5, 7)
    assert (counted.n_runs, counted.n_distinct, counted.width_bits) == (3, 2, 4)
    nothing = stats(np.empty(0, np.float32))
    assert (nothing.n, nothing.min, nothing.max, nothing.n_runs, nothing.n_distinct) == (0, None, None, 0, 0)
    floats = stats(np.array([0.0, -0.0, np.nan, np.nan]))
    assert (floats.n_runs, floats.n_distinct, floats.max) == (3, 3, 1 << 63)
    assert stats(np.array([1, 1 << 40, 1024])).width_bits == 40
    assert stats(np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])).width_bits == 64


def test_distinct_values_are_exact_up_to_the_cap() -> None:
    ids = np.arange(70_000)
    assert stats(ids % 65_536).n_distinct == 65_536
    assert stats(ids % 65_537).n_distinct is None
    assert stats(ids[:9], count_distinct=False).n_distinct is None


# -- golden bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_golden_bytes(encoding: Encoding) -> None:
    frozen = (rewrite.FOLDER / f"{encoding.name}.bin").read_bytes()
    values = rewrite.VALUES[encoding.name]
    assert encoding.encode(values) == frozen, "files written before can no longer be read"
    assert decoded(encoding, frozen, values).tobytes() == values.tobytes()


# -- broken bytes ------------------------------------------------------------------------------------------------------

FUZZED = [np.dtype(name) for name in ("int8", "int64", "float32", "bool", "uint32")]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("dtype", FUZZED, ids=str)
def test_no_other_length_is_accepted(encoding: Encoding, dtype: np.dtype[Any]) -> None:
    values = np.full(40, 1, dtype) if encoding is CONSTANT else runs(dtype, 40)
    given_values = encoded_values(encoding, values)
    assert given_values is not None
    payload = encoding.encode(given_values)
    for length in range(len(payload)):
        with pytest.raises(CorruptStream, match="expected"):
            decoded(encoding, payload[:length], given_values)
    with pytest.raises(CorruptStream, match="expected"):
        decoded(encoding, payload + bytes(8), given_values)
    for n in (0, 39, 41, 1024, 1025):
        with pytest.raises(CorruptStream, match="expected"):
            decoded(encoding, payload, np.empty(n, given_values.dtype))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("dtype", FUZZED, ids=str)
def test_flipped_bytes_raise_or_return(encoding: Encoding, dtype: np.dtype[Any]) -> None:
    values = np.full(1100, 1, dtype) if encoding is CONSTANT else runs(dtype, 1100)
    given_values = encoded_values(encoding, values)
    assert given_values is not None
    payload = np.frombuffer(encoding.encode(given_values), np.uint8)
    rng = np.random.default_rng(7)
    refused = 0
    for attempt in range(400):
        broken = payload.copy()
        # Headers are a few bytes in thousands, so half of the attempts aim at the first 64.
        reach = min(64, len(broken)) if attempt % 2 else len(broken)
        at = rng.integers(0, reach, rng.integers(1, 5))
        broken[at] = rng.integers(0, 256, len(at))
        out = np.zeros_like(given_values)
        try:
            encoding.decode(broken, out)
        except CorruptStream:
            refused += 1
        else:
            assert out.dtype.kind != "b" or out.view(np.uint8).max() <= 1
    assert refused or encoding is PLAIN


def test_each_header_field_is_checked() -> None:
    values = np.repeat(np.array([3, 9, 3], np.uint16), 10)
    packed, run_ends, same = BITPACK.encode(values), RLE.encode(values), CONSTANT.encode(values[:5])
    broken = [
        (BITPACK, header(packed, 0, 31, 4), "30 values"),
        (BITPACK, header(packed, 4, 17, 1), "16 bits"),
        (BITPACK, header(packed, 5, 4, 1), "2 bytes"),
        (BITPACK, header(packed, 6, 1, 2), "a zero"),
        (RLE, header(run_ends, 0, 31, 4), "30 values"),
        (RLE, header(run_ends, 4, 31, 4), "in 31"),
        (RLE, header(run_ends, 4, 0, 4), "in 0"),
        (RLE, header(run_ends, 4, 2, 4), "2 values"),
        (RLE, header(run_ends, 8, 2**63, 8), "run ends"),
        (RLE, header(run_ends, 8, 0, 8), "0 bytes"),
    ]
    for encoding, payload, message in broken:
        with pytest.raises(CorruptStream, match=message):
            decoded(encoding, payload, values)
    with pytest.raises(CorruptStream, match="2 bytes"):
        decoded(CONSTANT, header(same, 8, 65_536, 8), values[:5])
    with pytest.raises(CorruptStream, match="a zero"):
        decoded(CONSTANT, header(same, 4, 1, 4), values[:5])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("ends", [[10, 10, 30], [20, 10, 30], [10, 20, 29], [10, 20, 31], [0, 20, 30]])
def test_run_ends_must_ascend_to_n(ends: list[int]) -> None:
    values = np.repeat(np.array([3, 9, 3], np.uint16), 10)
    packed = BITPACK.encode(np.array(ends, np.uint32))
    payload = b"".join(
        ((30).to_bytes(4, "little"), (3).to_bytes(4, "little"), len(packed).to_bytes(8, "little"), packed)
    ) + BITPACK.encode(np.array([3, 9, 3], np.uint16))
    with pytest.raises(CorruptStream, match="ascend"):
        decoded(RLE, payload, values)


def test_bools_are_zero_or_one() -> None:
    bools = np.arange(20) % 2 == 0
    two = np.full(20, 2, np.uint8)
    for encoding in (CONSTANT, PLAIN, BITPACK, RLE):
        with pytest.raises(CorruptStream, match="bool"):
            decoded(encoding, encoding.encode(two), bools)


def test_codes_beyond_the_entries_are_refused() -> None:
    with pytest.raises(CorruptStream, match="up to 2"):
        dictionary.gather(np.array([5, 6]), np.array([1, 3], np.uint32), np.empty(2, np.int64))


@pytest.mark.parametrize("encoding", [CONSTANT, BITPACK, RLE], ids=lambda encoding: encoding.name)
def test_a_lying_header_costs_no_memory(encoding: Encoding) -> None:
    values = np.zeros(2000, np.int64)
    payload = np.frombuffer(header(encoding.encode(values), 0, 2**32 - 1, 4), np.uint8)
    lying_runs = np.frombuffer(header(encoding.encode(values), 4, 0xFFFFFF40, 4), np.uint8)
    tracemalloc.start()
    try:
        for broken in (payload, lying_runs):
            with pytest.raises(CorruptStream):
                encoding.decode(broken, values)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# -- wrong arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2)),
        np.array(["a"]),
        np.array([1j]),
        np.zeros(2, ">i4"),
        np.zeros(2, np.complex64),
        np.array(5),
    ],
    ids=["2-D", "strings", "complex", "big-endian", "complex64", "0-D"],
)
def test_arrays_that_are_no_streams(values: Array) -> None:
    for encoding in (PLAIN, BITPACK, RLE):
        with pytest.raises(UnsupportedArray, match="flatten lists"):
            encoding.encode(values)
        with pytest.raises(UnsupportedArray, match="1-D"):
            encoding.decode(np.zeros(8, np.uint8), values)
    with pytest.raises(UnsupportedArray):
        stats(values)


def test_streams_end_where_their_counter_does() -> None:
    too_many = np.broadcast_to(np.int8(0), 2**32)
    with pytest.raises(UnsupportedArray, match="at most 4294967295"):
        PLAIN.encode(too_many)


def test_targets_that_cannot_be_filled() -> None:
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    for out in (frozen, np.zeros(8)[::2]):
        with pytest.raises(UnsupportedArray, match="writeable"):
            PLAIN.decode(np.zeros(32, np.uint8), out)
    with pytest.raises(UnsupportedArray, match="uint8"):
        PLAIN.decode(np.zeros(4, np.float64), np.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedArray, match="uint32"):
        DICTIONARY.decode(np.zeros(8, np.uint8), np.zeros(4))


def test_values_that_an_encoding_has_no_bytes_for() -> None:
    for values in (np.array([1, 2]), np.empty(0)):
        with pytest.raises(CannotEncode, match="all equal"):
            CONSTANT.encode(values)
    with pytest.raises(CannotEncode, match=r"dictionary\.build"):
        DICTIONARY.encode(np.array([1, 2]))
    with pytest.raises(UnsupportedArray, match="gather fills"):
        dictionary.gather(np.array([5, 6]), np.array([1, 2], np.uint32), np.empty(2, np.int32))


def test_errors_are_builtins_too() -> None:
    assert issubclass(CorruptStream, EncodingError)
    assert issubclass(CorruptStream, ValueError)
    assert issubclass(UnsupportedArray, EncodingError)
    assert issubclass(UnsupportedArray, TypeError)


# -- the compiler ------------------------------------------------------------------------------------------------------

PROLOGUE = """
import sys, warnings
import numpy as np
from headrace.storage import encodings
from headrace.storage.encodings import bitpack, delta, dictionary, pfor, rle, varint

def round_trips(n):
    values = np.repeat(np.arange(n, dtype=np.int32), 3)[:n] - 5
    values[::97] = 2**30
    for encoding in [encodings.BY_ID[number] for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14)]:
        given = np.zeros(n, np.int32) if encoding.name == "constant" else values
        given = values % 7 == 0 if encoding.name in ("bitmap", "sparse_bool") else given
        if encoding.name == "dictionary":
            entries, given = dictionary.build(values)
        out = np.empty_like(given)
        payload = np.frombuffer(encoding.encode(given), np.uint8)
        encoding.decode(payload, out)
        assert (out == given).all(), encoding.name
        if encoding.name == "dictionary":
            assert not dictionary.decode_values(payload, dictionary.table(entries), out := np.empty_like(values))
            assert (out == values).all()
    dictionary.gather(entries, dictionary.build(values)[1], out := np.empty_like(values))
    assert (out == values).all()
"""


def python(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_is_loaded_for_long_streams_only() -> None:
    python(
        """
assert "numba" not in sys.modules
round_trips(65_536)
assert "numba" not in sys.modules
round_trips(65_537)
assert "numba" in sys.modules
"""
    )


def test_kernels_run_without_the_compiler() -> None:
    # numba itself warns when imported so; ours must not.
    python(
        """
import numba
warnings.simplefilter("error")
encodings.prefer_kernels()
round_trips(2_000)
kernels = (bitpack._pack, bitpack._unpack, dictionary._gather, dictionary._unpack_gather, pfor._add_highs)
assert all(kernel.ready for kernel in (*kernels, rle._expand, delta._integrate, varint._decode))
""",
        NUMBA_DISABLE_JIT="1",
    )


def test_kernels_run_without_a_cache_folder(tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    python(
        """
warnings.simplefilter("error")
encodings.prefer_kernels()
out = np.empty(3, np.int64)
dictionary.gather(np.array([5, 6]), np.array([1, 0, 2], np.uint32), out)
assert out.tolist() == [5, 0, 6]
""",
        NUMBA_CACHE_DIR=str(not_a_folder / "below"),
        # Else numba would fall back to a folder beside the source or the user's own.
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
    )
