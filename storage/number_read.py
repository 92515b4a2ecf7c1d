"""Pages of plain numbers to one Arrow array by the shortest way: no nulls, no dictionary, nothing but one stream of values.

Most columns of features are such pages, and vectors of a fixed size too. Their place in the array is known before they are
read, so each is decoded while a processor's cache still holds what was read and hashed. ``page_read`` decodes all others,
and ``fetch`` asks here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from headrace.storage.footer import PageRow
from headrace.storage.logical import ColumnType, Leaf
from headrace.storage.page import VALUES
from headrace.storage.page_streams import Page, page_limit


def page_of_numbers(page_: Page, leaf: Leaf) -> pa.Array | None:
    """A page of nothing but numbers without nulls; None for any other."""
    dtype, n = leaf.dtype, page_.n_rows
    if page_.validity or dtype is None or dtype.kind == "b" or len(page_.streams) != 1 or not n:
        return None
    page_.claim("values", n * dtype.itemsize)
    if VALUES not in page_.streams:
        return None
    buffer = pa.allocate_buffer(n * dtype.itemsize)
    page_.into(VALUES, np.frombuffer(buffer, dtype))
    return pa.Array.from_buffers(leaf.arrow, n, [None, buffer])


def pages_of_numbers(pages: Iterable[Page], rows: Sequence[PageRow], type_: ColumnType) -> pa.Array | None:
    """Pages of nothing but numbers, or lists of so many, without nulls and dictionary; None if one is another.

    Args:
        pages: in turn, so that each is decoded as soon as it was read.
        rows: what the footer says of them.
        type_: the column's.
    """
    dtype, size = type_.leaf.dtype, type_.size
    if dtype is None or dtype.kind == "b" or (type_.is_list and size is None):
        return None
    n_rows = sum([row.n_rows for row in rows])
    per_row = 1 if size is None else size
    # What is not there yet must not be believed: the first page vouches for its own values, the others for theirs.
    if n_rows * per_row >= 2**31 or any(
        row.null_count or row.n_rows * per_row * dtype.itemsize > page_limit(row.used_len, 0) for row in rows
    ):
        return None
    buffer = pa.allocate_buffer(n_rows * per_row * dtype.itemsize)
    out = np.frombuffer(buffer, dtype) if buffer.size else np.empty(0, dtype)
    at = 0
    for page_ in pages:
        n = page_.n_rows * per_row
        if page_.validity or len(page_.streams) != 1 or VALUES not in page_.streams or not n:
            return None
        if size is not None and page_.n_items != n:
            page_.place.fail("items", n, page_.n_items)
        page_.into(VALUES, out[at : at + n])
        at += n
    items = pa.Array.from_buffers(type_.leaf.arrow, len(out), [None, buffer])
    if size is None:
        return items
    ends = np.arange(n_rows + 1, dtype=np.int32) * np.int32(size)
    return pa.Array.from_buffers(type_.plain, n_rows, [None, pa.py_buffer(ends)], children=[items])
