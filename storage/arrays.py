"""Arrow arrays to numpy and back, over their buffers alone.

pyarrow's own conversions (``pa.array(ndarray)``, ``to_numpy``) import pandas whenever it is installed, which costs
every reader and every Spark worker half a second; buffers cost nothing and keep every bit of a NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage.logical import Leaf

Mask = NDArray[np.bool_]


def numbers(array: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values of a fixed-width array without nulls as ``dtype``, which must be as wide; only booleans are copied."""
    if dtype.kind == "b":
        return numbers(array.cast(pa.uint8()), np.dtype("u1")).view(np.bool_)
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, count=len(array), offset=array.offset * dtype.itemsize)


def validity(array: pa.Array) -> Mask:
    """bool[n], True where there is a value."""
    return numbers(array.is_valid(), np.dtype(np.bool_))


def text(array: pa.Array) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Lengths in bytes and the bytes themselves of a string or binary array without nulls."""
    _, offsets, data = array.buffers()
    if not len(array) or offsets is None:
        return np.empty(0, np.uint32), np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32, count=len(array) + 1, offset=4 * array.offset)
    whole = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return np.diff(ends).astype(np.uint32), whole[ends[0] : ends[-1]]


def positions(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every position of runs that start somewhere and have some size, one run behind the other."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)


def few_texts(entries: pa.Array, rows: NDArray[np.int32], valid: Mask | None) -> pa.Array:
    """``entries``, strings or binary without nulls, at ``rows``, null where ``valid`` is False: as ``entries.take`` gives them."""
    lengths, data = text(entries)
    ends = np.cumsum(lengths, dtype=np.int64)
    sizes = lengths[rows].astype(np.int64)
    if valid is not None:
        sizes[~valid] = 0
    chosen = data[positions(ends[rows] - lengths[rows], sizes)]
    buffers = [bitmap(valid), offsets(sizes.astype(np.uint32), None, len(rows)), pa.py_buffer(chosen)]
    return pa.Array.from_buffers(entries.type, len(rows), buffers)


def list_lengths(array: pa.Array) -> NDArray[np.uint32]:
    """Items in each row of a list array without nulls."""
    return numbers(array.value_lengths(), np.dtype(np.int32)).astype(np.uint32)


def mask_array(mask: Mask) -> pa.Array:
    """A boolean Arrow array."""
    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, bitmap(mask)])


def indices(values: NDArray[np.int32], valid: Mask | None) -> pa.Array:
    """An int32 Arrow array, null where ``valid`` is False."""
    return pa.Array.from_buffers(pa.int32(), len(values), [bitmap(valid), pa.py_buffer(values)])


def bitmap(valid: Mask | None) -> pa.Buffer | None:
    """An Arrow bitmap, or None for None."""
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def spread(dense: NDArray[Any], valid: Mask, n_all: int) -> NDArray[Any]:
    """Place dense values where ``valid`` is True, zeros elsewhere."""
    out = np.zeros(n_all, dense.dtype)
    out[valid] = dense
    return out


def fixed(dense: NDArray[Any], valid: Mask | None, n_all: int, leaf: Leaf) -> pa.Array:
    """An Arrow array of a fixed-width leaf from its valid values."""
    values = dense if valid is None else spread(dense, valid, n_all)
    if values.dtype.kind == "b":
        values = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(leaf.arrow, n_all, [bitmap(valid), pa.py_buffer(values)])


def offsets(lengths: NDArray[np.uint32], valid: Mask | None, n_all: int) -> pa.Buffer:
    """Arrow's n_all + 1 offsets from the lengths of the valid rows; their sum must fit int32."""
    ends = np.zeros(n_all + 1, np.int32)
    np.cumsum(lengths if valid is None else spread(lengths, valid, n_all), out=ends[1:])
    return pa.py_buffer(ends)


def rows_without_columns(n_rows: int) -> pa.RecordBatch:
    """A batch of rows that has no columns but keeps their number."""
    empty = pa.Array.from_buffers(pa.struct([]), n_rows, [None], children=[])
    return pa.RecordBatch.from_struct_array(empty)


def plain(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """``column`` in its plain type: dictionaries decoded, large and view layouts made ordinary ones."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        column = _list_of_view(column)
    return column if column.type == type_ else column.cast(type_)


def _list_of_view(column: pa.Array) -> pa.Array:
    """By hand, since pyarrow's own cast of list views with nulls gives an array that fails its validation."""
    valid = validity(column) if column.null_count else None
    lengths = numbers(column.value_lengths().fill_null(0).cast(pa.int32()), np.dtype(np.int32)).astype(
        np.uint32
    )
    buffers = [bitmap(valid), offsets(lengths, None, len(column))]
    items = column.flatten()
    return pa.Array.from_buffers(pa.list_(items.type), len(column), buffers, children=[items])


def batches_of(data: Any) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    """Schema and batches of whatever Arrow data a caller has.

    Raises:
        TypeError: neither an Arrow stream, a batch, nor an iterable of batches with at least one.
    """
    if isinstance(data, pa.RecordBatch):
        return data.schema, [data]
    if hasattr(data, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(data)
        return reader.schema, reader
    if isinstance(data, Iterable):
        batches = iter(data)
        first: Any = next(batches, None)
        if isinstance(first, pa.RecordBatch):
            return first.schema, _chained(first, batches)
    raise TypeError(
        f"expected an Arrow table, reader or batch, a non-empty iterable of batches, or an object with an Arrow stream, "
        f"got {type(data).__name__}"
    )


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
