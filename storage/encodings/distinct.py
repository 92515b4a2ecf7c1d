"""Which values are equal: each value's number, given out from 1 in the order in which values first come.

In the flow: a dictionary's first step (``headrace.storage.entries``), while its values may still be kept as they are. A table
of `Distinct` can be asked again, about the next row group, and then knows the values of those before. It is a hash table
with open addressing whose memory is the caller's, so that one loop without the interpreter's lock does it all. Nothing
of it is written: bytes do not depend on how values were hashed.

Source: multiplicative hashing and linear probing as in Knuth, "The Art of Computer Programming", volume 3, section 6.4.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel
from headrace.storage.encodings.contract import Array, bits

SLOTS: Final = 4096
"""Of a new table: one that fits the first-level cache."""
_GROWTH: Final = 4


@kernel
def _assign(
    stored: Array, keys: Array, numbers: Array, shift: np.uint64, entries: Array, found: Array, state: Array
) -> None:
    """uint[n] -> uint32[n] numbers; stops early when half of the table's slots are taken.

    keys: uint64[2**k], numbers: uint32[2**k], 0 where a slot is free; shift is 64 - k. entries: uint64[2**(k - 1)], what has
    been numbered. state: uint64[2], the number of entries, and of values done.
    """
    n = np.uint64(len(stored))
    last = np.uint64(len(keys) - 1)
    most = np.uint64(len(entries))
    down = np.uint64(shift)
    made = state[0]
    i = state[1]
    while i < n:
        value = np.uint64(stored[i])
        slot = ((value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)) >> down
        while numbers[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & last
        if numbers[slot] == 0:
            if made == most:
                break
            keys[slot] = value
            entries[made] = value
            made += np.uint64(1)
            numbers[slot] = made
        found[i] = numbers[slot]
        i += np.uint64(1)
    state[0] = made
    state[1] = i


class Distinct:
    """Distinct values of up to 64 bits and their numbers, which stay as they are when more values come.

    >>> table = Distinct()
    >>> table.assign(np.array([30, 10, 30])).tolist(), table.assign(np.array([20, 10])).tolist()
    ([1, 2, 1], [3, 2])
    >>> table.entries(np.dtype(np.int64)).tolist()
    [30, 10, 20]
    """

    _entries: Array

    def __init__(self) -> None:
        self.n_entries = 0
        self._entries = np.empty(0, np.uint64)
        self._reserve(SLOTS)

    def assign(self, values: Array) -> NDArray[np.uint32]:
        """Each value's number, new values in the order in which they come."""
        stored = bits(values)
        stored.flags.writeable = False  # always, so that the kernel compiles for one layout
        found = np.empty(len(stored), np.uint32)
        state = np.array([self.n_entries, 0], np.uint64)
        while True:
            _assign(stored, self._keys, self._numbers, self._shift, self._entries, found, state)
            self.n_entries = int(state[0])
            if state[1] == len(stored):
                return found
            self._reserve(_GROWTH * len(self._keys))

    def entries(self, dtype: np.dtype[np.generic], first: int = 0) -> Array:
        """All entries from `first` on by number, of the dtype that they had."""
        some: Array = self._entries[first : self.n_entries].astype(f"u{dtype.itemsize}").view(dtype)
        return some

    def _reserve(self, slots: int) -> None:
        """A table of so many slots, with the entries of the one before."""
        known = self._entries[: self.n_entries]
        self._keys, self._numbers = np.empty(slots, np.uint64), np.zeros(slots, np.uint32)
        self._entries = np.empty(slots // 2, np.uint64)
        self._shift = np.uint64(65 - slots.bit_length())
        if len(known):
            known.flags.writeable = False
            found, state = np.empty(len(known), np.uint32), np.zeros(2, np.uint64)
            _assign(known, self._keys, self._numbers, self._shift, self._entries, found, state)
