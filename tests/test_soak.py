"""The longer runs themselves: tables that can be loaded, a ledger that goes on where it stopped, failures that are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .soak import __main__ as program
from .soak.item import Item, Room, Tried
from .soak.ledger import PASSED, Entry, Ledger
from .tree import ROOT


def entry(item: str, seed: int, result: str = PASSED) -> Entry:
    return Entry(item, seed, 10, 1.5, result, 1 << 20, {"rows": 3})


def test_a_ledger_gives_back_what_was_written_and_goes_on_after_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / ".soak" / "storage.jsonl")
    assert ledger.next_step(["a", "b"], 7) == (0, 7)
    for number, item in enumerate(("a", "b", "a")):
        ledger.append(entry(item, 7 + number))
    again = Ledger(ledger.path)
    assert again.entries() == [entry("a", 7), entry("b", 8), entry("a", 9)]
    assert again.next_step(["a", "b"], 0) == (1, 10)
    assert again.next_step(["b", "c", "a"], 0) == (0, 10)
    assert again.next_step(["new"], 5) == (0, 5)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_crash_is_as_if_never_written(cut: int, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "x.jsonl")
    ledger.append(entry("a", 1))
    ledger.append(entry("b", 2))
    os.truncate(ledger.path, ledger.path.stat().st_size - cut)
    assert ledger.entries() == [entry("a", 1)]
    ledger.append(entry("b", 3))
    assert ledger.entries() == [entry("a", 1), entry("b", 3)]


def nothing(seed: int, folder: Path) -> Tried:
    return Tried(1)


def test_rounds_go_on_with_new_seeds_and_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        program,
        "step",
        lambda room, item, seed: entry(item, seed, "exit code 1" if item == "b c" else PASSED),
    )
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(program.time, "monotonic", lambda: next(clock))
    room = Room((Item("a", nothing), Item("b c", nothing), Item("d", nothing)))
    ledger = Ledger(tmp_path / "x.jsonl")
    ledger.append(entry("a", 100))
    finished = program.soak("storage", room, 0.7, ledger)
    assert [(done.item, done.seed) for done in finished] == [
        ("b c", 101),
        ("d", 102),
        ("a", 103),
        ("b c", 104),
    ]
    assert ledger.entries()[1:] == finished
    assert program.report(finished) == 1
    assert program.report(finished[1:3]) == 0
    said = capsys.readouterr().out
    assert "-m tests.soak --room storage --item 'b c' --seed 101" in said
    once = program.soak("mutants", Room(room.items, once=True), 0.0, ledger)
    assert [done.item for done in once] == ["a", "b c", "d"]


@pytest.mark.parametrize("room", program.ROOMS)
def test_every_room_has_a_table(room: str) -> None:
    names = [item.name for item in program.room_of(room).items]
    assert names
    assert len(set(names)) == len(names)


def test_an_item_runs_in_a_process_of_its_own_and_answers(tmp_path: Path) -> None:
    done = program.step("mutants", "rejected rows take part in the draw of the sample like others", 1)
    assert (done.result, done.cases) == (PASSED, 1)
    assert done.peak_bytes > 10 << 20
    assert "test_sample" in done.figures["killed_by"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--room", "storage", "--item", "nothing of that name"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert "bits flipped in files" in ran.stderr
