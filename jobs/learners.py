"""What a micro-batch asks of a learner, how rows come to one, and which the settings switch on beside the linear click model.

In the flow: between ``microbatch``, which knows the linear one alone by name, and ``linear``, ``tags``, ``recommend`` and ``ctr``, which are one each.
The last three bring libraries that no other query needs, and are imported once they are asked for. Rows come back from staged and stored files
through the store's own reader; memory is bounded by a chunk, whatever the size of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark import SparkContext

from headrace import storage
from headrace.jobs.progress import Progress
from headrace.jobs.seen import OFFSET, PARTITION
from headrace.jobs.settings import Settings
from headrace.streaming.contracts import Contract

CHUNK_BYTES = 32 << 20
CHUNK_ROWS = 8_192


class Learner(Protocol):
    """Learns the rows of one table, batch by batch; made as of the table's last commit."""

    @property
    def name(self) -> str:
        """Under which its CPU seconds are noted."""
        ...

    def feed(self, paths: Sequence[Path], after: Progress) -> None:
        """Predict, score and learn the rows of a batch's staged files; ``after`` is what the batch will have reached."""
        ...

    def publish(self, after: Progress) -> Mapping[str, bytes]:
        """Report, in a table of its own, under the batch's key, and say in ``after`` what there is to say.

        Called once it is sure that the batch will be committed.

        Returns:
            What the batch's own commit is to keep, by attachment.
        """
        ...

    def committed(self, commit: storage.Commit | None) -> None:
        """What was published is in ``commit``: executors predict by it from now on."""
        ...


def open_learners(
    context: SparkContext, table: storage.Table, contract: Contract, settings: Settings
) -> list[Learner]:
    """Those that are switched on, as of the table's last commit.

    Raises:
        BadSettings, WrongFeatures: the contract lacks what one of them needs.
        LearnerChanged: a snapshot was made with other settings.
    """
    found: list[Learner] = []
    if settings.tags.column is not None:
        from headrace.jobs.tags import open_tags  # river and pandas

        found.append(open_tags(table, contract, settings.tags, settings.tags.column, settings.seed))
    if settings.recommend.enabled:
        from headrace.jobs.recommend import open_recommender  # torch, river and pandas

        found.append(open_recommender(context, table, contract, settings.recommend, settings.seed))
    if settings.clicks.enabled:
        from headrace.jobs.ctr import open_clicks  # torch

        found.append(open_clicks(context, table, contract, settings.clicks, settings.seed))
    return found


def chunks(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """``columns`` of the files at ``paths``, in stored order: (partition, at most ``CHUNK_ROWS`` of its rows)."""
    wanted = list(dict.fromkeys((*columns, PARTITION, OFFSET)))
    for path in paths:
        # The driver's memory must not grow with the batch: no row group is decoded ahead of the learner.
        for batch in storage.read_file(
            path, columns=wanted, batch_rows=CHUNK_ROWS, threads=1, memory_bytes=CHUNK_BYTES
        ):
            partitions = batch.column(PARTITION).to_numpy()
            edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), batch.num_rows]
            for start, end in itertools.pairwise(edges):
                if end > start:
                    yield int(partitions[start]), batch.slice(start, end - start)
