"""Which event ids a partition has stored within its horizon, read back from the table itself.

In the flow: beside the gate, on the executors. The table is the only state: a restart, another executor or another machine
finds the same ids, and a batch that never committed leaves none behind. A worker process keeps what it has read, by file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from headrace import storage
from headrace.streaming.contracts import Contract
from headrace.streaming.dedupe import SeenIds

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


def recent_files(table: Path, files: Iterable[storage.DataFile]) -> list[RecentFile]:
    """Those of ``files`` that a pipeline wrote; a file without our tags came from elsewhere and holds no topic's events."""
    return [
        RecentFile(str(table / file.path), tuple(file.tags[PARTITIONS]), file.tags[MAX_EVENT_TIME])
        for file in files
        if PARTITIONS in file.tags
    ]


def within_horizon(
    files: Iterable[RecentFile], watermarks_us: Mapping[int, int], lateness_s: float
) -> list[RecentFile]:
    """Those of ``files`` that still hold an event which is not late, in the same order."""
    horizon = {partition: time - round(lateness_s * 1e6) for partition, time in watermarks_us.items()}
    return [
        file
        for file in files
        if any(file.max_event_time_us >= horizon.get(partition, 0) for partition in file.partitions)
    ]


def seen_ids(
    files: Sequence[RecentFile],
    partition: int,
    watermark_us: int | None,
    lateness_us: int,
    contract: Contract,
) -> SeenIds:
    """The ids that ``partition`` has stored and that an event which is not late could repeat."""
    seen = SeenIds(lateness_us)
    if watermark_us is None:
        return seen
    since_us = watermark_us - lateness_us
    for file in files:
        if partition in file.partitions and file.max_event_time_us >= since_us:
            stored = _stored_ids(file.path, contract.features.event_id, contract.features.event_time)
            mine = stored.filter((pc.field(PARTITION) == partition) & (pc.field("time") >= since_us))
            for batch in mine.to_batches():
                seen.add(batch.column("id"), batch.column("time"))
    return seen


@lru_cache(maxsize=64)
def _stored_ids(path: str, id_column: str, time_column: str) -> pa.Table:
    """Ids, event times in microseconds, and partitions of a committed file, which never changes."""
    batches = storage.read_file(path, columns=[id_column, time_column, PARTITION])
    table = pa.Table.from_batches(list(batches))
    return pa.table(
        {
            "id": table.column(id_column),
            "time": table.column(time_column).cast(pa.int64()),
            PARTITION: table.column(PARTITION),
        }
    )
