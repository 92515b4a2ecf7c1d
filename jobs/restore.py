"""Rebuilds a query's state from its table: the learner from its last snapshot, what is pending from the last rows.

In the flow: once, before the query starts. Impressions that still wait for their label are not part of the snapshot; feeding
the loop the rows of the last window again, without learning from them, brings the same ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from headrace import storage
from headrace.jobs.microbatch import MicroBatch
from headrace.jobs.progress import LEARNER, Progress
from headrace.jobs.seen import RecentFile, chunks, recent_files, within_horizon
from headrace.jobs.settings import Settings
from headrace.streaming.contracts import Contract
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.loop import Loop
