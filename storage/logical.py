"""Column types: how each Arrow type lies in pages, and which flat columns a nested one is cut into.

A column keeps the exact Arrow type it was written with (``ColumnType.arrow``) and is stored in a plain form
(``ColumnType.plain``) that pages know: a leaf, or a list of one leaf. Large, view and dictionary types are stored like
their plain ones; ``arrays.restore`` makes them again. Structs and lists of other than leaves have ``children``, columns
of their own (``nested_columns``). Numbers of types are permanent and listed in ``FORMAT.md`` section 7 and
``typecode``; what has none is refused with ``UnsupportedType``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage import typecode
from headrace.storage.errors import UnsupportedType
from headrace.storage.typecode import DECIMAL128, LIST, NULL, STRUCT

BOOL = 1
WORDS, BYTES, FIXED_BYTES = 20, 16, 17
"""Storage types without a single numpy dtype: low and high word, lengths and bytes, bytes of one width."""

_DTYPES = {
    **{
        1: "?",
        2: "i1",
        3: "i2",
        4: "i4",
        5: "i8",
        6: "u1",
        7: "u2",
        8: "u4",
        9: "u8",
        10: "f2",
        11: "f4",
        12: "f8",
    },
}
# Logical number to storage number, where they differ.
_STORAGE = {
    **{
        NULL: 0,
        21: 4,
        22: 5,
        23: 4,
        24: 4,
        25: 5,
        26: 5,
        27: 5,
        28: 5,
        29: 5,
        30: 5,
        31: 5,
        32: 5,
        33: 5,
        34: 5,
    },
    **{16: BYTES, 17: BYTES, 18: BYTES, 19: BYTES, 47: BYTES, 48: BYTES},
    **{49: 4, 50: 5, DECIMAL128: WORDS, typecode.DECIMAL256: FIXED_BYTES, typecode.FIXED_BINARY: FIXED_BYTES},
}
_TEXT = {18: pa.string(), 47: pa.string(), 19: pa.binary(), 48: pa.binary()}
# Parameterless leaves and default lists of them, which the fixed fields of a COLUMN row describe fully.
_LISTS_IN_ROW = {
    LIST: pa.list_,
    typecode.LARGE_LIST: pa.large_list,
    typecode.LIST_VIEW: pa.list_view,
    typecode.LARGE_LIST_VIEW: pa.large_list_view,
}


@dataclass(frozen=True)
class Leaf:
    """A type without children, as pages hold it.

    ``arrow`` is the plain Arrow type, ``dtype`` the numpy dtype of its values stream. Without a dtype it is stored as
    lengths and bytes (strings, binary), as ``width`` bytes a value (fixed binary, decimal256), or, if ``words``, as a
    stream of low u64 and one of high i64 words (decimal128).
    """

    logical: int
    storage: int
    arrow: pa.DataType
    dtype: np.dtype[Any] | None
    width: int = 0

    @property
    def words(self) -> bool:
        """Whether a value is two words."""
        return self.storage == WORDS

    @property
    def fixed_bytes(self) -> bool:
        """Whether a value is ``width`` bytes, which may be none."""
        return self.storage == FIXED_BYTES


@dataclass(frozen=True)
class ColumnType:
    """A column's type: a leaf, a list of one leaf type when ``is_list``, or a nested type with ``children``.

    The column of a struct has one u8, of no meaning, per row that is not null; that of a list of other than leaves the
    number of items as u32; ``leaf`` says so, and everything else is in the children.
    """

    leaf: Leaf
    is_list: bool
    arrow: pa.DataType
    """The exact type rows come in and go out as."""
    children: tuple[ColumnType, ...] = ()

    @property
    def is_nested(self) -> bool:
        """Whether the values lie in columns of their own; a struct's does even if it has no fields."""
        return bool(self.children) or bool(pa.types.is_struct(self.arrow))

    @cached_property
    def plain(self) -> pa.DataType:
        """The Arrow type of the arrays that pages are made from and read into; nested for a nested type."""
        if not self.is_nested:
            return pa.list_(self.leaf.arrow) if self.is_list else self.leaf.arrow
        if not pa.types.is_struct(self.arrow):
            return pa.list_(self.children[0].plain)
        return pa.struct([(self.arrow.field(i).name, child.plain) for i, child in enumerate(self.children)])

    @property
    def logical(self) -> int:
        """The logical type number of the column itself."""
        number = _number(self.arrow)
        if number is None:
            raise UnsupportedType(f"type {self.arrow} has no number in the store")
        return number

    @property
    def storage(self) -> int:
        """The storage type number of the column itself; 0 for a list of leaves, whose items carry it."""
        return 0 if self.is_list else self.leaf.storage

    @property
    def item_logical(self) -> int:
        """The logical type number of the items of a list of leaves; else 0."""
        return (_number(self.arrow.value_type) or 0) if self.is_list else 0

    @property
    def item_storage(self) -> int:
        """The storage type number of the items of a list of leaves; else 0."""
        return self.leaf.storage if self.is_list else 0

    @property
    def size(self) -> int | None:
        """Items of every row of a fixed-size list, whose pages hold no lengths; else None."""
        return int(self.arrow.list_size) if pa.types.is_fixed_size_list(self.arrow) else None

    @property
    def timezone(self) -> str:
        """Time zone of a timestamp or of a list's timestamps, or the empty string."""
        arrow = self.leaf.arrow
        return (arrow.tz or "") if pa.types.is_timestamp(arrow) else ""

    @cached_property
    def null_bytes(self) -> int:
        """Bytes that a null takes in Arrow memory: fixed-size lists hold all of its items, and so do structs of them."""
        return _null_bytes(self.arrow)

    @cached_property
    def is_exact(self) -> bool:
        """Whether the plain form is already what readers get."""
        return bool(self.arrow.equals(self.plain, check_metadata=True))

    @property
    def is_ordered(self) -> bool:
        """Whether its values, or a list's items, are a dictionary whose entries keep their order."""
        return self.dictionary is not None and bool(self.dictionary.ordered)

    @property
    def dictionary(self) -> pa.DataType | None:
        """The dictionary type of the column's values or of a list's items, or None."""
        arrow = self.arrow.value_type if self.is_list else self.arrow
        return arrow if pa.types.is_dictionary(arrow) else None


def _null_bytes(arrow: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(arrow):
        return int(arrow.list_size) * _null_bytes(arrow.value_type)
    if pa.types.is_struct(arrow):
        return sum(_null_bytes(arrow.field(i).type) for i in range(arrow.num_fields))
    if pa.types.is_fixed_size_binary(arrow):
        return int(arrow.byte_width)
    leaf = _leaf(arrow)
    return 8 if leaf is None or leaf.dtype is None else leaf.dtype.itemsize


def _leaf(arrow: pa.DataType) -> Leaf | None:
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    number = typecode.number(arrow)
    if number is None or number == STRUCT or typecode.is_list(arrow):
        return None
    storage = _STORAGE.get(number, number)
    if storage == FIXED_BYTES:
        return Leaf(number, storage, arrow, None, arrow.byte_width)
    if storage in (BYTES, WORDS):
        return Leaf(number, storage, _TEXT.get(number, arrow), None)
    if number == NULL:
        # Stored as a column whose rows are all null, of a type that can be cut and joined like any other.
        return Leaf(number, storage, pa.uint8(), np.dtype("u1"))
    return Leaf(number, storage, arrow, np.dtype(_DTYPES[storage]))


_number = lru_cache(maxsize=4096)(typecode.number)
_PRESENT = Leaf(6, 6, pa.uint8(), np.dtype("u1"))
_COUNT = Leaf(8, 8, pa.uint32(), np.dtype("u4"))


def column_type(arrow: pa.DataType, name: str) -> ColumnType:
    """The stored type of an Arrow type.

    Raises:
        UnsupportedType: naming the column and the type, when the store has no way to hold it.
    """
    if isinstance(arrow, pa.BaseExtensionType) or not _is_held(arrow):
        typecode.refuse(arrow, name)
    return _column_type(arrow)


# Arrow takes types for equal whose lists name their items differently, so only what does not depend on names is kept.
@lru_cache(maxsize=4096)
def _is_held(arrow: pa.DataType) -> bool:
    try:
        typecode.refuse(arrow, "")
    except UnsupportedType:
        return False
    return True


@lru_cache(maxsize=4096)
def _flat(arrow: pa.DataType) -> tuple[Leaf, bool] | None:
    """How a leaf or a list of leaves is stored; None for nested types."""
    leaf = _leaf(arrow)
    if leaf is not None or not typecode.is_list(arrow):
        return None if leaf is None else (leaf, False)
    item = _leaf(arrow.value_type)
    return None if item is None else (item, True)


def _column_type(arrow: pa.DataType) -> ColumnType:
    flat = _flat(arrow)
    if flat is not None:
        return ColumnType(*flat, arrow)
    if pa.types.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return ColumnType(_PRESENT, False, arrow, tuple(_column_type(field.type) for field in fields))
    own = _PRESENT if pa.types.is_fixed_size_list(arrow) else _COUNT
    return ColumnType(own, False, arrow, (_column_type(arrow.value_type),))


@lru_cache(maxsize=4096)
def from_ids(logical: int, item_logical: int, timezone: str) -> ColumnType | None:
    """The type written under these numbers alone, or None if this reader does not know them."""
    number = item_logical if logical in _LISTS_IN_ROW else logical
    if number in typecode.SIMPLE:
        arrow = typecode.SIMPLE[number]
    elif number in typecode.TIMESTAMP_UNITS:
        arrow = pa.timestamp(typecode.TIMESTAMP_UNITS[number], timezone or None)
    else:
        return None
    return _column_type(_LISTS_IN_ROW[logical](arrow) if logical in _LISTS_IN_ROW else arrow)


def description(type_: ColumnType) -> bytes:
    """What a COLUMN row needs beyond its numbers and time zone to tell the exact type; empty for most types."""
    alone = from_ids(type_.logical, type_.item_logical, type_.timezone)
    if alone is not None and alone.arrow.equals(type_.arrow, check_metadata=True):
        return b""
    return typecode.write(type_.arrow)


def from_description(data: bytes) -> ColumnType | None:
    """The type that ``description`` wrote, or None if this reader does not know it."""
    try:
        return _column_type(typecode.read(data))
    except typecode.BadDescription:
        return None


def shape(arrow: pa.DataType) -> pa.DataType:
    """What two types must agree in to hold the same values: plain leaves, one kind of list, struct fields by name.

    >>> shape(pa.large_list(pa.dictionary(pa.int8(), pa.string_view()))) == pa.list_(pa.string())
    True
    """
    return arrow if isinstance(arrow, pa.BaseExtensionType) else _shape(arrow)


@lru_cache(maxsize=4096)
def _shape(arrow: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(arrow):
        return pa.struct([(arrow.field(i).name, shape(arrow.field(i).type)) for i in range(arrow.num_fields)])
    if pa.types.is_fixed_size_list(arrow):
        return pa.list_(shape(arrow.value_type), arrow.list_size)
    if typecode.is_list(arrow):
        return pa.list_(shape(arrow.value_type))
    leaf = _leaf(arrow)
    return arrow if leaf is None or leaf.logical == NULL else leaf.arrow


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` as readers will see it: exact types, no metadata of columns, nullability kept.

    Raises:
        UnsupportedType: for a type the store cannot hold as it is, or for two columns of one name.
    """
    names = schema.names
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnsupportedType(f"column names must be unique, these come twice: {twice}; rename them")
    for field in schema:
        column_type(field.type, field.name)
        typecode.refuse_lost_order(field.type, field.name)
    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in schema])
