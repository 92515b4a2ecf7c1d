"""A seeded sample of a stream of unknown length, for the second opinion on the gate.

In the flow: beside the gate, on the executors. Each row draws a rank from (seed, partition, offset, row); the rows with the
lowest ranks are kept, so the choice does not depend on how rows were cut into batches, and a replayed batch picks the same
ones. Rejected rows rank 0 and are always kept.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

RANK = "_rank"

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def ranks(
    seed: int, partition: int, offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """One pseudo-random rank ≥ 1 per row: splitmix64 over (seed, partition, offset, row within the message).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
    """
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64
        x = offsets.astype(np.uint64) + np.uint64(partition + 1) * _GOLDEN + np.uint64(seed) * _MIX[0]
        x = x + rows.astype(np.uint64) * _MIX[1] + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX[0]
        x = (x ^ (x >> np.uint64(27))) * _MIX[1]
        return np.maximum(x ^ (x >> np.uint64(31)), np.uint64(1))


class LowestRanks:
    """Keeps the ``rows`` lowest-ranked rows of all batches added, and every row of rank 0.

    Memory is bounded by twice the rows it keeps.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._kept: list[pa.RecordBatch] = []
        self._pending = 0
        self._rejected = 0
        self._limit = np.uint64(2**64 - 1)

    def add(self, batch: pa.RecordBatch) -> None:
        """Offer the rows of ``batch``; it has a column ``_rank`` of uint64."""
        below = batch.filter(pc.less_equal(batch.column(RANK), pa.scalar(self._limit.item(), pa.uint64())))
        if below.num_rows:
            self._kept.append(below)
            self._pending += below.num_rows
        if self._pending > 2 * (self._rows + self._rejected):
            self._shrink()

    def table(self) -> pa.Table | None:
        """The sample in order of rank, or ``None`` where nothing was added."""
        if not self._kept:
            return None
        self._shrink()
        return pa.Table.from_batches(self._kept)

    def _shrink(self) -> None:
        table = pa.Table.from_batches(self._kept)
        order = np.argsort(table.column(RANK).to_numpy(), kind="stable")
        self._rejected = int(np.count_nonzero(table.column(RANK).to_numpy() == 0))
        kept = order[: self._rejected + self._rows]
        if len(order) > len(kept):
            self._limit = np.uint64(table.column(RANK)[int(kept[-1])].as_py())
        self._kept = table.take(pa.array(kept)).combine_chunks().to_batches()
        self._pending = len(kept)
