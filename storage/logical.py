"""Column types: permanent numbers of logical and physical types, and their match in Arrow and numpy.

``FORMAT.md`` section 7 lists every number, also those no writer uses yet; numbers are never reused. Arrow's large and
view variants are the same logical type as the plain one, dictionary-encoded input is the type of its values: both
come back plain. What is not listed here (structs, nested lists, decimals, ...) is refused with ``UnsupportedType``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage.errors import UnsupportedType

LIST = 37
BOOL = 1

# logical id, storage id, Arrow type, numpy dtype the encodings see
_FIXED: tuple[tuple[int, int, pa.DataType, str], ...] = (
    (1, 1, pa.bool_(), "?"),
    (2, 2, pa.int8(), "i1"),
    (3, 3, pa.int16(), "i2"),
    (4, 4, pa.int32(), "i4"),
    (5, 5, pa.int64(), "i8"),
    (6, 6, pa.uint8(), "u1"),
    (7, 7, pa.uint16(), "u2"),
    (8, 8, pa.uint32(), "u4"),
    (9, 9, pa.uint64(), "u8"),
    (11, 11, pa.float32(), "f4"),
    (12, 12, pa.float64(), "f8"),
    (21, 4, pa.date32(), "i4"),
)
_TIMESTAMP_UNITS = {27: "s", 28: "ms", 29: "us", 30: "ns"}
_VARIABLE = {16: pa.string(), 17: pa.binary()}
_BYTES_STORAGE = 16
_LIST_STORAGE = 0
_BY_LOGICAL = {row[0]: row for row in _FIXED}
_BY_ARROW = {row[2]: row for row in _FIXED}


@dataclass(frozen=True)
class Leaf:
    """A type without children: numbers, booleans, times, strings.

    ``dtype`` is the numpy dtype of its values stream, or None for strings and binary,
    which are stored as lengths and bytes.
    """

    logical: int
    storage: int
    arrow: pa.DataType
    dtype: np.dtype[Any] | None


@dataclass(frozen=True)
class ColumnType:
    """A column's type: a leaf, or a list of one leaf type when ``is_list``."""

    leaf: Leaf
    is_list: bool

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type handed to readers."""
        return pa.list_(self.leaf.arrow) if self.is_list else self.leaf.arrow

    @property
    def logical(self) -> int:
        """The logical type number of the column itself."""
        return LIST if self.is_list else self.leaf.logical

    @property
    def storage(self) -> int:
        """The storage type number of the column itself; 0 for a list, whose items carry it."""
        return _LIST_STORAGE if self.is_list else self.leaf.storage

    @property
    def timezone(self) -> str:
        """Time zone of a timestamp, or the empty string."""
        arrow = self.leaf.arrow
        return (arrow.tz or "") if pa.types.is_timestamp(arrow) else ""


def _leaf(arrow: pa.DataType) -> Leaf | None:
    row = _BY_ARROW.get(arrow)
    if row is not None:
        return Leaf(row[0], row[1], row[2], np.dtype(row[3]))
    if pa.types.is_timestamp(arrow):
        logical = next(number for number, unit in _TIMESTAMP_UNITS.items() if unit == arrow.unit)
        return Leaf(logical, 5, arrow, np.dtype("i8"))
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or arrow == pa.string_view():
        return Leaf(16, _BYTES_STORAGE, pa.string(), None)
    if pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow) or arrow == pa.binary_view():
        return Leaf(17, _BYTES_STORAGE, pa.binary(), None)
    return None


def column_type(arrow: pa.DataType, name: str) -> ColumnType:
    """The stored type of an Arrow type.

    Raises:
        UnsupportedType: naming the column, when the store has no way to hold it.
    """
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    is_list = (
        pa.types.is_list(arrow)
        or pa.types.is_large_list(arrow)
        or pa.types.is_list_view(arrow)
        or pa.types.is_large_list_view(arrow)
    )
    leaf = _leaf(arrow.value_type if is_list else arrow)
    if leaf is None:
        raise UnsupportedType(
            f"column {name!r} has type {arrow}, which the store cannot hold; it holds bool, integers, float32, float64, "
            "string, binary, date32, timestamp and lists of these: cast the column or leave it out"
        )
    return ColumnType(leaf, is_list)


def from_ids(logical: int, item_logical: int, timezone: str) -> ColumnType | None:
    """The type written under these numbers, or None if this reader does not know them."""
    is_list = logical == LIST
    number = item_logical if is_list else logical
    if number in _BY_LOGICAL:
        _, storage, arrow, dtype = _BY_LOGICAL[number]
        return ColumnType(Leaf(number, storage, arrow, np.dtype(dtype)), is_list)
    if number in _TIMESTAMP_UNITS:
        arrow = pa.timestamp(_TIMESTAMP_UNITS[number], timezone or None)
        return ColumnType(Leaf(number, 5, arrow, np.dtype("i8")), is_list)
    if number in _VARIABLE:
        return ColumnType(Leaf(number, _BYTES_STORAGE, _VARIABLE[number], None), is_list)
    return None


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` as readers will see it: plain types, no metadata, nullability kept.

    Raises:
        UnsupportedType: for a type the store cannot hold, or for two columns of one name.
    """
    names = schema.names
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnsupportedType(f"column names must be unique, these come twice: {twice}; rename them")
    return pa.schema(
        [pa.field(field.name, column_type(field.type, field.name).arrow, field.nullable) for field in schema]
    )
