"""Learn clicks of many domains from a topic's events: the query of ``pipeline``, with AdaptDHM in place of the linear click model.

    spark-submit jobs/train_ctr.py --config conf/headrace.toml

Events pass the same contract into the same kind of table, whose commits carry the snapshots and what waits for its label; scores of
each batch, beside the same network without routing, are rows of the table beside it, ``<table>_clicks``. In the pipeline itself the
same learner runs beside the linear click model when ``clicks.enabled`` is set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from headrace.jobs import pipeline
from headrace.jobs.settings import Settings


def for_clicks(settings: Settings) -> Settings:
    """The settings with AdaptDHM alone."""
    return settings.model_copy(
        update={
            "clicks": settings.clicks.model_copy(update={"enabled": True}),
            "learner": settings.learner.model_copy(update={"enabled": False}),
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``spark-submit``; see ``pipeline.main``."""
    return pipeline.main(argv, prepare=for_clicks, name="train_ctr.py")


if __name__ == "__main__":
    sys.exit(main())
