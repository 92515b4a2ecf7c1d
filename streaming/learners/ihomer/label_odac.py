"""`LabelODAC`: which labels come together, as a tree of clusters that splits and merges while the stream runs.

In the flow: sees the labels of each row after it was predicted and learnt, never before; its leaves are the partition that
`IHOMER.clusters` reports and that the cluster learners use. Online divisive-agglomerative clustering (Rodrigues, Gama and
Pedroso, "Hierarchical clustering of time-series data streams", TKDE 2008) on Jaccard distances between labels.

A leaf splits when one of the tests of `splitting` holds, a split is undone when what it gained is gone by more than the
bounds of then and now (`splitting.joins`), and no node changes within `n_min` rows of its making. Every label ever seen is in exactly
one leaf after every row: a new one joins the smallest leaf, and once it was set `SETTLE` times the leaf it is closest to.

Deliberately absent: learners (restructuring changes who shares a cluster, and moves no weight: see `clustered`).
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from river import base

from headrace.streaming.learners.ihomer.pair_counts import PairCounts
from headrace.streaming.learners.ihomer.splitting import (
    Rules,
    Split,
    SplitTest,
    is_gone,
    jaccard,
    joins,
    share_of,
    split,
)

SETTLE: Final = 5.0
_DENSE: Final = 4096
"""Up to so many labels are compared with each other."""
LOOKS: Final = 8
"""Leaves that one evaluation tries to split; they take turns, so that its cost does not grow with their number."""


@dataclass(frozen=True)
class Change:
    """One event of the tree: in row `row`, `before` became `after` (sets of labels, sorted)."""

    row: int
    kind: Literal["split", "merge"]
    before: tuple[tuple[Any, ...], ...]
    after: tuple[tuple[Any, ...], ...]


@dataclass
class Node:
    """A cluster. `gain` and `eps` are those of its split, when it was made; members are kept by leaves alone."""

    parent: int
    born: int
    members: list[int]
    children: tuple[int, int] | None = None
    gain: float = 0.0
    eps: float = 1.0


class LabelODAC(base.Clusterer):
    """An online hierarchy of labels by Jaccard distance.

    Parameters
    ----------
    n_min
        Rows between evaluations, and the least age of a node that changes.
    delta
        Probability with which a single split may be wrong.
    tau
        `split_test="odac"` only: a bound below this decides a tie.
    split_test
        "share", "gain" or "odac"; see `splitting`.
    min_size, max_size
        Of a cluster, in labels. min_size 0 stands for the rounded mean number of labels per row, at least 2. A cluster above
        max_size is split whatever the test says.
    min_pair
        Rows in which at least one of two labels must be set before their distance counts.
    decay
        Weight of a row once another one came; 1 forgets nothing.

    Examples
    --------
    >>> import random
    >>> rng = random.Random(1)
    >>> odac = LabelODAC()
    >>> for _ in range(1000):
    ...     odac.learn_one(["cat", "fur"] if rng.random() < 0.5 else ["car", "wheel"])
    >>> [sorted(cluster) for cluster in odac.clusters]
    [['cat', 'fur'], ['car', 'wheel']]

    """

    def __init__(
        self,
        n_min: int = 200,
        delta: float = 0.05,
        tau: float = 0.1,
        split_test: SplitTest = "share",
        min_size: int = 0,
        max_size: int = 64,
        min_pair: int = 30,
        decay: float = 1.0,
    ) -> None:
        self.n_min, self.delta, self.tau = n_min, delta, tau
        self.split_test: SplitTest = split_test
        self.min_size, self.max_size, self.min_pair, self.decay = min_size, max_size, min_pair, decay
        if n_min < 1 or not 0.0 < delta < 1.0 or max_size < 2 or min_size < 0 or min_size > max_size // 2:
            raise ValueError(
                f"expected n_min >= 1, 0 < delta < 1 and 0 <= min_size <= max_size/2, came {n_min}, {delta}, {min_size}, {max_size}"
            )
        if split_test not in ("share", "gain", "odac"):
            raise ValueError(f"expected split_test 'share', 'gain' or 'odac', came {split_test!r}")
        self.n_seen = 0
        self.n_on = 0
        self.labels: list[Any] = []
        self.counts = PairCounts(decay)
        self.nodes: dict[int, Node] = {0: Node(-1, 0, [])}
        self.changes: list[Change] = []
        self._next = 1
        self._home: list[int] = []
        self._unsettled: set[int] = set()
        self._index: dict[Any, int] = {}
        self._turn = 0

    @property
    def clusters(self) -> list[set[Any]]:
        """The partition: disjoint sets that cover every label seen, ordered by their first label."""
        return [{self.labels[i] for i in members} for members in self.partition()]

    @property
    def height(self) -> int:
        """Edges from the root to the deepest leaf."""
        return max(self.depth(key) for key in self.nodes)

    def partition(self) -> list[list[int]]:
        """The leaves' members as ascending label numbers, ordered by the first."""
        leaves = [
            sorted(node.members) for node in self.nodes.values() if node.children is None and node.members
        ]
        return sorted(leaves)

    def depth(self, key: int) -> int:
        """Edges from the root to a node."""
        depth = 0
        while (key := self.nodes[key].parent) >= 0:
            depth += 1
        return depth

    def learn_one(self, x: Any, **kwargs: Any) -> None:
        """Count one row; `x` is a set of labels or a dict of label to bool."""
        listed = sorted(x, key=str) if isinstance(x, set | frozenset) else x
        items = x.items() if isinstance(x, dict) else [(label, True) for label in listed]
        on = []
        for label, value in items:
            at = self.add_label(label)
            if value:
                on.append(at)
        self.learn_on(np.array(sorted(on), np.int32))
        if self.is_due():
            self.evaluate()

    def predict_one(self, x: Any, **kwargs: Any) -> int:
        """The number of the cluster in `clusters` that holds most of the labels set in `x`; 0 where none is known."""
        on = {
            self._index[label]
            for label in x
            if label in self._index and (not isinstance(x, dict) or x[label])
        }
        shared = [len(on.intersection(members)) for members in self.partition()]
        return int(np.argmax(shared)) if shared else 0

    def add_label(self, label: Any) -> int:
        """The number of a label, which is new or not."""
        at = self._index.get(label)
        if at is None:
            at = self._index[label] = len(self.labels)
            self.labels.append(label)
            home = min(self._leaves(), key=lambda key: (len(self.nodes[key].members), key))
            self.nodes[home].members.append(at)
            self._home.append(home)
            self._unsettled.add(at)
        return at

    def learn_on(self, on: Any) -> None:
        """Count a row by the numbers of its labels, `int32[k]`, ascending."""
        self.counts.add(on, len(self.labels))
        self.n_seen += 1
        self.n_on += len(on)

    def is_due(self) -> bool:
        """Whether the row just counted is one after which the tree is looked at."""
        return self.n_seen % self.n_min == 0

    def forget(self) -> None:
        """Halve the weight of all that was counted, and look at the tree at once: label correlations have drifted."""
        self.counts.forget()
        self.evaluate()

    def drop_label(self, label: Any) -> None:
        """Take a label out of the tree and its counts; the labels behind it move up by one. Raises KeyError."""
        at = self._index[label]
        self.nodes[self._home[at]].members.remove(at)
        self.counts.drop(at)
        del self.labels[at], self._home[at]
        self._index = {name: i for i, name in enumerate(self.labels)}
        self._unsettled = {i - (i > at) for i in self._unsettled if i != at}
        for node in self.nodes.values():
            node.members = [i - (i > at) for i in node.members]
        for key in [
            key for key in self._leaves() if not self.nodes[key].members and self.nodes[key].parent >= 0
        ]:
            self._merge(self.nodes[key].parent)

    def evaluate(self) -> None:
        """Settle new labels, then make at most one split or merge, and all splits that `max_size` demands."""
        self._settle()
        while self._forced():
            pass
        if not self._merge_one():
            self._split_one()
        while self._forced():
            pass

    def _leaves(self) -> list[int]:
        return [key for key, node in self.nodes.items() if node.children is None]

    def _smallest(self) -> int:
        return self.min_size or max(2, round(self.n_on / max(self.n_seen, 1)))

    def _rules(self) -> Rules:
        return Rules(self.delta, self.tau, self.split_test, self.min_pair)

    def _counts_of(self, members: list[int]) -> tuple[Any, Any]:
        at = np.array(members, np.int64)
        return self.counts.of_labels()[at], self.counts.together(at)

    def _settle(self) -> None:
        leaves = self._leaves()
        n = self.counts.of_labels()
        ready = [label for label in sorted(self._unsettled) if label < len(n) and n[label] >= SETTLE]
        self._unsettled.difference_update(ready)
        if len(leaves) < 2 or not ready or len(self.labels) > _DENSE:
            return
        together = self.counts.between(np.array(ready, np.int64), np.arange(len(n)))
        place, leaf_of = self._places(leaves)
        for label, row in zip(ready, together, strict=True):
            d = 1.0 - jaccard(row, n[label] + n - row)
            home = self._home[label]
            others = np.arange(len(n)) != label
            members = np.bincount(leaf_of[others], minlength=len(leaves))
            total = np.bincount(leaf_of[others], d[others], minlength=len(leaves))
            means = np.divide(total, members, out=np.ones(len(leaves)), where=members > 0)
            nearest = np.flatnonzero(means <= means.min())
            best = home if place[home] in nearest else leaves[int(nearest[0])]
            if best != home and len(self.nodes[home].members) > 1:
                self.nodes[home].members.remove(label)
                self.nodes[best].members.append(label)
                self._home[label] = best
                leaf_of[label] = place[best]

    def _forced(self) -> bool:
        for key in self._leaves():
            members = sorted(self.nodes[key].members)
            if len(members) > self.max_size:
                self._apply(key, members, self._cut(members))
                return True
        return False

    def _cut(self, members: list[int]) -> Split:
        if len(members) <= _DENSE and self.n_seen:
            n, together = self._counts_of(members)
            found = split(n, together, self._smallest(), self._rules())
            if found is not None:
                return found
        half = len(members) // 2  # nothing is known of them yet: any cut is as good as another
        return Split(np.arange(half), np.arange(half, len(members)), 0.0, 1.0, accepted=True)

    def _split_one(self) -> None:
        best: tuple[float, int, list[int], Split] | None = None
        leaves = [key for key in self._leaves() if len(self.nodes[key].members) >= 2 * self._smallest()]
        first = self._turn % max(len(leaves), 1)
        self._turn += LOOKS
        for key in (leaves[first:] + leaves[:first])[:LOOKS]:
            node = self.nodes[key]
            if self._age(key) < self.n_min or len(node.members) > _DENSE:
                continue
            members = sorted(node.members)
            found = split(*self._counts_of(members), self._smallest(), self._rules())
            if found is not None and found.accepted and (best is None or found.gain - found.eps > best[0]):
                best = found.gain - found.eps, key, members, found
        if best is not None:
            self._apply(*best[1:])

    def _apply(self, key: int, members: list[int], found: Split) -> None:
        node = self.nodes[key]
        sides = [[members[i] for i in side] for side in (found.left, found.right)]
        left, right = self._next, self._next + 1
        self._next += 2
        for child, side in zip((left, right), sides, strict=True):
            self.nodes[child] = Node(key, self.n_seen, side)
            for label in side:
                self._home[label] = child
        node.children, node.gain, node.eps, node.members = (left, right), found.gain, found.eps, []
        self._note("split", [members], sides)

    def _merge_one(self) -> bool:
        """Undo the deepest split that is no longer one. All below it goes with it: labels that now come together may lie far apart
        in the tree, and are then parted anew."""
        leaves = self._leaves()
        place, leaf_of = self._places(leaves)
        within = self.counts.by_group(leaf_of, len(leaves)) if self.split_test == "share" else None
        for key in sorted(self.nodes, key=self.depth, reverse=True):
            node = self.nodes[key]
            if node.children is None or any(self._age(child) < self.n_min for child in node.children):
                continue
            then = node.gain, node.eps
            if within is not None:
                left, right = ([place[leaf] for leaf in self._leaves_below(child)] for child in node.children)
                inner = tuple(float(within[np.ix_(side, side)].sum()) for side in (left, right))
                across = float(within[np.ix_(left, right)].sum())
                gone = is_gone(share_of(inner, across, self.delta), then)
            else:
                gone = self._would_join(node.children, then)
            if gone:
                self._merge(key)
                return True
        return False

    def _would_join(self, children: tuple[int, int], then: tuple[float, float]) -> bool:
        sides = [self._members_below(child) for child in children]
        n, together = self._counts_of(sides[0] + sides[1])
        left = np.arange(len(sides[0]))
        return joins(n, together, left, np.arange(len(left), len(n)), then, self._rules())

    def _places(self, leaves: list[int]) -> tuple[dict[int, int], Any]:
        """The number of each leaf, and of the leaf that each label counted so far is in, int64[L]."""
        place = {key: at for at, key in enumerate(leaves)}
        return place, np.array([place[home] for home in self._home], np.int64)[: len(self.counts.single)]

    def _leaves_below(self, key: int) -> list[int]:
        return [k for k in (key, *self._below(key)) if self.nodes[k].children is None]

    def _age(self, key: int) -> int:
        return self.n_seen - self.nodes[key].born

    def _members_below(self, key: int) -> list[int]:
        keys = [key, *self._below(key)]
        return sorted(label for k in keys for label in self.nodes[k].members)

    def _merge(self, key: int) -> None:
        """The two children of a node, and all below them, become one leaf again."""
        node = self.nodes[key]
        below = self._below(key)
        before = [sorted(self.nodes[k].members) for k in below if self.nodes[k].children is None]
        node.members = sorted(label for members in before for label in members)
        node.children, node.born = None, self.n_seen
        for k in below:
            del self.nodes[k]
        for label in node.members:
            self._home[label] = key
        self._note("merge", [members for members in before if members], [node.members])

    def _below(self, key: int) -> list[int]:
        children = self.nodes[key].children or ()
        return [k for child in children for k in (child, *self._below(child))]

    def _note(self, kind: Literal["split", "merge"], before: list[list[int]], after: list[list[int]]) -> None:
        def names(clusters: list[list[int]]) -> tuple[tuple[Any, ...], ...]:
            return tuple(tuple(self.labels[i] for i in members) for members in clusters)

        self.changes.append(Change(self.n_seen, kind, names(before), names(after)))
