"""Columns of text, or of another type, onto the types of a contract, one verdict per value.

Used by `replay` and its layouts. What cannot be mapped is marked, not dropped and not raised: such a row is sent
with the text as it stands, and the gate names the reason.

Not here: the contract's rules; a value is mapped when its type can hold it, whatever it says.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.streaming.errors import StreamingError

Mask = NDArray[np.bool_]


class UnmappableColumn(StreamingError, TypeError):
    """A source column of a type that has nothing to do with the contract's."""


def map_column(column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Mask]:
    """The column in the wanted type, and which values could not be mapped (those are null).

    Text becomes a number, a bool (true, false, 1, 0), a timestamp (ISO 8601, UTC unless it says otherwise, or Unix
    seconds) or a list (its items between `|`). An empty text is a missing value. Numbers become timestamps as Unix
    seconds. NaN and infinities cannot be mapped: no event can carry them.

    Args:
        column: n values.
        wanted: a type that contracts know.

    Returns:
        The array of n values, and bool[n], true where a value was there and could not be mapped.

    Raises:
        UnmappableColumn: the types are worlds apart, such as a list and a number.

    >>> values, bad = map_column(pa.array(["1", "x", None]), pa.int64())
    >>> values.to_pylist(), bad.tolist()
    ([1, None, None], [False, True, False])
    """
    if pa.types.is_binary(column.type):
        column = text(column)
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        if pa.types.is_list(wanted):
            column = pc.split_pattern(column, "|")
    elif pa.types.is_timestamp(wanted) and _is_number(column.type):
        column = _from_unix(column.cast(pa.float64()))
    try:
        mapped = _cast(column, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        mapped = _cast_each(column, wanted)
    if pa.types.is_floating(wanted):
        finite = pc.fill_null(pc.is_finite(mapped), False)
        mapped = pc.if_else(finite, mapped, pa.scalar(None, wanted))
    bad = pc.and_(column.is_valid(), mapped.is_null()).to_numpy(zero_copy_only=False)
    return mapped, bad


def text(column: pa.Array) -> pa.Array:
    """n strings for n values of bytes; what is no UTF-8 is kept with replacement characters."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(
            [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()],
            pa.string(),
        )


def _cast(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_string(column.type) and pa.types.is_timestamp(wanted):
        try:
            return _from_unix(column.cast(pa.float64()))
        except pa.ArrowInvalid:
            return column.cast(wanted)
    return column.cast(wanted)


def _cast_each(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Value by value: slow, and only taken for columns in which at least one value does not fit."""
    if not pa.types.is_list(column.type) and not pa.types.is_string(column.type):
        try:
            column = column.cast(pa.string())
        except pa.ArrowNotImplementedError as error:
            raise UnmappableColumn(
                f"a column of type {column.type} cannot become {wanted}; convert it before replaying"
            ) from error
    values = []
    for value in column:
        try:
            mapped = _one(value, wanted) if value.is_valid else None
        except (pa.ArrowInvalid, ValueError, OverflowError):
            mapped = None
        except pa.ArrowNotImplementedError as error:
            raise UnmappableColumn(
                f"a column of type {column.type} cannot become {wanted}; convert it before replaying"
            ) from error
        values.append(mapped)
    return pa.array(values, wanted)


def _one(value: pa.Scalar, wanted: pa.DataType) -> object:
    if pa.types.is_timestamp(wanted) and pa.types.is_string(value.type):
        text = value.as_py()
        try:
            return datetime.fromtimestamp(float(text), UTC)
        except ValueError:
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return value.cast(wanted).as_py()


def _from_unix(seconds: pa.Array) -> pa.Array:
    micros = pc.round(pc.multiply(seconds, 1e6)).cast(pa.int64())
    return micros.cast(pa.timestamp("us", tz="UTC"))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
