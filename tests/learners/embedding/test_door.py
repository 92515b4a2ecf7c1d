"""The doorkeeper: who has a row keeps it until somebody is met more often, and nobody is counted who was forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.learners.embedding import door
from headrace.streaming.learners.embedding.keys import keys_of
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.store import EmbeddingStore

NOBODY = 1_000


def full(rows: int = 40, times: int = 3, **options) -> EmbeddingStore:
    """A table that counts, whose every row was met `times` times at event time 1; ids 0, 1, …"""
    store = EmbeddingStore(Layout(rows, 2 * rows, door=256, counted=True), **({"admit_after": 1} | options))
    for _ in range(times):
        assert store.locate(np.arange(rows - 1), 0, 1.0).all()
    return store


def has_row(store: EmbeddingStore, *ids: int) -> list[bool]:
    return (store.rows_of(np.array(ids), 0) > 0).tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=12), max_size=12))
def test_the_one_of_two_that_is_met_more_often_keeps_the_place(batches):
    for sight, leave in ((door.sight, door.leave), (door.sight.function, door.leave.function)):
        place_of = {
            value: int(door.home(*keys_of([value], 0)[0].tolist(), 7)) for value in range(31)
        }  # eight places for thirty ids
        prints, knocks = np.zeros(8, np.uint32), np.zeros(8, np.float32)
        twin: dict[int, tuple[int, int]] = {}  # by place: who, how often
        for batch in batches:
            met = dict(batch)
            expected = []
            for value, times in met.items():
                who, count = twin.get(place_of[value], (value, 0))
                expected.append(count if who == value else 0)
                if who == value:
                    twin[place_of[value]] = (value, count + times)
                elif count > times:
                    twin[place_of[value]] = (who, count - times)
                else:
                    twin[place_of[value]] = (value, times)
            keys, known = keys_of(np.array(list(met), np.int64), 0), np.full(len(met), -1, np.float32)
            sight(prints, knocks, keys, np.array(list(met.values()), np.float32), known)
            assert known.tolist() == expected
            for place in range(8):
                assert knocks[place] == twin.get(place, (0, 0))[1]
        leave(prints, knocks, keys_of(np.arange(31), 0))
        assert not prints.any()
        assert not knocks.any()


def test_a_newcomer_takes_a_row_once_it_was_met_more_often_than_whom_it_pushes_out():
    store = full()
    store.locate(np.arange(1, 39), 0, 1.0)  # 0 has been met three times, the others four
    for _ in range(3):
        assert not store.locate([NOBODY], 0, 1.0)[0]
    assert has_row(store, 0, NOBODY) == [True, False]
    assert store.counts == {"admitted": 39, "evicted": 0, "refused": 3}
    row = store.locate([NOBODY], 0, 1.0)
    assert has_row(store, 0, NOBODY) == [False, True]
    assert store.arrays.touches[row].tolist() == [4.0]
    # 0 lost its row, not its count: met once more it is level with the others, once more again it is ahead.
    assert not store.locate([0], 0, 1.0)[0]
    assert store.locate([0], 0, 1.0)[0]
    assert store.counts == {"admitted": 41, "evicted": 2, "refused": 4}
    store.restore({name: array.copy() for name, array in store.arrays._asdict().items()})


def test_of_many_newcomers_those_met_most_have_the_rows_there_are():
    store = full(times=2)
    store.locate(np.arange(20, 39), 0, 1.0)  # 0 to 19 have been met twice, the others three times
    crowd = np.arange(NOBODY, NOBODY + 30)
    store.locate(np.repeat(crowd, 1 + np.arange(30) % 3), 0, 1.0)  # each once, twice or three times
    assert has_row(store, *crowd) == [at % 3 == 2 for at in range(30)]
    assert has_row(store, *range(20, 39)) == [True] * 19
    assert store.live_rows == 39


def test_what_counts_for_more_has_a_row_sooner():
    store = full()
    assert not store.locate_keys(keys_of([NOBODY], 0), 1.0, weight=3)[0]
    assert store.locate_keys(keys_of([NOBODY + 1], 0), 1.0, weight=4)[0]
    assert store.arrays.touches[store.rows_of([NOBODY + 1], 0)].tolist() == [4.0]


def test_a_row_in_use_is_not_lost_however_seldom_it_was_met():
    store = full(times=1)
    rows = store.locate(np.concatenate([np.arange(39), np.repeat(NOBODY, 9)]), 0, 1.0)
    assert rows[:39].all()
    assert not rows[39:].any()


def test_counts_age_on_both_sides_of_the_door():
    store = full(times=8, half_life=10.0)
    for _ in range(4):
        store.locate([NOBODY], 0, 1.0)
    assert not has_row(store, NOBODY)[0]
    # Two half-lives on, eight touches are worth two, and so are the newcomer's four worth one.
    assert not store.locate([NOBODY], 0, 21.0)[0]
    assert store.locate([NOBODY], 0, 21.0)[0]
    assert store.arrays.touches[store.rows_of([NOBODY], 0)] == pytest.approx(3.0, rel=0.02)


def test_free_rows_are_for_anybody():
    store = full(times=9, ttl=5.0, floor=30)
    assert not store.locate([NOBODY], 0, 2.0)[0]
    assert store.expire(10.0) == 9
    assert store.locate([NOBODY, NOBODY + 1], 0, 10.0).all()


@pytest.mark.parametrize("admit_after", [1, 2])
def test_nothing_is_counted_of_who_was_forgotten(admit_after):
    store = full(admit_after=1)
    store.admit_after = admit_after
    for _ in range(3):
        assert not store.locate([NOBODY], 0, 1.0)[0]
    assert store.arrays.knocks.any()
    assert not store.forget(NOBODY, 0)
    assert not store.arrays.knocks.any()
    assert not store.arrays.door.any()
    for _ in range(3):
        assert not store.locate([NOBODY], 0, 1.0)[0]
    assert store.locate([NOBODY], 0, 1.0)[0]


def test_a_large_table_gives_up_a_few_rows_more_and_gives_them_to_nobody_who_was_met_less():
    rows = 1_024
    store = EmbeddingStore(Layout(rows, rows, door=2_048, counted=True), admit_after=1)
    for times in range(5):
        store.locate(np.arange(times, rows - 1), 0, 1.0)  # 0 once, 1 twice, …, 4 and beyond five times
    assert store.locate([NOBODY * 9] * 6, 0, 1.0).all()
    assert has_row(store, 0, 1, 2, 3, 4) == [False] * 5  # who was pushed out, and a 256th of the rows
    assert store.layout.rows - 1 - store.live_rows == 4
    assert not store.locate(np.repeat(np.arange(90_000, 90_020), 4), 0, 1.0).any()
    assert store.locate(np.repeat([90_000, 3], 2), 0, 1.0).tolist().count(0) == 0
