"""Dictionaries: the distinct values of a chunk or of a whole file, and the code of each value, counting from 1.

``chunk`` asks whether a dictionary could pay at all, numbers the values, and decides by cost. Codes of a file-wide
dictionary are given out in order of first row group, so that pages can be written before the last value is known. Code 0
is never given out: it means erased. Encoding codes and entries is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings._jit import preferred
from headrace.storage.encodings.distinct import Distinct
from headrace.storage.encodings.ranking import ascending
from headrace.storage.logical import Leaf

SAMPLE = 2048
SHARED = 0.15
FILE_ENTRIES = 1 << 22  # a dictionary that every reader of a page must load has an end

Codes: TypeAlias = "NDArray[np.uint32]"
Order = Literal["value", "frequency", "first use"]
"""Of numbers: ascending by bit pattern; the most frequent first, which makes codes of few distinct bytes, for a general-purpose
compressor behind them; or as strings are, so that what one person alone has lies together where their rows do."""
Entries: TypeAlias = Any
"""Distinct values: a numpy array for fixed-width leaves, an Arrow array for strings and binary."""


@dataclass(frozen=True)
class Numbered:
    """Distinct values and codes: ``values[i] == entries[codes[i] - 1]``."""

    entries: Entries
    codes: Codes
    known: Known | None = None
    """What the next values would be looked up in."""

    def shared(self) -> bool:
        """Whether the second half of the values brings few entries that the first has not had.

        If so, so will the next row group, and one dictionary for all of them saves most of theirs.
        """
        half = len(self.codes) // 2
        first, second = (np.zeros(len(self.entries) + 1, np.bool_) for _ in range(2))
        first[self.codes[:half]] = True
        second[self.codes[half:]] = True
        return int(np.count_nonzero(first & second)) > SHARED * int(np.count_nonzero(second))


class Known:
    """Numbers that have a code, and their codes."""

    def __init__(self) -> None:
        self._table = Distinct()
        self._codes = np.zeros(1, np.uint32)  # of each of the table's numbers

    def add(self, numbers: NDArray[Any], by: Order = "value") -> tuple[NDArray[Any], Codes]:
        """The values that had no code, in the order of those that they get, as `number` orders them, and all codes."""
        table, first = self._table, len(self._codes)
        found = table.assign(numbers)
        fresh = table.entries(numbers.dtype, first - 1)
        if by == "first use":
            order = np.arange(len(fresh))
        elif by == "frequency":
            order = np.argsort(-np.bincount(found, minlength=first + len(fresh))[first:], kind="stable")
        else:
            order = ascending(fresh.view(f"u{fresh.itemsize}"))
        codes = np.empty(first + len(fresh), np.uint32)
        codes[:first] = self._codes
        codes[order + first] = np.arange(first, len(codes), dtype=np.uint32)
        self._codes = codes
        return fresh[order], codes[found]


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
    distinct = _n_distinct(few) if isinstance(few, np.ndarray) else len(few.unique())
    return distinct * 2 <= len(few) or (step > 1 and distinct * 8 <= len(few) * 7)


def _n_distinct(few: NDArray[Any]) -> int:
    """By sorting, which is quicker for a few values than to look for equals."""
    patterns = np.sort(few.view(f"u{few.itemsize}"))
    return 1 + int(np.count_nonzero(patterns[1:] != patterns[:-1]))


def number(leaves: Any, leaf: Leaf, by: Order = "value") -> Numbered:
    """Number the distinct values, strings by first use unless the most frequent come first.

    Args:
        leaves: an Arrow array without nulls, or numbers as numpy.
        leaf: their type.
        by: what numbers are in the order of.
    """
    order = None
    if leaf.dtype is None:
        encoded = leaves.dictionary_encode()
        entries: Entries = encoded.dictionary
        indices = arrays.numbers(encoded.indices, np.dtype(np.int32))
    else:
        numbers = leaves if isinstance(leaves, np.ndarray) else arrays.numbers(leaves, leaf.dtype)
        if preferred():
            known = Known()
            return Numbered(*known.add(numbers, by), known)
        # Bit patterns, so that NaNs and zeros of both signs keep theirs.
        encoded = _arrow(np.ascontiguousarray(numbers).view(f"u{numbers.itemsize}")).dictionary_encode()
        patterns = arrays.numbers(encoded.dictionary, np.dtype(f"u{numbers.itemsize}"))
        entries = patterns.view(numbers.dtype)
        indices = arrays.numbers(encoded.indices, np.dtype(np.int32))
        order = None if by == "first use" else ascending(patterns)
    if by == "frequency":
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

    def __init__(self, leaf: Leaf, by: Order = "value") -> None:
        """
        Args:
            leaf: type of the values.
            by: as for `number`, among the values that come together.
        """
        self._leaf = leaf
        self._by: Order = by
        self._parts: list[Entries] = []
        self._known: Known | None = None
        self.n_entries = 0

    def add(self, leaves: Any, numbered: Numbered | None = None) -> Codes | None:
        """The file-wide codes of a chunk's values; None, and nothing added, if there would be too many entries.

        Args:
            leaves: as for `number`.
            numbered: what `number` made of them, if they are the first and that is known.
        """
        if numbered is not None and numbered.known is not None and len(numbered.entries) <= FILE_ENTRIES:
            self._known = numbered.known
            self._keep(numbered.entries)
            return numbered.codes
        if self._leaf.dtype is not None and preferred():
            return self._added(
                leaves if isinstance(leaves, np.ndarray) else arrays.numbers(leaves, self._leaf.dtype)
            )
        numbered = number(leaves, self._leaf, self._by)
        found = self._found(numbered.entries)
        if found is None:
            return None
        codes = np.zeros(len(found) + 1, np.uint32)
        codes[1:] = found + 1
        return codes[numbered.codes]

    def keep_order(self, came: Entries) -> bool:
        """Add distinct entries in their order; whether it agrees with the order of those before."""
        found = self._found(came)
        return found is not None and bool((np.diff(found) > 0).all())

    def _found(self, came: Entries) -> NDArray[np.int64] | None:
        """Where distinct values are among the entries, behind which new ones are put in the order in which they came."""
        self._known = None
        patterns, found = _patterns(came), np.full(len(came), -1, np.int64)
        if self._parts:
            known = pa.concat_arrays([_patterns(part) for part in self._parts])
            where = pc.index_in(patterns, value_set=known).fill_null(-1)
            found = arrays.numbers(where, np.dtype(np.int32)).astype(np.int64)
        fresh = found < 0
        n_fresh = int(np.count_nonzero(fresh))
        if self.n_entries + n_fresh > FILE_ENTRIES:
            return None
        found[fresh] = self.n_entries + np.arange(n_fresh)
        self._keep(came[fresh] if isinstance(came, np.ndarray) else came.filter(arrays.mask_array(fresh)))
        return found

    def entries(self) -> Entries:
        """All entries, by code."""
        if isinstance(self._parts[0], np.ndarray):
            return np.concatenate(self._parts)
        return pa.concat_arrays(self._parts)

    def _added(self, numbers: NDArray[Any]) -> Codes | None:
        """As `add`, in one pass over the values."""
        if self._known is None:
            self._known = Known()
            for part in self._parts:
                self._known.add(part, "first use")  # each came once: they stay in their order
        fresh, codes = self._known.add(numbers, self._by)
        if self.n_entries + len(fresh) > FILE_ENTRIES:
            self._known = None
            return None
        self._keep(fresh)
        return codes

    def _keep(self, fresh: Entries) -> None:
        self._parts.append(fresh)
        self.n_entries += len(fresh)


def _patterns(entries: Entries) -> pa.Array:
    """Entries as Arrow compares them bit by bit."""
    if isinstance(entries, np.ndarray):
        return _arrow(np.ascontiguousarray(entries).view(f"u{entries.itemsize}"))
    return entries


def _arrow(numbers: NDArray[Any]) -> pa.Array:
    """Without `pa.array`, which imports pandas to see whether it was given something of its."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)]
    )
