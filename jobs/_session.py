"""The one place that builds a SparkSession.

Under ``spark-submit`` the JVM already runs and its ``spark-defaults.conf`` (found through ``SPARK_CONF_DIR``) has named the
connector's jars; started as plain Python the session starts the JVM itself and names them here, since ``spark.jars`` set any
later is not seen.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from pyspark.sql import SparkSession

from headrace import scheduler
from headrace.jobs.errors import ConnectorMissing
from headrace.jobs.settings import Scheduler, Spark

# What every job of ours needs, wherever it runs. `headrace setup` writes the same lines into spark-defaults.conf.
DEFAULTS: dict[str, str] = {
    "spark.sql.python.filterPushdown.enabled": "true",  # else the data source's pushFilters is refused
    "spark.sql.execution.arrow.maxRecordsPerBatch": "8192",  # what one decode call and one learner chunk hold
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",  # its bars would mix with our own lines
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.python.worker.reuse": "true",  # a new worker pays seconds of imports
}
LOOPBACK: dict[str, str] = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


def is_local(master: str) -> bool:
    """Whether every process of this master runs on this machine."""
    return master.startswith("local")


def scheduled(settings: Scheduler) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Spark properties and jars for a scheduler; none, and one line in the log, where its jar was never built.

    Raises:
        BadSetting: a weight or cap is not what it may be.
    """
    wanted = scheduler.Settings(
        settings.policy, settings.clock, settings.weights, settings.caps, history=settings.history
    )
    properties = wanted.properties()
    try:
        return properties, (scheduler.jar(),) if properties else ()
    except scheduler.JarMissing as missing:
        logging.getLogger("headrace").warning("Spark's own order it is: %s", missing)
        return {}, ()


def session(spark: Spark, connector: Sequence[Path] = (), fair: Scheduler | None = None) -> SparkSession:
    """Build (or join) the session for ``spark``; ``connector`` names the jars for a JVM that we start ourselves.

    ``fair`` orders its users, where we start the JVM; under ``spark-submit`` spark-defaults.conf says how.

    Workers take the interpreter of this process, because the first ``python3`` on the path may miss pyarrow.
    """
    # Spark logs the context of a failed query to stderr as one line of JSON, before the exception says the same.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(spark.app_name)
    submitted = (
        "PYSPARK_GATEWAY_PORT" in os.environ
    )  # set by spark-submit, whose --master and jars then stand
    if not submitted:
        builder = builder.master(spark.master).config("spark.driver.memory", spark.driver_memory)
        properties, plugin = scheduled(fair) if fair is not None else ({}, ())
        if jars := [*connector, *plugin]:
            builder = builder.config("spark.jars", ",".join(map(str, jars)))
        for key, value in properties.items():
            builder = builder.config(key, value)
    if is_local(spark.master):
        for key, value in LOOPBACK.items():
            builder = builder.config(key, value)
    for key, value in {**DEFAULTS, **spark.conf}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def require_kafka(context: SparkContext) -> None:
    """Fail now, in our words, where Spark lacks the Kafka source.

    Raises:
        ConnectorMissing: the class is not on the driver's class path.
    """
    jvm: Any = context._jvm  # its attributes are Java classes, known at run time only
    try:
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        loader.loadClass("org.apache.spark.sql.kafka010.KafkaSourceProvider")
    except Py4JJavaError as error:
        raise ConnectorMissing(
            "Spark has no Kafka connector; run `headrace setup`, then export SPARK_CONF_DIR to the folder it names"
        ) from error
