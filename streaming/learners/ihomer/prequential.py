"""Predict, score, learn: a multi-label model over a stream, from the first row to the last, nothing skipped.

In the flow: what notebooks and `jobs.train_tags` run, and how a number in this project came to be. The scores of a window are
those of its rows alone; a model is scored with what it predicted before it saw the labels, the first row with no label at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LabelScores:
    """Counts of scored rows, and what follows from them. Empty rows predicted empty have an example F1 of 1.

    `labels` holds, per label, [true and predicted, predicted, true].
    """

    rows: int = 0
    exact: int = 0
    wrong: float = 0.0
    example: float = 0.0
    labels: dict[Any, list[int]] = field(default_factory=dict)

    def add(self, y_true: Mapping[Any, Any], y_pred: Mapping[Any, Any]) -> None:
        """Score a row; a label not mentioned in the prediction is not set, one whose truth is None is left out."""
        known = both = said = true = wrong = 0
        for label, value in y_true.items():
            if value is None:
                continue
            counts = self.labels.setdefault(label, [0, 0, 0])
            t, p = bool(value), bool(y_pred.get(label, False))
            known += 1
            both, said, true, wrong = both + (t and p), said + p, true + t, wrong + (t != p)
            counts[0] += t and p
            counts[1] += p
            counts[2] += t
        self.rows += 1
        self.exact += wrong == 0
        self.wrong += wrong / known if known else 0.0
        self.example += 2.0 * both / (said + true) if said + true else 1.0

    def add_scores(self, other: "LabelScores") -> None:
        """Take another's rows in."""
        self.rows, self.exact = self.rows + other.rows, self.exact + other.exact
        self.wrong, self.example = self.wrong + other.wrong, self.example + other.example
        for label, theirs in other.labels.items():
            mine = self.labels.setdefault(label, [0, 0, 0])
            for at in range(3):
                mine[at] += theirs[at]

    def as_dict(self) -> dict[str, float]:
        """rows, subset_accuracy, hamming_loss, example_f1, micro_f1 and macro_f1 (over labels that were true or predicted)."""
        rows = max(self.rows, 1)
        sums = [(both, said + true) for both, said, true in self.labels.values()]
        total = sum(total for _, total in sums)
        seen = [2.0 * both / total for both, total in sums if total]
        return {
            "rows": float(self.rows),
            "subset_accuracy": self.exact / rows,
            "hamming_loss": self.wrong / rows,
            "example_f1": self.example / rows,
            "micro_f1": 2.0 * sum(both for both, _ in sums) / total if total else 0.0,
            "macro_f1": sum(seen) / len(seen) if seen else 0.0,
        }


def run(
    stream: Iterable[tuple[dict[Any, Any], Any]], model: Any, window: int = 1000
) -> Iterator[dict[str, float]]:
    """Run `model` over (x, y) pairs; the scores of each window of rows, and of what is left at the end.

    y is a dict of label to bool or None, or a set of labels; labels seen before count as not set where a set does not hold them.

    >>> from headrace.streaming.learners.ihomer.trivial import NoChange
    >>> rows = [({}, {"a"}), ({}, {"a"}), ({}, {"b"}), ({}, {"b"})]
    >>> [window["subset_accuracy"] for window in run(rows, NoChange(), window=2)]
    [0.5, 0.5]
    """
    scores, known = LabelScores(), dict[Any, bool]()
    for x, y in stream:
        if not isinstance(y, Mapping):
            known |= {label: False for label in sorted(y, key=str) if label not in known}
            y = known | dict.fromkeys(y, True)
        scores.add(y, model.predict_one(x) or {})
        model.learn_one(x, y)
        if scores.rows == window:
            yield scores.as_dict()
            scores = LabelScores()
    if scores.rows:
        yield scores.as_dict()
