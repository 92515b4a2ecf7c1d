"""A pytest plugin for runs that are asked to try more: `-p tests.soak_profile`, never loaded by an ordinary run.

`HEADRACE_SOAK_EXAMPLES` is how many examples each Hypothesis test tries, whatever its own settings say. How many were
really tried is written to the file that `HEADRACE_SOAK_CASES` names: a property that gave up early tried fewer.
`HEADRACE_SOAK_SHRINK=0` leaves a failing example as it was found, for whoever only wants to know that one exists.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

# With thousands of examples what is slow or seldom is no sign of a bad test.
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

_tried = 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every Hypothesis test the wanted number of examples, no deadline, and a counter."""
    wanted = os.environ.get("HEADRACE_SOAK_EXAMPLES")
    phases = [Phase.explicit, Phase.generate, Phase.target]
    if os.environ.get("HEADRACE_SOAK_SHRINK") != "0":
        phases.append(Phase.shrink)
    for test in {item.obj for item in items if isinstance(item, pytest.Function)}:
        if not hasattr(test, "hypothesis"):
            continue
        own: settings = test._hypothesis_internal_use_settings
        test._hypothesis_internal_use_settings = settings(
            own,
            max_examples=int(wanted) if wanted else own.max_examples,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=SLOW,
        )
        test.hypothesis.inner_test = _counted(test.hypothesis.inner_test)


def _counted(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    def counting(*args: Any, **kwargs: Any) -> Any:
        global _tried
        _tried += 1
        return test(*args, **kwargs)

    return counting


def pytest_sessionfinish() -> None:
    """Write down how many examples were tried."""
    if path := os.environ.get("HEADRACE_SOAK_CASES"):
        Path(path).write_text(str(_tried))
