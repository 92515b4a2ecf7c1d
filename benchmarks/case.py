"""What a table declares: cases, their contestants, and what is read off a repetition.

Everything here is a frozen value. A ``Table`` is a module's ``TABLE``; the harness (``race``, ``run``) does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

Json = Any
"""Whatever ``json`` writes: the harness only carries it from a table to its runners."""

OURS = "ours"


class Profile(StrEnum):
    """How long a run may take."""

    QUICK = "quick"
    DEFAULT = "default"
    FULL = "full"

    @property
    def budget_s(self) -> float | None:
        """Wall seconds for the whole table, environments aside; ``None``: as long as it takes."""
        return {Profile.QUICK: 90.0, Profile.DEFAULT: 1_800.0, Profile.FULL: None}[self]


@dataclass(frozen=True)
class Contestant:
    """One program in a case.

    Attributes:
        name: as the table prints it; ours is ``"ours"``.
        runner: module started with ``python -m``, such as ``benchmarks.runners.pipeline_ours``.
        rival: folder under ``benchmarks/rivals`` whose environment it runs in; ``None``: the current one.
        packages: distributions of the current environment whose versions belong to the result.
        args: for the runner, over the case's own.
    """

    name: str
    runner: str
    rival: str | None = None
    packages: tuple[str, ...] = ()
    args: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Repetition:
    """One counted run of one contestant.

    Attributes:
        wall_s: seconds of the runner's timed part.
        cpu_s: user and system seconds of the contestant's whole process tree meanwhile; 10 ms is the kernel's resolution.
        values: what the runner counted, such as events or bytes.
        parts: seconds by phase, where the runner knows them.
        load_before, load_after: the machine's load average over one minute.
    """

    wall_s: float
    cpu_s: float
    values: Mapping[str, float]
    parts: Mapping[str, float]
    load_before: float
    load_after: float


@dataclass(frozen=True)
class Metric:
    """One row: a number per repetition. ``name`` carries its word in [brackets]."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    of: Callable[[Repetition], float]


@dataclass(frozen=True)
class Parts:
    """Rows that say where ours spends its time: ``parts`` of its cheapest repetition per ``scale`` of the value ``per``.

    ``rest`` names what is left of the CPU seconds after ``cpu``, the parts that are CPU seconds; others are wall seconds.
    """

    name: str
    unit: str
    per: str
    scale: float
    cpu: tuple[str, ...]
    wall: tuple[str, ...] = ()
    rest: str = "everything else"


@dataclass(frozen=True)
class Case:
    """One race: the same work for every contestant, ours first.

    Attributes:
        name: short and unique in its table; part of a kept cell's key.
        repetitions: counted ones; ``discard`` more come first and are thrown away (two for Spark, whose JVM warms up).
        expected_s: a guess of one repetition's wall seconds, for budgets and for what ``--full`` announces.
        timeout_s: for the start and for each repetition; a contestant that exceeds it has failed.
        fresh_process: start a new process for each repetition, for cold starts.
        clocked: whether its numbers ask how fast the machine is. Scores do not: the same work then counts too if it was done on another
            machine, which the header names, in another case or for another profile.
        verification: whether checksums and checks are on, as shipped.
        skipped: why it cannot be measured here, such as a data set that is absent; such a case is told and not run.
    """

    name: str
    contestants: tuple[Contestant, ...]
    metrics: tuple[Metric, ...]
    repetitions: int
    expected_s: float
    discard: int = 0
    timeout_s: float = 600.0
    fresh_process: bool = False
    clocked: bool = True
    verification: Literal["on", "off"] = "on"
    parts: Parts | None = None
    skipped: str | None = None
    args: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [contestant.name for contestant in self.contestants]
        if names[:1] != [OURS] or len(set(names)) != len(names):
            raise ValueError(
                f"case {self.name!r}: expected {OURS!r} first and each name once, got {names}; fix its contestants"
            )


Ground = Callable[[Sequence[Case], Path], AbstractContextManager[Mapping[str, Json]]]
"""Prepares what all contestants of some cases share (a broker, a data set) and yields arguments for their runners."""


def no_ground(cases: Sequence[Case], scratch: Path) -> AbstractContextManager[Mapping[str, Json]]:
    """For tables whose contestants share nothing."""
    return nullcontext({})


@dataclass(frozen=True)
class Table:
    """What a table's module offers as ``TABLE``."""

    name: str
    title: str
    cases: Callable[[Profile], tuple[Case, ...]]
    ground: Ground = no_ground
    notes: tuple[str, ...] = ()
    """Printed below the table: how to read it, what it leaves out."""
    keeps: bool = False
    """Whether cells of the default profile are kept like those of ``--full``, because they take long and repeat exactly."""
    view: Callable[[Any, Path], list[str]] | None = None
    """Lines instead of the usual rows, from what was measured and the folder of kept cells."""
