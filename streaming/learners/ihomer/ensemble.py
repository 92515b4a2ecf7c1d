"""Three more opinions and one that weighs them: what `ensemble=True` adds to a learner that is called `own` here.

    plain     a block without persistence features
    replay    a block without them that repeats each step on rows drawn from the last 1,000: much for small streams, poison for
              sorted ones, so only ever a candidate
    near      the labels of the 10 most similar of the last 200 rows, weighted by their cosine
    stacked   logit = sum_e A_e logit p_e + sum_k C_k f_k over the four and the persistence features; the weights are shared by
              all labels and learnt by AdaGrad on the gradient's mean over labels

Which of them decides is `choice`'s matter. The draws come from a generator kept with the state, so that runs repeat.
"""

import math
from typing import Any, Final

import numpy as np

from headrace.streaming.learners.ihomer.growth import drop_column, drop_cut, grown, grown_cuts, widened
from headrace.streaming.learners.ihomer.jit import kernel
from headrace.streaming.learners.ihomer.linear import forward, new_block, step, surprise
from headrace.streaming.learners.ihomer.thresholds import count, new_cuts, refresh

RING: Final = 1000
WINDOW: Final = 200
NEIGHBOURS: Final = 10
FEW_LABELS: Final = 300
"""Up to here a row is replayed `REPLAYS` times, and once above."""
REPLAYS: Final = 4
PLAIN, OWN, REPLAY, STACKED = range(4)
_NO_PERSIST: Final = np.zeros((0, 0), np.float32)
_CLIP = math.log(0.995 / 0.005)


@kernel
def length_of(x: Any) -> float:
    """The Euclidean norm of `x: float32[m]`, summed in order whatever its place in memory; never 0."""
    total = 0.0
    for at in range(len(x)):
        total += x[at] * x[at]
    return max(math.sqrt(total), 1e-12)


@kernel
def near(ring: Any, filled: Any, row: Any, scratch: Any, p: Any) -> None:
    """Fill `p: float32[n]` with the share of the nearest rows that have each label.

    ring: (index int32[RING, width], value float32[RING, width], length int32[RING], y uint8[RING, n], norm float32[RING]), of which
    `held` rows are filled and the newest lies before `head`. filled: (head, held). row: (index int32[m], value float32[m]).
    scratch: (spread float32[D], zeros and left so, best float64[10], who int64[10]).
    """
    ring_index, ring_value, length, ring_y, norm = ring
    head, held = filled
    index, value = row
    spread, best, who = scratch
    own = 0.0
    for at in range(len(index)):
        spread[index[at]] = value[at]
        own += value[at] * value[at]
    own = math.sqrt(own)
    for k in range(10):
        best[k], who[k] = 0.0, -1
    for back in range(min(held, 200)):
        kept = (head - 1 - back) % 1000
        dot = 0.0
        for at in range(length[kept]):
            dot += spread[ring_index[kept, at]] * ring_value[kept, at]
        if dot > 0.0 and own > 0.0:
            similar = dot / (own * norm[kept])
            if similar > best[9]:
                at = 9
                while at > 0 and similar > best[at - 1]:
                    best[at], who[at] = best[at - 1], who[at - 1]
                    at -= 1
                best[at], who[at] = similar, kept
    for at in range(len(index)):
        spread[index[at]] = 0.0
    total = 1e-3
    for k in range(10):
        total += best[k]
    for label in range(len(p)):
        p[label] = 0.0
    for k in range(10):
        if who[k] >= 0:
            for label in range(len(p)):
                if ring_y[who[k], label] == 1:
                    p[label] += best[k] / total


@kernel
def stack(a: Any, c: Any, z: Any, p_near: Any, persist: Any, clipped: Any) -> None:
    """Fill z[3] of `z: float32[4, n]` from the others, and `clipped: float32[4, n]` with what it was made of."""
    for label in range(z.shape[1]):
        for e in range(3):
            clipped[e, label] = min(max(z[e, label], -_CLIP), _CLIP)
        p = min(max(p_near[label], 0.005), 0.995)
        clipped[3, label] = math.log(p / (1.0 - p))
        total = 0.0
        for e in range(4):
            total += a[e] * clipped[e, label]
        for k in range(len(persist)):
            total += c[k] * persist[k, label]
        z[3, label] = total


@kernel
def learn_stack(weights: Any, squares: Any, clipped: Any, persist: Any, g: Any) -> None:
    """AdaGrad on the 7 shared weights: 4 of estimates, 3 of persistence features, as far as there are any."""
    n = len(g)
    for e in range(4 + len(persist)):
        mean = 0.0
        for label in range(n):
            mean += g[label] * (clipped[e, label] if e < 4 else persist[e - 4, label])
        mean /= n
        squares[e] += mean * mean
        weights[e] -= 0.1 * mean / math.sqrt(squares[e])


@kernel
def replay(block: Any, ring: Any, draws: Any, rate: Any, scratch: Any) -> None:
    """More steps on rows drawn uniformly from the ring.

    draws: (how many, of how many rows, random uint64[1], the generator's state: splitmix64). scratch: (persist float32[0, 0],
    z float32[n], g float32[n]).
    """
    times, held, random = draws
    persist, z, g = scratch
    ring_index, ring_value, length, ring_y, _ = ring
    for _ in range(times):
        random[0] += np.uint64(0x9E3779B97F4A7C15)
        mixed = random[0]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
        row = np.int64(mixed % np.uint64(held))
        index, value = ring_index[row, : length[row]], ring_value[row, : length[row]]
        forward(block, index, value, persist, z)
        surprise(z, ring_y[row], g)
        step(block, index, value, persist, g, rate)


class Ensemble:
    """The other opinions and the stacker; see the module. `seed` is the replay's, `without` names what says nothing."""

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self._replays, self._looks_near = "replay" not in without, "near" not in without
        self.blocks = [new_block(0, 0), new_block(0, 0)]
        self.cuts = [new_cuts(0), new_cuts(0), new_cuts(0)]  # plain, replay, stacked
        self.weights = np.array([0.25] * 4 + [0.0] * 3)
        self.squares = np.ones(7)
        self.random = np.array([seed], np.uint64)
        self.head = self.held = 0
        self.ring: tuple[Any, ...] = (
            np.zeros((RING, 1), np.int32),
            np.zeros((RING, 1), np.float32),
            np.zeros(RING, np.int32),
            np.zeros((RING, 0), np.uint8),
            np.ones(RING, np.float32),
        )
        self._size(0, 0)

    def _size(self, features: int, labels: int) -> None:
        self._spread = np.zeros(features, np.float32)
        self._best, self._who = np.zeros(NEIGHBOURS), np.zeros(NEIGHBOURS, np.int64)
        self._p = np.full(labels, 0.5, np.float32)  # the logit of which is 0: nothing said
        self._clipped = np.zeros((4, labels), np.float32)
        self._g, self._z = np.zeros(labels, np.float32), np.zeros(labels, np.float32)
        self.z = np.zeros((4, labels), np.float32)

    def refill(self, ring: Any) -> None:
        """Put rows that were kept back into the ring."""
        full = []
        for part, rows in zip(self.ring, ring, strict=True):
            wide = np.zeros((RING, *rows.shape[1:]), part.dtype)
            wide[: len(rows)] = rows
            full.append(wide)
        self.ring = tuple(full)

    def grow(self, features: int, labels: int) -> None:
        """Make room for new features and labels."""
        self.blocks = [grown(block, features, labels) for block in self.blocks]
        self.cuts = [grown_cuts(cuts, labels) for cuts in self.cuts]
        index, value, length, y, norm = self.ring
        self.ring = (index, value, length, widened(y, labels), norm)
        self._size(features, labels)

    def drop(self, label: int) -> None:
        """Take a label out; the labels behind it move up by one."""
        self.blocks = [drop_column(block, label) for block in self.blocks]
        self.cuts = [drop_cut(cuts, label) for cuts in self.cuts]
        index, value, length, y, norm = self.ring
        self.ring = (index, value, length, np.delete(y, label, 1), norm)
        self._size(len(self._spread), y.shape[1] - 1)

    def forget_rows(self) -> int:
        """Empty the ring; how many rows it held. `near` and `replay` begin again with the next row."""
        forgotten, self.head, self.held = self.held, 0, 0
        for part in self.ring:
            part.fill(0)
        return forgotten

    def estimate(self, own: Any, index: Any, x: Any, persist: Any) -> Any:
        """The logits float32[4, n] of plain, own, replay and stacked, `own: float32[n]` being given; valid until the next call."""
        z = self.z
        forward(self.blocks[0], index, x, _NO_PERSIST, z[PLAIN])
        z[OWN] = own
        if self._replays:
            forward(self.blocks[1], index, x, _NO_PERSIST, z[REPLAY])
        if self._looks_near:
            scratch = self._spread, self._best, self._who
            near(self.ring, (self.head, self.held), (index, x), scratch, self._p)
        stack(self.weights[:4], self.weights[4:], z, self._p, persist, self._clipped)
        return z

    def learn(self, index: Any, x: Any, persist: Any, y: Any, rate: Any) -> None:
        """Learn the row that `estimate` was just called for, with its labels `y: uint8[n]`."""
        z, g = self.z, self._g
        for cuts, k in zip(self.cuts, (PLAIN, REPLAY, STACKED), strict=True):
            count(cuts, z[k], y)
        surprise(z[STACKED], y, g)
        learn_stack(self.weights, self.squares, self._clipped, persist, g)
        for block, k in zip(self.blocks, (PLAIN, REPLAY), strict=True):
            if k == PLAIN or self._replays:
                surprise(z[k], y, g)
                step(block, index, x, _NO_PERSIST, g, rate)
        self._keep(index, x, y)
        if not self._replays:
            return
        times = REPLAYS if len(y) <= FEW_LABELS else 1
        draws = (times, self.held, self.random)
        replay(self.blocks[1], self.ring, draws, rate, (_NO_PERSIST, self._z, g))

    def refresh(self) -> None:
        """Move the cuts."""
        for cuts in self.cuts:
            refresh(cuts, len(self._g))

    def _keep(self, index: Any, x: Any, y: Any) -> None:
        ring_index, ring_value, length, ring_y, norm = self.ring
        if len(index) > ring_index.shape[1]:
            width = 2 * len(index)
            ring_index, ring_value = widened(ring_index, width), widened(ring_value, width)
            self.ring = (ring_index, ring_value, length, ring_y, norm)
        at = self.head
        ring_index[at, : len(index)], ring_value[at, : len(x)], length[at] = index, x, len(index)
        ring_y[at] = y
        norm[at] = length_of(x)
        self.head = (at + 1) % RING
        self.held = min(self.held + 1, RING)
