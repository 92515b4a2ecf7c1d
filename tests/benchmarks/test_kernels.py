"""The kernels that are measured are the ones the store calls, and return what was encoded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.kernels import KERNELS
from benchmarks.runners.kernels_ours import Kernel, kernels
from headrace.storage.encodings import _jit


@pytest.fixture(scope="module")
def small() -> dict[str, Kernel]:
    return kernels(out_bytes=8 * 1_024, seed=0)


def test_the_table_has_a_row_for_each(small: dict[str, Kernel]) -> None:
    assert tuple(small) == KERNELS


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_returns_what_was_encoded(
    small: dict[str, Kernel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Interpreted: what is tested here is what the table asks, not the compiler.
    monkeypatch.setattr(_jit.Kernel, "__call__", lambda self, *args: _jit._wrapping(self.function)(*args))
    kernel = small[name]
    kernel.out[:] = 0
    kernel.call()
    assert np.array_equal(kernel.out, kernel.expected)
