"""How often labels come together: counts of labels and of pairs of labels, with forgetting, in one sparse store.

Only pairs that were seen together take space: an open-addressed table from (i, j), i < j, to a count, so that a row with k
labels costs k(k-1)/2 steps whatever the number of labels. Forgetting costs nothing per pair: the next row simply weighs 1/decay
times as much as this one did, and what is read is divided by the weight of the newest row.

The Jaccard similarity of two labels is J_ij = n_ij / (n_i + n_j - n_ij), a mean over exactly the rows where at least one of
them is set. That number of rows, not the length of the stream, is the sample that a bound on J may count on.
"""

from typing import Any, Final

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

EMPTY: Final = -1
_LARGEST_UNIT: Final = 1e12


@kernel
def find(keys: Any, key: Any) -> Any:
    """Where `key` is, or would go, in the open-addressed `keys: int64[2**k]`."""
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(20)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def add_row(keys: Any, counts: Any, single: Any, on: Any, unit: float) -> int:
    """Count one row whose labels `on: int32[k]` are set, ascending; how many pairs were new."""
    fresh = 0
    for a in range(len(on)):
        single[on[a]] += unit
        for b in range(a + 1, len(on)):
            key = np.int64(on[a]) * np.int64(4294967296) + np.int64(on[b])
            at = find(keys, key)
            if keys[at] == -1:
                keys[at] = key
                fresh += 1
            counts[at] += unit
    return fresh


@kernel
def read_pairs(keys: Any, counts: Any, place: Any, out: Any) -> None:
    """Add the counts of all pairs of labels with a place >= 0 to `out: float64[m, m]`, both ways round."""
    for at in range(len(keys)):
        if keys[at] >= 0:
            i, j = place[keys[at] >> 32], place[keys[at] & 4294967295]
            if i >= 0 and j >= 0:
                out[i, j] += counts[at]
                out[j, i] += counts[at]


@kernel
def look_up(keys: Any, counts: Any, members: Any, others: Any, out: Any) -> None:
    """Fill `out: float64[len(members), len(others)]` with the counts of pairs; 0 where the two are one label."""
    for a in range(len(members)):
        for b in range(len(others)):
            i, j = min(members[a], others[b]), max(members[a], others[b])
            out[a, b] = 0.0
            if i != j:
                at = find(keys, np.int64(i) * np.int64(4294967296) + np.int64(j))
                if keys[at] != -1:
                    out[a, b] = counts[at]


@kernel
def put_back(keys: Any, counts: Any, kept: Any, values: Any) -> None:
    """Put the pairs `kept: int64[k]` with their counts `values: float64[k]` into an empty table."""
    for k in range(len(kept)):
        at = find(keys, kept[k])
        keys[at], counts[at] = kept[k], values[k]


class PairCounts:
    """Counts of labels and pairs; `decay` in (0, 1] is what one row's weight becomes with the next row."""

    def __init__(self, decay: float = 1.0) -> None:
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"expected a decay in (0, 1], came {decay}")
        self.decay = decay
        self.unit = 1.0
        self.rows = 0.0
        self.used = 0
        self.keys = np.full(1 << 10, EMPTY, np.int64)
        self.counts = np.zeros(1 << 10)
        self.single = np.zeros(0)

    def add(self, on: Any, labels: int) -> None:
        """Count a row: `on: int32[k]`, ascending, of the `labels` labels known."""
        if labels > len(self.single):
            self.single = np.concatenate([self.single, np.zeros(labels - len(self.single))])
        while 2 * (self.used + len(on) * (len(on) - 1) // 2) > len(self.keys):
            self._grow()
        self.unit /= self.decay
        self.rows += self.unit
        self.used += add_row(self.keys, self.counts, self.single, on, self.unit)
        if self.unit > _LARGEST_UNIT:
            self._rescale()

    def forget(self, factor: float = 0.5) -> None:
        """Let everything counted so far weigh `factor` as much as it did."""
        self.unit /= factor
        if self.unit > _LARGEST_UNIT:
            self._rescale()

    def of_labels(self) -> Any:
        """float64[L]: in how many rows, by today's weight, each label was set."""
        return self.single / self.unit

    def of_rows(self) -> float:
        """The rows counted, by today's weight."""
        return self.rows / self.unit

    def together(self, members: Any) -> Any:
        """float64[m, m], symmetric, of the labels `members: int[m]`: in how many rows both were set; 0 on the diagonal."""
        members = np.asarray(members, np.int64)
        if len(members) ** 2 < len(self.keys):  # fewer look-ups than a walk through the table has steps
            return self.between(members, members)
        place = np.full(len(self.single), -1, np.int64)
        place[members] = np.arange(len(members))
        return self._read(place, len(members))

    def between(self, members: Any, others: Any) -> Any:
        """float64[m, k], by looking up each pair of the labels `members: int64[m]` and `others: int64[k]`."""
        out = np.empty((len(members), len(others)))
        look_up(self.keys, self.counts, members, others, out)
        return out / self.unit

    def by_group(self, group: Any, groups: int) -> Any:
        """float64[groups, groups]: `together` summed over the groups of labels `group: int64[L]` that each label is in (-1: none)."""
        return self._read(group, groups)

    def _read(self, place: Any, size: int) -> Any:
        out = np.zeros((size, size))
        read_pairs(self.keys, self.counts, place, out)
        out /= self.unit
        return out

    def drop(self, label: int) -> None:
        """Take a label's counts out; the labels behind it move up by one."""
        first, second = self.keys >> 32, self.keys & 0xFFFFFFFF
        kept = (self.keys >= 0) & (first != label) & (second != label)
        keys = ((first - (first > label)) << 32) + (second - (second > label))
        self._fill(keys[kept], self.counts[kept], len(self.keys))
        self.single = np.delete(self.single, label)

    def _grow(self) -> None:
        kept = self.keys >= 0
        self._fill(self.keys[kept], self.counts[kept], 2 * len(self.keys))

    def _fill(self, keys: Any, counts: Any, size: int) -> None:
        self.keys, self.counts = np.full(size, EMPTY, np.int64), np.zeros(size)
        put_back(self.keys, self.counts, keys, counts)
        self.used = len(keys)

    def _rescale(self) -> None:
        self.counts /= self.unit
        self.single /= self.unit
        self.rows /= self.unit
        self.unit = 1.0
