"""Soak of tables: crash states, ambiguous requests, crowds of writers and kills, each with far more than the tests try."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.storage.crowd import SCHEMA
from tests.storage.test_crash_states import WORKLOADS, run
from tests.storage.test_crowd import PROCESSES, WRITERS, kills, many
from tests.storage.test_faults import ambiguous_puts
from tests.storage.test_upkeep_in_stores import lying

from .item import Item, Tried


def crash_states(seed: int, folder: Path, states: int = 50_000) -> Tried:
    """Every crash state of ever longer workloads, until there were enough."""
    seen, judged, scale = 0, 0, 3
    while seen < states:
        for workload in WORKLOADS:
            here = folder / f"{workload}{scale}"
            here.mkdir()
            watch, _ = run(workload, here, scale)
            seen, judged = seen + watch.states, judged + len(watch.judged)
            shutil.rmtree(here)
        scale += 1
    return Tried(seen, {"different": judged, "seed": seed})


def requests_that_lie(seed: int, folder: Path, puts: int = 1000) -> Tried:
    """Keyed commits through a store half of whose answers are wrong."""
    with pytest.MonkeyPatch.context() as patch:
        ambiguous_puts(folder / "t", seed, puts, patch)
    return Tried(puts)


def stores_that_lie(seed: int, folder: Path, puts: int = 10_000) -> Tried:
    """As above in a store of objects, with compactions and collections in between."""
    return Tried(puts, {"batches": lying(seed, puts)})


def crowds(seed: int, folder: Path, iterations: int = 4, commits: int = 100) -> Tried:
    """Sixteen writers, four compactors, eight readers; two hundred iterations are fifty rounds of this."""
    races = reads = 0
    for number in range(iterations):
        reports = many(folder / f"{number}", commits)
        races += sum(int(str(report["races"])) for report in reports)
        reads += sum(int(str(report["reads"])) for report in reports)
        shutil.rmtree(folder / f"{number}")
    cases = iterations * PROCESSES * WRITERS * commits
    return Tried(cases, {"races": races, "reads": reads, "columns": len(SCHEMA), "seed": seed})


def writers_killed(seed: int, folder: Path, times: int = 500) -> Tried:
    """Kill -9 at any moment of commits, compactions and collections."""
    return Tried(times, {"commits": kills(folder / "t", times, seed)})


ITEMS = (
    Item("crash states of tables", crash_states),
    Item("requests that lie about their outcome", requests_that_lie),
    Item("stores of objects that lie about their outcome", stores_that_lie),
    Item("crowds of writers, compactors and readers", crowds),
    Item("writers killed", writers_killed),
)
