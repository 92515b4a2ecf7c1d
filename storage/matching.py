"""Which rows of a group a filter keeps: blocks that statistics rule out are not read, the rest is compared.

Simple comparisons of plain numbers run over their buffers; whatever else a filter says is left to Arrow's own evaluation,
which decides alike but takes a third of a millisecond to start. Between ``predicate``, which knows filters, and the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, exact
from headrace.storage.arrays import Mask
from headrace.storage.footer import Chunk, Column, Footer
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.predicate import AnyOf, Condition, Predicate
from headrace.storage.statistics import bounds_of, may_match, unpack

Rows = NDArray[np.int64]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def ranges(
    footer: Footer, columns: Mapping[str, tuple[Column, Chunk]], any_of: AnyOf | None, first: int, last: int
) -> list[tuple[int, int]]:
    """The parts of rows ``first`` up to ``last`` of a group that may hold matching rows, by whole blocks.

    Args:
        footer: the file's.
        columns: of the filter, by name, with their chunk in the group.
        any_of: the filter's conditions; None keeps everything.
        first, last: rows of the group.
    """
    if any_of is None:
        return [(first, last)]
    n_blocks = -(-last // BLOCK_ROWS)
    known: dict[str, list[Any] | None] = {}
    keep = np.zeros(n_blocks, np.bool_)
    for group in any_of:
        blocks = np.ones(n_blocks, np.bool_)
        for name, op, value in group:
            column, chunk = columns[name]
            if name not in known:
                raw = footer.statistics(column, chunk)
                known[name] = None if raw is None else unpack(raw, column.type)
            pages = known[name]
            if pages is None or op == "not in":
                continue
            bounds = bounds_of(list(value) if op == "in" else [value], column.type)
            may = np.zeros(n_blocks, np.bool_)
            for row, page in zip(chunk.pages, pages, strict=True):
                if may_match(page, row.n_rows, op, bounds):
                    may[row.first_row // BLOCK_ROWS : -(-(row.first_row + row.n_rows) // BLOCK_ROWS)] = True
            blocks &= may
        keep |= blocks
    keep[: first // BLOCK_ROWS] = False
    edges = np.flatnonzero(np.diff(np.concatenate(([False], keep, [False])).astype(np.int8)))
    found = []
    for begin, end in edges.reshape(-1, 2).tolist():
        found.append((max(first, begin * BLOCK_ROWS), min(last, end * BLOCK_ROWS)))
    return found


def matching(batch: pa.RecordBatch, predicate: Predicate, deleted: Mask | None) -> Rows:
    """int64[k]: numbers of the rows of a batch of the filter's columns that it keeps and that are not deleted."""
    mask = None if predicate.any_of is None else _compared(batch, predicate.any_of)
    if mask is None:
        mask = _evaluated(batch, predicate)
    if deleted is not None:
        mask &= ~deleted
    return np.flatnonzero(mask)


def _evaluated(batch: pa.RecordBatch, predicate: Predicate) -> Mask:
    name = "row"
    while name in batch.schema.names:
        name += "_"
    numbers = pa.Array.from_buffers(
        pa.int32(), batch.num_rows, [None, pa.py_buffer(np.arange(batch.num_rows, dtype=np.int32))]
    )
    plain = exact.plain_batch(batch, batch.schema.names)  # Arrow compares no views
    found = plain.append_column(name, numbers).filter(predicate.expression)
    mask = np.zeros(batch.num_rows, np.bool_)
    mask[arrays.numbers(found.column(name), np.dtype("i4"))] = True
    return mask


def _compared(batch: pa.RecordBatch, any_of: AnyOf) -> Mask | None:
    """As the expression says, or None where only Arrow knows how it compares these."""
    found: Mask | None = None
    for group in any_of:
        mine: Mask | None = None
        for condition in group:
            mask = _holds(batch.column(condition[0]), condition)
            if mask is None:
                return None
            mine = mask if mine is None else mine & mask
        if mine is None:
            return None
        found = mine if found is None else found | mine
    return found


def _holds(array: pa.Array, condition: Condition) -> Mask | None:
    _, op, value = condition
    dtype = _dtype(array.type)
    values = value if op == "in" else [value]
    if dtype is None or op not in (*_COMPARE, "in") or not isinstance(values, Sequence | set | frozenset):
        return None
    found = [one for one in (_exact(each, dtype) for each in values) if one is not None]
    if len(found) != len(values) or not found:
        return None
    numbers = arrays.numbers(array, dtype)
    mask: Mask
    mask = np.isin(numbers, np.array(found, dtype)) if op == "in" else _COMPARE[op](numbers, found[0])
    return mask & arrays.validity(array) if array.null_count else mask


def _dtype(type_: pa.DataType) -> np.dtype[Any] | None:
    if pa.types.is_integer(type_):
        return np.dtype(f"{'i' if pa.types.is_signed_integer(type_) else 'u'}{type_.bit_width // 8}")
    if pa.types.is_float32(type_) or pa.types.is_float64(type_):
        return np.dtype(f"f{type_.bit_width // 8}")
    return None


def _exact(value: Any, dtype: np.dtype[Any]) -> Any:
    """The value in the column's own type, if that loses nothing and cannot be read in two ways."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        fits = isinstance(value, int) and limits.min <= value <= limits.max
        return dtype.type(value) if fits else None
    if isinstance(value, int) and abs(value) > 2**24:
        return None
    with np.errstate(over="ignore"):
        narrow = dtype.type(value)
    return narrow if narrow == value else None
