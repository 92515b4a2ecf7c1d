"""New labels and new features at any time, and labels that go: columns and rows are added or taken, nothing is relearnt."""

from typing import Any

import numpy as np

from headrace.streaming.learners.ihomer.linear import Block, new_block
from headrace.streaming.learners.ihomer.scaling import Moments, new_moments
from headrace.streaming.learners.ihomer.thresholds import Cuts, new_cuts


def grown(block: Block, features: int, labels: int) -> Block:
    """The block with room for at least so many features, and exactly so many labels; new ones have learnt nothing.

    Rows for features are added with room to spare, since each addition copies the block.
    """
    had, width = block.w.shape
    if features <= had and labels == width:
        return block
    rows = had if features <= had else max(features, had + had // 4)
    fresh = new_block(rows, labels)
    for mine, theirs in zip(fresh, block, strict=True):
        if mine.ndim == 1:
            mine[:width] = theirs
        else:
            mine[: len(theirs), :width] = theirs
    return fresh


def drop_column(block: Block, label: int) -> Block:
    """The block without a label's parameters."""
    return Block(*(np.delete(a, label, a.ndim - 1) for a in block))


def grown_moments(moments: Moments, features: int) -> Moments:
    """Moments for so many features."""
    had = len(moments.n)
    if features <= had:
        return moments
    fresh = new_moments(features)
    for mine, theirs in zip(fresh, moments, strict=True):
        mine[:had] = theirs
    return fresh


def grown_cuts(cuts: Cuts, labels: int) -> Cuts:
    """Cuts for so many labels; a new one cuts where the pool does."""
    had = len(cuts.cut)
    if labels == had:
        return cuts
    fresh = new_cuts(labels)
    fresh.positive[:had], fresh.negative[:had], fresh.cut[:had] = cuts.positive, cuts.negative, cuts.cut
    fresh.cut[had:] = cuts.pool[0]
    return fresh._replace(all_positive=cuts.all_positive, all_negative=cuts.all_negative, pool=cuts.pool)


def drop_cut(cuts: Cuts, label: int) -> Cuts:
    """The cuts without a label, whose rows leave the pool too."""
    positive, negative = cuts.positive[label].astype(np.int64), cuts.negative[label].astype(np.int64)
    return Cuts(
        np.delete(cuts.positive, label, 0),
        np.delete(cuts.negative, label, 0),
        cuts.all_positive - positive,
        cuts.all_negative - negative,
        np.delete(cuts.cut, label),
        cuts.pool,
    )


def widened(array: Any, columns: int) -> Any:
    """A 2-D array with zeros for the columns that it lacks."""
    had = array.shape[1]
    if columns == had:
        return array
    fresh = np.zeros((array.shape[0], columns), array.dtype)
    fresh[:, :had] = array
    return fresh
