"""Applications of their own for the tests, each a process that prints one line of JSON: ``applications.py NAME ARGUMENT…``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import InheritableThread, TaskContext
from pyspark.sql import SparkSession

from headrace import scheduler
from headrace.scheduler import NotInstalled, build

QUIET = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.memory": "600m",
    "spark.executor.extraJavaOptions": os.environ.get("SPARK_SUBMIT_OPTS", ""),
    "spark.executor.cores": "1",
    "spark.cores.max": "2",
    "spark.log.level": "WARN",
}


OTHER = """
package other;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.*;
import org.apache.spark.scheduler.*;
/** Another scheduler plugin, which came first. */
public class Plugin implements SparkPlugin {
  static class Theirs extends Pool { Theirs() { super("default", SchedulingMode.FIFO(), 0, 1); } }
  @Override public ExecutorPlugin executorPlugin() { return null; }
  @Override public DriverPlugin driverPlugin() {
    return new DriverPlugin() {
      private SparkContext context;
      @Override public java.util.Map<String, String> init(SparkContext context, PluginContext plugin) {
        this.context = context;
        return java.util.Map.of();
      }
      @Override public void registerMetrics(String application, PluginContext plugin) {
        Pool root = ((TaskSchedulerImpl) context.taskScheduler()).rootPool();
        root.removeSchedulable(root.getSchedulableByName("default"));
        root.addSchedulable(new Theirs());
      }
    };
  }
}
"""


def builder(master: str, conf: dict[str, str]) -> SparkSession.Builder:
    made = SparkSession.Builder().master(master).appName("headrace-scheduler-tests")
    for name, value in {**QUIET, **conf}.items():
        made = made.config(name, value)
    return made


def run(spark: SparkSession, user: str, tasks: int, seconds: float, **more: Any) -> None:
    """One job of sleeping tasks, which do not fight for the machine's two cores."""
    with scheduler.run_as(spark, user, **more):
        spark.sparkContext.parallelize(range(tasks), tasks).foreach(lambda _: time.sleep(seconds))


def race(spark: SparkSession) -> dict[str, float]:
    """A backfill of two jobs, then a small query; seconds from the query's start until each is done."""
    run(spark, "warm", 4, 0.1)
    ended: dict[str, float] = {}

    def timed(name: str, *job: Any, **more: Any) -> None:
        run(spark, *job, **more)
        ended[name] = time.monotonic()

    threads = [
        InheritableThread(target=timed, args=(f"heavy{n}", "heavy", 10, 0.3), kwargs={"cost_ms": 3_000})
        for n in range(2)
    ]
    threads.append(InheritableThread(target=timed, args=("query", "ann", 2, 0.1), kwargs={"cost_ms": 200}))
    for thread in threads[:2]:
        thread.start()
    time.sleep(0.8)
    began = time.monotonic()
    threads[2].start()
    for thread in threads:
        thread.join()
    return {name: end - began for name, end in ended.items()}


def speculation(master: str) -> dict[str, Any]:
    """The race, and then a job whose last task hangs where it runs first; Spark copies it only to another host."""
    conf = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.multiplier": "3",
        "spark.speculation.minTaskRuntime": "500ms",
    }
    spark = scheduler.configure(builder(master, conf), partitioning=False).getOrCreate()
    found: dict[str, Any] = {"ended": race(spark)}

    def hangs(x: int) -> tuple[int, int]:
        task = TaskContext.get()
        assert task is not None
        time.sleep(90 if x == 5 and task.attemptNumber() == 0 else 0.1)
        return x, task.attemptNumber()

    began = time.monotonic()
    with scheduler.run_as(spark, "hung"):
        found["copied"] = dict(spark.sparkContext.parallelize(range(6), 6).map(hangs).collect())[5]
    found["took"] = time.monotonic() - began
    while scheduler.snapshot(spark).jobs and time.monotonic() < began + 50:
        time.sleep(0.1)  # Spark kills the first attempt's worker after a while; its core is not free before
    found["snapshot"] = _told(spark)
    return found


def cluster() -> dict[str, Any]:
    """The race on a local cluster; then tasks that fail, workers that die, exclusion and dynamic allocation, all in one application."""
    conf = {
        "spark.task.maxFailures": "4",
        "spark.excludeOnFailure.task.maxTaskAttemptsPerExecutor": "1",
        "spark.excludeOnFailure.enabled": "true",
        "spark.excludeOnFailure.timeout": "5s",
        "spark.excludeOnFailure.killExcludedExecutors": "false",
        # All executors are on one host: only a task's own exclusion is meant, not that of the host.
        "spark.excludeOnFailure.task.maxTaskAttemptsPerNode": "3",
        "spark.excludeOnFailure.stage.maxFailedTasksPerExecutor": "100",
        "spark.excludeOnFailure.application.maxFailedTasksPerExecutor": "100",
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.timeout": "1s",
        "spark.dynamicAllocation.minExecutors": "0",
        "spark.dynamicAllocation.initialExecutors": "2",
        "spark.dynamicAllocation.maxExecutors": "2",
        "spark.dynamicAllocation.executorIdleTimeout": "6s",
        "spark.dynamicAllocation.schedulerBacklogTimeout": "1s",
    }
    spark = scheduler.configure(builder("local-cluster[2,1,700]", conf), partitioning=False).getOrCreate()
    context = spark.sparkContext
    found: dict[str, Any] = {}

    def flaky(x: int) -> int:
        task = TaskContext.get()
        assert task is not None
        if x % 3 == 0 and task.attemptNumber() == 0:
            raise ValueError("the first attempt of this task fails, as it should")
        return x

    def dying(x: int) -> tuple[int, int]:
        task = TaskContext.get()
        assert task is not None
        if x == 5 and task.attemptNumber() == 0:
            os.kill(os.getppid(), 9)  # the worker's daemon: its tasks are lost
            time.sleep(5)
        return x % 2, x

    status: Any = context._jsc.sc()  # type: ignore[union-attr]
    deadline = time.monotonic() + 40
    while status.getExecutorMemoryStatus().size() < 3 and time.monotonic() < deadline:
        time.sleep(0.1)  # a task that failed on one executor needs the other
    found["race"] = {"ended": race(spark), "snapshot": _told(spark)}
    with scheduler.run_as(spark, "flaky"):
        found["flaky"] = sorted(context.parallelize(range(8), 8).map(flaky).collect())
    with scheduler.run_as(spark, "dying"):
        found["dying"] = sorted(
            context.parallelize(range(8), 8).map(dying).reduceByKey(lambda a, b: a + b, 2).collect()
        )
    deadline = time.monotonic() + 40
    while status.getExecutorMemoryStatus().size() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    found["executors_left"] = status.getExecutorMemoryStatus().size() - 1
    with scheduler.run_as(spark, "after"):
        found["after"] = context.parallelize(range(4), 4).count()
    time.sleep(1.2)
    found["snapshot"] = _told(spark)
    return found


def connect(port: str) -> dict[str, Any]:
    """A Connect server within the application, two clients that are two users, and what the scheduler saw of them."""
    made = builder(
        "local[2]",
        {
            "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
            "spark.connect.grpc.binding.port": port,
        },
    )
    spark = scheduler.configure(made.config("spark.connect.grpc.binding.address", "127.0.0.1")).getOrCreate()
    code = (
        "import sys, time; from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.remote(sys.argv[1]).getOrCreate()\n"
        "rows, parts = int(sys.argv[2]), int(sys.argv[3])\n"
        "slow = 'sum(aggregate(sequence(1, 20000), 0D, (a, x) -> a + sqrt(x + id % 7)))'\n"
        "spark.range(0, 2, 1, 2).selectExpr(slow).collect()\n"
        "print('ready', flush=True); sys.stdin.readline(); began = time.monotonic()\n"
        "spark.range(0, rows, 1, parts).selectExpr(slow).collect()\n"
        "print(time.monotonic() - began, flush=True)\n"
    )
    sizes = {"heavy": ("2400", "24"), "ann": ("40", "2")}
    clients = {
        user: subprocess.Popen(
            [sys.executable, "-c", code, f"sc://127.0.0.1:{port}/;user_id={user}", *size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for user, size in sizes.items()
    }
    took = {}
    for client in clients.values():
        assert client.stdout is not None
        client.stdout.readline()
    for user, client in clients.items():
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
        time.sleep(0.7 if user == "heavy" else 0)
    for user, client in clients.items():
        assert client.stdout is not None
        took[user] = float(client.stdout.readline())
        client.wait(30)
    time.sleep(1)
    return {"took": took, "users": sorted({row.user for row in scheduler.snapshot(spark).ended})}


def safe(folder: str) -> dict[str, Any]:
    """Applications, one after the other in one JVM, each with something wrong; what they say, and that their jobs are done."""
    xml, good = f"{folder}/broken.xml", f"{folder}/pools.xml"
    Path(xml).write_text("<allocations><pool")
    Path(good).write_text(
        "<allocations><pool name='etl'><weight>3</weight><minShare>1</minShare></pool></allocations>"
    )
    Path(folder, "history.json").write_text('{"version": 99}')
    Path(folder, "other").mkdir()
    Path(folder, "other", "Plugin.java").write_text(OTHER)
    spark_jars = build.spark_jars()
    assert spark_jars is not None
    build.build(spark_jars, Path(folder, "other.jar"), Path(folder, "other"))
    ours = "spark.headrace.scheduler."
    cases: dict[str, dict[str, str]] = {
        "plain": {},  # what the first application of a JVM is told is told to all that follow
        "weight": {ours + "weights": "ann=-1"},
        "nan": {ours + "caps": "ann=NaN"},
        "policy": {ours + "policy": "fairest"},
        "xml": {"spark.scheduler.allocation.file": xml},
        "none": {ours + "policy": "none"},
        "twice": {"spark.plugins": "other.Plugin,headrace.scheduler.Plugin"},
        "history": {ours + "history": f"{folder}/history.json"},
        "pools": {"spark.scheduler.allocation.file": good},
    }
    found: dict[str, Any] = {}
    for name, conf in cases.items():
        spark = builder(
            "local[2]",
            {
                "spark.plugins": "headrace.scheduler.Plugin",
                "spark.jars": f"{scheduler.jar()},{folder}/other.jar",
                **conf,
            },
        ).getOrCreate()
        sys.stderr.write(f"CASE {name}\n")
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", "etl")
        count = spark.sparkContext.parallelize(range(10), 4).count()
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", None)  # type: ignore[arg-type]
        found[name] = {"count": count, "installed": _installed(spark)}
        if name == "pools":
            found[name]["weights"] = {user.user: user.weight for user in scheduler.snapshot(spark).users}
            found["broken"] = _break(spark)
        spark.stop()
        sys.stderr.flush()
        time.sleep(0.2)
    found["warm"] = _warm(f"{folder}/learnt.json")
    return found


def _break(spark: SparkSession) -> dict[str, Any]:
    """Take the queue away from the pool while jobs run: the next call fails inside it."""
    sys.stderr.write("CASE broken\n")
    thread = threading.Thread(target=run, args=(spark, "ann", 10, 0.1))
    thread.start()
    time.sleep(0.3)
    pool: Any = spark.sparkContext._jsc.sc().taskScheduler().rootPool().schedulableQueue().peek()  # type: ignore[union-attr]
    field = pool.getClass().getDeclaredField("queue")
    field.setAccessible(True)
    before = field.get(pool)
    field.set(pool, None)
    thread.join()
    run(spark, "bob", 4, 0.01)
    field.set(pool, before)
    return {"stepped_back": scheduler.snapshot(spark).stepped_back}


def _warm(history: str) -> dict[str, float]:
    """What an application thinks a job costs that only an earlier one has seen."""
    found = {}
    for name in ("first", "second"):
        made = builder("local[2]", {"spark.jars": str(scheduler.jar())})
        spark = scheduler.configure(made, history=history).getOrCreate()  # type: ignore[arg-type]
        run(spark, "ann", 4, 0.2, job_class="nightly")
        while not (ended := scheduler.snapshot(spark).ended):
            time.sleep(0.05)
        found[name] = ended[0].estimate_ms
        found[f"{name}_spent"] = ended[0].spent_ms
        spark.stop()
    return found


def _installed(spark: SparkSession) -> bool:
    try:
        scheduler.snapshot(spark)
    except NotInstalled:
        return False
    return True


def _told(spark: SparkSession) -> dict[str, Any]:
    snapshot = scheduler.snapshot(spark)
    return {
        "stepped_back": snapshot.stepped_back,
        "jobs": len(snapshot.jobs),
        "running": sum(user.running for user in snapshot.users),
        "users": [user.user for user in snapshot.users],
        "cores": snapshot.cores,
    }


APPLICATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "speculation": speculation,
    "cluster": cluster,
    "connect": connect,
    "safe": safe,
}

if __name__ == "__main__":
    print("FOUND " + json.dumps(APPLICATIONS[sys.argv[1]](*sys.argv[2:])), flush=True)
    if (left := SparkSession.getActiveSession()) is not None:
        left.stop()  # a local-cluster that is not stopped starts its executors again and again while the JVM goes down
