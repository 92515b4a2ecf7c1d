"""Executor side of one micro-batch: decode, gate, separate, predict, encode, and stage a file that no reader sees yet.

In the flow: ``Stage`` is the function that Spark maps over the Kafka rows of a batch, one call per task. It turns messages
into one staged data file, sends what the contract rejects to the dead-letter topic, and returns a single small
``Staged`` message; nothing else travels back to the driver. Whatever a failed or killed task left behind is never named by
a manifest, so it is never read.

It does not commit and does not learn; see ``microbatch``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace import storage
from headrace.jobs.messages import MESSAGE_COLUMNS, Segment, segments
from headrace.jobs.sample import RANK, LowestRanks, ranks
from headrace.jobs.seen import RecentFile, seen_ids
from headrace.streaming.contracts import Contract, gate
from headrace.streaming.dedupe import separate
from headrace.streaming.loop import Snapshot
from headrace.streaming.producer import Producer

PARTITION, OFFSET = "_partition", "_offset"
PREDICTIONS = pa.schema(
    [("prediction", pa.float32()), ("baseline", pa.float32()), ("model_version", pa.int64())]
)
ORIGIN = pa.schema([(PARTITION, pa.int32()), (OFFSET, pa.int64())])
DECODE_ERROR, REASONS = "_decode_error", "_reasons"
LATE = "late"


class Tally(msgspec.Struct):
    """What became of one Kafka partition's events in one batch: events = stored + dead + late + duplicates."""

    next_offset: int = 0
    watermark_us: int | None = None
    events: int = 0
    stored: int = 0
    dead: int = 0
    late: int = 0
    duplicates: int = 0
    reasons: dict[str, int] = msgspec.field(default_factory=dict)

    def count(self, reason: str, events: int = 1) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + events


class Staged(msgspec.Struct):
    """The commit message of one task."""

    file: storage.DataFile | None
    tallies: dict[int, Tally]
    check: str | None
    """Path of the rows that great-expectations will look at."""
    seconds: dict[str, float]
    """CPU seconds by phase: parse, gate, predict, encode (which includes the file's write)."""


@dataclass(frozen=True)
class Plan:
    """Everything a task must know about its batch; sent with the task."""

    contract: Contract
    table: Path
    staging: Path
    snapshot: Path | None
    """The committed snapshot to predict with."""
    model_version: int
    watermarks: Mapping[int, int]
    """Highest event time seen so far, microseconds since 1970, by Kafka partition."""
    recent: tuple[RecentFile, ...]
    """Files whose events a duplicate could repeat."""
    lateness_us: int
    max_message_bytes: int
    check_rows: int
    seed: int
    bootstrap: str
    client_options: Mapping[str, Any]
    dead_letters: str


def stored_schema(contract: Contract) -> pa.Schema:
    """Columns of a contract's table: the event's own, what was predicted for it, and where it came from."""
    return pa.schema([*contract.schema, *PREDICTIONS, *ORIGIN])


@dataclass
class Stage:
    """Maps one task's messages to one ``Staged`` message, as ``mapInArrow`` wants it."""

    plan: Plan
    _tallies: dict[int, Tally] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, messages: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        self._check = LowestRanks(self.plan.check_rows)
        self._producer: Producer | None = None
        self._seen: dict[int, Any] = {}
        table = storage.open(self.plan.table)
        began = time.process_time()
        file = table.stage(self._rows(messages))
        self._spend("encode", time.process_time() - began - sum(self._seconds.values()))
        if self._producer is not None:
            self._producer.close()
        staged = Staged(file if file.rows else None, self._tallies, self._write_check(), self._seconds)
        yield pa.RecordBatch.from_pydict({"staged": [msgspec.msgpack.encode(staged)]})

    def _rows(self, messages: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in messages:
            for segment in segments(batch):
                kept = self._segment(segment)
                if kept.num_rows:
                    yield kept

    def _segment(self, segment: Segment) -> pa.RecordBatch:
        """Rows of consecutive messages of one partition and format that pass; the others are counted and sent away."""
        plan = self.plan
        tally = self._tallies.setdefault(
            segment.partition, Tally(watermark_us=plan.watermarks.get(segment.partition))
        )
        began = time.process_time()
        rows = segment.decode(plan.contract, plan.max_message_bytes)
        began = self._spend_since("parse", began)
        verdict = gate(rows.batch, plan.contract, error=rows.error, null_key=rows.null_key)
        self._offer_check(segment, rows, verdict.reasons)
        fresh, late, duplicate = self._separate(segment.partition, tally, rows.batch, verdict.keep)
        self._count(tally, segment, rows, verdict, late, duplicate, fresh)
        began = self._spend_since("gate", began)
        kept = rows.batch.filter(pa.array(fresh))
        offsets = segment.offsets[rows.message[fresh]]
        predictions = self._predict(kept)
        self._spend_since("predict", began)
        origin = [pa.array(np.full(len(offsets), segment.partition, np.int32)), pa.array(offsets)]
        return pa.RecordBatch.from_arrays(
            [*kept.columns, *predictions, *origin], schema=stored_schema(plan.contract)
        )
