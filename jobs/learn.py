"""The linear click model on the stream: the loop's columns come back from staged and stored files, through the store's own reader.

In the flow: one of the learners of a ``MicroBatch``, and the one whose predictions are stored in the rows. On the driver, between staging
and commit, and once at a restart. Memory is bounded by a chunk and by what waits for its label, whatever the size of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import storage
from headrace.jobs.errors import LearnerChanged
from headrace.jobs.progress import LEARNER, Progress, attachment_path, last_attachment, last_commit
from headrace.jobs.seen import NEXT_OFFSETS, OFFSET, PARTITION, PARTITIONS
from headrace.jobs.settings import Learner
from headrace.streaming.contracts import Contract
from headrace.streaming.learners.ftrl import Rates
from headrace.streaming.loop import Loop, Snapshot, task_of

CHUNK_BYTES = 32 << 20
CHUNK_ROWS = 8_192

Feed = Callable[[int, pa.RecordBatch], object]


def feed_file(path: Path, columns: Sequence[str], feed: Feed) -> None:
    """Hand each chunk of ``columns`` of the file at ``path`` to ``feed(partition, chunk)``, in stored order."""
    for partition, chunk in _chunks(path, columns):
        feed(partition, chunk)


class LoopQuery:
    """The linear click model of one table.

    Attributes:
        task: what it predicts and learns.
        snapshot: the last committed version, which executors predict with while they stage; ``None`` before the first.
    """

    name = "learn"

    def __init__(self, loop: Loop) -> None:
        self._loop, self.task = loop, loop.task
        self.snapshot: Path | None = None

    def feed(self, paths: Sequence[Path], after: Progress) -> None:
        """Join labels, score and learn, a bounded chunk at a time, in the order of the files."""
        for path in paths:
            feed_file(path, self._loop.columns, self._loop.feed)

    def publish(self, after: Progress) -> dict[str, bytes]:
        """The next version; ``after`` gets its metrics."""
        published = self._loop.finish_batch()
        after.metrics = published.metrics
        return {LEARNER: published.data}

    def committed(self, commit: storage.Commit | None) -> None:
        """Predict by this commit's version from now on."""
        self.snapshot = attachment_path(commit, LEARNER)


def open_loop(table: storage.Table, contract: Contract, learner: Learner, seed: int) -> LoopQuery | None:
    """The learner as of the table's last commit; ``None`` where it is switched off or the contract has no label.

    Impressions that still wait for their label are not in the snapshot: the rows from the oldest of them on are fed again,
    without being learnt again.

    Raises:
        LearnerChanged: the snapshot is of another learner than the settings and the contract describe.
    """
    if not learner.enabled or contract.features.label is None:
        return None
    snapshot = last_attachment(table, LEARNER)
    task = replace(
        task_of(contract, bits=learner.bits, seed=seed),
        rates=Rates(alpha=learner.learning_rate),
        window_rows=learner.window_events,
    )
    if snapshot is not None and (learnt := Snapshot.from_bytes(snapshot).task) != task:
        differing = [f.name for f in fields(task) if getattr(task, f.name) != getattr(learnt, f.name)]
        raise LearnerChanged(
            f"table '{table.path}' has a snapshot of another learner: {', '.join(differing)} differ from what the settings and the "
            "contract say now. Put them back, or write to a new table (and checkpoint) to begin with an empty learner"
        )
    loop = Loop(task, snapshot)
    waiting = {partition: offset for partition, offset in loop.replay_from.items() if offset is not None}
    for file in table.files:
        ends = dict(zip(file.tags.get(PARTITIONS, ()), file.tags.get(NEXT_OFFSETS, ()), strict=True))
        if any(ends.get(partition, 0) > offset for partition, offset in waiting.items()):
            for partition, chunk in _chunks(table.folder / file.path, loop.columns):
                rows = chunk.filter(
                    pa.array(chunk.column(OFFSET).to_numpy() >= waiting.get(partition, np.inf))
                )
                if rows.num_rows:
                    loop.replay(partition, rows)
    query = LoopQuery(loop)
    query.committed(last_commit(table))
    return query


def _chunks(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Chunks of at most ``CHUNK_ROWS`` rows of one partition each."""
    wanted = list(dict.fromkeys((*columns, PARTITION, OFFSET)))
    # The driver's memory must not grow with the batch: no row group is decoded ahead of the learner.
    for batch in storage.read_file(
        path, columns=wanted, batch_rows=CHUNK_ROWS, threads=1, memory_bytes=CHUNK_BYTES
    ):
        partitions = batch.column(PARTITION).to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), batch.num_rows]
        for start, end in itertools.pairwise(edges):
            if end > start:
                yield int(partitions[start]), batch.slice(start, end - start)
