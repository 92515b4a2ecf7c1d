"""Times, labels and numbers as float64, from Arrow columns or one by one; what is none is NaN, for the learner to refuse.

In the flow: the first thing that a learner does with a batch. Outside of them, `streaming.columns` has made of the topic's text what
the contract says.
"""

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.streaming.learners.errors import WrongFeatures

F64 = npt.NDArray[np.float64]
_A_SECOND: Final = {"s": 1e0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NUMBERS: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)


def seconds(batch: pa.RecordBatch, name: str) -> F64:
    """Times `float64[n]` in seconds of a timestamp column, or the numbers of any other; NaN for null. Raises WrongFeatures."""
    column = batch.column(name)
    if not pa.types.is_timestamp(column.type):
        return numbers(batch, name)
    return _floats(column.cast(pa.int64())) / _A_SECOND[column.type.unit]


def numbers(batch: pa.RecordBatch, name: str) -> F64:
    """A column of numbers or booleans as `float64[n]`, NaN for null. Raises WrongFeatures for any other."""
    column = batch.column(name)
    kind = column.type
    if pa.types.is_boolean(kind):
        return _floats(column.cast(pa.int8()))
    if any(test(kind) for test in _NUMBERS):
        return _floats(column)
    raise WrongFeatures(f"expected numbers in column {name!r}, came {kind}")


def second(value: Any) -> float:
    """A time in seconds: of a datetime, UTC where it names no zone, or the number that it is; else NaN."""
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT
            return float("nan")
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
    return number(value)


def number(value: Any) -> float:
    """`value` as a number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _floats(column: pa.Array) -> F64:
    # Not safe: whole numbers beyond 2**53, as nanoseconds are, are rounded.
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
