"""Events read from a file, in the order of their time, ready to be sent: rows of a contract, and raw messages.

Used by `replay`: the layouts (`movielens`, and the formats in `replay`) make `Events` with `from_columns`, and
`replay` sends them. A row whose values all fit the contract's types is a row of `batch`; any other becomes a raw
message, with its texts as they stand, for the gate to name what is wrong.

Not here: files, pacing and Kafka.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.streaming.columns import map_column
from headrace.streaming.contracts.contract import Contract
from headrace.streaming.errors import StreamingError

Raw = tuple[bytes | None, bytes]
"""Key and value of a message that is no row."""


class UnknownLayout(StreamingError, ValueError):
    """A file that is not laid out as was said."""


@dataclass(frozen=True)
class Events:
    """n events in ascending order of their time, ties in the order of the file.

    Attributes:
        batch: n rows in the contract's schema; all null where `raw` has the row.
        raw: row number to message, for the rows that could not be mapped.
        times_us: int64[n], microseconds since 1970, ascending; a row without a time has that of the row before.
    """

    batch: pa.RecordBatch
    raw: Mapping[int, Raw]
    times_us: NDArray[np.int64]


def from_columns(
    columns: Mapping[str, pa.Array],
    contract: Contract,
    broken: Mapping[int, bytes] | None = None,
    number_from: tuple[str, str] | None = None,
) -> Events:
    """Map columns by name onto the contract and sort the rows by time.

    Args:
        columns: n values each, in the file's order; names that the contract lacks are ignored.
        broken: lines that are no row at all, by their place among the file's rows.
        number_from: column and prefix; that column becomes the prefix and the row's number in time order, from 1.

    Raises:
        UnknownLayout: no column has a name that the contract knows.
        UnmappableColumn: a column's type can never become the contract's.
    """
    known = [name for name in contract.schema.names if name in columns]
    if not known:
        raise UnknownLayout(
            f"expected columns of topic {contract.topic} ({', '.join(contract.schema.names)}), "
            f"got {', '.join(columns) or 'none'}"
        )
    broken = broken or {}
    n = len(columns[known[0]]) + len(broken)
    # Broken lines take their place among the rows as rows of nulls.
    is_broken = np.zeros(n, np.bool_)
    is_broken[list(broken)] = True
    places = pa.array(np.cumsum(~is_broken) - 1, mask=is_broken)
    arrays, texts, bad = {}, {}, {}
    for name in known:
        source = columns[name].take(places)
        arrays[name], bad[name] = map_column(source, contract.schema.field(name).type)
        if bad[name].any():
            texts[name] = source
    times_us = _times(arrays.get(contract.features.event_time), n)
    order = np.argsort(times_us, kind="stable")
    if number_from is not None:
        name, prefix = number_from
        numbers = np.empty(n, np.int64)
        numbers[order] = np.arange(1, n + 1)
        arrays[name] = pa.array([f"{prefix}{number}" for number in numbers.tolist()], pa.string())
    batch = pa.record_batch(
        [arrays.get(field.name, pa.nulls(n, field.type)) for field in contract.schema], schema=contract.schema
    )
    unmapped = np.flatnonzero(is_broken | np.any([is_broken, *bad.values()], axis=0))
    raw = {
        int(row): (None, broken[row])
        if row in broken
        else _raw(batch.slice(row, 1), {k: v[row].as_py() for k, v in texts.items() if bad[k][row]}, contract)
        for row in unmapped.tolist()
    }
    new_place = np.empty(n, np.int64)
    new_place[order] = np.arange(n)
    return Events(
        batch.take(pa.array(order)),
        {int(new_place[row]): message for row, message in raw.items()},
        times_us[order],
    )


def from_messages(
    batch: pa.RecordBatch, is_row: NDArray[np.bool_], values: Sequence[bytes], contract: Contract
) -> Events:
    """Sort decoded messages by time; those that are no rows keep their bytes.

    Args:
        batch: n rows in the contract's schema, null where `is_row` is false.
        is_row: bool[n].
        values: n messages.
    """
    times_us = _times(batch.column(contract.features.event_time), batch.num_rows)
    order = np.argsort(times_us, kind="stable")
    raw: dict[int, Raw] = {
        place: (_key_in(values[row], contract), values[row])
        for place, row in enumerate(order.tolist())
        if not is_row[row]
    }
    return Events(batch.take(pa.array(order)), raw, times_us[order])


def _times(column: pa.Array | None, n: int) -> NDArray[np.int64]:
    """Each row's time; where there is none that of the row before it, at the beginning that of the first."""
    if column is None or column.null_count == n:
        return np.zeros(n, np.int64)
    times = column.cast(pa.int64())
    there = times.is_valid().to_numpy(zero_copy_only=False)
    filled: NDArray[np.int64] = times.fill_null(0).to_numpy()
    last = np.maximum.accumulate(np.where(there, np.arange(n), -1))
    last[last < 0] = int(np.argmax(there))
    return filled[last]


def _raw(row: pa.RecordBatch, texts: Mapping[str, Any], contract: Contract) -> Raw:
    """A row as JSON, with the source's own text where it could not be mapped."""
    values = {name: value for name, value in row.to_pylist()[0].items() if value is not None}
    values.update(texts)
    key = values.get(contract.features.key)
    return (None if key is None else str(key).encode()), msgspec.json.encode(values)


def _key_in(value: bytes, contract: Contract) -> bytes | None:
    """The key that a message names, as far as it can be read at all."""
    try:
        event = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    key = event.get(contract.features.key) if isinstance(event, dict) else None
    return str(key).encode() if isinstance(key, str | int) else None
