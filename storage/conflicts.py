"""Which operations may pass each other: the conflict table, and what is done about each pair.

An operation was planned at one version and wants to become the version after the newest. For each operation that came
between, ``CONFLICTS`` has one verdict; the worst one counts. Delta's and Iceberg's rules were read for comparison; that
an erasure wins over everything is our own, since rows that come back are a breach of law, not only a wrong answer.
Fences, keys and files that were staged too long ago are looked at on every attempt, whatever came between (``committing``).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Verdict(IntEnum):
    """What an operation does about one that was faster."""

    PASS = 0
    """Go on top of it: the two touch nothing in common."""
    CHECK = 1
    """Go on top of it if every file that was read is still listed as it was, else plan again."""
    REPLAN = 2
    """Throw away what was staged and plan again at the newest version."""
    REFUSE = 3
    """Tell the caller, who decides: going on would lose what the other one wrote."""


P, C, A, R = Verdict.PASS, Verdict.CHECK, Verdict.REPLAN, Verdict.REFUSE
OPERATIONS = ("append", "overwrite", "compact", "evolve", "gc", "fence", "erase", "repair", "expire")

_ROWS: dict[str, tuple[Verdict, ...]] = {
    #            append overwr compact evolve  gc  fence erase repair expire
    "append": (P, P, P, P, P, P, P, P, P),
    "overwrite": (R, R, P, P, P, P, R, R, P),
    "compact": (P, C, C, C, P, P, A, C, A),
    "evolve": (A, A, A, A, P, P, A, A, A),
    "gc": (A, A, A, A, A, P, A, A, A),
    "fence": (P, P, P, P, P, A, P, P, P),
    "erase": (A, A, A, A, P, P, A, A, A),
    "repair": (P, C, C, C, P, P, A, C, A),
    "expire": (A, A, A, A, A, A, A, A, A),
}

CONFLICTS: dict[tuple[str, str], Verdict] = {
    (mine, theirs): verdict
    for mine, row in _ROWS.items()
    for theirs, verdict in zip(OPERATIONS, row, strict=True)
}
"""By (the operation that wants to commit, the one that did in between)."""


def verdict(mine: str, theirs: Iterable[str]) -> tuple[Verdict, str]:
    """The worst verdict over what came in between, and who it is for; PASS if nothing did.

    >>> verdict("compact", ["append", "erase"])
    (<Verdict.REPLAN: 2>, 'erase')
    """
    worst, who = Verdict.PASS, ""
    for other in theirs:
        found = CONFLICTS.get((mine, other), Verdict.REPLAN)
        if found > worst:
            worst, who = found, other
    return worst, who
