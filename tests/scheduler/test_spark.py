"""The plugin within a real application: who is served when, as whom, and what people are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark import InheritableThread
from pyspark.sql import SparkSession

from headrace import scheduler
from headrace.scheduler import BadSetting, NotInstalled
from headrace.scheduler.control import partitions

pytestmark = pytest.mark.spark


def spin(seconds: float) -> Callable[[Any], None]:
    """A task that works for so many CPU seconds."""

    def work(_: Any) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return work


@pytest.fixture
def calm(spark: SparkSession) -> Iterator[SparkSession]:
    """The shared session, with nobody's jobs in it before and after; weights and caps are put back."""
    spark.sparkContext.parallelize(range(4), 4).foreach(
        spin(0.01)
    )  # the first Python workers take seconds to start
    _await(lambda: not scheduler.snapshot(spark).jobs)
    yield spark
    for user in ("heavy", "double", "single"):
        scheduler.set_weight(spark, user, 1.0)
        scheduler.set_cap(spark, user, 1.0)
    _await(lambda: not scheduler.snapshot(spark).jobs)


def _await(ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Jobs:
    """Jobs in threads of their own, each as a user; how long they took, and at what moment they ended."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.ended: dict[str, float] = {}
        self._threads: list[InheritableThread] = []

    def start(
        self,
        user: str,
        name: str,
        tasks: int,
        seconds: float,
        **more: Any,
    ) -> None:
        def run() -> None:
            with scheduler.run_as(self.spark, user, **more):
                self.spark.sparkContext.parallelize(range(tasks), tasks).foreach(spin(seconds))
            self.ended[name] = time.monotonic()

        self._threads.append(InheritableThread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_a_small_job_passes_a_backfill(calm: SparkSession) -> None:
    jobs = Jobs(calm)
    jobs.start("heavy", "backfill", 30, 0.1, cost_ms=3_000)
    _await(lambda: any(job.running for job in scheduler.snapshot(calm).jobs))
    jobs.start("ann", "query", 2, 0.05, cost_ms=100)
    jobs.join()
    assert jobs.ended["query"] < jobs.ended["backfill"] - 0.5
    ended = {row.user: row for row in scheduler.snapshot(calm).ended}
    _await(lambda: "ann" in {row.user for row in scheduler.snapshot(calm).ended})
    ended = {row.user: row for row in scheduler.snapshot(calm).ended}
    assert ended["ann"].estimate_ms == 100.0
    assert ended["ann"].spent_ms >= 100.0


def test_weights_share_a_busy_machine(calm: SparkSession) -> None:
    """Two to one while both wait; the exact ratio is the model's to test and the benchmark's to measure.

    At any moment a user may be ahead by a part of a job and by the tasks that run, and a machine that stalls makes those long.
    So jobs are small, tasks sleep, the first 300 ms are not counted, and the median of many looks is taken.
    """
    scheduler.set_weight(calm, "double", 2.0)
    context, futures = calm.sparkContext, []
    for user, jobs in {"double": 85, "single": 45}.items():
        scheduler.set_cap(calm, user, 0.001)  # until all jobs are there
        with scheduler.run_as(calm, user, cost_ms=60):
            for _ in range(jobs):
                tasks: Any = context.parallelize(range(2), 2).map(lambda _: time.sleep(0.03))
                futures.append(tasks._to_java_object_rdd().countAsync())
    _await(lambda: len(scheduler.snapshot(calm).jobs) > 120)  # one or two were begun before the cap was known
    idle = _served(calm)
    for user in ("double", "single"):
        scheduler.set_cap(calm, user, 1.0)
    _await(lambda: all(_served(calm)[user] > idle[user] + 300 for user in ("double", "single")))
    before, ratios = _served(calm), []
    while True:
        now = scheduler.snapshot(calm)
        if {job.user for job in now.jobs if job.waiting} != {"double", "single"}:
            break
        gained = {row.user: row.served_ms - before.get(row.user, 0.0) for row in now.users}
        if gained["single"] > 750:
            ratios.append(gained["double"] / gained["single"])
        time.sleep(0.02)
    for future in futures:
        future.get()
    assert len(ratios) > 10, "one of them had no more work"
    assert 1.75 < statistics.median(ratios) < 2.25


def test_a_capped_user_leaves_cores_free_and_still_ends(calm: SparkSession) -> None:
    """Half of two cores is as much time as passes, half a second more at first, and a second for the tasks that begin last.

    The whole job is weighed, so that a machine that stalls makes the share less. Without a cap it is nearly twice the time.
    """

    def backfill() -> None:
        with scheduler.run_as(calm, "heavy"):
            calm.sparkContext.parallelize(range(50), 50).foreach(lambda _: time.sleep(0.1))

    scheduler.set_cap(calm, "heavy", 0.5)
    before, began = _served(calm), time.monotonic()
    thread = InheritableThread(target=backfill)
    thread.start()
    _await(lambda: any(scheduler.why(calm, job.job).capped for job in scheduler.snapshot(calm).jobs))
    thread.join()
    passed_ms = (time.monotonic() - began) * 1_000
    _await(lambda: not scheduler.snapshot(calm).jobs)
    assert 5_000 <= _since(calm, before, "heavy") <= passed_ms + 500 + 1_000


def _served(spark: SparkSession) -> dict[str, float]:
    return {user.user: user.served_ms for user in scheduler.snapshot(spark).users}


def _since(spark: SparkSession, before: dict[str, float], user: str) -> float:
    return _served(spark).get(user, 0.0) - before.get(user, 0.0)


def test_a_barrier_stage_runs_under_a_flood_of_small_jobs(calm: SparkSession) -> None:
    stop = threading.Event()

    def flood(user: str) -> None:
        with scheduler.run_as(calm, user, cost_ms=60):
            while not stop.is_set():
                calm.sparkContext.parallelize(range(2), 2).foreach(spin(0.03))

    floods = [InheritableThread(target=flood, args=(f"small{n}",)) for n in range(3)]
    for thread in floods:
        thread.start()
    try:
        began = time.monotonic()
        with scheduler.run_as(calm, "gang", cost_ms=60_000):
            rows = (
                calm.sparkContext.parallelize(range(2), 2)
                .barrier()
                .mapPartitions(lambda part: [sum(part)])
                .collect()
            )
        took = time.monotonic() - began
    finally:
        stop.set()
        for thread in floods:
            thread.join()
    assert rows == [0, 1]
    assert took < 12


def test_a_stage_is_run_again_whose_shuffle_is_lost(calm: SparkSession) -> None:
    """The reduce tasks do not find what the map tasks wrote; Spark runs the map stage again, and the job's books stay right."""
    local, began = Path(calm.conf.get("spark.local.dir") or ""), time.time()
    mapped = calm.sparkContext.accumulator(0)

    def key(x: int) -> tuple[int, int]:
        mapped.add(1)
        return x % 2, x

    with scheduler.run_as(calm, "retried", cost_ms=50):
        sums = calm.sparkContext.parallelize(range(8), 4).map(key).reduceByKey(lambda a, b: a + b, 2)
        assert sorted(sums.collect()) == [(0, 12), (1, 16)]
        written = [path for path in local.rglob("shuffle_*_0.data") if path.stat().st_mtime >= began - 1]
        for path in written:
            path.unlink()
        assert sorted(sums.collect()) == [(0, 12), (1, 16)]
    assert written
    assert mapped.value > 8, "no stage was run again"
    _await(lambda: not scheduler.snapshot(calm).jobs)
    snapshot = scheduler.snapshot(calm)
    assert not snapshot.stepped_back
    assert sum(user.running for user in snapshot.users) == 0


def test_a_job_is_one_sql_execution_whatever_stages_it_has(calm: SparkSession) -> None:
    with scheduler.run_as(calm, "sql", job_class="grouped"):
        calm.range(1_000).selectExpr("id % 7 AS k").groupBy("k").count().orderBy("k").collect()
    _await(lambda: "sql" in {row.user for row in scheduler.snapshot(calm).ended})
    jobs = [row.job for row in scheduler.snapshot(calm).ended if row.user == "sql"]
    assert len(jobs) == 1
    assert jobs[0].startswith("execution ")


def test_a_micro_batch_is_one_job_of_its_query(calm: SparkSession, tmp_path: Any) -> None:
    def two_actions(batch: Any, _: int) -> None:
        batch.count()
        batch.selectExpr("sum(value)").collect()

    stream = (
        calm.readStream.format("rate-micro-batch")
        .option("rowsPerBatch", 20)
        .option("numPartitions", 2)
        .load()
    )
    query = stream.writeStream.foreachBatch(two_actions).option("checkpointLocation", str(tmp_path)).start()
    try:
        _await(lambda: len([r for r in scheduler.snapshot(calm).ended if query.id in r.job]) >= 2)
    finally:
        query.stop()
    ended = [row for row in scheduler.snapshot(calm).ended if query.id in row.job]
    assert {row.user for row in ended} == {f"query {query.id}"}
    assert len({row.job for row in ended}) == len(ended)


@pytest.mark.parametrize(
    ("properties", "user"),
    [
        ({"spark.job.tags": "x,SparkConnect_OperationTag_User_eve_Session_1_Operation_2"}, "eve"),
        ({"kyuubi.session.user": "kim"}, "kim"),
        ({"spark.scheduler.pool": "etl"}, "etl"),
        ({"spark.jobGroup.id": "nightly"}, "nightly"),
        (
            {"spark.jobGroup.id": "nightly", "spark.scheduler.pool": "etl", "kyuubi.session.user": "kim"},
            "kim",
        ),
        ({"headrace.user": "ann", "kyuubi.session.user": "kim"}, "ann"),
    ],
)
def test_users_are_known_without_code(calm: SparkSession, properties: dict[str, str], user: str) -> None:
    before = _ended(calm, user)
    context = calm.sparkContext
    try:
        for name, value in properties.items():
            context.setLocalProperty(name, value)
        context.parallelize([1], 1).count()
    finally:
        for name in properties:
            context.setLocalProperty(name, None)  # type: ignore[arg-type]
    _await(lambda: _ended(calm, user) == before + 1)


def _ended(spark: SparkSession, user: str) -> int:
    return sum(row.user == user for row in scheduler.snapshot(spark).ended)


def test_run_as_puts_back_what_was_there(calm: SparkSession) -> None:
    context = calm.sparkContext
    with scheduler.run_as(calm, "outer", weight=2.0, job_class="a"):
        with contextlib.suppress(ZeroDivisionError), scheduler.run_as(calm, "inner", cost_ms=5):
            assert context.getLocalProperty("headrace.user") == "inner"
            assert context.getLocalProperty("headrace.weight") is None, (
                "the outer user's weight is not the inner one's"
            )
            raise ZeroDivisionError
        assert context.getLocalProperty("headrace.user") == "outer"
        assert context.getLocalProperty("headrace.costMs") is None
        assert context.getLocalProperty("headrace.jobClass") == "a"
    assert context.getLocalProperty("headrace.user") is None


def test_threads_work_for_the_user_that_started_them_and_for_no_other(calm: SparkSession) -> None:
    context = calm.sparkContext

    def who() -> str | None:
        return context.getLocalProperty("headrace.user")

    found: list[str | None] = []
    with scheduler.run_as(calm, "ann"):
        thread = InheritableThread(target=lambda: found.append(who()))
        thread.start()
        thread.join()
    with ThreadPoolExecutor(1) as pool:
        with scheduler.run_as(calm, "ann"):
            found.append(pool.submit(scheduler.carry(who)).result())
        found.append(pool.submit(who).result())
        with scheduler.run_as(calm, "bob"):
            found.append(pool.submit(scheduler.carry(who)).result())
    assert found == ["ann", "ann", None, "bob"]


def test_coroutines_carry_their_user_into_threads(calm: SparkSession) -> None:
    def who() -> str | None:
        return calm.sparkContext.getLocalProperty("headrace.user")

    async def query(user: str) -> str | None:
        with scheduler.run_as(calm, user):
            carried = scheduler.carry(who)
        await asyncio.sleep(0)
        return await asyncio.to_thread(carried)

    async def both() -> list[str | None]:
        return list(await asyncio.gather(query("ann"), query("bob")))

    assert asyncio.run(both()) == ["ann", "bob"]
    assert who() is None


def test_a_cost_is_learnt_and_scaled_by_size(calm: SparkSession) -> None:
    for _ in range(2):
        with scheduler.run_as(calm, "learn", job_class="sleeping", size=1_000):
            calm.sparkContext.parallelize(range(4), 4).foreach(lambda _: time.sleep(0.1))
    _await(lambda: _ended(calm, "learn") == 2)
    snapshot = scheduler.snapshot(calm)
    first, second = (row for row in snapshot.ended if row.user == "learn")
    assert second.estimate_ms == pytest.approx(first.spent_ms, rel=0.02)
    slept_us = 400e3
    learnt_us = (0.7 * first.spent_ms + 0.3 * second.spent_ms) * 1e3  # launching included
    for scale in (1, 10, 100):
        least, most = (
            partitions(scale * cost_us, 500e3, snapshot.overhead_ms * 1e3, snapshot.cores)
            for cost_us in (slept_us, learnt_us)
        )
        assert least <= scheduler.plan_partitions(calm, "sleeping", scale * 1_000) <= most
    assert scheduler.plan_partitions(calm, "never seen", 1_000) == 2
    with pytest.raises(BadSetting, match="above 0"):
        scheduler.plan_partitions(calm, "sleeping", 0)


def test_why_says_who_is_ahead(calm: SparkSession) -> None:
    """What they are said to cost leaves room for a machine that stalls: a job of twice what was said goes behind the next."""
    jobs = Jobs(calm)
    jobs.start("heavy", "first", 24, 0.1, cost_ms=20_000)
    _await(lambda: any(job.running for job in scheduler.snapshot(calm).jobs))
    jobs.start("heavy", "second", 12, 0.1, cost_ms=60_000)
    _await(lambda: len(scheduler.snapshot(calm).jobs) == 2)
    snapshot = scheduler.snapshot(calm)
    last, first = scheduler.why(calm, snapshot.jobs[1].job), scheduler.why(calm, snapshot.jobs[0].job)
    scheduler.set_cap(calm, "heavy", 0.01)
    capped = scheduler.why(calm, snapshot.jobs[1].job)
    scheduler.set_cap(calm, "heavy", 1.0)
    jobs.join()
    assert "waits behind 1 jobs of heavy" in str(last)
    assert "first" in str(first)
    assert "cap" in str(capped)
    assert "heavy" in str(snapshot)
    assert snapshot.cores == 2
    with pytest.raises(BadSetting, match="'987654'"):
        scheduler.why(calm, "987654")


def test_gauges_are_few_and_true(calm: SparkSession) -> None:
    with scheduler.run_as(calm, "gauged"):
        calm.sparkContext.parallelize(range(2), 2).foreach(spin(0.02))
    _await(lambda: _gauges(calm)["response.p50.ms"] > 0)  # a job that ended may still get a further stage
    gauges = _gauges(calm)
    assert gauges["cores"] == 2.0
    assert gauges["stepped.back"] == 0.0
    assert gauges["top.1.served.s"] > 0
    assert gauges["response.p95.ms"] >= gauges["response.p50.ms"]
    assert not [name for name in gauges if "gauged" in name], "no series is named for a user"
    assert len(gauges) < 20


def _gauges(spark: SparkSession) -> dict[str, float]:
    """Every gauge of the plugin, as Spark's own page of metrics has it."""
    before = f"{spark.sparkContext.applicationId}.driver.plugin.headrace.scheduler.Plugin."
    with urllib.request.urlopen(f"{spark.sparkContext.uiWebUrl}/metrics/json/", timeout=30) as page:
        gauges = json.load(page)["gauges"]
    return {
        name.removeprefix(before): gauge["value"] for name, gauge in gauges.items() if name.startswith(before)
    }


def test_changes_while_running_are_checked(calm: SparkSession) -> None:
    with pytest.raises(BadSetting, match="got nan"):
        scheduler.set_weight(calm, "ann", float("nan"))
    with pytest.raises(BadSetting, match=r"got 1\.5"):
        scheduler.set_cap(calm, "ann", 1.5)
    with pytest.raises(BadSetting, match="cost_ms"), scheduler.run_as(calm, "ann", cost_ms=-1):
        pass
    assert calm.sparkContext.getLocalProperty("headrace.user") is None


def test_a_session_without_the_plugin_is_told_how_to_get_it() -> None:
    class Plain:
        sparkContext = None

    with pytest.raises(NotInstalled, match=r"scheduler\.configure\(builder\)"):
        scheduler.snapshot(Plain())  # type: ignore[arg-type]
