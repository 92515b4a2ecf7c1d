"""Which candidate decides? The one that has done best lately, by the very score that the user asked for.

`Choice` keeps fading (0.995) true positives, false positives and false negatives of each candidate, summed over labels, or its
fading share of exactly right labelsets. One choice for all labels: chosen per label or per cluster it is noise (measured).
"""

from typing import Any, Final

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

FADING: Final = 0.995


@kernel
def score_f1(kept: Any, said: Any, y: Any) -> None:
    """Fade `kept: float64[candidates, 3]` and add what each candidate `said: uint8[candidates, n]` of one row's y: uint8[n]."""
    for c in range(len(said)):
        tp = fp = fn = 0.0
        for label in range(len(y)):
            if y[label] < 2:
                if said[c, label] == 1 and y[label] == 1:
                    tp += 1.0
                elif said[c, label] == 1:
                    fp += 1.0
                elif y[label] == 1:
                    fn += 1.0
        kept[c, 0] = FADING * kept[c, 0] + tp
        kept[c, 1] = FADING * kept[c, 1] + fp
        kept[c, 2] = FADING * kept[c, 2] + fn


@kernel
def score_subset(kept: Any, said: Any, y: Any) -> None:
    """Fade `kept: float64[candidates, 1]` and add whether each candidate was exactly right about one row."""
    for c in range(len(said)):
        right = 1.0
        for label in range(len(y)):
            if y[label] < 2 and said[c, label] != y[label]:
                right = 0.0
        kept[c, 0] = FADING * kept[c, 0] + right


def best_f1(kept: Any, stands: Any) -> int:
    """The candidate of the best fading micro-F1, of those that stand, `bool[candidates]`; the first of equals."""
    total = 2.0 * kept[:, 0] + kept[:, 1] + kept[:, 2]
    f1 = np.divide(2.0 * kept[:, 0], total, out=np.zeros(len(kept)), where=total > 0.0)
    return int(np.argmax(np.where(stands, f1, -1.0)))


def best_subset(kept: Any, stands: Any) -> int:
    """The candidate that was exactly right most often lately, of those that stand; the first of equals."""
    return int(np.argmax(np.where(stands, kept[:, 0], -1.0)))
