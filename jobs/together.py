"""One click model learnt by several executors at once, step by step, from labelled rows of a table's file.

    model = learn_together(spark.sparkContext, model, path, label="clicked", workers=2, folder=shared)

In the flow: for those who outgrow one trainer: a backfill, or a network too large for the driver. A barrier stage starts one process an executor
slot; all read the same rows in the same order and take each step together (see ``streaming.learners.adapt_dhm.parallel``). ``folder`` is a
path that all nodes mount: they meet there, and nobody listens for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyspark import BarrierTaskContext, SparkContext

from headrace import storage
from headrace.jobs.errors import JobError

if TYPE_CHECKING:
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier


class Apart(JobError, RuntimeError):
    """Processes that learnt together ended with different models; none of them is kept."""


def learn_together(
    context: SparkContext, model: AdaptDHMClassifier, path: Path, *, label: str, workers: int, folder: Path
) -> AdaptDHMClassifier:
    """``model`` after the rows of the file at ``path``, learnt by ``workers`` processes; ``label`` names its column of 0 and 1.

    Raises:
        ValueError: the model has no fields yet.
        Apart: the processes do not agree.
    """
    if model.fields is None:
        raise ValueError(
            "expected a model that knows its fields, came one that has not; name ids and numbers, or learn a row first"
        )
    kept, meet = model.to_bytes(), str(folder / f".meet-{uuid.uuid4().hex}")

    def work(_: Iterable[int]) -> Iterator[bytes]:
        yield _learn(kept, str(path), label, meet, workers)

    try:
        found = context.parallelize(range(workers), workers).barrier().mapPartitions(work).collect()
    finally:
        Path(meet).unlink(missing_ok=True)
    if len(set(found)) != 1:
        raise Apart(
            f"{len(set(found))} different models came of {workers} processes; the nodes' libraries may differ. Nothing was kept"
        )
    return type(model).from_bytes(found[0])


def _learn(kept: bytes, path: str, label: str, meet: str, workers: int) -> bytes:
    """On an executor: every row of the file, in steps that all take together."""
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
    from headrace.streaming.learners.adapt_dhm.parallel import Together

    task = BarrierTaskContext.get()
    host = task.getTaskInfos()[0].address
    model = AdaptDHMClassifier.from_bytes(kept)
    assert model.fields is not None
    assert model.model is not None
    names = [*model.fields.ids, *model.fields.numbers, label]
    with Together(
        meet, task.partitionId(), workers, loopback=host.startswith(("127.", "localhost"))
    ) as together:
        for batch in storage.read_file(Path(path), columns=names, batch_rows=model.batch, threads=1):
            inputs = model.fields.arrow(batch)
            labels = batch.column(label).to_numpy(zero_copy_only=False).astype(np.float32)
            together.learn(model.model, inputs.keys, inputs.numbers, labels, float(model.n_learned))
            model.n_learned += len(labels)
            model.n_seen += len(labels)
    return model.to_bytes()
