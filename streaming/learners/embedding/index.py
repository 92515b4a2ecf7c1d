"""Kernels of the exact index: open addressing with linear probing over 128-bit keys, deletion by shifting back.

In the flow: below `store`, which has checked everything. The table holds row numbers, the keys stand in the rows, so that a slot
costs four bytes. Row 0 is never in it, 0 is an empty slot. Load stays at two thirds or below, since a table has half again
as many slots as there are rows. Deletion: Knuth, TAOCP 3, 6.4, algorithm R: no tombstones among the slots.
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def mix(h: Any) -> Any:
    """SplitMix64's finaliser of 64 bits; `learners.hashing` has it over arrays."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@kernel
def home(low: Any, high: Any, mask: Any) -> Any:
    """The slot where a key belongs; SplitMix64's finaliser over both words."""
    both = np.uint64(low) ^ (np.uint64(high) * np.uint64(0x9E3779B97F4A7C15))
    return np.int64(np.uint64(mix(both)) & np.uint64(mask))


@kernel
def find(table: Any, keys: Any, wanted: Any, rows: Any) -> None:
    """rows: uint32[n], the row of each of `wanted: uint64[n, 2]`, 0 where it has none."""
    mask = table.shape[0] - 1
    for at in range(wanted.shape[0]):
        slot = home(wanted[at, 0], wanted[at, 1], mask)
        rows[at] = 0
        while table[slot] != 0:
            row = table[slot]
            if keys[row, 0] == wanted[at, 0] and keys[row, 1] == wanted[at, 1]:
                rows[at] = row
                break
            slot = (slot + 1) & mask


@kernel
def tally(wanted: Any, slots: Any, first: Any, times: Any) -> Any:
    """How many distinct keys `wanted: uint64[n, 2]` has, in the order of their first occurrence.

    first, times: int64[n], where each stands first and how often it does. slots: int64[a power of two above n], zero.
    """
    mask, n = slots.shape[0] - 1, 0
    for at in range(wanted.shape[0]):
        slot = home(wanted[at, 0], wanted[at, 1], mask)
        while slots[slot] != 0:
            met = first[slots[slot] - 1]
            if wanted[met, 0] == wanted[at, 0] and wanted[met, 1] == wanted[at, 1]:
                break
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            first[n], times[n] = at, 0
            n += 1
            slots[slot] = n
        times[slots[slot] - 1] += 1
    return n


@kernel
def insert(table: Any, keys: Any, row: Any) -> None:
    """Enter `row`, whose key is absent."""
    mask = table.shape[0] - 1
    slot = home(keys[row, 0], keys[row, 1], mask)
    while table[slot] != 0:
        slot = (slot + 1) & mask
    table[slot] = row


@kernel
def remove(table: Any, keys: Any, row: Any) -> None:
    """Take `row` out, which is there; its key still stands in `keys`."""
    mask = table.shape[0] - 1
    slot = home(keys[row, 0], keys[row, 1], mask)
    while table[slot] != row:
        slot = (slot + 1) & mask
    table[slot] = 0
    hole = slot
    slot = (slot + 1) & mask
    while table[slot] != 0:
        mover = table[slot]
        wanted = home(keys[mover, 0], keys[mover, 1], mask)
        # It may move into the hole unless its home lies between the hole and itself, going round.
        if ((slot - wanted) & mask) >= ((slot - hole) & mask):
            table[hole] = mover
            table[slot] = 0
            hole = slot
        slot = (slot + 1) & mask
