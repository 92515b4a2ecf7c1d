"""`IdIndex`: which rows of a column hold these ids, exactly, without one Python object per row.

The join of labels and the search for duplicates both ask it. Ids are found by their 64-bit hash in a sorted array and
then compared themselves, so a collision of hashes, chosen or not, can cost time but never match two different ids.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming.learners.hashing import U64, hash_values

I64 = npt.NDArray[np.int64]


class IdIndex:
    """An immutable index over `ids`: integers, strings or dictionaries of them; a null equals nothing."""

    def __init__(self, ids: pa.Array) -> None:
        self.ids = plain(ids)
        hashes = hash_values(self.ids)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __len__(self) -> int:
        return len(self.ids)

    def pairs(self, needles: pa.Array, hashes: U64 | None = None) -> tuple[I64, I64]:
        """Every (needle, row) with equal ids, as two `int64[m]`, ascending by needle, then by row.

        `hashes`: those of `needles`, if the caller asks several indexes about the same ones.

        >>> IdIndex(pa.array(["a", "b", "a"])).pairs(pa.array(["x", "a"]))
        (array([1, 1]), array([0, 2]))
        """
        wanted = plain(needles)
        hashes = hash_values(wanted) if hashes is None else hashes
        if not len(self._sorted) or not len(hashes):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        ascending = np.argsort(hashes)  # sorted needles walk through the index instead of jumping about in it
        first = np.empty(len(hashes), dtype=np.int64)
        first[ascending] = np.searchsorted(self._sorted, hashes[ascending])
        hit = np.flatnonzero(self._sorted[np.minimum(first, len(self._sorted) - 1)] == hashes)
        counts = np.searchsorted(self._sorted, hashes[hit], side="right") - first[hit]
        needle = np.repeat(hit, counts)
        within = np.arange(len(needle)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = self._order[np.repeat(first[hit], counts) + within]
        if len(needle):
            here = self.ids.take(pa.array(row)).cast(wanted.type)
            same = pc.call_function("equal", [wanted.take(pa.array(needle)), here])
            keep = same.fill_null(False).to_numpy(zero_copy_only=False)
            needle, row = needle[keep], row[keep]
        return needle, row


def plain(ids: pa.Array) -> pa.Array:
    """The same ids without dictionary, and strings of one kind, so that two columns can be compared."""
    kind = ids.type
    if pa.types.is_dictionary(kind):
        return plain(ids.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return ids.cast(pa.string())
    return ids


def micros(times: pa.Array) -> I64:
    """Event times in microseconds since 1970, `int64[n]`, from a timestamp or integer column without nulls."""
    if times.null_count:
        raise ValueError(
            f"{times.null_count} of {len(times)} event times are null: the contract must require the column"
        )
    if pa.types.is_timestamp(times.type) and times.type.unit != "us":
        times = times.cast(pa.timestamp("us", times.type.tz))
    values: I64 = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return values
