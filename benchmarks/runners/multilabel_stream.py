"""One multi-label model on one stream, prequentially: predict row i, score it, learn it, from the first row to the last.

Nothing is skipped and nothing is known ahead: before the first row is learnt the prediction is the empty labelset, and a label
that a model does not mention is not set. Only predicting and learning are timed, by the process's CPU clock; a run ends early
when they have used their cap, and says how many rows it reached. Scores are kept at up to 64 places of the stream, the same for
all models, so that models can be compared where the slowest of them stopped. An empty prediction of an empty labelset has an
example F1 of 1; a label without positives, true or predicted, has an F1 of 0.

Runs in the rivals' environments: the standard library, numpy and pyarrow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from benchmarks.runners.protocol import Args, Result, Runner

PLACES = 64
SCORES = ("subset", "hamming", "example", "micro", "macro")


@dataclass(frozen=True)
class Stream:
    """x float64[n, D] and y uint8[n, L], in the order of the stream, with the names of their columns."""

    x: Any
    y: Any
    features: list[str]
    labels: list[str]


def read(path: Path, shuffle: int | None, permute: int | None = None, rows: int | None = None) -> Stream:
    """The data set at ``path``, as stored or shuffled by a seed; ``permute`` shuffles the labels against the rows."""
    table = pq.read_table(path)
    labels = json.loads(table.schema.metadata[b"labels"])
    features = [name for name in table.column_names if name not in set(labels)]
    x = np.column_stack([table[name].to_numpy().astype(np.float64) for name in features])
    y = np.column_stack([table[name].to_numpy().astype(np.uint8) for name in labels])
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(len(x))
        x, y = x[order], y[order]
    if permute is not None:
        y = y[np.random.default_rng(permute).permutation(len(y))]
    return Stream(np.ascontiguousarray(x[:rows]), np.ascontiguousarray(y[:rows]), features, labels)


class Model(Protocol):
    """A contestant; rows are numbered, so that each takes them in the form it likes."""

    def take(self, rows: range) -> None:
        """Bring these rows into the model's own form; not timed."""

    def predict(self, rows: range) -> Any:
        """uint8[len(rows), L], changing nothing."""

    def learn(self, rows: range) -> None:
        """Learn these rows in order."""


@dataclass
class Tally:
    """Counts of the rows scored so far, and the scores at the places passed."""

    labels: int
    n: int = 0
    subset: int = 0
    wrong: int = 0
    example: float = 0.0
    at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tp, self.predicted, self.true = (np.zeros(self.labels, np.int64) for _ in range(3))

    def add(self, predicted: Any, true: Any) -> None:
        """Score some rows, uint8[m, L] each."""
        both = predicted & true
        sizes = predicted.sum(1, dtype=np.int64) + true.sum(1, dtype=np.int64)
        hits = both.sum(1, dtype=np.int64)
        self.n += len(true)
        self.subset += int((predicted == true).all(1).sum())
        self.wrong += int((predicted != true).sum())
        self.example += float(np.where(sizes > 0, 2.0 * hits / np.maximum(sizes, 1), 1.0).sum())
        self.tp += both.sum(0, dtype=np.int64)
        self.predicted += predicted.sum(0, dtype=np.int64)
        self.true += true.sum(0, dtype=np.int64)

    def scores(self) -> dict[str, float]:
        """The five scores of the rows so far."""
        sums = self.predicted + self.true
        return {
            "subset": self.subset / max(self.n, 1),
            "hamming": self.wrong / max(self.n * self.labels, 1),
            "example": self.example / max(self.n, 1),
            "micro": float(2.0 * self.tp.sum() / max(int(sums.sum()), 1)),
            "macro": float(np.mean(2.0 * self.tp / np.maximum(sums, 1))),
        }

    def keep(self) -> None:
        """Remember the scores of this place."""
        self.at |= {f"{name}@{self.n}": value for name, value in self.scores().items()}


def prequential(model: Model, stream: Stream, cap_s: float, batch: int = 1) -> Mapping[str, float]:
    """Run ``model`` over ``stream`` in batches of ``batch`` rows until ``cap_s`` CPU seconds are used."""
    n = len(stream.y)
    every = max(-(-n // PLACES) // batch, 1) * batch
    tally, used = Tally(len(stream.labels)), 0.0
    for start in range(0, n, batch):
        rows = range(start, min(start + batch, n))
        model.take(rows)
        began = time.process_time()
        predicted = model.predict(rows)
        used += time.process_time() - began
        tally.add(predicted, stream.y[start : rows.stop])
        began = time.process_time()
        model.learn(rows)
        used += time.process_time() - began
        if rows.stop % every == 0 or rows.stop == n:
            tally.keep()
        if used > cap_s:
            break
    tally.keep()
    return {"n": float(tally.n), "rows": float(n), "cpu_s": used, **tally.scores(), **tally.at}


class Prequential(Runner):
    """Runs a contestant over a stream; each repetition begins with a model that has learnt nothing."""

    def __init__(self, args: Args, make: Any) -> None:
        self._args, self._make = args, make
        path = Path(args["folder"], f"{args['dataset']}.parquet")
        self._stream = read(path, args["shuffle"], args.get("permute"), args.get("max_rows"))

    def prepare(self) -> None:
        self._model: Model = self._make(self._stream, self._args)

    def run(self) -> Result:
        return Result(
            prequential(self._model, self._stream, self._args["cap_s"], int(self._args.get("batch", 1)))
        )


class OneByOne:
    """A model of River's kind: dicts in, dicts out."""

    def __init__(self, stream: Stream, model: Any) -> None:
        self._stream, self._model = stream, model
        self._x: dict[str, float] = {}
        self._y: dict[str, bool] = {}

    def take(self, rows: range) -> None:
        stream, row = self._stream, rows.start
        self._x = dict(zip(stream.features, stream.x[row].tolist(), strict=True))
        self._y = dict(zip(stream.labels, stream.y[row].astype(bool).tolist(), strict=True))

    def predict(self, rows: range) -> Any:
        said = self._model.predict_one(self._x) or {}
        out = np.array([bool(said.get(label, False)) for label in self._stream.labels], np.uint8)
        return out[None, :]

    def learn(self, rows: range) -> None:
        self._model.learn_one(self._x, self._y)
