"""What a planted defect is; those of each room are in ``planted`` and ``planted_encodings``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted defect.

    Attributes:
        name: what is wrong, in a few words.
        room: storage, streaming, learners, jobs or scheduler.
        file: the module, relative to the root of the project.
        old: its text that is replaced, which must stand there exactly once.
        new: the defect.
        tests: ids of the tests that must notice.
    """

    name: str
    room: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
