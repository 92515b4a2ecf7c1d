"""The Spark session that contestants of one case share in kind: each starts its own, all with these settings."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks.runners.protocol import Args
from headrace.jobs import settings
from headrace.jobs._session import session


def start_spark(args: Args) -> SparkSession:
    """A session with the Kafka connector; ``args`` gives master, driver_memory, connector and scratch."""
    scratch = Path(args["scratch"])
    spark = session(
        settings.Spark(
            master=args["master"],
            app_name="headrace-benchmark",
            driver_memory=args["driver_memory"],
            conf={
                "spark.local.dir": str(scratch / "local"),
                "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            },
        ),
        [Path(jar) for jar in args["connector"]],
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark
