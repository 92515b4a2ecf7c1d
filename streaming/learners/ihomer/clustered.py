"""Learners that know the label clusters: what the paper's hierarchy is for, in four forms that can be compared.

- `conditional`: p(l) = p(c) p(l | c). A block over clusters learns whether any label of c is set; a label's own column learns
  from the rows alone where its cluster is on (HOMER's meta-labels: Tsoumakas, Katakis and Vlahavas, MMD 2008).
- `prune`: the same, but clusters with p(c) below `PRUNE` are not looked into, so that a row costs the clusters and the few
  labels of the open ones instead of all labels.
- `chain`: a label sees the predicted probabilities of its cluster's more frequent labels (Read et al., MLJ 2011, within clusters).
- `meta`: a label sees the logit of its cluster.

Labels keep their columns whoever shares their cluster: when the partition changes, a new cluster starts with the column of the
old one that it has most labels in common with, and nothing else moves. Measured, none of these forms predicts better than one
block over all labels where labels are many; `docs/decisions` says by how much. `prune` is what they are good for.
"""

import math
from typing import Any, Final, Literal

import numpy as np

from headrace.streaming.learners.ihomer.growth import drop_column, grown
from headrace.streaming.learners.ihomer.jit import kernel
from headrace.streaming.learners.ihomer.linear import Block, forward, new_block, step, surprise

Use = Literal["conditional", "prune", "chain", "meta"]
PRUNE: Final = 0.05
CHAIN_RATE: Final = np.float32(0.3)
MOST_CHAINED: Final = 2048
"""Chains keep a weight for each pair of labels."""
CLOSED: Final = np.float32(-8.0)


@kernel
def forward_some(block: Any, index: Any, value: Any, persist: Any, some: Any, z: Any) -> None:
    """`forward` for the labels `some: int32[k]` alone; z: float32[n] keeps its other values."""
    for label in some:
        z[label] = block.b[label]
        for k in range(len(persist)):
            z[label] += block.v[k, label] * persist[k, label]
    for at in range(len(index)):
        x = value[at]
        row = block.w[index[at]]
        for label in some:
            z[label] += row[label] * x


@kernel
def step_some(block: Any, index: Any, value: Any, persist: Any, some: Any, g: Any, rate: Any) -> None:
    """`step` for the labels `some: int32[k]` alone."""
    for label in some:
        block.gb[label] += g[label] * g[label]
        block.b[label] -= np.float32(0.3) * g[label] / np.float32(math.sqrt(block.gb[label]))
        for k in range(len(persist)):
            d = g[label] * persist[k, label]
            block.gv[k, label] += d * d
            block.v[k, label] -= np.float32(0.3) * d / np.float32(math.sqrt(block.gv[k, label]))
    for at in range(len(index)):
        x = value[at]
        row, squares = block.w[index[at]], block.gw[index[at]]
        for label in some:
            d = g[label] * x
            squares[label] += d * d
            row[label] -= rate * d / np.float32(math.sqrt(squares[label]))


@kernel
def by_cluster(z_meta: Any, z: Any, start: Any, member: Any, floor: float, opened: Any) -> None:
    """Turn logits of p(l | c) into logits of p(c) p(l | c), for clusters whose `opened: uint8[C]` is 1."""
    for c in range(len(z_meta)):
        if opened[c] == 0:
            continue
        pc = 1.0 / (1.0 + math.exp(-z_meta[c]))
        for at in range(start[c], start[c + 1]):
            label = member[at]
            p = min(max(pc / (1.0 + math.exp(-z[label])), floor), 1.0 - floor)
            z[label] = math.log(p / (1.0 - p))


@kernel
def chain_forward(u: Any, order: Any, start: Any, z: Any) -> None:
    """Add to each logit what the probabilities before it in its cluster's chain `order: int32[n]` say."""
    for c in range(len(start) - 1):
        for at in range(start[c], start[c + 1]):
            label = order[at]
            for before in range(start[c], at):
                other = order[before]
                z[label] += u[other, label] / (np.float32(1.0) + np.float32(math.exp(-z[other])))


@kernel
def chain_step(u: Any, gu: Any, order: Any, start: Any, z: Any, g: Any) -> None:
    """AdaGrad on the chains' weights `u: float32[n, n]`."""
    for c in range(len(start) - 1):
        for at in range(start[c], start[c + 1]):
            label = order[at]
            for before in range(start[c], at):
                other = order[before]
                d = g[label] / (np.float32(1.0) + np.float32(math.exp(-z[other])))
                gu[other, label] += d * d
                u[other, label] -= np.float32(0.3) * d / np.float32(math.sqrt(gu[other, label]))


class Clustered:
    """One block over labels and one over clusters, used in one of four ways; see the module."""

    def __init__(self, use: Use, partition: list[list[int]]) -> None:
        self.use: Use = use
        self.block = new_block(0, 0)
        self.meta = new_block(0, 0)
        self.meta_persist = np.zeros((0, 0), np.float32)
        self.u = np.zeros((0, 0), np.float32)
        self.gu = np.zeros((0, 0), np.float32)
        self.u_meta = np.zeros(0, np.float32)
        self.gu_meta = np.zeros(0, np.float32)
        self.positives = np.zeros(0)
        self.opened_labels = 0
        self.partition: list[list[int]] = []
        self._layout()
        self.restructure(partition)

    @property
    def start(self) -> Any:
        return np.concatenate([[0], np.cumsum([len(c) for c in self.partition])]).astype(np.int64)

    def restructure(self, partition: list[list[int]]) -> None:
        """Take over another partition of the same labels: clusters inherit a column, labels keep theirs."""
        old = [set(members) for members in self.partition]
        heirs = [
            max(range(len(old)), key=lambda c: len(old[c].intersection(members))) if old else -1
            for members in partition
        ]
        fresh = new_block(len(self.meta.w), len(partition))
        if old:
            for mine, theirs in zip(fresh, self.meta, strict=True):
                mine[...] = theirs[..., heirs]
        self.meta = fresh
        self.partition = [list(members) for members in partition]
        self._layout()

    def grow(self, features: int, labels: int) -> None:
        """Make room; a label that is in no cluster yet gets one with the next `restructure`."""
        self.block = grown(self.block, features, labels)
        self.meta = grown(self.meta, features, len(self.partition))
        self.positives = np.concatenate([self.positives, np.zeros(labels - len(self.positives))])
        new = labels - len(self.u_meta)
        self.u_meta = np.concatenate([self.u_meta, np.zeros(new, np.float32)])
        self.gu_meta = np.concatenate([self.gu_meta, np.full(new, np.float32(0.1), np.float32)])
        if self.use == "chain":
            if labels > MOST_CHAINED:
                raise ValueError(
                    f"chains keep a weight per pair of labels: expected at most {MOST_CHAINED}, came {labels}"
                )
            u = np.zeros((labels, labels), np.float32)
            gu = np.full((labels, labels), np.float32(0.1), np.float32)
            u[: len(self.u), : len(self.u)], gu[: len(self.u), : len(self.u)] = self.u, self.gu
            self.u, self.gu = u, gu

    def drop(self, label: int) -> None:
        """Take a label's column out; the labels behind it move up by one."""
        self.block = drop_column(self.block, label)
        self.positives = np.delete(self.positives, label)
        self.u_meta, self.gu_meta = np.delete(self.u_meta, label), np.delete(self.gu_meta, label)
        if self.use == "chain":
            self.u, self.gu = (np.delete(np.delete(a, label, 0), label, 1) for a in (self.u, self.gu))
        shared = [[i - (i > label) for i in members if i != label] for members in self.partition]
        kept = [c for c, members in enumerate(shared) if members]
        self.meta = Block(*(np.ascontiguousarray(a[..., kept]) for a in self.meta))
        self.partition = [shared[c] for c in kept]
        self._layout()

    def copy(self) -> "Clustered":
        """A learner that knows the same and goes its own way."""
        other = Clustered(self.use, self.partition)
        other.block, other.meta = (Block(*(a.copy() for a in block)) for block in (self.block, self.meta))
        for name in ("u", "gu", "u_meta", "gu_meta", "positives", "_order"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def logits(self, index: Any, x: Any, persist: Any, z: Any) -> None:
        """Fill `z: float32[n]` for one scaled row."""
        if self.use in ("chain", "meta"):
            forward(self.block, index, x, persist, z)
            if self.use == "chain":
                chain_forward(self.u, self._order, self._start, z)
            else:
                self._meta_logits(index, x)
                z += self.u_meta[: len(z)] * np.clip(self._zc, -4.0, 4.0)[self._cluster_of[: len(z)]]
            return
        self._meta_logits(index, x)
        opened = np.ones(len(self._zc), np.uint8)
        some = self._everyone
        if self.use == "prune":
            opened = (self._zc > math.log(PRUNE / (1 - PRUNE))).astype(np.uint8)
            some = self._members_of(opened)
            z[:] = CLOSED
        self.opened_labels += len(some)
        forward_some(self.block, index, x, persist, some, z)
        by_cluster(self._zc, z, self._start, self._everyone, 1e-6, opened)

    def learn(self, index: Any, x: Any, persist: Any, y: Any, rate: Any) -> None:
        """One step on a scaled row, `y: uint8[n]`; `logits` of the same row has been called just before."""
        on = y == 1
        self.positives[on] += 1
        z = np.empty(len(y), np.float32)
        g = np.empty(len(y), np.float32)
        if self.use == "chain":
            forward(self.block, index, x, persist, z)
            chain_forward(self.u, self._order, self._start, z)
            surprise(z, y, g)
            chain_step(self.u, self.gu, self._order, self._start, z, g)
            step(self.block, index, x, persist, g, rate)
            return
        yc = np.zeros(len(self.partition), np.uint8)
        yc[self._cluster_of[np.flatnonzero(on)]] = 1
        gc = np.empty(len(yc), np.float32)
        self._meta_logits(index, x)
        if self.use == "meta":
            forward(self.block, index, x, persist, z)
            seen = np.clip(self._zc, -4.0, 4.0)[self._cluster_of[: len(z)]]
            z += self.u_meta[: len(z)] * seen
            surprise(z, y, g)
            self.gu_meta += (g * seen) ** 2
            self.u_meta -= CHAIN_RATE * g * seen / np.sqrt(self.gu_meta)
            step(self.block, index, x, persist, g, rate)
        else:
            some = self._members_of(yc)
            forward_some(self.block, index, x, persist, some, z)
            g[:] = 0.0
            own = np.empty(len(some), np.float32)
            surprise(np.ascontiguousarray(z[some]), np.ascontiguousarray(y[some]), own)
            g[some] = own
            step_some(self.block, index, x, persist, some, g, rate)
        surprise(self._zc, yc, gc)
        step(self.meta, index, x, self.meta_persist, gc, rate)

    def _members_of(self, opened: Any) -> Any:
        parts = [self._everyone[self._start[c] : self._start[c + 1]] for c in np.flatnonzero(opened)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _meta_logits(self, index: Any, x: Any) -> None:
        forward(self.meta, index, x, self.meta_persist, self._zc)

    def _layout(self) -> None:
        """What kernels read of the partition."""
        labels = sum(len(members) for members in self.partition)
        order = [sorted(members, key=lambda i: (-self._positives_of(i), i)) for members in self.partition]
        self._start = self.start
        self._order = np.array([i for members in order for i in members], np.int32)
        self._everyone = np.array([i for members in self.partition for i in members], np.int32)
        self._cluster_of = np.zeros(labels, np.int64)
        for c, members in enumerate(self.partition):
            self._cluster_of[members] = c
        self._zc = np.zeros(len(self.partition), np.float32)

    def _positives_of(self, label: int) -> float:
        return float(self.positives[label]) if label < len(self.positives) else 0.0
