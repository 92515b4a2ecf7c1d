"""Kernels between the table and torch: rows read as inputs and context sums, gradients summed by row, one lazy Adam step.

In the flow: below `table`. A row's first blocks are its embedding; a context field's row has more behind them, its context values,
which are summed over the fields of an event with a factor each. No sort: a batch's distinct rows are listed in the order of their
first occurrence, with their place noted in a scratch as long as the table. Adam's sums for a row are `embedding.moments`'s.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.moments import adam_block, adam_rate
from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def look_up(arrays: Any, rows: Any, own: Any, factors: Any, x: Any, sums: Any) -> None:
    """Read `rows: uint32[B, F]`. x: float32[B, F * 8 * own], zero, the embeddings; sums: float32[B, S], zero.

    own: blocks of an embedding. factors: float32[F, S], what a field's context values count; a field of zeros has none.
    """
    n, fields = rows.shape
    wide = sums.shape[1]
    for at in range(n):
        for field in range(fields):
            row = rows[at, field]
            block = arrays.head[row]
            for place in range(arrays.blocks[row]):
                if place < own:
                    start = 8 * (field * own + place)
                    for lane in range(8):
                        x[at, start + lane] = arrays.fp32[block, lane]
                else:
                    start = 8 * (place - own)
                    if start + 8 <= wide:
                        for lane in range(8):
                            sums[at, start + lane] += factors[field, start + lane] * arrays.fp32[block, lane]
                block = arrays.chain[block]


@kernel
def distinct(rows: Any, place: Any, found: Any) -> Any:
    """How many distinct rows `rows: uint32[m]` has; found: uint32[m] lists them, place: int32[R], zero, has their places plus one."""
    n = 0
    for at in range(rows.shape[0]):
        row = rows[at]
        if place[row] == 0:
            found[n] = row
            n += 1
            place[row] = n
    return n


@kernel
def sum_by_row(
    rows: Any, own: Any, factors: Any, x_gradient: Any, sums_gradient: Any, place: Any, total: Any
) -> None:
    """total: float32[n, 8 * blocks], zero, each distinct row's gradient. The gradients are those of `look_up`'s x and sums."""
    n, fields = rows.shape
    wide, lanes = sums_gradient.shape[1], 8 * own
    for at in range(n):
        for field in range(fields):
            into = total[place[rows[at, field]] - 1]
            own_gradient = x_gradient[at, field * lanes : (field + 1) * lanes]
            for lane in range(lanes):
                into[lane] += own_gradient[lane]
            if wide and factors[field, 0] != 0.0:
                context, factor, gradient = into[lanes:], factors[field], sums_gradient[at]
                for lane in range(wide):
                    context[lane] += factor[lane] * gradient[lane]


@kernel
def step(arrays: Any, rows: Any, total: Any, place: Any, rates: Any, corrected: Any) -> None:
    """One step of Adam for distinct `rows: uint32[n]` with gradients `total: float32[n, D]`; their places are cleared.

    rates: float64[3], the rate and both betas; corrected: their `moments.corrections`.
    """
    for at in range(rows.shape[0]):
        row = rows[at]
        place[row] = 0
        if arrays.blocks[row] == 0:
            continue
        rate = adam_rate(arrays, row, rates, corrected)
        block = arrays.head[row]
        for at_block in range(arrays.blocks[row]):
            start = 8 * at_block
            if start + 8 > total.shape[1]:
                break
            adam_block(arrays, block, total[at, start : start + 8], arrays.fp32[block], rate, rates)
            block = arrays.chain[block]


@kernel
def dense_step(weights: Any, gradient: Any, first: Any, second: Any, steps: Any, rates: Any) -> None:
    """The same for weights that every batch touches, `float32[n]`, with their step count, `int64[1]`."""
    steps[0] += 1
    times = np.float64(steps[0])
    rate = np.float32(rates[0] * np.sqrt(1.0 - rates[2] ** times) / (1.0 - rates[1] ** times))
    keep1, keep2 = np.float32(rates[1]), np.float32(rates[2])
    new1, new2 = np.float32(1.0 - rates[1]), np.float32(1.0 - rates[2])
    tiny = np.float32(1e-8)
    for at in range(weights.shape[0]):
        g = gradient[at]
        first[at] = keep1 * first[at] + new1 * g
        second[at] = keep2 * second[at] + new2 * g * g
        weights[at] -= rate * first[at] / (np.sqrt(second[at]) + tiny)


@kernel
def touch(arrays: Any, rows: Any, now: Any) -> None:
    """Note that `rows: uint32[m]` were met at time `now`: what the store does where counts of touches do not age, without its sort."""
    for at in range(rows.shape[0]):
        row = rows[at]
        if row > 0:
            arrays.touches[row] += np.float32(1.0)
            arrays.seen[row] = max(arrays.seen[row], now)
