"""Late events and duplicates against a twin made of a dict, however a batch is cut into chunks."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.dedupe import SeenIds, separate

events = st.lists(st.tuples(st.none() | st.sampled_from("abcdefgh"), st.integers(0, 60)), max_size=25)


def naive(batches, lateness, horizon):
    """Each row's fate, one event at a time; the watermark moves between batches."""
    seen: list[tuple[str, int]] = []
    watermark, fates = None, []
    for batch in batches:
        for name, time in batch:
            if watermark is not None and time < watermark - lateness:
                fates.append("late")
            elif name is not None and any(
                name == known and (watermark is None or at >= watermark - horizon) for known, at in seen
            ):
                fates.append("duplicate")
            else:
                fates.append("fresh")
                seen.append((name, time))
        times = [time for _, time in batch]
        watermark = max([*times, watermark] if watermark is not None else times, default=watermark)
    return fates


def arrays(rows) -> tuple[pa.Array, pa.Array]:
    names, times = ([row[column] for row in rows] for column in (0, 1))
    return pa.array(names, pa.string()), pa.array(times, pa.timestamp("us", "UTC"))


@settings(deadline=None, max_examples=200)
@given(
    batches=st.lists(events, max_size=5),
    lateness=st.integers(0, 30),
    more=st.integers(0, 20),
    chunk=st.integers(1, 9),
    forget=st.booleans(),
    rebuild=st.booleans(),
)
def test_it_does_what_the_naive_twin_does_however_the_rows_are_cut(
    batches, lateness, more, chunk, forget, rebuild
):
    horizon, watermark, fates, stored = lateness + more, None, [], []
    seen = SeenIds(horizon)
    for batch in batches:
        if rebuild:  # as another executor would, from what is stored
            seen = SeenIds(horizon)
            seen.add(*arrays(stored))
        if forget and watermark is not None:
            seen.forget(watermark)
        for start in range(0, len(batch), chunk):
            rows = batch[start : start + chunk]
            parted = separate(*arrays(rows), watermark_us=watermark, lateness_us=lateness, seen=seen)
            masks = np.stack([parted.fresh, parted.late, parted.duplicate])
            assert (masks.sum(axis=0) == 1).all()
            fates += [("fresh", "late", "duplicate")[place] for place in masks.argmax(axis=0)]
            stored += [row for row, fresh in zip(rows, parted.fresh, strict=True) if fresh]
        times = [time for _, time in batch]
        watermark = max([*times, watermark] if watermark is not None else times, default=watermark)
    assert fates == naive(batches, lateness, horizon)


def test_an_event_that_comes_again_is_recognised_or_late():
    """With ids kept as long as events may be late there is no moment in which a redelivery passes as new."""
    seen = SeenIds(horizon_us=10)
    ids, times = arrays([("x", 100)])
    assert separate(ids, times, watermark_us=None, lateness_us=10, seen=seen).fresh.all()
    for watermark in range(100, 130):
        seen.forget(watermark)
        parted = separate(ids, times, watermark_us=watermark, lateness_us=10, seen=seen)
        assert (parted.duplicate if watermark <= 110 else parted.late).all()


def test_forgetting_lets_go():
    seen = SeenIds(horizon_us=10)
    for start in range(0, 1000, 10):
        seen.add(pa.array([f"e{n}" for n in range(start, start + 10)]), pa.array(range(start, start + 10)))
        seen.forget(start + 9)
        assert len(seen) <= 20
    assert seen.contains(pa.array(["e999", "e989", "e988", "e0"]), 999).tolist() == [True, True, False, False]


def test_ids_kept_for_less_than_events_may_be_late_are_refused():
    with pytest.raises(ValueError, match="a duplicate would pass as new"):
        separate(*arrays([("x", 1)]), watermark_us=None, lateness_us=11, seen=SeenIds(10))
    with pytest.raises(ValueError, match="must not be negative"):
        SeenIds(-1)


def test_ids_may_be_numbers_and_dictionaries():
    seen = SeenIds(5)
    numbers = pa.array([7, 8, 7])
    parted = separate(numbers, pa.array([1, 1, 1]), watermark_us=None, lateness_us=5, seen=seen)
    assert parted.duplicate.tolist() == [False, False, True]
    assert seen.contains(numbers.dictionary_encode(), None).all()
