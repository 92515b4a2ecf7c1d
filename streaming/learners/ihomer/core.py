"""The learner itself, on numbers: scaled rows, label numbers, one row after the other. `model` gives it names.

Order within a row, which no option changes: scale x; estimate; decide; score the candidates; count the estimate under the true
labels; learn; remember the labels. Then, every `EDGE` rows and nowhere else: act on drift, look at the clusters. n rows at once
are n rows one by one, bit for bit, because everything that is done at intervals counts rows and not calls.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from headrace.streaming.learners.ihomer import steps
from headrace.streaming.learners.ihomer.clustered import Clustered, Use
from headrace.streaming.learners.ihomer.decision import Decision, Want
from headrace.streaming.learners.ihomer.ensemble import FEW_LABELS, STACKED, Ensemble
from headrace.streaming.learners.ihomer.global_tree import GlobalTree, Growing
from headrace.streaming.learners.ihomer.growth import drop_cut, grown, grown_cuts, grown_moments, widened
from headrace.streaming.learners.ihomer.label_odac import LabelODAC
from headrace.streaming.learners.ihomer.labelsets import Labelsets
from headrace.streaming.learners.ihomer.linear import N_PERSIST, remember
from headrace.streaming.learners.ihomer.plain import Plain
from headrace.streaming.learners.ihomer.rows import Rows
from headrace.streaming.learners.ihomer.scaling import new_moments
from headrace.streaming.learners.ihomer.thresholds import count, new_cuts, refresh
from headrace.streaming.learners.ihomer.watching import EDGE, Background, Watch, take_over

Kind = Literal["odac", "random", "one", "singletons", "none", "given"]
DENSE_RATE: Final = 1.0
SPARSE_RATE: Final = 2.0


@dataclass(frozen=True)
class Options:
    """What the learner consists of; see `IHOMER` for the meaning of each."""

    decision: Want
    ensemble: bool | None
    partition: Kind
    clusters_for: Use | Literal["inspection"]
    tree: bool
    drift: bool
    learning_rate: float | None
    growing: Growing
    seed: int
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Event:
    """Something that happened to the structure: in row `row`, what, and to which label numbers."""

    row: int
    kind: Literal["drift", "alarm", "swap", "give up"]
    labels: tuple[int, ...] = ()


class Core:
    """State and steps; `odac` is the label tree it keeps, sparse whether zeros mean absence."""

    def __init__(self, options: Options, odac: LabelODAC, sparse: bool) -> None:
        self.options, self.odac, self.sparse = options, odac, sparse
        self.n = 0
        self.features = self.labels = 0
        self.rate = np.float32(options.learning_rate or (SPARSE_RATE if sparse else DENSE_RATE))
        self.moments = new_moments(0)
        self.persist = np.zeros((0 if "persistence" in options.without else N_PERSIST, 0), np.float32)
        self.cuts = new_cuts(0)
        self.ensemble = None if options.ensemble is False else Ensemble(options.seed, options.without)
        self.decision = Decision(options.decision, self.ensemble is not None, options.without)
        self.labelsets = Labelsets() if self.decision.needs_labelsets else None
        self.learner: Any = GlobalTree(self.fresh, options.growing, sparse) if options.tree else self.fresh()
        self.watch = Watch() if options.drift else None
        self.events: list[Event] = []
        self.given: list[list[int]] = []
        """The partition by label numbers where the user gave one; labels in none of its sets share one more."""
        self._partition: list[list[int]] = []
        self._z = np.zeros(0, np.float32)

    def fresh(self) -> Any:
        """A learner that has learnt nothing, for the whole or for a leaf of the tree."""
        use = self.options.clusters_for
        return Plain() if use == "inspection" else Clustered(use, self.partition() if self.labels else [])

    @property
    def is_fast(self) -> bool:
        """Whether whole mini-batches go through one compiled loop."""
        return self.decision.is_plain and isinstance(self.learner, Plain)

    def partition(self) -> list[list[int]]:
        """Disjoint lists of label numbers that cover all labels."""
        kind = self.options.partition
        if kind == "odac":
            return self.odac.partition()
        if kind == "random":
            order = list(range(self.labels))
            random.Random(self.options.seed).shuffle(order)
            ends = np.cumsum([0, *(len(members) for members in self.odac.partition())])
            return [sorted(order[a:b]) for a, b in itertools.pairwise(ends)]
        if kind == "singletons":
            return [[label] for label in range(self.labels)]
        if kind == "given":
            rest = sorted(set(range(self.labels)).difference(*self.given))
            return [members for members in [*self.given, rest] if members]
        return [list(range(self.labels))] if self.labels else []

    def grow(self, features: int, labels: int) -> None:
        """Make room for so many features and labels, fewer never."""
        if features <= self.features and labels <= self.labels:
            return
        fresh_labels = labels > self.labels
        self.features, self.labels = max(features, self.features), max(labels, self.labels)
        self.moments = grown_moments(self.moments, self.features)
        self.persist = widened(self.persist, self.labels)
        self.cuts = grown_cuts(self.cuts, self.labels)
        self._z = np.zeros(self.labels, np.float32)
        if self.ensemble is not None and self.options.ensemble is None and self.labels > FEW_LABELS:
            self.release_ensemble()
        if self.ensemble is not None:
            self.ensemble.grow(self.features, self.labels)
        self.learner.grow(self.features, self.labels)
        if self.watch is not None:
            for background in self.watch.backgrounds:
                background.block = grown(background.block, self.features, len(background.labels))
        if fresh_labels:
            self.restructure()

    def release_ensemble(self) -> None:
        """Go on without the ensemble: labels have become too many for it."""
        self.ensemble = None
        self.decision = Decision(self.options.decision, ensemble=False, without=self.options.without)
        self.labelsets = self.labelsets if self.decision.needs_labelsets else None

    def forget_rows(self) -> int:
        """Let go of the rows that the ensemble keeps; how many there were."""
        return 0 if self.ensemble is None else self.ensemble.forget_rows()

    def drop(self, label: int) -> None:
        """Take a label out; those behind it move up by one. (The label tree is the caller's to change, before.)"""
        self.labels -= 1
        self.persist = np.delete(self.persist, label, 1)
        self.cuts = drop_cut(self.cuts, label)
        self._z = np.zeros(self.labels, np.float32)
        self.learner.drop(label)
        self.decision.drop()
        if self.ensemble is not None:
            self.ensemble.drop(label)
        if self.labelsets is not None:
            self.labelsets.drop(label)
        if self.watch is not None:
            self.watch.backgrounds = []
        self.restructure()

    def restructure(self) -> None:
        """Let learner and detectors take over the partition as it is now."""
        self._partition = self.partition()
        if hasattr(self.learner, "restructure"):
            self.learner.restructure(self._partition)
        if self.watch is not None:
            self.watch.restructure(self._partition)

    def scaled(self, rows: Rows, keep: bool) -> tuple[Any, Any, Any]:
        """The rows with scaled values float32; `keep` lets the stream's means move with them."""
        out = np.empty(len(rows.value), np.float32)
        known = 0 if self.sparse else self.features
        if "scaling" in self.options.without:
            out[:] = rows.value
        else:
            steps.scale_rows((rows.start, rows.index, rows.value), self.moments, known, keep, out)
        if keep:
            return rows.start, rows.index, out
        found = Rows(rows.start, rows.index, out).known()
        return found.start, found.index, found.value

    def learn(self, rows: Rows, y: Any) -> None:
        """Learn rows in order, `y: uint8[m, L]` with 0, 1 or UNKNOWN."""
        at = 0
        while at < len(rows):
            end = min(len(rows), at + EDGE - self.n % EDGE)
            self._learn_part(self.scaled(rows.part(at, end), keep=True), np.ascontiguousarray(y[at:end]))
            at = end

    def predict(self, rows: Rows) -> tuple[Any, Any]:
        """Logits float32[m, L] and decisions uint8[m, L] of rows, each as if it came next; nothing changes."""
        scaled = self.scaled(rows, keep=False)
        z = np.empty((len(rows), self.labels), np.float32)
        said = np.empty((len(rows), self.labels), np.uint8)
        if self.is_fast:
            steps.predict_rows((self.learner.block, self.cuts, self.persist), scaled, z)
            steps.decide_rows(self.cuts, z, said)
            return z, said
        start, index, value = scaled
        for row in range(len(rows)):
            at, end = start[row], start[row + 1]
            estimate = self._estimate(index[at:end], value[at:end])
            said[row] = self._said(estimate)
            z[row] = estimate if self.ensemble is None else estimate[STACKED]
        return z, said

    def _estimate(self, index: Any, x: Any) -> Any:
        self.learner.logits(index, x, self.persist, self._z)
        if self.ensemble is None:
            return self._z
        return self.ensemble.estimate(self._z, index, x, self.persist)

    def _said(self, estimate: Any) -> Any:
        before = self.persist[0] if len(self.persist) else np.zeros(self.labels, np.float32)
        return self.decision.said(estimate, self.cuts, self.ensemble, self.labelsets, before)

    def _learn_part(self, scaled: tuple[Any, Any, Any], y: Any) -> None:
        """Learn at most as many rows as are left to the next edge."""
        wrong = np.empty((len(y), self.labels), np.uint8)
        watch = self.watch
        persist = self.persist.copy() if watch is not None and watch.backgrounds else None
        if self.is_fast:
            scratch = (self._z, np.empty(self.labels, np.float32), wrong)
            steps.learn_rows(
                (self.learner.block, self.cuts, self.persist), scaled, y, self.n, self.rate, scratch
            )
        else:
            start, index, value = scaled
            for row in range(len(y)):
                at, end = start[row], start[row + 1]
                self._learn_row(index[at:end], value[at:end], y[row], self.n + row, wrong[row])
        if self.options.partition in ("odac", "random"):
            for row in y == 1:
                self.odac.learn_on(np.flatnonzero(row).astype(np.int32))
        if watch is not None:
            watch.add(wrong)
            for background in watch.backgrounds:
                assert persist is not None
                background.learn(scaled, y, wrong, persist, self.n, self.rate)
        self.n += len(y)
        if self.n % EDGE == 0:
            self._at_edge()

    def _learn_row(self, index: Any, x: Any, y: Any, seen: int, wrong: Any) -> None:
        estimate = self._estimate(index, x)
        wrong[:] = (self._said(estimate) != y) & (y < 2)
        self.decision.score(y)
        count(self.cuts, self._z, y)
        self.learner.learn(index, x, self.persist, y, self.rate)
        if self.ensemble is not None:
            self.ensemble.learn(index, x, self.persist, y, self.rate)
        if self.labelsets is not None:
            self.labelsets.add(np.flatnonzero(y == 1).astype(np.int32), self.labels)
        remember(self.persist, y)
        if steps.is_due(seen + 1):
            refresh(self.cuts, self.labels)
            if self.ensemble is not None:
                self.ensemble.refresh()

    def _at_edge(self) -> None:
        drifted = self._act_on_drift() if self.watch is not None else False
        if self.options.partition not in ("odac", "random"):
            return
        if drifted:
            self.odac.forget()
        elif self.odac.is_due():
            self.odac.evaluate()
        if self.partition() != self._partition:
            self.restructure()

    def _act_on_drift(self) -> bool:
        """Start, judge and end background learners; whether the whole model's loss has risen."""
        watch = self.watch
        assert watch is not None
        whole, clusters = watch.alarms()
        if whole:
            self.events.append(Event(self.n, "drift"))
        if not isinstance(self.learner, Plain):
            return whole  # the tree has its own alternates; a learner of clusters has no columns that stand alone
        waiting = []
        for background in watch.backgrounds:
            verdict = background.verdict()
            if verdict == "wait":
                waiting.append(background)
                continue
            if verdict == "swap":
                take_over(self.learner.block, self.cuts, background)
            labels = tuple(int(label) for label in background.labels)
            self.events.append(Event(self.n, "swap" if verdict == "swap" else "give up", labels))
        watch.backgrounds = waiting
        for members in clusters:
            watch.backgrounds.append(Background.fresh(members, len(self.learner.block.w)))
            self.events.append(Event(self.n, "alarm", tuple(members)))
        return whole
