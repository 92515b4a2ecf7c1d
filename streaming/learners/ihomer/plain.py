"""The learner of one block over all labels: what decides unless a tree or clusters were asked for.

Every learner of this folder offers the same five things: `grow`, `drop`, `logits`, `learn` and `copy`; see also `clustered` and
`global_tree`.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.ihomer.growth import drop_column, grown
from headrace.streaming.learners.ihomer.linear import Block, forward, new_block, step, surprise


class Plain:
    """One-vs-all over all labels."""

    def __init__(self, block: Block | None = None) -> None:
        self.block = new_block(0, 0) if block is None else block
        self._size()

    def _size(self) -> None:
        labels = len(self.block.b)
        self._z, self._g = np.zeros(labels, np.float32), np.zeros(labels, np.float32)

    def grow(self, features: int, labels: int) -> None:
        """Make room for new features and labels."""
        self.block = grown(self.block, features, labels)
        self._size()

    def drop(self, label: int) -> None:
        """Take a label's column out; the labels behind it move up by one."""
        self.block = drop_column(self.block, label)
        self._size()

    def copy(self) -> "Plain":
        """A learner that knows the same and goes its own way."""
        return Plain(Block(*(array.copy() for array in self.block)))

    def logits(self, index: Any, x: Any, persist: Any, z: Any) -> None:
        """Fill `z: float32[n]` for one scaled row."""
        forward(self.block, index, x, persist, z)

    def learn(self, index: Any, x: Any, persist: Any, y: Any, rate: Any) -> None:
        """One step on a scaled row with its labels `y: uint8[n]`."""
        forward(self.block, index, x, persist, self._z)
        surprise(self._z, y, self._g)
        step(self.block, index, x, persist, self._g, rate)
