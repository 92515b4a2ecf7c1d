"""The one loop of the click model that cannot be vectorised: row by row, each step seeing the one before.

Algorithm 1 (per-coordinate FTRL-Proximal) of McMahan et al., "Ad click prediction: a view from the trenches",
KDD 2013. The interpreted functions are the definition; `ftrl_learn` compiles them with numba at the first call (the
compiled code is cached beside this file), so importing this module neither imports numba nor compiles.
Floats are stored as float32 and computed with as float64 (`np.float64`: numba's `float` keeps a float32 as it is),
without reordering or fused operations.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Rates = tuple[float, float, float, float]
Learn = Callable[[Any, Any, Any, Any, Any, Any, Rates], None]


def learn_rows(ids: Any, labels: Any, offsets: Any, z: Any, n: Any, weights: Any, rates: Rates) -> None:
    """Learn `ids: uint32[rows, F]` with `labels: uint8[rows]` in order, in place; the interpreted twin.

    offsets: float64[rows], logits to start from. z, n, weights: float32[2**bits + 1]; the last place is the bias, which every row has and no l1 shrinks.
    rates: (alpha, beta, l1, l2). An id that stands twice in a row counts twice in its logit and learns twice.
    """
    alpha, beta, l1, l2 = rates
    rows, width = ids.shape
    bias = weights.shape[0] - 1
    for row in range(rows):
        logit = offsets[row] + np.float64(weights[bias])
        for place in range(width):
            logit += np.float64(weights[ids[row, place]])
        if logit >= 0.0:
            p = 1.0 / (1.0 + math.exp(-logit))
        else:
            e = math.exp(logit)
            p = e / (1.0 + e)
        gradient = p - np.float64(labels[row])
        for place in range(width + 1):
            i = bias
            penalty = 0.0
            if place < width:
                i = ids[row, place]
                penalty = l1
            before = math.sqrt(np.float64(n[i]))
            n[i] = np.float64(n[i]) + gradient * gradient
            # Read back as stored: once n is too large for float32 to grow, the rate stops falling and z stays true.
            root = math.sqrt(np.float64(n[i]))
            z[i] = np.float64(z[i]) + gradient - (root - before) / alpha * np.float64(weights[i])
            pull = np.float64(z[i])
            if abs(pull) <= penalty:
                weights[i] = 0.0
            else:
                shrunk = pull - math.copysign(penalty, pull)
                weights[i] = -shrunk / ((beta + root) / alpha + l2)


@functools.cache
def ftrl_learn() -> Learn:
    """`learn_rows`, compiled: the same arguments, the same results to the last bit."""
    import numba

    # No nopython signature, so nothing compiles before the first row; no fastmath, so no sum is reordered.
    compiled: Learn = numba.njit(cache=True, nogil=True)(learn_rows)
    return compiled
