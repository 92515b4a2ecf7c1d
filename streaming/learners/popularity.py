"""`Popularity`: an item's click-through rate so far, smoothed; what any model has to beat to be worth its keep.

In the flow it stands beside the click model everywhere: predicts in the same snapshot, is scored on the same labels
and learns the same rows after they were scored. The estimate is the posterior mean under a Beta prior with the
overall rate as its mean, worth `strength` views.

Deliberately absent: decay. It is a baseline, and a plain one can be checked by hand.
"""

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.checkpoint import State
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.features import MAX_BITS, U32

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
_FULL = (
    2**31
)  # views at which an item's counts are halved: far above any rate's useful precision, and never wraps


class Popularity:
    """Views and clicks for items hashed to [0, 2**bits), 8 bytes each; `strength`: the prior's weight in views.

    >>> baseline = Popularity(bits=4, strength=1.0)
    >>> baseline.learn_hashed(np.array([3, 3, 5], dtype=np.uint32), np.array([1, 1, 0], dtype=np.uint8)).round(2)
    array([0.5 , 0.83, 0.75])
    >>> baseline.predict_hashed(np.array([3, 5, 9], dtype=np.uint32)).round(2)
    array([0.87, 0.3 , 0.6 ], dtype=float32)
    """

    def __init__(self, bits: int = 18, strength: float = 20.0) -> None:
        if not 1 <= bits <= MAX_BITS or not strength > 0:
            raise ValueError(f"expected bits in 1…{MAX_BITS} and strength > 0, came {bits} and {strength}")
        self.bits, self.strength = bits, strength
        self.views: U32 = np.zeros(2**bits, dtype=np.uint32)
        self.clicks: U32 = np.zeros(2**bits, dtype=np.uint32)
        self.n_learned = 0
        self.n_clicks = 0

    def predict_hashed(self, items: U32) -> F32:
        """The click-through rate of each of `items: uint32[n]`, as `float32[n]` in (0, 1); changes nothing."""
        return self._rates(items, 0, 0, self.n_learned, self.n_clicks).astype(np.float32)

    def learn_hashed(self, items: U32, labels: U8) -> F64:
        """Count the views of `items: uint32[n]` and their clicks, `labels: uint8[n]` of 0 and 1, in order.

        Returns `float64[n]`, the rate of each row's item just before the row was counted: what this baseline would
        have said, had it been asked row by row. Raises ValueError.
        """
        if items.shape != labels.shape or (labels > 1).any():
            raise ValueError(
                f"expected items and labels 0 or 1 of one length, came {items.shape}, {labels.shape}"
            )
        clicks = labels.astype(np.int64)
        order = np.argsort(items, kind="stable")  # an item's rows side by side, still in their order
        first = np.flatnonzero(np.diff(items[order], prepend=-1))
        run = np.diff(first, append=len(items))
        before = np.cumsum(clicks[order]) - clicks[order]
        views_here, clicks_here = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
        views_here[order] = np.arange(len(items)) - np.repeat(first, run)
        clicks_here[order] = before - np.repeat(before[first], run)
        learned, clicked = self.n_learned + np.arange(len(items)), self.n_clicks + np.cumsum(clicks) - clicks
        rates = self._rates(items, views_here, clicks_here, learned, clicked)
        np.add.at(self.views, items, np.uint32(1))
        np.add.at(self.clicks, items[labels == 1], np.uint32(1))
        self.n_learned += len(items)
        self.n_clicks += int(clicks.sum())
        full = np.unique(items[self.views[items] >= _FULL])
        self.views[full] >>= np.uint32(1)
        self.clicks[full] >>= np.uint32(1)
        return rates

    def _rates(
        self, items: U32, views: I64 | int, clicks: I64 | int, learned: I64 | int, clicked: I64 | int
    ) -> F64:
        """The posterior mean with so many more views and clicks of the item, and so many of all items."""
        overall = (clicked + 1.0) / (learned + 2.0)
        rates: F64 = (self.clicks[items] + clicks + self.strength * overall) / (
            self.views[items] + views + self.strength
        )
        return rates

    def state(self, version: int = 0) -> State:
        """Everything `from_state` needs; only items ever seen are listed."""
        seen = np.flatnonzero(self.views).astype(np.uint32)
        params = {"bits": self.bits, "strength": self.strength, "n_clicks": self.n_clicks}
        arrays = {"seen": seen, "views": self.views[seen], "clicks": self.clicks[seen]}
        return State("popularity", version, self.n_learned, params, arrays)

    @classmethod
    def from_state(cls, state: State) -> "Popularity":
        """The baseline that `state` describes. Raises BadCheckpoint."""
        try:
            model = cls(int(state.params["bits"]), float(state.params["strength"]))
            model.n_clicks = int(state.params["n_clicks"])
            seen, views, clicks = (state.arrays[name] for name in ("seen", "views", "clicks"))
        except (TypeError, ValueError, KeyError) as error:
            raise BadCheckpoint(f"not a state of {state.learner!r}: {error!r}") from error
        if not (seen.shape == views.shape == clicks.shape == (seen.size,)) or seen.dtype != np.uint32:
            raise BadCheckpoint(
                f"seen, views and clicks must be equally long lists, came {seen.shape}, {views.shape}"
            )
        if seen.size and int(seen.max()) >= 2**model.bits:
            raise BadCheckpoint(f"item {seen.max()} lies beyond the model's 2**{model.bits} counts")
        model.views[seen], model.clicks[seen] = views, clicks
        model.n_learned = state.n_learned
        return model
