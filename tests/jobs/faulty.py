"""The main job with one planted crash: the driver's JVM is killed around the commit of one batch.

Run by spark-submit in place of ``jobs/pipeline.py``; ``HEADRACE_TEST_KILL`` is ``before:BATCH`` or ``after:BATCH``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pyspark import SparkContext

from headrace import storage
from headrace.jobs import pipeline


def kill_jvm() -> None:
    """SIGKILL the driver's JVM, then end as a process does whose machine is gone."""
    context = SparkContext._active_spark_context
    assert context is not None
    jvm: Any = context._jvm
    os.kill(int(jvm.java.lang.ProcessHandle.current().pid()), signal.SIGKILL)
    os._exit(9)


def main() -> int:
    when, _, batch = os.environ["HEADRACE_TEST_KILL"].partition(":")
    honest = storage.Table.commit

    def commit(self: storage.Table, files: Any, *, key: Any = None, **rest: Any) -> storage.Commit:
        mine = key is not None and key[1] == int(batch)
        if mine and when == "before":
            kill_jvm()
        done = honest(self, files, key=key, **rest)
        if mine and when == "after":
            kill_jvm()
        return done

    storage.Table.commit = commit  # type: ignore[method-assign]
    return pipeline.main()


if __name__ == "__main__":
    sys.exit(main())
