"""The global tree: rows are led to a leaf by their features, and each leaf has a learner of its own.

A Hoeffding tree on the entropy of labels (`entropy`). A new leaf's learner begins as a copy of its parent's, so that nothing is
relearnt. Every node watches the Hamming loss of the rows that pass it (`adwin`, on the row's own loss); when it rises, a subtree
starts in the background there, learns the same rows, and takes the node's place when it is better by the bound of `watching`,
never by an alarm alone; Hulten, Spencer and Domingos (KDD 2001) and Bifet and Gavalda (IDA 2009) for single labels, MLHAT for many.

A leaf splits at most until there are `max_leaves`. On the public streams tried (up to 7,395 rows) no leaf passed the default bound,
so the tree was one block and changed nothing; it wins where regions of the features differ in meaning. It is off unless asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import numpy as np

from headrace.streaming.learners.ihomer.adwin import DELTA, Adwins, new_adwins, watch
from headrace.streaming.learners.ihomer.entropy import Statistics
from headrace.streaming.learners.ihomer.watching import LIFETIME, PATIENCE, SIGNIFICANCE

NO_FEATURE: Final = -1


class Learner(Protocol):
    """What a leaf holds."""

    def grow(self, features: int, labels: int) -> None: ...
    def drop(self, label: int) -> None: ...
    def copy(self) -> Self: ...
    def logits(self, index: Any, x: Any, persist: Any, z: Any) -> None: ...
    def learn(self, index: Any, x: Any, persist: Any, y: Any, rate: Any) -> None: ...


@dataclass(frozen=True)
class Growing:
    """How readily leaves split: rows between looks, the bound's delta and tie, and how many leaves there may be."""

    grace_period: int = 200
    delta: float = 1e-7
    tau: float = 0.05
    max_leaves: int = 16


@dataclass
class Node:
    """A leaf while `children` is None. `other` is a subtree in the background, `loss` and `loss_other` their sums over `rows`."""

    learner: Any
    statistics: Statistics | None
    feature: int = NO_FEATURE
    threshold: float = 0.0
    children: "tuple[Node, Node] | None" = None
    other: "Node | None" = None
    rows: int = 0
    loss: float = 0.0
    loss_other: float = 0.0
    adwin: Adwins = field(default_factory=lambda: new_adwins(1))

    def leaves(self) -> "list[Node]":
        """The leaves below, left to right."""
        if self.children is None:
            return [self]
        return [leaf for child in self.children for leaf in child.leaves()]

    def every(self) -> "list[Node]":
        """This node, all below it and in the background."""
        below = [*(self.children or ()), *([self.other] if self.other else [])]
        return [self, *(node for child in below for node in child.every())]

    def depth(self) -> int:
        """Edges to the deepest leaf."""
        return 0 if self.children is None else 1 + max(child.depth() for child in self.children)


class GlobalTree:
    """A learner whose leaves are learners; `fresh` makes one that has learnt nothing."""

    def __init__(self, fresh: Callable[[], Any], growing: Growing, sparse: bool) -> None:
        self.fresh, self.growing, self.sparse = fresh, growing, sparse
        self.features = self.labels = 0
        self.n_splits = self.n_swaps = self.n_given_up = 0
        self.root = self._leaf(fresh())

    def grow(self, features: int, labels: int) -> None:
        """Make room for new features and labels in every leaf."""
        self.features, self.labels = features, labels
        for node in self.root.every():
            if node.children is None:
                node.learner.grow(features, labels)
                if node.statistics is not None:
                    node.statistics.grow(features, labels)

    def drop(self, label: int) -> None:
        """Take a label out of every leaf."""
        self.labels -= 1
        for node in self.root.every():
            if node.children is None:
                node.learner.drop(label)
                if node.statistics is not None:
                    node.statistics.drop(label)

    def restructure(self, partition: list[list[int]]) -> None:
        """Hand another partition of the labels to the leaves' learners."""
        for node in self.root.every():
            if node.children is None and hasattr(node.learner, "restructure"):
                node.learner.restructure(partition)

    def logits(self, index: Any, x: Any, persist: Any, z: Any) -> None:
        """Fill `z: float32[n]` by the leaf that the row is led to."""
        self._reach(self.root, index, x).learner.logits(index, x, persist, z)

    def learn(self, index: Any, x: Any, persist: Any, y: Any, rate: Any) -> None:
        """Watch, learn and perhaps grow, on one scaled row with its labels `y: uint8[n]`."""
        self._learn(self.root, (index, x, persist, y, rate), main=True)

    def path(self, index: Any, x: Any) -> list[tuple[int, float, bool]]:
        """(feature, threshold, whether the row's value is above it) from the root to the row's leaf."""
        node, steps = self.root, []
        while node.children is not None:
            above = _value(node.feature, index, x) > node.threshold
            steps.append((node.feature, node.threshold, above))
            node = node.children[int(above)]
        return steps

    def _leaf(self, learner: Any) -> Node:
        return Node(learner, Statistics(self.features, self.labels, self.sparse))

    def _reach(self, node: Node, index: Any, x: Any) -> Node:
        while node.children is not None:
            node = node.children[int(_value(node.feature, index, x) > node.threshold)]
        return node

    def _loss(self, node: Node, row: Any) -> float:
        index, x, persist, y, _ = row
        z = np.empty(len(y), np.float32)
        self._reach(node, index, x).learner.logits(index, x, persist, z)
        return float((((z > 0.0) != (y == 1)) & (y < 2)).mean()) if len(y) else 0.0

    def _learn(self, node: Node, row: Any, main: bool) -> None:
        if main:
            self._watch(node, row)
        if node.other is not None:
            self._learn(node.other, row, main=False)
        if node.children is not None:
            above = _value(node.feature, row[0], row[1]) > node.threshold
            self._learn(node.children[int(above)], row, main)
            return
        index, x, persist, y, rate = row
        node.learner.learn(index, x, persist, y, rate)
        statistics = node.statistics
        assert statistics is not None
        statistics.add(index, x, np.flatnonzero(y == 1).astype(np.int32))
        if (
            statistics.n % self.growing.grace_period == 0
            and len(self.root.leaves()) < self.growing.max_leaves
        ):
            self._split(node, statistics)

    def _split(self, node: Node, statistics: Statistics) -> None:
        found = statistics.best(self.growing.delta, self.growing.tau)
        if found is None:
            return
        node.feature, node.threshold = found.feature, found.threshold
        node.children = (self._leaf(node.learner.copy()), self._leaf(node.learner))
        node.learner, node.statistics = None, None
        self.n_splits += 1

    def _watch(self, node: Node, row: Any) -> None:
        """Feed the node's detector; start, judge and end what grows in the background."""
        loss = self._loss(node, row)
        rising = np.zeros(1, np.int64)
        watch(node.adwin, np.full((1, 1), loss), DELTA, rising)
        if node.other is None:
            if rising[0] == 1:
                learner = self.fresh()
                learner.grow(self.features, self.labels)
                node.other = self._leaf(learner)
                node.rows, node.loss, node.loss_other = 0, 0.0, 0.0
            return
        node.rows += 1
        node.loss += loss
        node.loss_other += self._loss(node.other, row)
        if node.rows < PATIENCE:
            return
        main, other = node.loss / node.rows, node.loss_other / node.rows
        bound = math.sqrt(2.0 * main * (1.0 - main) * math.log(2.0 / SIGNIFICANCE) * 2.0 / node.rows)
        if main - other > bound:
            better = node.other
            node.learner, node.statistics, node.children = better.learner, better.statistics, better.children
            node.feature, node.threshold, node.other = better.feature, better.threshold, None
            node.adwin = new_adwins(1)
            self.n_swaps += 1
        elif other - main > bound or node.rows >= LIFETIME:
            node.other = None
            self.n_given_up += 1


def _value(feature: int, index: Any, x: Any) -> float:
    """A row's scaled value of a feature; 0 where it has none."""
    at = np.flatnonzero(index == feature)
    return float(x[at[0]]) if len(at) else 0.0
