"""The statistics of a tree's leaf and the split they speak for: entropy of independent Bernoulli labels, Hoeffding-bounded.

    H = - sum_l [p_l log2 p_l + (1 - p_l) log2 (1 - p_l)],   merit = H(leaf) - sum of the children's H by weight

A leaf splits when its best merit leads the second by eps = sqrt(R^2 ln(1/delta) / 2n), or eps < tau; R = log2 of the distinct
labelsets seen, as MLHAT has it (a heuristic: the bound proper would be the number of labels).

Dense streams: mean and variance of each feature per label, `CUTS` candidate thresholds around the feature's mean, and the share of
each label below a threshold as if its values were Gaussian. Sparse streams: how often a feature is not zero, per label; the
candidate is x_f != 0. Only the labels that are set are updated, so a row costs O(features (k + 1)).
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

CUTS: Final = (-0.67, 0.0, 0.67)
"""In standard deviations: the quartiles of a Gaussian."""
MIN_SHARE: Final = 0.01
"""Of a leaf's rows that each side of a split must have."""


@dataclass(frozen=True)
class Candidate:
    """A split: feature number, threshold in scaled units, merit in bits."""

    feature: int
    threshold: float
    merit: float


def entropy(p: Any) -> Any:
    """Bits, summed over the last axis, of independent Bernoullis."""
    q = np.clip(p, 1e-12, 1.0 - 1e-12)
    return -(q * np.log2(q) + (1.0 - q) * np.log2(1.0 - q)).sum(-1)


class Statistics:
    """What a leaf has seen: n rows, n_on float64[L], and per feature sums over all rows and over those with each label.

    total, total2 float64[D]; on, on2 float64[D, L]. A sparse stream counts non-zeros in `total` and `on` alone.
    """

    def __init__(self, features: int, labels: int, sparse: bool) -> None:
        self.sparse = sparse
        self.n = 0.0
        self.n_on = np.zeros(labels)
        self.total, self.total2 = np.zeros(features), np.zeros(features)
        self.on = np.zeros((features, labels))
        self.on2 = np.zeros((0 if sparse else features, labels))
        self.labelsets: set[bytes] = set()

    def grow(self, features: int, labels: int) -> None:
        """Make room for new features and labels."""
        if features > len(self.total) or labels > len(self.n_on):
            fresh = Statistics(max(features, len(self.total)), labels, self.sparse)
            d, had = self.on.shape
            fresh.n, fresh.labelsets = self.n, self.labelsets
            fresh.n_on[:had], fresh.total[:d], fresh.total2[:d] = self.n_on, self.total, self.total2
            fresh.on[:d, :had] = self.on
            fresh.on2[: len(self.on2), :had] = self.on2
            self.__dict__.update(fresh.__dict__)

    def drop(self, label: int) -> None:
        """Forget a label."""
        self.n_on = np.delete(self.n_on, label)
        self.on, self.on2 = np.delete(self.on, label, 1), np.delete(self.on2, label, 1)

    def add(self, index: Any, x: Any, on: Any) -> None:
        """Count a scaled row whose labels `on: int32[k]` are set."""
        self.n += 1.0
        self.n_on[on] += 1.0
        if len(self.labelsets) < 1 << 12:
            self.labelsets.add(on.tobytes())
        value = np.ones(len(x)) if self.sparse else x.astype(np.float64)
        self.total[index] += value
        grid = np.ix_(index, on)
        self.on[grid] += value[:, None]
        if not self.sparse:
            self.total2[index] += value * value
            self.on2[grid] += (value * value)[:, None]

    def best(self, delta: float, tau: float) -> Candidate | None:
        """The split that the bound allows, or None."""
        if len(self.labelsets) < 2:
            return None
        merits, thresholds = self._sparse_merits() if self.sparse else self._dense_merits()
        if not len(merits):
            return None
        order = np.argsort(merits)
        first, second = int(order[-1]), float(merits[order[-2]]) if len(order) > 1 else 0.0
        merit = float(merits[first])
        reach = math.log2(len(self.labelsets))
        eps = math.sqrt(reach * reach * math.log(1.0 / delta) / (2.0 * self.n))
        if merit <= 0.0 or not (merit - max(second, 0.0) > eps or eps < tau):
            return None
        return Candidate(first, float(thresholds[first]), merit)

    def _merit(self, below: Any, on_below: Any) -> Any:
        """Merits of splits with `below: float64[D]` rows on one side, of which `on_below: float64[D, L]` have each label."""
        above, on_above = self.n - below, self.n_on - on_below
        whole = float(entropy(self.n_on / self.n))
        sides = below * entropy(on_below / np.maximum(below, 1e-9)[:, None])
        sides += above * entropy(on_above / np.maximum(above, 1e-9)[:, None])
        merit = whole - sides / self.n
        merit[np.minimum(below, above) < MIN_SHARE * self.n] = -1.0
        return merit

    def _sparse_merits(self) -> tuple[Any, Any]:
        return self._merit(self.n - self.total, self.n_on - self.on), np.zeros(len(self.total))

    def _dense_merits(self) -> tuple[Any, Any]:
        mean = self.total / self.n
        deviation = np.sqrt(np.maximum(self.total2 / self.n - mean * mean, 0.0))
        n_on = np.maximum(self.n_on, 1e-9)
        mean_on = self.on / n_on
        deviation_on = np.sqrt(np.maximum(self.on2 / n_on - mean_on * mean_on, 1e-12))
        best, thresholds = np.full(len(mean), -1.0), mean.copy()
        for cut in CUTS:
            at = mean + cut * deviation
            share = _below(np.full(len(mean), cut))
            on_below = self.n_on * _below((at[:, None] - mean_on) / deviation_on)
            below = np.maximum(share * self.n, on_below.max(1, initial=0.0))
            merit = self._merit(np.minimum(below, self.n), np.minimum(on_below, self.n_on))
            merit[deviation <= 1e-9] = -1.0
            better = merit > best
            best[better], thresholds[better] = merit[better], at[better]
        return best, thresholds


def _below(z: Any) -> Any:
    """The normal distribution function, by a logistic curve that is never off by more than 0.01."""
    return 1.0 / (1.0 + np.exp(np.clip(-1.702 * z, -60.0, 60.0)))
