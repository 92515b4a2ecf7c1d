"""The applications of the table ``scheduler``: one policy each, on two cores, and how a thread becomes a user's in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.runners.protocol import Args
from headrace import scheduler
from headrace.scheduler import build

_CONF = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "600m",
    "spark.executor.memory": "600m",
    "spark.executor.cores": "1",
    "spark.sql.shuffle.partitions": "4",
}


def application(
    args: Args,
    users: Iterable[str],
    *,
    weights: dict[str, float] | None = None,
    partitioning: bool = False,
    jar: Path | None = None,
) -> SparkSession:
    """Starts the application that ``args`` (policy, clock, master, scratch) name; under ``ujf`` each user gets a pool."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.Builder().master(args["master"]).appName("headrace-benchmark")
    for name, value in {**_CONF, "spark.local.dir": args["scratch"], "spark.jars": str(jar or "")}.items():
        builder = builder.config(name, value)
    if ours(args):
        builder = scheduler.configure(
            builder,
            policy=args["policy"],
            clock=args["clock"],
            partitioning=partitioning,
            weights=weights,
            target_task_ms=100.0,
        )
    elif args["policy"] in ("fair", "ujf"):
        builder = builder.config("spark.scheduler.mode", "FAIR")
    if args["policy"] == "ujf":
        builder = builder.config("spark.scheduler.allocation.file", _pools(args, users))
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def ours(args: Args) -> bool:
    """Whether our plugin orders this application: CFQ too, which Spark lacks."""
    return args["policy"] in ("uwfq", "cfq")


def _pools(args: Args, users: Iterable[str]) -> str:
    """A FAIR pool for each user: what somebody would write who wants users to be treated alike."""
    pools = "".join(
        f"<pool name='{user}'><schedulingMode>FAIR</schedulingMode></pool>" for user in sorted(set(users))
    )
    path = Path(args["scratch"]) / "pools.xml"
    path.write_text(f"<allocations>{pools}</allocations>")
    return str(path)


@contextmanager
def acting(spark: SparkSession, args: Args, user: str, **told: Any) -> Iterator[None]:
    """This thread's jobs are ``user``'s: in our plugin, in the user's pool, or, in Spark's one pool, nobody's."""
    if ours(args):
        with scheduler.run_as(spark, user, **told):
            yield
        return
    pool = user if args["policy"] == "ujf" else None
    spark.sparkContext.setLocalProperty("spark.scheduler.pool", pool)  # pyright: ignore[reportArgumentType]
    yield


def compiled(source: Path, folder: Path) -> Path:
    """The jar of one Java source of this benchmark, in ``folder``.

    Raises:
        CalledProcessError: it does not compile.
    """
    spark = build.spark_jars()
    assert spark is not None
    path = f"{scheduler.jar()}:{spark}/*"
    classes, jar = folder / source.stem, folder / f"{source.stem}.jar"
    subprocess.run(["javac", "--release", "17", "-nowarn", "-cp", path, "-d", classes, source], check=True)
    subprocess.run(["jar", "--create", "--file", jar, "-C", classes, "."], check=True)
    return jar
