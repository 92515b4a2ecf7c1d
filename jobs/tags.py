"""Tags learnt beside the clicks: stored rows in, their labels predicted, scored and learnt; windows and events out, as rows.

In the flow: one of the learners of a ``MicroBatch``. Its snapshot travels in the batch's own manifest; what it reports goes to a
table of its own, committed under the same (query, batch) just before, so that a batch that is repeated reports nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from headrace import storage
from headrace.jobs.errors import LearnerChanged
from headrace.jobs.learners import chunks
from headrace.jobs.progress import TAGS, Progress, attached, last_commit, report_table
from headrace.jobs.settings import Tags
from headrace.jobs.sink import Sink
from headrace.streaming.contracts import Contract
from headrace.streaming.learners.errors import WrongFeatures
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.learners.ihomer.tagging import ROWS, Tagger, TagTask


class TagQuery:
    """The tag learner of one table.

    Attributes:
        table: where windows and events go.
    """

    name = "tags"

    def __init__(self, tagger: Tagger, table: storage.Table) -> None:
        self._tagger, self.table, self._sink = tagger, table, Sink(table)

    def feed(self, paths: Sequence[Path], after: Progress) -> None:
        """Predict, score and learn the rows of the staged files, in their order."""
        for _, chunk in chunks(paths, self._tagger.task.columns):
            self._tagger.feed(chunk)

    def publish(self, after: Progress) -> dict[str, bytes]:
        """Commit what there is to report under the batch's key; the snapshot for the batch's own manifest."""
        rows = self._tagger.report()
        files = [self.table.stage(rows.to_batches())] if rows.num_rows else []
        self._sink.commit(files, after.key)
        return {TAGS: self._tagger.to_bytes()}

    def committed(self, commit: storage.Commit | None) -> None:
        """Nobody but the driver predicts tags: nothing to open."""


def open_tags(table: storage.Table, contract: Contract, tags: Tags, column: str, seed: int) -> TagQuery:
    """The tag learner of ``column`` as of the table's last commit.

    Raises:
        WrongFeatures: the contract has no such list column, or lacks a feature.
        LearnerChanged: the snapshot is of another task; its windows alone may have been of another size.
    """
    task = task_of(contract, tags, column, seed)
    kept = attached(last_commit(table), TAGS)
    tagger = Tagger(task) if kept is None else Tagger.from_bytes(kept, task)
    learnt, now = ({"column": one.label, **asdict(one.features)} for one in (tagger.task, task))
    differing = [f"{name} was {learnt[name]}, is {now[name]}" for name in now if learnt[name] != now[name]]
    if differing:
        raise LearnerChanged(
            f"table '{table.path}' has tags learnt otherwise: {'; '.join(differing)}. Put them back, or write to a new table (and "
            "checkpoint) to begin with an empty learner"
        )
    tagger.task = task
    return TagQuery(tagger, report_table(table, "tags", tags.table, ROWS))


def task_of(contract: Contract, tags: Tags, column: str, seed: int) -> TagTask:
    """What the settings make of a contract: its ids and numbers are features, but for what names a person or an event."""
    schema, features = contract.schema, contract.features
    kind = schema.field(column).type if column in schema.names else None
    if kind is None or not pa.types.is_list(kind) or not pa.types.is_string(kind.value_type):
        raise WrongFeatures(
            f"tags.column = '{column}': expected a column of type list<string> in contract '{contract.topic}', came "
            f"{kind or 'no such column'}"
        )
    named = tuple(tags.features)
    absent = [name for name in named if name not in (*features.ids, *features.dense)]
    if absent:
        raise WrongFeatures(
            f"tags.features: {', '.join(absent)} is neither an id nor a number of contract '{contract.topic}'"
        )
    left_out = {features.key, features.event_id, *features.personal}
    ids = tuple(name for name in features.ids if (name in named if named else name not in left_out))
    dense = tuple(name for name in features.dense if (name in named if named else name not in left_out))
    spec = FeatureSpec(ids=ids, dense=dense, bits=tags.bits, seed=seed)
    return TagTask(column, spec, tags.window_events)
