"""How far stored values lie from those they were made of: the measuring of lossy encodings, one pass over both.

`headrace.storage.quantise` makes reports of these numbers. The sum of squares is taken in the order of the values in both
paths, since sums of floats depend on it and equal values must give equal files.
"""

from typing import NamedTuple

import numpy as np

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array


class Deviation(NamedTuple):
    """Errors of some values; an error is |stored - value|, infinite where an infinity is not kept."""

    max_abs: float
    max_rel: float
    """Largest error / |value|; infinite for a zero that is not kept."""
    sum_sq: float
    """Over finite errors."""
    overflow: int
    """Numbers beyond the format's largest, and infinities, that come back as another one."""
    n_nan: int
    n_inf: int


_MAX_ABS, _MAX_REL, _SUM_SQ, _OVERFLOW, _NAN, _INF = range(6)


@kernel
def _deviate(values: Array, stored: Array, largest: float, found: Array) -> None:
    """float[n] twice -> float64[6], given zeroed, in the order of `Deviation`."""
    for i in range(np.uint64(len(values))):
        value = np.float64(values[i])
        back = np.float64(stored[i])
        if value != value:
            found[4] += 1.0
            continue
        infinite = abs(value) == np.inf
        if infinite:
            found[5] += 1.0
        if value != back:
            error = abs(back - value)
            relative = np.inf if infinite else np.divide(error, abs(value))
            if error > found[0]:
                found[0] = error
            if relative > found[1]:
                found[1] = relative
            if error < np.inf:
                found[2] += error * error
            if abs(value) > largest:
                found[3] += 1.0


def _deviate_numpy(values: Array, stored: Array, largest: float, found: Array) -> None:
    """The numpy twin of `_deviate`."""
    with np.errstate(all="ignore"):
        exact, back = values.astype(np.float64), stored.astype(np.float64)
        size = np.abs(exact)
        nan, infinite = np.isnan(exact), np.isinf(exact)
        differ = (exact != back) & ~nan
        errors = np.where(differ, np.abs(back - exact), 0.0)
        relative = np.where(differ, np.where(infinite, np.inf, errors / size), 0.0)
        squares = np.where(errors < np.inf, errors * errors, 0.0)
        found[_MAX_ABS] = errors.max(initial=0.0)
        found[_MAX_REL] = relative.max(initial=0.0)
        # `sum` adds in pairs, `accumulate` one after the other as the kernel does.
        found[_SUM_SQ] = np.add.accumulate(squares)[-1] if len(squares) else 0.0
        found[_OVERFLOW] = np.count_nonzero(differ & (size > largest))
        found[_NAN] = np.count_nonzero(nan)
        found[_INF] = np.count_nonzero(infinite)


def deviation(values: Array, stored: Array, largest: float) -> Deviation:
    """Compare float32[n] or float64[n] with what came back, of the same dtype.

    Args:
        values: what was given.
        stored: what a reader gets.
        largest: the largest number of the format between them.

    >>> deviation(np.array([1.0, np.nan]), np.array([1.5, np.nan]), 448.0)
    Deviation(max_abs=0.5, max_rel=0.5, sum_sq=0.25, overflow=0, n_nan=1, n_inf=0)
    """
    found = np.zeros(6)
    pick(len(values), _deviate_numpy, _deviate)(np.ascontiguousarray(values), stored, largest, found)
    max_abs, max_rel, sum_sq, overflow, n_nan, n_inf = found.tolist()
    return Deviation(max_abs, max_rel, sum_sq, int(overflow), int(n_nan), int(n_inf))
