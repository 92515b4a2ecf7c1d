"""The slow twins: the recipe in plain Python floats and dicts, and recounts from all rows, against which the kernels are held."""

from __future__ import annotations

import math
from collections import defaultdict

BINS = 64


class NaiveRecipe:
    """One-vs-all AdaGrad with persistence features and mixed thresholds, a label and a feature at a time, in float64."""

    def __init__(self, features: int, labels: int, sparse: bool) -> None:
        self.labels, self.sparse, self.rows = labels, sparse, 0
        self.rate = 2.0 if sparse else 1.0
        self.w = defaultdict(float)
        self.g = defaultdict(lambda: 0.1)
        self.bias = [-2.0] * labels
        self.persist = [[0.0, 0.0, 0.0] for _ in range(labels)]
        self.seen = [[] for _ in range(features)]
        self.hits = [[[0] * BINS, [0] * BINS] for _ in range(labels)]
        self.cut = [32.0] * labels

    def scaled(self, x, keep: bool) -> dict[int, float]:
        if self.sparse:
            damped = {i: math.copysign(math.log1p(abs(v)), v) for i, v in enumerate(x) if v != 0.0}
            norm = math.sqrt(sum(v * v for v in damped.values()))
            return {i: v / norm for i, v in damped.items()} if norm else {}
        out = {}
        for i, v in enumerate(x):
            values = [*self.seen[i], v]
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((a - mean) ** 2 for a in values) / len(values))
            out[i] = (
                min(max((v - mean) / deviation, -4.0), 4.0) / math.sqrt(len(x)) if deviation > 1e-12 else 0.0
            )
            if keep:
                self.seen[i].append(v)
        return out

    def logit(self, x: dict[int, float], label: int) -> float:
        z = self.bias[label] + sum(self.w[i, label] * v for i, v in x.items())
        return z + sum(self.w["persist", k, label] * f for k, f in enumerate(self.persist[label]))

    def decide(self, z: float, label: int) -> int:
        return int(bin_of(z) >= self.cut[label])

    def learn(self, x, y) -> None:
        x = self.scaled(x, keep=True)
        for label in range(self.labels):
            z = self.logit(x, label)
            self.hits[label][0 if y[label] else 1][bin_of(z)] += 1
            surprise = 1 / (1 + math.exp(-z)) - y[label]
            self.g["bias", label] += surprise**2
            self.bias[label] -= 0.3 * surprise / math.sqrt(self.g["bias", label])
            for k, f in enumerate(self.persist[label]):
                self._step(("persist", k, label), surprise * f, 0.3)
            for i, v in x.items():
                self._step((i, label), surprise * v, self.rate)
            _before, fast, slow = self.persist[label]
            self.persist[label] = [
                float(y[label]),
                fast + 0.3 * (y[label] - fast),
                slow + 0.03 * (y[label] - slow),
            ]
        self.rows += 1
        if self.rows % 50 == 0 or (self.rows < 50 and self.rows % 10 == 0):
            self._move_cuts()

    def _step(self, key, gradient: float, rate: float) -> None:
        self.g[key] += gradient**2
        self.w[key] -= rate * gradient / math.sqrt(self.g[key])

    def _move_cuts(self) -> None:
        pool = [[sum(h[k][b] for h in self.hits) for b in range(BINS)] for k in (0, 1)]
        if not sum(pool[0]):
            return
        common, weight = best(*pool), 10 / sum(pool[0])
        for label, (positive, negative) in enumerate(self.hits):
            mixed = [
                [own + weight * all_ for own, all_ in zip(*pair, strict=True)]
                for pair in ((positive, pool[0]), (negative, pool[1]))
            ]
            self.cut[label] = (best(*mixed) + common) / 2


def bin_of(z: float) -> int:
    return int(min(max((min(max(z, -8.0), 7.999) + 8) * 4, 0), 63))


def best(positive, negative) -> int:
    """The highest bin of the best F1."""
    total = sum(positive)
    f1 = {}
    for cut in range(BINS):
        tp, fp = sum(positive[cut:]), sum(negative[cut:])
        f1[cut] = 2 * tp / (tp + fp + total) if tp + fp + total else -1.0
    top = max(f1.values())
    return max(cut for cut, value in f1.items() if value >= top - 1e-12)


def decode(counts: dict[frozenset, int], rows: int, ons: list[int], z: list[float]) -> frozenset:
    """The labelset of the best joint score."""

    def score(labelset: frozenset) -> float:
        c = counts[labelset]
        pi = [(n + 0.5) / (rows + 1) for n in ons]
        independent = sum(math.log(p / (1 - p)) for label, p in enumerate(pi) if label in labelset) + sum(
            math.log(1 - p) for p in pi
        )
        return sum(z[label] for label in labelset) + 0.5 * c / (c + 5) * (math.log(c / rows) - independent)

    return max(counts, key=score)
