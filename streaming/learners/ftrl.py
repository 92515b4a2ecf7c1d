"""FTRL-Proximal logistic regression on hashed ids: weights that predict, sums that learn, and their bytes.

The part of the click model that executors need: numpy only, so that loading a snapshot imports neither river nor
numba (learning imports numba at the first row). Per-coordinate FTRL-Proximal: McMahan et al., "Ad click prediction:
a view from the trenches", KDD 2013, algorithm 1. State is float32, arithmetic float64.

Deliberately absent: names and dicts of features (`click_model`), labels that come later (`headrace.streaming.joins`).
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.checkpoint import State
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.features import MAX_BITS, U32
from headrace.streaming.learners.kernels import ftrl_learn

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
_BLOCK_ROWS = 8192  # the float64 sums of one block stay in the cache


@dataclass(frozen=True)
class Rates:
    """A coordinate's learning rate is alpha / (beta + the root of its summed squared gradients); l1 and l2 penalise.

    l1 is in the units of a summed gradient: a coordinate whose surprises sum to less weighs exactly 0.
    """

    alpha: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0 and self.l1 >= 0 and self.l2 >= 0):
            raise ValueError(f"expected alpha, beta > 0 and l1, l2 >= 0, came {self}")

    def as_tuple(self) -> tuple[float, float, float, float]:
        return float(self.alpha), float(self.beta), float(self.l1), float(self.l2)


class Ftrl:
    """Weights for ids in [0, 2**bits) and a bias, 12 bytes each; see the module.

    weights, z, n: float32[2**bits + 1], the bias last. n_learned: rows learnt so far.
    """

    def __init__(self, bits: int = 18, rates: Rates | None = None) -> None:
        if not 1 <= bits <= MAX_BITS:
            raise ValueError(f"bits must lie in 1…{MAX_BITS}, came {bits}")
        self.bits = bits
        self.rates = rates or Rates()
        self.n_learned = 0
        self.z: F32 = np.zeros(2**bits + 1, dtype=np.float32)
        self.n: F32 = np.zeros(2**bits + 1, dtype=np.float32)
        self.weights: F32 = np.zeros(2**bits + 1, dtype=np.float32)

    def predict(self, ids: U32, offsets: F64 | None = None) -> F32:
        """The click probability of each row of `ids: uint32[n, F]`, as `float32[n]` in (0, 1); changes nothing.

        `offsets: float64[n]` are logits the model starts from (see `logit`): it then predicts what they leave open.
        """
        starts = self._check(ids, offsets)
        out = np.empty(len(ids), dtype=np.float32)
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = ids[start : start + _BLOCK_ROWS]
            logits = starts[start : start + _BLOCK_ROWS] + float(self.weights[-1])
            for place in range(block.shape[1]):  # column by column: the kernel's order of summation
                logits += self.weights[block[:, place]]
            out[start : start + _BLOCK_ROWS] = 1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))
        # float32 has no number between 1 - 2**-24 and 1: keep the log of both outcomes finite.
        return np.clip(out, np.float32(1e-30), np.float32(1 - 2**-24))

    def learn(self, ids: U32, labels: U8, offsets: F64 | None = None) -> None:
        """Learn the rows of `ids: uint32[n, F]` with `labels: uint8[n]` (0 or 1), in order, from `offsets: float64[n]`;
        n at once or one by one is the same to the last bit."""
        starts = self._check(ids, offsets)
        if labels.shape != (len(ids),) or labels.dtype != np.uint8 or (labels > 1).any():
            raise ValueError(
                f"expected labels uint8[{len(ids)}] of 0 and 1, came {labels.dtype}{list(labels.shape)}"
            )
        rows = (np.ascontiguousarray(ids), np.ascontiguousarray(labels), np.ascontiguousarray(starts))
        ftrl_learn()(*rows, self.z, self.n, self.weights, self.rates.as_tuple())
        self.n_learned += len(ids)

    def _check(self, ids: U32, offsets: F64 | None) -> F64:
        """The offsets of the rows. The kernel trusts its indices, so they are checked here, a whole batch at once."""
        if ids.dtype != np.uint32 or ids.ndim != 2 or (ids.size and int(ids.max()) >= 2**self.bits):
            raise ValueError(
                f"expected ids uint32[n, F] below 2**{self.bits}, came {ids.dtype}{list(ids.shape)}"
            )
        if offsets is None:
            return np.zeros(len(ids))
        if offsets.shape != (len(ids),) or offsets.dtype != np.float64:
            raise ValueError(
                f"expected offsets float64[{len(ids)}], came {offsets.dtype}{list(offsets.shape)}"
            )
        return offsets

    def state(self, learner: str = "ftrl", version: int = 0) -> State:
        """Everything `from_state` needs; only coordinates ever touched are listed."""
        touched = np.flatnonzero((self.n != 0) | (self.z != 0)).astype(np.uint32)
        return State(
            learner,
            version,
            self.n_learned,
            {"bits": self.bits, **asdict(self.rates)},
            {"touched": touched, "z": self.z[touched], "n": self.n[touched]},
        )

    @classmethod
    def from_state(cls, state: State) -> "Ftrl":
        """The model that `state` describes, equal to the last bit, weights included. Raises BadCheckpoint."""
        try:
            params = dict(state.params)
            model = cls(
                int(params["bits"]), Rates(*(float(params[name]) for name in ("alpha", "beta", "l1", "l2")))
            )
            touched, z, n = (state.arrays[name] for name in ("touched", "z", "n"))
        except (TypeError, ValueError, KeyError) as error:
            raise BadCheckpoint(f"not a state of {state.learner!r}: {error!r}") from error
        if not (touched.shape == z.shape == n.shape == (touched.size,)) or touched.dtype != np.uint32:
            raise BadCheckpoint(
                f"touched, z and n must be equally long lists, came {touched.shape}, {z.shape}"
            )
        if touched.size and int(touched.max()) > 2**model.bits:
            raise BadCheckpoint(
                f"id {touched.max()} lies beyond the model's 2**{model.bits} weights and bias"
            )
        model.z[touched], model.n[touched] = z, n
        model.weights = _weights(model.z, model.n, model.rates)
        model.n_learned = state.n_learned
        return model


def logit(probabilities: F32 | F64) -> F64:
    """The logits, `float64[n]`, of `probabilities: [n]` in (0, 1)."""
    p = probabilities.astype(np.float64)
    logits: F64 = np.log(p) - np.log1p(-p)
    return logits


def _weights(z: F32, n: F32, rates: Rates) -> F32:
    """The weights that `z` and `n` stand for, bit for bit as the kernel leaves them: the same steps on whole arrays."""
    penalty = np.full(len(z), float(rates.l1))
    penalty[-1] = 0.0  # the bias is not penalised
    pull = z.astype(np.float64)
    shrunk = pull - np.copysign(penalty, pull)
    weights = -shrunk / ((rates.beta + np.sqrt(n.astype(np.float64))) / rates.alpha + rates.l2)
    weights[np.abs(pull) <= penalty] = 0.0
    rounded: F32 = weights.astype(np.float32)
    return rounded
