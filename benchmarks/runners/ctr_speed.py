"""How fast a click model learns and predicts in large batches, and where the time of a learnt batch goes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.runners.ctr_rivals import Dnn
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.adapt_dhm.model import AdaptDHM, Shape, keys_of_integers

SIZES = (
    200_000,
    50_000,
    20_000,
    5_000,
    1_000,
    1_000,
    500,
    200,
    100,
    100,
    50,
    50,
    24,
    24,
    20,
    12,
    12,
    7,
    6,
    4,
    3,
    2,
)
"""Values of the 22 fields, drawn by Zipf's law."""
CONTEXT = (12, 14, 15, 17, 18)
WARM = 5


class Large(Runner):
    """Batches of made ids through one model, phase by phase."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        self._args = args
        rng = np.random.default_rng(0)
        n = args["batches"] * args["batch"]
        sizes = SIZES[: args["fields"]]
        self._ids = np.stack([rng.zipf(1.2, n) % size for size in sizes], 1).astype(np.int64)
        self._labels = torch.from_numpy((rng.random(n) < 0.2).astype(np.float32))

    def run(self) -> Result:
        return self._dnn() if self._args["routing"] == "dnn" else self._ours()

    def _parts(self) -> list[slice]:
        args = self._args
        return [slice(at * args["batch"], (at + 1) * args["batch"]) for at in range(args["batches"])]

    def _ours(self) -> Result:
        shape = Shape(
            fields=self._args["fields"],
            context=CONTEXT,
            routing=self._args["routing"],
            rows=1 << 19,
            contexts=1 << 12,
        )
        model = AdaptDHM(shape, seed=0)
        keys, loss = keys_of_integers(self._ids), torch.nn.functional.binary_cross_entropy_with_logits
        spent, clock = np.zeros(5), time.process_time
        for number, part in enumerate(self._parts()):
            if number == WARM:
                spent[:] = 0
            times = [clock()]
            rows = model.table.locate(keys[part], float(number))
            times.append(clock())
            logits, _, x, sums = model.score(rows, None)
            lost = loss(logits, self._labels[part])
            times.append(clock())
            lost.backward()
            times.append(clock())
            model.routing.after(x.detach(), sums.detach(), self._labels[part], logits.detach())
            model.step()
            times.append(clock())
            spent[:4] += np.diff(times)
        began = clock()
        with torch.no_grad():
            for part in self._parts():
                torch.sigmoid(model.score(model.table.find(keys[part]), None)[0]).numpy()
        return self._result(spent, clock() - began)

    def _dnn(self) -> Result:
        model = Dnn([int(size) for size in self._ids.max(0) + 1])
        optimiser = torch.optim.Adam(model.parameters(), lr=8e-3, fused=True)
        ids, loss = torch.from_numpy(self._ids), torch.nn.functional.binary_cross_entropy_with_logits
        spent, clock = np.zeros(5), time.process_time
        for number, part in enumerate(self._parts()):
            if number == WARM:
                spent[:] = 0
            times = [clock()]
            x = model.table(ids[part] + model.starts).flatten(1)
            times.append(clock())
            lost = loss(model.head(x, ids[part]).squeeze(1), self._labels[part])
            times.append(clock())
            optimiser.zero_grad(set_to_none=True)
            lost.backward()
            times.append(clock())
            optimiser.step()
            times.append(clock())
            spent[:4] += np.diff(times)
        began = clock()
        with torch.no_grad():
            for part in self._parts():
                torch.sigmoid(model(ids[part])).numpy()
        return self._result(spent, clock() - began)

    def _result(self, spent: Any, predicting_s: float) -> Result:
        args = self._args
        batches = args["batches"] - WARM
        names = ("look-up", "forward", "backward", "update")
        values = {name: 1e3 * float(part) / batches for name, part in zip(names, spent, strict=False)}
        values["learnt"] = batches * args["batch"] / float(spent.sum())
        values["predicted"] = args["batches"] * args["batch"] / predicting_s
        return Result(values)


if __name__ == "__main__":
    serve(Large)
