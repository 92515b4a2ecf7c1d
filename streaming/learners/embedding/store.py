"""The embedding table: ids in, rows of blocks out, inside a budget of bytes that no step exceeds.

In the flow: below every learner with embeddings. A batch is `locate`d (admitting ids on their second sighting, where the table counts only
if they were met more often than whom they push out; evicting only rows that the batch does not use), `gather`ed into a dense scratch,
learnt, `scatter`ed back. `give` and `take_back` move blocks between rows, `expire` and `forget` give rows up. Everything that outlives a
batch stands in one `Arrays`, allocated once.

Sources: admission and expiry as in Monolith (arXiv 2209.07663); eviction by aged frequency (LFU with halving), the contest for a row
after TinyLFU (see `door`); a floor on the rows kept, as torchrec's time-to-live has. Generations are the tombstones: a reader that kept
(row, generation) asks `is_current`.
Deliberately absent: sharing of rows by hash. An id without a row reads row 0, which is nobody's.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding import blocks, door, index, links
from headrace.streaming.learners.embedding import rows as kernels
from headrace.streaming.learners.embedding.keys import U64, fields_of, key_of, keys_of
from headrace.streaming.learners.embedding.layout import (
    ADMITTED,
    DRAWS,
    EVICTED,
    FREE_ROW,
    LIVE_BLOCKS,
    LIVE_ROWS,
    NONE,
    REFUSED,
    WIDTH,
    Arrays,
    Layout,
)
from headrace.streaming.learners.errors import BadCheckpoint, BadId, BudgetExceeded

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]
Bool = npt.NDArray[np.bool_]
SHARED: Final = np.uint32(0)
"""The row of ids without one: read, never learnt."""


class EmbeddingStore:
    """Rows of at most `layout.max_blocks` 8-wide blocks for exact ids.

    Args:
        layout: how many rows and blocks; see `Layout.within` for a budget in bytes.
        budget_bytes: what `nbytes` may not exceed at any step; the layout's own bytes by default.
        admit_after: 1 gives an id a row at its first sighting, 2 at its second.
        first_blocks: how many blocks a new row has, as long as there are free ones; one it has in any case.
        ttl: ids not seen for so long are given up by `expire`; in the unit of the event times handed in, as are the next two.
        half_life: an id's count of touches halves in so much time.
        floor: rows that `expire` leaves, whatever their age.
        scale: new weights are N(0, scale**2).

    Raises BudgetExceeded where the layout is larger than the budget.

    >>> store = EmbeddingStore(Layout.within(10_000, rows=50), admit_after=2)
    >>> store.locate(["ann", "bob", "ann"], field=0, now=1.0).tolist(), store.locate(["bob"], field=0, now=2.0).tolist()
    ([1, 0, 1], [2])
    >>> store.nbytes <= 10_000, store.live_rows
    (True, 2)
    """

    def __init__(
        self,
        layout: Layout,
        *,
        budget_bytes: int | None = None,
        admit_after: int = 2,
        first_blocks: int = 1,
        ttl: float | None = None,
        half_life: float = float("inf"),
        floor: int = 1,
        scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        if admit_after not in (1, 2) or not half_life > 0 or (ttl is not None and not ttl > 0):
            raise ValueError(
                f"expected admit_after 1 or 2 and times above 0, came {admit_after}, ttl {ttl}, half_life {half_life}"
            )
        if not 1 <= first_blocks <= layout.max_blocks:
            raise ValueError(f"expected first_blocks from 1 to {layout.max_blocks}, came {first_blocks}")
        self.layout, self.budget_bytes = layout, layout.nbytes if budget_bytes is None else budget_bytes
        if layout.nbytes > self.budget_bytes:
            raise BudgetExceeded(
                f"expected at most {self.budget_bytes} bytes, the layout takes {layout.nbytes}"
            )
        self.admit_after, self.ttl, self.half_life, self.floor = admit_after, ttl, half_life, floor
        self.first_blocks, self.scale = first_blocks, scale
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.arrays = layout.allocate()
        arrays = self.arrays
        arrays.head[:] = np.arange(1, layout.rows + 1)
        arrays.head[-1] = NONE
        arrays.chain[:] = np.arange(1, layout.n_blocks + 1)
        arrays.chain[-1] = NONE
        arrays.free[FREE_ROW] = 1  # row 0 is shared: it has no block, so it reads as zeros and learns nothing

    @property
    def nbytes(self) -> int:
        """Bytes held: weights, optimiser, index and all."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def live_rows(self) -> int:
        """Ids that have a row."""
        return int(self.arrays.free[LIVE_ROWS])

    @property
    def live_blocks(self) -> int:
        """Blocks that belong to rows."""
        return int(self.arrays.free[LIVE_BLOCKS])

    @property
    def counts(self) -> dict[str, int]:
        """Ids admitted, evicted, and refused for want of a row, since the beginning."""
        free = self.arrays.free
        return {
            "admitted": int(free[ADMITTED]),
            "evicted": int(free[EVICTED]),
            "refused": int(free[REFUSED]),
        }

    def check(self) -> None:
        """The contract: bytes within the budget, no block lost or used twice. Called at every step that moves something.

        Raises BudgetExceeded.
        """
        rows, held = self.live_rows, self.live_blocks
        if self.nbytes > self.budget_bytes or held > self.layout.n_blocks or not rows <= held:
            raise BudgetExceeded(
                f"expected at most {self.budget_bytes} bytes and {self.layout.n_blocks} blocks, one for each of {rows} rows, "
                f"came {self.nbytes} bytes and {held} blocks"
            )

    def rows_of(self, ids: Any, field: int) -> U32:
        """The rows of `ids`, `uint32[n]`, 0 for those without; changes nothing. Raises BadId."""
        return self.rows_of_keys(keys_of(ids, field))

    def rows_of_keys(self, keys: U64) -> U32:
        """The same for `keys: uint64[n, 2]`."""
        rows = np.empty(len(keys), np.uint32)
        index.find(self.arrays.table, self.arrays.keys, keys, rows)
        return rows

    def known_rows(self, ids: Sequence[Any], field: int) -> U32:
        """As `rows_of`, for values that may be no ids at all: those have row 0."""
        rows = np.zeros(len(ids), np.uint32)
        for at, value in enumerate(ids):
            try:
                rows[at] = self.rows_of([value], field)[0]
            except BadId:
                continue
        return rows

    def rows_in(self, field: int) -> U32:
        """The live rows of one field, `uint32[n]` ascending."""
        live = (self.arrays.blocks > 0) & (fields_of(self.arrays.keys) == field)
        return np.flatnonzero(live).astype(np.uint32)

    def locate(self, ids: Any, field: int, now: float, keep: U32 | None = None) -> U32:
        """The rows of `ids` in order, `uint32[n]`; ids due for one are admitted, and the rows found are touched.

        now: event time of the batch. keep: further rows of the batch, which must not be evicted.
        Raises BadId, and then nothing has changed.
        """
        return self.locate_keys(keys_of(ids, field), now, keep)

    def locate_keys(self, keys: U64, now: float, keep: U32 | None = None, weight: int = 1) -> U32:
        """The same for `keys: uint64[n, 2]`; each of them counts `weight` touches."""
        rows = self.rows_of_keys(keys)
        if not rows.all():
            absent = keys[rows == 0]
            first, times = np.empty((2, len(absent)), np.int64)
            slots = np.zeros(1 << len(absent).bit_length(), np.int64)
            n = index.tally(absent, slots, first, times)
            new, times = absent[first[:n]], times[:n]
            self._age_knocks(now)
            met, known = (weight * times).astype(np.float32), np.empty(n, np.float32)
            door.sight(self.arrays.door, self.arrays.knocks, new, met, known)
            due = times + (known > 0) >= self.admit_after
            if due.any():
                used = rows if keep is None else np.concatenate([rows, keep])
                self._admit(new[due], known[due], met[due], now, used)
                rows = self.rows_of_keys(keys)
        self.touch(rows, now, weight)
        return rows

    def touch(self, rows: U32, now: float, weight: int = 1) -> None:
        """Note that `rows: uint32[n]` were met at event time `now`, `weight` times as often as they stand there."""
        kernels.touch(self.arrays, rows, float(now), self.half_life, weight)

    def gather(self, rows: U32, width: int | None = None) -> F32:
        """Weights of `rows: uint32[n]` as fresh `float32[n, 8 * m]`, zero beyond a row's own blocks.

        m: `width`, or the most blocks that one of the rows has.
        """
        most = int(self.arrays.blocks[rows].max(initial=0)) if width is None else width
        out = np.zeros((len(rows), WIDTH * max(1, most)), np.float32)
        blocks.gather(self.arrays, rows, out, out.view(np.uint32))
        return out

    def scatter(self, rows: U32, values: F32) -> None:
        """Store `values: float32[n, 8 * m]`, of the shape that `gather` gave, as the weights of distinct `rows: uint32[n]`."""
        values = np.ascontiguousarray(values, np.float32)
        self.arrays.free[DRAWS] += 1
        blocks.scatter(self.arrays, rows, values, values.view(np.uint32), int(self.arrays.free[DRAWS]))

    def aged_touches(self, now: float) -> F64:
        """How often every row was met, `float64[rows]`, aged until `now`."""
        return np.asarray(self.arrays.touches * self._freshness(now))

    def give(self, rows: U32, values: F32 | None = None) -> int:
        """Append a block to each of distinct `rows: uint32[n]` while there are free ones; how many got one.

        values: float32[n, 8], N(0, scale**2) by default. Raises ValueError where there are more or fewer.
        """
        values = self._fresh(len(rows)) if values is None else np.ascontiguousarray(values, np.float32)
        if values.shape != (len(rows), WIDTH):
            raise ValueError(f"expected {WIDTH} weights for each of {len(rows)} rows, came {values.shape}")
        given = int(kernels.give(self.arrays, rows, values, values.view(np.uint32), self.layout.max_blocks))
        self.arrays.free[DRAWS] += 1
        self.check()
        return given

    def take_back(self, rows: U32) -> int:
        """Give back the last block of each of distinct `rows: uint32[n]` that has two or more; how many were given back."""
        taken = int(kernels.take_back(self.arrays, rows))
        self.check()
        return taken

    def least(self, n: int, now: float, spare: U32 | None = None) -> U32:
        """At most `n` rows whose last block is worth least: its norm, less for rows long unseen; young ones never."""
        norms = np.empty(self.layout.rows, np.float32)
        blocks.last_norms(self.arrays, norms)
        norms[self.arrays.young > 0] = np.inf
        if spare is not None:
            norms[spare] = np.inf
        return lowest(norms * (0.5 + self._freshness(now)), n)

    def expire(self, now: float) -> int:
        """Give up rows not seen for `ttl`, oldest first, but leave `floor` of them; how many."""
        if self.ttl is None:
            return 0
        arrays = self.arrays
        old = np.flatnonzero((arrays.blocks > 0) & (arrays.seen < now - self.ttl)).astype(np.uint32)
        old = old[np.argsort(arrays.seen[old], kind="stable")][: max(0, self.live_rows - self.floor)]
        self._evict(old)
        return len(old)

    def forget(self, value: Any, field: int) -> bool:
        """Clear an id's row, its first sighting and every byte learnt from it alone; whether it had a row. Raises BadId."""
        key = np.array([key_of(value, field)], np.uint64)
        row = self.rows_of_keys(key)
        if row[0]:
            self._evict(row)
        door.leave(self.arrays.door, self.arrays.knocks, key)
        return bool(row[0])

    def is_current(self, rows: U32, generations: U32) -> Bool:
        """Whether each of `rows: uint32[n]` still is the id's it was when it had the generation given, `uint32[n]`."""
        current: Bool = (self.arrays.generation[rows] == generations) & (self.arrays.blocks[rows] > 0)
        return current

    def evict(self, rows: Sequence[int]) -> None:
        """Give rows up by number. Raises ValueError for a row that is not live."""
        wanted = np.unique(np.asarray(rows, np.uint32))
        if (self.arrays.blocks[wanted] == 0).any():
            raise ValueError(f"expected live rows, came {wanted[self.arrays.blocks[wanted] == 0].tolist()}")
        self._evict(wanted)

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take over the arrays of a checkpoint, by name. Raises BadCheckpoint where one is absent or of another shape."""
        # Checkpoints from before a table could have them lack arrays that are empty where it has not.
        arrays = {name: mine for name, mine in self.arrays._asdict().items() if not len(mine)} | arrays
        for name, mine in self.arrays._asdict().items():
            found = arrays.get(name)
            if found is None or found.shape != mine.shape or found.dtype != mine.dtype:
                came = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
                raise BadCheckpoint(f"array {name!r}: expected {mine.dtype}{list(mine.shape)}, came {came}")
        self.arrays = Arrays(**{name: np.array(arrays[name]) for name in Arrays._fields})
        links.check(self.arrays, self.layout)

    def _freshness(self, now: float) -> F64:
        """What a touch at each row's last sighting is still worth, 0…1: half after each half-life."""
        since = np.maximum(0.0, now - self.arrays.seen)
        return np.asarray(np.exp2(-since / self.half_life))

    def _admit(self, keys: U64, known: F32, met: F32, now: float, used: U32) -> None:
        """Rows for those of `keys: uint64[n, 2]`, distinct and absent, that win one; the others are counted. `used` rows stay.

        known, met: float32[n], how often they were met before and in this batch.
        """
        arrays = self.arrays
        if not self.layout.counted:
            # Everybody wins, and brings no touches.
            known, met = np.zeros_like(known), np.full_like(met, np.inf)
        won = self._contest(known + met, now, used)
        arrays.free[REFUSED] += len(keys) - len(won)
        keys, known = keys[won], known[won]
        lacking = len(keys) - (self.layout.n_blocks - self.live_blocks)
        while lacking > 0:
            taken = self.take_back(self.least(max(lacking, self.layout.n_blocks // 256), now, used))
            if not taken:
                break
            lacking -= taken
        values = self._fresh(len(keys), self.first_blocks)
        kernels.admit(arrays, keys, known, now, values, values.view(np.uint32))
        door.leave(arrays.door, arrays.knocks, keys[self.rows_of_keys(keys) > 0])
        arrays.free[DRAWS] += 1
        self.check()

    def _contest(self, met: F32, now: float, used: U32) -> npt.NDArray[np.int64]:
        """The places of the newcomers, `met: float32[n]` times each, that are to have a row; who was met less than they has lost it."""
        arrays = self.arrays
        order = np.argsort(-met, kind="stable")[: self.layout.rows - 1]
        free = self._free_rows
        if self.layout.counted and free <= self._spare:
            # What was lost last was worth the bar, what is left is worth more.
            order = order[met[order] > arrays.bar[1]]
        if len(order) <= free:
            return order
        rows, worth = self._least_rows(len(order) - free + self._spare, now, used)
        n = min(len(order) - free, len(rows))
        won = int((met[order[free : free + n]] > worth[:n]).sum())
        lost = rows[: max(won, min(won + self._spare if won else 0, self._loose))]
        if self.layout.counted and len(rows):
            arrays.bar[1] = worth[max(0, len(lost) - 1)]
            # Who loses a row goes on to be counted.
            counts = worth[: len(lost)].astype(np.float32)
            door.sight(arrays.door, arrays.knocks, arrays.keys[lost], counts, np.empty_like(counts))
        self._evict(lost)
        return order[: free + won]

    def _age_knocks(self, now: float) -> None:
        """Ids without a row age as those with one do, in steps of a hundredth of what they were."""
        bar = self.arrays.bar
        if self.layout.counted and now - bar[0] > self.half_life / 64:
            fresh = np.exp2((bar[0] - now) / self.half_life)
            self.arrays.knocks[:] *= np.float32(fresh)
            bar[:] = now, bar[1] * fresh

    @property
    def _free_rows(self) -> int:
        return self.layout.rows - 1 - self.live_rows

    @property
    def _spare(self) -> int:
        """Rows that are given up beside those needed, so that a full table does not look for the least ones with every batch."""
        return self.layout.rows // 256

    @property
    def _loose(self) -> int:
        """Rows beyond the floor."""
        return max(0, self.live_rows - self.floor)

    def _least_rows(self, n: int, now: float, used: U32) -> tuple[U32, F64]:
        """At most `n` rows of the least aged counts, none of them one of `used`, and those counts."""
        worth = np.where(self.arrays.blocks > 0, self.aged_touches(now), np.inf)
        worth[used] = np.inf
        found = lowest(worth, n)
        return found, worth[found]

    def _evict(self, rows: U32) -> None:
        kernels.evict(self.arrays, rows)
        self.check()

    def _fresh(self, n: int, blocks: int = 1) -> F32:
        return (self.scale * self.random.standard_normal((n, blocks * WIDTH))).astype(np.float32)


def lowest(values: npt.NDArray[Any], n: int) -> U32:
    """At most `n` places of the lowest finite values, ties by place: the same whatever the partition does with them."""
    finite = np.flatnonzero(np.isfinite(values))
    if 0 < n < len(finite):
        found = values[finite]
        finite = finite[found <= np.partition(found, n - 1)[n - 1]]
    order = finite[np.argsort(values[finite], kind="stable")]
    return order[:n].astype(np.uint32)
