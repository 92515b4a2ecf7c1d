"""Measures what batches of different sizes cost the driver: Python's resident memory plus the JVM's heap after a collection.

A script, so that nothing else is in the process. Arguments: bootstrap and folder; then, per run, a topic and its batch size. Prints one line of JSON per run: rows of its largest batch, the most bytes seen after any of its batches, and how many kernels this process has compiled so far.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from headrace.jobs._session import session
from headrace.jobs.pipeline import Options, run
from headrace.jobs.places import fetch_jars
from headrace.jobs.progress import Progress
from headrace.jobs.settings import Kafka, Settings, Spark, Stream


def main(bootstrap: str, folder: Path, runs: list[tuple[str, int]]) -> None:
    conf = {"spark.executor.extraJavaOptions": os.environ.get("SPARK_SUBMIT_OPTS", "")}
    cluster = Spark(master="local-cluster[2,1,1024]", driver_memory="1g", conf=conf)
    spark = session(cluster, fetch_jars())
    spark.sparkContext.setLogLevel("ERROR")
    jvm: Any = spark.sparkContext._jvm
    me = psutil.Process()

    for topic, size in runs:
        seen: list[tuple[int, int, int]] = []

        def look(progress: Progress, seen: list[tuple[int, int, int]] = seen) -> None:
            jvm.java.lang.System.gc()
            runtime = jvm.java.lang.Runtime.getRuntime()
            heap = runtime.totalMemory() - runtime.freeMemory()
            seen.append((progress.batch.events, me.memory_info().rss, heap))

        stream = Stream(
            topic=topic,
            contract="ad_feed",
            table=folder / f"table-{topic}",
            checkpoint=folder / f"checkpoint-{topic}",
            max_events_per_batch=size,
        )
        settings = Settings(spark=cluster, kafka=Kafka(bootstrap=bootstrap), stream=stream)
        run(spark, settings, Options(caught_up=True), look)
        print(
            json.dumps(
                {
                    "rows": max(rows for rows, _, _ in seen),
                    "batches": len(seen),
                    "bytes": max(rss + heap for _, rss, heap in seen),
                    "python": max(rss for _, rss, _ in seen),
                    "heap": max(heap for _, _, heap in seen),
                    "compiled": _compiled(),
                }
            ),
            flush=True,
        )
    spark.stop()


def _compiled() -> int:
    """Kernels that numba's cache did not have: the compiler's memory is theirs, once per machine, and stays with the process."""
    from numba.core.dispatcher import Dispatcher  # not before the pipeline loads it

    found = (each for each in gc.get_objects() if isinstance(each, Dispatcher))
    ours = [kernel for kernel in found if kernel.py_func.__module__.startswith("headrace.")]
    assert ours
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in ours)


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        [(topic, int(size)) for topic, size in zip(sys.argv[3::2], sys.argv[4::2], strict=True)],
    )
