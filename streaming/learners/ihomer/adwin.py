"""Many ADWINs in a few arrays: is the mean of what comes in still what it was? One per label cluster, one for the whole model.

Bifet and Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007: an exponential histogram of the values
since the last change; every 32 values the window is cut where two parts differ by more than

    sqrt(2/m s^2 ln(2/d')) + 2/(3m) ln(2/d'),   1/m = 1/(n0-4) + 1/(n1-4),   d' = delta / ln n

Like River's, a detector that has cut begins anew with the next value. It is River's `drift.ADWIN` (same constants, same clock; a
test runs both side by side) on plain arrays instead of one object
each, because a checkpoint must hold its state and the learner has hundreds of them. Feed it the loss of each row, not a running
mean of losses, which would hide the change.
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

LEVELS: Final = 40
BUCKETS: Final = 5
"""Buckets of one size before two of them become one of the next."""
DELTA: Final = 0.002


class Adwins(NamedTuple):
    """For each of n detectors: total, spread float64[n, 40*6] by bucket, oldest first; used int64[n, 40] buckets per level;
    state float64[n, 5]: width, sum, variance times width, ticks, 1 where it has just cut."""

    total: Any
    spread: Any
    used: Any
    state: Any


def new_adwins(n: int) -> Adwins:
    """Detectors that have seen nothing."""
    return Adwins(
        np.zeros((n, LEVELS * (BUCKETS + 1))),
        np.zeros((n, LEVELS * (BUCKETS + 1))),
        np.zeros((n, LEVELS), np.int64),
        np.zeros((n, 5)),
    )


def chosen(adwins: Adwins, which: list[int]) -> Adwins:
    """Copies of the detectors `which`, -1 standing for a new one."""
    fresh = new_adwins(len(which))
    for mine, theirs in zip(fresh, adwins, strict=True):
        for at, source in enumerate(which):
            if source >= 0:
                mine[at] = theirs[source]
    return fresh


@kernel
def push(total: Any, spread: Any, used: Any, state: Any, value: float) -> None:
    """Add a value as the newest bucket, and compress."""
    width, mean_sum = state[0], state[1]
    if width > 0.0:
        mean = mean_sum / width
        state[2] += width * (value - mean) * (value - mean) / (width + 1.0)
    state[0] += 1.0
    state[1] += value
    total[used[0]] = value
    spread[used[0]] = 0.0
    used[0] += 1
    level = 0
    while used[level] > 5 and level < 39:
        at, above = level * 6, (level + 1) * 6 + used[level + 1]
        size = float(2**level)
        apart = total[at] / size - total[at + 1] / size
        total[above] = total[at] + total[at + 1]
        spread[above] = spread[at] + spread[at + 1] + size * size * apart * apart / (2.0 * size)
        used[level + 1] += 1
        for k in range(2, used[level]):
            total[at + k - 2], spread[at + k - 2] = total[at + k], spread[at + k]
        used[level] -= 2
        level += 1


@kernel
def drop_oldest(total: Any, spread: Any, used: Any, state: Any) -> None:
    """Take the oldest bucket out of the window."""
    level = 39
    while level > 0 and used[level] == 0:
        level -= 1
    at, size = level * 6, float(2**level)
    state[0] -= size
    state[1] -= total[at]
    if state[0] > 0.0:
        apart = total[at] / size - state[1] / state[0]
        state[2] -= spread[at] + size * state[0] * apart * apart / (size + state[0])
    for k in range(1, used[level]):
        total[at + k - 1], spread[at + k - 1] = total[at + k], spread[at + k]
    used[level] -= 1


@kernel
def cuts_somewhere(total: Any, used: Any, state: Any, delta: float) -> bool:
    """Whether some older part of the window differs from the rest by more than its bound."""
    width, everything = state[0], state[1]
    variance = max(state[2] / width, 0.0)
    log_term = math.log(2.0 * math.log(width) / delta)
    n0 = sum0 = 0.0
    for back in range(40):
        level = 39 - back
        size = float(2**level)
        for k in range(used[level]):
            n0 += size
            sum0 += total[level * 6 + k]
            n1 = width - n0
            if n1 < 5.0:
                return False
            if n0 < 5.0:
                continue
            apart = abs(sum0 / n0 - (everything - sum0) / n1)
            inverse = 1.0 / (n0 - 4.0) + 1.0 / (n1 - 4.0)
            eps = math.sqrt(2.0 * inverse * variance * log_term) + 2.0 / 3.0 * inverse * log_term
            if apart > eps:
                return True
    return False


@kernel
def watch(adwins: Any, values: Any, delta: float, rising: Any) -> None:
    """Feed `values: float64[m, n]` to n detectors, skipping NaN; where a window was cut, `rising: int64[n]` becomes 1 if the mean
    rose and, unless it rose before, -1 if it fell."""
    total, spread, used, state = adwins
    for row in range(len(values)):
        for d in range(values.shape[1]):
            if math.isnan(values[row, d]):
                continue
            if state[d, 4] == 1.0:
                used[d, :] = 0
                state[d, :] = 0.0
            push(total[d], spread[d], used[d], state[d], values[row, d])
            state[d, 3] += 1.0
            if state[d, 3] % 32.0 != 0.0 or state[d, 0] <= 10.0:
                continue
            before = state[d, 1] / state[d, 0]
            changed = False
            while state[d, 0] > 10.0 and cuts_somewhere(total[d], used[d], state[d], delta):
                drop_oldest(total[d], spread[d], used[d], state[d])
                changed = True
            if changed:
                state[d, 4] = 1.0
                if state[d, 1] / state[d, 0] > before:
                    rising[d] = 1
                elif rising[d] == 0:
                    rising[d] = -1
