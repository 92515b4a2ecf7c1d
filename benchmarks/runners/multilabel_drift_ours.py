"""IHOMER, in one of its forms, and River's adaptive trees on a stream with a known change."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.runners.multilabel_drift import Drift
from benchmarks.runners.multilabel_stream import Stream
from benchmarks.runners.protocol import Args, serve
from headrace.streaming.learners.ihomer.model import IHOMER


class Ours:
    """An alarm is a drift of the whole, or of a cluster, that the model has noted."""

    def __init__(self, options: Args) -> None:
        self._model = IHOMER(sparse=False, **options)

    def predict(self, x: Any) -> Any:
        said = self._model.predict_many(x)
        return said.to_numpy().astype(np.uint8) if len(said.columns) else np.zeros((len(x), 24), np.uint8)

    def learn(self, x: Any, y: Any) -> None:
        self._model.learn_many(x, y)

    def alarms(self) -> int:
        return sum(event.kind in ("drift", "alarm") for event in self._model.events)

    def clusters(self) -> list[list[int]]:
        return [sorted(members) for members in self._model.clusters]


def make(stream: Stream, args: Args) -> Ours:
    """The form that ``options`` say."""
    return Ours(args["options"])


if __name__ == "__main__":
    serve(lambda args: Drift(args, make))
