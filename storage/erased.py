"""What an erase did, or would: file by file, and over all of them.

In the flow: ``erase`` hands it out, receipts and the command line say it on. Nothing is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["suppressed", "erased", "canonical"]
LEVELS: tuple[Level, ...] = ("suppressed", "erased", "canonical")
IN_PLACE, ANEW, REMOVED, HIDDEN = "in place", "anew", "removed", "hidden"
WAITING = "a commit takes these persons out of them, and headrace gc removes those that are never committed"
"""What becomes of files that an erasure does not look into, since no version names them."""


@dataclass(frozen=True)
class FileErased:
    """What became of one file, or would."""

    path: str
    rows: int
    how: str
    """``in place``, ``anew``, ``removed`` or ``hidden``."""
    data_blocks: int
    """Disk blocks of 4,096 bytes with rows that change."""
    bytes_written: int
    """Journal and footer included."""
    bytes_total: int
    root_before: str
    root_after: str
    epoch: int


@dataclass(frozen=True)
class Erased:
    """What an erase did, or would."""

    level: Level
    subjects: int
    rows: int
    files: tuple[FileErased, ...]
    version: int
    """That says so; 0 of a dry run."""
    root_before: str
    root_after: str
    closed_before: int
    """Versions before it can no longer be read; 0 if all can."""
    seconds: float
    waiting: int = 0
    """Files that lie there and that no kept version names: staged for a commit, which will leave these persons out, or never committed,
    which garbage collection removes. They were not looked into."""

    @property
    def bytes_written(self) -> int:
        """Over all files."""
        return sum(file.bytes_written for file in self.files)
