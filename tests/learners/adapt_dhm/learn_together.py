"""One of several processes of `test_parallel`: meet, learn the same batches, write the state; arguments: file, rank, size, routing, out."""

from __future__ import annotations

import sys
from pathlib import Path

from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
from headrace.streaming.learners.adapt_dhm.parallel import Together
from tests.learners.adapt_dhm.test_parallel import batches, made


def main(meet: str, rank: str, size: str, routing: str, out: str) -> None:
    model: AdaptDHMClassifier = made(routing)
    assert model.model is not None
    with Together(meet, int(rank), int(size), loopback=True) as together:
        for number, (inputs, labels) in enumerate(batches(model)):
            together.learn(model.model, inputs.keys, inputs.numbers, labels, float(number))
    Path(out).write_bytes(model.to_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
