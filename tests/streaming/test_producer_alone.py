"""The library producer serves processes that know nothing of Spark."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_producer_brings_neither_spark_nor_great_expectations_nor_torch() -> None:
    # pyarrow itself looks for pandas when it converts a list; it does without where there is none.
    code = (
        "import sys; from headrace.streaming.producer import Producer; from headrace.streaming.contracts import load; "
        "load('ad_feed'); heavy = {'pyspark', 'great_expectations', 'torch', 'river', 'numba'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
