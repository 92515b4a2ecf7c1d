"""Whether the links of a table that comes from a checkpoint hold: a chain that leaves it or goes in circles would send a kernel astray.

In the flow: `store` asks once a restore, before any kernel walks what was read.
"""

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding import index
from headrace.streaming.learners.embedding.layout import (
    FREE_BLOCK,
    FREE_ROW,
    LIVE_BLOCKS,
    LIVE_ROWS,
    NONE,
    Arrays,
    Layout,
)
from headrace.streaming.learners.errors import BadCheckpoint


def check(arrays: Arrays, layout: Layout) -> None:
    """Each block is one row's or free, each row live or free, and the index names the live ones. Raises BadCheckpoint."""
    live = np.flatnonzero(arrays.blocks).astype(np.uint32)
    used = _blocks_of(live, arrays, layout.n_blocks)
    free = arrays.free.tolist()
    free_rows = _walk(arrays.head, free[FREE_ROW], layout.rows)
    free_blocks = _walk(arrays.chain, free[FREE_BLOCK], layout.n_blocks)
    found = np.empty(len(live), np.uint32)
    listed = np.sort(arrays.table[arrays.table > 0])
    sound = (
        int(arrays.blocks.max(initial=0)) <= layout.max_blocks
        and free[LIVE_ROWS] == len(live)
        and free[LIVE_BLOCKS] == int(used.sum()) == layout.n_blocks - len(free_blocks)
        and len(free_rows) == layout.rows - 1 - len(live)
        and not arrays.blocks[0]
        and not arrays.blocks[free_rows].any()
        and not used[free_blocks].any()
        and np.array_equal(listed, live)
    )
    if sound:
        index.find(arrays.table, arrays.keys, arrays.keys[live], found)
    if not sound or not np.array_equal(found, live):
        raise BadCheckpoint("rows, blocks and index do not belong together; go back to an earlier checkpoint")


def _blocks_of(live: npt.NDArray[np.uint32], arrays: Arrays, n_blocks: int) -> npt.NDArray[np.bool_]:
    """Which blocks are in a chain of one of the rows `live`. Raises BadCheckpoint where one is in two, or outside the table."""
    used = np.zeros(n_blocks, bool)
    at = arrays.head[live].astype(np.int64)
    for place in range(int(arrays.blocks.max(initial=0))):
        here = at[arrays.blocks[live] > place]
        if (here >= n_blocks).any() or used[here].any() or len(np.unique(here)) != len(here):
            raise BadCheckpoint("a row's chain of blocks leaves the table or meets another row's")
        used[here] = True
        at = np.where(arrays.blocks[live] > place, arrays.chain[np.minimum(at, n_blocks - 1)], at)
    return used


def _walk(links: npt.NDArray[np.uint32], start: int, n: int) -> npt.NDArray[np.int64]:
    """The places of a free list. Raises BadCheckpoint where it leaves the array or does not end."""
    found: list[int] = []
    at = start
    while at != NONE:
        if not 0 <= at < n or len(found) >= n:
            raise BadCheckpoint("a list of free places leaves the table or goes in circles")
        found.append(at)
        at = int(links[at])
    return np.array(found, np.int64)
