"""Scans and shuffles are cut by what they have cost, each for itself, and only where that is asked for and allowed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from headrace import scheduler

pytestmark = pytest.mark.spark

SLOW = "aggregate(sequence(1, 1000), 0D, (a, x) -> a + sqrt(x + id % 7))"
"""Half a millisecond or so of one core for each row, by the first compiler alone (`tests/conftest.py`)."""


@pytest.fixture(scope="module")
def parquet(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file with row groups small enough to be cut between."""
    path = str(tmp_path_factory.mktemp("scans") / "rows.parquet")
    spark.range(0, 3_000, 1, 1).selectExpr("id", "uuid() AS word").write.option(
        "parquet.block.size", 16 * 1024
    ).parquet(path)
    return path


@pytest.fixture
def groups(spark: SparkSession) -> Iterator[Callable[[Callable[[], Any]], list[int]]]:
    """Runs something and returns the number of tasks of each of its stages, in order."""
    context = spark.sparkContext
    tracker, number = context.statusTracker(), 0

    def stages(run: Callable[[], Any]) -> list[int]:
        nonlocal number
        number += 1
        group = f"stages {time.monotonic_ns()} {number}"
        context.setJobGroup(group, "tasks are counted")
        run()
        time.sleep(0.5)  # the listener bus tells later, also what things have cost
        ids = [
            stage
            for job in sorted(tracker.getJobIdsForGroup(group))
            for stage in tracker.getJobInfo(job).stageIds
        ]  # type: ignore[union-attr]
        infos = [tracker.getStageInfo(stage) for stage in sorted(set(ids))]
        return [info.numTasks for info in infos if info is not None and info.numCompletedTasks]

    yield stages
    context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def _scan(spark: SparkSession, path: str) -> DataFrame:
    return spark.read.parquet(path).selectExpr(f"sum({SLOW})")


def test_a_scan_is_cut_by_what_it_cost(spark: SparkSession, parquet: str, groups: Any) -> None:
    with scheduler.run_as(spark, "ann", job_class="slow scan"):
        first = groups(lambda: _scan(spark, parquet).collect())
        second = groups(lambda: _scan(spark, parquet).collect())
    with scheduler.run_as(spark, "ann", job_class="slow scan", partitioning=False):
        off = groups(lambda: _scan(spark, parquet).collect())
    assert max(first) == max(off) == 1
    assert max(second) >= 2  # how many in all depends on what launching a task costs this machine now
    assert spark.conf.get("spark.sql.files.minPartitionNum", None) is None, "a shared conf was changed"


def test_a_scan_that_is_cut_reads_the_same_rows(spark: SparkSession, parquet: str, groups: Any) -> None:
    rows = [_scan(spark, parquet).collect()[0][0]]
    with scheduler.run_as(spark, "ann", job_class="same rows"):
        for _ in range(2):
            groups(
                lambda: rows.append(spark.read.parquet(parquet).selectExpr(f"sum({SLOW})").collect()[0][0])
            )
        again = spark.read.parquet(parquet)
        assert again.count() == again.select("id").distinct().count() == 3_000
    assert rows == pytest.approx([rows[0]] * 3)


def test_a_shuffle_is_cut_by_what_it_cost(spark: SparkSession, groups: Any) -> None:
    """Many reducers, merged by Spark to one a core, then to what the class has cost; the session's own setting stands."""

    def run() -> None:
        words = (
            spark.range(0, 120_000, 1, 2)
            .selectExpr("id", "uuid() AS word")
            .groupBy("word")
            .agg({"id": "max"})
        )
        words.selectExpr(f"sum({SLOW.replace('1000', '40').replace('id', 'length(word)')})").collect()

    before = spark.conf.get("spark.sql.shuffle.partitions")
    advisory = spark.conf.get("spark.sql.adaptive.advisoryPartitionSizeInBytes")
    spark.conf.set("spark.sql.shuffle.partitions", "16")
    try:
        with scheduler.run_as(spark, "ann", job_class="slow shuffle"):
            first, second = groups(run), groups(run)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert first[1] <= 2
    assert second[1] > first[1]
    assert spark.conf.get("spark.sql.adaptive.advisoryPartitionSizeInBytes") == advisory


def test_a_query_with_state_keeps_its_partitions(spark: SparkSession, tmp_path: Path) -> None:
    """Its number is in the checkpoint: a restart of the same query must find it, whatever was learnt meanwhile."""
    counts = []
    for _ in range(2):
        stream = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 50).load()
        grouped = stream.selectExpr("value % 5 AS k").groupBy("k").count()
        query = (
            grouped.writeStream.outputMode("complete")
            .format("noop")
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .trigger(processingTime="0 seconds")
            .start()
        )
        while len(query.recentProgress) < 2:
            time.sleep(0.05)
            assert query.exception() is None
        query.stop()
        counts += [progress.stateOperators[0].numShufflePartitions for progress in query.recentProgress[:2]]
    assert set(counts) == {int(spark.conf.get("spark.sql.shuffle.partitions") or 0)}
