"""The doorkeeper: which ids without a row were met, how often, and how many of them have been met often enough to take another's.

In the flow: asked by `store` for the absent ids of a batch. An id has one place, by hash; there stand 32 bits of its fingerprint and, where
the table counts, how often it was met. Where two ids fall on one place the one that is met more often keeps it, as in a vote
(Boyer and Moore); so an id may be forgotten (and needs more sightings), and is mistaken for another once in four thousand million times.

Source: Einziger, Friedman, Manes, "TinyLFU: a highly efficient cache admission policy" (ACM Transactions on Storage 13, 2017): a newcomer
takes a row only if it has been met more often than the id that would lose it. Theirs counts in a sketch that ages by steps.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.index import home
from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def print_of(low: Any, high: Any) -> Any:
    """The fingerprint of a key, never 0, which is an empty place."""
    return np.uint32(home(high, low, 0xFFFFFFFF) | 1)


@kernel
def sight(door: Any, knocks: Any, wanted: Any, times: Any, known: Any) -> None:
    """Note that distinct `wanted: uint64[n, 2]` were met, `times: float32[n]` each.

    known: float32[n], how often before, as far as is remembered; 1 at most where the table does not count, and then who is
    remembered is due and leaves.
    """
    mask = door.shape[0] - 1
    for at in range(wanted.shape[0]):
        place = home(wanted[at, 0], wanted[at, 1], mask)
        name = print_of(wanted[at, 0], wanted[at, 1])
        known[at] = 0.0
        if knocks.shape[0] == 0:
            known[at] = np.float32(door[place] == name)
            door[place] = np.uint32(0) if door[place] == name else name
        elif door[place] == name:
            known[at] = knocks[place]
            knocks[place] += times[at]
        elif knocks[place] > times[at]:
            knocks[place] -= times[at]
        else:
            door[place], knocks[place] = name, times[at]


@kernel
def leave(door: Any, knocks: Any, keys: Any) -> None:
    """Nothing is remembered of `keys: uint64[n, 2]`."""
    mask = door.shape[0] - 1
    for at in range(keys.shape[0]):
        place = home(keys[at, 0], keys[at, 1], mask)
        if door[place] == print_of(keys[at, 0], keys[at, 1]):
            door[place] = np.uint32(0)
            if knocks.shape[0] > 0:
                knocks[place] = 0.0
