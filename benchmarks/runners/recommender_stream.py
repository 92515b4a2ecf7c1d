"""One recommender on the drifting stream: each batch's interactions are ranked among all items that are there, then learnt.

All contestants have the same bytes, the same kernel, the same negatives a step; they differ in what an id's row is:
ours (exact, admitted, evicted, blocks that move), `first` (exact rows until they are gone, one shared row for the rest),
`hashed` (rows shared by hash), `hotcold` (own rows for the ids met most, shared ones for the rest; after CAFE, arXiv 2312.03256).
"""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.data.drifting import World
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.dynamic_sparse import kernels
from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
from headrace.streaming.learners.dynamic_sparse.schedule import Schedule
from headrace.streaming.learners.embedding.keys import keys_of
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.store import EmbeddingStore

BATCH, RANKED, TOP = 4_000, 100, 20
NEGATIVES = 8
HOT = 0.9
"""Best of 0.5, 0.7 and 0.9 on two beginnings that are not shown, as is a width of 64 (of 16, 32 and 64)."""


class Ours:
    """`DSLRecommender` in `budget_bytes`."""

    def __init__(self, args: Args) -> None:
        self.model = DSLRecommender(
            args["budget_bytes"],
            code=args["code"],
            lr=args["lr"],
            reg=args["reg"],
            negatives=NEGATIVES,
            admit_after=args["admit_after"],
            half_life=args["half_life"],
            name_bytes=0,
            seen_bytes=0,
            schedule=Schedule(every=20_000, start=args["start"], **args.get("schedule", {})),
        )

    @property
    def nbytes(self) -> int:
        return self.model.nbytes

    def scores(self, users: Any, items: Any) -> Any:
        store = self.model.store
        rows, columns = store.rows_of(users, 0), store.rows_of(items, 1)
        found = store.gather(rows, 8) @ store.gather(columns, 8).T
        found[rows == 0] = store.aged_touches(self.model.now)[
            columns
        ]  # as `recommend_many` answers whom it does not know
        return found

    def learn(self, users: Any, items: Any) -> None:
        self.model.learn_arrow(pa.record_batch({"user_id": users, "item_id": items}))


class Fixed:
    """A dense table of `width`, whose rows are given out by `_rows`; negatives are drawn from the items of the last batches."""

    def __init__(self, args: Args) -> None:
        self._args = args
        width, self._n = args["width"], self._sized(args)
        rng = np.random.default_rng(0)
        self._random = rng
        self._table = rng.normal(0, 0.1, (self._n, width)).astype(np.float32)
        self._square, self._gain = np.zeros(self._n, np.float32), np.zeros(self._n, np.float32)
        self._wide = np.full(self._n, width, np.int64)
        self._pool = np.zeros(0, np.int64)

    def _sized(self, args: Args) -> int:
        return int(args["budget_bytes"] // (4 * args["width"] + 4))

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + self._square.nbytes

    def _rows(self, ids: Any, field: int, admit: bool) -> Any:
        """Hashing: modulo of a mixed key."""
        mixed = keys_of(ids, field)
        h = (mixed[:, 0] + np.array([field + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        return ((h ^ (h >> np.uint64(31))) % np.uint64(self._n)).astype(np.int64)

    def scores(self, users: Any, items: Any) -> Any:
        return self._table[self._rows(users, 0, False)] @ self._table[self._rows(items, 1, False)].T

    def learn(self, users: Any, items: Any) -> None:
        u, i = self._rows(users, 0, True), self._rows(items, 1, True)
        self._pool = np.unique(np.concatenate([self._pool[-20_000:], i]))
        drawn = self._pool[self._random.integers(0, len(self._pool), (len(u), NEGATIVES))]
        scratch = kernels.Scratch(self._table, self._wide, self._square, self._gain)
        rates = np.array([self._args["lr"], self._args["reg"]], np.float32)
        losses, labels = np.zeros(len(u), np.float32), np.ones(len(u), np.uint8)
        kernels.learn(scratch, u, np.column_stack([i, drawn]), labels, losses, rates)


class First(Fixed):
    """Exact rows for whoever comes first; an index of 16 bytes of key and 6 of slots a row is counted."""

    def __init__(self, args: Args) -> None:
        self._index: dict[tuple[int, int], int] = {}
        super().__init__(args)

    def _sized(self, args: Args) -> int:
        return int(args["budget_bytes"] // (4 * args["width"] + 4 + 22))

    @property
    def nbytes(self) -> int:
        return super().nbytes + 22 * self._n

    def _rows(self, ids: Any, field: int, admit: bool) -> Any:
        index = self._index
        if admit:
            for value in np.unique(ids).tolist():
                if len(index) < self._n - 1:
                    index.setdefault((value, field), len(index) + 1)
        return np.array([index.get((value, field), 0) for value in ids.tolist()], np.int64)


class HotCold(Fixed):
    """`HOT` of the rows are exact, for the ids met most lately, the others shared; who is hot is kept by the exact index."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        self._hot = int(HOT * self._n)
        self._store = EmbeddingStore(
            Layout(self._hot, self._hot, 1, "int8"), admit_after=2, half_life=args["half_life"], seed=0
        )
        self._now, self._generation = 0.0, np.zeros(self._hot, np.uint32)

    def _sized(self, args: Args) -> int:
        n = super()._sized(args)
        while n * (4 * args["width"] + 4) + _index_bytes(int(HOT * n)) > args["budget_bytes"]:
            n -= 50
        return n

    @property
    def nbytes(self) -> int:
        return super().nbytes + _index_bytes(self._hot)

    def _rows(self, ids: Any, field: int, admit: bool) -> Any:
        cold = self._hot + super()._rows(ids, field, admit) % (self._n - self._hot)
        if admit:
            self._now += len(ids)
            hot = self._store.locate(ids, field, self._now).astype(np.int64)
            changed = np.flatnonzero(self._store.arrays.generation != self._generation)
            self._square[changed] = 0.0
            self._generation = self._store.arrays.generation.copy()
            place = np.unique(hot, return_index=True)[1]
            new = place[(hot[place] > 0) & (self._square[hot[place]] == 0)]
            self._table[hot[new]] = self._table[cold[new]]  # a migrating id takes along what it shared
            self._square[hot[new]] = 1e-6
        else:
            hot = self._store.rows_of(ids, field).astype(np.int64)
        return np.where(hot > 0, hot, cold)


def _index_bytes(rows: int) -> int:
    """Of an exact index; its table's own one-block weights are not used and not counted."""
    return Layout(rows, rows, 1, "int8").nbytes - rows * 16


KINDS: dict[str, Any] = {"ours": Ours, "first": First, "hashed": Fixed, "hotcold": HotCold}


class Stream(Runner):
    """Predict, score, learn, from the first event to the last."""

    def __init__(self, args: Args) -> None:
        self._args = args

    def run(self) -> Result:
        args = self._args
        model = KINDS[args["kind"]](args)
        events, most = args["events"], 0
        broken, size, most_ranked = args.get("broken"), args.get("soon", 0), args.get("ranked", RANKED)
        hits, gains, ranked = 0.0, 0.0, 0
        soon = np.zeros(2)  # hits and ranked in the first events after the break
        learn_s, resident = 0.0, []
        process = psutil.Process()
        for number, (users, items, there) in enumerate(
            World(args["seed"], broken=broken).batches(events, BATCH)
        ):
            if number and number % 5 == 0:
                asked, wanted = users[:most_ranked], items[:most_ranked]
                scores = model.scores(asked, there)
                order = np.argsort(there, kind="stable")
                scores = scores[:, order]
                own = scores[np.arange(len(asked)), np.searchsorted(there[order], wanted)]
                # Ties count half, so that a row shared by many is not worth more than a guess.
                better = (scores > own[:, None]).sum(1) + ((scores == own[:, None]).sum(1) - 1) / 2
                hits += float((better < TOP).sum())
                gains += float((1.0 / np.log2(better[better < TOP] + 2.0)).sum())
                ranked += len(asked)
                if broken is not None and broken <= number * BATCH < broken + size:
                    soon += float((better < TOP).sum()), len(asked)
            began = time.process_time()
            model.learn(users, items)
            learn_s += time.process_time() - began
            most = max(most, model.nbytes)
            if number % 25 == 0 and number * BATCH >= events // 5:
                gc.collect()
                resident.append((number * BATCH / 1e6, float(process.memory_info().rss)))
        slope = 0.0
        if len(resident) > 2:
            at, rss = np.array(resident).T
            slope = float(np.polyfit(at, rss, 1)[0] / rss.mean() * 100.0)
        values = {
            "recall": hits / ranked,
            "ndcg": gains / ranked,
            "rate": events / learn_s,
            "bytes": float(most),
        }
        if broken is not None:
            values |= {"soon": float(soon[0] / soon[1]), "alarms": float(model.model.explorer.alarms)}
        over = max(0.0, float(most) - args["budget_bytes"])
        return Result(
            values | {"over_budget": over, "rss_percent_per_million": slope, "ranked": float(ranked)}
        )


if __name__ == "__main__":
    serve(Stream)
