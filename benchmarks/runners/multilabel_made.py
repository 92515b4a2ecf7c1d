"""Streams that are made here, so that the truth is known: drift of four kinds, and many labels.

Labels come in groups that a topic of features switches on, and at row 6,000 of 12,000 something changes. ``correlation``: labels
change groups; ``concept``: the features of two groups come to mean the opposite; ``labels``: a group vanishes and another appears;
``none``: nothing, so that every alarm is a false one.

Runs in the rivals' environments: the standard library, numpy and pyarrow.
"""

from __future__ import annotations

import numpy as np

from benchmarks.runners.multilabel_stream import Stream

DRIFT_ROWS = 12_000
CHANGE_AT = 6_000
KINDS = ("correlation", "concept", "labels", "none")


def groups_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The group of each of the 24 labels, before and after the change."""
    before = np.repeat(np.arange(4), 6)
    return before, np.concatenate([before[0::2], before[1::2]]) if kind == "correlation" else before


def drifting(kind: str, seed: int, n: int = DRIFT_ROWS) -> Stream:
    """12,000 rows, 30 features and 24 labels in 4 groups; the change comes half-way."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 30))
    directions = rng.normal(size=(4, 30)) / np.sqrt(30)
    own = rng.normal(size=(24, 30)) / np.sqrt(30)
    groups, after = groups_of(kind)
    y = np.zeros((n, 24), np.uint8)
    for start, stop, group in ((0, n // 2, groups), (n // 2, n, after)):
        part = x[start:stop]
        topic = 3.0 * part @ directions.T
        if kind == "concept" and start:
            topic[:, :2] *= -1.0
        on = 1 / (1 + np.exp(-(topic - 1.0)))
        label = 1 / (1 + np.exp(-(2.0 * part @ own.T)))
        y[start:stop] = (rng.random((stop - start, 4)) < on)[:, group] & (
            rng.random((stop - start, 24)) < label
        )
    if kind == "labels":
        y[n // 2 :, :6] = 0
        y[: n // 2, 18:] = 0
    return Stream(x, y, [str(i) for i in range(30)], [str(i) for i in range(24)])


def many(labels: int, seed: int, n: int = 3_000) -> Stream:
    """Rows with 30 of 2,000 words from one of labels/10 topics, and a few of the topic's 10 labels."""
    rng = np.random.default_rng(seed)
    topics = labels // 10
    topic = rng.integers(0, topics, n)
    words = rng.integers(0, 2_000, (topics, 60))
    x = np.zeros((n, 2_000))
    for row in range(n):
        x[row, words[topic[row], rng.integers(0, 60, 24)]] = 1.0
        x[row, rng.integers(0, 2_000, 6)] = 1.0
    y = np.zeros((n, labels), np.uint8)
    for k in range(10):
        y[np.arange(n), topic * 10 + k] = rng.random(n) < (0.8 if k < 3 else 0.2)
    return Stream(x, y, [str(i) for i in range(2_000)], [str(i) for i in range(labels)])
