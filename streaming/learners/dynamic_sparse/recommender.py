"""`DSLRecommender`: who will want what, learnt from a stream of interactions inside a budget of bytes; River's verbs, Arrow's rows.

In the flow: `jobs/train_recommender.py` feeds it micro-batches, notebooks feed it frames. Users and items share one
`EmbeddingStore`, so that blocks move to whoever pays for them. `budget_bytes` is a contract: weights, optimiser state, index, names and
pairs seen, together, are allocated once and never exceed it; scratch for the batch at hand is not counted.

Bad events (no user, no item; a time or a label that is no finite number) are counted in `n_refused` and learn nothing. A step that would leave the finite numbers raises Diverged, and
the table stays as it was. A score is a dot product; `predict_proba_many` squashes it and calibrates nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from river import base

from headrace.streaming.learners.columns import number, numbers, second, seconds
from headrace.streaming.learners.dynamic_sparse import kernels, state
from headrace.streaming.learners.dynamic_sparse.explore import Explorer
from headrace.streaming.learners.dynamic_sparse.schedule import Schedule
from headrace.streaming.learners.dynamic_sparse.state import ITEM, USER
from headrace.streaming.learners.embedding.keys import is_whole_number, keys_of
from headrace.streaming.learners.embedding.layout import Code, Layout
from headrace.streaming.learners.embedding.names import Names
from headrace.streaming.learners.embedding.seen import SeenPairs
from headrace.streaming.learners.embedding.store import EmbeddingStore
from headrace.streaming.learners.errors import BadId, BudgetTooSmall, Diverged, WrongFeatures

USER_TOUCHES: Final = 8
"""What an interaction counts for its user's row, where it counts 1 for its item's: who has no row is told what everybody likes, while
an item without one is only not recommended."""
U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


class DSLRecommender(base.MiniBatchClassifier):
    """Matrix factorisation whose rows have as many 8-wide blocks as they are worth.

    Args:
        budget_bytes: for everything that outlives a batch.
        user, item, time: names of the columns. Without `time`, an interaction is a unit of time.
        rows: ids that may have a row at once; by default so many that each can have about 256 bytes, or all of `max_blocks` where that is less.
        max_blocks: of 8 weights, in one row.
        first_blocks: of a new row, while there are free ones; by default as many as there are for each row.
        filter_newcomers: give a row that is in use only to who has been met more often than whom it is taken from. It pays where the same
            ids come again and again; on a stream with far fewer rows than ids, users would leave none to items.
        code: how weights are stored: "fp32", "bf16" or "int8".
        lr, reg: Adagrad's rate, and the L2 penalty of every row touched.
        negatives: items sampled against each one wanted; 1 is BPR, more is a sampled softmax.
        schedule: when and how much blocks move; None leaves them where they are.
        admit_after, ttl, half_life, floor: see `EmbeddingStore`.
        seen_bytes, name_bytes: parts of the budget, for pairs that have met (4 bytes each) and for names of items that are not whole
            numbers; a sixteenth of the budget each by default. 0 for `name_bytes` where all items are whole numbers.

    Raises BudgetTooSmall.

    >>> model = DSLRecommender(budget_bytes=100_000, admit_after=1, seed=1)
    >>> for user in range(20):
    ...     for item in ("tea", "milk") if user % 2 else ("wine", "cheese"):
    ...         model.learn_one({"user_id": user, "item_id": item}, True)
    >>> model.nbytes <= 100_000, sorted(model.recommend_many([1], k=2, exclude_seen=False)[0])
    (True, ['milk', 'tea'])
    """

    def __init__(
        self,
        budget_bytes: int = 64 << 20,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = None,
        rows: int | None = None,
        max_blocks: int = 8,
        first_blocks: int | None = None,
        filter_newcomers: bool = False,
        code: Code = "fp32",
        lr: float = 0.05,
        reg: float = 0.02,
        negatives: int = 8,
        schedule: Schedule | None = Schedule(),  # noqa: B008  # frozen
        admit_after: int = 2,
        ttl: float | None = None,
        half_life: float = float("inf"),
        floor: int = 1,
        seen_bytes: int | None = None,
        name_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        if negatives < 1 or not lr > 0 or not reg >= 0:
            raise ValueError(f"expected negatives >= 1, lr > 0, reg >= 0, came {negatives}, {lr}, {reg}")
        self.budget_bytes, self.user, self.item, self.time = budget_bytes, user, item, time
        self.rows, self.max_blocks, self.first_blocks, self.code = rows, max_blocks, first_blocks, code
        self.filter_newcomers = filter_newcomers
        self.lr, self.reg, self.negatives, self.schedule = lr, reg, negatives, schedule
        self.admit_after, self.ttl, self.half_life, self.floor = admit_after, ttl, half_life, floor
        self.seen_bytes, self.name_bytes, self.seed = seen_bytes, name_bytes, seed
        share = max(0, budget_bytes) // 16
        self._seen = SeenPairs(share if seen_bytes is None else seen_bytes)
        named = share if name_bytes is None else name_bytes
        left = budget_bytes - self._seen.nbytes - named
        if left <= 0:
            raise BudgetTooSmall(
                f"expected more than {self._seen.nbytes + named} bytes for pairs seen and names alone, came {budget_bytes}; "
                "grant more bytes, or set seen_bytes and name_bytes"
            )
        layout = Layout.within(left, rows, max_blocks=max_blocks, code=code, counted=filter_newcomers)
        self._names = Names(named, layout.rows)
        self._store = EmbeddingStore(
            layout,
            budget_bytes=left,
            admit_after=admit_after,
            first_blocks=-(-layout.n_blocks // layout.rows) if first_blocks is None else first_blocks,
            ttl=ttl,
            half_life=half_life,
            floor=floor,
            seed=seed,
        )
        self._explorer = Explorer(schedule if schedule is not None else Schedule())
        self._random = np.array([seed & (2**64 - 1)], np.uint64)
        self.now = 0.0
        self.n_learned = 0
        self.n_refused = 0
        self.n_unnamed = 0

    @property
    def nbytes(self) -> int:
        """Bytes held by everything that outlives a batch; never more than `budget_bytes`."""
        return self._store.nbytes + self._seen.nbytes + self._names.nbytes

    @property
    def store(self) -> EmbeddingStore:
        """The table, to look at: rows, blocks, counts."""
        return self._store

    @property
    def explorer(self) -> Explorer:
        """How often blocks moved, and how many alarms there were."""
        return self._explorer

    def learn_one(self, x: dict[Any, Any], y: Any = True) -> None:
        """Learn one interaction: `x` has a user and an item, `y` says whether it was wanted."""
        when = x.get(self.time) if self.time is not None else None
        self._learn_loose([x.get(self.user)], [x.get(self.item)], [y], None if when is None else [when])

    def learn_many(self, X: pd.DataFrame, y: pd.Series | None = None) -> None:
        """Learn a frame of interactions in order; without `y`, all of them were wanted. Raises WrongFeatures."""
        self._must_have(X.columns)
        labels = np.ones(len(X), bool) if y is None else y.to_numpy()
        times = None if self.time is None else X[self.time].to_list()
        self._learn_loose(X[self.user].to_list(), X[self.item].to_list(), labels.tolist(), times)

    def learn_arrow(
        self, batch: pa.RecordBatch, label: str | None = None, negatives: str | None = None
    ) -> None:
        """Learn the rows of an Arrow batch in order; dictionaries are hashed once an entry, numbers are not copied.

        label: column of numbers or booleans, above 0 where the item was wanted; all were where none is named.
        negatives: column of lists of items, sampled elsewhere. Raises WrongFeatures where a column is absent or of another kind.
        """
        self._must_have(batch.schema.names)
        for name in (label, negatives):
            if name is not None and name not in batch.schema.names:
                raise WrongFeatures(f"expected a column {name!r}, came {', '.join(batch.schema.names)}")
        labels = np.ones(len(batch)) if label is None else numbers(batch, label)
        times = None if self.time is None else seconds(batch, self.time)
        whole = np.isfinite(labels) if times is None else np.isfinite(labels) & np.isfinite(times)
        for name in (self.user, self.item):
            whole &= batch.column(name).is_valid().to_numpy(False)
        if not whole.all():
            self.n_refused += int((~whole).sum())
            batch, labels = batch.filter(pa.array(whole)), labels[whole]
            times = None if times is None else times[whole]
        users, items = batch.column(self.user), batch.column(self.item)
        try:
            user_keys, item_keys = keys_of(users, USER), keys_of(items, ITEM)
        except BadId:
            # One bad id in a batch must not cost the others: they are taken one by one.
            stamps = None if times is None else times.tolist()
            self._learn_loose(users.to_pylist(), items.to_pylist(), labels.tolist(), stamps)
            return
        given = None if negatives is None else batch.column(negatives)
        self._learn(user_keys, item_keys, items, _wanted(labels), times, given)

    def _learn_loose(
        self, users: Sequence[Any], items: Sequence[Any], labels: Sequence[Any], times: Sequence[Any] | None
    ) -> None:
        """Python values, some of which may be no ids, labels or times."""
        scores = np.array([number(label) for label in labels])
        stamps = np.zeros(len(users)) if times is None else np.array([second(time) for time in times])
        kept: list[int] = []
        keys: list[Any] = []
        for at in np.flatnonzero(np.isfinite(scores) & np.isfinite(stamps)).tolist():
            try:
                keys.append((keys_of([users[at]], USER), keys_of([items[at]], ITEM)))
            except BadId:
                continue
            kept.append(at)
        self.n_refused += len(users) - len(kept)
        if not kept:
            return
        self._learn(
            np.concatenate([user for user, _ in keys]),
            np.concatenate([item for _, item in keys]),
            [items[at] for at in kept],
            _wanted(scores[kept]),
            None if times is None else stamps[kept],
            None,
        )

    def _learn(self, user_keys: Any, item_keys: Any, names: Any, labels: Any, times: Any, given: Any) -> None:
        """Learn whole rows: keys `uint64[n, 2]`, labels `uint8[n]`, times `float64[n]`; `given`: lists of negatives."""
        n = len(user_keys)
        if not n:
            return
        self.now = max(self.now, float(times.max())) if times is not None else self.now + n
        store = self._store
        users = store.locate_keys(user_keys, self.now, weight=USER_TOUCHES)
        items = self._locate_items(item_keys, names, users)
        drawn = self._negatives(users, given)
        together = np.concatenate([users, items, drawn.ravel()])
        rows, places = np.unique(together, return_inverse=True)
        scratch = kernels.Scratch(
            store.gather(rows),
            store.arrays.blocks[rows].astype(np.int64) * 8,
            store.arrays.square[rows],
            store.arrays.gain[rows],
        )
        losses = np.zeros(n, np.float32)
        ranked = np.column_stack([places[n : 2 * n], places[2 * n :].reshape(n, -1)]).astype(np.int64)
        rates = np.array([self.lr, self.reg], np.float32)
        kernels.learn(scratch, places[:n].astype(np.int64), ranked, labels, losses, rates)
        if not all(np.isfinite(part).all() for part in (scratch.weights, scratch.square, losses)):
            raise Diverged(
                f"expected finite weights after a batch of {n} interactions, came infinite ones or NaN; the batch was not learnt and the "
                f"table is as it was: lower lr (now {self.lr}) or raise reg (now {self.reg})"
            )
        store.scatter(rows, scratch.weights)
        store.arrays.square[rows], store.arrays.gain[rows] = scratch.square, scratch.gain
        wanted = labels > 0
        self._seen.add(users[wanted], items[wanted], store.arrays.generation)
        self.n_learned += n
        self._explorer.watch(float(losses.mean()), n)
        if self.schedule is not None and self._explorer.is_due():
            self._explorer.explore(store, self.now)
            store.expire(self.now)
            self._names.drop_stale(store.arrays.generation)
        store.check()

    def _locate_items(self, keys: Any, names: Any, users: U32) -> U32:
        """Rows of the items; those that are new and not whole numbers are named, or sent away where the name does not fit."""
        before = self._store.counts["admitted"]
        items = self._store.locate_keys(keys, self.now, keep=users)
        generations = self._store.arrays.generation
        self._names.drop_stale(generations)
        if self._store.counts["admitted"] == before:
            return items
        rows, first = np.unique(items, return_index=True)
        nameless = (rows > 0) & ~is_whole_number(keys[first], ITEM)
        for row, at in zip(rows[nameless].tolist(), first[nameless].tolist(), strict=True):
            if len(self._names.head) and self._names.has(row):
                continue
            value = names[at].as_py() if isinstance(names, pa.Array) else names[at]
            if not len(self._names.head) or not self._names.put(row, value, int(generations[row])):
                self._store.evict([row])
                self.n_unnamed += 1
                items[items == row] = 0
        return items

    def _negatives(self, users: U32, given: Any) -> U32:
        """Rows of K items for each of `users: uint32[n]`, `uint32[n, K]`; row 0 where there is nothing to draw from."""
        if given is not None:
            flat = given.flatten()
            sizes = given.value_lengths().fill_null(0).to_numpy(False)
            most = int(sizes.max(initial=0))
            found = self._store.rows_of(flat, ITEM)
            drawn = np.zeros((len(users), max(1, most)), np.uint32)
            drawn[np.arange(most) < sizes[:, None]] = found
            return drawn
        drawn = np.zeros((len(users), self.negatives), np.uint32)
        pool = self._store.rows_in(ITEM)
        if len(pool):
            kernels.draw_negatives(
                pool, users, self._seen.table, self._store.arrays.generation, self._random, drawn
            )
        return drawn

    def _must_have(self, columns: Any, *, timed: bool = True) -> None:
        needed = [self.user, self.item, *([self.time] if timed and self.time is not None else [])]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise WrongFeatures(
                f"expected the columns {', '.join(needed)}; {', '.join(missing)} is not there"
            )

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """How likely the user of `x` wants its item, as {False: …, True: …}; 0.5 where one of them is unknown."""
        frame = pd.DataFrame([{self.user: x.get(self.user), self.item: x.get(self.item)}])
        p = float(self.predict_proba_many(frame)[True].iloc[0])
        return {False: 1.0 - p, True: p}

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Columns False and True for each row of `X`, whose index is kept. Raises WrongFeatures."""
        self._must_have(X.columns, timed=False)
        users = self._store.known_rows(X[self.user].to_list(), USER)
        items = self._store.known_rows(X[self.item].to_list(), ITEM)
        width = self.max_blocks
        scores = np.einsum("nd,nd->n", self._store.gather(users, width), self._store.gather(items, width))
        p = 1.0 / (1.0 + np.exp(-scores.astype(np.float64)))
        return pd.DataFrame({False: 1.0 - p, True: p}, index=X.index)

    def recommend_many(self, users: Any, k: int = 10, exclude_seen: bool = True) -> list[list[Any]]:
        """The `k` items with the highest scores for each of `users`, best first; fewer where there are fewer.

        exclude_seen: leave out what the user is remembered to have wanted (`seen_bytes` say how much is remembered).
        Users without a row get the items most often touched of late.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, came {k}")
        rows, items = self._store.known_rows(list(users), USER), self._store.rows_in(ITEM)
        if not len(items):
            return [[] for _ in rows]
        weights = self._store.gather(items, self.max_blocks)
        popular = self._store.aged_touches(self.now)[items]
        found = []
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            scores = self._store.gather(part, self.max_blocks) @ weights.T  # (B, D) x (D, I) -> (B, I)
            scores[part == 0] = popular
            if exclude_seen:
                scores[self._seen.met(part, items, self._store.arrays.generation)] = -np.inf
            for row in scores:
                order = np.argsort(-row, kind="stable")[:k]
                found.append([self._item(int(items[at])) for at in order if row[at] > -np.inf])
        return found

    def _item(self, row: int) -> Any:
        return self._names.id_of(row, self._store.arrays.keys[row], ITEM)

    def forget(self, user: Any = None, item: Any = None) -> bool:
        """Clear a user or an item: its row, its first sighting, its name, whom it has met. What others learnt beside it stays.

        True where there was a row. Raises BadId.
        """
        had = False
        for value, field in ((user, USER), (item, ITEM)):
            if value is None:
                continue
            row = int(self._store.rows_of([value], field)[0])
            if row:
                self._seen.forget(row, self._store.arrays.generation)
            had |= self._store.forget(value, field)
        self._names.drop_stale(self._store.arrays.generation)
        return had

    def to_bytes(self) -> bytes:
        """Everything, to the last bit; see `state`."""
        return state.dump(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DSLRecommender":
        """The recommender that `to_bytes` wrote; it goes on as if it had never been away. Raises BadCheckpoint."""
        model: DSLRecommender = state.load(cls, data)
        return model

    def save(self, path: Path | str) -> None:
        """Write everything to one file, whole or not at all."""
        state.write(self, path)

    @classmethod
    def load(cls, path: Path | str) -> "DSLRecommender":
        """The recommender of a file. Raises BadCheckpoint, FileNotFoundError."""
        return cls.from_bytes(Path(path).read_bytes())


def _wanted(labels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Which labels say that an item was wanted, as the kernel has it."""
    return (labels > 0).astype(np.uint8)
