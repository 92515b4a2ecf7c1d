"""How fast a recommender learns in batches of 4,096, and how fast a catalogue of 100,000 items is scored; one thread."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.runners.protocol import Args, Result, Runner, quickest, serve
from headrace.streaming.learners.dynamic_sparse.backbones import MatrixFactorisation
from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
from headrace.streaming.learners.embedding.export import pack
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.store import EmbeddingStore

BATCH, USERS, ITEMS, WIDTH, BATCHES = 4_096, 50_000, 50_000, 64, 25
QUERIES, CATALOGUE = 64, 100_000


def _batches(seed: int) -> list[Any]:
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.2, (2, BATCHES, BATCH)) % np.array([USERS, ITEMS])[:, None, None]
    return [pa.record_batch({"user_id": u, "item_id": i}) for u, i in zip(users, items, strict=True)]


class TrainOurs(Runner):
    """`DSLRecommender` with `share` of the blocks of a dense table; ids are looked up, admitted, sampled against, all included."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        rows = USERS + ITEMS + 1
        blocks = max(rows, int(args["share"] * rows * WIDTH / 8))
        budget = Layout(rows, blocks, 8, args["code"], "adagrad", 2**16).nbytes + 4 * rows
        self._model = DSLRecommender(
            budget,
            rows=rows,
            code=args["code"],
            admit_after=1,
            name_bytes=0,
            seen_bytes=0,
            negatives=args["negatives"],
        )
        self._batches = _batches(0)
        for batch in self._batches[:3]:
            self._model.learn_arrow(batch)

    def run(self) -> Result:
        began = time.process_time()
        for batch in self._batches:
            self._model.learn_arrow(batch)
        spent_s = time.process_time() - began
        values = {"rate": BATCHES * BATCH / spent_s, "bytes": float(self._model.nbytes)}
        return Result(values | {"over": float(self._model.nbytes > self._model.budget_bytes)})


class TrainDense(Runner):
    """A dense table of 64 in torch under Adam, dense as the papers' programs have it, or with gradients of the batch's rows alone."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        sparse = args["optimiser"] == "SparseAdam"
        self._model: Any = MatrixFactorisation(USERS, ITEMS, WIDTH)
        self._table = torch.nn.Embedding.from_pretrained(self._model.table.data, freeze=False, sparse=sparse)
        options = {} if sparse else {"fused": True}  # the fastest that torch has of each
        self._optimiser = getattr(torch.optim, args["optimiser"])(
            self._table.parameters(), lr=1e-3, **options
        )
        self._batches = _batches(0)
        self._step(self._batches[0])

    def _step(self, batch: Any) -> None:
        users, items = (torch.from_numpy(column.to_numpy()) for column in batch.columns)
        others = torch.randint(ITEMS, users.shape)
        self._optimiser.zero_grad()
        u, i, j = self._table(users), self._table(USERS + items), self._table(USERS + others)
        torch.nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean().backward()
        self._optimiser.step()

    def run(self) -> Result:
        began = time.process_time()
        for batch in self._batches:
            self._step(batch)
        spent_s = time.process_time() - began
        weights = self._table.weight.numel()
        return Result({"rate": BATCHES * BATCH / spent_s, "bytes": 12.0 * weights})


class Score(Runner):
    """64 users against 100,000 items: packed blocks, or a dense matrix."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        random = torch.Generator().manual_seed(0)
        queries = torch.randn(QUERIES, WIDTH, generator=random)
        if args["what"] == "dense":
            table = torch.randn(CATALOGUE, WIDTH, generator=random)
            self._call = lambda: queries @ table.T
            self._bytes = table.numel() * 4
            return
        blocks = max(CATALOGUE + 1, int(args["share"] * CATALOGUE * WIDTH / 8))
        store = EmbeddingStore(Layout(CATALOGUE + 1, blocks), admit_after=1)
        rows = store.locate(np.arange(CATALOGUE), 1, 1.0)
        # Popular items have more: the first ones all eight, as long as there are blocks.
        free = blocks - store.live_blocks
        for _ in range(7):
            free -= store.give(rows[: min(len(rows), free // 7 + 1)])
        packed = pack(store, rows)
        self._call = lambda: packed.score(queries)
        self._bytes = packed.nbytes

    def run(self) -> Result:
        return Result({"s": quickest(self._call, 30), "bytes": float(self._bytes)})


KINDS: dict[str, Any] = {"ours": TrainOurs, "dense": TrainDense, "score": Score}

if __name__ == "__main__":
    serve(lambda args: KINDS[args["kind"]](args))
