"""`AdaptDHM`: clicks of many domains from one network whose weights follow the event's context; a torch module.

In the flow: `classifier` gives it keys and labels, benchmarks ids. Ids become embeddings and context sums (`table`), those a distribution
coefficient (`routing`), that a network (`network`). A domain is a feature like any other: a new one needs no new network.

    rows = model.table.locate(keys, now); model.learn(rows, dense, labels)

Source: Li et al., "AdaptDHM: adaptive distribution hierarchical model for multi-domain CTR prediction", arXiv 2211.12105 (its text was
not at hand: abstract and a re-implementation were); loss-aware routing is this project's own.
Deliberately absent: a network, head or gate for each domain. Several passes over the data: it learns from a stream.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.streaming.learners.adapt_dhm.adam import Adam
from headrace.streaming.learners.adapt_dhm.routing import Kind, LossAware, Reference, Routing, Single
from headrace.streaming.learners.adapt_dhm.table import U32, Table
from headrace.streaming.learners.embedding.keys import U64
from headrace.streaming.learners.errors import Diverged

SCORE_RATE: Final = 10.0
"""Score tables learn ten times as fast as the rest: from slow ones no partition comes (measured)."""
SCORE_SCALE: Final = 0.1
GATE_RATE: Final = 3.0
REACH: Final = 8.0
"""Standardised numbers are cut off here."""


@dataclass(frozen=True)
class Shape:
    """What an `AdaptDHM` is made of.

    Attributes:
        fields: ids of an event.
        numbers: dense values of an event.
        context: places of the fields that routing looks at: what is known before an item is chosen. Fields of the item among them cost
            accuracy (measured); a field of many values counts for less beside one of few.
        crosses: places of context fields that routing also looks at together, as one more id ("lar" only): few enough to come back often.
            Leave out what is new all the time, such as a domain, in which every cross would have to be learnt from nothing.
        routing: "lar", "reference" or "none".
        clusters: 32 for "lar", a multiple of 8; 4 for "reference". None takes these.
        hidden: widths of the hidden layers.
        dim: of an embedding, a multiple of 8.
        field_gates: whether each context value has gates of its own beside the clusters' ("lar" only).
        guard: whether a context that says nothing is faded out ("lar" only).
        rows: ids that may have an embedding at once.
        contexts: ids that may have context values at once.
        admit_after: an id has an embedding from its first or second sighting on.
    """

    fields: int
    numbers: int = 0
    context: tuple[int, ...] = ()
    crosses: tuple[tuple[int, ...], ...] = ()
    routing: Kind = "lar"
    clusters: int | None = None
    hidden: tuple[int, ...] = (64, 32)
    dim: int = 8
    field_gates: bool = False
    guard: bool = True
    rows: int = 1 << 16
    contexts: int = 1 << 12
    admit_after: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the network: input, hidden layers, 1."""
        return (self.fields * self.dim + self.numbers, *self.hidden, 1)

    @property
    def n_clusters(self) -> int:
        """Clusters, the default where none are named."""
        if self.routing == "none":
            return 1
        return self.clusters if self.clusters is not None else 32 if self.routing == "lar" else 4


class AdaptDHM(nn.Module):
    """See the module; `lr` is Adam's, which suits batches of some hundred events.

    Raises ValueError for shapes that cannot be, BudgetTooSmall for too few rows.

    >>> model = AdaptDHM(Shape(fields=3, context=(0, 1), rows=100), seed=1)
    >>> model(torch.tensor([[1, 2, 3], [1, 5, 9]])).shape, model.route(torch.tensor([[1, 2, 3]]))[1].shape
    (torch.Size([2]), torch.Size([1, 32]))
    """

    moments: Tensor

    def __init__(self, shape: Shape, lr: float = 6e-3, seed: int = 0) -> None:
        super().__init__()
        if (
            shape.fields < 1
            or not lr > 0
            or shape.n_clusters < 1
            or shape.routing not in ("lar", "reference", "none")
        ):
            raise ValueError(
                f"expected fields, lr and clusters above 0 and routing lar, reference or none, came {shape}, lr {lr}"
            )
        self.shape, self.lr = shape, lr
        random = torch.Generator().manual_seed(seed)
        self.routing: Routing
        wide, factor, scale = 0, np.zeros(0, np.float32), np.zeros(0, np.float32)
        k = shape.n_clusters
        if shape.routing == "lar":
            if not shape.context:
                raise ValueError(
                    "expected context fields for routing 'lar', came none; name some, or take routing 'none'"
                )
            self.routing = LossAware(shape.widths, k, shape.field_gates, random)
            gates = sum(shape.widths[:-1]) if shape.field_gates else 0
            wide = k + -(-gates // 8) * 8
            factor = np.ones(wide, np.float32)
            factor[:k] = SCORE_RATE
            scale = np.zeros(wide, np.float32)
            scale[:k] = SCORE_SCALE / SCORE_RATE
        elif shape.routing == "reference":
            self.routing = Reference(shape.widths, k, random)
        else:
            self.routing = Single(shape.widths, random)
        self.table = Table(
            shape.fields,
            shape.dim,
            shape.context if wide else (),
            shape.crosses if wide else (),
            wide,
            factor,
            scale,
            k if wide else 0,
            shape.rows,
            shape.contexts,
            shape.admit_after,
            seed,
        )
        # Count, mean and sum of squared deviations of each dense value (Welford).
        self.register_buffer("moments", torch.zeros(3, shape.numbers, dtype=torch.float64))
        fast = {id(parameter) for parameter in self.routing.network.fast()}
        named = dict(self.named_parameters())
        self.optimiser = Adam(named, {n: GATE_RATE for n, p in named.items() if id(p) in fast})

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits `float32[B]` of `ids: int64[B, F]` and `dense: float32[B, N]`; an id without a row counts for nothing.

        In training mode new ids are admitted; in evaluation nothing changes.
        """
        keys = keys_of_integers(ids.numpy())
        rows = (
            self.table.locate(keys, float(self.table.store.counts["admitted"]))
            if self.training
            else self.table.find(keys)
        )
        return self.score(rows, dense)[0]

    def route(self, ids: Tensor, dense: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Most likely cluster `int64[B]` and distribution coefficients `float32[B, K]`; changes nothing."""
        with torch.no_grad():
            _, coefficient, _, _ = self.score(self.table.find(keys_of_integers(ids.numpy())), dense)
        return coefficient.argmax(1), coefficient

    def score(self, rows: U32, dense: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, coefficients, network input and context sums of `rows: uint32[B, F + X]`, as `table` found them."""
        x, sums = self.table(rows)
        if self.shape.numbers:
            x = torch.cat([x, self._standardised(dense, len(rows))], 1)  # (B, F * dim), (B, N) -> (B, P)
        coefficient = self.routing.coefficients(x, sums)
        return self.routing.logits(x, sums, coefficient), coefficient, x, sums

    def learn(
        self,
        rows: U32,
        dense: Tensor | None,
        labels: Tensor,
        *,
        fake_negatives: bool = False,
        faster: float = 1.0,
    ) -> Tensor:
        """One step on a batch; its logits before the step, `float32[B]`.

        labels: float32[B]. fake_negatives: weigh the losses as for negatives that may still be clicked. faster: by how much rates are
        raised, after an alarm. Raises Diverged where the loss is not finite; then nothing was learnt.
        """
        if self.shape.numbers and dense is not None:
            self.measure(dense)
        logits, _, x, sums = self.score(rows, dense)
        weights = None
        if fake_negatives:
            p = torch.sigmoid(logits.detach())
            weights = torch.where(labels > 0, 1 + p, (1 - p) * (1 + p))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, weights)
        if not math.isfinite(value := loss.item()):
            self.table.drop_gradients()
            raise Diverged(
                f"expected a finite loss of {len(rows)} events, came {value}; the batch was not learnt: lower lr (now {self.lr})"
            )
        loss.backward()
        if self.shape.guard or self.shape.routing == "reference":
            self.routing.after(x.detach(), sums.detach(), labels, logits.detach())
        self.step(faster)
        return logits.detach()

    def step(self, faster: float = 1.0) -> None:
        """Take the optimisers' step with the gradients that are there."""
        self.optimiser.step(self.lr * faster)
        self.table.step(self.lr * faster)

    def measure(self, dense: Tensor) -> None:
        """Take a batch's finite numbers into the running moments."""
        values = dense.double()
        there = torch.isfinite(values)
        filled = torch.where(there, values, 0.0)
        count, mean, spread = self.moments
        n = there.sum(0).double()
        total = count + n
        batch_mean = filled.sum(0) / n.clamp(min=1)
        apart = batch_mean - mean
        inner = (torch.where(there, values - batch_mean, 0.0) ** 2).sum(0)
        self.moments[2] = spread + inner + apart**2 * count * n / total.clamp(min=1)
        self.moments[1] = mean + apart * n / total.clamp(min=1)
        self.moments[0] = total

    def _standardised(self, dense: Tensor | None, n: int) -> Tensor:
        """Numbers minus their mean, over their deviation; 0 for what is absent, NaN or infinite."""
        if dense is None:
            return torch.zeros(n, self.shape.numbers)
        count, mean, spread = self.moments
        deviation = torch.sqrt(spread / count.clamp(min=1)).clamp(min=1e-9)
        z = (dense.double() - mean) / deviation
        return torch.where(torch.isfinite(z) & (count > 0), z, 0.0).clamp(-REACH, REACH).float()


def keys_of_integers(ids: npt.NDArray[np.int64]) -> U64:
    """Keys `uint64[B, F, 2]` of `ids: int64[B, F]`: the same as `embedding.keys.keys_of`, column by column."""
    keys = np.empty((*ids.shape, 2), np.uint64)
    keys[..., 0] = ids.view(np.uint64)
    keys[..., 1] = np.arange(ids.shape[1], dtype=np.uint64)
    return keys
