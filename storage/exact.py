"""Arrow arrays of any type that the store holds to their plain form, and back to exactly what they were.

Sits between the callers' arrays and pages: a plain array (``ColumnType.plain``) is a leaf, a list or a struct in its
ordinary layout, so it can be cut, joined and filtered, which Arrow cannot do with every view type. Only the layout
changes: no value, no null, no bit of a NaN. Cutting nested arrays into columns is ``nested_columns``' part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import logical, typecode
from headrace.storage.arrays import Mask, bitmap, numbers, positions, validity
from headrace.storage.errors import TooLarge

Fail = Callable[[str, object, object], NoReturn]
_MAX_ITEMS = 2**31 - 1


def plain(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """``array`` in the plain type of its values; no copy where it is already laid out like that.

    Args:
        array: of any type with the shape (``logical.shape``) of ``type_``.
        type_: ``ColumnType.plain``.

    Raises:
        TooLarge: it has 2^31 items or bytes of text; write smaller batches.
    """
    if array.type.equals(type_, check_metadata=True):
        return array
    if pa.types.is_struct(type_):
        children = [plain(array.field(i), type_.field(i).type) for i in range(type_.num_fields)]
        return pa.Array.from_buffers(type_, len(array), [_bitmap_of(array)], children=children)
    if pa.types.is_list(type_):
        valid, lengths, items = list_parts(array, type_.value_type)
        if len(items) > _MAX_ITEMS:
            raise TooLarge(
                f"a batch of {len(array)} rows has {len(items)} list items, at most {_MAX_ITEMS} fit; write smaller batches"
            )
        return list_array(type_, valid, lengths, items)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), type_)
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary, type_).take(array.indices)
    try:
        return array.cast(type_)
    except pa.ArrowInvalid as error:
        raise TooLarge(
            f"{len(array)} values of {array.type} exceed 2 GiB: {error}; write smaller batches"
        ) from error


def plain_batch(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Some columns in their plain form, which Arrow can compare whatever they are stored as for their callers."""
    columns = [plain(batch.column(name), plain_type(batch.schema.field(name))) for name in names]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def plain_type(field: pa.Field) -> pa.DataType:
    """The plain type of a field's values."""
    return logical.column_type(field.type, field.name).plain


def take(array: pa.Array, rows: pa.Array) -> pa.Array:
    """Some rows of an array of any type; Arrow itself gathers no string and binary views."""

    return array.take(rows) if not _has(is_view, array.type) else gathered([array], rows)


def gathered(parts: Sequence[pa.Array], rows: pa.Array) -> pa.Array:
    """Some rows of arrays of one type behind each other; Arrow joins no dictionaries within lists as it should."""
    type_ = parts[0].type

    def fail(what: str, expected: object, got: object) -> NoReturn:
        raise AssertionError(f"{what}: expected {expected}, got {got}, of arrays that are {type_}")

    if not _has(is_view, type_) and not _has(pa.types.is_dictionary, type_):
        return pa.concat_arrays(parts).take(rows)
    column = logical.column_type(type_, "")
    whole = pa.concat_arrays([plain(part, column.plain) for part in parts]).take(rows)
    entries = None
    if column.is_ordered:
        came = [(part.values if column.is_list else part).dictionary for part in parts]
        entries = pa.concat_arrays([plain(one, column.leaf.arrow) for one in came]).drop_null()
        indices = numbers(_bits(entries).dictionary_encode().indices, np.dtype(np.int32))
        _, firsts = np.unique(indices, return_index=True)
        entries = entries.take(pa.Array.from_buffers(pa.int64(), len(firsts), [None, pa.py_buffer(firsts)]))
    return restore(whole, type_, fail, entries)


def alike(before: pa.Array, after: pa.Array) -> bool:
    """Whether values are the same bit for bit: Arrow holds NaNs unequal, so bytes decide where it does."""
    if before.equals(after):
        return True
    type_ = logical.column_type(before.type, "").plain
    return _serialised(plain(before, type_)) == _serialised(plain(after, type_))


def _serialised(array: pa.Array) -> bytes:
    # Taken, so that what lies under nulls and behind slices is alike.
    taken = array.take(pa.array(np.arange(len(array))))
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([taken], ["x"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def is_view(type_: pa.DataType) -> bool:
    """Whether values are strings or binary in views."""
    return bool(type_ == pa.string_view() or type_ == pa.binary_view())


@lru_cache(maxsize=4096)
def _has(kind: Callable[[pa.DataType], bool], type_: pa.DataType) -> bool:
    """Whether some part of a type is of a kind."""
    if pa.types.is_struct(type_):
        return any(_has(kind, type_.field(i).type) for i in range(type_.num_fields))
    if typecode.is_list(type_):
        return _has(kind, type_.value_type)
    return kind(type_)


def list_parts(
    array: pa.Array, to: pa.DataType | None = None
) -> tuple[Mask | None, NDArray[np.int64], pa.Array]:
    """A list array of any kind, sliced or not, as its validity, the items of each row (0 for nulls), and those items.

    Args:
        array: the lists.
        to: plain type to bring the items into before they are gathered, since Arrow gathers no views; None leaves them.
    """
    valid = validity(array) if array.null_count else None
    n, first = len(array), array.offset
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        lengths = np.full(n, size, np.int64)
        starts = np.arange(first, first + n, dtype=np.int64) * size
    else:
        large = pa.types.is_large_list(array.type) or pa.types.is_large_list_view(array.type)
        dtype = np.dtype(np.int64 if large else np.int32)
        buffers = array.buffers()
        starts = _buffer(buffers[1], dtype, first, n)
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            lengths = _buffer(buffers[1], dtype, first + 1, n) - starts
        else:
            lengths = _buffer(buffers[2], dtype, first, n)
        starts, lengths = starts.astype(np.int64), lengths.astype(np.int64)
    views = pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type)
    if valid is None and n and not views:  # rows lie one behind the other
        items = array.values[int(starts[0]) : int(starts[-1] + lengths[-1])]
        return None, lengths, items if to is None else plain(items, to)
    if valid is not None:
        lengths = np.where(valid, lengths, 0)
    some = lengths > 0
    starts, sizes = starts[some], lengths[some]
    lo, hi = (int(starts.min()), int((starts + sizes).max())) if len(sizes) else (0, 0)
    items = array.values[lo:hi]
    items = items if to is None else plain(items, to)
    if (starts - lo != np.cumsum(sizes) - sizes).any():  # they lie apart, or in another order
        at = positions(starts - lo, sizes)
        items = items.take(pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(at)]))
    return valid, lengths, items


def _buffer(buffer: pa.Buffer | None, dtype: np.dtype[Any], first: int, n: int) -> NDArray[Any]:
    if not n or buffer is None:
        return np.zeros(n, dtype)
    return np.frombuffer(buffer, dtype, count=n, offset=first * dtype.itemsize)


def restore(array: pa.Array, type_: pa.DataType, fail: Fail, entries: pa.Array | None = None) -> pa.Array:
    """A plain array in the exact type it was written with.

    Args:
        array: as ``plain`` returned it, or read from pages.
        type_: ``ColumnType.arrow``.
        fail: called with (what, expected, got) if the values cannot be of that type; raises.
        entries: for a dictionary (or a list of one): its values, plain and in their order, which hold at least those
            in ``array``; None numbers them by first appearance.
    """
    if array.type.equals(type_, check_metadata=True):
        return array
    if pa.types.is_struct(type_):
        children = [restore(array.field(i), type_.field(i).type, fail) for i in range(type_.num_fields)]
        return pa.Array.from_buffers(type_, len(array), [_bitmap_of(array)], children=children)
    if typecode.is_list(type_):
        return _restore_list(array, type_, fail, entries)
    if pa.types.is_null(type_):
        if array.null_count != len(array):
            fail("values of type null", 0, len(array) - array.null_count)
        return pa.nulls(len(array))
    if pa.types.is_dictionary(type_):
        return _numbered(array, type_, fail, entries)
    return array.cast(type_)


def _restore_list(array: pa.Array, type_: pa.DataType, fail: Fail, entries: pa.Array | None) -> pa.Array:
    if pa.types.is_list(type_):
        # Only names or items differ.
        items = restore(array.values, type_.value_type, fail, entries)
        return pa.Array.from_buffers(
            type_, len(array), array.buffers()[:2], offset=array.offset, children=[items]
        )
    valid, lengths, items = list_parts(array)
    n = len(array)
    if pa.types.is_fixed_size_list(type_):
        size = type_.list_size
        if not (lengths == (size if valid is None else np.where(valid, size, 0))).all():
            fail("items in a row", size, sorted({*lengths[:n].tolist()} - {size})[:3])
        if valid is not None:
            if not pa.types.is_null(type_.value_type):
                items = _with_room(items, valid, size)
            else:
                items = pa.nulls(n * size, items.type)
        children = [restore(items, type_.value_type, fail, entries)]
        return pa.Array.from_buffers(type_, n, [bitmap(valid)], children=children)
    return list_array(type_, valid, lengths, restore(items, type_.value_type, fail, entries))


def _with_room(items: pa.Array, valid: Mask, size: int) -> pa.Array:
    """Items of fixed-size lists with room for those of null rows, which were not stored."""
    if items.null_count or not pa.types.is_primitive(items.type) or items.type.bit_width < 8:
        return items.take(rows_of(np.repeat(valid, size)))
    dtype = np.dtype(f"u{items.type.bit_width // 8}")
    rows = np.zeros((len(valid), size), dtype)
    rows[valid] = numbers(items, dtype).reshape(np.count_nonzero(valid), size)
    return pa.Array.from_buffers(items.type, rows.size, [None, pa.py_buffer(rows)])


def list_array(
    type_: pa.DataType, valid: Mask | None, lengths: NDArray[np.int64], items: pa.Array
) -> pa.Array:
    """Lists of any kind but fixed-size ones, from their validity, the items of each row (0 for nulls), and those items."""
    large = pa.types.is_large_list(type_) or pa.types.is_large_list_view(type_)
    ends = np.zeros(len(lengths) + 1, np.int64 if large else np.int32)
    np.cumsum(lengths, out=ends[1:])
    buffers = [bitmap(valid), pa.py_buffer(ends)]
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        buffers = [bitmap(valid), pa.py_buffer(ends[:-1]), pa.py_buffer(lengths.astype(ends.dtype))]
    return pa.Array.from_buffers(type_, len(lengths), buffers, children=[items])


def _numbered(array: pa.Array, type_: pa.DataType, fail: Fail, entries: pa.Array | None) -> pa.Array:
    """A dictionary array. Fixed-width values are told apart by their bits, so NaNs and zeros stay what they were."""
    if entries is None:
        encoded = _bits(array).dictionary_encode()
        indices, values = encoded.indices, encoded.dictionary
    else:
        import pyarrow.compute as pc  # a third of Arrow's import, and seldom needed

        indices, values = pc.index_in(_bits(array), value_set=_bits(entries), skip_nulls=True), entries
        if indices.null_count != array.null_count:
            fail("values outside the dictionary", 0, indices.null_count - array.null_count)
    most = 2 ** (type_.index_type.bit_width - pa.types.is_signed_integer(type_.index_type))
    if len(values) > most:
        fail(f"entries of a dictionary by {type_.index_type}", f"at most {most}", len(values))
    values = values.view(array.type) if values.type != array.type else values
    values = values if values.type == type_.value_type else values.cast(type_.value_type)
    return pa.DictionaryArray.from_arrays(
        indices.cast(type_.index_type), values, ordered=type_.ordered, safe=False
    )


def _bits(array: pa.Array) -> pa.Array:
    """Fixed-width values as unsigned integers or fixed binary, which Arrow can hash whatever their type."""
    kinds = (pa.types.is_boolean, pa.types.is_string, pa.types.is_binary, pa.types.is_fixed_size_binary)
    if any(check(array.type) for check in kinds):
        return array
    width = array.type.bit_width
    unsigned = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
    return array.view(unsigned.get(width) or pa.binary(width // 8))


def rows_of(valid: Mask) -> pa.Array:
    """int64[n]: 0, 1, ... where ``valid``, null elsewhere."""
    rows = np.cumsum(valid, dtype=np.int64) - 1
    return pa.Array.from_buffers(pa.int64(), len(valid), [bitmap(valid), pa.py_buffer(np.maximum(rows, 0))])


def _bitmap_of(array: pa.Array) -> pa.Buffer | None:
    return bitmap(validity(array)) if array.null_count else None
