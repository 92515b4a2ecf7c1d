"""Which event ids a partition has stored within its horizon, read back from the table itself.

In the flow: beside the gate, on the executors. The table is the only state: a restart, another executor or another machine
finds the same ids, and a batch that never committed leaves none behind. A worker process keeps what it has read, by file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from headrace import storage

PARTITION, OFFSET = "_partition", "_offset"
"""Columns of a stored row: where in its topic the event came from."""
PARTITIONS, NEXT_OFFSETS, MAX_EVENT_TIME = "partitions", "next_offsets", "max_event_time_us"
"""Tags of a data file: its Kafka partitions, the offset after its last one in each, and its highest event time."""


@dataclass(frozen=True)
class RecentFile:
    """A committed file that may hold what a coming event repeats."""

    path: str
    partitions: tuple[int, ...]
    max_event_time_us: int


def recent_ids(
    files: Sequence[RecentFile], partition: int, since_us: int, id_column: str, time_column: str
) -> pa.Table:
    """Columns ``id`` and ``time`` (int64 microseconds) of the stored events of ``partition`` not older than ``since_us``."""
    tables = [
        _ids_of(file.path, partition, id_column, time_column)
        for file in files
        if partition in file.partitions and file.max_event_time_us >= since_us
    ]
    schema = pa.schema([("id", pa.string()), ("time", pa.int64())])
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    return table.filter(pc.greater_equal(table.column("time"), since_us))


@lru_cache(maxsize=256)
def _ids_of(path: str, partition: int, id_column: str, time_column: str) -> pa.Table:
    batches = storage.read_file(path, columns=[id_column, time_column, "_partition"])
    table = pa.Table.from_batches(list(batches)).filter(pc.field("_partition") == partition)
    return pa.table(
        {"id": table.column(id_column).cast(pa.string()), "time": table.column(time_column).cast(pa.int64())}
    )
