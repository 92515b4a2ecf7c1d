"""One table from start to end: environments, shared ground, races, rows.

What must not be timed comes first (building rivals' environments); then the clock of the profile's budget starts. Each case
gets its share of what is left of it, by the cost that the case expects.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.case import Case, Contestant, Json, Profile, Table
from benchmarks.environments import Environment, EnvironmentFailed, current, environment_of
from benchmarks.machine import Machine, describe, load_average, package_versions, runner_digest
from benchmarks.process import ROOT, Process
from benchmarks.race import Say, race
from benchmarks.report import Row, rows_of
from benchmarks.results import Cell, Cells, slug

WORK = ROOT / ".headrace" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
END_S = 8.0
"""Kept back from a budget for ending contestants and ground."""


@dataclass(frozen=True)
class Measured:
    """A finished table."""

    table: Table
    profile: Profile
    machine: Machine
    started: datetime
    wall_s: float
    load: tuple[float, float]
    """Load average at the start and at the end."""
    rows: list[Row]
    cells: list[Cell]
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by the name of the row that would be there."""

    @property
    def elsewhere(self) -> dict[str, int]:
        """How many kept cells are of another machine, by its processor."""
        own = self.machine.as_key()
        others = (cell.key.get("machine", own) for cell in self.cells)
        return dict(Counter(other["cpu"] for other in others if other != own))

    @property
    def versions(self) -> dict[str, str]:
        """Of everything that ran, by distribution."""
        return {
            name: version for cell in self.cells for name, version in cell.key.get("versions", {}).items()
        }

    def document(self) -> dict[str, Json]:
        """What ``--json`` writes: the header, the rows, and every counted repetition behind them."""
        return {
            "header": {
                "table": self.table.name,
                "title": self.table.title,
                "profile": self.profile.value,
                "verification": "on" if all(row.verification == "on" for row in self.rows) else "off",
                "started": self.started.isoformat(timespec="seconds"),
                "wall_s": round(self.wall_s, 1),
                "load_average": list(self.load),
                "machine": asdict(self.machine),
                "elsewhere": self.elsewhere,
                "versions": self.versions,
                "value": "best counted repetition; spread is (max - min) / min",
            },
            "rows": [row.as_json() for row in self.rows],
            "skipped": self.skipped,
            "cells": [asdict(cell) for cell in self.cells],
        }


def run(
    table: Table,
    profile: Profile,
    *,
    work: Path = WORK,
    results: Path = RESULTS,
    budget_s: float | None = None,
    retry: bool = False,
    say: Say = lambda line: None,
) -> Measured:
    """Measure ``table``.

    Args:
        work: for logs and scratch files.
        results: where ``--full`` keeps its cells.
        budget_s: instead of the profile's own.
        retry: measure kept cells anew that have failed.
    """
    started, load = datetime.now(UTC), load_average()
    offered = table.cases(profile)
    cases = tuple(case for case in offered if case.skipped is None)
    environments = _environments(cases, say)
    began = time.monotonic()
    machine = describe()
    kept = profile is Profile.FULL or (table.keeps and profile is Profile.DEFAULT)
    store = Cells(results) if kept else None
    cells = {case.name: _cells(table, case, profile, machine, environments, store, retry) for case in cases}
    pending = [case for case in cases if _remaining_s(case, cells[case.name]) > 0]
    budget_s = profile.budget_s if budget_s is None else budget_s
    deadline = math.inf if budget_s is None else began + budget_s - min(END_S, budget_s / 2)
    if profile is Profile.FULL:
        say(_expected(cases, pending, cells))
    if pending:
        with _scratch(work) as scratch, table.ground(pending, scratch) as ground:
            for number, case in enumerate(pending):
                # A case before it may have done some of the same work.
                cells[case.name] = _cells(table, case, profile, machine, environments, store, retry)
                if not _remaining_s(case, cells[case.name]):
                    continue
                say(f"{case.name}: {', '.join(contestant.name for contestant in case.contestants)}")
                race(
                    case,
                    cells[case.name],
                    _launcher(table, case, environments, ground, scratch, work, cells[case.name]),
                    # What is kept needs no fair share: the next run goes on with what this one does not reach.
                    deadline=deadline
                    if kept
                    else _share(pending[number:], cells, time.monotonic(), deadline),
                    keep=store.write if store is not None else lambda cell: None,
                    say=say,
                )
    return Measured(
        table=table,
        profile=profile,
        machine=machine,
        started=started,
        wall_s=time.monotonic() - began,
        load=(load, load_average()),
        rows=[row for case in cases for row in rows_of(case, cells[case.name], profile)],
        cells=[cell for by_name in cells.values() for cell in by_name.values()],
        skipped={metric.name: case.skipped for case in offered if case.skipped for metric in case.metrics},
    )


def _environments(cases: Sequence[Case], say: Say) -> dict[str | None, Environment | str]:
    """By rival; a reason instead of an environment where it could not be built."""
    built: dict[str | None, Environment | str] = {None: current()}
    for rival in sorted({c.rival for case in cases for c in case.contestants if c.rival is not None}):
        try:
            built[rival] = environment_of(rival, say=say)
        except EnvironmentFailed as error:
            built[rival] = str(error)
    return built


def _cells(
    table: Table,
    case: Case,
    profile: Profile,
    machine: Machine,
    environments: Mapping[str | None, Environment | str],
    store: Cells | None,
    retry: bool,
) -> dict[str, Cell]:
    """A case's cells by contestant: kept ones, or empty."""
    cells: dict[str, Cell] = {}
    for contestant in case.contestants:
        environment = environments[contestant.rival]
        pinned = environment.versions if isinstance(environment, Environment) else {}
        key = {
            "table": table.name,
            "case": case.name,
            "contestant": contestant.name,
            "profile": profile.value,
            "args": {**case.args, **contestant.args},
            "discard": case.discard,
            "versions": {**pinned, **package_versions(contestant.packages)},
            "runner": runner_digest(contestant.runner),
            "verification": case.verification,
            "machine": machine.as_key(),
        }
        cell = store.read(key, clocked=case.clocked) if store is not None else Cell(key)
        if retry and cell.failure is not None:
            cell.failure = None
        if isinstance(environment, str):
            cell.failure = environment
        cells[contestant.name] = cell
    return cells


def _launcher(
    table: Table,
    case: Case,
    environments: Mapping[str | None, Environment | str],
    ground: Mapping[str, Json],
    scratch: Path,
    work: Path,
    cells: Mapping[str, Cell],
) -> Callable[[Contestant], Process]:
    def launch(contestant: Contestant) -> Process:
        environment = environments[contestant.rival]
        assert isinstance(environment, Environment)  # else its cell has failed already
        folder = scratch / case.name / contestant.name
        folder.mkdir(parents=True, exist_ok=True)
        kept = len(cells[contestant.name].repetitions)  # a runner that counts seeds goes on where it was
        args = {**case.args, **ground, **contestant.args, "scratch": str(folder), "kept": kept}
        log = work / "logs" / table.name / f"{slug(case.name)}--{slug(contestant.name)}.log"
        return Process([str(environment.python), "-m", contestant.runner, json.dumps(args)], log)

    return launch


@contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; after an error it stays, with the logs in it, until the next run."""
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob("run-*"):
        if not psutil.pid_exists(int(stale.name.split("-")[1])):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=work))
    try:
        yield folder
    except Exception:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _remaining_s(case: Case, cells: Mapping[str, Cell]) -> float:
    """Expected wall seconds until a case's cells are complete."""
    missing = [
        case.repetitions - len(cell.repetitions)
        for cell in cells.values()
        if not cell.is_complete(case.repetitions)
    ]
    return sum(count + case.discard for count in missing) * case.expected_s


def _share(
    pending: Sequence[Case], cells: Mapping[str, Mapping[str, Cell]], now: float, deadline: float
) -> float:
    """The deadline of the first of ``pending``: its part of the time that is left for all of them."""
    if math.isinf(deadline):
        return deadline
    costs = [_remaining_s(case, cells[case.name]) for case in pending]
    return now + (deadline - now) * costs[0] / sum(costs)


def _expected(cases: Sequence[Case], pending: Sequence[Case], cells: Mapping[str, Mapping[str, Cell]]) -> str:
    hours = sum(_remaining_s(case, cells[case.name]) for case in pending) / 3_600
    done = sum(cell.is_complete(case.repetitions) for case in cases for cell in cells[case.name].values())
    total = sum(len(case.contestants) for case in cases)
    return f"expected: {hours:.1f} hours; {done} of {total} cells are kept from earlier runs"
