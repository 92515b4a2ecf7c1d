"""What runners are told when they are started and no kept cell remembers, since it differs from machine to machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import Case, Json


@contextmanager
def datasets(cases: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Json]]:
    """Where the public data sets are; a path is no part of a kept cell."""
    yield {"folder": os.environ.get("HEADRACE_DATASETS", "")}
