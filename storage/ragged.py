"""Arrow columns as the numpy arrays that tensors are made of: numbers, rows of k numbers, or lists as views.

Between reading and ``storage.torch``: a window of rows is converted once, then permuted, cut and joined without moving
the items of lists. Buffers are taken as they are where nothing has to be filled in. Nothing is cast: what has no dtype
of its own here is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage.arrays import positions, validity
from headrace.storage.errors import SchemaMismatch, UnsupportedType

Rows: TypeAlias = "NDArray[np.int64] | slice"


@dataclass(frozen=True)
class Plain:
    """A column of numbers, [n], or of fixed-size lists, [n, k]."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def at(self, rows: Rows) -> Plain:
        """Some rows of it; a slice shares memory."""
        return Plain(self.values[rows])


@dataclass(frozen=True)
class Ragged:
    """A column of lists: row i is ``values[offsets[i]:][:sizes[i]]``. Rows may share items and leave some out.

    ``offsets`` and ``sizes`` are int64[n].
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    def at(self, rows: Rows) -> Ragged:
        """Some rows of it, with the same ``values``."""
        return Ragged(self.values, self.offsets[rows], self.sizes[rows])

    def compact(self) -> Ragged:
        """The same lists with items of their own, one list after the other."""
        at = positions(self.offsets, self.sizes)
        return Ragged(self.values[at], np.cumsum(self.sizes) - self.sizes, self.sizes)


Column: TypeAlias = "Plain | Ragged"


def joined(parts: Sequence[Column]) -> Column:
    """Columns one after the other; items that a list column does not use stay behind."""
    if len(parts) == 1:
        return parts[0]
    plain = [part.values for part in parts if isinstance(part, Plain)]
    if len(plain) == len(parts):
        return Plain(np.concatenate(plain))
    lists = [_trimmed(part) for part in parts if isinstance(part, Ragged)]
    before = np.cumsum([0, *(len(part.values) for part in lists[:-1])], dtype=np.int64)
    return Ragged(
        np.concatenate([part.values for part in lists]),
        np.concatenate([part.offsets + shift for part, shift in zip(lists, before, strict=True)]),
        np.concatenate([part.sizes for part in lists]),
    )


def _trimmed(lists: Ragged) -> Ragged:
    """The same lists over the part of ``values`` between the first and the last item that some row has."""
    full = lists.sizes > 0
    if not full.any():
        return Ragged(lists.values[:0], np.zeros_like(lists.offsets), lists.sizes)
    first = int(lists.offsets[full].min())
    last = int((lists.offsets + lists.sizes)[full].max())
    return Ragged(lists.values[first:last], np.where(full, lists.offsets - first, 0), lists.sizes)


def refusal(type_: pa.DataType) -> str | None:
    """Why a column of this type cannot be tensors; None if it can."""
    if _is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    if _dtype(type_) is not None:
        return None
    if _is_list(type_) or pa.types.is_fixed_size_list(type_):
        return "lists of lists are not jagged tensors; flatten them when writing"
    if pa.types.is_dictionary(type_) or _is_text(type_):
        return "strings are no numbers; store ids, or leave the column out"
    return "it is not a number; leave the column out"


def from_arrow(array: pa.Array, name: str, fill: float | None = None) -> Column:
    """A column of numbers or lists of numbers, without a copy where there are no nulls and no booleans.

    Args:
        array: the column; timestamps, dates, times and durations become the integers they are stored as.
        name: for messages.
        fill: what nulls become. A null list has size 0 and needs none.

    Raises:
        UnsupportedType: what it holds are not numbers.
        SchemaMismatch: it has nulls, and there is nothing to fill them with.

    >>> lists = from_arrow(pa.array([[7, 8], None, [9]]), "clicks")
    >>> lists.sizes.tolist(), lists.values.tolist()
    ([2, 0, 1], [7, 8, 9])
    """
    type_ = array.type
    if (why := refusal(type_)) is not None:
        raise UnsupportedType(f"column {name!r} is {type_}: {why}")
    if pa.types.is_fixed_size_list(type_):
        width = type_.list_size
        items = array.values.slice(array.offset * width, len(array) * width)
        rows = np.repeat(validity(array), width) if array.null_count else None
        return Plain(_numbers(items, name, fill, rows).reshape(len(array), width))
    if not _is_list(type_):
        return Plain(_numbers(array, name, fill))
    wide = pa.types.is_large_list(type_) or pa.types.is_large_list_view(type_)
    width = np.dtype(np.int64 if wide else np.int32)
    n, shift = len(array), array.offset * width.itemsize
    buffers = array.buffers()
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        offsets = _view(buffers[1], width, n, shift).astype(np.int64)
        sizes = _view(buffers[2], width, n, shift).astype(np.int64)
    else:
        bounds = _view(buffers[1], width, n + 1, shift).astype(np.int64)
        offsets, sizes = bounds[:-1], np.diff(bounds)
    if array.null_count:
        sizes = np.where(validity(array), sizes, 0)
    return Ragged(_numbers(array.values, name, fill), offsets, sizes)


def _numbers(
    array: pa.Array, name: str, fill: float | None, counted: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Values of a leaf, with nulls and those that are not ``counted`` filled."""
    dtype = _dtype(array.type)
    assert dtype is not None, array.type
    if dtype.kind == "b":
        found = _view(array.cast(pa.uint8()).buffers()[1], dtype, len(array), 0)
    else:
        found = _view(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
    valid = validity(array) if array.null_count else None
    if counted is not None:
        valid = counted if valid is None else valid & counted
    if valid is None:
        return found
    if fill is None:
        raise SchemaMismatch(
            f"column {name!r} has {np.count_nonzero(~valid)} nulls where tensors need numbers; give "
            f"fill={{{name!r}: ...}} or leave the column out"
        )
    if dtype.kind != "f" and int(fill) != fill:  # int() of NaN or infinity raises as well
        raise ValueError(f"expected a whole number to fill column {name!r} of {array.type} with, got {fill}")
    return np.where(valid, found, np.array(fill, dtype))


def _view(buffer: pa.Buffer | None, dtype: np.dtype[Any], n: int, offset_bytes: int) -> NDArray[Any]:
    if not n or buffer is None or not buffer.size:
        return np.zeros(n, dtype)
    return np.frombuffer(buffer, dtype, count=n, offset=offset_bytes)


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_list_view(type_)
        or pa.types.is_large_list_view(type_)
    )


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_binary_view(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _dtype(type_: pa.DataType) -> np.dtype[Any] | None:
    if pa.types.is_boolean(type_):
        return np.dtype(np.bool_)
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        kind = "f" if pa.types.is_floating(type_) else "u" if pa.types.is_unsigned_integer(type_) else "i"
        return np.dtype(f"{kind}{type_.bit_width // 8}")
    if pa.types.is_temporal(type_) and type_ != pa.month_day_nano_interval():
        return np.dtype(f"i{type_.bit_width // 8}")
    return None
