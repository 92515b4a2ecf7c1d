"""The planted defects still apply, and one of each room is noticed; `make soak ROOM=mutants` tries them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .mutants import MutantError, mutated, survives
from .planted import MUTANTS, Mutant
from .tree import ROOT

QUICKEST = (
    "the numpy twin of unpack shifts the next word by one too few",
    "the gate lets everything pass",
    "a learning rate falls before its step and not after",
    "the model ignores weights",
    "the latest deadline goes first",
    "rejected rows take part in the draw of the sample like others",
)


def _named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_defect_can_still_be_planted(mutant: Mutant) -> None:
    changed = mutated(mutant)
    assert changed != (ROOT / mutant.file).read_text(encoding="utf-8")
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).is_file(), test


def test_every_room_has_defects_and_each_a_name_of_its_own() -> None:
    assert {mutant.room for mutant in MUTANTS} == {"storage", "streaming", "learners", "jobs", "scheduler"}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 10


@pytest.mark.parametrize("name", QUICKEST)
def test_a_planted_defect_is_noticed(name: str, tmp_path: Path) -> None:
    ran = survives(_named(name), tmp_path)
    assert ran.failed, f"{name} survived {ran.passed} tests"


def test_a_defect_that_changes_nothing_survives(tmp_path: Path) -> None:
    """So that a failing machine, or tests that always fail, cannot pass for kills."""
    harmless = _named(QUICKEST[-1])
    harmless = replace(harmless, new=f"{harmless.old}  # as before")
    ran = survives(harmless, tmp_path)
    assert not ran.failed
    assert ran.passed > 0


def test_what_cannot_be_planted_or_imported_is_an_error_and_no_kill(tmp_path: Path) -> None:
    mutant = _named(QUICKEST[-1])
    with pytest.raises(MutantError, match="no longer applies"):
        mutated(replace(mutant, old="a text that is nowhere"))
    with pytest.raises(MutantError, match="exit code 91"):
        survives(replace(mutant, new="this is no Python"), tmp_path / "syntax")
    with pytest.raises(MutantError, match="could not run"):
        survives(
            replace(mutant, tests=("tests/jobs/test_sample.py::test_that_is_absent",)), tmp_path / "absent"
        )
