"""Ad-hoc analysts beside the pipeline: small SQL over the table that the stream fills, in the same Spark application.

In the flow: threads of the main job, for the demo and for anybody who wants to see what interactive users meet. Each analyst
asks, looks at the answer for a while, and asks again. An answer that fails is an answer the analyst does not get; the stream
goes on.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from pyspark import InheritableThread
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from headrace.jobs.accounts import Accounts
from headrace.jobs.seen import PARTITION
from headrace.storage.errors import StorageError
from headrace.storage.spark import register

NAMES = ("ann", "bob", "cat", "dan")
LOOKS_S = 2.0
"""How long an analyst looks at an answer."""


class Analysts:
    """``count`` analysts who query ``table`` until the block ends; a context manager."""

    def __init__(self, spark: SparkSession, table: Path, count: int, accounts: Accounts) -> None:
        self._spark = spark
        self._table = table
        self._accounts = accounts
        self._gone = threading.Event()
        self._threads = [InheritableThread(target=self._work, args=(name,)) for name in NAMES[:count]]

    def __enter__(self) -> Analysts:
        if self._threads:
            register(self._spark)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._gone.set()
        for thread in self._threads:
            thread.join()

    def _work(self, name: str) -> None:
        while not self._gone.wait(LOOKS_S):
            try:
                with self._accounts.acting(name, "rows by partition"), self._accounts.timed(name):
                    rows = self._spark.read.format("headrace").load(str(self._table))
                    rows.groupBy(PARTITION).count().orderBy("count", ascending=False).limit(10).collect()
            except (PySparkException, StorageError) as error:
                logging.getLogger("headrace").info("analyst %s got no answer: %s", name, error)
