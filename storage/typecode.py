"""An Arrow type as a few bytes, for what the fixed columns of a COLUMN row have no room for.

Every type the store holds has a permanent number (``FORMAT.md`` section 7); parameters and children follow it, so a
list of a struct of decimals is some 30 bytes and is parsed without trusting any of them. An Arrow IPC schema would say
the same in ten times the space and only through a parser that was not written for hostile files. Which types are held
at all is decided here too: what has no number is refused by ``UnsupportedType``. How values lie in pages is ``logical``'s.
"""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

from headrace.storage.errors import StorageError, UnsupportedType

NULL, DECIMAL128, DECIMAL256, FIXED_BINARY = 0, 35, 36, 20
LIST, LARGE_LIST, FIXED_LIST, LIST_VIEW, LARGE_LIST_VIEW, STRUCT, DICTIONARY = 37, 38, 39, 45, 46, 40, 42
MAX_NESTING: Final = 16
"""Types within each other; deeper ones are refused when written and when read."""
ITEM: Final = "item"
"""What Arrow calls the items of a list unless told otherwise."""

SIMPLE: Final[dict[int, pa.DataType]] = {
    **{NULL: pa.null(), 1: pa.bool_(), 2: pa.int8(), 3: pa.int16(), 4: pa.int32(), 5: pa.int64()},
    **{6: pa.uint8(), 7: pa.uint16(), 8: pa.uint32(), 9: pa.uint64()},
    **{10: pa.float16(), 11: pa.float32(), 12: pa.float64()},
    **{16: pa.string(), 17: pa.binary(), 18: pa.large_string(), 19: pa.large_binary()},
    **{47: pa.string_view(), 48: pa.binary_view()},
    **{21: pa.date32(), 22: pa.date64()},
    **{23: pa.time32("s"), 24: pa.time32("ms"), 25: pa.time64("us"), 26: pa.time64("ns")},
    **{31: pa.duration("s"), 32: pa.duration("ms"), 33: pa.duration("us"), 34: pa.duration("ns")},
}
"""Types that their number says everything about."""
TIMESTAMP_UNITS: Final = {27: "s", 28: "ms", 29: "us", 30: "ns"}
_DECIMALS: Final = {49: pa.decimal32, 50: pa.decimal64, DECIMAL128: pa.decimal128, DECIMAL256: pa.decimal256}
_LISTS: Final = {
    LIST: (pa.types.is_list, pa.list_),
    LARGE_LIST: (pa.types.is_large_list, pa.large_list),
    LIST_VIEW: (pa.types.is_list_view, pa.list_view),
    LARGE_LIST_VIEW: (pa.types.is_large_list_view, pa.large_list_view),
}
_DECIMAL_CHECKS: Final = {
    49: pa.types.is_decimal32,
    50: pa.types.is_decimal64,
    DECIMAL128: pa.types.is_decimal128,
    DECIMAL256: pa.types.is_decimal256,
}
_NUMBERS: Final = {arrow: number for number, arrow in SIMPLE.items()}
_NULLABLE, _NAMED, _METADATA = 1, 2, 4
_ORDERED = 1


def number(arrow: pa.DataType) -> int | None:
    """The permanent number of a type's kind, without its parameters; None if the store has none."""
    if isinstance(arrow, pa.BaseExtensionType):  # whatever it is stored as; may not even have a hash
        return None
    simple = _NUMBERS.get(arrow)
    if simple is not None:
        return simple
    if pa.types.is_timestamp(arrow):
        return next(found for found, unit in TIMESTAMP_UNITS.items() if unit == arrow.unit)
    for found, check in _DECIMAL_CHECKS.items():
        if check(arrow):
            return found
    for found, (check, _) in _LISTS.items():
        if check(arrow):
            return found
    kinds = {
        FIXED_BINARY: pa.types.is_fixed_size_binary,
        FIXED_LIST: pa.types.is_fixed_size_list,
        STRUCT: pa.types.is_struct,
        DICTIONARY: pa.types.is_dictionary,
    }
    return next((found for found, check in kinds.items() if check(arrow)), None)


def is_list(arrow: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    return number(arrow) in (*_LISTS, FIXED_LIST)


def refuse(arrow: pa.DataType, name: str, depth: int = 0) -> None:
    """Nothing, for a type that the store can hold.

    Raises:
        UnsupportedType: naming the column, its type, and what in it cannot be held.
    """
    found = number(arrow)
    if found is None:
        held = "cannot be held"
    elif depth >= MAX_NESTING:
        held = f"lies more than {MAX_NESTING} types deep"
    elif found == DICTIONARY and not _is_leaf(arrow.value_type):
        held = "is a dictionary of other than plain values"
    elif found == STRUCT and len({arrow.field(i).name for i in range(arrow.num_fields)}) < arrow.num_fields:
        held = "has two fields of one name"
    else:
        children = (
            [arrow.field(i) for i in range(arrow.num_fields)]
            if found == STRUCT
            else [arrow.value_field]
            if is_list(arrow)
            else []
        )
        for child in children:
            refuse(child.type, f"{name}.{child.name}", depth + 1)
        return
    raise UnsupportedType(
        f"column {name!r} has type {arrow}, which {held}; the store holds null, bool, numbers, decimals, dates, times, "
        "timestamps, durations, strings, binary, dictionaries of these, lists and structs: cast it or leave it out"
    )


def refuse_lost_order(arrow: pa.DataType, name: str, depth: int = 0) -> None:
    """Nothing, for a type of which files can keep the order of all ordered dictionaries.

    Raises:
        UnsupportedType: one lies deeper than in the items of a column's lists.
    """
    if pa.types.is_dictionary(arrow) and arrow.ordered and depth > 1:
        raise UnsupportedType(
            f"column {name!r} has an ordered dictionary, {arrow}, within structs or lists of lists, where the order of its "
            "entries would be lost; make it a column, or cast it to an unordered one"
        )
    if pa.types.is_struct(arrow):
        for index in range(arrow.num_fields):
            refuse_lost_order(arrow.field(index).type, name, depth + 2)
    elif is_list(arrow):
        refuse_lost_order(arrow.value_type, name, depth + 1)


def _is_leaf(arrow: pa.DataType) -> bool:
    found = number(arrow)
    return found not in (None, NULL, STRUCT, DICTIONARY, FIXED_LIST, *_LISTS)


def write(arrow: pa.DataType) -> bytes:
    """The description of a type that ``refuse`` lets pass.

    >>> read(write(pa.list_(pa.decimal128(9, 2)))) == pa.list_(pa.decimal128(9, 2))
    True
    """
    found = number(arrow)
    if found is None:
        raise UnsupportedType(f"type {arrow} has no number in the store; ask typecode.refuse first")
    head = bytes([found])
    if found in SIMPLE:
        return head
    if found in TIMESTAMP_UNITS:
        zone = (arrow.tz or "").encode()
        return head + struct.pack("<H", len(zone)) + zone
    if found in _DECIMALS:
        return head + struct.pack("<Bi", arrow.precision, arrow.scale)
    if found == FIXED_BINARY:
        return head + struct.pack("<I", arrow.byte_width)
    if found == DICTIONARY:
        return head + bytes([_ORDERED * arrow.ordered]) + write(arrow.index_type) + write(arrow.value_type)
    if found == STRUCT:
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return head + struct.pack("<I", len(fields)) + b"".join(map(_write_field, fields))
    size = struct.pack("<I", arrow.list_size) if found == FIXED_LIST else b""
    return head + size + _write_field(arrow.value_field)


def _write_field(field: pa.Field) -> bytes:
    name = b"" if field.name == ITEM else field.name.encode()
    pairs = list((field.metadata or {}).items())
    flags = _NULLABLE * field.nullable | _NAMED * (field.name != ITEM) | _METADATA * bool(pairs)
    parts = [bytes([flags])]
    if flags & _NAMED:
        parts += [struct.pack("<H", len(name)), name]
    if pairs:
        parts.append(struct.pack("<H", len(pairs)))
        parts += [struct.pack("<I", len(text)) + text for pair in pairs for text in pair]
    return b"".join([*parts, write(field.type)])


class BadDescription(StorageError, ValueError):
    """The bytes describe no type that this reader knows."""


def read(data: bytes) -> pa.DataType:
    """The reverse of ``write``.

    Raises:
        BadDescription: cut short, too long, too deep, or with a number or parameter that no type has.
    """
    reader = _Reader(data)
    found = reader.type(0)
    if reader.at != len(data):
        raise BadDescription(f"expected {reader.at} bytes, got {len(data)}")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, n: int) -> bytes:
        part = self.data[self.at : self.at + n]
        if len(part) != n:
            raise BadDescription(f"expected {n} bytes at {self.at}, got {len(part)}")
        self.at += n
        return part

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def text(self) -> str:
        (length,) = self.unpack("<H")
        try:
            return self.bytes(length).decode()
        except UnicodeDecodeError as error:
            raise BadDescription(f"expected UTF-8 at {self.at}, got {error.reason}") from error

    def type(self, depth: int) -> pa.DataType:
        if depth > MAX_NESTING:
            raise BadDescription(f"expected at most {MAX_NESTING} types within each other, got more")
        (found,) = self.bytes(1)
        if found in SIMPLE:
            return SIMPLE[found]
        if found in TIMESTAMP_UNITS:
            return pa.timestamp(TIMESTAMP_UNITS[found], self.text() or None)
        try:
            return self._composed(found, depth)
        except BadDescription:
            raise
        except ValueError as error:  # a precision or width that Arrow does not know
            raise BadDescription(f"expected the parameters of type {found}, got {error}") from error

    def _composed(self, found: int, depth: int) -> pa.DataType:
        if found in _DECIMALS:
            precision, scale = self.unpack("<Bi")
            return _DECIMALS[found](precision, scale)
        if found == FIXED_BINARY:
            return pa.binary(self._size())
        if found == DICTIONARY:
            (flags,) = self.bytes(1)
            index, value = self.type(MAX_NESTING), self.type(MAX_NESTING)
            if flags > _ORDERED or not pa.types.is_integer(index) or not _is_leaf(value):
                raise BadDescription(
                    f"expected a dictionary of plain values by integers, got {index} of {value}, flags {flags}"
                )
            return pa.dictionary(index, value, bool(flags))
        if found == STRUCT:
            (n,) = self.unpack("<I")
            if n > len(self.data):
                raise BadDescription(f"expected at most {len(self.data)} fields, got {n}")
            fields = [self.field(depth) for _ in range(n)]
            if len({field.name for field in fields}) < n:
                raise BadDescription("expected fields of different names, got one twice")
            return pa.struct(fields)
        if found == FIXED_LIST:
            size = self._size()
            return pa.list_(self.field(depth), size)
        if found in _LISTS:
            return _LISTS[found][1](self.field(depth))
        raise BadDescription(f"type number {found} is not known to this reader")

    def _size(self) -> int:
        (size,) = self.unpack("<I")
        if size > 2**31 - 1:
            raise BadDescription(f"expected a size below 2 GiB, got {size}")
        return size

    def field(self, depth: int) -> pa.Field:
        (flags,) = self.bytes(1)
        if flags > _NULLABLE | _NAMED | _METADATA:
            raise BadDescription(f"field flags {flags} are not known to this reader")
        name = self.text() if flags & _NAMED else ITEM
        metadata: dict[bytes, bytes] = {}
        if flags & _METADATA:
            (n,) = self.unpack("<H")
            for _ in range(n):
                key = self.bytes(self.unpack("<I")[0])
                metadata[key] = self.bytes(self.unpack("<I")[0])
        return pa.field(name, self.type(depth + 1), bool(flags & _NULLABLE), metadata or None)
