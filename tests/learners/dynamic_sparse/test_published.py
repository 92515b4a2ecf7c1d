"""The published mode and the backbones against their definitions, and our kernel against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.streaming.learners.dynamic_sparse import kernels
from headrace.streaming.learners.dynamic_sparse.backbones import LightGCN, MatrixFactorisation
from headrace.streaming.learners.dynamic_sparse.published import MaskedTables
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.module import BlockEmbedding
from headrace.streaming.learners.embedding.store import EmbeddingStore


def table(seed: int = 0, rows: int = 30, width: int = 16) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("grow", ["gradient", "random", None])
@pytest.mark.parametrize("density", [0.5, 0.2])
def test_the_budget_is_constant_and_what_is_off_is_zero(grow, density):
    weights = table()
    masked = MaskedTables([weights], density, every=5, total=200, grow=grow)
    optimiser = torch.optim.Adam([weights], lr=0.05)
    target = table(1).detach()
    first, explored = masked.masks[0].clone(), 0
    for _ in range(200):
        optimiser.zero_grad()
        (weights - target).square().mean().backward()
        optimiser.step()
        explored += masked.after_step()
        assert int(masked.masks[0].sum()) == round(density * weights.numel())
        assert not weights[~masked.masks[0]].any()
    assert explored == (40 if grow else 0)
    assert torch.equal(first, masked.masks[0]) == (grow is None)
    assert masked.share == pytest.approx(0.005)


def test_growth_picks_the_entries_with_the_largest_gradient_and_pruning_the_smallest_weights():
    weights = torch.nn.Parameter(torch.arange(1.0, 9.0).reshape(2, 4))
    masked = MaskedTables([weights], 0.5, every=1, total=10, start=0.5, least=0.5)
    masked.masks = [torch.tensor([[True, True, True, True], [False, False, False, False]])]
    with torch.no_grad():
        weights.copy_(torch.arange(1.0, 9.0).reshape(2, 4))
    masked.apply()
    weights.grad = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.1, 0.2, 8.0, 0.3]])
    assert masked.after_step()
    # 1 and 2 are pruned; the largest gradients among all that are off are 9 (just pruned) and 8.
    assert masked.masks[0].tolist() == [[False, True, True, True], [False, False, True, False]]
    assert weights.tolist() == [[0.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]  # what is regrown keeps its value


def test_magnitude_pruning_keeps_the_largest():
    weights = torch.nn.Parameter(torch.tensor([[4.0, -3.0, 2.0, -1.0]]))
    masked = MaskedTables([weights], 0.5, every=1, total=10, grow=None, begin="magnitude")
    assert weights.tolist() == [[4.0, -3.0, 0.0, 0.0]]
    assert not masked.after_step()


def test_lightgcn_is_the_mean_of_propagated_layers():
    users, items = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    model = LightGCN(3, 4, 5, users, items, layers=3)
    a = np.zeros((7, 7))
    a[users, items + 3] = a[items + 3, users] = 1.0
    d = np.diag(1.0 / np.sqrt(np.maximum(a.sum(1), 1.0)))
    layer = model.table.detach().numpy().astype(np.float64)
    total = layer.copy()
    for _ in range(3):
        layer = d @ a @ d @ layer
        total += layer
    np.testing.assert_allclose(model.nodes().detach().numpy(), total / 4, atol=1e-6)
    assert model(torch.tensor([1])).shape == (1, 4)


def packed_beside_dense(seed: int = 0) -> tuple[EmbeddingStore, torch.nn.Parameter, torch.Tensor, np.ndarray]:
    """A table with rows of 1 to 4 blocks, and the same weights as a dense table under a mask."""
    store = EmbeddingStore(Layout(31, 90, 4), admit_after=1, seed=seed)
    rows = store.locate(np.arange(30), 0, 1.0)
    for n in (20, 10, 5):
        store.give(rows[:n])
    dense = torch.nn.Parameter(torch.from_numpy(store.gather(rows, 4)))
    mask = torch.arange(32) < torch.from_numpy(store.arrays.blocks[rows].astype(np.int64) * 8)[:, None]
    return store, dense, mask, rows


def test_masked_dense_and_packed_agree_forward_and_backward():
    store, dense, mask, rows = packed_beside_dense()
    module = BlockEmbedding(store)
    random = torch.Generator().manual_seed(1)
    left, right = torch.randint(0, 30, (2, 200), generator=random)
    place = torch.from_numpy(rows.astype(np.int64))
    ours = (module(place[left]) * module(place[right])).sum(1)
    theirs = ((dense * mask)[left] * (dense * mask)[right]).sum(1)
    assert (ours - theirs).abs().max() <= 1e-6
    torch.nn.functional.softplus(ours).sum().backward()
    torch.nn.functional.softplus(theirs).sum().backward()
    gradient = np.zeros((store.layout.rows, 32), np.float64)
    for at, values in module._waiting:
        np.add.at(gradient, at, values.astype(np.float64))
    held = gradient[rows] * mask.numpy()
    assert np.abs(held - dense.grad.numpy()).max() <= 1e-6 * max(1.0, np.abs(held).max())
    before = store.gather(rows, 4)
    assert module.step() == len(torch.unique(torch.cat([left, right])))
    assert module.step() == 0
    moved = store.gather(rows, 4) - before
    assert not moved[~mask.numpy()].any()
    np.testing.assert_array_equal(np.sign(moved), -np.sign(np.where(mask.numpy(), dense.grad.numpy(), 0.0)))


def test_lazy_adam_is_torchs_sparse_adam_on_the_rows_touched():
    store = EmbeddingStore(Layout(31, 120, 4, optimiser="adam"), admit_after=1)
    rows = store.locate(np.arange(30), 0, 1.0)
    for _ in range(3):
        store.give(rows)
    theirs = torch.nn.Embedding.from_pretrained(
        torch.from_numpy(store.gather(rows, 4)), freeze=False, sparse=True
    )
    module = BlockEmbedding(store, lr=0.01)
    optimiser = torch.optim.SparseAdam(theirs.parameters(), lr=0.01)
    place = torch.from_numpy(rows.astype(np.int64))
    for step in range(5):
        # All rows in each step: torch counts steps for the whole table, ours counts a row's own.
        chosen = torch.randperm(30, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        module(place[chosen]).pow(3).sum().backward()
        theirs(chosen).pow(3).sum().backward()
        module.step()
        optimiser.step()
    np.testing.assert_allclose(store.gather(rows, 4), theirs.weight.detach().numpy(), atol=1e-5)


def scratch(seed: int, n: int = 12) -> kernels.Scratch:
    rng = np.random.default_rng(seed)
    width = rng.integers(0, 4, n) * 8
    weights = rng.normal(0, 0.5, (n, 24)).astype(np.float32) * (np.arange(24) < width[:, None])
    return kernels.Scratch(weights.astype(np.float32), width, np.ones(n, np.float32), np.zeros(n, np.float32))


@pytest.mark.parametrize("negatives", [1, 4])
@pytest.mark.parametrize("label", [0, 1])
def test_a_step_of_the_kernel_is_adagrad_on_autograds_gradient(negatives, label):
    for seed in range(8):
        made = scratch(seed)
        rng = np.random.default_rng(100 + seed)
        chosen = rng.permutation(12)[: 2 + negatives]
        user, items = chosen[:1], chosen[None, 1:]
        weights = torch.tensor(made.weights, dtype=torch.float64, requires_grad=True)
        scores = weights[torch.from_numpy(items[0])] @ weights[int(user[0])]
        loss = -torch.log_softmax(scores, 0)[0] if label else torch.nn.functional.softplus(scores[0])
        penalty, rate = 0.01, 0.1
        touched = torch.from_numpy(chosen if label else chosen[:2])
        (loss + penalty * 0.5 * weights[touched].square().sum()).backward()
        mask = np.arange(24) < made.width[:, None]
        gradient = weights.grad.numpy() * mask
        square = 1.0 + (gradient**2).sum(1) / np.maximum(made.width, 1)
        # An item's penalty and pull are one step; the user's step comes last, with the items' weights from before it.
        expected = made.weights - rate * gradient / np.sqrt(square + 1e-8)[:, None]
        losses = np.zeros(1, np.float32)
        rates = np.array([rate, penalty], np.float32)
        kernels.learn(
            made, user.astype(np.int64), items.astype(np.int64), np.array([label], np.uint8), losses, rates
        )
        np.testing.assert_allclose(made.weights, expected, atol=2e-6)
        assert losses[0] == pytest.approx(float(loss.detach()), abs=1e-6)
        assert not made.weights[~mask].any()


def test_the_compiled_kernel_and_its_interpreted_twin_agree():
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 4, 40), rng.integers(4, 12, (40, 4))
    labels = rng.integers(0, 2, 40).astype(np.uint8)
    rates = np.array([0.1, 0.01], np.float32)
    ours, twin = scratch(1), scratch(1)
    losses, slow = np.zeros(40, np.float32), np.zeros(40, np.float32)
    kernels.learn(ours, users, items, labels, losses, rates)
    kernels.learn.function(twin, users, items, labels, slow, rates)
    np.testing.assert_allclose(ours.weights, twin.weights, atol=1e-5)
    np.testing.assert_allclose(losses, slow, atol=1e-5)
    np.testing.assert_allclose(ours.gain, twin.gain, atol=1e-4)


def test_matrix_factorisation_learns_by_its_loss():
    model = MatrixFactorisation(6, 5, 8, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    users, wanted = torch.arange(6), torch.arange(6) % 2
    for _ in range(100):
        optimiser.zero_grad()
        loss = model.loss(
            users, wanted, 2 + torch.randint(0, 3, (6,), generator=torch.Generator().manual_seed(0)), 0.0
        )
        loss.backward()
        optimiser.step()
    assert (model(users).argmax(1)[:2] == wanted[:2]).all()
    assert float(loss.detach()) < 0.05
