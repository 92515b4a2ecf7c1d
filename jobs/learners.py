"""What a micro-batch asks of a learner, and which learners the settings switch on beside the linear click model.

In the flow: between ``microbatch``, which knows no learner by name, and ``tags``, ``recommend`` and ``ctr``, which are one each. Each brings
libraries that no other query needs, and is imported once it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pyspark import SparkContext

from headrace import storage
from headrace.jobs.progress import Progress
from headrace.jobs.settings import Settings
from headrace.streaming.contracts import Contract


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
