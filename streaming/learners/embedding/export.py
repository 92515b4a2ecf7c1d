"""Rows of a table for a reader: packed by number of blocks, as CSR, or as one int8 matrix with a scale a row.

In the flow: after learning. `pack` is what scoring uses; CSR is for who has sparse tools; int8 for who has none of either. Each is
a copy: the table may learn on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding.layout import WIDTH
from headrace.streaming.learners.embedding.store import EmbeddingStore

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Packed:
    """Rows grouped by how many blocks they have, groups ascending.

    rows: uint32[n], which row stands where. groups: of n_g rows with g blocks, `float32[n_g, 8 * g]`, fp32 whatever the table's code.
    """

    rows: U32
    groups: tuple[F32, ...]

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + sum(group.nbytes for group in self.groups)

    def score(self, queries: Any) -> Any:
        """Dot products of torch `queries: float32[B, D]` with every row, `float32[B, n]`, D at least as wide as any row."""
        import torch

        out = torch.empty((len(queries), len(self.rows)), dtype=torch.float32)
        start = 0
        for group in self.groups:
            n, wide = group.shape
            # (B, 8 * g) x (8 * g, n_g) -> (B, n_g)
            out[:, start : start + n] = queries[:, :wide] @ torch.from_numpy(group).T
            start += n
        return out


def pack(store: EmbeddingStore, rows: U32) -> Packed:
    """`rows: uint32[n]`, live, packed; ascending within a group."""
    blocks = store.arrays.blocks[rows]
    order, groups = [], []
    for n in np.unique(blocks):
        group = np.sort(rows[blocks == n])
        order.append(group)
        groups.append(store.gather(group, int(n)))
    return Packed(np.concatenate(order) if order else np.zeros(0, np.uint32), tuple(groups))


def to_csr(store: EmbeddingStore, rows: U32) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], F32]:
    """`indptr: int64[n + 1]`, `indices: int32[z]`, `data: float32[z]`: as scipy's csr_array and torch's sparse_csr_tensor take them."""
    blocks = store.arrays.blocks[rows].astype(np.int64)
    dense = store.gather(rows)
    held = np.arange(dense.shape[1]) < (blocks * WIDTH)[:, None]
    indptr = np.concatenate([[0], np.cumsum(blocks * WIDTH)])
    return indptr, np.nonzero(held)[1].astype(np.int32), dense[held]


def to_int8(store: EmbeddingStore, rows: U32) -> tuple[npt.NDArray[np.int8], F32]:
    """`int8[n, D]` and a scale for each row, `float32[n]`; rounded to nearest, off by half a scale at most."""
    dense = store.gather(rows)
    scale = (np.abs(dense).max(axis=1, initial=0.0) / 127.0).astype(np.float32)
    safe = np.where(scale > 0, scale, np.float32(1.0))
    return np.rint(dense / safe[:, None]).astype(np.int8), scale
