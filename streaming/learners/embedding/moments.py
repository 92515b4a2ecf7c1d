"""Kernels of the optimisers that touch a batch's rows and no others: Adagrad with one sum a row, Adam with two moments a weight.

In the flow: between `gather` and `scatter`, for models whose gradients come from autograd. Adagrad: Duchi et al., JMLR 2011, with the
mean over a row's weights; Adam: Kingma and Ba, ICLR 2015, algorithm 1, lazily: a row that a batch does not touch does not move. Its step
count stands where Adagrad's sum would. Adam counts in float64 until a number is stored.
"""

from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.ihomer.jit import kernel

CORRECTED: Final = 1 << 16
"""Adam's corrections of so many first steps are looked up: two powers a row cost as much as the rest of its step."""


@cache
def corrections(betas: tuple[float, float]) -> npt.NDArray[np.float64]:
    """sqrt(1 - beta2**t) and 1 - beta1**t by step t, `float64[CORRECTED, 2]`."""
    found = np.empty((CORRECTED, 2))
    correct(found, np.array(betas))
    return found


@kernel
def correct(found: Any, betas: Any) -> None:
    """Fill `corrections`."""
    for t in range(found.shape[0]):
        found[t, 0] = np.sqrt(1.0 - betas[1] ** np.float64(t))
        found[t, 1] = 1.0 - betas[0] ** np.float64(t)


@kernel
def adam_rate(steps: Any, row: Any, rates: Any, corrected: Any) -> Any:
    """Count a step of `row` in `steps: float32[R]`, and its rate in it."""
    steps[row] += np.float32(1.0)
    t = np.int64(steps[row])
    if t < corrected.shape[0]:
        return rates[0] * corrected[t, 0] / corrected[t, 1]
    return rates[0] * np.sqrt(1.0 - rates[2] ** np.float64(t)) / (1.0 - rates[1] ** np.float64(t))


@kernel
def adam_weight(
    weight: Any, first: Any, second: Any, gradient: Any, rate: Any, keep1: Any, keep2: Any
) -> Any:
    """A weight after a step, and its moments: three numbers, since a call that is handed the table costs more than the step."""
    g = np.float64(gradient)
    mean = keep1 * np.float64(first) + (1.0 - keep1) * g
    square = keep2 * np.float64(second) + (1.0 - keep2) * g * g
    moved = weight - np.float32(rate * mean / (np.sqrt(square) + 1e-8))
    return moved, np.float32(mean), np.float32(square)


@kernel
def adagrad(arrays: Any, rows: Any, weights: Any, gradient: Any, rates: Any) -> None:
    """weights, gradient: float32[n, D] of distinct `rows: uint32[n]`; rates: float64[1]. Weights change in place."""
    for at in range(rows.shape[0]):
        row = rows[at]
        wide = 8 * np.int64(arrays.blocks[row])
        if wide == 0:
            continue
        total = 0.0
        for lane in range(wide):
            total += np.float64(gradient[at, lane]) * np.float64(gradient[at, lane])
        arrays.square[row] += np.float32(total / wide)
        rate = rates[0] / np.sqrt(np.float64(arrays.square[row]) + 1e-8)
        for lane in range(wide):
            weights[at, lane] -= np.float32(rate * np.float64(gradient[at, lane]))


@kernel
def adam(arrays: Any, rows: Any, weights: Any, gradient: Any, rates: Any, corrected: Any) -> None:
    """The same; rates: float64[3], the rate and both betas; corrected: their `corrections`."""
    for at in range(rows.shape[0]):
        row = rows[at]
        if arrays.blocks[row] == 0:
            continue
        rate = adam_rate(arrays.square, row, rates, corrected)
        block = arrays.head[row]
        for place in range(arrays.blocks[row]):
            for lane in range(8):
                column = 8 * place + lane
                weights[at, column], arrays.first[block, lane], arrays.second[block, lane] = adam_weight(
                    weights[at, column],
                    arrays.first[block, lane],
                    arrays.second[block, lane],
                    gradient[at, column],
                    rate,
                    rates[1],
                    rates[2],
                )
            block = arrays.chain[block]
