"""Joint decoding: of the labelsets seen so far, which one fits the logits best?

One-vs-all probabilities know nothing of "exactly one label" or "never none"; whole labelsets do. The `MOST` most frequent
labelsets S are scored by

    sum_{l in S} z_l + a (c / (c + 5)) [log(c / t) - sum_{l in S} logit pi_l - sum_l log(1 - pi_l)],   a = 0.5

where c is how often S came in t rows and pi_l = (n_l + 1/2) / (t + 1). The bracket is by how much S is more frequent than its
labels would make it if they were independent. Where labelsets hardly ever repeat this decodes badly, so it is never used but as
a candidate of `choice`.
"""

import math
from typing import Any, Final

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

MOST: Final = 256
WAIT: Final = 20
"""Rows before the first labelset is proposed."""
KEPT: Final = 1 << 16
"""Labelsets counted at most; when there are more, those that came once are let go."""


@kernel
def decode(sets: Any, sizes: Any, counts: Any, seen: Any, z: Any, out: Any) -> None:
    """Fill `out: uint8[n]` with the best of the labelsets `sets: int32[m, width]` for the logits `z: float32[n]`.

    seen: (rows so far, float64[n] rows with each label).
    """
    t, ons = seen
    neither = 0.0
    for label in range(len(z)):
        neither += math.log(1.0 - (ons[label] + 0.5) / (t + 1.0))
    best, best_score = -1, -1e300
    for s in range(len(sizes)):
        score, independent = 0.0, neither
        for at in range(sizes[s]):
            label = sets[s, at]
            score += z[label]
            p = (ons[label] + 0.5) / (t + 1.0)
            independent += math.log(p / (1.0 - p))
        c = counts[s]
        score += 0.5 * c / (c + 5.0) * (math.log(c / t) - independent)
        if score > best_score:
            best, best_score = s, score
    for label in range(len(out)):
        out[label] = 0
    if best >= 0:
        for at in range(sizes[best]):
            out[sets[best, at]] = 1


class Labelsets:
    """Counts of labelsets, and the `MOST` most frequent ones as arrays that `decode` reads."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self.t = 0
        self.ons = np.zeros(0)
        self._places: dict[bytes, int] = {}
        self._sets = np.zeros((0, 1), np.int32)
        self._sizes = np.zeros(0, np.int32)
        self._top = np.zeros(0)

    def add(self, on: Any, labels: int) -> None:
        """Count a row whose labels `on: int32[k]`, ascending, are set."""
        self.ons = self._ons_of(labels)
        self.t += 1
        self.ons[on] += 1.0
        key = on.tobytes()
        n = self.counts[key] = self.counts.get(key, 0) + 1
        at = self._places.get(key)
        if at is not None:
            self._top[at] = n
        elif len(self._top) < MOST:
            self._place(key, on, n, None)
        elif n > self._top.min():
            self._place(key, on, n, int(np.argmin(self._top)))
        if len(self.counts) > KEPT:
            self.counts = {k: c for k, c in self.counts.items() if c > 1 or k in self._places}

    def decode(self, z: Any, out: Any) -> None:
        """Fill `out: uint8[n]` with the labelset that fits `z: float32[n]` best; the empty one in the first rows."""
        if self.t < WAIT:
            out[:] = 0
            return
        decode(self._sets, self._sizes, self._top, (float(self.t), self._ons_of(len(z))), z, out)

    def drop(self, label: int) -> None:
        """Take a label out of every labelset; the labels behind it move up by one."""
        counts: dict[bytes, int] = {}
        for key, n in self.counts.items():
            on = np.frombuffer(key, np.int32)
            on = on[on != label]
            fresh = (on - (on > label)).astype(np.int32).tobytes()
            counts[fresh] = counts.get(fresh, 0) + n
        self.restore(counts, self.t, np.delete(self.ons, label))

    def restore(self, counts: dict[bytes, int], t: int, ons: Any, places: list[bytes] | None = None) -> None:
        """Take over counts; `places` are the most frequent labelsets in their order."""
        self.counts, self.t, self.ons = counts, t, ons
        self._places, self._top = {}, np.zeros(0)
        self._sets, self._sizes = np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
        if places is None:
            places = sorted(counts, key=lambda key: -counts[key])[:MOST]
        for key in places:
            self._place(key, np.frombuffer(key, np.int32), counts[key], None)

    @property
    def places(self) -> list[bytes]:
        """The most frequent labelsets, in the order in which equals are preferred."""
        return sorted(self._places, key=self._places.__getitem__)

    def _ons_of(self, labels: int) -> Any:
        """`ons` with a 0 for each label that is so new that no row was counted since it came."""
        new = labels - len(self.ons)
        return self.ons if new <= 0 else np.concatenate([self.ons, np.zeros(new)])

    def _place(self, key: bytes, on: Any, n: int, at: int | None) -> None:
        """Put a labelset among the most frequent: in place of number `at`, or behind the others."""
        if len(on) > self._sets.shape[1]:
            wider = np.zeros((len(self._sets), 2 * len(on)), np.int32)
            wider[:, : self._sets.shape[1]] = self._sets
            self._sets = wider
        if at is None:
            at = len(self._top)
            self._sets = np.concatenate([self._sets, np.zeros((1, self._sets.shape[1]), np.int32)])
            self._sizes = np.append(self._sizes, np.int32(0))
            self._top = np.append(self._top, 0.0)
        else:
            self._places.pop(next(k for k, place in self._places.items() if place == at))
        self._places[key] = at
        self._sets[at, : len(on)], self._sizes[at], self._top[at] = on, len(on), n
