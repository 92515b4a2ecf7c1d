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
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace import storage
from headrace.jobs.check import DECODE_ERROR, REASONS, write_candidates
from headrace.jobs.dead_letters import DeadLetters
from headrace.jobs.messages import Rows, Segment, segments
from headrace.jobs.progress import Tally
from headrace.jobs.sample import RANK, LowestRanks, ranks
from headrace.jobs.seen import (
    MAX_EVENT_TIME,
    NEXT_OFFSETS,
    OFFSET,
    PARTITION,
    PARTITIONS,
    RecentFile,
    seen_ids,
)
from headrace.streaming.contracts import Contract, gate
from headrace.streaming.contracts.masks import Verdict
from headrace.streaming.dedupe import SeenIds, separate
from headrace.streaming.loop import PREDICTIONS, Snapshot, Task

LATE, AHEAD = "late", "ahead"
"""Reasons of dead letters beside the contract's own."""
ORIGIN = pa.schema([(PARTITION, pa.int32()), (OFFSET, pa.int64())])
_Mask = NDArray[np.bool_]


class Staged(msgspec.Struct):
    """The commit message of one task."""

    file: storage.DataFile | None
    tallies: dict[int, Tally]
    check: str | None
    """Path of the rows that great-expectations will look at."""
    seconds: dict[str, float]
    """CPU seconds by phase: parse, gate, predict, encode (which includes writing the file)."""


@dataclass(frozen=True)
class Plan:
    """Everything a task must know about its batch; sent with the task.

    Attributes:
        task: what the learner learns from which columns; ``None`` without a learner.
        snapshot: path of the committed snapshot to predict with; ``None`` before the first one.
        watermarks_us: highest event time stored so far, by Kafka partition.
        recent: files whose events a duplicate could repeat.
        check_rows: rows that the second opinion samples from the whole batch.
        dead_letters: topic of what is rejected.
    """

    topic: str
    contract: Contract
    table: Path
    staging: Path
    task: Task | None
    snapshot: Path | None
    watermarks_us: Mapping[int, int]
    recent: tuple[RecentFile, ...]
    lateness_us: int
    ahead_us: int
    max_event_bytes: int
    check_rows: int
    seed: int
    bootstrap: str
    client_options: Mapping[str, Any]
    dead_letters: str


def stored_schema(contract: Contract) -> pa.Schema:
    """Columns of a contract's table: the event's own, what was predicted for it, and where it came from."""
    return pa.schema([*contract.schema, *PREDICTIONS, *ORIGIN])


class Stage:
    """Maps one task's Kafka messages to one ``Staged`` message, in the form that ``mapInArrow`` wants."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, messages: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        staged = _Task(self._plan).run(messages)
        yield pa.RecordBatch.from_pydict({"staged": pa.array([msgspec.msgpack.encode(staged)], pa.binary())})


class _Task:
    """One task's work on one batch."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._table = storage.open(plan.table)
        self._forgotten = self._table.forgotten()
        self._tallies: dict[int, Tally] = {}
        self._seen: dict[int, SeenIds] = {}
        self._seconds = {"parse": 0.0, "gate": 0.0, "predict": 0.0}
        self._candidates = LowestRanks(plan.check_rows)
        self._letters = DeadLetters(
            plan.dead_letters, plan.bootstrap, plan.topic, plan.contract, plan.client_options
        )

    def run(self, messages: Iterator[pa.RecordBatch]) -> Staged:
        began = time.process_time()
        file = self._table.stage(self._rows(messages))
        self._letters.close()
        self._seconds["encode"] = time.process_time() - began - sum(self._seconds.values())
        candidates = self._candidates.table()
        check = write_candidates(self._plan.staging, uuid.uuid4().hex, candidates) if candidates else None
        tags = {
            PARTITIONS: sorted(self._tallies),
            NEXT_OFFSETS: [self._tallies[partition].next_offset for partition in sorted(self._tallies)],
            MAX_EVENT_TIME: max((t.watermark_us or 0 for t in self._tallies.values()), default=0),
        }
        file = replace(file, tags=tags)
        return Staged(file if file.rows else None, self._tallies, check, self._seconds)

    def _rows(self, messages: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in messages:
            for segment in segments(batch):
                kept = self._process(segment)
                if kept.num_rows:
                    yield kept

    def _process(self, segment: Segment) -> pa.RecordBatch:
        """The rows of one segment that are stored; the others are counted and, but for duplicates and the forgotten, sent away."""
        plan, clock = self._plan, _Clock(self._seconds)
        tally = self._tallies.setdefault(segment.partition, Tally())
        rows = self._without_forgotten(tally, segment.decode(plan.contract, plan.max_event_bytes))
        clock.spent("parse")
        verdict = gate(rows.batch, plan.contract, error=rows.error, null_key=rows.null_key)
        fates = self._separate(segment, tally, rows, verdict)
        self._dispose(segment, tally, rows, verdict, fates)
        self._offer(segment, rows, verdict)
        clock.spent("gate")
        kept = rows.batch.filter(pa.array(fates.fresh))
        predicted = self._predict(kept)
        clock.spent("predict")
        origin = [
            pa.array(np.full(kept.num_rows, segment.partition, np.int32)),
            pa.array(segment.offsets[rows.message[fates.fresh]]),
        ]
        return pa.RecordBatch.from_arrays([*predicted.columns, *origin], schema=stored_schema(plan.contract))

    def _without_forgotten(self, tally: Tally, rows: Rows) -> Rows:
        """Before anything else looks at them: nothing that names a forgotten person gets into a letter, a sample or a file."""
        key = self._plan.contract.features.erase_key
        if self._forgotten is None or key is None:
            return rows
        gone = self._forgotten.returning(rows.batch.column(key))
        tally.events += int(gone.sum())
        tally.forgotten += int(gone.sum())
        return rows.only(~gone)

    def _separate(self, segment: Segment, tally: Tally, rows: Rows, verdict: Verdict) -> _Fates:
        plan, features, partition = self._plan, self._plan.contract.features, segment.partition
        keep = verdict.keep.to_numpy(zero_copy_only=False)
        ahead = keep & self._ahead(segment, rows)
        timely = keep & ~ahead
        good = rows.batch.filter(pa.array(timely))
        watermark = plan.watermarks_us.get(partition)
        if partition not in self._seen:
            self._seen[partition] = seen_ids(
                plan.recent, partition, watermark, plan.lateness_us, plan.contract
            )
        parted = separate(
            good.column(features.event_id),
            good.column(features.event_time),
            watermark_us=watermark,
            lateness_us=plan.lateness_us,
            seen=self._seen[partition],
        )
        fresh, late = np.zeros(len(keep), np.bool_), np.zeros(len(keep), np.bool_)
        fresh[timely], late[timely] = parted.fresh, parted.late
        times = rows.batch.column(features.event_time).filter(pa.array(fresh)).cast(pa.int64())
        if len(times):
            newest = pc.max(times).as_py()
            tally.watermark_us = newest if tally.watermark_us is None else max(tally.watermark_us, newest)
        return _Fates(fresh, late, ahead)

    def _ahead(self, segment: Segment, rows: Rows) -> _Mask:
        """Which rows lie too far after the time of their message: whose clock is wrong must not move the watermark."""
        sent = segment.sent_us[rows.message]
        times = rows.batch.column(self._plan.contract.features.event_time).cast(pa.int64()).fill_null(0)
        later: _Mask = times.to_numpy(zero_copy_only=False) > sent + self._plan.ahead_us
        return later & (sent >= 0)

    def _dispose(self, segment: Segment, tally: Tally, rows: Rows, verdict: Verdict, fates: _Fates) -> None:
        """Count every row once, and send the rejected and the late ones to the dead-letter topic."""
        dead = fates.ahead | ~verdict.keep.to_numpy(zero_copy_only=False)
        tally.next_offset = int(segment.offsets[-1]) + 1
        tally.events += int(rows.events.sum())
        tally.stored += int(fates.fresh.sum())
        tally.late += int(fates.late.sum())
        tally.duplicates += int((~dead & ~fates.fresh & ~fates.late).sum())
        tally.dead += int(rows.events[dead].sum())
        for index in np.flatnonzero(dead):
            reasons = [AHEAD] if fates.ahead[index] else verdict.reasons[int(index)].as_py()
            for reason in reasons:
                tally.reasons[reason] = tally.reasons.get(reason, 0) + int(rows.events[index])
            self._letters.send(segment, rows, int(index), reasons)
        for index in np.flatnonzero(fates.late):
            self._letters.send(segment, rows, int(index), [LATE])

    def _offer(self, segment: Segment, rows: Rows, verdict: Verdict) -> None:
        """Let the second opinion's sample draw from these rows."""
        drawn = ranks(self._plan.seed, segment.partition, segment.offsets[rows.message], rows.row)
        drawn[~verdict.keep.to_numpy(zero_copy_only=False)] = 0
        candidates = rows.batch
        for name, column in ((DECODE_ERROR, rows.error), (REASONS, verdict.reasons), (RANK, pa.array(drawn))):
            candidates = candidates.append_column(name, column)
        self._candidates.add(candidates)

    def _predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._plan.task is not None:
            return _snapshot(self._plan.task, self._plan.snapshot).with_predictions(batch)
        nulls = [pa.nulls(batch.num_rows, field.type) for field in PREDICTIONS]
        return pa.RecordBatch.from_arrays(
            [*batch.columns, *nulls], schema=pa.schema([*batch.schema, *PREDICTIONS])
        )


@dataclass(frozen=True)
class _Fates:
    """What becomes of n rows, bool[n] each: stored, late, or too far ahead. What the contract kept and is none of these is a duplicate."""

    fresh: _Mask
    late: _Mask
    ahead: _Mask


class _Clock:
    """Adds the CPU time between two calls to a phase."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._at = time.process_time()

    def spent(self, phase: str) -> None:
        now = time.process_time()
        self._seconds[phase] += now - self._at
        self._at = now


@lru_cache(maxsize=2)
def _snapshot(task: Task, path: Path | None) -> Snapshot:
    """Committed snapshots never change, so a worker reads each once."""
    return Snapshot.empty(task) if path is None else Snapshot.from_bytes(path.read_bytes())
