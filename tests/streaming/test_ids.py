"""Finding ids: exact, whatever their hashes and types."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming import ids as ids_module
from headrace.streaming.ids import IdIndex, micros, plain

values = st.lists(st.none() | st.text("ab", max_size=3), max_size=20)


@settings(deadline=None)
@given(held=values, needles=values)
def test_pairs_are_those_of_a_double_loop(held, needles):
    expected = [(n, r) for n, a in enumerate(needles) for r, b in enumerate(held) if a is not None and a == b]
    needle, row = IdIndex(pa.array(held, pa.string())).pairs(pa.array(needles, pa.string()))
    assert list(zip(needle.tolist(), row.tolist(), strict=True)) == expected


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch):
    monkeypatch.setattr(ids_module, "hash_values", lambda array: np.zeros(len(array), dtype=np.uint64))
    needle, row = IdIndex(pa.array(["a", "b", "a"])).pairs(pa.array(["b", "c", "a"]))
    assert list(zip(needle.tolist(), row.tolist(), strict=True)) == [(0, 1), (2, 0), (2, 2)]


@pytest.mark.parametrize(
    ("held", "needles"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["b"], pa.large_string())),
        (pa.array(["a", "b"], pa.string_view()), pa.array(["b"]).dictionary_encode()),
        (pa.array([1, 2], pa.int32()), pa.array([2], pa.int64())),
    ],
)
def test_the_types_of_the_two_columns_may_differ(held, needles):
    needle, row = IdIndex(held).pairs(needles)
    assert (needle.tolist(), row.tolist()) == ([0], [1])
    assert not pa.types.is_dictionary(plain(held).type)


def test_event_times_are_microseconds():
    assert micros(pa.array([1, 2], pa.timestamp("ms", "UTC"))).tolist() == [1000, 2000]
    assert micros(pa.array([5], pa.timestamp("us"))).tolist() == [5]
    assert micros(pa.array([5], pa.int64())).tolist() == [5]
    with pytest.raises(ValueError, match="1 of 2 event times are null"):
        micros(pa.array([1, None], pa.timestamp("us")))
