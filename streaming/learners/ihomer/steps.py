"""The rows of a mini-batch one after the other in one compiled loop: the fast way, where one block is the whole model.

In the flow: `learn_rows` is predict, count, learn and remember for each row, so n rows at once are n rows one by one, bit for
bit. Rows are in compressed form, (start int64[m+1], index int32, value), and have been scaled before (`scale_rows`).
"""

from typing import Any

from headrace.streaming.learners.ihomer.jit import kernel
from headrace.streaming.learners.ihomer.linear import forward, remember, step, surprise
from headrace.streaming.learners.ihomer.scaling import scale_dense, scale_sparse
from headrace.streaming.learners.ihomer.thresholds import count, decide, refresh


@kernel
def scale_rows(rows: Any, moments: Any, known: int, keep: bool, out: Any) -> None:
    """Fill `out: float32` with the scaled values; `known` features make a dense stream, 0 says that it is sparse."""
    start, index, value = rows
    for row in range(len(start) - 1):
        at, end = start[row], start[row + 1]
        if known > 0:
            scale_dense(index[at:end], value[at:end], moments, known, keep, out[at:end])
        else:
            scale_sparse(value[at:end], out[at:end])


@kernel
def is_due(seen: int) -> bool:
    """Whether the cuts move after row number `seen`: every 50 rows, and every 10 at first."""
    return seen % 50 == 0 or (seen < 50 and seen % 10 == 0)


@kernel
def learn_rows(model: Any, rows: Any, y: Any, seen: int, rate: Any, scratch: Any) -> None:
    """Learn scaled rows, in place, after `seen` others, and say how far the decisions made before were wrong.

    model: (block, cuts, persist float32[3, n]). y: uint8[m, n]. scratch: (z float32[n], g float32[n], wrong uint8[m, n]), of which
    `wrong` gets 1 where the decision made before learning differs from y; nowhere where y is unknown.
    """
    block, cuts, persist = model
    start, index, value = rows
    z, g, wrong = scratch
    for row in range(len(y)):
        at, end = start[row], start[row + 1]
        forward(block, index[at:end], value[at:end], persist, z)
        decide(cuts, z, wrong[row])
        for label in range(len(z)):
            wrong[row, label] = 1 if y[row, label] < 2 and wrong[row, label] != y[row, label] else 0
        count(cuts, z, y[row])
        surprise(z, y[row], g)
        step(block, index[at:end], value[at:end], persist, g, rate)
        remember(persist, y[row])
        if is_due(seen + row + 1):
            refresh(cuts, len(z))


@kernel
def predict_rows(model: Any, rows: Any, z: Any) -> None:
    """Fill `z: float32[m, n]` with the logits of scaled rows; nothing else changes."""
    block, _, persist = model
    start, index, value = rows
    for row in range(len(z)):
        at, end = start[row], start[row + 1]
        forward(block, index[at:end], value[at:end], persist, z[row])


@kernel
def decide_rows(cuts: Any, z: Any, said: Any) -> None:
    """Fill `said: uint8[m, n]` with what the cuts say of the logits `z: float32[m, n]`."""
    for row in range(len(z)):
        decide(cuts, z[row], said[row])
