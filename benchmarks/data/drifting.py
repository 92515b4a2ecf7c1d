"""A made stream of who wants what: ids that come and go, and a popularity that wanders; every event from a seed.

Users and items have latent tastes. At each event a user who is there picks among a few dozen items that are popular now, by taste.
Each `turn` events a hundredth of the users and of the items is replaced by new ids, and an item's popularity rises and falls within its life.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """users, items: there at once. turn: events between replacements. choices: items a user chooses among.

    broken: after so many events everybody's taste, every item and its popularity are others from one event to the next; never by default.
    """

    seed: int = 0
    users: int = 20_000
    items: int = 5_000
    width: int = 16
    turn: int = 20_000
    choices: int = 40
    replaced: float = 0.01
    broken: int | None = None

    def batches(self, events: int, size: int) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Ids of users and items `int64[size]`, and of the items that are there now, `int64[items]`."""
        rng = np.random.default_rng(self.seed)
        taste = rng.normal(size=(self.users, self.width)) / self.width**0.25
        kind = rng.normal(size=(self.items, self.width)) / self.width**0.25
        activity = rng.pareto(1.2, self.users) + 0.2
        height, peak = rng.pareto(1.1, self.items) + 0.05, rng.uniform(0, 100, self.items)
        user_id, item_id = np.arange(self.users), np.arange(self.items)
        next_user, next_item = self.users, self.items
        since = 0
        for number in range(0, events, size):
            turn = number / self.turn
            if self.broken is not None and number <= self.broken < number + size:
                taste, kind = rng.permutation(taste), rng.permutation(kind)
                height, peak = rng.permutation(height), rng.permutation(peak)
            popular = height * np.exp(-np.abs((turn - peak) / 30.0)) + 0.01
            users = rng.choice(self.users, size, p=activity / activity.sum())
            offered = rng.choice(self.items, (size, self.choices), p=popular / popular.sum())
            # Gumbel's trick: the item of the largest noisy score is a draw from the softmax.
            scores = np.einsum("nd,nkd->nk", taste[users], kind[offered]) * 1.5 + rng.gumbel(
                size=offered.shape
            )
            items = offered[np.arange(size), scores.argmax(1)]
            yield user_id[users], item_id[items], item_id.copy()
            since += size
            while since >= self.turn:
                since -= self.turn
                n, m = int(self.users * self.replaced), int(self.items * self.replaced)
                gone, old = rng.choice(self.users, n, replace=False), rng.choice(self.items, m, replace=False)
                user_id[gone], item_id[old] = np.arange(n) + next_user, np.arange(m) + next_item
                next_user, next_item = next_user + n, next_item + m
                taste[gone] = rng.normal(size=(n, self.width)) / self.width**0.25
                kind[old] = rng.normal(size=(m, self.width)) / self.width**0.25
                activity[gone] = rng.pareto(1.2, n) + 0.2
                height[old], peak[old] = rng.pareto(1.1, m) + 0.05, turn + rng.uniform(0, 60, m)
