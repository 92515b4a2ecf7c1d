"""Learn who wants what from a topic's events: the query of ``pipeline``, with the recommender in place of the click model.

    spark-submit jobs/train_recommender.py --config conf/headrace.toml

Events pass the same contract into the same kind of table, whose commits carry the snapshots; scores of each batch, ranked before it
was learnt, are rows of the table beside it, ``<table>_recommender``. A snapshot's file opens with ``Recommender.load``.
In the pipeline itself the same learner runs beside the click model when ``recommend.enabled`` is set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from headrace.jobs import pipeline
from headrace.jobs.recommend import Wanted
from headrace.jobs.settings import Settings
from headrace.streaming.contracts import load


def for_recommender(settings: Settings) -> Settings:
    """The settings with the recommender alone. Raises BadSettings where the contract does not say who wanted what."""
    Wanted.of(load(settings.stream.contract))
    return settings.model_copy(
        update={
            "recommend": settings.recommend.model_copy(update={"enabled": True}),
            "learner": settings.learner.model_copy(update={"enabled": False}),
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``spark-submit``; see ``pipeline.main``."""
    return pipeline.main(argv, prepare=for_recommender, name="train_recommender.py")


if __name__ == "__main__":
    sys.exit(main())
