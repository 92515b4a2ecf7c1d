"""Where the blocks go: how many move, from which rows, to which, and when a drifting stream makes more of them move.

In the flow: asked by the recommender every `every` interactions. As in Wang et al. ("Dynamic sparse learning", WSDM 2024,
arXiv 2402.02855), a share of the budget that falls along a cosine is pruned by magnitude and grown by gradient. Ours: the unit is a
row's last block of 8; the gradient is the pull that the next block would have had, summed over the interactions since the last
exploration and halved at each; a stream has no end, so the share falls over a horizon and rises again on an alarm.

Alarm: the test of Page (1954) in Hinkley's form on the mean loss of a batch.
"""

from dataclasses import dataclass

import numpy as np

from headrace.streaming.learners.dynamic_sparse.schedule import Schedule, cosine
from headrace.streaming.learners.embedding.store import EmbeddingStore, lowest


@dataclass
class Explorer:
    """The state of one schedule: what `state` keeps."""

    schedule: Schedule
    since: int = 0  # interactions since the last exploration
    turn: int = 0  # explorations since the cosine began
    top: float = 1.0  # what the cosine began at, in units of schedule.start
    moved: int = 0  # blocks moved since the beginning
    alarms: int = 0
    pending: int = 0  # interactions since the alarm was last tested
    losses: float = 0.0  # their sum of losses
    seen: int = 0  # tests since the alarm was armed
    mean: float = 0.0
    drift: float = 0.0
    lowest: float = 0.0

    @property
    def share(self) -> float:
        """Of the movable blocks, how many the next exploration moves."""
        schedule = self.schedule
        at = min(self.turn, schedule.horizon) / schedule.horizon
        high = max(schedule.least, schedule.start * self.top)
        return cosine(high, schedule.least, at)

    def watch(self, loss: float, n: int) -> bool:
        """Take the mean loss of a batch of `n`; True where it has risen for good, and then the share has risen too."""
        self.since += n
        self.pending, self.losses = self.pending + n, self.losses + loss * n
        if self.pending < self.schedule.look:
            return False
        recent = self.losses / self.pending
        self.pending, self.losses = 0, 0.0
        self.seen += 1
        self.mean += (recent - self.mean) / self.seen
        self.drift += recent - self.mean - self.schedule.tolerance
        self.lowest = min(self.lowest, self.drift)
        if self.seen < 30 or self.drift - self.lowest <= self.schedule.threshold:
            return False
        self.alarms += 1
        self.turn, self.top = 0, 0.5
        self.seen, self.mean, self.drift, self.lowest = 0, 0.0, 0.0, 0.0
        return True

    def is_due(self) -> bool:
        """Whether enough was learnt since the last exploration."""
        return self.since >= self.schedule.every

    def explore(self, store: EmbeddingStore, now: float) -> int:
        """Move blocks, and give out those that are free; how many rows got one. The number of blocks never exceeds the budget."""
        arrays = store.arrays
        free = store.layout.n_blocks - store.live_blocks
        # One exploration hands out at most a quarter of the table, so that gradients are asked again in between.
        give = min(free, -(-store.layout.n_blocks // 4))
        move = (
            round(self.share * max(0, store.live_blocks - store.live_rows))
            if give < store.layout.n_blocks // 64
            else 0
        )
        wanted = np.flatnonzero(
            (arrays.blocks > 0) & (arrays.blocks < store.layout.max_blocks) & (arrays.gain > 0)
        )
        growing = wanted[lowest(-arrays.gain[wanted], give + move)].astype(np.uint32)
        if len(growing) > give:
            # A row that grows is not pruned in the same turn: what is taken from it would only be given back empty.
            store.take_back(store.least(len(growing) - give, now, spare=growing))
        arrays.young[:] = 0
        grown = store.give(growing)
        arrays.gain[:] *= np.float32(0.5)
        self.since, self.turn, self.moved = 0, self.turn + 1, self.moved + grown
        return grown
