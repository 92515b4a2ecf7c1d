"""The order of a dictionary's entries: kernel, twin and the definition agree, with the JIT off too."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.storage.encodings import ranking

MANY = ranking.FEW + 1


def sorted_by_definition(numbers: NDArray[np.unsignedinteger]) -> list[int]:
    return sorted(range(len(numbers)), key=lambda at: (int(numbers[at]), at))


def ranked(numbers: NDArray[np.unsignedinteger], *, compiled: bool) -> list[int]:
    order, other = (np.empty(len(numbers), np.uint32) for _ in range(2))
    counts = np.zeros((-(-8 * numbers.itemsize // 11), 2048), np.uint32)
    (ranking._rank if compiled else ranking._rank_numpy)(numbers, counts, order, other)
    return order.tolist()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@settings(max_examples=60, deadline=None)  # a kernel compiles at its first call
@given(data=st.data())
def test_smallest_first_and_equals_as_they_stand(data: st.DataObject, dtype: str, compiled: bool) -> None:
    top = np.iinfo(dtype).max
    few = st.sampled_from([0, 1, 2047 % (top + 1), 2048 % (top + 1), top - 1, top])
    numbers = np.array(data.draw(st.lists(few | st.integers(0, top), min_size=1, max_size=60)), dtype)
    assert ranked(numbers, compiled=compiled) == sorted_by_definition(numbers)


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8"])
@pytest.mark.parametrize("span", [1, 2000, 1 << 16, 1 << 31, 1 << 63])
def test_many_numbers(dtype: str, span: int) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, min(span, np.iinfo(dtype).max), 2 * MANY, dtype)
    assert ranking.ascending(numbers).tolist() == np.argsort(numbers, kind="stable").tolist()
    assert ranking.ascending(numbers[::-1]).tolist() == np.argsort(numbers[::-1], kind="stable").tolist()


def test_none_and_one() -> None:
    assert ranking.ascending(np.empty(0, np.uint64)).tolist() == []
    assert ranking.ascending(np.array([7], np.uint64)).tolist() == [0]


def test_it_runs_without_the_compiler() -> None:
    script = """
import numpy as np
from headrace.storage.encodings import _jit, ranking
_jit.prefer_kernels()
numbers = np.random.default_rng(0).integers(0, 1 << 40, ranking.FEW + 9, np.uint64)
assert (ranking.ascending(numbers) == np.argsort(numbers)).all()
assert ranking._rank.ready
"""
    subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True, timeout=120
    )
