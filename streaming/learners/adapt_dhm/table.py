"""The ids of an event as network input: embeddings of every field, and the sums of context values that a routing scores with.

In the flow: between exact ids and `AdaptDHM`; what is learnt about an id stands in one row of an `EmbeddingStore`, which admits, evicts
and never outgrows its bytes. Forward reads, backward keeps the batch's gradients, `step` takes one Adam step on the touched rows.
A value that is absent, unknown or evicted reads row 0: zeros, which leave scores and sums as they are.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.streaming.learners.adapt_dhm import kernels
from headrace.streaming.learners.adapt_dhm.adam import BETAS
from headrace.streaming.learners.embedding.keys import ABSENT, U64
from headrace.streaming.learners.embedding.layout import WIDTH, Layout
from headrace.streaming.learners.embedding.moments import corrections
from headrace.streaming.learners.embedding.store import EmbeddingStore

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]
TRUSTED: Final = 64
"""A field of more values than this counts for less beside one of fewer: by 64 / values (measured: user ids then cost nothing)."""
CROSSED: Final = 0.5
"""What a cross counts beside the fields that it is made of, however many values it has (measured: 0.3 and 1 are level or worse)."""
EMBEDDING_SCALE: Final = 0.05


class Table(nn.Module):
    """Rows for the ids of `fields` fields.

    Args:
        fields: ids of an event.
        dim: numbers of an embedding, a multiple of 8.
        context: places of the fields whose rows have context values.
        crosses: places of fields whose ids, taken together, are one more id: with scores, and without an embedding.
        wide: context values of a row, a multiple of 8; 0 for none.
        factor: float32[wide], what each context value is multiplied by as it is summed; so it learns that much faster.
        scale: float32[wide], deviation of each context value at first, before the factor.
        scored: how many of the `wide` are scores, which count rho.
        rows, contexts: ids that may have a row, and how many of them may have context values.
        admit_after: see `EmbeddingStore`.

    Raises ValueError, and BudgetTooSmall for a layout that cannot be.
    """

    counted: Tensor

    def __init__(
        self,
        fields: int,
        dim: int,
        context: tuple[int, ...],
        crosses: tuple[tuple[int, ...], ...],
        wide: int,
        factor: F32,
        scale: F32,
        scored: int,
        rows: int,
        contexts: int,
        admit_after: int,
        seed: int,
    ) -> None:
        super().__init__()
        blocks = (dim + wide) // WIDTH
        if dim % WIDTH or wide % WIDTH or dim < WIDTH or blocks > 31:
            raise ValueError(
                f"expected an embedding and context values in eights, 31 eights together at most, came {dim} and {wide}; "
                "ask for fewer clusters, smaller layers or no field gates"
            )
        looked_at = (*context, *(place for cross in crosses for place in cross))
        if fields < 1 or fields + len(crosses) > 255 or any(not 0 <= place < fields for place in looked_at):
            raise ValueError(
                f"expected 1 to 255 fields, crosses counted, with context and crosses among them, came {fields}, {context} and {crosses}"
            )
        self.fields, self.dim, self.context, self.wide = fields, dim, context, wide
        self.crosses = [np.array(cross, np.int64) for cross in crosses]
        embedded, others = np.full(dim, EMBEDDING_SCALE, np.float32), set(range(fields)) - set(context)
        # Places whose rows have several blocks, and the deviation of each number of such a row at first.
        kinds = (
            (context, np.concatenate([embedded, scale]) if context else embedded),
            (sorted(others), embedded),
            (range(fields, fields + len(crosses)), np.zeros(wide, np.float32)),
        )
        self._kinds = [
            (np.array(places, np.int64), scales.reshape(-1, WIDTH))
            for places, scales in kinds
            if places and len(scales) > WIDTH
        ]
        self.factor, self.scored = factor, scored
        held = min(contexts, rows) if (context or crosses) and wide else 0
        layout = Layout(rows, rows * (dim // WIDTH) + held * (wide // WIDTH), blocks, "fp32", "adam")
        self.store = EmbeddingStore(layout, admit_after=admit_after, scale=EMBEDDING_SCALE, seed=seed)
        # Rows of each field, and at how many admissions and evictions they were counted.
        self.register_buffer("counted", torch.zeros(fields + 1, dtype=torch.int64))
        self._factors: tuple[npt.NDArray[np.int64], F32] | None = None
        self._place = np.zeros(rows, np.int32)
        self._waiting: list[tuple[U32, F32, F32, F32]] = []
        # A leaf that asks for gradients, so that autograd calls the look-up's backward; it has no weight.
        self._anchor = torch.zeros((), requires_grad=True)

    def locate(self, keys: U64, now: float) -> U32:
        """Rows of `keys: uint64[B, F, 2]` and of their crosses, `uint32[B, F + X]`; ids due for one are admitted.

        A key of field 255 is no id: row 0.
        """
        keys = self._with_crosses(keys)
        rows = self._rows(keys)
        self.store.touch(rows.reshape(-1), now)
        if not rows.all() and (new := (rows == 0) & (keys[..., 1] != ABSENT)).any():
            before = self.store.counts["admitted"]
            rows[new] = self.store.locate_keys(keys[new], now, keep=rows.reshape(-1))
            self._clear(rows[:, self.fields :][new[:, self.fields :]])
            if self.store.counts["admitted"] != before:
                self._count()
        self._widen(rows)
        return rows

    def find(self, keys: U64) -> U32:
        """The same, changing nothing."""
        return self._rows(self._with_crosses(keys))

    def _clear(self, rows: U32) -> None:
        """A cross that was never met says nothing."""
        arrays = self.store.arrays
        arrays.fp32[arrays.head[rows[rows > 0]]] = 0.0

    def _rows(self, keys: U64) -> U32:
        return self.store.rows_of_keys(keys.reshape(-1, 2)).reshape(keys.shape[:2])

    def _with_crosses(self, keys: U64) -> U64:
        if not self.crosses:
            return keys
        found = np.empty((len(keys), self.fields + len(self.crosses), 2), np.uint64)
        found[:, : self.fields] = keys
        for number, places in enumerate(self.crosses):
            kernels.cross(found, places, self.fields + number)
        return found

    def forward(self, rows: U32) -> tuple[Tensor, Tensor]:
        """Embeddings `float32[B, F * dim]` and context sums `float32[B, wide]` of `rows: uint32[B, F + X]`."""
        x, sums = _LookUp.apply(self._anchor, self, rows)
        return x, sums

    def step(self, lr: float) -> int:
        """Take Adam's step with the gradients since the last one; how many rows it touched."""
        touched = 0
        for rows, factors, x_gradient, sums_gradient in self._waiting:
            flat = rows.reshape(-1)
            found = np.empty(len(flat), np.uint32)
            n = kernels.distinct(flat, self._place, found)
            total = np.zeros((n, self.dim + self.wide), np.float32)
            own = self.dim // WIDTH
            kernels.sum_by_row(rows, own, factors, x_gradient, sums_gradient, self._place, total)
            rates = np.array([lr, *BETAS])
            kernels.step(self.store.arrays, found[:n], total, self._place, rates, corrections(BETAS))
            touched += n
        self._waiting.clear()
        return touched

    def gradients(self) -> tuple[F32, F32, F32]:
        """Take back what the last batch would have the next `step` do: factors, gradients of embeddings and of sums."""
        _, factors, x_gradient, sums_gradient = self._waiting.pop()
        return factors, x_gradient, sums_gradient

    def drop_gradients(self) -> None:
        """Forget the gradients since the last step."""
        self._waiting.clear()

    def _count(self) -> None:
        """Count the rows of each field again where they have changed by a thirty-second."""
        counts = self.store.counts
        moved = counts["admitted"] + counts["evicted"]
        if 32 * (moved - int(self.counted[-1])) > self.store.live_rows:
            for place in self.context:
                self.counted[place] = len(self.store.rows_in(place))
            self.counted[-1] = moved

    def _rho(self) -> list[float]:
        """What the scores of each context field would count by its own number of values."""
        return [min(1.0, TRUSTED / max(1, count)) for count in self.counted[list(self.context)].tolist()]

    @property
    def factors(self) -> F32:
        """What each context value of each field and cross counts now, `float32[F + X, wide]`; the field of the fewest values counts whole."""
        counted = self.counted.numpy()
        if self._factors is None or not np.array_equal(counted, self._factors[0]):
            found = np.zeros((self.fields + len(self.crosses), self.wide), np.float32)
            rho = self._rho()
            for place, own in zip(self.context, rho, strict=True):
                found[place] = self.factor
                found[place, : self.scored] *= own / max(rho)
            found[self.fields :, : self.scored] = CROSSED * self.factor[: self.scored]
            self._factors = counted.copy(), found
        return self._factors[1]

    def count_relatively(self) -> None:
        """Of a table whose fields counted `_rho` alone make one whose fields count relatively: other scores, the same sums."""
        arrays, times = self.store.arrays, max(self._rho(), default=1.0)
        own, full = self.dim // WIDTH, (self.dim + self.scored) // WIDTH
        for place in self.context:
            rows = self.store.rows_in(place)
            block = arrays.head[rows[arrays.blocks[rows] >= full]]
            for at in range(full):
                if at >= own:
                    arrays.fp32[block] *= times
                    arrays.first[block] /= times
                    arrays.second[block] /= times**2
                block = arrays.chain[block]

    def _widen(self, rows: U32) -> None:
        """Give rows that were admitted just now, or had to give blocks up, all that rows of their field have."""
        blocks = self.store.arrays.blocks
        for places, scales in self._kinds:
            full = len(scales)
            if not kernels.any_short(blocks, rows, places, full):
                continue
            met = np.unique(rows[:, places])
            short = met[(blocks[met] < full) & (blocks[met] > 0)]
            held = blocks[short]
            at = np.concatenate([np.arange(has, full) for has in held.tolist()])
            values = self.store.random.standard_normal((len(at), WIDTH)).astype(np.float32) * scales[at]
            for place in range(int(held.min()), full):
                self.store.give(short[held <= place], values[at == place])

    def keep(self, rows: U32, factors: F32, x_gradient: F32, sums_gradient: F32) -> None:
        """Note a batch's gradients for the next `step`; called by autograd."""
        self._waiting.append((rows, factors, x_gradient, sums_gradient))


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, table: Table, rows: U32) -> tuple[Tensor, Tensor]:
        x = np.zeros((len(rows), table.fields * table.dim), np.float32)
        sums = np.zeros((len(rows), table.wide), np.float32)
        factors = table.factors
        kernels.look_up(table.store.arrays, rows, table.dim // WIDTH, factors, x, sums)
        ctx.table, ctx.rows, ctx.factors = table, rows, factors
        return torch.from_numpy(x), torch.from_numpy(sums)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        x_gradient, sums_gradient = (np.ascontiguousarray(part.numpy(), np.float32) for part in outputs)
        ctx.table.keep(ctx.rows, ctx.factors, x_gradient, sums_gradient)
        return None, None, None
