"""Which encoding a shape of data picks, and that the pick is never a loss."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import ALL, DTYPES, UnsupportedArray
from headrace.storage.encodings.dictionary import build
from headrace.storage.select import choose, explain

Array = NDArray[Any]

RNG = np.random.default_rng(20)
PAGE = 8192

PICKS: dict[str, tuple[Array, str]] = {
    "nothing": (np.empty(0), "plain"),
    "one value": (np.array([7]), "plain"),
    "one byte": (np.array([7], np.uint8), "plain"),
    "a default": (np.full(PAGE, -1), "constant"),
    "a missing float": (np.full(PAGE, np.nan), "constant"),
    "random floats": (RNG.normal(size=PAGE), "plain"),
    "random floats of one sign": (RNG.random(PAGE), "bitpack"),
    "embeddings": (RNG.normal(size=PAGE).astype(np.float32), "plain"),
    "hashes": (RNG.integers(0, 2**63, PAGE, dtype=np.uint64), "plain"),
    "hashes of 32 bits": (RNG.integers(0, 2**32, PAGE, dtype=np.uint32), "plain"),
    "small counts": (RNG.poisson(3, PAGE), "bitpack"),
    "row numbers": (np.arange(PAGE), "bitpack"),
    "timestamps in order": (np.sort(RNG.integers(0, 3_600_000_000, PAGE)) + 1_790_000_000_000_000, "bitpack"),
    "clicks": (RNG.random(PAGE) < 0.04, "bitpack"),
    "ratings": (RNG.integers(1, 11, PAGE).astype(np.float32) / 2, "bitpack"),
    "sessions": (np.repeat(RNG.integers(0, 2**40, PAGE // 32), 32), "rle"),
    "sorted keys": (np.sort(RNG.integers(0, 60, PAGE)), "rle"),
    "a flag that flips once": (np.arange(PAGE) > 5000, "rle"),
}

DICTIONARY_PICKS: dict[str, tuple[Array, str]] = {
    "prices": (RNG.choice(RNG.random(200) * 100, PAGE), "dictionary"),
    "popular ids": (RNG.choice(RNG.integers(0, 2**60, 500), PAGE), "dictionary"),
    "dense small ids": (RNG.integers(0, 500, PAGE), "bitpack"),
    "all distinct": (RNG.normal(size=PAGE), "plain"),
    "a default": (np.full(PAGE, -1), "constant"),
    "nothing": (np.empty(0), "plain"),
}


@pytest.mark.parametrize("shape", PICKS)
def test_shape_picks(shape: str) -> None:
    values, expected = PICKS[shape]
    assert choose(values).name == expected


@pytest.mark.parametrize("shape", DICTIONARY_PICKS)
def test_shape_picks_where_entries_have_a_place(shape: str) -> None:
    values, expected = DICTIONARY_PICKS[shape]
    assert choose(values, dictionary=True).name == expected
    assert choose(values).name != "dictionary"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_never_larger_than_plain(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    raw = data.draw(hnp.arrays(f"u{dtype.itemsize}", st.integers(0, 2000)))
    values = raw % 2 == 1 if dtype.kind == "b" else raw.view(dtype)
    values = np.repeat(values, data.draw(st.integers(1, 5)))
    assert len(choose(values).encode(values)) <= values.nbytes
    chosen = choose(values, dictionary=True)
    if chosen.name == "dictionary":
        entries, codes = build(values)
        assert entries.nbytes + len(chosen.encode(codes)) <= values.nbytes


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("shape", PICKS)
def test_explain_shows_the_choice(shape: str, dictionary: bool) -> None:
    values, _ = PICKS[shape]
    rows = explain(values, dictionary=dictionary)
    assert [row.name for row in rows] == [encoding.name for encoding in ALL]
    (chosen,) = (row for row in rows if row.chosen)
    assert chosen.can
    assert chosen.name == choose(values, dictionary=dictionary).name
    if chosen.name == "dictionary":
        entries, codes = build(values)
        assert chosen.predicted_bytes == entries.nbytes + len(ALL[3].encode(codes))
    else:
        written = len(choose(values, dictionary=dictionary).encode(values))
        assert written <= chosen.predicted_bytes <= values.nbytes


def test_equal_values_choose_equally() -> None:
    for values, _ in PICKS.values():
        spread = np.zeros(2 * len(values), values.dtype)[::2]
        spread[:] = values
        assert choose(values) is choose(values.copy()) is choose(spread)


def test_what_is_no_stream_has_no_choice() -> None:
    with pytest.raises(UnsupportedArray, match="flatten lists"):
        choose(np.zeros((2, 2)))
