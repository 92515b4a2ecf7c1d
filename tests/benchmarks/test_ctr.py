"""The worlds of ``ctr`` are those that earlier figures were measured on, its rivals are what their loops would be, its view does sums."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from benchmarks.ctr_view import block
from benchmarks.data.latent import CONTEXT, FIELDS, clicks
from benchmarks.runners.ctr_rivals import RIVALS, Laid, PerDomain

DIGESTS = {
    ("base", 20_000, 1, 12): "b73fb09d6d573233",
    ("base", 20_000, 4, 12): "5639d1d49418b029",
    ("base", 5_000, 2, 100): "ae17cff4bf71dbb7",
    ("drift", 20_000, 1, 12): "689bf1ffe20e57d7",
    ("drift", 20_000, 4, 12): "a4372669e271273e",
    ("null", 20_000, 1, 12): "41eaa95b02345643",
    ("null", 5_000, 2, 100): "1de33a06bc4cd803",
}
"""sha256 of ids and labels as the first program of these worlds drew them."""


@pytest.mark.parametrize("world", DIGESTS, ids=str)
def test_worlds_are_drawn_as_they_always_were(world: tuple[str, int, int, int]) -> None:
    variant, rows, seed, domains = world
    made = clicks(rows, seed, variant, domains)  # type: ignore[arg-type]
    raw = made.ids.astype("<i8").tobytes() + made.clicked.astype("<f4").tobytes()
    assert hashlib.sha256(raw).hexdigest()[:16] == DIGESTS[world]


def test_placebo_and_crossed_differ_from_base_where_they_say() -> None:
    base, placebo, crossed = (clicks(5_000, 1, name) for name in ("base", "placebo", "crossed"))
    context = [FIELDS.index(name) for name in CONTEXT]
    rest = [place for place in range(len(FIELDS)) if place not in context]
    np.testing.assert_array_equal(base.clicked, placebo.clicked)
    np.testing.assert_array_equal(base.ids[:, rest], placebo.ids[:, rest])
    assert sorted(map(tuple, base.ids[:, context])) == sorted(map(tuple, placebo.ids[:, context]))
    assert (base.ids[:, context] != placebo.ids[:, context]).any(1).mean() > 0.9
    np.testing.assert_array_equal(base.ids, crossed.ids)
    assert 0.6 < (base.state != crossed.state).mean() < 0.9
    with pytest.raises(ValueError, match="expected base, drift"):
        clicks(10, 1, "other")  # type: ignore[arg-type]


def test_layers_per_domain_are_what_a_loop_over_rows_makes() -> None:
    torch.manual_seed(0)
    domain = torch.randint(0, 7, (60,))
    domain[domain == 4] = 5  # a domain without rows
    layer, x = PerDomain(7, 6, 3), torch.randn(60, 6)
    torch.nn.init.normal_(layer.bias)
    one_by_one = torch.stack(
        [row @ layer.weight[d] + layer.bias[d] for row, d in zip(x, domain, strict=True)]
    )
    torch.testing.assert_close(layer(x, Laid(domain, 7)), one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", RIVALS)
def test_rivals_learn_what_depends_on_the_domain(kind: str) -> None:
    torch.manual_seed(0)
    model = RIVALS[kind]([20, 20, 5, 5, 5, 5, 4])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    rng = np.random.default_rng(0)
    for _ in range(150):
        ids = np.stack([rng.integers(0, n, 128) for n in (20, 20, 5, 5, 5, 5, 4)], 1)
        wanted = (ids[:, 0] + ids[:, 6]) % 2
        logits = model(torch.from_numpy(ids))
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(wanted.astype(np.float32))
        ).backward()
        optimiser.step()
    assert (((logits > 0).numpy() == (wanted > 0)).mean()) > 0.9


def test_the_view_pairs_seeds_and_names_the_worst() -> None:
    def run(auc: float) -> dict[str, float]:
        return {"auc": auc, "third_auc": auc, "log_loss": 0.5, "rate": 1e5, "cpu_s": 2.0, "weights": 10.0}

    lines = block("base", {"ours": {"1": run(0.76), "2": run(0.74)}, "K=1": {"1": run(0.73), "2": run(0.72)}})
    ours = next(line for line in lines if line.startswith("ours"))
    # +0.03 and +0.02: mean 0.025, half width 12.706 * 0.00707 / sqrt(2).
    assert "+0.0250 -0.0385..+0.0885  +0.0200" in ours
