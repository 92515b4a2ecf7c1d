"""MLHAT on a stream with a known change; an alternate tree that it begins is its alarm."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.runners.multilabel_drift import Drift
from benchmarks.runners.multilabel_mlhat import make as make_mlhat
from benchmarks.runners.multilabel_stream import OneByOne, Stream
from benchmarks.runners.protocol import Args, serve


class Mlhat:
    """Row by row; trees begun, dropped and swapped in are counted by the model itself."""

    def __init__(self, stream: Stream, model: OneByOne) -> None:
        self._stream, self._model, self._row = stream, model, 0

    def predict(self, x: Any) -> Any:
        said = []
        for row in range(self._row, self._row + len(x)):
            self._model.take(range(row, row + 1))
            said.append(self._model.predict(range(row, row + 1)))
        return np.concatenate(said)

    def learn(self, x: Any, y: Any) -> None:
        for row in range(self._row, self._row + len(x)):
            self._model.take(range(row, row + 1))
            self._model.learn(range(row, row + 1))
        self._row += len(x)

    def alarms(self) -> int:
        model: Any = self._model._model
        counted = (
            model.n_current_alternate_trees,
            model.n_pruned_alternate_trees,
            model.n_switched_alternate_trees,
        )
        return sum(int(count or 0) for count in counted)

    def clusters(self) -> None:
        return None


def make(stream: Stream, args: Args) -> Mlhat:
    """Its own defaults."""
    return Mlhat(stream, make_mlhat(stream, {"shuffle": args["seed"]}))


if __name__ == "__main__":
    serve(lambda args: Drift(args, make))
