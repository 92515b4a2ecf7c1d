"""The two backbones: matrix factorisation and LightGCN, users and items in one table, with their pairwise loss.

U users come first, then I items: node n < U is a user. LightGCN: He et al., SIGIR 2020 (arXiv 2002.02126): propagation over the
normalised graph of interactions, the mean of all layers, no weights but the table (equations 3 to 8). Loss: BPR (Rendle et al.,
UAI 2009) with an L2 penalty on the rows of the batch.
"""

from typing import Any

import torch
from torch import Tensor, nn


class MatrixFactorisation(nn.Module):
    """One table of `n_users + n_items` rows of `width`; scores are dot products."""

    def __init__(self, n_users: int, n_items: int, width: int, scale: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.n_users = n_users
        random = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(
            scale * torch.randn(n_users + n_items, width, generator=random)
        )  # (U + I, D)

    def nodes(self) -> Tensor:
        """The vectors that are compared, `float32[U + I, D]`."""
        return self.table

    def forward(self, users: Tensor) -> Tensor:
        """Scores of all items for `users: int64[B]`."""
        nodes = self.nodes()
        return nodes[users] @ nodes[self.n_users :].T  # (B, D) x (D, I) -> (B, I)

    def loss(self, users: Tensor, wanted: Tensor, others: Tensor, penalty: float) -> Tensor:
        """BPR over triples, `int64[B]` each; `wanted` and `others` are item numbers from 0."""
        triples = users, self.n_users + wanted, self.n_users + others
        return pairwise_loss(self.nodes(), self.table, triples, penalty)


def pairwise_loss(
    nodes: Tensor, table: Tensor, triples: tuple[Tensor, Tensor, Tensor], penalty: float
) -> Tensor:
    """BPR over users, wanted and other items, node numbers `int64[B]` each; the penalty is on their rows of `table`."""
    rows = torch.cat(triples)  # (3 * B,)
    met = nn.functional.embedding(rows, nodes)  # (3 * B, D)
    u, i, j = met.chunk(3)  # (B, D) each
    ranking = nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean()  # (B,) -> ()
    own = met if nodes is table else nn.functional.embedding(rows, table)
    return ranking + penalty * 0.5 * own.square().sum() / len(u)


class LightGCN(MatrixFactorisation):
    """The same table, seen through `layers` of propagation over `users`, `items: int64[n]`, who met."""

    def __init__(
        self, n_users: int, n_items: int, width: int, users: Any, items: Any, layers: int = 2, **options: Any
    ) -> None:
        super().__init__(n_users, n_items, width, **options)
        self.layers = layers
        n = n_users + n_items
        left, right = torch.as_tensor(users), torch.as_tensor(items) + n_users
        edges = torch.stack([torch.cat([left, right]), torch.cat([right, left])])  # (2, 2 * n)
        degree = torch.bincount(edges[0], minlength=n).clamp(min=1).float()
        weight = (degree[edges[0]] * degree[edges[1]]).rsqrt()
        graph = torch.sparse_coo_tensor(edges, weight, (n, n), check_invariants=True).coalesce()
        self.register_buffer("graph", graph)

    def nodes(self) -> Tensor:
        return self.propagate(self.table)

    def propagate(self, table: Tensor) -> Tensor:
        """The vectors that `table: float32[U + I, D]` gives the nodes, of the same shape."""
        layer, total = table, table
        for _ in range(self.layers):
            layer = torch.sparse.mm(self.graph, layer)  # (N, N) x (N, D) -> (N, D)
            total = total + layer
        return total / (self.layers + 1)
