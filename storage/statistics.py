"""What a page's values lie between, as a row of STATS: written with the page, read only to leave pages out.

    offset  bytes
    0       8      smallest value
    8       8      largest value
    16      4      u32 nulls
    20      4      u32 flags: 1 smallest and largest are there, 2 some value is NaN
    24      8      zero

Integers, booleans, dates and times are 64-bit integers, two's complement where the type is signed; floats are float64, NaN
left aside; of strings and binary it is the first eight bytes, the first one highest, zeros behind a shorter one. A page
whose values are all null or NaN, or of another type (lists, decimals), has no bounds. Sections and their place are
``FORMAT.md`` 5.8; a personal column has no rows here, since bounds are values of somebody.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage import arrays
from headrace.storage.logical import BYTES, ColumnType, Leaf

_ROW = struct.Struct("<8s8sII8x")
ROW_BYTES = _ROW.size
BOUNDED, SOME_NAN = 1, 2
_PREFIX_BYTES = 8
Bound = int | float | bytes


@dataclass(frozen=True, slots=True)
class PageStatistics:
    """One row: bounds of the values that are neither null nor NaN, or None if there are none or they are not kept."""

    low: Bound | None
    high: Bound | None
    nulls: int
    some_nan: bool


def of_page(array: pa.Array, type_: ColumnType) -> bytes:
    """The row of STATS for a page.

    Args:
        array: its rows, in the type's plain form.
        type_: the column's.

    >>> from headrace.storage.logical import column_type
    >>> row = of_page(pa.array([3, None, -1]), column_type(pa.int64(), "x"))
    >>> unpack(row, column_type(pa.int64(), "x"))
    [PageStatistics(low=-1, high=3, nulls=1, some_nan=False)]
    """
    found, some_nan = None, False
    leaf, nulls = type_.leaf, array.null_count
    if not (type_.is_list or type_.is_nested) and nulls < len(array):
        present = array.drop_null() if nulls else array
        if leaf.dtype is None:
            found = _text_bounds(present, leaf)
        elif leaf.dtype.kind == "f":
            found, some_nan = _float_bounds(arrays.numbers(present, leaf.dtype))
        else:
            values = arrays.numbers(present, leaf.dtype)
            form = "<q" if leaf.dtype.kind == "i" else "<Q"
            found = struct.pack(form, int(values.min())), struct.pack(form, int(values.max()))
    flags = BOUNDED * (found is not None) | SOME_NAN * some_nan
    low, high = found if found is not None else (bytes(8), bytes(8))
    return _ROW.pack(low, high, nulls, flags)


def _float_bounds(values: Any) -> tuple[tuple[bytes, bytes] | None, bool]:
    nan = np.isnan(values)
    some_nan = bool(nan.any())
    if some_nan:
        values = values[~nan]
    if not len(values):
        return None, some_nan
    return (struct.pack("<d", float(values.min())), struct.pack("<d", float(values.max()))), some_nan


def _text_bounds(present: pa.Array, leaf: Leaf) -> tuple[bytes, bytes] | None:
    if leaf.storage != BYTES:
        return None
    import pyarrow.compute as pc  # by writers of strings alone: a third of Arrow's import

    found = pc.min_max(present.view(pa.binary()) if present.type != pa.binary() else present)
    low, high = (bytes(found[name].as_buffer())[:_PREFIX_BYTES] for name in ("min", "max"))
    return low.ljust(_PREFIX_BYTES, b"\0"), high.ljust(_PREFIX_BYTES, b"\0")


def unpack(data: bytes, type_: ColumnType) -> list[PageStatistics]:
    """Rows of STATS, one per page."""
    return [_unpacked(low, high, nulls, flags, type_) for low, high, nulls, flags in _ROW.iter_unpack(data)]


def _unpacked(low: bytes, high: bytes, nulls: int, flags: int, type_: ColumnType) -> PageStatistics:
    some_nan, leaf = bool(flags & SOME_NAN), type_.leaf
    if not flags & BOUNDED or type_.is_list or type_.is_nested:
        return PageStatistics(None, None, nulls, some_nan)
    if leaf.dtype is None:
        if leaf.storage != BYTES:
            return PageStatistics(None, None, nulls, some_nan)
        return PageStatistics(low, high, nulls, some_nan)
    form = {"f": "<d", "i": "<q"}.get(leaf.dtype.kind, "<Q")
    return PageStatistics(struct.unpack(form, low)[0], struct.unpack(form, high)[0], nulls, some_nan)


def may_match(page: PageStatistics, n_rows: int, op: str, bounds: Bounds | None) -> bool:
    """Whether some row of a page may satisfy ``column op value``; True where nothing is known.

    Args:
        page: its statistics.
        n_rows: its rows.
        op: ``==`` ``!=`` ``<`` ``<=`` ``>`` ``>=`` or ``in``.
        bounds: from ``bounds_of``; None if the value cannot be compared with statistics.
    """
    if bounds is None:
        return True
    if page.low is None or page.high is None:
        # No row compares as true with a null; NaN differs from every value.
        return page.nulls < n_rows
    low, high = page.low, page.high
    if isinstance(low, bytes):
        # The true largest value may go on behind its first eight bytes, and so may the value asked for.
        bounds = Bounds([(_cut(a), _cut(b)) for a, b in bounds.values], exact=False)
    match op:
        case "==" | "in":
            return any(low <= b and a <= high for a, b in bounds.values)
        case "<" | "<=":
            return any(low < b or ((op == "<=" or not bounds.exact) and low == b) for _, b in bounds.values)
        case ">" | ">=":
            return any(high > a or ((op == ">=" or not bounds.exact) and high == a) for a, _ in bounds.values)
        case "!=":
            only = [a == b == low == high for a, b in bounds.values]
            return page.some_nan or not bounds.exact or not all(only)
    return True


@dataclass(frozen=True, slots=True)
class Bounds:
    """Values a filter asks for, each as the least and the greatest that it may stand for."""

    values: list[tuple[Any, Any]]
    exact: bool
    """Whether each is one value, the same in the filter and in a page."""


def _cut(value: bytes) -> bytes:
    return value[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0")


def bounds_of(values: Iterable[Any], type_: ColumnType) -> Bounds | None:
    """The values of a condition in the form of statistics, or None where they cannot be compared safely."""
    leaf = type_.leaf
    if type_.is_list or type_.is_nested or type_.dictionary is not None:
        return None
    found = []
    for value in values:
        one = value.as_py() if isinstance(value, pa.Scalar) else value
        pair = _pair(one, leaf)
        if pair is None:
            return None
        found.append(pair)
    return Bounds(found, all(a == b for a, b in found)) if found else None


def _pair(value: Any, leaf: Leaf) -> tuple[Any, Any] | None:
    if value is None:
        return None
    if leaf.dtype is None:
        if leaf.storage != BYTES or not isinstance(value, str | bytes):
            return None
        raw = value.encode() if isinstance(value, str) else value
        return raw, raw
    if leaf.dtype.kind == "f":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return None
        # A narrow column may be compared in its own precision or in the literal's.
        with np.errstate(over="ignore"):
            narrow = float(leaf.dtype.type(value))
        return min(value, narrow), max(value, narrow)
    if leaf.dtype.kind == "b":
        return (int(value), int(value)) if isinstance(value, bool) else None
    if pa.types.is_integer(leaf.arrow):
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else None
    try:
        scalar = pa.scalar(value, leaf.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None
    number = getattr(scalar, "value", None)
    return (number, number) if isinstance(number, int) else None
