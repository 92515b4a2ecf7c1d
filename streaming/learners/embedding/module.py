"""The table as a torch module: rows looked up forward, their gradients kept backward, one sparse optimiser's step at the end.

In the flow: under any model that is written in torch (the click model, LightGCN). No dense gradient and no dense moment ever exists: what is
kept between `backward` and `step` is as large as the batch. Adagrad by row; Adam by weight, lazily: a row that a batch does not touch
does not move, and its moments do not decay (as torch's SparseAdam).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headrace.streaming.learners.embedding import moments
from headrace.streaming.learners.embedding.store import EmbeddingStore


class BlockEmbedding(nn.Module):
    """Rows of `store` as vectors of `8 * store.layout.max_blocks`, zero beyond a row's blocks.

    lr: the optimiser's rate; which optimiser is the store's layout's. betas: Adam's.
    """

    def __init__(
        self, store: EmbeddingStore, lr: float = 0.05, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__()
        self.store, self.lr, self.betas = store, lr, betas
        self._waiting: list[tuple[Any, Any]] = []
        # A leaf that asks for gradients, so that autograd calls the look-up's backward; it has no weight.
        self._anchor = torch.zeros((), requires_grad=True)

    def forward(self, rows: Tensor) -> Tensor:
        """Weights of `rows: int64[...]`, `float32[..., 8 * max_blocks]`."""
        found: Tensor = _Lookup.apply(self._anchor, rows, self)
        return found

    def step(self) -> int:
        """Take the optimiser's step with the gradients since the last one; how many rows it touched."""
        if not self._waiting:
            return 0
        every = np.concatenate([rows for rows, _ in self._waiting])
        rows, places = np.unique(every, return_inverse=True)
        gradient = np.zeros((len(rows), self._waiting[0][1].shape[1]), np.float32)
        np.add.at(gradient, places, np.concatenate([values for _, values in self._waiting]))
        self._waiting = []
        store = self.store
        weights = store.gather(rows, store.layout.max_blocks)
        if store.layout.optimiser == "adam":
            rates = np.array([self.lr, *self.betas])
            moments.adam(store.arrays, rows, weights, gradient, rates, moments.corrections(self.betas))
        else:
            moments.adagrad(store.arrays, rows, weights, gradient, np.array([self.lr]))
        store.scatter(rows, weights)
        store.check()
        return len(rows)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, module: BlockEmbedding) -> Tensor:
        flat = rows.reshape(-1).numpy().astype(np.uint32)
        ctx.module, ctx.flat = module, flat
        found = module.store.gather(flat, module.store.layout.max_blocks)
        return torch.from_numpy(found).reshape(*rows.shape, found.shape[1])  # (n, D) -> (..., D)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        values = outputs[0].reshape(len(ctx.flat), -1).numpy()  # (..., D) -> (n, D)
        ctx.module._waiting.append((ctx.flat, np.ascontiguousarray(values, np.float32)))
        return None, None, None
