"""`ClickModel`: the probability of a click, learnt one event at a time; the River face of `ftrl`.

In the flow: learns on the driver once a row's label is known (`learn_hashed`); executors predict from a snapshot of
its weights. Each coordinate's step falls with its own gradients, so a frequent id settles while a new one still
moves; l1 holds an id at exactly 0 until there is evidence. Log loss is a proper scoring rule and the bias is never
penalised, which keeps the predictions calibrated.

River's `learn_one` and `predict_proba_one` take a dict, `learn_many` and `predict_proba_many` a DataFrame: strings
and booleans are ids, other numbers are bucketed, None and NaN have their own bucket, and a feature that is absent
counts for nothing. Both ways end in the same kernel, so n rows at once equal n rows one by one to the last bit.

Deliberately absent: a search for crosses, a schedule of rates (they fall by themselves), forgetting of old events.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from river import base

from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.features import U32, bucketise
from headrace.streaming.learners.ftrl import F32, F64, U8, Ftrl, Rates
from headrace.streaming.learners.hashing import U64, hash_values, mix, salt


class ClickModel(base.MiniBatchClassifier):
    """Online logistic regression on hashed ids, by per-coordinate FTRL-Proximal (McMahan et al., KDD 2013).

    Parameters
    ----------
    bits
        Ids lie in [0, 2**bits); the state takes 12 bytes for each, whatever comes.
    alpha, beta
        A coordinate's learning rate is alpha / (beta + the root of its summed squared gradients).
    l1, l2
        Penalties; a coordinate whose summed surprises stay below l1 weighs exactly 0.
    seed
        Seed of the hashes of dicts and DataFrames; ids that come hashed are taken as they are.

    Attributes
    ----------
    weights
        float32[2**bits + 1], the last being the bias.
    version
        How many snapshots have been published; raised by whoever publishes, never by learning.
    n_learned
        How many rows have been learnt.

    Examples
    --------
    >>> model = ClickModel(bits=8)
    >>> ids = np.array([[1, 2], [3, 2]], dtype=np.uint32)
    >>> for _ in range(50):
    ...     model.learn_hashed(ids, np.array([1, 0], dtype=np.uint8))
    >>> model.predict_hashed(ids) > 0.5
    array([ True, False])

    """

    def __init__(
        self,
        bits: int = 18,
        alpha: float = 0.2,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.bits, self.alpha, self.beta, self.l1, self.l2, self.seed = bits, alpha, beta, l1, l2, seed
        self.version = 0
        self._ftrl = Ftrl(bits, Rates(alpha, beta, l1, l2))

    @property
    def weights(self) -> F32:
        return self._ftrl.weights

    @property
    def n_learned(self) -> int:
        return self._ftrl.n_learned

    def predict_hashed(self, ids: U32, offsets: F64 | None = None) -> F32:
        """The click probability of each row of `ids: uint32[n, F]`, as `float32[n]` in (0, 1); changes nothing.

        `offsets: float64[n]` are logits to start from, such as a baseline's.
        """
        return self._ftrl.predict(ids, offsets)

    def learn_hashed(self, ids: U32, labels: U8, offsets: F64 | None = None) -> None:
        """Learn the rows of `ids: uint32[n, F]` with `labels: uint8[n]` (0 or 1), in order. Raises ValueError."""
        self._ftrl.learn(ids, labels, offsets)

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.learn_hashed(self._hash({name: [value] for name, value in x.items()}, 1), _labels([y]))

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        p = float(self.predict_hashed(self._hash({name: [value] for name, value in x.items()}, 1))[0])
        return {False: 1.0 - p, True: p}

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        self.learn_hashed(self._hash({name: X[name].tolist() for name in X.columns}, len(X)), _labels(y))

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        ids = self._hash({name: X[name].tolist() for name in X.columns}, len(X))
        p = self.predict_hashed(ids).astype(np.float64)
        return pd.DataFrame({False: 1.0 - p, True: p}, index=X.index)

    def _hash(self, columns: dict[Any, Sequence[Any]], rows: int) -> U32:
        # Sorted, because a dict's order must not matter, not even to the last bit of a sum.
        fields = sorted((str(name), values) for name, values in columns.items())
        values = _hash_objects([value for _, column in fields for value in column])
        salts = np.array([salt(name, self.seed) for name, _ in fields], dtype=np.uint64)
        hashed = mix(values.reshape(len(fields), rows) ^ salts[:, None])  # uint64[F, rows]
        return (hashed.T >> np.uint64(64 - self.bits)).astype(np.uint32)

    def to_bytes(self) -> bytes:
        """The whole state as a checkpoint; only coordinates ever touched are written."""
        state = self._ftrl.state("click_model", self.version)
        return checkpoint.dump(
            checkpoint.State(state.learner, state.version, state.n_learned, self._get_params(), state.arrays)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ClickModel":
        """The model that `to_bytes` wrote, equal to the last bit. Raises BadCheckpoint."""
        state = checkpoint.load(data, "click_model")
        ftrl = Ftrl.from_state(state)
        rates = ftrl.rates
        model = cls(ftrl.bits, rates.alpha, rates.beta, rates.l1, rates.l2, int(state.params.get("seed", 0)))
        model._ftrl, model.version = ftrl, state.version
        return model


def _labels(y: Any) -> U8:
    return np.asarray(y).astype(np.bool_).astype(np.uint8)


def _hash_objects(values: Sequence[Any]) -> U64:
    """Hash a dict's or DataFrame's values: numbers as buckets, the rest by their text, None and NaN as null."""
    is_number = np.array(
        [isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) for value in values]
    )
    numeric = pa.array(
        [float(v) if n else None for v, n in zip(values, is_number, strict=True)], type=pa.float64()
    )
    text = pa.array(
        [None if n or v is None else str(v) for v, n in zip(values, is_number, strict=True)], pa.string()
    )
    return np.where(is_number, bucketise(numeric).view(np.uint64), hash_values(text))
