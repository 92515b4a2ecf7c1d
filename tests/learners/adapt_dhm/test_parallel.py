"""Processes that learn together end where one alone would, and all at the same place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
from headrace.streaming.learners.adapt_dhm.fields import Inputs

ROOT = Path(__file__).parents[3]


def made(routing: str) -> AdaptDHMClassifier:
    return AdaptDHMClassifier(
        ids=("a", "b"),
        numbers=("x",),
        context=("a",),
        routing=routing,
        clusters=8,
        hidden=(16,),
        rows=60,
        contexts=30,
        lr=1e-3,
    )


def batches(model: AdaptDHMClassifier, n: int = 30) -> Iterator[tuple[Inputs, np.ndarray]]:
    rng = np.random.default_rng(0)
    assert model.fields is not None
    for _ in range(n):
        size = int(rng.integers(3, 64))
        a, b = rng.integers(0, 20, size), rng.integers(0, 90, size)
        rows = [
            {"a": int(x), "b": int(y), "x": float(z)}
            for x, y, z in zip(a, b, rng.normal(size=size), strict=True)
        ]
        yield model.fields.rows(rows), ((a + b) % 2).astype(np.float32)


@pytest.mark.parametrize("routing", ["lar", "reference"])
def test_two_processes_end_where_one_would(routing: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.learners.adapt_dhm.learn_together", str(tmp_path / "meet")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [*command, str(rank), "2", routing, str(tmp_path / str(rank))], env=environment, cwd=ROOT
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    first, second = ((tmp_path / str(rank)).read_bytes() for rank in range(2))
    assert first == second
    alone, together = made(routing), AdaptDHMClassifier.from_bytes(first)
    assert alone.model is not None
    assert together.model is not None
    for number, (inputs, labels) in enumerate(batches(alone)):
        rows = alone.model.table.locate(inputs.keys, float(number))
        alone.model.learn(rows, torch.from_numpy(inputs.numbers), torch.from_numpy(labels))
    for mine, theirs in zip(alone.model.parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        alone.model.table.store.arrays.fp32, together.model.table.store.arrays.fp32, atol=1e-6
    )
    assert alone.model.table.store.counts == together.model.table.store.counts
