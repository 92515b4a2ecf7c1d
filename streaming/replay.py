"""A file sent to a topic again, in the order of its events' times, at their pace or as fast as it goes.

Where in the flow: the very beginning, in place of the world. Four forms: `movielens` (see there), and `csv`,
`jsonl` and `parquet`, whose columns are mapped by name onto the topic's contract. No row is dropped: what is no
event is sent as it stands, and the gate on the reading side says why it is none.

Not here: files larger than memory; sorting by time needs all of a file.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headrace.streaming.contracts.contract import Contract
from headrace.streaming.contracts.decode import decode_json
from headrace.streaming.delimited import read_delimited
from headrace.streaming.events import Events, UnknownLayout, from_columns, from_messages
from headrace.streaming.movielens import read_movielens

Form = Literal["movielens", "csv", "jsonl", "parquet"]
FORMS: tuple[Form, ...] = get_args(Form)

_BLOCK_ROWS = 4_096


class Sender(Protocol):
    """What `replay` needs of a producer; `headrace.streaming.producer.Producer` is one."""

    def send_batch(self, batch: pa.RecordBatch, format: Literal["json", "arrow"] = "json") -> None: ...
    def send_raw(self, key: bytes | None, value: bytes | None) -> None: ...


@dataclass(frozen=True)
class Replayed:
    """What was sent: rows in all, those of them that were no rows of the contract, the span of event time."""

    rows: int
    raw_rows: int
    first: datetime | None
    last: datetime | None
    elapsed_s: float


def replay(
    path: Path,
    as_: Form,
    contract: Contract,
    producer: Sender,
    *,
    speed: float | None = None,
    format: Literal["json", "arrow"] = "json",
    block_rows: int = _BLOCK_ROWS,
    on_rows: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replayed:
    """Send every row of a file, oldest first; the caller flushes.

    Args:
        as_: what the file is.
        speed: event seconds per second; None is as fast as the producer takes them.
        block_rows: at most so many rows are sent between two looks at the clock.
        on_rows: called with the number of rows that are about to be sent; what it raises ends the replay.
        clock: seconds from any beginning.
        sleep: waits so many seconds.

    Raises:
        UnknownLayout, UnmappableColumn: the file is not what `as_` says, or has nothing of the contract.
        FileNotFoundError: there is no such file.
        ValueError: the speed is not above 0.
    """
    if speed is not None and not speed > 0:
        raise ValueError(f"expected a speed above 0, got {speed}; leave it out for as fast as possible")
    began_s = clock()
    events = read_events(path, as_, contract)
    for begin, end in _due(events.times_us, speed, block_rows, clock, sleep):
        if on_rows is not None:
            on_rows(end - begin)
        _send(events, begin, end, producer, format)
    times_us = events.times_us
    return Replayed(
        rows=len(times_us),
        raw_rows=len(events.raw),
        first=_moment(times_us[0]) if len(times_us) else None,
        last=_moment(times_us[-1]) if len(times_us) else None,
        elapsed_s=clock() - began_s,
    )


def read_events(path: Path, as_: Form, contract: Contract) -> Events:
    """A whole file as events in the order of their time; raises as `replay` does."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; name the file that is to be replayed")
    match as_:
        case "movielens":
            return read_movielens(path, contract)
        case "csv":
            read = read_delimited(path, ",", quotes=True)
            return from_columns(read.columns, contract, broken=read.broken)
        case "jsonl":
            return _read_jsonl(path, contract)
        case "parquet":
            return _read_parquet(path, contract)
    raise UnknownLayout(f"expected one of {', '.join(FORMS)}, got {as_!r}")


def _read_jsonl(path: Path, contract: Contract) -> Events:
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    decoded = decode_json(pa.array(lines, pa.binary()), contract)
    is_row = decoded.error.is_null().to_numpy(zero_copy_only=False)
    return from_messages(decoded.batch, is_row, lines, contract)


def _read_parquet(path: Path, contract: Contract) -> Events:
    try:
        known = [name for name in pq.read_schema(path).names if name in contract.schema.names]
        table = pq.read_table(path, columns=known)
    except pa.ArrowInvalid as error:
        raise UnknownLayout(f"{path} is no Parquet file: {error}") from error
    columns = {name: pa.chunked_array(table.column(name)).combine_chunks() for name in known}
    return from_columns(columns, contract)


def _due(
    times_us: NDArray[np.int64],
    speed: float | None,
    block_rows: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[tuple[int, int]]:
    """Row ranges, each given out when the last of its rows is due; the first row is due at once."""
    began_s = clock()
    begin, n = 0, len(times_us)
    while begin < n:
        end = min(begin + block_rows, n)
        if speed is not None:
            # Whole microseconds, as the times are: a remainder of rounding must not be slept for.
            due_us = int(times_us[0]) + round((clock() - began_s) * speed * 1e6)
            end = min(end, int(np.searchsorted(times_us, due_us, "right")))
            if end <= begin:
                sleep((int(times_us[begin]) - due_us) / speed / 1e6)
                continue
        yield begin, end
        begin = end


def _send(events: Events, begin: int, end: int, producer: Sender, format: Literal["json", "arrow"]) -> None:
    """Send the rows of a range, the raw ones among them at their place."""
    for row in range(begin, end) if events.raw else ():
        if row in events.raw:
            if begin < row:
                producer.send_batch(events.batch.slice(begin, row - begin), format)
            producer.send_raw(*events.raw[row])
            begin = row + 1
    if begin < end:
        producer.send_batch(events.batch.slice(begin, end - begin), format)


def _moment(time_us: np.int64) -> datetime:
    return datetime.fromtimestamp(int(time_us) / 1e6, UTC)
