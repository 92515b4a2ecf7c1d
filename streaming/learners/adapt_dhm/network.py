"""The classifiers: one network of shared and cluster factors, in three forms that differ in what a cluster may change.

In the flow: above `table`'s embeddings, below `routing`'s coefficients. A layer's weight is a product, element by element, of a shared
factor and a cluster's own (as STAR, Sheng et al., CIKM 2021, has one for each domain): W = S * C, in x out, ReLU between layers.

- `Plain`: one cluster. The control: what the product alone brings.
- `Hard`: K whole factors, one network for each event, events dispatched in groups: AdaptDHM (arXiv 2211.12105, section of the
  classification process, as far as its re-implementation tells).
- `Soft`: K diagonal factors, mixed in weight space by the coefficients r. Since diag(a) + diag(b) = diag(a + b), the mixture is
  exact with one matrix product a layer, whatever K is: h' = relu((h * (1 + r G)) (S * C) + b).

Deliberately absent: batch normalisation, whose running means tie the rows of a batch together; here the order of rows is irrelevant.
"""

import itertools
from typing import Final

import torch
from torch import Tensor, nn

FACTOR_NOISE: Final = 0.05
"""Cluster factors begin at 1 + N(0, 0.05**2): as the shared network."""
GATE_SCALE: Final = 0.5
"""Diagonal factors begin far apart: from small ones the routing has nothing to choose between (measured)."""


class Layers(nn.Module):
    """Shared factors and biases of a perceptron `widths[0] -> ... -> widths[-1] = 1`, and one whole factor each."""

    def __init__(self, widths: tuple[int, ...], random: torch.Generator) -> None:
        super().__init__()
        self.widths = widths
        self.shared, self.factor, self.bias = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise(widths):
            bound = (6.0 / (inputs + outputs)) ** 0.5  # Glorot and Bengio, AISTATS 2010
            drawn = torch.rand(inputs, outputs, generator=random)
            self.shared.append(nn.Parameter((2 * drawn - 1) * bound))
            noise = torch.randn(self._factors(), inputs, outputs, generator=random)
            self.factor.append(nn.Parameter((1 + FACTOR_NOISE * noise).squeeze(0)))
            self.bias.append(nn.Parameter(torch.zeros(outputs)))
        # The same parameters layer by layer: torch's own lists are slow to walk.
        self.layers = list(zip(self.shared, self.factor, self.bias, strict=True))

    def _factors(self) -> int:
        return 1

    def fast(self) -> list[nn.Parameter]:
        """Parameters that learn at three times the rate."""
        return []


class Plain(Layers):
    """One cluster."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits `float32[B]` of `x: float32[B, P]`."""
        last = len(self.layers) - 1
        for at, (shared, factor, bias) in enumerate(self.layers):
            x = torch.addmm(bias, x, shared * factor)  # (B, in) x (in, out) -> (B, out)
            x = x if at == last else torch.relu(x)
        return x.squeeze(1)  # (B, 1) -> (B,)


class Hard(Layers):
    """K whole factors and biases; each event goes through one network, chosen for it."""

    def __init__(self, widths: tuple[int, ...], clusters: int, random: torch.Generator) -> None:
        self.clusters = clusters
        super().__init__(widths, random)
        self.own_bias = nn.ParameterList(nn.Parameter(torch.zeros(clusters, wide)) for wide in widths[1:])

    def _factors(self) -> int:
        return self.clusters

    def forward(self, x: Tensor, cluster: Tensor) -> Tensor:
        """Logits `float32[B]` of `x: float32[B, P]`, each by the network of its `cluster: int64[B]`."""
        order = torch.argsort(cluster, stable=True)
        sizes = torch.bincount(cluster, minlength=self.clusters).tolist()
        parts = torch.split(x[order], sizes)  # one group of rows for each cluster
        found = [self.one(part, number) for number, part in enumerate(parts) if len(part)]
        logits = torch.empty(len(x), dtype=x.dtype)
        logits = logits.index_copy(0, order, torch.cat(found)) if found else logits
        return logits

    def one(self, x: Tensor, cluster: int) -> Tensor:
        """Logits of all of `x` by one cluster's network."""
        last = len(self.layers) - 1
        for at, (shared, factor, bias) in enumerate(self.layers):
            weight = shared * (factor[cluster] if self.clusters > 1 else factor)
            x = torch.addmm(bias + self.own_bias[at][cluster], x, weight)
            x = x if at == last else torch.relu(x)
        return x.squeeze(1)


class Soft(Layers):
    """K diagonal factors, mixed by coefficients; gates of the context's fields may be added to the mixture."""

    def __init__(self, widths: tuple[int, ...], clusters: int, random: torch.Generator) -> None:
        super().__init__(widths, random)
        self.clusters = clusters
        self.gates = nn.Parameter(GATE_SCALE * torch.randn(clusters, sum(widths[:-1]), generator=random))
        self.offset = nn.Parameter(torch.zeros(clusters))  # beta: a cluster's own rate

    def forward(self, x: Tensor, coefficient: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits `float32[B]` of `x: float32[B, P]` under `coefficient: float32[B, K]`.

        extra: float32[B, at least the sum of input widths], added to the mixture's gates.
        """
        mixed = coefficient @ self.gates  # (B, K) x (K, D) -> (B, D)
        if extra is not None:
            mixed = mixed + extra[:, : mixed.shape[1]]
        gates = torch.split(mixed, list(self.widths[:-1]), dim=1)
        last = len(self.layers) - 1
        for at, (shared, factor, bias) in enumerate(self.layers):
            x = torch.addmm(bias, torch.addcmul(x, x, gates[at]), shared * factor)
            x = x if at == last else torch.relu(x)
        return x.squeeze(1) + coefficient @ self.offset

    def fast(self) -> list[nn.Parameter]:
        return [self.gates, self.offset]
