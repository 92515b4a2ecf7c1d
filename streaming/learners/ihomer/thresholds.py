"""When is a probability a label? A threshold per label that would have given the best F1 so far, shrunk to the stream's.

Two histograms per label count the logits of the rows where it was set and where it was not, in 64 bins of 0.25 from -8 to 8;
their sums over labels are the pool. The pool's best cut is t_g = argmax_t 2 TP / (TP + FP + P); a label's own is the same
after 10 positives shaped like the pool were added to it; the label is set from bin (t_l + t_g) / 2 on. A label that is new
thus decides like the stream does, and one with many positives for itself.

Every row is counted with the logit it was given before it was learnt. Cuts are computed anew every `REFRESH` rows.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

BINS: Final = 64
REFRESH: Final = 50
EARLY: Final = 10
"""In the first `REFRESH` rows cuts move every `EARLY` rows."""
PSEUDO: Final = 10.0
START: Final = 32.0
"""The bin that begins at logit 0."""


class Cuts(NamedTuple):
    """positive, negative uint32[L, 64]; all_positive, all_negative int64[64]; cut float64[L], in bins; pool float64[1]."""

    positive: Any
    negative: Any
    all_positive: Any
    all_negative: Any
    cut: Any
    pool: Any


def new_cuts(labels: int) -> Cuts:
    """Cuts at probability one half."""
    return Cuts(
        np.zeros((labels, BINS), np.uint32),
        np.zeros((labels, BINS), np.uint32),
        np.zeros(BINS, np.int64),
        np.zeros(BINS, np.int64),
        np.full(labels, START),
        np.full(1, START),
    )


@kernel
def bin_of(z: Any) -> int:
    """The bin of a logit."""
    at = int((min(max(z, -8.0), 7.999) + 8.0) * 4.0)
    return min(max(at, 0), 63)


@kernel
def count(cuts: Any, z: Any, y: Any) -> None:
    """Count one row's logits `float32[n]` under its labels `uint8[n]`."""
    for label in range(len(z)):
        at = bin_of(z[label])
        if y[label] == 1:
            cuts.positive[label, at] += 1
            cuts.all_positive[at] += 1
        elif y[label] == 0:
            cuts.negative[label, at] += 1
            cuts.all_negative[at] += 1


@kernel
def best_cut(positive: Any, negative: Any, pool: Any, pool_negative: Any, weight: float) -> float:
    """The bin from which to say yes: argmax 2TP / (TP + FP + P), the first of equals from above."""
    total = 0.0
    for at in range(64):
        total += positive[at] + weight * pool[at]
    best, best_f1 = 32.0, -1.0
    tp = fp = 0.0
    for back in range(64):
        at = 63 - back
        tp += positive[at] + weight * pool[at]
        fp += negative[at] + weight * pool_negative[at]
        if tp + fp + total > 0.0:
            f1 = 2.0 * tp / (tp + fp + total)
            if f1 > best_f1:
                best, best_f1 = float(at), f1
    return best


@kernel
def refresh(cuts: Any, labels: int) -> None:
    """Compute the pool's cut and those of the first `labels` labels anew."""
    positives = 0
    for at in range(64):
        positives += cuts.all_positive[at]
    if positives == 0:
        return
    cuts.pool[0] = best_cut(cuts.all_positive, cuts.all_negative, cuts.all_positive, cuts.all_negative, 0.0)
    weight = 10.0 / positives
    for label in range(labels):
        own = best_cut(
            cuts.positive[label], cuts.negative[label], cuts.all_positive, cuts.all_negative, weight
        )
        cuts.cut[label] = (own + cuts.pool[0]) / 2.0


@kernel
def decide(cuts: Any, z: Any, out: Any) -> None:
    """Fill `out: uint8[n]` with what the cuts say of the logits `z: float32[n]`."""
    for label in range(len(z)):
        out[label] = 1 if float(bin_of(z[label])) >= cuts.cut[label] else 0
