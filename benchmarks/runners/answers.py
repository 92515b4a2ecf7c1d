"""Whether a format's answer is the source's, value by value, whatever Arrow layout it came in; and what a reader does with it.

Runs in the rivals' environments: numpy and pyarrow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def must_equal(found: pa.Table, wanted: pa.Table) -> None:
    """Same rows in the same order; a list view may stand for a list, a dictionary or a view for what it holds.

    Raises:
        ValueError: naming the first column that differs, or the row counts.
    """
    if found.num_rows != wanted.num_rows:
        raise ValueError(f"expected {wanted.num_rows} rows, got {found.num_rows}")
    if found.column_names != wanted.column_names:
        raise ValueError(f"expected columns {wanted.column_names[:8]}, got {found.column_names[:8]}")
    for name in wanted.column_names:
        if not _same(found[name], wanted[name]):
            raise ValueError(f"column {name!r} differs from the source")


def _same(found: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    if found.null_count != wanted.null_count:
        return False
    if is_list(wanted.type):
        lengths = [pc.list_value_length(column).cast(pa.int64()) for column in (found, wanted)]
        return lengths[0].equals(lengths[1]) and _same(_flat(found), _flat(wanted))
    return bool(found.cast(wanted.type).equals(wanted))


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Not a cast: pyarrow 26 casts list views to lists wrongly.
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=column.type.value_type)


def is_list(kind: pa.DataType) -> bool:
    """Lists of any layout, fixed-size ones too."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or is_view(kind)
    )


def is_view(kind: pa.DataType) -> bool:
    """List views, whose rows may share their items."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def sum_of_ids(table: pa.Table) -> int:
    """Sum of all items of all integer lists, modulo 2**64, row by row where rows share items: every id of every row is read."""
    total = 0
    for column in table.columns:
        if is_list(column.type) and pa.types.is_integer(column.type.value_type):
            for chunk in column.chunks:
                total += _sum_of_views(chunk) if is_view(chunk.type) else _sum(chunk.flatten())
    return total % 2**64


def _sum(items: Any) -> int:
    return int(np.asarray(items).sum())


def _sum_of_views(chunk: Any) -> int:
    items, starts, sizes = (np.asarray(part) for part in (chunk.values, chunk.offsets, chunk.sizes))
    ends = starts + sizes
    inside = (sizes > 0) & (ends < len(items))
    # reduceat sums from each index to the next: every second sum is a row's, the others are not looked at.
    bounds = np.empty(2 * np.count_nonzero(inside), np.int64)
    bounds[::2], bounds[1::2] = starts[inside], ends[inside]
    total = _sum(np.add.reduceat(items, bounds)[::2]) if len(bounds) else 0
    for row in np.flatnonzero((sizes > 0) & ~inside):
        total += _sum(items[starts[row] :])
    return total
