"""Soak of the tests themselves: every planted defect, after proof that its tests pass without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.mutants import survives, unharmed
from tests.planted import MUTANTS, Mutant

from .item import Item, Room, Tried


def _unharmed(room: str) -> Callable[[int, Path], Tried]:
    mine = tuple(mutant for mutant in MUTANTS if mutant.room == room)

    def work(seed: int, folder: Path) -> Tried:
        ran = unharmed(mine, folder)
        assert not ran.failed, f"tests fail without any defect: {', '.join(ran.failed)}"
        return Tried(ran.passed)

    return work


def _killed(mutant: Mutant) -> Callable[[int, Path], Tried]:
    def work(seed: int, folder: Path) -> Tried:
        ran = survives(mutant, folder)
        assert ran.failed, f"mutant {mutant.name!r} survived {', '.join(mutant.tests)}"
        return Tried(1, {"killed_by": ran.failed[0]})

    return work


ROOM = Room(
    (
        *(Item(f"no defect in {room}", _unharmed(room)) for room in dict.fromkeys(m.room for m in MUTANTS)),
        *(Item(mutant.name, _killed(mutant)) for mutant in MUTANTS),
    ),
    once=True,
)
