"""Kernels of the optimisers that touch a batch's rows and no others: Adagrad with one sum a row, Adam with two moments a weight.

In the flow: between `gather` and `scatter`, for models whose gradients come from autograd. Adagrad: Duchi et al., JMLR 2011, with the
mean over a row's weights; Adam: Kingma and Ba, ICLR 2015, algorithm 1, with a step count a row.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel


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
def adam(arrays: Any, rows: Any, weights: Any, gradient: Any, rates: Any) -> None:
    """The same; rates: float64[3], the rate and both betas. The row's step count stands where Adagrad's sum would."""
    for at in range(rows.shape[0]):
        row = rows[at]
        if arrays.blocks[row] == 0:
            continue
        arrays.square[row] += np.float32(1.0)
        steps = np.float64(arrays.square[row])
        rate = rates[0] * np.sqrt(1.0 - rates[2] ** steps) / (1.0 - rates[1] ** steps)
        block = arrays.head[row]
        for place in range(arrays.blocks[row]):
            for lane in range(8):
                g = np.float64(gradient[at, 8 * place + lane])
                first = rates[1] * np.float64(arrays.first[block, lane]) + (1.0 - rates[1]) * g
                second = rates[2] * np.float64(arrays.second[block, lane]) + (1.0 - rates[2]) * g * g
                arrays.first[block, lane] = np.float32(first)
                arrays.second[block, lane] = np.float32(second)
                weights[at, 8 * place + lane] -= np.float32(rate * first / (np.sqrt(second) + 1e-8))
            block = arrays.chain[block]
