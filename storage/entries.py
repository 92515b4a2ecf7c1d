"""Dictionaries: the distinct values of a chunk or of a whole file, and the code of each value, counting from 1.

``chunk`` asks whether a dictionary could pay at all, numbers the values, and decides by cost. Codes of a file-wide
dictionary are given out in order of first row group, so that pages can be written before the last value is known. Code 0
is never given out: it means erased. Encoding codes and entries is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.logical import Leaf

SAMPLE = 2048
SHARED = 0.15
FILE_ENTRIES = 1 << 22  # a dictionary that every reader of a page must load has an end

Codes: TypeAlias = "NDArray[np.uint32]"
Entries: TypeAlias = Any
"""Distinct values: a numpy array for fixed-width leaves, an Arrow array for strings and binary."""


@dataclass(frozen=True)
class Numbered:
    """Distinct values and codes: ``values[i] == entries[codes[i] - 1]``."""

    entries: Entries
    codes: Codes

    def shared(self) -> bool:
        """Whether the second half of the values brings few entries that the first has not had.

        If so, so will the next row group, and one dictionary for all of them saves most of theirs.
        """
        half = len(self.codes) // 2
        first = np.zeros(len(self.entries) + 1, np.bool_)
        first[self.codes[:half]] = True
        second = np.unique(self.codes[half:])
        return float(np.count_nonzero(first[second])) > SHARED * len(second)


def countable(leaf: Leaf) -> bool:
    """Whether dictionaries of this type exist: numbers but bools, and strings and binary of any length."""
    if leaf.dtype is None:
        return not (leaf.words or leaf.fixed_bytes)
    return leaf.dtype.kind != "b" and leaf.dtype.itemsize > 1


def worth_counting(leaves: Any) -> bool:
    """Whether a sample of the values repeats itself enough for a dictionary to be tried."""
    n = len(leaves)
    if n < 2:
        return False
    step = max(1, n // SAMPLE)
    few = leaves[::step] if isinstance(leaves, np.ndarray) else leaves.take(_arrow(np.arange(0, n, step)))
    # Half of a sample being distinct says little about all of it when it is a small part: there the bound is loose.
    distinct = len(np.unique(few)) if isinstance(few, np.ndarray) else len(few.unique())
    return distinct * 2 <= len(few) or (step > 1 and distinct * 8 <= len(few) * 7)


def number(leaves: Any, leaf: Leaf, *, by_frequency: bool = False) -> Numbered:
    """Number the distinct values: numbers ascending by bit pattern, strings by first use, or the most frequent first.

    Args:
        leaves: an Arrow array without nulls, or numbers as numpy.
        leaf: their type.
        by_frequency: True makes codes of few distinct bytes, for a general-purpose compressor behind them.
    """
    if leaf.dtype is None:
        encoded = leaves.dictionary_encode()
        entries: Entries = encoded.dictionary
        indices = arrays.numbers(encoded.indices, np.dtype(np.int32))
        order = None
    else:
        numbers = leaves if isinstance(leaves, np.ndarray) else arrays.numbers(leaves, leaf.dtype)
        # Bit patterns, so that NaNs and zeros of both signs keep theirs.
        encoded = _arrow(np.ascontiguousarray(numbers).view(f"u{numbers.itemsize}")).dictionary_encode()
        patterns = arrays.numbers(encoded.dictionary, np.dtype(f"u{numbers.itemsize}"))
        entries = patterns.view(numbers.dtype)
        indices = arrays.numbers(encoded.indices, np.dtype(np.int32))
        order = np.argsort(patterns)
    if by_frequency:
        order = np.argsort(-np.bincount(indices, minlength=len(entries)), kind="stable")
    if order is None:
        return Numbered(entries, indices.astype(np.uint32) + np.uint32(1))
    codes = np.empty(len(order), np.uint32)
    codes[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    return Numbered(
        entries[order] if isinstance(entries, np.ndarray) else entries.take(_arrow(order)), codes[indices]
    )


class FileEntries:
    """A dictionary over the row groups of one column: new values get the next codes, known ones keep theirs."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf
        self._parts: list[Entries] = []
        self._known: pa.Array | None = None
        self.n_entries = 0

    def add(self, numbered: Numbered) -> Codes | None:
        """The file-wide codes of a chunk's values; None, and nothing added, if there would be too many entries."""
        came = numbered.entries
        patterns = (
            _arrow(np.ascontiguousarray(came).view(f"u{came.itemsize}"))
            if isinstance(came, np.ndarray)
            else came
        )
        if self._known is None:
            found = np.full(len(came), -1, np.int64)
        else:
            where = pc.index_in(patterns, value_set=self._known).fill_null(-1)
            found = arrays.numbers(where, np.dtype(np.int32)).astype(np.int64)
        fresh = found < 0
        n_fresh = int(np.count_nonzero(fresh))
        if self.n_entries + n_fresh > FILE_ENTRIES:
            return None
        found[fresh] = self.n_entries + np.arange(n_fresh)
        self._parts.append(
            came[fresh] if isinstance(came, np.ndarray) else came.filter(arrays.mask_array(fresh))
        )
        self.n_entries += n_fresh
        new = patterns.filter(arrays.mask_array(fresh))
        self._known = new if self._known is None else pa.concat_arrays([self._known, new])
        codes = np.zeros(len(came) + 1, np.uint32)
        codes[1:] = found + 1
        return codes[numbered.codes]

    def keep_order(self, came: Entries) -> bool:
        """Add distinct entries in their order; whether it agrees with the order of those before."""
        codes = self.add(Numbered(came, np.arange(1, len(came) + 1, dtype=np.uint32)))
        return codes is not None and bool((np.diff(codes.astype(np.int64)) > 0).all())

    def entries(self) -> Entries:
        """All entries, by code."""
        if isinstance(self._parts[0], np.ndarray):
            return np.concatenate(self._parts)
        return pa.concat_arrays(self._parts)


def _arrow(numbers: NDArray[Any]) -> pa.Array:
    """Without `pa.array`, which imports pandas to see whether it was given something of its."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)]
    )
