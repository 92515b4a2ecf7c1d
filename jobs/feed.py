"""Where a demo's events come from: the generator, or a file; sent by a thread of their own.

In the flow: the very beginning. ``produced`` counts events as they are handed to the producer, which is what the pipeline's
counters must add up to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.jobs.errors import JobError
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.contracts import load
from headrace.streaming.producer import Producer
from headrace.streaming.replay import FORMS, replay

PER_S = 4_000  # leaves half of two cores to Spark, and a demo of 200,000 events still ends within two minutes
HUGE_BYTES = 600 * 1024  # above what the job accepts, below what the broker does


class UnknownData(JobError, ValueError):
    """A file whose form cannot be guessed from its name."""
