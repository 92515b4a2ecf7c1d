"""Small cases of fake contestants, each a real process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.case import OURS, Case, Contestant, Metric

Faked = Callable[..., Case]

FAKE = "tests.benchmarks.fake_contestant"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes.txt"


@pytest.fixture
def fake_case(notes: Path) -> Faked:
    """Makes a case of fake contestants; ``ours={…}`` and so on are their arguments."""

    def make(
        name: str = "fake", repetitions: int = 2, discard: int = 0, **contestants: dict[str, Any]
    ) -> Case:
        entered = {OURS: {}, **contestants}
        return Case(
            name=name,
            contestants=tuple(
                Contestant(who, FAKE, args={"name": who, "notes": str(notes), **args})
                for who, args in entered.items()
            ),
            metrics=(
                Metric("[fake] seconds", "s", "lower", lambda repetition: repetition.wall_s),
                Metric("[fake] events", "events", "higher", lambda repetition: repetition.values["events"]),
            ),
            repetitions=repetitions,
            discard=discard,
            expected_s=0.01,
            timeout_s=20.0,
        )

    return make
