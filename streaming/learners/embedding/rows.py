"""Kernels that give ids rows, note their touches and take them away, many at once: the free list of rows, their blocks and index entries.

In the flow: below `store`, which has chosen who comes and who goes. A row that is given up keeps nothing but its generation, so that
the next id to have it starts without the optimiser's or anybody's memory.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.blocks import grow, shrink, write
from headrace.streaming.learners.embedding.index import insert, remove
from headrace.streaming.learners.embedding.layout import (
    ADMITTED,
    DRAWS,
    EVICTED,
    FREE_BLOCK,
    FREE_ROW,
    LIVE_BLOCKS,
    LIVE_ROWS,
    NONE,
    REFUSED,
)
from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def admit(arrays: Any, keys: Any, touches: Any, now: Any, values: Any, bits: Any) -> None:
    """A row and a block for each of absent `keys: uint64[n, 2]` while there are any; up to `m` of `values: float32[n, 8 * m]` if they suffice.

    touches: float32[n], those that they bring with them.
    """
    places = np.full((keys.shape[0], values.shape[1] // 8), NONE, np.uint32)
    for at in range(keys.shape[0]):
        row = arrays.free[FREE_ROW]
        if row == NONE or arrays.free[FREE_BLOCK] == NONE:
            arrays.free[REFUSED] += 1
            continue
        arrays.free[FREE_ROW] = arrays.head[row]
        arrays.free[LIVE_ROWS] += 1
        arrays.free[ADMITTED] += 1
        arrays.keys[row, 0] = keys[at, 0]
        arrays.keys[row, 1] = keys[at, 1]
        arrays.seen[row] = now
        arrays.touches[row] = touches[at]
        places[at, 0] = grow(arrays, row)
        for place in range(1, places.shape[1]):
            # Only what those behind do not need for their first.
            if arrays.chain.shape[0] - arrays.free[LIVE_BLOCKS] > keys.shape[0] - 1 - at:
                places[at, place] = grow(arrays, row)
        insert(arrays.table, arrays.keys, row)
    write(arrays, places, values, bits, arrays.free[DRAWS])


@kernel
def give(arrays: Any, rows: Any, values: Any, bits: Any, most: Any) -> Any:
    """Append a block of `values: float32[n, 8]` to each of distinct `rows: uint32[n]` with fewer than `most`; how many got one."""
    places = np.full((rows.shape[0], 1), NONE, np.uint32)
    given = 0
    for at in range(rows.shape[0]):
        row = rows[at]
        if arrays.free[FREE_BLOCK] == NONE:
            break
        if 0 < arrays.blocks[row] < most:
            places[at, 0] = grow(arrays, row)
            arrays.young[row] = 1
            given += 1
    write(arrays, places, values, bits, arrays.free[DRAWS])
    return given


@kernel
def take_back(arrays: Any, rows: Any) -> Any:
    """Give back the last block of each of distinct `rows: uint32[n]` that has two or more; how many were given back."""
    taken = 0
    for at in range(rows.shape[0]):
        row = rows[at]
        if arrays.blocks[row] >= 2:
            shrink(arrays, row)
            arrays.young[row] = 0
            taken += 1
    return taken


@kernel
def touch(arrays: Any, rows: Any, now: Any, half_life: Any, weight: Any) -> None:
    """Count `weight` touches more for each of `rows: uint32[n]`, after their counts have aged until `now`; row 0 has none."""
    for at in range(rows.shape[0]):
        row = rows[at]
        if row == 0:
            continue
        since = now - arrays.seen[row]
        if since > 0.0:
            arrays.touches[row] = np.float32(np.float64(arrays.touches[row]) * np.exp2(-since / half_life))
            arrays.seen[row] = now
        arrays.touches[row] += np.float32(weight)


@kernel
def evict(arrays: Any, rows: Any) -> None:
    """Give up live `rows: uint32[n]`, each named once."""
    for at in range(rows.shape[0]):
        row = rows[at]
        remove(arrays.table, arrays.keys, row)
        while arrays.blocks[row] > 0:
            shrink(arrays, row)
        arrays.keys[row, 0] = 0
        arrays.keys[row, 1] = 0
        arrays.seen[row] = 0.0
        arrays.touches[row] = 0.0
        arrays.gain[row] = 0.0
        arrays.square[row] = 0.0
        arrays.young[row] = 0
        arrays.generation[row] += np.uint32(1)
        arrays.head[row] = np.uint32(arrays.free[FREE_ROW])
        arrays.free[FREE_ROW] = row
        arrays.free[LIVE_ROWS] -= 1
        arrays.free[EVICTED] += 1
