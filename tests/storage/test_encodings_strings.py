"""FSST: every byte comes back, matches are the longest there are, and no payload writes where it should not."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.storage.encodings import CannotEncode, fsst, stats
from headrace.storage.encodings.errors import CannotErase
from headrace.storage.encodings.fsst import FSST, Symbols, train
from headrace.storage.encodings.zstd import Zstd

from .damage import decoded, header, holds_out, plain, refused, taken

Array = NDArray[Any]

TEXT = FSST()


@pytest.fixture(params=["python", "kernel"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one of the two paths, whatever the length."""
    chosen: str = request.param
    monkeypatch.setattr(fsst, "pick", lambda n, twin, compiled: twin if chosen == "python" else compiled)
    return chosen


def stream(text: bytes) -> Array:
    return np.frombuffer(text, np.uint8)


def urls(n: int) -> bytes:
    rng = np.random.default_rng(n)
    hosts = [b"https://www.example.org/", b"http://example.com/shop/", b"https://static.example.net/img/"]
    parts = [b"item", b"list", b"user", b"cart", b"search?q=", b"blue", b"red", b"shoes"]
    picks = rng.integers(0, len(parts), (n, 3))
    return b"".join(
        hosts[i % 3] + b"/".join(parts[k] for k in row) + b"%d\n" % i for i, row in enumerate(picks)
    )


STREAMS = {
    "one": b"a",
    "eight": b"abcdefgh",
    "urls": urls(40),
    "zeros": bytes(500),
    "all bytes": bytes(range(256)) * 2,
    "escapes": b"\xff" * 301 + b"\xff\x00" * 50 + b"a\xff\xffb" * 20,
    "noise": np.random.default_rng(0).integers(0, 256, 700, dtype=np.uint8).tobytes(),
    "high": "düsseldorf, køln, żółć, 東京 ".encode() * 20,
    "periodic": b"ab" * 300,
}


# -- slow twins --------------------------------------------------------------------------------------------------------


def naive_decode(payload: bytes) -> bytes:
    n, n_codes, n_symbols = struct.unpack_from("<IIB", payload)
    lengths = payload[9 : 9 + n_symbols]
    at = 9 + n_symbols
    symbols = []
    for length in lengths:
        symbols.append(payload[at : at + length])
        at += length
    at += -at % 8
    number, zero, zeros, size = struct.unpack_from("<BBHI", payload, at)
    assert (number, zero, zeros, size) == (1, 0, 0, n_codes)
    codes = iter(payload[at + 8 : at + 8 + n_codes])
    text = b"".join(bytes([next(codes)]) if code == 255 else symbols[code] for code in codes)
    assert len(text) == n
    return text


def naive_tokens(text: bytes, symbols: list[bytes]) -> list[int]:
    """Greedy, the longest match first, each position looked at anew."""
    tokens = []
    while text:
        matches = [symbol for symbol in symbols if text.startswith(symbol)]
        longest = max(matches, key=len, default=b"")
        tokens.append(symbols.index(longest) if longest else 256 + text[0])
        text = text[len(longest) or 1 :]
    return tokens


def spelled(symbols: Symbols) -> list[bytes]:
    return [
        int(word).to_bytes(8, "little")[:length]
        for word, length in zip(symbols.words, symbols.lengths, strict=True)
    ]


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", STREAMS)
def test_text_equals_the_slow_twin_and_comes_back(name: str) -> None:
    text = STREAMS[name]
    values = stream(text)
    payload = TEXT.encode(values, plain)
    assert naive_decode(payload) == text
    assert decoded(TEXT, payload, values).tobytes() == text
    assert decoded(TEXT, TEXT.encode(values), values).tobytes() == text


@pytest.mark.parametrize("name", STREAMS)
def test_both_paths_write_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stream(STREAMS[name])
    payloads = []
    for choose in (lambda n, twin, compiled: twin, lambda n, twin, compiled: compiled):
        monkeypatch.setattr(fsst, "pick", choose)
        payloads.append(TEXT.encode(values))
    assert payloads[0] == payloads[1]


def test_long_streams_are_learnt_from_a_sample() -> None:
    text = urls(3000)
    values = stream(text)
    assert len(text) > 100_000
    payload = TEXT.encode(values, plain)
    assert len(payload) < len(text) / 3
    assert decoded(TEXT, payload, values).tobytes() == text
    at = np.array([0, len(text) - 1, 70_000, 5, 5])
    assert taken(TEXT, payload, len(text), at, values.dtype).tobytes() == values[at].tobytes()


def test_codes_may_be_compressed_again() -> None:
    values = stream(urls(500))
    payload = TEXT.encode(values, lambda codes: (30, Zstd().encode(codes)))
    assert len(payload) < len(TEXT.encode(values, plain))
    assert decoded(TEXT, payload, values).tobytes() == values.tobytes()
    (row,) = TEXT.parts(np.frombuffer(payload, np.uint8), len(values), values.dtype)
    assert row[0].startswith("codes of")
    assert row[1] == 30


def test_noise_takes_no_more_than_two_codes_a_byte() -> None:
    values = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    assert len(TEXT.encode(values, plain)) < 2 * len(values) + 2400


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.text(min_size=1, max_size=300).map(str.encode),
        st.lists(st.sampled_from([b"ab", b"abc", b"bcd", b"\xff", b"\xff\xfe", b"cart"]), min_size=1).map(
            b"".join
        ),
    )
)
def test_any_bytes_come_back(text: bytes) -> None:
    values = stream(text)
    payload = TEXT.encode(values, plain)
    assert naive_decode(payload) == text
    assert decoded(TEXT, payload, values).tobytes() == text


# -- symbols and matches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_tokens_are_the_longest_matches(name: str) -> None:
    values = stream(STREAMS[name])
    symbols = train(values)
    index = fsst._index(symbols)
    padded = np.append(values, np.zeros(8, np.uint8))
    expected = naive_tokens(STREAMS[name], spelled(symbols))
    for function in (fsst._parse_python, fsst._parse, fsst._parse.function):
        out, count = np.zeros(len(values), np.uint16), np.zeros(1, np.uint64)
        function(padded, *index, out, count)
        assert out[: int(count[0])].tolist() == expected


def test_no_match_reaches_beyond_the_end() -> None:
    symbols = Symbols(np.array([0x6261, 0x006261], np.uint64), np.array([2, 3], np.uint8))
    index = fsst._index(symbols)
    padded = np.append(stream(b"xab"), np.zeros(8, np.uint8))
    for function in (fsst._parse_python, fsst._parse, fsst._parse.function):
        out, count = np.zeros(3, np.uint16), np.zeros(1, np.uint64)
        function(padded, *index, out, count)
        # "ab" and the padding behind it spell the symbol of three bytes, but only two are there.
        assert out[: int(count[0])].tolist() == [256 + ord("x"), 0]


def test_symbols_are_distinct_and_few() -> None:
    for text in STREAMS.values():
        symbols = spelled(train(stream(text)))
        assert len({*symbols}) == len(symbols) <= 255
        assert all(1 <= len(symbol) <= 8 for symbol in symbols)


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_spell_equals_twin_and_plain_python() -> None:
    tokens = np.random.default_rng(0).integers(0, 512, 2000).astype(np.uint16)
    for some in (tokens, tokens[:0], tokens[tokens < 255]):
        results = []
        for function in (fsst._spell_numpy, fsst._spell, fsst._spell.function):
            out = np.zeros(len(some) + np.count_nonzero(some >= 256), np.uint8)
            function(some, out)
            results.append(out.tobytes())
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("seed", range(8))
def test_expand_equals_twin_and_plain_python(seed: int) -> None:
    """On any codes, also those that no encoder writes: the same bytes, or the same refusal."""
    rng = np.random.default_rng(seed)
    n_symbols = int(rng.integers(1, 256))
    words = np.zeros(256, np.uint64)
    lengths = np.zeros(256, np.uint8)
    lengths[:n_symbols] = rng.integers(1, 9, n_symbols)
    words[:n_symbols] = rng.integers(0, 2**63, n_symbols, dtype=np.uint64)
    words &= ~np.uint64(0) >> (np.uint64(64) - np.uint64(8) * np.maximum(lengths, 1).astype(np.uint64))
    for _ in range(30):
        top = n_symbols if rng.random() < 0.8 else 256
        codes = rng.integers(0, top, rng.integers(0, 60)).astype(np.uint8)
        codes[rng.random(len(codes)) < 0.2] = 255
        size = int(rng.integers(0, 250))
        exact = np.zeros(1, np.uint64)
        fsst._expand_numpy(codes, words, lengths, np.empty(1000, np.uint8), exact)
        for n in (size, int(exact[0]) if exact[0] <= 1000 else size):
            results = []
            for function in (fsst._expand_numpy, fsst._expand, fsst._expand.function):
                out, count = np.zeros(n, np.uint8), np.zeros(1, np.uint64)
                function(codes, words, lengths, out, count)
                results.append((int(count[0]), out[: int(count[0])].tobytes() if count[0] <= n else b""))
            assert results[0] == results[1] == results[2]


# -- damage and wrong arguments ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", ["eight", "urls", "escapes", "noise"])
def test_damage_is_refused_or_gives_other_values(name: str) -> None:
    values = stream(STREAMS[name])
    payload = TEXT.encode(values, plain)
    assert holds_out(TEXT, payload, values) > 100 if len(payload) > 100 else holds_out(TEXT, payload, values)


@pytest.mark.usefixtures("path")
def test_each_field_is_checked() -> None:
    values = stream(b"tic tac toe " * 20)
    payload = TEXT.encode(values, plain)
    n_symbols = payload[8]
    end_of_table = 9 + n_symbols + sum(payload[9 : 9 + n_symbols])
    first_code = end_of_table + -end_of_table % 8 + 8
    for broken, message in (
        (header(payload, 0, 241, 4), "240 bytes"),
        (header(payload, 4, 481, 4), "twice as many"),
        (header(payload, 8, 255, 1), "symbols"),
        (header(payload, 9, 0, 1), "1 to 8"),
        (header(payload, 9, 9, 1), "1 to 8"),
        (payload[:8], "header"),
        (payload + bytes(8), "expected"),
    ):
        refused(TEXT, broken, values, message)
    assert n_symbols < 254
    without_symbol = header(payload, first_code, 254, 1)
    refused(TEXT, without_symbol, values, "without a symbol")
    with pytest.raises(ValueError, match="stream of bytes"):
        TEXT.decode(np.frombuffer(payload, np.uint8), np.empty(30, np.int64))


@pytest.mark.usefixtures("path")
def test_an_escape_needs_a_byte_behind_it() -> None:
    values = stream(b"\x80")
    whole = (
        struct.pack("<IIB", 1, 2, 0) + bytes(7) + struct.pack("<BBHI", 1, 0, 0, 2) + b"\xff\x80" + bytes(6)
    )
    assert decoded(TEXT, whole, values).tobytes() == b"\x80"
    cut = struct.pack("<IIB", 1, 1, 0) + bytes(7) + struct.pack("<BBHI", 1, 0, 0, 1) + b"\xff" + bytes(7)
    refused(TEXT, cut, values, "codes for 1 bytes")


def test_only_bytes_are_text() -> None:
    for values in (np.zeros(3, np.int8), np.empty(0, np.uint8), np.zeros(2, np.bool_)):
        assert not TEXT.can_encode(stats(values))
        with pytest.raises(CannotEncode, match="uint8"):
            TEXT.encode(values)


def test_text_is_not_erased_in_place() -> None:
    values = stream(STREAMS["urls"])
    payload = np.frombuffer(bytearray(TEXT.encode(values)), np.uint8)
    assert not TEXT.in_place
    with pytest.raises(CannotErase, match="no place"):
        TEXT.erase(payload, len(values), values.dtype, np.array([0]))
