"""Rows are scaled before anything learns from them, so that one learning rate fits every stream.

Dense rows: each value becomes a z-score by Welford's running mean and variance *including the row itself* (x is known when
it is predicted; y is not), clipped to 4 standard deviations and divided by the root of the number of features. Sparse rows:
sign(v) log(1 + |v|), and the row is divided by its Euclidean norm. Predicting keeps nothing: only `keep=True` moves the means.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

CLIP = 4.0


class Moments(NamedTuple):
    """Per feature, float64[D]: how many values, their mean, and their summed squared deviations."""

    n: Any
    mean: Any
    m2: Any


def new_moments(features: int) -> Moments:
    return Moments(np.zeros(features), np.zeros(features), np.zeros(features))


@kernel
def scale_dense(index: Any, value: Any, moments: Any, known: int, keep: bool, out: Any) -> None:
    """Fill `out: float32[m]` with the scaled `value: float64[m]` of the features `index: int32[m]`."""
    root = math.sqrt(max(known, 1))
    for at in range(len(index)):
        i, v = index[at], value[at]
        n = moments.n[i] + 1.0
        delta = v - moments.mean[i]
        mean = moments.mean[i] + delta / n
        m2 = moments.m2[i] + delta * (v - mean)
        deviation = math.sqrt(m2 / n)
        z = 0.0
        if deviation > 1e-12:
            z = min(max((v - mean) / deviation, -4.0), 4.0)
        out[at] = z / root
        if keep:
            moments.n[i], moments.mean[i], moments.m2[i] = n, mean, m2


@kernel
def scale_sparse(value: Any, out: Any) -> None:
    """Fill `out: float32[m]` with the damped `value: float64[m]`, of norm 1 unless all are 0."""
    total = 0.0
    for at in range(len(value)):
        v = math.copysign(math.log1p(abs(value[at])), value[at])
        total += v * v
    norm = math.sqrt(total)
    for at in range(len(value)):
        v = math.copysign(math.log1p(abs(value[at])), value[at])
        out[at] = v / norm if norm > 0.0 else 0.0
