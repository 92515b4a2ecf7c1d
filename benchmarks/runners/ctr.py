"""One click model on one world: a single pass, each batch predicted from the forward pass that then learns it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.data.latent import CONTEXT, FIELDS, Clicks, clicks
from benchmarks.data.movielens import clicks_in_time
from benchmarks.runners.ctr_rivals import RIVALS
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.adapt_dhm.adam import Adam
from headrace.streaming.learners.adapt_dhm.model import AdaptDHM, Shape, keys_of_integers
from headrace.streaming.learners.adapt_dhm.network import Hard
from headrace.streaming.metrics import Score

MOMENT = tuple(FIELDS.index(name) for name in CONTEXT if name != "domain")
"""What is known of the moment, taken together: all of the context but the domain, in which every cross would have to be learnt anew."""
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "cross": {"crosses": (MOMENT,)},
    "cross and gates": {"crosses": (MOMENT,), "field_gates": True},
    "k1": {"routing": "none"},
    "k1 crossed": {"routing": "none"},
    "wide k1": {"routing": "none", "hidden": (128, 64)},
    "reference": {"routing": "reference"},
}


F32 = npt.NDArray[np.float32]


class Ours:
    """`AdaptDHM` by its own step."""

    def __init__(self, world: Clicks, args: Args) -> None:
        places = tuple(FIELDS.index(name) for name in CONTEXT)
        ids = world.ids
        if args["kind"] == "k1 crossed":  # the control for what the cross says as one more field
            together = np.unique(ids[:, MOMENT], axis=0, return_inverse=True)[1].reshape(-1, 1)
            ids = np.concatenate([ids, together], 1)
        shape = Shape(fields=ids.shape[1], context=places, rows=16_384, contexts=4_096, **OURS[args["kind"]])
        self.model = AdaptDHM(shape, lr=args["lr"], seed=args["seed"])
        self._keys, self._labels = keys_of_integers(ids), torch.from_numpy(world.clicked)

    def learn(self, part: slice) -> Any:
        rows = self.model.table.locate(self._keys[part], float(part.start))
        return self.model.learn(rows, None, self._labels[part]).numpy()

    @property
    def weights(self) -> int:
        return weights_of(self.model)


def weights_of(module: Any) -> int:
    """Dense weights; ids' rows are not among a module's parameters here."""
    return sum(int(parameter.numel()) for parameter in module.parameters())


class Oracle:
    """The network of whole factors, each event by the hidden state that it really had: what a perfect partition would bring."""

    def __init__(self, world: Clicks, args: Args) -> None:
        made = Ours(world, {**args, "kind": "k1"})
        self._table, self._keys, self._labels = made.model.table, made._keys, made._labels
        self._state = torch.from_numpy(world.state)
        self.network = Hard(made.model.shape.widths, 4, torch.Generator().manual_seed(args["seed"]))
        with torch.no_grad():
            for factor in self.network.factor:
                factor.add_(
                    0.55
                    * torch.randn(factor.shape, generator=torch.Generator().manual_seed(args["seed"] + 1))
                )
        self._adam, self._lr = Adam(dict(self.network.named_parameters()), {}), args["lr"]

    def learn(self, part: slice) -> Any:
        x, _ = self._table(self._table.locate(self._keys[part], float(part.start)))
        logits = self.network(x, self._state[part])
        torch.nn.functional.binary_cross_entropy_with_logits(logits, self._labels[part]).backward()
        self._adam.step(self._lr)
        self._table.step(self._lr)
        return logits.detach().numpy()

    @property
    def weights(self) -> int:
        return weights_of(self.network)


class Rival:
    """A torch module with torch's Adam."""

    def __init__(self, world: Clicks, args: Args) -> None:
        torch.manual_seed(args["seed"])
        self.model = RIVALS[args["kind"]]((world.ids.max(0) + 1).tolist())
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=args["lr"], fused=True)
        self._ids, self._labels = torch.from_numpy(world.ids), torch.from_numpy(world.clicked)

    def learn(self, part: slice) -> Any:
        logits = self.model(self._ids[part])
        self._optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, self._labels[part]).backward()
        self._optimiser.step()
        return logits.detach().numpy()

    @property
    def weights(self) -> int:
        return weights_of(self.model) - int(self.model.table.weight.numel())


def single_pass(world: Clicks, args: Args) -> tuple[F32, float, float, float]:
    """Each batch predicted, then learnt: logits `float32[n]`, rows learnt a CPU second, CPU seconds, dense weights."""
    kind = args["kind"]
    model = (Ours if kind in OURS else Oracle if kind == "oracle" else Rival)(world, args)
    n, batch = len(world.clicked), args["batch"]
    logits = np.empty(n, np.float32)
    warm = batch * max(1, min(20, n // (4 * batch)))  # what compiles or allocates once is not learning
    began = time.process_time()
    for start in range(0, n, batch):
        part = slice(start, min(start + batch, n))
        logits[part] = model.learn(part)
        if start + batch == warm:
            began = time.process_time()
    spent_s = time.process_time() - began
    return logits, (n - warm) / spent_s, spent_s, float(model.weights)


class Pass(Runner):
    """One pass over a world."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        self._args = args
        if args["world"] == "movielens":
            self._world = clicks_in_time(Path(args["folder"]))
        else:
            self._world = clicks(args["rows"], args["world_seed"], args["world"], args["domains"])

    def run(self) -> Result:
        world, n = self._world, len(self._world.clicked)
        logits, rate, spent_s, weights = single_pass(world, self._args)
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        scores: dict[str, Any] = {}
        for name, part in (("", slice(n // 2, n)), ("third_", slice(n // 2, 3 * n // 4))):
            score = Score()
            score.update(p[part].astype(np.float32), world.clicked[part].astype(np.uint8))
            scores |= {f"{name}auc": score.auc, f"{name}log_loss": score.log_loss}
        scores |= {"rate": rate, "cpu_s": spent_s, "weights": weights}
        return Result({name: float(value or 0.0) for name, value in scores.items()})


if __name__ == "__main__":
    serve(Pass)
