"""Plays traces through the plugin's own classes, in a JVM without Spark."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from headrace.scheduler import jar


def play(lines: Iterable[str]) -> list[str]:
    """What ``Trace.java`` prints for these lines."""
    done = subprocess.run(
        ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", str(jar()), "headrace.scheduler.Trace"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
