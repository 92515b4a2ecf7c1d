"""One item of a soak: a named piece of work that takes a seed and an empty folder and says how much it tried."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tree import ROOT


@dataclass(frozen=True)
class Tried:
    """How many cases an item tried, and other numbers worth keeping."""

    cases: int
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One line of a room's table; ``work`` raises where what it tries does not hold."""

    name: str
    work: Callable[[int, Path], Tried]


@dataclass(frozen=True)
class Room:
    """A room's table. ``once``: one round over the whole table, however long it takes, instead of minutes."""

    items: tuple[Item, ...]
    once: bool = False


class SelectionFailed(AssertionError):
    """Tests of the ordinary suite failed under the soak's seed; their output went to standard output."""


def properties(*selection: str, examples: int) -> Callable[[int, Path], Tried]:
    """The Hypothesis tests among some files of the suite, each with that many examples drawn from the item's seed."""

    def work(seed: int, folder: Path) -> Tried:
        cases = folder / "cases"
        environment = {
            **os.environ,
            "HEADRACE_SOAK_EXAMPLES": str(examples),
            "HEADRACE_SOAK_CASES": str(cases),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        }
        arguments = [
            "-m",
            "hypothesis",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.soak_profile",
        ]
        arguments += [f"--hypothesis-seed={seed}", "--timeout=0", f"--basetemp={folder / 'pytest'}"]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *selection, *arguments], cwd=ROOT, env=environment
        )
        if ran.returncode:
            raise SelectionFailed(f"pytest ended with exit code {ran.returncode}")
        return Tried(int(cases.read_text()))

    return work
