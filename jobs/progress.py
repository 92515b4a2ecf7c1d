"""What a query has done so far, committed with every batch and read back at restart and by whoever watches.

In the flow: one ``Progress`` travels in each manifest as the attachment ``progress``. Its counters close at every version:
events = stored + dead + late + duplicates + forgotten, counted in events, not in messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from headrace import storage
from headrace.storage.errors import TableNotFound

PROGRESS, GATE, LEARNER, TAGS, RECOMMENDER = "progress", "gate", "learner", "tags", "recommender"
CLICKS, CLICKS_CONTROL, CLICKS_METRICS = "clicks", "clicks-control", "clicks-metrics"
"""Names of a commit's attachments."""


class Counters(msgspec.Struct):
    """Events by fate; ``reasons`` counts dead ones by rule, and an event that breaks two rules counts under both.

    ``forgotten`` are those of persons whom the table was told to forget: where it can be read whose they are, nothing is kept of them.
    """

    events: int = 0
    stored: int = 0
    dead: int = 0
    late: int = 0
    duplicates: int = 0
    forgotten: int = 0
    reasons: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, other: Counters) -> None:
        self.events += other.events
        self.stored += other.stored
        self.dead += other.dead
        self.late += other.late
        self.duplicates += other.duplicates
        self.forgotten += other.forgotten
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    @property
    def balance(self) -> int:
        """Events that are unaccounted for; always 0."""
        return self.events - self.stored - self.dead - self.late - self.duplicates - self.forgotten


class Tally(Counters):
    """One Kafka partition's counters in one batch, and how far it was read."""

    next_offset: int = 0
    watermark_us: int | None = None
    """Highest event time among the partition's stored events, microseconds since 1970."""


class Progress(msgspec.Struct):
    """State of a query after one of its batches."""

    topic: str
    contract_version: int
    query_id: str
    batch_id: int
    partitions: list[int] = msgspec.field(default_factory=list)
    """Of this batch: Kafka partitions that brought messages."""

    next_offsets: dict[int, int] = msgspec.field(default_factory=dict)
    watermarks_us: dict[int, int] = msgspec.field(default_factory=dict)
    total: Counters = msgspec.field(default_factory=Counters)
    batch: Counters = msgspec.field(default_factory=Counters)
    seconds: dict[str, float] = msgspec.field(default_factory=dict)
    """Of this batch: CPU seconds parse, gate, predict, encode (summed over tasks) and of each learner; wall seconds stage, check."""
    metrics: dict[str, Any] | None = None
    """The learner's prequential metrics so far; ``None`` without a learner."""

    clicks: dict[str, Any] | None = None
    """AdaptDHM's, with those of its control on the same rows; ``None`` where it is off."""

    @property
    def key(self) -> tuple[str, int]:
        """Under which the batch is committed, here and wherever a learner reports: (query id, batch id)."""
        return self.query_id, self.batch_id

    def advanced(self, query_id: str, batch_id: int, tallies: Iterable[tuple[int, Tally]]) -> Progress:
        """The state after a batch whose tasks reported ``tallies`` as (partition, tally)."""
        after = _PROGRESS.decode(msgspec.json.encode(self))
        after.query_id, after.batch_id = query_id, batch_id
        after.batch, after.seconds, brought = Counters(), {}, set[int]()
        for partition, tally in tallies:
            brought.add(partition)
            after.batch.add(tally)
            after.next_offsets[partition] = max(after.next_offsets.get(partition, 0), tally.next_offset)
            if tally.watermark_us is not None:
                known = after.watermarks_us.get(partition, tally.watermark_us)
                after.watermarks_us[partition] = max(known, tally.watermark_us)
        after.partitions = sorted(brought)
        after.total.add(after.batch)
        return after

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


_PROGRESS = msgspec.json.Decoder(Progress)


def read_progress(data: bytes) -> Progress:
    """Decode an attachment written by ``to_json``."""
    return _PROGRESS.decode(data)


def last_commit(table: storage.Table) -> storage.Commit | None:
    """The newest commit that a pipeline made; others may have written to the table since."""
    return next((commit for commit in table.history() if attachment_path(commit, PROGRESS)), None)


def attachment_path(commit: storage.Commit | None, name: str) -> Path | None:
    """Where the bytes of a commit's attachment are; ``None`` where it has none of that name."""
    if commit is None:
        return None
    # The jobs' tables lie on mounted file systems.
    folder = Path(str(commit.table))
    return next((folder / entry.path for entry in commit.attachments if entry.name == name), None)


def attached(commit: storage.Commit | None, name: str) -> bytes | None:
    """The bytes of a commit's attachment; ``None`` where it has none of that name."""
    return commit.attachment(name) if commit is not None and attachment_path(commit, name) else None


def report_table(table: storage.Table, name: str, path: Path | None, schema: pa.Schema) -> storage.Table:
    """Where a learner of ``table`` reports: at ``path``, else beside it as ``<table>_<name>``; made when it is not there."""
    path = path or table.folder.with_name(f"{table.folder.name}_{name}")
    try:
        return storage.open(path)
    except TableNotFound:
        return storage.create(path, schema)
