"""Equality of Arrow data bit by bit: NaN payloads and negative zeros count, what lies under a null does not."""

from __future__ import annotations

import pyarrow as pa

_BITS = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}


def same_array(left: pa.Array, right: pa.Array) -> bool:
    """Whether two arrays hold the same bits in the same rows."""
    if left.type != right.type or len(left) != len(right) or not left.is_valid().equals(right.is_valid()):
        return False
    left, right = left.drop_null(), right.drop_null()
    if pa.types.is_list(left.type):
        lengths = left.value_lengths().equals(right.value_lengths())
        return lengths and same_array(left.flatten(), right.flatten())
    if left.type in _BITS:
        left, right = left.view(_BITS[left.type]), right.view(_BITS[right.type])
    return bool(left.equals(right))


def same_table(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables have the same columns, in order, and the same bits."""
    if left.schema != right.schema or left.num_rows != right.num_rows:
        return False
    pairs = zip(left.combine_chunks().columns, right.combine_chunks().columns, strict=True)
    return all(same_array(one_chunk(a), one_chunk(b)) for a, b in pairs)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, also when it has no chunk."""
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])
    )
