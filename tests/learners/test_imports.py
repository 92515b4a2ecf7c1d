"""What importing costs: executors load the loop and its learners without river, numba, torch or Kafka."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "kafka", "river", "numba", "pyspark", "great_expectations", "pandas")


@pytest.mark.parametrize(
    "module",
    [
        "headrace.streaming",
        "headrace.streaming.learners",
        "headrace.streaming.learners.kernels",
        "headrace.streaming.learners.ftrl",
        "headrace.streaming.loop",
        "headrace.streaming.dedupe",
    ],
)
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
