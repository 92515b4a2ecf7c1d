"""Rows that stay when some go, as runs of neighbours: moved to the front of the memory they lie in, not gathered anew.

In the flow: ``group_read`` knows which rows are deleted and hidden and makes one ``Runs`` of the others for all columns of a row
group; ``fetch`` moves each column's, in the arrays that pages were just decoded into.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array

_WORD = 8
_DTYPES = {width: np.dtype(f"u{width}") for width in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Runs:
    """Rows ``begins[i]`` up to ``ends[i]`` of some, ascending; ``begins`` and ``ends`` are int64[k]."""

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    # Columns whose pages lie alike ask the same.
    _cuts: dict[tuple[int, int], Runs] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def without(cls, gone: NDArray[np.bool_]) -> Runs:
        """The rows that are not marked.

        >>> Runs.without(np.array([False, True, True, False])).rows.tolist()
        [0, 3]
        """
        at = np.flatnonzero(gone)
        begins, ends = np.concatenate(([0], at + 1)), np.concatenate((at, [len(gone)]))
        some = begins < ends
        return cls(begins[some], ends[some])

    @cached_property
    def n(self) -> int:
        """Rows that stay."""
        return int((self.ends - self.begins).sum())

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """int64[n], their numbers."""
        return arrays.positions(self.begins, self.ends - self.begins)

    @cached_property
    def _bounds(self) -> tuple[list[int], list[int], list[int]]:
        """``begins``, ``ends``, and how many rows stay in front of each run."""
        sizes = self.ends - self.begins
        return self.begins.tolist(), self.ends.tolist(), (np.cumsum(sizes) - sizes).tolist()

    def before(self, row: int) -> int:
        """How many of the rows in front of one stay."""
        found = self._counts.get(row)
        if found is None:
            begins, ends, before = self._bounds
            run = bisect_right(begins, row) - 1
            found = 0 if run < 0 else before[run] + min(row, ends[run]) - begins[run]
            self._counts[row] = found
        return found

    def cut(self, first: int, last: int) -> Runs:
        """Those of rows ``first`` up to ``last``, counted from ``first``."""
        found = self._cuts.get((first, last))
        if found is None:
            begins, ends, _ = self._bounds
            some = slice(bisect_right(ends, first), bisect_left(begins, last))
            clipped = np.maximum(self.begins[some] - first, 0), np.minimum(self.ends[some], last) - first
            found = self._cuts[first, last] = Runs(*clipped)
        return found

    def keep(self, values: NDArray[Any], width: int = 1) -> int:
        """Move what stays to the front, in place.

        Args:
            values: [rows * width], of any fixed-width dtype.
            width: values of each row.

        Returns:
            How many values those are; behind them stands what is left over.
        """
        if len(self.begins) == 1 and not self.begins[0]:
            return int(self.ends[0]) * width
        n_bytes = values.itemsize * width
        words = values.view(f"u{values.itemsize if n_bytes % _WORD else _WORD}")
        if not words.flags.aligned:
            words = values.view(np.uint8)
        per_row = n_bytes // words.itemsize
        pick(len(words), _keep_numpy, _keep)(words, self.begins, self.ends, per_row)
        return self.n * width


@kernel
def _keep(values: Array, begins: Array, ends: Array, width: int) -> None:
    """uint[n * width], int64[k] twice; forwards, since what is written lies in front of what is read."""
    to = np.uint64(0)
    for run in range(len(begins)):
        start = np.uint64(begins[run] * width)
        n = np.uint64((ends[run] - begins[run]) * width)
        if start != to:
            for i in range(n):
                values[to + i] = values[start + i]
        to += n


def _keep_numpy(values: Array, begins: Array, ends: Array, width: int) -> None:
    """The numpy twin of `_keep`."""
    rows = values.reshape(-1, width) if width != 1 else values
    kept = rows[Runs(begins, ends).rows]
    rows[: len(kept)] = kept


def kept(array: pa.Array, runs: Runs) -> pa.Array:
    """Rows of an array, in its own memory, which nobody else may hold.

    Args:
        array: in a plain type, not sliced, as pages decode to.
        runs: of its rows.
    """
    n, type_, nulls = runs.n, array.type, array.null_count
    if n == len(array) or nulls == len(array):
        return array[:n]
    bits, buffers = None, array.buffers()
    if nulls:
        valid = arrays.validity(array).copy()
        valid = valid[: runs.keep(valid)]
        bits = None if valid.all() else arrays.bitmap(valid)
    if pa.types.is_list(type_) or type_.num_buffers > 2:
        return _kept_lists(array, bits, runs)
    if type_.bit_width == 1:
        marks = np.unpackbits(np.frombuffer(buffers[1], np.uint8), count=len(array), bitorder="little")
        return pa.Array.from_buffers(type_, n, [bits, arrays.bitmap(marks[: runs.keep(marks)] > 0)])
    width = type_.bit_width // 8
    if not width:
        return pa.Array.from_buffers(type_, n, [bits, buffers[1]])
    dtype = _DTYPES.get(width, _DTYPES[1])
    values = _own(buffers[1], dtype, len(array) * width // dtype.itemsize)
    left = runs.keep(values, width // dtype.itemsize)
    return pa.Array.from_buffers(type_, n, [bits, pa.py_buffer(values[:left])])


def _kept_lists(array: pa.Array, bits: pa.Buffer | None, runs: Runs) -> pa.Array:
    """As ``kept``, of lists and text, whose validity is known."""
    n, type_, buffers = runs.n, array.type, array.buffers()
    ends = _own(buffers[1], np.dtype(np.int32), len(array) + 1)
    items = Runs(ends[runs.begins].astype(np.int64), ends[runs.ends].astype(np.int64))
    last = int(ends[-1])
    runs.keep(ends[:-1])
    ends = ends[: n + 1]
    ends[n] = last
    if items.n < last:  # else those that went had none
        shift = items.begins - (np.cumsum(items.ends - items.begins) - (items.ends - items.begins))
        ends[:-1] -= np.repeat(shift.astype(np.int32), runs.ends - runs.begins)
        ends[n] = items.n
    if pa.types.is_list(type_):
        children = [kept(array.values, items)]
        return pa.Array.from_buffers(type_, n, [bits, pa.py_buffer(ends)], children=children)
    text = _own(buffers[2], np.dtype(np.uint8), last)
    text = text[: items.keep(text)]
    return pa.Array.from_buffers(type_, n, [bits, pa.py_buffer(ends), pa.py_buffer(text)])


def _own(buffer: pa.Buffer | None, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    """A buffer's values, to be written to."""
    if not n or buffer is None:
        return np.empty(n, dtype)
    found = np.frombuffer(buffer, dtype, count=n)
    return found if found.flags.writeable else found.copy()
