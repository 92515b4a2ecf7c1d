"""Recommenders trained for the benchmark: a large catalogue's training is that of a small one, judged by fewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.runners.recommender import Training
from benchmarks.runners.recommender_large import LargeTraining

pytest.importorskip("torch")
USERS, ITEMS = 60, 300
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"width": 8, "lr": 0.05, "reg": 0.01, "negatives": 4},
    "bpr": {"width": 8, "lr": 0.02, "reg": 0.01, "density": 0.5, "grow": "gradient"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People who want every third item, in the three parts of a split."""
    made = tmp_path_factory.mktemp("sets")
    place = made / "recsys" / "gowalla-lightgcn"
    place.mkdir(parents=True)
    random = np.random.default_rng(0)
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user in range(USERS):
        wanted = random.permutation(np.arange(user % 3, ITEMS, 3)).tolist()
        for name, items in (("train", wanted[:7]), ("valid", wanted[7:9]), ("test", wanted[9:14])):
            parts[name].append(" ".join(map(str, [user, *items])))
    for name, lines in parts.items():
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return made


def args(folder: Path, kind: str, judges: int) -> dict[str, Any]:
    common = {"dataset": "gowalla", "backbone": "MF", "seed": 1, "epochs": 40, "every": 2, "batch": 64}
    return {"folder": str(folder), "kind": kind, "judges": judges, **common, **KINDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_where_everybody_judges_the_scores_are_those_of_the_small_training(folder: Path, kind: str) -> None:
    small = Training(args(folder, kind, USERS)).run().values
    large = LargeTraining(args(folder, kind, USERS)).run().values
    timed = {"cpu_s", "rate"}
    assert {name: value for name, value in small.items() if name not in timed} == {
        name: value for name, value in large.items() if name not in timed
    }
    assert small["epochs"] > small["epoch"] > 2, "the best epoch is neither the first asked nor the last"


def test_scores_are_of_everybody_and_of_the_epoch_that_the_judges_chose(folder: Path) -> None:
    found = LargeTraining(args(folder, "dense", 5)).run().values
    chosen = args(folder, "dense", USERS) | {"epochs": int(found["epoch"]), "every": int(found["epoch"])}
    at_that_epoch = Training(chosen).run().values
    for name in ("valid", "recall", "ndcg"):
        assert found[name] == at_that_epoch[name]
    assert found["epoch"] != Training(args(folder, "dense", USERS)).run().values["epoch"]
