"""The peer in the table ``pipeline``: the same Spark job without contract, learner or our store, writing Parquet.

Kafka → ``from_json`` with the contract's columns → ``foreachBatch``, appending Parquet files compressed with zstd. Broken
messages become rows of nulls, late and repeated events are kept, and a batch that Spark replays is written twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql.functions import col, from_json
from pyspark.sql.types import StructType

from benchmarks.runners.protocol import Args, Result, Runner, serve
from benchmarks.runners.spark import start_spark


class Parquet(Runner):
    """A fresh folder and a fresh checkpoint each time."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._folder = Path(args["scratch"]) / "repetition"
        self._spark = start_spark(args)
        schema = StructType.fromDDL(args["ddl"])
        assert isinstance(schema, StructType)
        self._schema = schema

    def prepare(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self) -> Result:
        messages = (
            self._spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self._args["bootstrap"])
            .option("subscribe", self._args["topic"])
            .option("startingOffsets", "earliest")
            .option("maxOffsetsPerTrigger", self._args["max_events_per_batch"])
            .load()
        )
        events = messages.select(from_json(col("value").cast("string"), self._schema).alias("event")).select(
            "event.*"
        )
        query = (
            events.writeStream.option("checkpointLocation", str(self._folder / "checkpoint"))
            .foreachBatch(self._append)
            .trigger(availableNow=True)
            .start()
        )
        query.awaitTermination()
        return Result({"events": sum(progress.numInputRows for progress in query.recentProgress)})

    def _append(self, batch: DataFrame, batch_id: int) -> None:
        batch.write.mode("append").option("compression", "zstd").parquet(str(self._folder / "table"))

    def finish(self) -> None:
        """Every message became a row.

        Raises:
            ValueError: not so.
        """
        rows, wanted = (
            self._spark.read.parquet(str(self._folder / "table")).count(),
            self._args["messages"][self._args["topic"]],
        )
        if rows != wanted:
            raise ValueError(f"expected {wanted} rows in the Parquet files, found {rows}")

    def close(self) -> None:
        self._spark.stop()


if __name__ == "__main__":
    serve(Parquet)
