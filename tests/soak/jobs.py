"""Soak of the job: killed at random moments, time and again, with nothing lost and nothing twice."""

from __future__ import annotations

from pathlib import Path

from .item import Item, Room, Tried


def kills(seed: int, folder: Path, rounds: int = 3) -> Tried:
    """One topic, one table, and a driver that is killed again and again before it may finish."""
    from tests.jobs.test_kill import check, kill_rounds

    outcome = kill_rounds(rounds, seed, folder)
    check(outcome)
    figures = {"stored": outcome.stored_ids, "letters": outcome.letters, "orphan_files": outcome.orphan_files}
    return Tried(outcome.kills, figures)


def kills_around_a_commit(seed: int, folder: Path) -> Tried:
    """The two moments that matter most, in a batch that the seed chooses, and one at random."""
    from tests.jobs.test_kill import check, kill_rounds

    batch = 1 + seed % 4
    outcome = kill_rounds(1, seed, folder, forced=(f"before:{batch}", f"after:{batch + 1}"))
    check(outcome)
    return Tried(outcome.kills, {"batch": batch, "orphan_files": outcome.orphan_files})


ROOM = Room(
    (
        Item("killed at random", kills),
        Item("killed around a commit", kills_around_a_commit),
    )
)
