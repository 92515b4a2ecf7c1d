"""Lists that slide: against the naive oracle, kernels against their twins, any damage, layouts, clusters and erasure."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.storage import sequences
from headrace.storage.encodings import alignment, following, listviews, sequence
from headrace.storage.encodings.contract import DTYPES
from headrace.storage.encodings.errors import CannotErase, CorruptStream, UnsupportedArray
from headrace.storage.encodings.sequence import Edits

from . import naive_sequences as naive

Array = NDArray[Any]
MODULES = (sequence, alignment, listviews, following)
STREAMS = ("mode", "new", "skip", "keep", "literals")

PATHS: dict[str, Callable[[int, Any, Any], Any]] = {
    "numpy": lambda n, twin, compiled: twin,
    "kernel": lambda n, twin, compiled: compiled,
    "python": lambda n, twin, compiled: compiled.function,
}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces the twins, the kernels, or the kernels' code without a compiler."""
    name: str = request.param
    force(monkeypatch, name)
    return name


def force(patch: pytest.MonkeyPatch, name: str) -> None:
    for module in MODULES:
        patch.setattr(module, "pick", PATHS[name])


def flattened(rows: naive.Rows, dtype: Any = np.int64) -> tuple[NDArray[np.int32], Array]:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return offsets, np.array([item for row in rows for item in row], np.int64).astype(dtype)


def encoded(
    rows: naive.Rows, restart: Array | None = None, *, oldest_first: bool = False, dtype: Any = np.int64
) -> Edits:
    flags = np.zeros(len(rows), np.bool_) if restart is None else restart
    return alignment.encode(*flattened(rows, dtype), flags, oldest_first=oldest_first)


def read(edits: Edits, n_items: int, base: int = 0) -> tuple[Array, Array, Array]:
    """child, starts, sizes."""
    sizes, starts = (np.full(len(edits.mode), -1, np.int32) for _ in range(2))
    n_child = sequence.measure(edits, n_items, sizes)
    child = np.zeros(n_child, edits.literals.dtype)
    listviews.views(edits, sizes, child, starts, base=base)
    return child, starts, sizes


def lists(edits: Edits, n_items: int, order: Array | None = None) -> tuple[Array, Array]:
    child, starts, sizes = read(edits, n_items)
    offsets, values = np.empty(len(sizes) + 1, np.int32), np.empty(n_items, child.dtype)
    listviews.gather_list(child, starts, sizes, order, offsets, values)
    return offsets, values


def by_oracle(edits: Edits) -> list[list[Any]]:
    streams = [getattr(edits, name).tolist() for name in STREAMS]
    rows = naive.applied(*streams, edits.cap)
    return [row[::-1] for row in rows] if edits.oldest_first else rows


def assert_comes_back(rows: naive.Rows, edits: Edits) -> None:
    offsets, items = flattened(rows, edits.literals.dtype)
    assert by_oracle(edits) == [items[a:b].tolist() for a, b in pairwise(offsets)]
    found, values = lists(edits, len(items))
    assert found.tolist() == offsets.tolist()
    assert values.tobytes() == items.tobytes()


def same(a: Edits, b: Edits) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Edits))


def random_history(seed: int, n_rows: int = 30) -> tuple[naive.Rows, Array]:
    rng = random.Random(seed)
    rows = naive.history(
        rng,
        rng.randrange(1, n_rows),
        rng.choice((1, 2, 8, 100, 10**9)),
        rng.choice((1, 3, 40, 200)),
        rng.choice((0.0, 0.05, 0.5, 1.0)),
    )
    return rows, np.array([rng.random() < 0.05 for _ in rows])


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_histories_come_back(seed: int, oldest_first: bool) -> None:
    rows, restart = random_history(seed)
    rows = [row[::-1] for row in rows] if oldest_first else rows
    edits = encoded(rows, restart, oldest_first=oldest_first)
    assert edits.mode[restart].max(initial=0) == 0
    assert_comes_back(rows, edits)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=12),
    oldest_first=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_lists_come_back_and_kernels_write_what_twins_write(
    rows: naive.Rows, oldest_first: bool, seed: int
) -> None:
    restart = np.random.default_rng(seed).random(len(rows)) < 0.1
    found = []
    for name in PATHS:
        with pytest.MonkeyPatch.context() as patch:
            force(patch, name)
            found.append(encoded(rows, restart, oldest_first=oldest_first))
            assert_comes_back(rows, found[-1])
    assert all(same(found[0], other) for other in found[1:])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), oldest_first=st.booleans())
def test_kernels_equal_twins_on_histories(seed: int, oldest_first: bool) -> None:
    rows, restart = random_history(seed, 16)
    found = []
    for name in ("numpy", "kernel"):
        with pytest.MonkeyPatch.context() as patch:
            force(patch, name)
            found.append(encoded(rows, restart, oldest_first=oldest_first))
            assert_comes_back(rows, found[-1])
    assert same(*found)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_by_bit_pattern(dtype: np.dtype[Any]) -> None:
    patterns = np.random.default_rng(1).integers(0, 256, 40 * dtype.itemsize, np.uint8)
    stream = patterns > 127 if dtype.kind == "b" else patterns.view(dtype)
    windows = [stream[i : i + 12] for i in range(20)]
    items, offsets = np.concatenate(windows), 12 * np.arange(21)
    edits = alignment.encode(offsets, items, np.zeros(20, np.bool_), oldest_first=True)
    assert edits.literals.dtype == dtype
    assert len(edits.literals) <= 12 + 19 * (12 if dtype.kind == "b" else 1)
    assert lists(edits, len(items))[1].tobytes() == items.tobytes()


@pytest.mark.usefixtures("path")
def test_no_rows_and_empty_rows() -> None:
    nothing = alignment.encode(
        np.zeros(1, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_), oldest_first=False
    )
    assert lists(nothing, 0)[0].tolist() == [0]
    for rows in ([[]], [[], []], [[1], [], [1]], [[], [5], []]):
        assert_comes_back(rows, encoded(rows))


def test_slices_of_arrow_lists_need_no_copy() -> None:
    offsets, items = np.array([3, 5, 8], np.int32), np.arange(10)
    edits = alignment.encode(offsets, items, np.zeros(2, np.bool_), oldest_first=False)
    assert by_oracle(edits) == [[3, 4], [5, 6, 7]]


@pytest.mark.parametrize(
    ("offsets", "items"),
    [
        (np.array([0, 2, 1]), np.arange(4)),
        (np.array([0, 2, 5]), np.arange(4)),
        (np.array([-1, 2, 3]), np.arange(4)),
        (np.array([0, 4]), np.arange(4)),
        (np.array([0.0, 1.0, 2.0]), np.arange(4)),
    ],
)
def test_offsets_that_are_none_are_refused(offsets: Array, items: Array) -> None:
    with pytest.raises(UnsupportedArray, match="offsets"):
        alignment.encode(offsets, items, np.zeros(2, np.bool_), oldest_first=False)


# -- what is found -----------------------------------------------------------------------------------------------------

BEFORE = list(range(100, 140))
FOUND = {
    "one new": ([1, *BEFORE], 1, 1),
    "nothing new": (BEFORE, 1, 0),
    "the oldest dropped": (BEFORE[:-3], 1, 0),
    "the newest removed": (BEFORE[1:], 1, 0),
    "many new": ([*range(90), *BEFORE], 1, 90),
    "many dropped": (BEFORE[30:], 1, 0),
    "one removed": ([1, *BEFORE[:20], *BEFORE[21:]], 2, 1),
    "a late one": ([1, *BEFORE[:31], 2, *BEFORE[31:]], 2, 2),
    "older ones too": ([1, *BEFORE, 3, 4], 2, 3),
    "two in each other's place": ([*BEFORE[:9], BEFORE[10], BEFORE[9], *BEFORE[11:]], 3, 1),
    "all of it, far apart": ([1, *BEFORE[:8], *BEFORE[9:20], 2, *BEFORE[20:]], 3, 2),
    "the last two, behind a gap": ([*BEFORE[:31], 1, 2, *BEFORE[38:]], 2, 2),
    "three for thirty": ([*BEFORE[:2], 1, 2, 3, *BEFORE[32:]], 2, 3),
    "four for thirty, too far": ([*BEFORE[:2], 1, 2, 3, 4, *BEFORE[32:]], 2, 12),
    "unrelated": ([*range(40)], 0, 40),
}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("change", FOUND)
def test_changes_cost_what_they_should(change: str, oldest_first: bool) -> None:
    after, copies, literals = FOUND[change]
    rows = [row[:: -1 if oldest_first else 1] for row in (BEFORE, after)]
    edits = encoded(rows, oldest_first=oldest_first)
    assert_comes_back(rows, edits)
    assert (edits.mode.tolist(), len(edits.literals)) == ([0, copies], 40 + literals)


def test_frozen_streams() -> None:
    """What a page held once, it must mean for ever."""
    edits = encoded([[5, 6, 7, 8], [4, 5, 6, 7], [3, 4, 6, 7], [9], [2, 9]], dtype=np.int16)
    assert [getattr(edits, name).tolist() for name in STREAMS] == [
        [0, 1, 2, 0, 1],
        [4, 1, 1, 0, 1, 1],
        [0, 0, 1, 0],
        [0, 1, 0, 0],
        [5, 6, 7, 8, 4, 3, 9, 2],
    ]
    assert edits.cap == 4
    frozen = Edits(
        *(np.array(stream, np.uint32) for stream in ([0, 1, 2, 0], [3, 1, 0, 1, 2], [0, 1, 0], [0, 1, 0])),
        np.array([7, 8, 9, 6, 1, 2, 3], np.int16),
        4,
        True,
    )
    assert by_oracle(frozen) == [[9, 8, 7], [9, 8, 7, 6], [9, 8, 1, 7], [3, 2]]
    assert lists(frozen, 13)[1].tolist() == [9, 8, 7, 9, 8, 7, 6, 9, 8, 1, 7, 3, 2]


def test_unrelated_lists_cost_little_more_than_themselves() -> None:
    offsets, items = 50 * np.arange(41), np.random.default_rng(0).integers(0, 50, 2000)
    edits = alignment.encode(offsets, items, np.zeros(40, np.bool_), oldest_first=False)
    numbers = len(edits.new) + 2 * len(edits.skip)
    assert len(edits.literals) + numbers <= 2000 + 3 * 40


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("oldest_first", [False, True])
def test_rows_that_slide_share_memory(oldest_first: bool) -> None:
    events = list(range(60))
    rows = [events[max(0, i - 20) : i] for i in range(60)]
    rows = rows if oldest_first else [row[::-1] for row in rows]
    edits = encoded(rows, oldest_first=oldest_first)
    n_items = sum(map(len, rows))
    child, starts, sizes = read(edits, n_items, base=1000)
    assert len(child) == 59 == len(edits.literals)
    assert child.tolist() == (events[:59] if oldest_first else events[58::-1])
    for row, start, size in zip(rows, starts.tolist(), sizes.tolist(), strict=True):
        assert child[start - 1000 :][:size].tolist() == row


@pytest.mark.usefixtures("path")
def test_rows_come_in_any_order() -> None:
    rows, _ = random_history(3)
    rows = [*rows, [1, 2, 3]]
    order = np.random.default_rng(0).permutation(len(rows))
    edits = encoded(rows)
    offsets, values = lists(edits, sum(map(len, rows)), order)
    expected = flattened([rows[i] for i in order])
    assert offsets.tolist() == expected[0].tolist()
    assert values.tolist() == expected[1].tolist()


def test_some_rows_can_be_gathered() -> None:
    rows = [[1, 2], [3, 1, 2], [], [4]]
    child, starts, sizes = read(encoded(rows), 6)
    offsets, values = np.empty(4, np.int32), np.empty(4, np.int64)
    listviews.gather_list(child, starts, sizes, np.array([1, 2, 3]), offsets, values)
    assert (offsets.tolist(), values.tolist()) == ([0, 3, 3, 4], [3, 1, 2, 4])


def test_arrow_takes_the_views() -> None:
    rows, _ = random_history(5)
    child, starts, sizes = read(encoded(rows), sum(map(len, rows)))
    array = pa.ListViewArray.from_arrays(pa.array(starts), pa.array(sizes), pa.array(child))
    array.validate(full=True)
    assert array.to_pylist() == rows


def test_views_beyond_int32_are_refused() -> None:
    edits = encoded([[1, 2]])
    sizes, starts = np.array([2], np.int32), np.empty(1, np.int32)
    with pytest.raises(UnsupportedArray, match="fewer rows"):
        listviews.views(edits, sizes, np.empty(2, np.int64), starts, base=2**31 - 2)


# -- lists that follow -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_lists_that_follow_hold_literals_alone(seed: int, oldest_first: bool) -> None:
    rows, restart = random_history(seed)
    rows = [row[::-1] for row in rows] if oldest_first else rows
    offsets, items = flattened(rows)
    leader = encoded(rows, restart, oldest_first=oldest_first)
    scores = (items * 0.5).astype(np.float32)
    literals = following.follow(leader, offsets, scores)
    assert literals is not None
    assert literals.dtype == np.float32
    assert lists(replace(leader, literals=literals), len(items))[1].tobytes() == scores.tobytes()


@pytest.mark.usefixtures("path")
def test_one_other_item_and_a_list_does_not_follow() -> None:
    rows = [[3, 2, 1], [4, 3, 2, 1], [5, 4, 2, 1]]
    offsets, items = flattened(rows)
    leader = encoded(rows)
    assert len(leader.literals) == 5
    for at in range(len(items)):
        other = items.astype(np.float64)
        other[at] = np.nan
        followed = following.follow(leader, offsets, other)
        if followed is not None:
            assert lists(replace(leader, literals=followed), 11)[1].tobytes() == other.tobytes()
    # Items that no row copies may differ; of these, the 3 that is removed last is copied once.
    assert following.follow(leader, offsets, -items) is not None
    changed = items.copy()
    changed[-1] = 9
    assert following.follow(leader, offsets, changed) is None


@pytest.mark.usefixtures("path")
def test_lists_of_other_lengths_do_not_follow() -> None:
    leader = encoded([[1], [2, 1]])
    assert following.follow(leader, np.array([0, 2, 3]), np.array([1, 2, 1])) is None
    assert following.follow(leader, np.array([0, 1, 2]), np.array([1, 1])) is None
    assert following.follow(leader, np.array([0, 1, 1]), np.array([1])) is None


# -- damage ------------------------------------------------------------------------------------------------------------


class Guarded:
    """An array that knows no index below zero: what a kernel does without checks raises here."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.dtype = values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, at: Any) -> Any:
        assert 0 <= int(at) < len(self.values), (at, len(self.values))
        return self.values[int(at)]

    def __setitem__(self, at: Any, value: Any) -> None:
        assert 0 <= int(at) < len(self.values), (at, len(self.values))
        self.values[int(at)] = value


def guarded(n: int, twin: Any, compiled: Any) -> Callable[..., None]:
    """The kernel's code, with every index checked."""

    def call(*args: Any) -> None:
        with np.errstate(over="ignore"):
            compiled.function(*(Guarded(arg) if isinstance(arg, np.ndarray) else arg for arg in args))

    return call


def damaged(edits: Edits, rng: np.random.Generator) -> Edits:
    """One to three streams with other numbers, another cap, or a stream of another length."""
    broken = {name: getattr(edits, name).copy() for name in STREAMS}
    cap = edits.cap
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(0, 8)
        stream = broken[STREAMS[rng.integers(0, 4)]]
        if kind == 0:
            cap = int(rng.choice([0, 1, cap - 1, cap + 1, 2**31, 2**32 - 1]) % 2**32)
        elif kind == 1:
            name = STREAMS[rng.integers(0, 5)]
            broken[name] = broken[name][: rng.integers(0, len(broken[name]) + 1)]
        elif kind == 2:
            name = STREAMS[rng.integers(0, 5)]
            broken[name] = np.append(broken[name], broken[name][:1])
        elif len(stream):
            at = rng.integers(0, len(stream), rng.integers(1, 4))
            choices = [0, 1, 2, 3, len(stream), 2**31, 2**32 - 1, int(rng.integers(0, 2**32))]
            stream[at] = rng.choice(choices, len(at)).astype(np.uint32)
            if kind > 5 and len(broken["literals"]):
                # Counts that fit each other get further than those that do not.
                broken["literals"] = np.resize(
                    broken["literals"], min(int(broken["new"].sum(dtype=np.uint64)), 5000)
                )
    return Edits(**broken, cap=cap, oldest_first=edits.oldest_first)


@pytest.mark.parametrize("seed", range(40))
def test_damage_raises_or_gives_rows_and_never_leaves_the_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, restart = random_history(seed, 8)
    rows = [row[:60] for row in rows]
    n_items = sum(map(len, rows))
    original = encoded(rows, restart, oldest_first=bool(seed % 2))
    outcomes = set()
    for _ in range(25):
        edits = damaged(original, rng)
        wanted = int(rng.choice([n_items, n_items, n_items, n_items + 1, 0, 2**32 - 1]))
        try:
            expected = by_oracle(edits)
        except naive.Damaged:
            expected = None
        if expected is not None and sum(map(len, expected)) != wanted and rng.random() < 0.7:
            wanted = sum(map(len, expected))
        found = []
        for path in (*PATHS.values(), guarded):
            with pytest.MonkeyPatch.context() as patch:
                for module in MODULES:
                    patch.setattr(module, "pick", path)
                try:
                    found.append([part.tolist() for part in lists(edits, wanted)])
                except CorruptStream:
                    found.append([])
        assert found[1:] == found[:-1]
        if expected is None or sum(map(len, expected)) != wanted:
            assert found[0] == []
        else:
            assert found[0][1] == [item for row in expected for item in row]
        outcomes.add(bool(found[0]))
    assert False in outcomes


def test_every_small_page_is_read_or_refused_as_the_oracle_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits from both sides: rows of two, of one copy or two, with all small numbers."""
    copies = [
        (1, product(range(2), repeat=1), product(range(4), repeat=1), product(range(4), repeat=1), range(5)),
        (
            2,
            product(range(2), repeat=2),
            product(range(3), repeat=2),
            product(range(2), repeat=2),
            range(2, 5),
        ),
    ]
    pages = [
        ([0, number], [first, *new], [*skip], [*keep], cap)
        for number, news, skips, keeps, caps in copies
        for first, new, skip, keep, cap in product(range(3), news, skips, keeps, caps)
    ]
    seen = set()
    for mode, new, skip, keep, cap in pages:
        literals = np.arange(sum(new), dtype=np.int16)
        edits = Edits(*(np.array(part, np.uint32) for part in (mode, new, skip, keep)), literals, cap, False)
        try:
            expected = [item for row in by_oracle(edits) for item in row]
        except naive.Damaged:
            expected = None
        n_items = len(expected) if expected is not None else None
        for name in ("numpy", "python"):
            force(monkeypatch, name)
            # Of a damaged page any number of items must be refused, also the one that would fit.
            for n in range(7) if n_items is None else (n_items,):
                try:
                    found = lists(edits, n)[1].tolist()
                except CorruptStream:
                    found = None
                assert found == expected, (mode, new, skip, keep, cap, n, name)
        seen.add(expected is None)
    assert seen == {True, False}


@pytest.mark.usefixtures("path")
def test_each_check_has_its_words() -> None:
    good = encoded([BEFORE, [1, *BEFORE], [1, *BEFORE[:20], *BEFORE[21:]]])
    n_items = 121
    assert good.mode.tolist() == [0, 1, 2]
    broken = [
        (replace(good, mode=good.mode[1:]), n_items, "rows"),
        (replace(good, literals=good.literals[1:]), n_items, "literals"),
        (replace(good, mode=good.mode[::-1].copy()), n_items, "first row"),
        (replace(good, cap=2), n_items, "longest"),
        (replace(good, skip=good.skip + np.uint32(90)), n_items, "within the row before"),
        (replace(good, keep=good.keep + np.uint32(90)), n_items, "left"),
        (good, n_items + 1, "number of items"),
        (good, n_items - 1, "number of items"),
    ]
    for edits, n, words in broken:
        with pytest.raises(CorruptStream, match=words):
            lists(edits, n)


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    mode = np.ones(1000, np.uint32)
    mode[0] = 0
    new = np.zeros(1000, np.uint32)
    new[0] = 1000
    zeros = np.zeros(999, np.uint32)
    bomb = Edits(mode, new, zeros, zeros, np.zeros(1000, np.int64), 2**32 - 1, False)
    with pytest.raises(CorruptStream, match="number of items"):
        sequence.measure(bomb, 1000, np.empty(1000, np.int32))
    assert sequence.measure(bomb, 1_000_000, np.empty(1000, np.int32)) == 1000


# -- layouts and clusters ----------------------------------------------------------------------------------------------


def many_users(n_rows: int, n_users: int, *, by_user: bool) -> tuple[Array, naive.Rows]:
    rng = random.Random(0)
    states: dict[int, list[int]] = {}
    keys, rows = [], []
    for i in range(n_rows):
        user = i * n_users // n_rows if by_user else rng.randrange(n_users)
        state = states.setdefault(user, [rng.randrange(10**6) for _ in range(30)])
        state.insert(0, rng.randrange(10**6))
        keys.append(user * 7)
        rows.append(state[:40])
    return np.array(keys), rows


def test_clusters_are_numbered_by_first_appearance() -> None:
    for keys in (
        pa.array([9, 4, 9, None, 4, None]),
        pa.array(["b", "a", "b", None, "a", None]),
        pa.array(["b", "a", "b", None, "a", None]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([2, 0, 2, None, 0, None]), pa.array(["x", "y", "z"])),
        pa.array([np.nan, -0.0, np.nan, None, -0.0, None]),
        pa.array([None, 9, 4, 9, None, 4, None])[1:],
    ):
        numbers = sequences.cluster_numbers(keys)
        assert (numbers.dtype, numbers.tolist()) == (np.uint32, [0, 1, 0, 2, 1, 2])
    order = sequences.clustered_order(numbers)
    assert order.tolist() == [0, 2, 1, 4, 3, 5]
    assert order[sequences.arrival_order(order)].tolist() == [0, 1, 2, 3, 4, 5]
    assert sequences.restarts(numbers[order]).tolist() == [True, False, True, False, True, False]
    assert sequences.cluster_numbers(pa.array([], pa.int64())).tolist() == []
    assert sequences.clustered_order(np.array([70_000, 3, 70_000], np.uint32)).tolist() == [1, 0, 2]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_layouts_are_found(by_user: bool, oldest_first: bool) -> None:
    keys, rows = many_users(600, 40, by_user=by_user)
    rows = [row[::-1] for row in rows] if oldest_first else rows
    offsets, items = flattened(rows)
    numbers = sequences.cluster_numbers(pa.array(keys))
    order = sequences.clustered_order(numbers)
    layout = sequences.worth_it(offsets, items, numbers, order)
    assert layout is not None
    assert (layout.oldest_first, layout.clustered) == (oldest_first, not by_user)
    assert layout.literals < 0.3
    assert layout == sequences.worth_it(offsets, items, numbers, order)
    assert (sequences.worth_it(offsets, items, numbers, None) is None) == (not by_user)


@pytest.mark.parametrize("vocabulary", [5, 1000, 2**40])
def test_unrelated_lists_are_left_alone(vocabulary: int) -> None:
    items = np.random.default_rng(0).integers(0, vocabulary, 30 * 500)
    offsets = 30 * np.arange(501)
    numbers = np.arange(500, dtype=np.uint32) // 5
    assert sequences.worth_it(offsets, items, numbers, sequences.clustered_order(numbers)) is None
    assert sequences.worth_it(offsets, items, None, None) is None


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_begin_a_cluster_are_counted(seed: int) -> None:
    """Rows come in runs of a user: few begin one, but those are nearly all that is written."""
    users = np.random.default_rng(1).permutation(np.repeat(np.arange(40, dtype=np.uint32), 10)).repeat(50)
    rows = [np.zeros(0, np.int64)] * len(users)
    last = {user: np.arange(200) + 1_000 * user for user in range(40)}
    for at, user in enumerate(users.tolist()):
        last[user] = rows[at] = np.append(10**6 + at, last[user][:199])
    offsets, items = np.arange(len(rows) + 1) * 200, np.concatenate(rows)
    layout = sequences.worth_it(offsets, items, users, sequences.clustered_order(users), seed=seed)
    assert layout is not None
    assert layout.clustered


def test_few_rows_and_empty_lists_are_left_alone() -> None:
    assert sequences.worth_it(np.array([0, 3]), np.arange(3), None, None) is None
    assert sequences.worth_it(np.zeros(9, np.int32), np.empty(0, np.int64), None, None) is None


def test_a_chunk_by_pages_in_clustered_order() -> None:
    keys, rows = many_users(600, 40, by_user=False)
    ratings = [[float(item % 5) for item in row] for row in rows]
    ids: list[list[int] | None] = [None if i % 50 == 7 else row for i, row in enumerate(rows)]
    offsets, items = sequences.flat(pa.array([[0], *ids], pa.list_(pa.int64()))[1:])
    valid = np.array([row is not None for row in ids])
    numbers = sequences.cluster_numbers(pa.array(keys[valid]))
    order = sequences.clustered_order(numbers)
    begins, stored = sequences.ordered(offsets, items.to_numpy(), order)
    cuts = np.array([0, 100, 400, len(order)])
    restart = sequences.restarts(numbers[order])
    pages = sequences.slide_pages(begins, stored, cuts, restart, oldest_first=False)
    assert sum(len(page.literals) for page in pages) < 0.2 * len(stored)
    scores, values = sequences.flat(
        pa.array([r for r, v in zip(ratings, valid, strict=True) if v], pa.large_list(pa.float32()))
    )
    follower = sequences.ordered(scores, values.to_numpy(), order)
    followed = sequences.follow_pages(pages, *follower, cuts)
    assert followed is not None
    assert sequences.follow_pages(pages, begins, stored[::-1].copy(), cuts) is None

    for streams, wanted in ((pages, items.to_numpy()), (followed, values.to_numpy())):
        parts, base = [], 0
        for page, first, last in zip(streams, begins[cuts[:-1]], begins[cuts[1:]], strict=True):
            child, starts, sizes = read(page, int(last - first), base)
            parts.append((child, starts, sizes))
            base += len(child)
        child, starts, sizes = (np.concatenate(part) for part in zip(*parts, strict=True))
        back, out = np.empty(len(order) + 1, np.int32), np.empty(len(wanted), child.dtype)
        listviews.gather_list(child, starts, sizes, sequences.arrival_order(order), back, out)
        assert back.tolist() == offsets.tolist()
        assert out.tobytes() == wanted.tobytes()


def rating_histories(file: Path, cap: int) -> tuple[Array, Array, Array, Array]:
    """Each rating's user, and the items and ratings that the user had given before it: in the order of time."""
    users, items, ratings, times = np.loadtxt(file, skiprows=1, delimiter="\t").T.astype(np.int64)
    order = np.argsort(times, kind="stable")
    past: dict[int, list[tuple[int, int]]] = {}
    rows = []
    for user, item, rating in zip(users[order], items[order], ratings[order], strict=True):
        seen = past.setdefault(int(user), [])
        rows.append(np.array(seen[: -cap - 1 : -1], np.int64).reshape(-1, 2))
        seen.append((int(item), int(rating)))
    pairs = np.concatenate(rows)
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return users[order], offsets, pairs[:, 0].copy(), pairs[:, 1].copy()


def test_real_histories_by_arrival(datasets: Path) -> None:
    users, offsets, items, ratings = rating_histories(datasets / "recsys/ml-100k/ml-100k.inter", 50)
    numbers = sequences.cluster_numbers(pa.array(users))
    order = sequences.clustered_order(numbers)
    layout = sequences.worth_it(offsets, items, numbers, order)
    assert layout is not None
    assert (layout.clustered, layout.oldest_first) == (True, False)
    begins, stored = sequences.ordered(offsets, items, order)
    cuts = np.append(np.arange(0, len(users), 8192), len(users))
    pages = sequences.slide_pages(
        begins, stored, cuts, sequences.restarts(numbers[order]), oldest_first=False
    )
    # One item per rating, and a history again wherever a page cuts a user's chain.
    assert sum(len(page.literals) for page in pages) < len(users) + 50 * len(pages)
    assert sequences.follow_pages(pages, *sequences.ordered(offsets, ratings, order), cuts) is not None


# -- erasure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_users_literals_can_be_blanked_where_they_lie(oldest_first: bool) -> None:
    keys, rows = many_users(120, 6, by_user=True)
    restart = sequences.restarts(sequences.cluster_numbers(pa.array(keys)))
    edits = encoded(rows, restart, oldest_first=oldest_first)
    doomed = keys == 14
    at = sequences.literals_of(edits, doomed)
    literals = edits.literals.copy()
    literals[at] = 0
    values = lists(replace(edits, literals=literals), sum(map(len, rows)))[1]
    ends = np.cumsum([len(row) for row in rows])
    for row, gone, end in zip(rows, doomed, ends, strict=True):
        assert values[end - len(row) : end].tolist() == ([0] * len(row) if gone else row)


def test_half_a_chain_cannot_be_blanked() -> None:
    edits = encoded([[1, 2], [3, 1, 2], [4, 3, 1, 2]])
    for doomed in ([True, False, False], [False, False, True], [False, True, False]):
        with pytest.raises(CannotErase, match="without"):
            sequences.literals_of(edits, np.array(doomed))


@pytest.mark.usefixtures("path")
def test_emptied_rows_leave_no_trace() -> None:
    rows, restart = random_history(9)
    edits = encoded(rows, restart)
    doomed = np.arange(len(rows)) % 3 == 1
    emptied = sequences.without(edits, sum(map(len, rows)), doomed)
    kept = [[] if gone else row for row, gone in zip(rows, doomed, strict=True)]
    assert_comes_back(kept, emptied)
    assert emptied.cap == max(map(len, kept))


# -- without a compiler ------------------------------------------------------------------------------------------------


def test_short_lists_load_no_compiler() -> None:
    code = (
        "import sys, numpy as np\n"
        "from headrace.storage.encodings import alignment, following, listviews, sequence\n"
        "offsets, items = np.array([0, 2, 5]), np.array([7, 8, 9, 7, 8])\n"
        "edits = alignment.encode(offsets, items, np.zeros(2, bool), oldest_first=False)\n"
        "sizes, starts = np.empty(2, np.int32), np.empty(2, np.int32)\n"
        "child = np.empty(sequence.measure(edits, 5, sizes), np.int64)\n"
        "listviews.views(edits, sizes, child, starts)\n"
        "listviews.gather_list(child, starts, sizes, None, np.empty(3, np.int32), np.empty(5, np.int64))\n"
        "following.follow(edits, offsets, items)\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
