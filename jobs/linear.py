"""The linear click model on the stream: labels joined, scored, then learnt, from staged files and once more from stored ones at a restart.

In the flow: one of the learners of a ``MicroBatch``, and the one whose predictions are stored in the rows. Memory is bounded by a chunk and by
what waits for its label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import storage
from headrace.jobs.errors import LearnerChanged
from headrace.jobs.learners import CHUNK_ROWS, chunks
from headrace.jobs.progress import LEARNER, Progress, attached, attachment_path, last_commit
from headrace.jobs.seen import NEXT_OFFSETS, OFFSET, PARTITION, PARTITIONS, are_of_batches
from headrace.jobs.settings import Learner
from headrace.streaming.contracts import Contract
from headrace.streaming.learners.ftrl import Rates
from headrace.streaming.loop import Loop, Snapshot, task_of


class LinearQuery:
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
        for partition, chunk in chunks(paths, self._loop.columns):
            self._loop.feed(partition, chunk)

    def publish(self, after: Progress) -> dict[str, bytes]:
        """The next version; ``after`` gets its metrics."""
        published = self._loop.finish_batch()
        after.metrics = published.metrics
        return {LEARNER: published.data}

    def committed(self, commit: storage.Commit | None) -> None:
        """Predict by this commit's version from now on."""
        self.snapshot = attachment_path(commit, LEARNER)


def open_linear(table: storage.Table, contract: Contract, learner: Learner, seed: int) -> LinearQuery | None:
    """The learner as of the table's last commit; ``None`` where it is switched off or the contract has no label.

    Impressions that still wait for their label are not in the snapshot: the rows from the oldest of them on are fed again,
    without being learnt again.

    Raises:
        LearnerChanged: the snapshot is of another learner than the settings and the contract describe.
    """
    if not learner.enabled or contract.features.label is None:
        return None
    last = last_commit(table)
    snapshot = attached(last, LEARNER)
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
    for partition, rows in _rows_from(table, loop.replay_from, loop.columns, task.event_time):
        loop.replay(partition, rows)
    query = LinearQuery(loop)
    query.committed(last)
    return query


def _rows_from(
    table: storage.Table, offsets: Mapping[int, int], columns: Sequence[str], event_time: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The stored rows of each partition of ``offsets`` from its offset on, in the order in which they came."""
    if are_of_batches(table.files):
        for file in table.files:
            ends = dict(zip(file.tags[PARTITIONS], file.tags[NEXT_OFFSETS], strict=True))
            if any(ends.get(partition, 0) > offset for partition, offset in offsets.items()):
                for partition, chunk in chunks([table.folder / file.path], columns):
                    wanted = chunk.column(OFFSET).to_numpy() >= offsets.get(partition, np.inf)
                    if wanted.any():
                        yield partition, chunk.filter(pa.array(wanted))
        return
    # Compaction has put them in another order. They are what waits for its label, which is held in memory anyway. A message may
    # hold many events, whose order among each other is not kept: that of their times stands in for it.
    names = list(dict.fromkeys((*columns, event_time, OFFSET)))
    for partition, offset in offsets.items():
        wanted = [(PARTITION, "==", partition), (OFFSET, ">=", offset)]
        rows = table.scan(names, filter=wanted).to_table()
        ordered = rows.sort_by([(OFFSET, "ascending"), (event_time, "ascending")])
        for chunk in ordered.combine_chunks().to_batches(max_chunksize=CHUNK_ROWS):
            yield partition, chunk
