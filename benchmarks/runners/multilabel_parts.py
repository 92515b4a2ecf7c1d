"""The parts of IHOMER one by one: scores, rates and memory on public streams, and what many labels do to each form.

Memory is asked of the kernel in a process that holds the learner and one row after the other, as a user's would: the kernels come
from a warm cache, and the data set lies in a file of plain numbers.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.multilabel_made import many
from benchmarks.runners.multilabel_ours import SPARSE_BELOW, Batches, warm
from benchmarks.runners.multilabel_stream import Prequential, Stream, Tally, prequential, read
from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.learners.ihomer.model import IHOMER


class Rate(Runner):
    """Rows per CPU second of predicting and learning, in rows or mini-batches, with the F1 of the same run and peak memory."""

    def __init__(self, args: Args) -> None:
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


class Memory(Runner):
    """MB of a process that learns row by row, by what it does, and of the model alone."""

    def __init__(self, args: Args) -> None:
        self._args = args
        stream = read(Path(args["folder"], f"{args['dataset']}.parquet"), None, rows=args["max_rows"])
        self._x, self._y = (Path(args["scratch"], f"{name}.npy") for name in "xy")
        np.save(self._x, stream.x.astype(np.float32))
        np.save(self._y, stream.y)

    def run(self) -> Result:
        command = [sys.executable, "-m", "benchmarks.runners.multilabel_memory", str(self._x), str(self._y)]
        first, second = (  # the first fills the cache of kernels
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
            for _ in range(2)
        )
        names = "imported", "learnt", "peak", "model"
        values = dict(zip(names, map(float, second.split()), strict=True))
        return Result(values | {"compiling": float(first.split()[2])})


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
    if args["what"] == "memory":
        return Memory(args)
    return Rate(args) if args["what"] == "rate" else Prequential(args, make)


if __name__ == "__main__":
    serve(start)
