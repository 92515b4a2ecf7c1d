"""One case: its contestants take turns, round by round, until each has its repetitions or the time is up.

The first ``discard`` turns of each contestant are thrown away. A round goes ours, rival A, rival B; only one of them
works at any time once all have started. A contestant that fails leaves the race and keeps its reason; the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.case import Case, Contestant, Repetition
from benchmarks.process import CLOSE_S, ContestantFailed, Process, TimedOut
from benchmarks.results import Cell

Launch = Callable[[Contestant], Process]
"""Starts a contestant's process."""

Say = Callable[[str], None]

TIME_IS_UP = "the time was up before a counted repetition"


@dataclass
class _Entry:
    """A contestant in the race."""

    contestant: Contestant
    cell: Cell
    to_discard: int
    process: Process | None = None
    last_s: float = 0.0
    """Wall seconds of its latest turn, with what surrounds the timed part."""

    def end(self, grace_s: float = CLOSE_S) -> None:
        if self.process is not None:
            self.process.close(grace_s)
            self.process = None


@dataclass
class _Race:
    case: Case
    launch: Launch
    deadline: float
    clock: Callable[[], float]
    keep: Callable[[Cell], None]
    say: Say

    def start(self, entry: _Entry) -> None:
        """Start the contestant's process, which then prepares its first turn."""
        entry.process = self.launch(entry.contestant)

    def await_ready(self, entry: _Entry) -> None:
        assert entry.process is not None
        entry.process.wait_ready(self._patience_s())

    def turn(self, entry: _Entry) -> None:
        """One repetition, with what surrounds it."""
        began = self.clock()
        if entry.process is None:
            self.start(entry)
            self.await_ready(entry)
        assert entry.process is not None
        repetition = entry.process.repeat(self._patience_s())
        entry.process.wait_ready(self._patience_s())  # it has checked its own work
        if self.case.fresh_process:
            entry.end()
        entry.last_s = self.clock() - began
        self._count(entry, repetition)

    def guarded(self, step: Callable[[_Entry], None], entry: _Entry) -> None:
        """Do ``step``; a failure is the contestant's cell, unless our own deadline cut it short."""
        try:
            step(entry)
        except ContestantFailed as failed:
            entry.end(grace_s=0.0)  # it may be stuck, and would disturb the others
            if isinstance(failed, TimedOut) and self.clock() >= self.deadline:
                return
            entry.cell.failure = failed.line
            self.say(f"  {entry.contestant.name}: failed: {failed.line}")
            self.keep(entry.cell)

    def has_time_for(self, entries: list[_Entry]) -> bool:
        now = self.clock()
        return now < self.deadline and now + sum(entry.last_s for entry in entries) <= self.deadline

    def _patience_s(self) -> float:
        return max(0.0, min(self.case.timeout_s, self.deadline - self.clock()))

    def _count(self, entry: _Entry, repetition: Repetition) -> None:
        name, cell = entry.contestant.name, entry.cell
        if entry.to_discard:
            entry.to_discard -= 1
            self.say(f"  {name}: {repetition.wall_s:.2f} s (warm-up, discarded)")
            return
        cell.repetitions.append(repetition)
        self.say(
            f"  {name}: {repetition.wall_s:.2f} s, {repetition.cpu_s:.2f} CPU s "
            f"({len(cell.repetitions)} of {self.case.repetitions}; load {repetition.load_before:.1f})"
        )
        self.keep(cell)


def race(
    case: Case,
    cells: Mapping[str, Cell],
    launch: Launch,
    *,
    deadline: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    keep: Callable[[Cell], None] = lambda cell: None,
    say: Say = lambda line: None,
) -> None:
    """Fill ``cells`` (by contestant's name) up to the case's repetitions.

    Args:
        deadline: on ``clock``; a repetition that still runs then is ended, and a round that would not fit is not begun.
        keep: called with a cell after each change.
    """
    running = _Race(case, launch, deadline, clock, keep, say)
    entries = [
        _Entry(contestant, cells[contestant.name], case.discard)
        for contestant in case.contestants
        if not cells[contestant.name].is_complete(case.repetitions)
    ]
    try:
        if not case.fresh_process:
            for entry in entries:  # starting is not timed, so all may start at once
                running.start(entry)
            for entry in entries:
                running.guarded(running.await_ready, entry)
        while True:
            turns = [entry for entry in entries if not entry.cell.is_complete(case.repetitions)]
            if not turns or not running.has_time_for(turns):
                break
            for entry in turns:
                if running.has_time_for([]):
                    running.guarded(running.turn, entry)
    finally:
        for entry in entries:
            if entry.process is not None:
                entry.process.dismiss()
        ends = time.monotonic() + CLOSE_S
        for entry in entries:
            entry.end(max(0.0, ends - time.monotonic()))
    for entry in entries:
        if not entry.cell.repetitions and entry.cell.failure is None:
            entry.cell.failure = TIME_IS_UP
