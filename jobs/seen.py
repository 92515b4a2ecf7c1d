"""Which event ids a partition has stored within its horizon, read back from the table itself.

In the flow: beside the gate, on the executors; which files to look at is the driver's to say (``Recent``). The table is the only
state: a restart, another executor or another machine finds the same ids, and a batch that never committed leaves none behind. A
worker process keeps what it has read, by file. The files of batches say by their tags what they hold; once compaction has made
others of them, the driver gathers the ids within the horizon in one file for all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
WORKER_BYTES = 128 << 20
"""What a worker process keeps of ids it has read: those of some five million events."""


@dataclass(frozen=True)
class RecentFile:
    """A committed file that may hold what a coming event repeats."""

    path: str
    partitions: tuple[int, ...]
    max_event_time_us: int


def are_of_batches(files: Iterable[storage.DataFile]) -> bool:
    """Whether all ``files`` are as batches wrote them; compaction makes others of them, and somebody else may have added some."""
    return all(PARTITIONS in file.tags for file in files)


class Recent:
    """The committed files that may hold what a coming event repeats, as batches move on.

    Args:
        table: as of its last commit.
        watermarks_us: highest event time stored, by partition.
        lateness_s: an event that is older by more than this is late, whether it came before or not.
        scratch: a folder that the executors see, for ids gathered from compacted files.
    """

    def __init__(
        self,
        table: storage.Table,
        contract: Contract,
        watermarks_us: Mapping[int, int],
        lateness_s: float,
        scratch: Path,
    ) -> None:
        self._table, self._features = table, contract.features
        self._watermarks_us, self._lateness_us = watermarks_us, round(lateness_s * 1e6)
        self._gathered = scratch / "seen"
        self._files = self._of_table()

    def files(self) -> tuple[RecentFile, ...]:
        """For the next batch; asked of the table anew where one is gone, since what was compacted is collected one day."""
        if not all(Path(file.path).exists() for file in self._files):
            self._table.refresh()
            self._files = self._of_table()
        return tuple(self._files)

    def advance(self, files: Iterable[storage.DataFile], watermarks_us: Mapping[int, int]) -> None:
        """A batch was committed with ``files``."""
        self._watermarks_us = watermarks_us
        self._files = self._within_horizon([*self._files, *self._of_batches(files)])

    def _of_table(self) -> list[RecentFile]:
        files = self._table.files
        if not are_of_batches(files):
            return self._gather() if self._watermarks_us else []
        return self._within_horizon(self._of_batches(files))

    def _of_batches(self, files: Iterable[storage.DataFile]) -> list[RecentFile]:
        folder = self._table.folder
        return [
            RecentFile(str(folder / file.path), tuple(file.tags[PARTITIONS]), file.tags[MAX_EVENT_TIME])
            for file in files
        ]

    def _within_horizon(self, files: Iterable[RecentFile]) -> list[RecentFile]:
        """Those that still hold an event which is not late, in the same order."""
        return [
            file
            for file in files
            if any(file.max_event_time_us >= self._horizon_us(partition) for partition in file.partitions)
        ]

    def _horizon_us(self, partition: int) -> int:
        return self._watermarks_us.get(partition, self._lateness_us) - self._lateness_us

    def _gather(self) -> list[RecentFile]:
        """The ids of the whole table that are within the horizon, in a file that no version names."""
        names = [self._features.event_id, self._features.event_time, PARTITION]
        schema = pa.schema([self._table.schema.field(name) for name in names])
        since_us = min(map(self._horizon_us, self._watermarks_us))
        since = pa.scalar(since_us, pa.int64()).cast(schema.field(1).type).as_py()
        shutil.rmtree(self._gathered, ignore_errors=True)
        gathered = storage.create(self._gathered, schema)
        ids = self._table.scan(names, filter=[(names[1], ">=", since)])
        file = gathered.stage(ids)
        if not file.rows:  # all of them are forgotten
            return []
        path = str(gathered.folder / file.path)
        return [RecentFile(path, tuple(self._watermarks_us), max(self._watermarks_us.values()))]


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
    _worker.let_go(files)
    stored = [
        _worker.ids_of(file.path, contract.features.event_id, contract.features.event_time)
        for file in files
        if partition in file.partitions and file.max_event_time_us >= since_us
    ]
    if stored:
        mine = (pc.field(PARTITION) == partition) & (pc.field("time") >= since_us)
        for batch in pa.concat_tables(stored).filter(mine).combine_chunks().to_batches():
            seen.add(batch.column("id"), batch.column("time"))
    return seen


class _Worker:
    """What this process has read of committed files, which never change; what does not fit is read anew each time."""

    def __init__(self) -> None:
        self._ids: dict[str, pa.Table] = {}

    def let_go(self, files: Sequence[RecentFile]) -> None:
        """Of the same tables' files no others than these will be asked for again."""
        paths = {file.path for file in files}
        folders = {str(Path(path).parent) for path in paths}
        for path in [path for path in self._ids if path not in paths and str(Path(path).parent) in folders]:
            del self._ids[path]

    def ids_of(self, path: str, id_column: str, time_column: str) -> pa.Table:
        """Ids, event times in microseconds, and partitions."""
        held = self._ids.get(path)
        if held is None:
            batches = storage.read_file(path, columns=[id_column, time_column, PARTITION])
            table = pa.Table.from_batches(list(batches))
            held = pa.table(
                {
                    "id": table.column(id_column),
                    "time": table.column(time_column).cast(pa.int64()),
                    PARTITION: table.column(PARTITION),
                }
            )
            if held.nbytes + sum(table.nbytes for table in self._ids.values()) <= WORKER_BYTES:
                self._ids[path] = held
        return held


_worker = _Worker()
