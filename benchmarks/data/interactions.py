"""Who wanted what: MovieLens 100K (ratings of 4 and more, 70/10/20 at random), MovieLens 1M and Gowalla as LightGCN's splits.

Ids are numbered from 0. The data sets are not part of the project: ``HEADRACE_DATASETS`` names a folder that holds them under
``recsys``. Scores are of full rankings: every item that a user has not met in what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Pairs = tuple[Ints, Ints]
SPLIT_SEED = 2024
_BIT = np.uint8(1) << np.arange(8, dtype=np.uint8)
NAMES = {"ml-100k": "ml-100k", "ml-1m": "ml-1m-lightgcn", "gowalla": "gowalla-lightgcn"}


@dataclass(frozen=True)
class Split:
    """Users and items of each part, `int64[n]` each."""

    n_users: int
    n_items: int
    train: Pairs
    valid: Pairs
    test: Pairs


def load(folder: Path, name: str) -> Split:
    """The split of one of ``NAMES`` from the folder that holds ``recsys``."""
    place = folder / "recsys" / NAMES[name]
    parts: list[Pairs]
    if name == "ml-100k":
        rows = np.loadtxt(place / "ml-100k.inter", skiprows=1)
        rows = rows[rows[:, 2] >= 4]
        users = np.unique(rows[:, 0], return_inverse=True)[1].astype(np.int64)
        items = np.unique(rows[:, 1], return_inverse=True)[1].astype(np.int64)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
        cuts = [int(0.7 * len(rows)), int(0.8 * len(rows))]
        parts = [(users[part], items[part]) for part in np.split(order, cuts)]
    else:
        parts = [_lists(place / f"{part}.txt") for part in ("train", "valid", "test")]
    n_users = 1 + max(int(users.max()) for users, _ in parts)
    n_items = 1 + max(int(items.max()) for _, items in parts)
    return Split(n_users, n_items, *parts)


def _lists(path: Path) -> Pairs:
    users, items = [], []
    for line in path.read_text().splitlines():
        user, *wanted = map(int, line.split())
        users += [user] * len(wanted)
        items += wanted
    return np.array(users, np.int64), np.array(items, np.int64)


class Ranking:
    """Recall@20 and NDCG@20 of one part, with what users met before it left out."""

    def __init__(self, split: Split, part: Pairs, before: list[Pairs], k: int = 20) -> None:
        self._split, self._k = split, k
        self._truth, self._met = _by_user(split, [part]), _by_user(split, before)
        self._users = np.flatnonzero([len(items) > 0 for items in self._truth])

    def score(self, scores_of: Any) -> tuple[float, float]:
        """scores_of: users `int64[B]` → `float32[B, n_items]`, which is written to."""
        k, discount = self._k, 1.0 / np.log2(np.arange(self._k) + 2.0)
        recall, ndcg = 0.0, 0.0
        for start in range(0, len(self._users), 512):
            users = self._users[start : start + 512]
            scores = scores_of(users)
            for at, user in enumerate(users):
                scores[at, self._met[user]] = -np.inf
            top = np.argpartition(scores, -k, axis=1)[:, -k:]
            top = np.take_along_axis(
                top, np.argsort(-np.take_along_axis(scores, top, 1), 1, kind="stable"), 1
            )
            for at, user in enumerate(users):
                truth = self._truth[user]
                hit = np.isin(top[at], truth)
                recall += hit.sum() / len(truth)
                ndcg += (hit * discount).sum() / discount[: min(k, len(truth))].sum()
        return recall / len(self._users), ndcg / len(self._users)


def _by_user(split: Split, parts: list[Pairs]) -> list[Ints]:
    users = np.concatenate([users for users, _ in parts])
    items = np.concatenate([items for _, items in parts])
    order = np.argsort(users, kind="stable")
    edges = np.cumsum(np.bincount(users, minlength=split.n_users))[:-1]
    return np.split(items[order], edges)


class Sampler:
    """Epochs in a seeded order, with items that each user has not met in training."""

    def __init__(self, split: Split, negatives: int, seed: int) -> None:
        self._split, self._negatives = split, negatives
        self._random = np.random.default_rng(seed)
        users, items = split.train
        pairs = users * split.n_items + items
        # A bit for each pair: looked up in a tenth of the time that a sorted list of pairs takes.
        self._known = np.zeros(split.n_users * split.n_items // 8 + 1, np.uint8)
        np.bitwise_or.at(self._known, pairs >> 3, _BIT[pairs & 7])

    def epoch(self) -> tuple[Ints, Ints, Ints]:
        """Users `int64[n]`, items `int64[n]`, negatives `int64[n, K]`."""
        order = self._random.permutation(len(self._split.train[0]))
        users, items = self._split.train[0][order], self._split.train[1][order]
        drawn = self._random.integers(0, self._split.n_items, (len(users), self._negatives))
        first, flat = users * self._split.n_items, drawn.ravel()
        again = np.flatnonzero(self._is_known(first[:, None] + drawn))
        for _ in range(20):
            if not len(again):
                break
            flat[again] = self._random.integers(0, self._split.n_items, len(again))
            again = again[self._is_known(first[again // self._negatives] + flat[again])]
        return users, items, drawn

    def _is_known(self, pairs: Ints) -> Any:
        return (self._known[pairs >> 3] & _BIT[pairs & 7]) > 0
