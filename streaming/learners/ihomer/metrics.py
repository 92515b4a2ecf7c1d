"""Scores of labelsets that River lacks, in River's manner: HammingLoss, ExampleF1 and PrecisionAtK.

A label that a prediction does not mention counts as not set, so that a model which has not seen a label yet is scored and not
refused; a label whose truth is None or not mentioned is left out.
"""

from collections.abc import Mapping
from typing import Any

from river import base, metrics
from river.metrics.base import Metric


class _MeanOverRows(metrics.base.MeanMetric, Metric):
    """A mean of one value per row."""

    _fmt = ".2%"

    @property
    def bigger_is_better(self) -> bool:
        return True

    def works_with(self, model: Any) -> bool:
        return isinstance(model, base.MultiLabelClassifier)


def _known(y_true: Mapping[Any, Any], y_pred: Mapping[Any, Any]) -> list[tuple[bool, bool]]:
    """(true, predicted) of every label whose truth is known."""
    return [
        (bool(value), bool(y_pred.get(label, False))) for label, value in y_true.items() if value is not None
    ]


class HammingLoss(_MeanOverRows):
    """The share of labels that are wrong, averaged over rows; a row without labels scores 0.

    Examples
    --------
    >>> metric = HammingLoss()
    >>> metric.update({"a": True, "b": False}, {"a": True, "b": True})
    >>> metric
    HammingLoss: 50.00%

    """

    @property
    def bigger_is_better(self) -> bool:
        return False

    def _eval(self, y_true: Mapping[Any, Any], y_pred: Mapping[Any, Any]) -> Any:
        pairs = _known(y_true, y_pred)
        return sum(true != said for true, said in pairs) / len(pairs) if pairs else 0.0


class ExampleF1(_MeanOverRows):
    """2 |true and predicted| / (|true| + |predicted|), averaged over rows.

    Parameters
    ----------
    zero_division
        What a row scores that has no label and is predicted to have none: 1, since it is exactly right. Published tables disagree
        on this, so state it beside the number.

    Examples
    --------
    >>> metric = ExampleF1()
    >>> metric.update({"a": True, "b": False}, {"a": True, "b": True})
    >>> metric.update({"a": False, "b": False}, {})
    >>> metric
    ExampleF1: 83.33%

    """

    def __init__(self, zero_division: float = 1.0) -> None:
        super().__init__()
        self.zero_division = zero_division

    def _eval(self, y_true: Mapping[Any, Any], y_pred: Mapping[Any, Any]) -> Any:
        pairs = _known(y_true, y_pred)
        both = sum(true and said for true, said in pairs)
        total = sum(true + said for true, said in pairs)
        return 2.0 * both / total if total else self.zero_division


class PrecisionAtK(_MeanOverRows):
    """How many of the k labels of highest probability are set, over k; of a stream of rows the mean.

    Takes what `predict_proba_one` returns; equals go to the label that comes first.

    Parameters
    ----------
    k
        Labels looked at; a row with fewer known ones is still divided by k.

    Examples
    --------
    >>> metric = PrecisionAtK(k=1)
    >>> metric.update({"a": True, "b": False}, {"a": {True: 0.7}, "b": {True: 0.2}})
    >>> metric
    PrecisionAtK: 100.00%

    """

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"expected k >= 1, came {k}")
        self.k = k

    @property
    def requires_labels(self) -> bool:
        return False

    def _eval(self, y_true: Mapping[Any, Any], y_pred: Mapping[Any, Any]) -> Any:
        scored = {
            label: p.get(True, 0.0) if isinstance(p, Mapping) else float(p)
            for label, p in y_pred.items()
            if y_true.get(label) is not None
        }
        best = sorted(scored, key=lambda label: -scored[label])[: self.k]
        return sum(bool(y_true[label]) for label in best) / self.k
