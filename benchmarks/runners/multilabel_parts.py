"""The parts of IHOMER one by one: scores, rates and memory on public streams, and what drift and many labels do to each form.

Streams with drift are made here, so that the truth is known: labels come in groups that a topic of features switches on, and at
known rows a change is made. ``correlation``: labels change groups; ``concept``: a group's features come to mean the opposite;
``labels``: a group vanishes and a new one appears.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np

from benchmarks.runners.multilabel_ours import SPARSE_BELOW, Batches, warm
from benchmarks.runners.multilabel_stream import Prequential, Stream, Tally, prequential, read
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.ihomer.model import IHOMER

DRIFT_ROWS = 12_000
CHANGE_AT = 6_000
AFTER_ROWS = 1_500
FALSE_BEFORE = 1_000
"""Alarms before this row are the learner's own warming up; between here and the change they are false."""


def drifting(kind: str, seed: int, n: int = DRIFT_ROWS) -> Stream:
    """12,000 rows, 30 features and 24 labels in 4 groups; the change comes at row 6,000."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 30))
    directions = rng.normal(size=(4, 30)) / np.sqrt(30)
    own = rng.normal(size=(24, 30)) / np.sqrt(30)
    groups = np.repeat(np.arange(4), 6)
    after = groups.copy()
    if kind == "correlation":
        after = np.concatenate([groups[0::2], groups[1::2]])
    y = np.zeros((n, 24), np.uint8)
    for start, stop, group in ((0, n // 2, groups), (n // 2, n, after)):
        part = x[start:stop]
        topic = 3.0 * part @ directions.T
        if kind == "concept" and start:
            topic[:, :2] *= -1.0
        on = 1 / (1 + np.exp(-(topic - 1.0)))
        label = 1 / (1 + np.exp(-(2.0 * part @ own.T)))
        y[start:stop] = (rng.random((stop - start, 4)) < on)[:, group] & (
            rng.random((stop - start, 24)) < label
        )
    if kind == "labels":
        y[n // 2 :, :6] = 0
        y[: n // 2, 18:] = 0
    return Stream(x, y, [str(i) for i in range(30)], [str(i) for i in range(24)])


def many(labels: int, seed: int, n: int = 3_000) -> Stream:
    """Rows with 30 of 2,000 words from one of labels/10 topics, and a few of the topic's 10 labels."""
    rng = np.random.default_rng(seed)
    topics = labels // 10
    topic = rng.integers(0, topics, n)
    words = rng.integers(0, 2_000, (topics, 60))
    x = np.zeros((n, 2_000))
    for row in range(n):
        x[row, words[topic[row], rng.integers(0, 60, 24)]] = 1.0
        x[row, rng.integers(0, 2_000, 6)] = 1.0
    y = np.zeros((n, labels), np.uint8)
    for k in range(10):
        y[np.arange(n), topic * 10 + k] = rng.random(n) < (0.8 if k < 3 else 0.2)
    return Stream(x, y, [str(i) for i in range(2_000)], [str(i) for i in range(labels)])


class Drift(Runner):
    """One form on a stream with a known change: scores after it, delay of what it noticed, false alarms."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._stream = drifting(args["kind"], args["seed"])

    def run(self) -> Result:
        stream, options = self._stream, dict(self._args["options"])
        frozen = options.pop("frozen", False)
        model = IHOMER(sparse=False, **options)
        after = Tally(len(stream.labels))
        for at in range(0, DRIFT_ROWS, 10):
            x, y = stream.x[at : at + 10], stream.y[at : at + 10]
            if CHANGE_AT <= at < CHANGE_AT + AFTER_ROWS:
                after.add(model.predict_many(x).to_numpy().astype(np.uint8), y)
            if not (frozen and at >= CHANGE_AT):
                model.learn_many(x, y)
        noticed = [e.row for e in model.events if e.kind in ("drift", "alarm") and e.row >= FALSE_BEFORE]
        merged = [e.row for e in model.events if e.kind in ("merge", "split") and e.row >= CHANGE_AT]
        late = [row - CHANGE_AT for row in noticed if row >= CHANGE_AT]
        never = float(DRIFT_ROWS)
        return Result(
            {
                "micro": after.scores()["micro"],
                "macro": after.scores()["macro"],
                "delay": float(min(late, default=never)),
                "false": float(sum(row < CHANGE_AT for row in noticed)),
                "regrouped": float(min((row - CHANGE_AT for row in merged), default=never)),
            }
        )


class Rate(Runner):
    """Rows per CPU second of predicting and learning, in rows or mini-batches, with the F1 of the same run and peak memory."""

    def __init__(self, args: Args) -> None:
        from pathlib import Path

        self._args = args
        labels = args.get("labels")
        path = Path(args["folder"], f"{args['dataset']}.parquet")
        self._stream = many(labels, 0) if labels else read(path, None, rows=args.get("max_rows"))

    def run(self) -> Result:
        stream, batch = self._stream, int(self._args["batch"])
        sparse = bool((stream.x[0] != 0).mean() <= SPARSE_BELOW)
        options = dict(self._args["options"])
        if options.pop("topics", False):
            options["partition"] = [set(range(k, k + 10)) for k in range(0, len(stream.labels), 10)]
        model = IHOMER(sparse=sparse, **options)
        warm(model, stream)
        if batch > 1:
            found = prequential(Batches(stream, model, sparse), stream, 1e9, batch)
            rate = found["n"] / found["cpu_s"]
            return Result({"rate": rate, "micro": found["micro"], "macro": found["macro"], "mb": _peak_mb()})
        rows = _rows(stream, sparse)
        tally = Tally(len(stream.labels))
        used = 0.0
        for row, (x, y) in enumerate(rows):
            began = time.process_time()
            said = model.predict_one(x)
            model.learn_one(x, y)
            used += time.process_time() - began
            out = np.array([[said.get(label, False) for label in stream.labels]], np.uint8)
            tally.add(out, stream.y[row : row + 1])
        return Result(
            {
                "rate": tally.n / used,
                "micro": tally.scores()["micro"],
                "macro": tally.scores()["macro"],
                "mb": _peak_mb(),
            }
        )


def _rows(stream: Stream, sparse: bool) -> list[Any]:
    """Dicts without zeros and sets of labels where the stream is sparse, whole dicts where it is dense."""
    if not sparse:
        return [
            (dict(zip(stream.features, x, strict=True)), dict(zip(stream.labels, map(bool, y), strict=True)))
            for x, y in zip(stream.x.tolist(), stream.y.tolist(), strict=True)
        ]
    return [
        (
            {stream.features[i]: float(x[i]) for i in np.flatnonzero(x)},
            {stream.labels[i] for i in np.flatnonzero(y)},
        )
        for x, y in zip(stream.x, stream.y, strict=True)
    ]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(stream: Stream, args: Args) -> Any:
    """A form of IHOMER for the ablation, in mini-batches."""
    sparse = bool((stream.x[0] != 0).mean() <= SPARSE_BELOW)
    model = IHOMER(sparse=sparse, **args["options"])
    warm(model, stream)
    return Batches(stream, model, sparse)


def start(args: Args) -> Runner:
    """The runner for ``args["what"]``."""
    if args["what"] == "drift":
        return Drift(args)
    return Rate(args) if args["what"] == "rate" else Prequential(args, make)


if __name__ == "__main__":
    serve(start)
