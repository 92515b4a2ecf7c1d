"""The network and its routings: against what the equations say, row by row and cluster by cluster."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from benchmarks.data.latent import CONTEXT, FIELDS, clicks
from headrace.streaming.learners.adapt_dhm import kernels
from headrace.streaming.learners.adapt_dhm.adam import Adam
from headrace.streaming.learners.adapt_dhm.model import AdaptDHM, Shape, keys_of_integers
from headrace.streaming.learners.adapt_dhm.network import Hard, Soft
from headrace.streaming.learners.embedding.keys import ABSENT
from headrace.streaming.learners.errors import BudgetTooSmall, Diverged

ROUTINGS = ["lar", "reference", "none"]
PLACES = tuple(FIELDS.index(name) for name in CONTEXT)


def made(routing: str = "lar", **options) -> AdaptDHM:
    chosen = {"fields": 4, "numbers": 2, "context": (0, 1), "rows": 300, "contexts": 100, "hidden": (16, 8)}
    if routing == "lar":
        chosen["clusters"] = 8
    return AdaptDHM(Shape(routing=routing, **(chosen | options)), seed=2)


def events(n: int, seed: int = 0, ids: int = 9) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Clicks when the first and third id have one parity."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, ids, (n, 4))
    dense = torch.from_numpy(rng.normal(3, 2, (n, 2)).astype(np.float32))
    return found, dense, torch.from_numpy(((found[:, 0] + found[:, 2]) % 2).astype(np.float32))


def trained(routing: str = "lar", steps: int = 60, **options) -> AdaptDHM:
    model = made(routing, **options)
    for step in range(steps):
        ids, dense, labels = events(256, step)
        model.learn(model.table.locate(keys_of_integers(ids), step), dense, labels)
    return model


def state_of(model: AdaptDHM) -> list[bytes]:
    arrays = list(model.table.store.arrays)
    arrays += [tensor.detach().numpy() for tensor in (*model.parameters(), *model.buffers())]
    arrays += [array for moments in model.optimiser.state.values() for array in moments]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_it_learns_and_says_what_it_learnt_whatever_the_order_of_rows(routing):
    model = trained(routing).eval()
    ids, dense, labels = events(400, 999)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids), dense)
        order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
        again = model(torch.from_numpy(ids)[order], dense[order])
    assert float(((logits > 0) == (labels > 0.5)).float().mean()) > 0.9
    torch.testing.assert_close(again, logits[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_evaluation_changes_nothing(routing):
    model = trained(routing, steps=5)
    before = state_of(model)
    model.eval()
    ids, dense, _ = events(100, 5, ids=50)
    with torch.no_grad():
        model(torch.from_numpy(ids), dense)
    model.route(torch.from_numpy(ids), dense)
    assert state_of(model) == before


def test_grouped_dispatch_is_all_networks_and_a_choice():
    network = Hard((10, 7, 5, 1), 4, torch.Generator().manual_seed(0))
    for bias in network.own_bias:
        torch.nn.init.normal_(bias)
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(1))
    cluster = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(2))  # nobody in the fourth
    naive = torch.stack([network.one(x, k) for k in range(4)], 1)[torch.arange(200), cluster]
    torch.testing.assert_close(network(x, cluster), naive, rtol=0, atol=1e-5)
    assert network(x[:0], cluster[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_forced_cluster_is_the_perceptron_of_the_product_weights(kind):
    random = torch.Generator().manual_seed(3)
    network = (Hard if kind == "hard" else Soft)((6, 5, 4, 1), 8, random)
    x = torch.randn(50, 6, generator=random)
    for number in range(8):
        if kind == "hard":
            found = network(x, torch.full((50,), number))
        else:
            found = network(x, torch.eye(8)[number].expand(50, -1))
        h, start = x.double(), 0
        for at, (shared, factor, bias) in enumerate(
            zip(network.shared, network.factor, network.bias, strict=True)
        ):
            if kind == "hard":
                weight, b = shared * factor[number], bias + network.own_bias[at][number]
            else:
                wide = shared.shape[0]
                weight = torch.diag(1 + network.gates[number, start : start + wide]) @ (shared * factor)
                b, start = bias, start + wide
            h = h @ weight.double() + b.double()
            h = torch.relu(h) if at < 2 else h
        if kind == "soft":
            h = h + network.offset[number].double()
        torch.testing.assert_close(found.double(), h.squeeze(1), rtol=0, atol=1e-5)


def test_the_router_is_taught_by_the_loss():
    """dL/dT is what a difference quotient of the loss says; a router without gradient would stand still."""
    model = made()
    ids, dense, labels = events(300)
    rows = model.table.locate(keys_of_integers(ids), 0.0)
    model.measure(dense)
    store = model.table.store

    def loss() -> torch.Tensor:
        logits = model.score(rows, dense)[0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double())

    loss().backward()
    noted, factors, x_gradient, sums_gradient = model.table._waiting[0]
    flat = noted.reshape(-1)
    found = np.empty(len(flat), np.uint32)
    place = np.zeros(len(store.arrays.blocks), np.int32)
    n = kernels.distinct(flat, place, found)
    total = np.zeros((n, 16), np.float32)
    kernels.sum_by_row(noted, 1, factors, x_gradient, sums_gradient, place, total)
    model.table.drop_gradients()
    row = int(rows[0, 0])
    mine = total[int(place[row]) - 1]
    block = store.arrays.head[row]
    scores = store.arrays.chain[block]
    assert np.abs(mine[8:]).max() > 1e-5
    for at, gradient in ((block, mine[:8]), (scores, mine[8:])):
        for lane in range(8):
            kept = store.arrays.fp32[at, lane]
            ends = []
            for move in (2e-3, -2e-3):
                store.arrays.fp32[at, lane] = kept + move
                with torch.no_grad():
                    ends.append(float(loss()))
            store.arrays.fp32[at, lane] = kept
            assert (ends[0] - ends[1]) / 4e-3 == pytest.approx(gradient[lane], rel=0.1, abs=2e-4)


def test_an_unknown_value_and_one_that_gave_up_its_scores_are_neutral():
    model = trained(steps=20).eval()
    unknown = torch.tensor([[10_000, 10_001, 10_002, 10_003]])
    _, coefficient = model.route(unknown, torch.zeros(1, 2))
    np.testing.assert_allclose(coefficient.numpy(), 1 / 8, atol=1e-6)
    row = model.table.store.rows_of([3], 0)
    model.table.store.take_back(row)
    _, coefficient = model.route(torch.tensor([[3, 10_001, 0, 0]]), torch.zeros(1, 2))
    np.testing.assert_allclose(coefficient.numpy(), 1 / 8, atol=1e-6)
    model.table.locate(
        keys_of_integers(np.array([[3, 1, 0, 0]])), 1.0
    )  # and is given new ones when it comes back
    assert int(model.table.store.arrays.blocks[row[0]]) == 2


def test_beside_one_of_few_values_a_context_of_many_counts_for_less():
    model = made(rows=4_000, contexts=2_000)
    ids = np.zeros((640, 4), np.int64)
    ids[:, 0] = np.arange(640)
    model.table.locate(keys_of_integers(ids), 0.0)
    factors = model.table.factors
    assert factors[0, 0] == pytest.approx(10 * 64 / 640)
    assert factors[1, 0] == 10
    assert not factors[2:].any()
    ids[:128, 1] = np.arange(128)  # now both have many
    model.table.locate(keys_of_integers(ids), 1.0)
    assert model.table.factors[:2, 0] == pytest.approx([10 * 128 / 640, 10])


def crossed(**options) -> AdaptDHM:
    return made(crosses=((0, 1), (1, 0, 2)), rows=2_000, contexts=1_000, **options)


def test_a_cross_is_one_id_of_several():
    model = crossed()
    keys = keys_of_integers(events(500)[0])
    rows = model.table.locate(keys, 0.0)
    assert rows.shape == (500, 6)
    for at, places in ((4, (0, 1)), (5, (1, 0, 2))):
        together = [tuple(row) for row in keys[:, places, 0].tolist()]
        pairs = set(zip(together, rows[:, at].tolist(), strict=True))
        assert len(pairs) == len(set(together)) == len(set(rows[:, at].tolist()))
    assert not set(rows[:, 4].tolist()) & set(rows[:, 5].tolist())
    np.testing.assert_array_equal(model.table.find(keys), rows)
    keys[3, 1, 1] = ABSENT
    assert (model.table.find(keys)[3, 4:] == 0).all()  # what is made of something absent is absent


def test_a_cross_has_scores_alone_and_says_nothing_until_it_has_learnt():
    plain, model = made(rows=2_000, contexts=1_000), crossed()
    ids, dense, labels = events(256)
    keys = keys_of_integers(ids)
    rows = model.table.locate(keys, 0.0)
    x, sums = model.table(rows)
    assert x.shape == plain.table(plain.table.locate(keys, 0.0))[0].shape
    arrays = model.table.store.arrays
    assert (arrays.blocks[rows[:, 4:]] == 1).all()  # eight clusters, no embedding
    assert not arrays.fp32[arrays.head[rows[:, 4:]]].any()
    _, without = model.table(rows * np.array([1, 1, 1, 1, 0, 0], np.uint32))
    torch.testing.assert_close(sums, without, rtol=0, atol=0)
    model.learn(rows, dense, labels)
    learnt = arrays.fp32[arrays.head[rows[:, 4:]]].sum(1)
    assert learnt.any(1).all()
    _, sums = model.table(rows)
    _, without = model.table(rows * np.array([1, 1, 1, 1, 0, 0], np.uint32))
    np.testing.assert_allclose((sums - without).detach(), 5.0 * learnt, atol=1e-5)  # half of ten


@pytest.mark.parametrize("routing", ["lar", "none"])
def test_wide_embeddings_are_whole_in_every_field(routing):
    model = made(routing, dim=16)
    ids, dense, labels = events(64)
    rows = model.table.locate(keys_of_integers(ids), 0.0)
    assert (model.table(rows)[0].reshape(64, 4, 16) != 0).all()
    before = model.table(rows)[0].detach()
    model.learn(rows, dense, labels)
    assert (model.table(rows)[0] != before).reshape(64, 4, 16).any(0).all()


def test_crosses_learn_what_no_sum_of_scores_can_say():
    world = clicks(100_000, 101, "crossed")
    keys, labels = keys_of_integers(world.ids), torch.from_numpy(world.clicked)
    loss = {}
    for crosses in ((), (PLACES[:3],)):
        model = AdaptDHM(
            Shape(fields=7, context=PLACES, crosses=crosses, rows=16_384, contexts=4_096), seed=1
        )
        said = []
        for start in range(0, len(labels), 512):
            part = slice(start, start + 512)
            said.append(model.learn(model.table.locate(keys[part], start), None, labels[part]))
        logits = torch.cat(said)[50_000:]
        loss[crosses] = float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[50_000:]))
    without, with_ = loss.values()
    assert with_ < without - 0.003


def test_the_table_never_outgrows_its_rows():
    model = made(rows=50, contexts=20)
    for step in range(40):
        ids, dense, labels = events(64, step, ids=40 + 20 * step)
        model.learn(model.table.locate(keys_of_integers(ids), step), dense, labels)
        assert model.table.store.live_rows < 50
    assert model.table.store.counts["evicted"] > 0


def test_adam_is_torchs():
    weights = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    theirs = torch.nn.Parameter(weights.detach().clone())
    mine, reference = (
        Adam({"w": weights}, {"w": 3.0}),
        torch.optim.Adam([theirs], lr=0.03, betas=(0.9, 0.999)),
    )
    for step in range(20):
        for parameter in (weights, theirs):
            parameter.grad = None
            ((parameter * (step % 3 - 1.5)).sin() * parameter).sum().backward()
        mine.step(0.01)
        reference.step()
    torch.testing.assert_close(weights, theirs, rtol=1e-4, atol=1e-6)


def test_the_table_takes_adams_steps_for_the_rows_touched():
    """Against torch's SparseAdam, with ids that come several times in a batch."""
    model = made("none", numbers=0, hidden=())
    ids = torch.from_numpy(events(64, ids=5)[0])
    rows = model.table.locate(keys_of_integers(ids.numpy()), 0.0)
    start = model.table.store.gather(np.arange(300, dtype=np.uint32), 1)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    sparse = torch.optim.SparseAdam([theirs], lr=0.02)
    target = torch.linspace(0, 1, 32)
    for _ in range(5):
        x, _ = model.table(rows)
        ((x - target) ** 2).mean().backward()
        model.table.step(0.02)
        sparse.zero_grad()
        looked = torch.nn.functional.embedding(torch.from_numpy(rows.astype(np.int64)), theirs, sparse=True)
        ((looked.reshape(64, 32) - target) ** 2).mean().backward()
        sparse.step()
    found = model.table.store.gather(np.arange(300, dtype=np.uint32), 1)
    np.testing.assert_allclose(
        found[np.unique(rows)], theirs.detach().numpy()[np.unique(rows)], rtol=1e-4, atol=1e-6
    )


def test_prototypes_stay_on_the_sphere_and_none_starves():
    model = trained("reference", steps=80)
    torch.testing.assert_close(model.routing.centre.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)
    ids, dense, _ = events(500, 77)
    cluster, coefficient = model.eval().route(torch.from_numpy(ids), dense)
    torch.testing.assert_close(coefficient.sum(1), torch.ones(500), rtol=0, atol=1e-5)
    assert int(torch.bincount(cluster, minlength=4).max()) < 0.9 * 500


def test_numbers_that_are_none_count_as_the_mean():
    model = trained(steps=10).eval()
    ids = torch.from_numpy(events(3)[0])
    odd = torch.tensor([[float("nan"), float("inf")]] * 3)
    mean = model.moments[1].float().expand(3, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, odd), model(ids, mean), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(ids, None), model(ids, mean), rtol=0, atol=1e-5)


def test_running_moments_are_those_of_everything_seen():
    model, rng = made(), np.random.default_rng(0)
    parts = [rng.normal(5, 3, (n, 2)).astype(np.float32) for n in (1, 7, 200, 0)]
    parts[1][3, 0] = np.nan
    for part in parts:
        model.measure(torch.from_numpy(part))
    every = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(model.moments[0], np.isfinite(every).sum(0))
    np.testing.assert_allclose(model.moments[1], np.nanmean(every, 0))
    np.testing.assert_allclose(model.moments[2], np.nanvar(every, 0) * np.isfinite(every).sum(0))


def test_a_step_that_leaves_the_finite_numbers_is_not_taken():
    model = trained(steps=3)
    ids, dense, labels = events(20)
    rows = model.table.locate(keys_of_integers(ids), 9.0)
    with torch.no_grad():
        kept = model.routing.network.bias[0].clone()
        model.routing.network.bias[0].fill_(float("inf"))
    before = state_of(model)
    with pytest.raises(Diverged, match="was not learnt: lower lr"):
        model.learn(rows, dense, labels)
    after = state_of(model)
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) <= 1  # the numbers' moments
    with torch.no_grad():
        model.routing.network.bias[0].copy_(kept)
    model.learn(rows, dense, labels)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"context": ()}, ValueError, "take routing 'none'"),
        ({"context": (9,)}, ValueError, "crosses among them"),
        ({"crosses": ((0, 9),)}, ValueError, "crosses among them"),
        ({"clusters": 12}, ValueError, "in eights"),
        ({"dim": 5}, ValueError, "in eights"),
        ({"rows": 1}, BudgetTooSmall, "rows"),
        ({"hidden": (512,), "field_gates": True}, ValueError, "no field gates"),
    ],
)
def test_shapes_that_cannot_be_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        made(**options)


def test_a_new_domain_needs_no_new_network():
    model = trained(steps=20)
    shapes = [parameter.shape for parameter in model.parameters()]
    ids, dense, labels = events(64)
    ids[:, 1] += 100
    model.learn(model.table.locate(keys_of_integers(ids), 1.0), dense, labels)
    assert [parameter.shape for parameter in model.parameters()] == shapes


def test_field_gates_begin_as_no_gates_and_learn():
    plain, gated = made(clusters=8), made(clusters=8, field_gates=True, hidden=(16, 8))
    ids, dense, labels = events(256)
    rows = gated.table.locate(keys_of_integers(ids), 0.0)
    _, sums = gated.table(rows)
    assert sums.shape[1] >= 8 + 34 + 16 + 8
    assert not sums[:, 8:].any()
    for _ in range(5):
        gated.learn(rows, dense, labels)
    assert gated.table(rows)[1][:, 8:].abs().max() > 0
    assert plain.table.wide == 8


@pytest.mark.parametrize(("variant", "faded"), [("placebo", True), ("base", False)])
def test_a_context_that_says_nothing_is_faded_out_and_no_other(variant, faded):
    n = 300_000 if faded else 120_000
    world = clicks(n, 1, variant)
    model = AdaptDHM(Shape(fields=7, context=PLACES, rows=8_192, contexts=512), seed=1)
    keys, labels = keys_of_integers(world.ids), torch.from_numpy(world.clicked)
    for start in range(0, n, 512):
        part = slice(start, start + 512)
        model.learn(model.table.locate(keys[part], start), None, labels[part])
    assert (float(model.routing.trust) < 0.3) == faded


@pytest.mark.parametrize(
    ("labels", "refused"), [([1.0, float("nan"), 0.0], Diverged), ([1.0], ValueError)], ids=["NaN", "too few"]
)
def test_labels_that_are_none_are_refused_and_nothing_is_learnt(labels, refused):
    model = trained(steps=4)  # the guard does not look at the fifth batch
    ids, dense, _ = events(3)
    rows = model.table.locate(keys_of_integers(ids), 9.0)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    learnt = model.table.store.arrays.fp32.copy()
    with pytest.raises(refused):
        model.learn(rows, dense, torch.tensor(labels))
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    assert np.array_equal(learnt, model.table.store.arrays.fp32)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_copy_goes_on_as_the_original_does(routing):
    twins = [model := trained(routing, steps=3), copy.deepcopy(model)]
    for twin in twins:
        for step in (3, 4):
            ids, dense, labels = events(256, step)
            twin.learn(twin.table.locate(keys_of_integers(ids), step), dense, labels)
    assert state_of(twins[0]) == state_of(twins[1]) != state_of(trained(routing, steps=3))
