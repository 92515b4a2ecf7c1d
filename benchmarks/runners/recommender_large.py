"""`recommender`'s training where ranking the catalogue for everybody costs more than an epoch.

The epoch is chosen by the validation part of `judges` users, drawn by the seed. The test part is ranked once, for all users, by the
model of that epoch, and so is the whole validation part, whose score is reported.
"""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.data.interactions import Ranking, Sampler, Split
from benchmarks.runners.protocol import Args, Result, serve
from benchmarks.runners.recommender import Training

READ = (Split, Sampler, ModuleType)
"""What models hold that is no part of what they have learnt; data are many times their size."""


class LargeTraining(Training):
    """Train until the judges' validation part no longer improves; the scores of the best epoch."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        self._whole = {"valid": self._valid, "test": self._test}
        split = self._split
        judges = np.random.default_rng(args["seed"]).permutation(split.n_users)[: args["judges"]]
        users, items = split.valid
        theirs = np.isin(users, judges)
        self._valid = Ranking(split, (users[theirs], items[theirs]), [split.train])

    def run(self) -> Result:
        self._test = best = _Kept()
        found = super().run()
        valid, _ = self._whole["valid"].score(best.model.scores)
        recall, ndcg = self._whole["test"].score(best.model.scores)
        return Result({**found.values, "valid": valid, "recall": recall, "ndcg": ndcg})


class _Kept(Ranking):
    """In the place of the test part's ranking, asked at each better epoch: keeps that epoch's model."""

    def __init__(self) -> None:
        self.model: Any = None

    def score(self, scores_of: Any) -> tuple[float, float]:
        model = scores_of.__self__
        shared = {id(part): part for part in vars(model).values() if isinstance(part, READ)}
        self.model = copy.deepcopy(model, shared)
        return float("nan"), float("nan")


if __name__ == "__main__":
    serve(LargeTraining)
