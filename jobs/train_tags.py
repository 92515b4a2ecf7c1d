"""Learn the tags of a topic's events: the query of ``pipeline``, with the tag learner in place of the click model.

    spark-submit jobs/train_tags.py --config conf/headrace.toml

Events pass the same contract into the same kind of table; windows of scores, drift and cluster events are rows of the table
beside it, ``<table>_tags``. In the pipeline itself the same learner runs beside the click model when ``tags.column`` is set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pyarrow as pa

from headrace.jobs import pipeline
from headrace.jobs.errors import BadSettings
from headrace.jobs.settings import Settings
from headrace.streaming.contracts import load


def for_tags(settings: Settings) -> Settings:
    """The settings with the tag learner alone; the contract's only list<string> column is taken where none is named.

    Raises:
        BadSettings: none is named, and the contract has none or several.
    """
    column = settings.tags.column
    if column is None:
        schema = load(settings.stream.contract).schema
        found = [field.name for field in schema if field.type == pa.list_(pa.string())]
        if len(found) != 1:
            raise BadSettings(
                f"expected one column of type list<string> in contract '{settings.stream.contract}', found "
                f"{', '.join(found) or 'none'}; name the tags with tags.column"
            )
        column = found[0]
    return settings.model_copy(
        update={
            "tags": settings.tags.model_copy(update={"column": column}),
            "learner": settings.learner.model_copy(update={"enabled": False}),
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``spark-submit``; see ``pipeline.main``."""
    return pipeline.main(argv, prepare=for_tags, name="train_tags.py")


if __name__ == "__main__":
    sys.exit(main())
