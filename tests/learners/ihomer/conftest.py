"""Streams for the tests of the multi-label learner: made ones whose truth is known, and real ones where they are at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest


@dataclass(frozen=True)
class Labelled:
    """x float64[n, D], y uint8[n, L]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def made(seed: int = 0, n: int = 400, features: int = 12, labels: int = 7, sparse: bool = False) -> Labelled:
    """Labels that are linear in the features, in groups that exclude each other half of the time."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features))
    if sparse:
        x = np.where(rng.random(x.shape) < 0.2, np.abs(x) * 3, 0.0)
    logits = 3.0 * x @ rng.normal(size=(features, labels)) / np.sqrt(features) - 1.0
    return Labelled(x, (logits + rng.logistic(size=logits.shape) > 0).astype(np.uint8))


def read(folder: Path, name: str) -> Labelled:
    table = pq.read_table(folder / "multilabel" / f"{name}.parquet")
    labels = json.loads(table.schema.metadata[b"labels"])
    features = [column for column in table.column_names if column not in set(labels)]
    x = np.column_stack([table[column].to_numpy().astype(np.float64) for column in features])
    return Labelled(x, np.column_stack([table[label].to_numpy().astype(np.uint8) for label in labels]))


def scores(said: np.ndarray, y: np.ndarray) -> dict[str, float]:
    both, total = (said & y).sum(0), said.sum(0, dtype=np.int64) + y.sum(0, dtype=np.int64)
    return {
        "micro": float(2 * both.sum() / max(total.sum(), 1)),
        "macro": float(np.mean(2 * both / np.maximum(total, 1))),
        "subset": float((said == y).all(1).mean()),
        "hamming": float((said != y).mean()),
    }


def prequential(model, stream: Labelled, batch: int = 1) -> np.ndarray:
    said = np.zeros_like(stream.y)
    for at in range(0, len(stream), batch):
        x, y = stream.x[at : at + batch], stream.y[at : at + batch]
        if at:
            said[at : at + batch] = model.predict_many(x).to_numpy()
        model.learn_many(x, y)
    return said


@pytest.fixture(scope="session")
def yeast(datasets: Path) -> Labelled:
    return read(datasets, "yeast")
