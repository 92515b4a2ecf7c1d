"""The linear click model on the stream: labels joined, scored, then learnt, from staged files and once more from stored ones at a restart.

In the flow: one of the learners of a ``MicroBatch``, and the one whose predictions are stored in the rows. Memory is bounded by a chunk and by
what waits for its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import storage
from headrace.jobs.errors import LearnerChanged
from headrace.jobs.learners import chunks
from headrace.jobs.progress import LEARNER, Progress, attached, attachment_path, last_commit
from headrace.jobs.seen import NEXT_OFFSETS, OFFSET, PARTITIONS
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
    waiting = {partition: offset for partition, offset in loop.replay_from.items() if offset is not None}
    for file in table.files:
        ends = dict(zip(file.tags.get(PARTITIONS, ()), file.tags.get(NEXT_OFFSETS, ()), strict=True))
        if any(ends.get(partition, 0) > offset for partition, offset in waiting.items()):
            for partition, chunk in chunks([table.folder / file.path], loop.columns):
                rows = chunk.filter(
                    pa.array(chunk.column(OFFSET).to_numpy() >= waiting.get(partition, np.inf))
                )
                if rows.num_rows:
                    loop.replay(partition, rows)
    query = LinearQuery(loop)
    query.committed(last)
    return query
