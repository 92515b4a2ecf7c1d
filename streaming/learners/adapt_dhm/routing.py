"""Which network an event gets: three routings behind one small interface.

In the flow: between `table` (embeddings and context sums in) and `network` (logits out). A routing is asked for `coefficients`, then for
`logits` under them; `after` is told of each batch that was learnt.

- `lar` (default): loss-aware routing. Scores q_k = sum over context fields of rho_f T_f[x_f, k]; r = softmax(q); the gradient of the
  loss goes through r: dL/dq_k = r_k (u_k - sum_j r_j u_j). No iteration, no centres, no balancing term.
- `reference`: prototypes on the unit sphere and iterated assignment without gradient, as in the re-implementation of AdaptDHM
  (Scenario-Wise-Rec, arXiv 2412.17374), with means by count, centred inputs and centres that are begun anew when nobody comes.
- `none`: one cluster, the control.

Deliberately absent: load balancing and temperature schedules, which were measured and cost.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn

from headrace.streaming.learners.adapt_dhm.network import Hard, Plain, Soft

Kind = Literal["lar", "reference", "none"]
TEMPERATURE: Final = 0.2
ITERATIONS: Final = 3
KEEP: Final = 0.9
"""How much of a centre each iteration keeps: the paper's beta, as re-implemented."""
MEAN_RATE: Final = 0.02
STARVED: Final = 0.2
"""A cluster with less than this part of an even share is begun anew."""
LOOK_EVERY: Final = 4
WATCHED: Final = 512
"""The guard looks at every fourth batch, and at so many of its rows."""
GUARD_MEMORY: Final = 0.98
LEAST_TRUST: Final = 0.05


class Single(nn.Module):
    """No routing: every event in the one cluster there is."""

    def __init__(self, widths: tuple[int, ...], random: torch.Generator) -> None:
        super().__init__()
        self.network = Plain(widths, random)

    def coefficients(self, x: Tensor, sums: Tensor) -> Tensor:
        """Distribution coefficients `float32[B, K]`: rows that sum to 1."""
        return torch.ones(len(x), 1)

    def logits(self, x: Tensor, sums: Tensor, coefficient: Tensor) -> Tensor:
        """Logits `float32[B]`."""
        return self.network(x)

    def after(self, x: Tensor, sums: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Told of a batch between its gradient and its step: inputs, context sums and labels `float32[B]`, without gradient.

        logits: `float32[B]`, where they are at hand, so that nobody computes them again.
        """


class LossAware(nn.Module):
    """Soft mixture by score tables that the loss teaches, with a guard against a context that says nothing.

    The guard compares two predictions for rows that have not been learnt yet: with the rows' own coefficients, and with the mean
    coefficient for all. Where the first is worse by two standard errors, `trust` falls and r = mean + trust (r - mean) becomes the mean: a network without
    routing. It never falls below 0.05, and the tables go on learning (Adam's steps do not shrink with the gradient), so it can rise again.
    """

    trust: Tensor
    mean: Tensor
    evidence: Tensor
    batches: Tensor

    def __init__(
        self, widths: tuple[int, ...], clusters: int, field_gates: bool, random: torch.Generator
    ) -> None:
        super().__init__()
        self.network = Soft(widths, clusters, random)
        self.clusters, self.field_gates = clusters, field_gates
        self.register_buffer("trust", torch.ones(()))
        self.register_buffer("mean", torch.full((clusters,), 1.0 / clusters))
        self.register_buffer("evidence", torch.zeros(3, dtype=torch.float64))  # weight, sum, sum of squares
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def coefficients(self, x: Tensor, sums: Tensor) -> Tensor:
        own = torch.softmax(sums[:, : self.clusters], 1)
        if float(self.trust) == 1.0:
            return own
        return torch.lerp(self.mean, own, self.trust)

    def logits(self, x: Tensor, sums: Tensor, coefficient: Tensor) -> Tensor:
        extra = sums[:, self.clusters :] * self.trust if self.field_gates else None
        return self.network(x, coefficient, extra)

    @torch.no_grad()
    def after(self, x: Tensor, sums: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        self.batches.add_(1)
        if int(self.batches) % LOOK_EVERY:
            return
        x, sums, labels = x[:WATCHED], sums[:WATCHED], labels[:WATCHED]
        own = torch.softmax(sums[:, : self.clusters], 1)
        if logits is not None and float(self.trust) == 1.0:
            with_context = logits[:WATCHED]
        else:
            with_context = self.network(x, own, sums[:, self.clusters :] if self.field_gates else None)
        without = self.network(x, self.mean[None])
        self.mean.lerp_(own.mean(0), LOOK_EVERY * MEAN_RATE)
        loss = nn.functional.binary_cross_entropy_with_logits
        gain = float(loss(without, labels)) - float(loss(with_context, labels))
        self.evidence.mul_(GUARD_MEMORY).add_(torch.tensor([1.0, gain, gain * gain], dtype=torch.float64))
        weight, total, squares = self.evidence.tolist()
        mean = total / weight
        error = (max(squares / weight - mean * mean, 1e-12) / weight) ** 0.5
        if weight > 20:  # about 25 looks
            # Harm must show, not the absence of gain: a partition takes some hundred batches to be worth anything.
            if mean < -2 * error:
                self.trust.mul_(0.9).clamp_(min=LEAST_TRUST)
            elif mean > error:
                self.trust.mul_(1.2).clamp_(max=1.0)


class Reference(nn.Module):
    """Prototypes that follow the embeddings; each event goes through the network of its nearest one.

    The centres move without gradient, in training only; a cluster that starves is begun anew at the event that is least at home.
    """

    centre: Tensor
    mean: Tensor
    load: Tensor

    def __init__(self, widths: tuple[int, ...], clusters: int, random: torch.Generator) -> None:
        super().__init__()
        self.network = Hard(widths, clusters, random)
        self.clusters = clusters
        centre = nn.functional.normalize(torch.randn(clusters, widths[0], generator=random), dim=1)
        self.register_buffer("centre", centre)
        self.register_buffer("mean", torch.zeros(widths[0]))
        self.register_buffer("load", torch.full((clusters,), 1.0 / clusters))

    @torch.no_grad()
    def coefficients(self, x: Tensor, sums: Tensor) -> Tensor:
        return torch.softmax(self._at_home(x) @ self.centre.T / TEMPERATURE, 1)  # (B, P) x (P, K)

    def logits(self, x: Tensor, sums: Tensor, coefficient: Tensor) -> Tensor:
        return self.network(x, coefficient.argmax(1))

    @torch.no_grad()
    def after(self, x: Tensor, sums: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        self.mean.lerp_(x.mean(0), MEAN_RATE)
        unit = self._at_home(x)
        for _ in range(ITERATIONS):
            share = torch.softmax(unit @ self.centre.T / TEMPERATURE, 1)  # (B, K)
            mean = nn.functional.normalize(share.T @ unit / share.sum(0).clamp(min=1e-6)[:, None], dim=1)
            self.centre.copy_(nn.functional.normalize(KEEP * self.centre + (1 - KEEP) * mean, dim=1))
        share = torch.softmax(unit @ self.centre.T / TEMPERATURE, 1)
        taken = torch.bincount(share.argmax(1), minlength=self.clusters).float() / len(x)
        self.load.lerp_(taken, MEAN_RATE)
        starved = int(self.load.argmin())
        if float(self.load[starved]) < STARVED / self.clusters:
            self.centre[starved] = unit[int(share.max(1).values.argmin())]
            self.load[starved] = 1.0 / self.clusters

    def _at_home(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x - self.mean, dim=1)


Routing = Single | LossAware | Reference
