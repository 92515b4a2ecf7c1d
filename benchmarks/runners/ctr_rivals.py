"""Click models that users of many domains would pick, in torch as they would write them, but batched over domains: no Python loop.

All see the same fields through one embedding table with torch's fused Adam. What a domain has of its own is one tensor with a
leading axis of domains; a batch's rows are laid out domain by domain, padded to the largest, and multiplied at once.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data.latent import CONTEXT, FIELDS

PLACES = [FIELDS.index(name) for name in CONTEXT]
HIDDEN = (64, 32)
EXPERTS = 4


class Laid:
    """A batch's rows by domain: where each row goes in ``[domains, largest]``."""

    def __init__(self, domain: Tensor, domains: int) -> None:
        order = torch.argsort(domain, stable=True)
        counts = torch.bincount(domain, minlength=domains)
        self.largest = int(counts.max())
        starts = torch.cumsum(counts, 0) - counts
        within = torch.empty_like(order)
        within[order] = torch.arange(len(domain)) - torch.repeat_interleave(starts, counts)
        self.place, self.domains = domain * self.largest + within, domains

    def times(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Each row of ``x: [B, in]`` by its domain's ``weight: [D, in, out]`` and ``bias: [D, out]``."""
        padded = x.new_zeros(self.domains * self.largest, x.shape[1]).index_copy(0, self.place, x)
        out = torch.baddbmm(bias[:, None], padded.view(self.domains, self.largest, -1), weight)
        return out.reshape(self.domains * self.largest, -1)[self.place]


class PerDomain(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A linear layer for each domain."""

    def __init__(self, domains: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = (6.0 / (inputs + outputs)) ** 0.5
        self.weight = nn.Parameter((2 * torch.rand(domains, inputs, outputs) - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(domains, outputs))

    def forward(self, x: Tensor, laid: Laid) -> Tensor:
        return laid.times(x, self.weight, self.bias)


class Embedded(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Fields to one vector; the domain is the last field. Subclasses make logits of it."""

    starts: Tensor

    def __init__(self, cardinality: list[int], dim: int = 8) -> None:
        super().__init__()
        self.domains = cardinality[-1]
        starts = torch.tensor([0, *cardinality[:-1]]).cumsum(0)
        self.register_buffer("starts", starts)
        self.table = nn.Embedding(sum(cardinality), dim)
        nn.init.normal_(self.table.weight, std=0.05)
        self.wide = dim * len(cardinality)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids + self.starts).flatten(1)  # (B, F, dim) -> (B, F * dim)
        return self.head(x, ids).squeeze(1)

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        """Logits ``[B, 1]``."""
        raise TypeError(f"{type(self).__name__} has no head(); every rival defines one")

    def laid(self, ids: Tensor) -> Laid:
        return Laid(ids[:, -1], self.domains)


def perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Dnn(Embedded):
    """One network for all."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        self.body, self.out = perceptron(self.wide, *HIDDEN), nn.Linear(HIDDEN[-1], 1)

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.out(self.body(x))


class FieldGates(Embedded):
    """Each context value multiplies every layer's inputs: what gates bring without clusters."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        widths = (self.wide, *HIDDEN)
        self.widths = list(widths)
        self.gates = nn.Embedding(sum(cardinality), sum(widths))
        nn.init.zeros_(self.gates.weight)
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in zip(widths, (*HIDDEN, 1), strict=True)])

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        gates = self.gates((ids + self.starts)[:, PLACES]).sum(1).split(self.widths, 1)
        for at, layer in enumerate(self.layers):
            x = layer(x * (1 + gates[at]))
            x = x if at == len(self.layers) - 1 else torch.relu(x)
        return x


class SharedBottom(Embedded):
    """A shared layer, then a tower for each domain."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        self.bottom = perceptron(self.wide, HIDDEN[0])
        self.tower, self.out = PerDomain(self.domains, *HIDDEN), PerDomain(self.domains, HIDDEN[1], 1)

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        laid = self.laid(ids)
        return self.out(torch.relu(self.tower(self.bottom(x), laid)), laid)


class Mmoe(Embedded):
    """Ma et al., KDD 2018: four experts for all, a gate and a tower for each domain."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        self.first = nn.Linear(self.wide, EXPERTS * HIDDEN[0])
        self.second = PerDomain(EXPERTS, *HIDDEN)
        self.gate = PerDomain(self.domains, self.wide, EXPERTS)
        self.tower, self.out = (
            PerDomain(self.domains, HIDDEN[1], HIDDEN[1]),
            PerDomain(self.domains, HIDDEN[1], 1),
        )

    def experts(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x)).view(len(x), EXPERTS, HIDDEN[0]).transpose(0, 1)
        return torch.relu(torch.baddbmm(self.second.bias[:, None], hidden, self.second.weight)).transpose(
            0, 1
        )

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        laid = self.laid(ids)
        share = torch.softmax(self.gate(x, laid), 1)
        mixed = torch.einsum("be,beh->bh", share, self.experts(x))
        return self.out(torch.relu(self.tower(mixed, laid)), laid)


class Ple(Embedded):
    """Tang et al., RecSys 2020, one level: two shared experts and two of each domain's own under its gate."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        n = EXPERTS // 2
        self.first, self.second = nn.Linear(self.wide, n * HIDDEN[0]), PerDomain(n, *HIDDEN)
        self.own_first = PerDomain(self.domains, self.wide, n * HIDDEN[0])
        self.own_second = nn.ModuleList([PerDomain(self.domains, *HIDDEN) for _ in range(n)])
        self.gate = PerDomain(self.domains, self.wide, EXPERTS)
        self.tower, self.out = (
            PerDomain(self.domains, HIDDEN[1], HIDDEN[1]),
            PerDomain(self.domains, HIDDEN[1], 1),
        )

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        laid, n = self.laid(ids), EXPERTS // 2
        shared = torch.relu(self.first(x)).view(len(x), n, -1).transpose(0, 1)
        shared = torch.relu(torch.baddbmm(self.second.bias[:, None], shared, self.second.weight))
        own = torch.relu(self.own_first(x, laid)).split(HIDDEN[0], 1)
        mine = [torch.relu(layer(part, laid)) for layer, part in zip(self.own_second, own, strict=True)]
        experts = torch.cat([shared, torch.stack(mine)])  # (experts, B, h)
        share = torch.softmax(self.gate(x, laid), 1)
        mixed = torch.einsum("be,ebh->bh", share, experts)
        return self.out(torch.relu(self.tower(mixed, laid)), laid)


class Star(Embedded):
    """Sheng et al., CIKM 2021: shared times the domain's own factors, and an auxiliary network that sees the domain."""

    def __init__(self, cardinality: list[int]) -> None:
        super().__init__(cardinality)
        widths = (self.wide, *HIDDEN, 1)
        pairs = list(itertools.pairwise(widths))
        self.shared = nn.ParameterList(
            nn.init.xavier_uniform_(nn.Parameter(torch.empty(*pair))) for pair in pairs
        )
        self.own = nn.ParameterList(
            nn.Parameter(1 + 0.05 * torch.randn(self.domains, *pair)) for pair in pairs
        )
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(self.domains, pair[1])) for pair in pairs)
        self.auxiliary = nn.Sequential(perceptron(8 + self.wide, 16), nn.Linear(16, 1))

    def head(self, x: Tensor, ids: Tensor) -> Tensor:
        laid, h = self.laid(ids), x
        for at, (shared, own, bias) in enumerate(zip(self.shared, self.own, self.bias, strict=True)):
            h = laid.times(h, shared * own, bias)
            h = h if at == len(self.own) - 1 else torch.relu(h)
        return h + self.auxiliary(torch.cat([x, x[:, -8:]], 1))


RIVALS: dict[str, Any] = {
    "dnn": Dnn,
    "gates": FieldGates,
    "shared-bottom": SharedBottom,
    "mmoe": Mmoe,
    "ple": Ple,
    "star": Star,
}
