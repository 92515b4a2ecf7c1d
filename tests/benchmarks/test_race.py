"""Turns are taken one after another, a failure costs its own cell only, and time that is up is up."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.case import Case, Contestant
from benchmarks.process import Process
from benchmarks.race import TIME_IS_UP, Launch, race
from benchmarks.results import Cell
from tests.benchmarks.conftest import Faked


@pytest.fixture
def processes() -> list[Process]:
    return []


@pytest.fixture
def launch(tmp_path: Path, processes: list[Process]) -> Launch:
    import json

    def start(contestant: Contestant) -> Process:
        command = [sys.executable, "-m", contestant.runner, json.dumps(contestant.args)]
        process = Process(command, tmp_path / f"{contestant.name}.log")
        processes.append(process)
        return process

    return start


def cells_of(case: Case) -> dict[str, Cell]:
    return {contestant.name: Cell() for contestant in case.contestants}


def turns(notes: Path) -> list[str]:
    return [line.removesuffix(" run") for line in notes.read_text().splitlines() if line.endswith(" run")]


def test_contestants_take_turns_and_warm_ups_are_discarded(
    fake_case: Faked, launch: Launch, notes: Path
) -> None:
    case = fake_case(repetitions=2, discard=1, a={}, b={})
    cells = cells_of(case)
    race(case, cells, launch)
    assert turns(notes) == ["ours", "a", "b"] * 3
    # The fake counts 1,000 more events each turn: the first was thrown away.
    assert [r.values["events"] for r in cells["ours"].repetitions] == [2000.0, 3000.0]
    assert all(len(cell.repetitions) == 2 and cell.failure is None for cell in cells.values())
    assert sorted(notes.read_text().splitlines()[-3:]) == ["a close", "b close", "ours close"]


def test_one_process_serves_all_turns_unless_fresh_ones_are_asked_for(
    fake_case: Faked, launch: Launch, notes: Path
) -> None:
    from dataclasses import replace

    case = replace(fake_case(repetitions=2, discard=1, a={}), fresh_process=True)
    cells = cells_of(case)
    race(case, cells, launch)
    assert notes.read_text().count("ours start") == 3
    assert [r.values["events"] for r in cells["ours"].repetitions] == [1000.0, 1000.0]


def test_noise_does_not_reach_the_protocol(fake_case: Faked, launch: Launch) -> None:
    case = fake_case(repetitions=2, ours={"noise": True}, a={})
    cells = cells_of(case)
    race(case, cells, launch)
    assert [len(cell.repetitions) for cell in cells.values()] == [2, 2]
    assert cells["ours"].failure is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"raise_at": 2}, "ValueError: it broke on purpose"),
        ({"exit_at": 2}, "ended with code 7: last words"),
        ({"wrong_at": 2}, "ValueError: expected 5 rows, found 4"),
    ],
)
def test_a_failing_contestant_keeps_its_reason_and_the_others_go_on(
    fake_case: Faked, launch: Launch, fault: dict[str, int], reason: str
) -> None:
    case = fake_case(repetitions=3, a=fault, b={})
    cells = cells_of(case)
    race(case, cells, launch)
    assert cells["a"].failure == reason
    assert len(cells["a"].repetitions) == 1
    assert len(cells["ours"].repetitions) == len(cells["b"].repetitions) == 3


def test_a_contestant_that_hangs_is_ended_and_so_is_its_tree(
    fake_case: Faked, launch: Launch, processes: list[Process]
) -> None:
    from dataclasses import replace

    case = replace(fake_case(repetitions=1, a={"hang_at": 1}), timeout_s=3.0)
    cells = cells_of(case)
    race(case, cells, launch)
    assert cells["a"].failure == "no answer within 3 s"
    assert len(cells["ours"].repetitions) == 1
    assert not any(psutil.pid_exists(process.pid) for process in processes)


def test_a_missing_module_is_a_failed_cell(fake_case: Faked, launch: Launch) -> None:
    from dataclasses import replace

    case = fake_case(repetitions=1, a={})
    broken = replace(case.contestants[1], runner="tests.benchmarks.no_such_module")
    case = replace(case, contestants=(case.contestants[0], broken))
    cells = cells_of(case)
    race(case, cells, launch)
    failure = cells["a"].failure
    assert failure is not None
    assert "no_such_module" in failure
    assert len(cells["ours"].repetitions) == 1


def test_cpu_seconds_are_those_of_the_whole_tree(fake_case: Faked, launch: Launch) -> None:
    case = fake_case(repetitions=1, a={"burn_s": 0.3})
    cells = cells_of(case)
    race(case, cells, launch)
    assert cells["a"].repetitions[0].cpu_s >= 0.25  # burnt by a child process that had ended
    assert cells["ours"].repetitions[0].cpu_s < 0.25


def test_a_deadline_ends_what_runs_and_leaves_nothing_behind(
    fake_case: Faked, launch: Launch, processes: list[Process]
) -> None:
    case = fake_case(repetitions=5, ours={"sleep_s": 60.0}, a={})
    cells = cells_of(case)
    began = time.monotonic()
    race(case, cells, launch, deadline=began + 2.0)
    assert time.monotonic() - began < 10.0
    assert {cell.failure for cell in cells.values()} == {TIME_IS_UP}
    assert not any(psutil.pid_exists(process.pid) for process in processes)


def test_a_round_that_would_not_fit_is_not_begun(fake_case: Faked, launch: Launch) -> None:
    case = fake_case(repetitions=5, a={})
    cells = cells_of(case)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # each look at the clock costs a second: a turn takes several
        return now[0]

    race(case, cells, launch, deadline=40.0, clock=clock)
    counts = [len(cell.repetitions) for cell in cells.values()]
    assert 1 <= counts[0] < 5
    assert counts[0] == counts[1]
    assert all(cell.failure is None for cell in cells.values())
