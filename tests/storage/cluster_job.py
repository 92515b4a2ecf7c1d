"""What a cluster does with tables: batches, a filter, streams, tasks that fail; prints how many executors it had.

    spark-submit --master MASTER tests/storage/cluster_job.py FOLDER [WHERE]

Everything that is expected is asserted on the way. Given WHERE, what executors import must lie in a folder of that name.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import udf

from headrace import storage
from headrace.storage.spark import read, register


def failing(rows: DataFrame, last: int) -> DataFrame:
    """``rows`` with user 999 on purpose not to be had by attempts up to ``last``, late enough for others to have reported."""

    def fails(user: int) -> int:
        context = TaskContext.get()
        if user == 999 and context is not None and context.attemptNumber() <= last:
            time.sleep(0.5)
            raise RuntimeError("on purpose")
        return user

    return rows.withColumn("user", udf(fails, "bigint")("user"))


def refused(write: Callable[[], object]) -> None:
    """``write`` fails, with the reason its task gave."""
    with pytest.raises(Exception, match="on purpose"):
        write()


def only_what_is_listed(path: Path) -> storage.Table:
    """The newest version, whose files are all there are."""
    table = storage.open(path)
    assert {f"data/{found.name}" for found in (path / "data").iterdir()} == {
        file.path for file in table.files
    }
    return table


def history(table: storage.Table) -> list[tuple[str, int, int]]:
    """Of each version, newest first: what it did, with how many files and rows."""
    return [(commit.operation, len(commit.files), commit.num_rows) for commit in table.history()]


def batches(spark: SparkSession, path: Path) -> None:
    """One commit for each write, however many tasks it has and however often they are tried; none for one that fails."""
    rows = spark.range(0, 1000, numPartitions=4).selectExpr(
        "id AS user", "id * 2 AS twice", "concat('w', id) AS word"
    )

    def write(frame: DataFrame, mode: str = "append") -> None:
        frame.write.format("headrace").mode(mode).save(str(path))

    write(failing(rows, last=0))
    assert history(only_what_is_listed(path)) == [("append", 4, 1000), ("create", 0, 0)]
    refused(lambda: write(failing(rows, last=99)))
    assert only_what_is_listed(path).version == 2
    write(rows, "overwrite")
    assert history(storage.open(path)) == [("overwrite", 4, 1000), ("append", 4, 1000), ("create", 0, 0)]


def filters(spark: SparkSession, path: Path) -> None:
    """No row leaves the source that a filter, handed down, drops; nor a column that was not named."""
    frame = read(spark, path, ["user", "twice"]).where("user >= 990")
    assert frame.columns == ["user", "twice"]
    assert {row["twice"] for row in frame.collect()} == {2 * user for user in range(990, 1000)}
    source = frame._jdf.queryExecution().executedPlan().collectLeaves().head()
    assert source.metrics().apply("numOutputRows").value() == 10, source.toString()


def streams(spark: SparkSession, path: Path, copy: Path) -> None:
    """One commit for a batch of a stream, which a batch that failed and is tried again is, too."""

    def follow(frame: DataFrame) -> None:
        writer = frame.writeStream.format("headrace").option("checkpointLocation", f"{copy}-checkpoint")
        assert writer.trigger(availableNow=True).start(str(copy)).awaitTermination(120)

    source = read(spark, path, ["user"], stream=True)
    refused(lambda: follow(failing(source, last=99)))
    assert history(only_what_is_listed(copy)) == [("create", 0, 0)]
    follow(source)
    table = only_what_is_listed(copy)
    assert [commit.key and commit.key[1] for commit in table.history()] == [0, None]
    assert sorted(table.to_table()["user"].to_pylist()) == list(range(1000))


def executors(spark: SparkSession, where: str) -> int:
    """How many there are; what they import lies below ``where``."""

    def imported(rows: Iterator[int]) -> Iterator[str]:
        import headrace.storage

        yield str(headrace.storage.__file__)

    places = set(spark.sparkContext.range(4, numSlices=4).mapPartitions(imported).collect())
    assert all(where in Path(place).parts for place in places), places
    return int(spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) - 1


def main(folder: Path, where: str) -> None:
    spark = SparkSession.builder.getOrCreate()
    register(spark)
    batches(spark, folder / "t")
    filters(spark, folder / "t")
    streams(spark, folder / "t", folder / "copy")
    n = executors(spark, where)
    spark.stop()
    print(f"fine with {n} executors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "storage")
