"""What every result has to be shown beside: the labels of the row before, and the labelset that came most often.

On a stream that is sorted by label the first is hard to beat, on one where most rows have the same labels the second; a model
that does no better than these has learnt nothing from the features.
"""

from collections import Counter
from typing import Any

from river import base


class NoChange(base.MultiLabelClassifier):
    """Predicts the labels of the row before.

    Examples
    --------
    >>> model = NoChange()
    >>> model.learn_one({}, {"a": True, "b": False})
    >>> model.predict_one({})
    {'a': True, 'b': False}

    """

    def __init__(self) -> None:
        self._last: dict[Any, bool] = {}

    def learn_one(self, x: dict[Any, Any], y: dict[Any, bool]) -> None:
        self._last = dict.fromkeys(self._last, False) | {label: bool(value) for label, value in y.items()}

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, bool]:
        return dict(self._last)

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, dict[bool, float]]:
        return {label: {False: float(not value), True: float(value)} for label, value in self._last.items()}


class MajorityLabelset(base.MultiLabelClassifier):
    """Predicts the labelset that came most often so far; of equals the one that came first.

    Examples
    --------
    >>> model = MajorityLabelset()
    >>> for y in [{"a"}, {"b"}, {"b"}]:
    ...     model.learn_one({}, {label: label in y for label in "ab"})
    >>> model.predict_one({})
    {'a': False, 'b': True}

    """

    def __init__(self) -> None:
        self._labels: dict[Any, int] = {}
        self._sets: Counter[frozenset[Any]] = Counter()
        self._best: frozenset[Any] = frozenset()

    def learn_one(self, x: dict[Any, Any], y: dict[Any, bool]) -> None:
        on = frozenset(label for label, value in y.items() if value)
        for label, value in y.items():
            self._labels[label] = self._labels.get(label, 0) + bool(value)
        self._sets[on] += 1
        if self._sets[on] > self._sets[self._best]:
            self._best = on

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, bool]:
        return {label: label in self._best for label in self._labels}

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, dict[bool, float]]:
        rows = max(self._sets.total(), 1)
        return {label: {False: 1.0 - n / rows, True: n / rows} for label, n in self._labels.items()}
