"""Kernels between the table and torch: rows read as inputs and context sums, gradients summed by row, one lazy Adam step.

In the flow: below `table`. A row's first blocks are its embedding; a context field's row has more behind them, its context values,
which are summed over the fields of an event with a factor each. No sort: a batch's distinct rows are listed in the order of their
first occurrence, with their place noted in a scratch as long as the table. Adam's sums for a row are `embedding.moments`'s.
"""

from typing import Any, Final

import numpy as np

from headrace.streaming.learners.embedding.index import mix
from headrace.streaming.learners.embedding.keys import ABSENT
from headrace.streaming.learners.embedding.moments import adam_rate, adam_weight
from headrace.streaming.learners.hashing import GOLDEN, NULL
from headrace.streaming.learners.ihomer.jit import kernel

TOP: Final = np.uint64(1 << 63)


@kernel
def look_up(arrays: Any, rows: Any, own: Any, factors: Any, x: Any, sums: Any) -> None:
    """Read `rows: uint32[B, F + X]`. x: float32[B, F * 8 * own], zero, the embeddings; sums: float32[B, S], zero.

    own: blocks of an embedding. factors: float32[F + X, S], what a field's context values count; a field of zeros has none. The last
    X fields, crosses, have context values alone.
    """
    n, fields = rows.shape
    wide, embedded = sums.shape[1], x.shape[1] // (8 * own)
    for at in range(n):
        for field in range(fields):
            row = rows[at, field]
            block = arrays.head[row]
            first = own if field < embedded else 0
            for place in range(arrays.blocks[row]):
                if place < first:
                    start = 8 * (field * own + place)
                    for lane in range(8):
                        x[at, start + lane] = arrays.fp32[block, lane]
                else:
                    start = 8 * (place - first)
                    if start + 8 <= wide:
                        for lane in range(8):
                            sums[at, start + lane] += factors[field, start + lane] * arrays.fp32[block, lane]
                block = arrays.chain[block]


@kernel
def cross(keys: Any, places: Any, into: Any) -> None:
    """Into `keys: uint64[B, F + X, 2]`, at place `into`, the key of the ids at `places: int64[m]` taken together; absent where one is.

    Both words of every id go through SplitMix64's finaliser (see `hashing`), in two chains of 64 bits.
    """
    for at in range(keys.shape[0]):
        low, high = np.uint64(GOLDEN), np.uint64(NULL)
        field = np.uint64(into)
        for place in places:
            if keys[at, place, 1] == ABSENT:
                field = ABSENT
                break
            for word in range(2):
                low = np.uint64(mix(low ^ keys[at, place, word]))
                high = np.uint64(mix(high + low))
        keys[at, into, 0] = np.uint64(0) if field == ABSENT else low
        # As the key of a text: the top bit says that it is no whole number, the last eight are the field.
        keys[at, into, 1] = ABSENT if field == ABSENT else (high & ~np.uint64(255)) | TOP | field


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
    embedded = x_gradient.shape[1] // lanes
    for at in range(n):
        for field in range(fields):
            into = total[place[rows[at, field]] - 1]
            first = 0
            if field < embedded:
                first = lanes
                own_gradient = x_gradient[at, field * lanes : (field + 1) * lanes]
                for lane in range(lanes):
                    into[lane] += own_gradient[lane]
            if wide and factors[field, 0] != 0.0:
                context, factor, gradient = into[first:], factors[field], sums_gradient[at]
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
        rate = adam_rate(arrays.square, row, rates, corrected)
        block = arrays.head[row]
        for at_block in range(arrays.blocks[row]):
            start = 8 * at_block
            if start + 8 > total.shape[1]:
                break
            for lane in range(8):
                arrays.fp32[block, lane], arrays.first[block, lane], arrays.second[block, lane] = adam_weight(
                    arrays.fp32[block, lane],
                    arrays.first[block, lane],
                    arrays.second[block, lane],
                    total[at, start + lane],
                    rate,
                    rates[1],
                    rates[2],
                )
            block = arrays.chain[block]


@kernel
def any_short(blocks: Any, rows: Any, places: Any, full: Any) -> Any:
    """Whether a row at `places: int64[m]` of `rows: uint32[B, F + X]` has some blocks, but fewer than `full`."""
    for at in range(rows.shape[0]):
        for place in places:
            held = blocks[rows[at, place]]
            if 0 < held < full:
                return True
    return False


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
