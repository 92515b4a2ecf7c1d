"""River's multi-label models, as a user of River would set them up; features are scaled for all of them, at no cost to them but CPU.

Binary relevance is `PerOutputClassifier`. iSOUP is a regressor: its leaves are logistic models here, as in MLHAT's comparison, and a
label is set from 0.5 on.
"""

from __future__ import annotations

from typing import Any

from river import base, ensemble, forest, linear_model, multioutput, neighbors, preprocessing, tree

from benchmarks.runners.multilabel_stream import OneByOne, Prequential, Stream
from benchmarks.runners.protocol import Args, serve


class Logistic(base.Regressor):
    """A logistic regression whose prediction is the probability."""

    def __init__(self) -> None:
        self.model = linear_model.LogisticRegression()

    def learn_one(self, x: dict[Any, Any], y: Any, **kwargs: Any) -> None:
        self.model.learn_one(x, bool(y))

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> float:
        return float(self.model.predict_proba_one(x).get(True, 0.0))


class AboveHalf(base.MultiLabelClassifier):
    """A multi-target regressor as a classifier."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def learn_one(self, x: dict[Any, Any], y: dict[Any, bool]) -> None:
        self.model.learn_one(x, {label: float(value) for label, value in y.items()})

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, bool]:
        return {label: value > 0.5 for label, value in self.model.predict_one(x).items()}


def _logistic() -> Any:
    return linear_model.LogisticRegression()


def _relevance(model: Any) -> Any:
    return multioutput.PerOutputClassifier(model)


MODELS: dict[str, Any] = {
    "BR HAT": lambda seed: _relevance(tree.HoeffdingAdaptiveTreeClassifier(seed=seed)),
    "BR EFDT": lambda seed: _relevance(tree.ExtremelyFastDecisionTreeClassifier()),
    "BR ARF": lambda seed: _relevance(_forest(seed)),
    "BR kNN": lambda seed: _relevance(
        neighbors.KNNClassifier(n_neighbors=5, engine=neighbors.LazySearch(window_size=200))
    ),
    "BR ADWIN bagging": lambda seed: _relevance(
        ensemble.ADWINBaggingClassifier(_logistic(), n_models=10, seed=seed)
    ),
    "BR logistic": lambda seed: _relevance(_logistic()),
    "chain logistic": lambda seed: multioutput.ClassifierChain(_logistic()),
    "powerset HAT": lambda seed: multioutput.MultiClassEncoder(
        tree.HoeffdingAdaptiveTreeClassifier(seed=seed)
    ),
    "iSOUP": lambda seed: AboveHalf(tree.ISOUPTreeRegressor(leaf_model=Logistic())),
}


def _forest(seed: int) -> Any:
    return forest.ARFClassifier(n_models=10, seed=seed)


class Scaled:
    """A model on z-scores; the scaler learns with the model, after the prediction."""

    def __init__(self, model: Any) -> None:
        self._scaler, self._model = preprocessing.StandardScaler(), model

    def predict_one(self, x: dict[Any, Any]) -> Any:
        return self._model.predict_one(self._scaler.transform_one(x))

    def learn_one(self, x: dict[Any, Any], y: dict[Any, bool]) -> None:
        self._scaler.learn_one(x)
        self._model.learn_one(self._scaler.transform_one(x), y)


def make(stream: Stream, args: Args) -> OneByOne:
    """The model that ``args`` name."""
    return OneByOne(stream, Scaled(MODELS[args["model"]](args["shuffle"] or 0)))


if __name__ == "__main__":
    serve(lambda args: Prequential(args, make))
