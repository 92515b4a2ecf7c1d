"""One recommender on one data set, trained until it no longer improves on the validation part; scored on the test part.

Contestants differ in the table alone where they share a training: "bpr" is torch with Adam, as the papers train; "softmax" is this
project's kernel (row-wise Adagrad, eight negatives, one interaction after the other), which dense tables may have too.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.interactions import Ranking, Sampler, Split, load
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.dynamic_sparse import kernels

PATIENCE = 5
"""Validations without a better one before training ends; one every `every` epochs."""


class Dense:
    """A plain table under this project's training: fp32, or int8 with a scale a row, rounded stochastically after each batch."""

    def __init__(self, split: Split, args: Args) -> None:
        self._split, self._args = split, args
        n, width = split.n_users + split.n_items, args["width"]
        self._random = np.random.default_rng(args["seed"])
        self._table = self._random.normal(0, 0.1, (n, width)).astype(np.float32)
        self._square, self._gain = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self._wide = np.full(n, width, np.int64)
        self._sampler = Sampler(split, args["negatives"], args["seed"])
        self.parameters = n * width
        self.nbytes = n * (width + 4 if args.get("code") == "int8" else 4 * width) + 4 * n

    def epoch(self) -> None:
        users, items, drawn = self._sampler.epoch()
        ranked = np.column_stack([items, drawn]) + self._split.n_users
        rates = np.array([self._args["lr"], self._args["reg"]], np.float32)
        scratch = kernels.Scratch(self._table, self._wide, self._square, self._gain)
        for start in range(0, len(users), self._args["batch"]):
            part = slice(start, start + self._args["batch"])
            n = len(users[part])
            losses, labels = np.zeros(n, np.float32), np.ones(n, np.uint8)
            kernels.learn(scratch, users[part], ranked[part], labels, losses, rates)
            if self._args.get("code") == "int8":
                self._round(np.unique(np.concatenate([users[part], ranked[part].ravel()])))

    def _round(self, rows: Any) -> None:
        scale = np.abs(self._table[rows]).max(1, keepdims=True) / np.float32(127)
        exact = self._table[rows] / np.maximum(scale, np.float32(1e-30))
        down = np.floor(exact)
        down += self._random.random(exact.shape, np.float32) < exact - down
        self._table[rows] = np.clip(down, -127, 127) * scale

    def scores(self, users: Any) -> Any:
        return self._table[users] @ self._table[self._split.n_users :].T


class Hashed(Dense):
    """Rows shared by hash: `rows` of `width` for all users and items."""

    def __init__(self, split: Split, args: Args) -> None:
        super().__init__(split, args)
        n = split.n_users + split.n_items
        self._row = np.random.default_rng(args["seed"] + 1).integers(0, args["rows"], n)
        self.parameters, self.nbytes = args["rows"] * args["width"], args["rows"] * (4 * args["width"] + 4)

    def epoch(self) -> None:
        users, items, drawn = self._sampler.epoch()
        ranked = self._row[np.column_stack([items, drawn]) + self._split.n_users]
        scratch = kernels.Scratch(self._table, self._wide, self._square, self._gain)
        rates = np.array([self._args["lr"], self._args["reg"]], np.float32)
        losses, labels = np.zeros(len(users), np.float32), np.ones(len(users), np.uint8)
        kernels.learn(scratch, self._row[users], ranked, labels, losses, rates)

    def scores(self, users: Any) -> Any:
        return self._table[self._row[users]] @ self._table[self._row[self._split.n_users :]].T


class Blocks:
    """Ours: `DSLRecommender` in `budget_bytes`, or with `blocks` of 8 weights, `per_row` of them for each row there may be.

    options: what else it is made with.
    """

    def __init__(self, split: Split, args: Args) -> None:
        from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
        from headrace.streaming.learners.dynamic_sparse.schedule import Schedule
        from headrace.streaming.learners.embedding.layout import Layout

        self._split, self._args = split, args
        n = len(split.train[0])
        rows = split.n_users + split.n_items + 1
        code = args.get("code", "fp32")
        if "blocks" in args:
            rows = min(rows, -(-args["blocks"] // args["per_row"]))
            widest = Layout.within(1 << 40, rows, code=code, counted=args["options"]["filter_newcomers"])
            budget = replace(widest, n_blocks=args["blocks"]).nbytes
        else:
            budget = args["budget_bytes"]
            one = Layout(1_000, 1_000, 8, code).nbytes // 1_000
            rows = min(rows, int(budget / (one + 10)))
        self.model = DSLRecommender(
            budget_bytes=budget,
            rows=rows,
            code=code,
            lr=args["lr"],
            reg=args["reg"],
            negatives=args["negatives"],
            admit_after=1,
            seen_bytes=0,
            name_bytes=0,
            seed=args["seed"],
            schedule=Schedule(every=max(2_000, n // 4)),
            **args["options"],
        )
        self._sampler = Sampler(split, args["negatives"], args["seed"])
        self.nbytes = self.model.nbytes
        self.parameters = self.model.store.layout.n_blocks * 8

    def epoch(self) -> None:
        import pyarrow as pa

        users, items, drawn = self._sampler.epoch()
        for start in range(0, len(users), self._args["batch"]):
            part = slice(start, start + self._args["batch"])
            n = len(users[part])
            others = pa.ListArray.from_arrays(
                np.arange(n + 1, dtype=np.int32) * drawn.shape[1], drawn[part].ravel()
            )
            batch = pa.record_batch({"user_id": users[part], "item_id": items[part], "others": others})
            self.model.learn_arrow(batch, negatives="others")

    def scores(self, users: Any) -> Any:
        store = self.model.store
        items = store.gather(store.rows_of(np.arange(self._split.n_items), 1), 8)
        return store.gather(store.rows_of(users, 0), 8) @ items.T


class Bpr:
    """torch and Adam: a dense table, or one under a mask."""

    def __init__(self, split: Split, args: Args) -> None:
        import torch

        from headrace.streaming.learners.dynamic_sparse.backbones import LightGCN, MatrixFactorisation
        from headrace.streaming.learners.dynamic_sparse.published import MaskedTables

        torch.set_num_threads(1)
        self._torch, self._args = torch, args
        options = {"seed": args["seed"]}
        shape = (split.n_users, split.n_items, args["width"])
        if args["backbone"] == "LightGCN":
            self._model: Any = LightGCN(*shape, *split.train, **options)
        else:
            self._model = MatrixFactorisation(*shape, **options)
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=args["lr"], fused=True)
        self._sampler = Sampler(split, 1, args["seed"])
        self._mask: Any = None
        steps = -(-len(split.train[0]) // args["batch"])
        table = self._model.table.numel()
        self.parameters, self.nbytes = table, 12 * table
        self._mask_later: Any = None
        if "density" in args:
            masked = partial(
                MaskedTables,
                list(self._model.parameters()),
                args["density"],
                every=max(1, steps * 3 // 2),
                total=steps * args["epochs"],
                seed=args["seed"],
                grow=args.get("grow"),
                begin="magnitude" if "prune_at" in args else "random",
            )
            if "prune_at" in args:
                self._mask_later = masked
            else:
                self._mask = masked()
            self.parameters = round(args["density"] * table)
            self.nbytes = 12 * table + table  # the mask is a byte an entry beside what stays dense
        self._at = 0

    def epoch(self) -> None:
        torch, args = self._torch, self._args
        users, items, drawn = (torch.from_numpy(part) for part in self._sampler.epoch())
        for start in range(0, len(users), args["batch"]):
            part = slice(start, start + args["batch"])
            self._optimiser.zero_grad()
            self._model.loss(users[part], items[part], drawn[part, 0], args["reg"]).backward()
            self._optimiser.step()
            if self._mask is not None:
                self._mask.after_step()
        self._at += 1
        if self._mask_later is not None and self._at == args["prune_at"]:
            self._mask = self._mask_later()

    def scores(self, users: Any) -> Any:
        with self._torch.no_grad():
            return self._model(self._torch.from_numpy(users)).numpy()


class Light:
    """LightGCN over our table: blocks that are there, gradients of autograd, row-wise Adagrad; blocks by how often a node is met."""

    def __init__(self, split: Split, args: Args) -> None:
        import torch

        from headrace.streaming.learners.dynamic_sparse.backbones import LightGCN, pairwise_loss
        from headrace.streaming.learners.embedding.layout import Layout
        from headrace.streaming.learners.embedding.module import BlockEmbedding
        from headrace.streaming.learners.embedding.store import EmbeddingStore

        torch.set_num_threads(1)
        self._torch, self._args, self._split = torch, args, split
        n = split.n_users + split.n_items
        blocks = max(args["blocks"], 2)
        met = np.bincount(np.concatenate([split.train[0], split.n_users + split.train[1]]), minlength=n)
        order = np.argsort(-met, kind="stable")
        held = order[: min(n, blocks - 1)]
        layout = Layout(min(n + 1, blocks), blocks, 8, optimiser="adam")
        store = EmbeddingStore(layout, admit_after=1, seed=args["seed"])
        rows = np.zeros(n, np.int64)
        rows[held] = store.locate(held, 0, 1.0)
        # Users first, then items, from the most met on: a product needs the block on both sides.
        wants = [row for row in rows[order] if row]
        while store.live_blocks < blocks and store.give(
            np.array(wants, np.uint32)[: blocks - store.live_blocks]
        ):
            pass
        self._store, self._rows = store, torch.from_numpy(rows)
        self._embedding = BlockEmbedding(store, lr=args["lr"])
        model = LightGCN(split.n_users, split.n_items, 64, *split.train)
        self._nodes, self._loss = model.propagate, pairwise_loss
        self._sampler = Sampler(split, 1, args["seed"])
        self.parameters, self.nbytes = store.layout.n_blocks * 8, store.nbytes

    def epoch(self) -> None:
        torch, args = self._torch, self._args
        users, items, drawn = (torch.from_numpy(part) for part in self._sampler.epoch())
        items, drawn = items + self._split.n_users, drawn[:, 0] + self._split.n_users
        for start in range(0, len(users), args["batch"]):
            part = slice(start, start + args["batch"])
            table = self._embedding(self._rows)
            triples = users[part], items[part], drawn[part]
            self._loss(self._nodes(table), table, triples, args["reg"]).backward()
            self._embedding.step()

    def scores(self, users: Any) -> Any:
        with self._torch.no_grad():
            table = self._torch.from_numpy(self._store.gather(self._rows.numpy().astype(np.uint32), 8))
            nodes = self._nodes(table)
            return (nodes[users] @ nodes[self._split.n_users :].T).numpy()


KINDS: dict[str, Any] = {"dense": Dense, "hashed": Hashed, "blocks": Blocks, "bpr": Bpr, "light": Light}


class Training(Runner):
    """Train until validation no longer improves; the test scores of the best epoch."""

    def __init__(self, args: Args) -> None:
        self._args = args
        split = load(Path(args["folder"]), args["dataset"])
        self._split = split
        self._valid = Ranking(split, split.valid, [split.train])
        self._test = Ranking(split, split.test, [split.train, split.valid])

    def run(self) -> Result:
        args = self._args
        model = KINDS[args["kind"]](self._split, args)
        best = {"valid": -1.0}
        spent_s, worse, epoch = 0.0, 0, 0
        for epoch in range(1, args["epochs"] + 1):
            began = time.process_time()
            model.epoch()
            spent_s += time.process_time() - began
            if epoch % args["every"] or epoch < args.get("prune_at", 0):
                continue
            valid, _ = self._valid.score(model.scores)
            if valid > best["valid"]:
                recall, ndcg = self._test.score(model.scores)
                best = {"valid": valid, "recall": recall, "ndcg": ndcg, "epoch": float(epoch)}
                worse = 0
            else:
                worse += 1
                if worse >= PATIENCE:
                    break
        ended = {
            "epochs": float(epoch),
            "cpu_s": spent_s,
            "rate": epoch * len(self._split.train[0]) / spent_s,
        }
        return Result(best | ended | {"bytes": float(model.nbytes), "parameters": float(model.parameters)})


if __name__ == "__main__":
    serve(Training)
