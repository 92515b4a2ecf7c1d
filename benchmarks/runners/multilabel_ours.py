"""IHOMER, by its row interface, or in mini-batches when the arguments say ``batch``; and the two trivial models."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.runners.multilabel_stream import OneByOne, Prequential, Stream
from benchmarks.runners.protocol import Args, serve
from headrace.streaming.learners.ihomer.model import IHOMER
from headrace.streaming.learners.ihomer.trivial import MajorityLabelset, NoChange

SPARSE_BELOW = 0.3
TRIVIAL = {"no-change": NoChange, "majority labelset": MajorityLabelset}


class Rows(OneByOne):
    """Dicts as a user of a sparse stream makes them: without what is 0."""

    def __init__(self, stream: Stream, model: Any, sparse: bool) -> None:
        super().__init__(stream, model)
        self._sparse = sparse

    def take(self, rows: range) -> None:
        super().take(rows)
        if self._sparse:
            self._x = {name: value for name, value in self._x.items() if value}


class Batches:
    """Mini-batches of arrays, CSR where the stream is sparse."""

    def __init__(self, stream: Stream, model: IHOMER, sparse: bool) -> None:
        self._model, self._y = model, stream.y
        self._x: Any = stream.x
        if sparse:
            sparse_of: Any = importlib.import_module("scipy.sparse")
            self._x = sparse_of.csr_matrix(stream.x)
        self._rows: tuple[Any, Any] = (None, None)

    def take(self, rows: range) -> None:
        self._rows = self._x[rows.start : rows.stop], self._y[rows.start : rows.stop]

    def predict(self, rows: range) -> Any:
        said = self._model.predict_many(self._rows[0])
        return said.to_numpy().astype(np.uint8) if len(said.columns) else np.zeros_like(self._rows[1])

    def learn(self, rows: range) -> None:
        self._model.learn_many(*self._rows)


def make(stream: Stream, args: Args) -> Any:
    """The contestant of ``args``: ``trivial`` names a trivial model, ``options`` are IHOMER's."""
    if "trivial" in args:
        return OneByOne(stream, TRIVIAL[args["trivial"]]())
    sparse = bool((stream.x[0] != 0).mean() <= SPARSE_BELOW)
    model = IHOMER(**({"sparse": sparse, "seed": args["shuffle"] or 0} | args.get("options", {})))
    warm(model, stream)
    return Batches(stream, model, sparse) if args.get("batch", 1) > 1 else Rows(stream, model, sparse)


def warm(model: IHOMER, stream: Stream) -> None:
    """Load the compiler and the kernels' cache before the clock starts, as a process that has run for a while has."""
    clone: Any = model.clone()
    clone.learn_many(stream.x[:60], stream.y[:60])
    clone.predict_many(stream.x[:2])


if __name__ == "__main__":
    serve(lambda args: Prequential(args, make))
