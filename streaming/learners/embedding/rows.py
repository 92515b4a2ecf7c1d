"""Kernels that give ids rows, note their touches and take them away, many at once: the free list of rows, their blocks and index entries.

In the flow: below `store`, which has chosen who comes and who goes. A row that is given up keeps nothing but its generation, so that
the next id to have it starts without the optimiser's or anybody's memory.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.blocks import grow, shrink
from headrace.streaming.learners.embedding.index import insert, remove
from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def admit(arrays: Any, keys: Any, now: Any, values: Any, bits: Any) -> None:
    """A row and a block of `values: float32[n, 8]` for each of absent `keys: uint64[n, 2]`, while there are any."""
    none = np.int64(0xFFFFFFFF)
    for at in range(keys.shape[0]):
        row = arrays.free[0]
        if row == none or arrays.free[1] == none:
            arrays.free[7] += 1
            continue
        arrays.free[0] = arrays.head[row]
        arrays.free[2] += 1
        arrays.free[6] += 1
        arrays.keys[row, 0] = keys[at, 0]
        arrays.keys[row, 1] = keys[at, 1]
        arrays.seen[row] = now
        grow(arrays, row, values[at], bits[at], arrays.free[4])
        insert(arrays.table, arrays.keys, row)


@kernel
def touch(arrays: Any, rows: Any, now: Any, half_life: Any) -> None:
    """Count one touch more for each of `rows: uint32[n]`, after their counts have aged until `now`; row 0 has none."""
    for at in range(rows.shape[0]):
        row = rows[at]
        if row == 0:
            continue
        since = now - arrays.seen[row]
        if since > 0.0:
            arrays.touches[row] = np.float32(np.float64(arrays.touches[row]) * np.exp2(-since / half_life))
            arrays.seen[row] = now
        arrays.touches[row] += np.float32(1.0)


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
        arrays.head[row] = np.uint32(arrays.free[0])
        arrays.free[0] = row
        arrays.free[2] -= 1
        arrays.free[5] += 1
