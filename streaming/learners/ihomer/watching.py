"""Drift: the whole model and each label cluster are watched, forgetting is global, replacing is local and by bound.

Global: an ADWIN on the rows' Hamming loss. When it rises, label correlations are forgotten by half and the clusters looked at.
Local: an ADWIN per cluster on the loss over its labels. When it rises, a learner for those labels starts afresh in the background,
beside the one that decides; after `PATIENCE` rows it takes over if its loss is lower by more than

    sqrt(2 e (1 - e) ln(2 / 0.05) (1/n + 1/n)),   e the loss of the one that decides

and is given up if it is higher by as much, or after `LIFETIME` rows. (The bound is MLHAT's for alternate trees: Esteban,
Cano, Zafra and Ventura, "Hoeffding adaptive trees for multi-label classification on data streams", KBS 2024.) An alarm alone
replaces nothing. Which rows alarm depends on the rows alone: alarms are acted on every `EDGE` rows.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from headrace.streaming.learners.ihomer.adwin import DELTA, chosen, new_adwins, watch
from headrace.streaming.learners.ihomer.linear import Block, new_block
from headrace.streaming.learners.ihomer.steps import learn_rows
from headrace.streaming.learners.ihomer.thresholds import Cuts, new_cuts

EDGE: Final = 50
PATIENCE: Final = 200
LIFETIME: Final = 2000
SIGNIFICANCE: Final = 0.05


@dataclass
class Background:
    """A second learner for some labels: its mistakes and the deciding one's, over `rows` rows; whole numbers, so that a sum does not
    depend on how rows were cut into mini-batches."""

    labels: Any
    block: Block
    cuts: Cuts
    rows: int = 0
    mistakes: int = 0
    mistakes_deciding: int = 0

    @classmethod
    def fresh(cls, labels: list[int], features: int) -> "Background":
        """One that has learnt nothing, of the labels with these numbers."""
        return cls(np.array(labels, np.int64), new_block(features, len(labels)), new_cuts(len(labels)))

    def learn(self, rows: Any, y: Any, wrong: Any, persist: Any, seen: int, rate: Any) -> None:
        """Learn scaled rows beside the deciding learner, which was wrong where `wrong: uint8[m, n]`.

        persist: float32[3, n] as it was before these rows; y: uint8[m, n].
        """
        own = np.ascontiguousarray(y[:, self.labels])
        n = len(self.labels)
        mine = np.empty((len(own), n), np.uint8)
        scratch = (np.empty(n, np.float32), np.empty(n, np.float32), mine)
        features = np.ascontiguousarray(persist[:, self.labels])
        learn_rows((self.block, self.cuts, features), rows, own, seen, rate, scratch)
        self.rows += len(own)
        self.mistakes += int(mine.sum())
        self.mistakes_deciding += int(wrong[:, self.labels].sum())

    def verdict(self) -> str:
        """ "swap", "give up" or "wait"."""
        if self.rows < PATIENCE:
            return "wait"
        chances = self.rows * len(self.labels)
        mine, theirs = self.mistakes / chances, self.mistakes_deciding / chances
        bound = math.sqrt(2.0 * theirs * (1.0 - theirs) * math.log(2.0 / SIGNIFICANCE) * 2.0 / self.rows)
        if theirs - mine > bound:
            return "swap"
        return "give up" if mine - theirs > bound or self.rows >= LIFETIME else "wait"


class Watch:
    """The detectors: number 0 for the whole model, then one per cluster of the partition."""

    def __init__(self) -> None:
        self.adwins = new_adwins(1)
        self.clusters: list[list[int]] = []
        self.rising = np.zeros(1, np.int64)
        self.backgrounds: list[Background] = []

    def restructure(self, partition: list[list[int]]) -> None:
        """Keep the detectors of clusters that stay; the others start anew, and their backgrounds go on."""
        which = [0] + [self.clusters.index(c) + 1 if c in self.clusters else -1 for c in partition]
        self.adwins = chosen(self.adwins, which)
        self.clusters = [list(members) for members in partition]
        self.rising = np.zeros(len(which), np.int64)

    def add(self, wrong: Any) -> None:
        """Feed rows of mistakes, `uint8[m, n]`."""
        values = np.empty((len(wrong), len(self.clusters) + 1))
        values[:, 0] = wrong.mean(1) if wrong.shape[1] else 0.0
        for at, members in enumerate(self.clusters):
            values[:, at + 1] = wrong[:, members].mean(1)
        watch(self.adwins, values, DELTA, self.rising)

    def alarms(self) -> tuple[bool, list[list[int]]]:
        """Whether the whole model's loss rose since last asked, and the clusters whose loss did and that have no background."""
        busy = {int(label) for background in self.backgrounds for label in background.labels}
        rose = [c for c, up in zip(self.clusters, self.rising[1:], strict=True) if up == 1]
        whole = bool(self.rising[0] == 1)
        self.rising[:] = 0
        return whole, [c for c in rose if not busy.intersection(c)]


def take_over(block: Block, cuts: Cuts, background: Background) -> None:
    """Copy a background learner's columns and cuts over those of the deciding one, in place."""
    at = background.labels
    for mine, theirs in zip(block, background.block, strict=True):
        if mine.ndim == 1:
            mine[at] = theirs
        else:
            mine[: len(theirs), at] = theirs
    for pool, own, fresh in (
        (cuts.all_positive, cuts.positive, background.cuts.positive),
        (cuts.all_negative, cuts.negative, background.cuts.negative),
    ):
        pool += fresh.sum(0, dtype=np.int64) - own[at].sum(0, dtype=np.int64)
        own[at] = fresh
    cuts.cut[at] = background.cuts.cut
