"""What a soak has done so far, one line of JSON per finished item, so that a restart goes on where it stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASSED = "passed"


@dataclass(frozen=True)
class Entry:
    """One finished item.

    Attributes:
        item: its name in the room's table.
        seed: what it drew from.
        cases: how many cases it tried.
        seconds: wall time of its process.
        result: "passed", or why not.
        peak_bytes: largest resident memory of its process.
        figures: further numbers that the item found worth keeping.
    """

    item: str
    seed: int
    cases: int
    seconds: float
    result: str
    peak_bytes: int
    figures: dict[str, Any]


class Ledger:
    """The file of one room; only ever appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """What was finished, oldest first; a last line cut short by a crash is not counted."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [Entry(**json.loads(line)) for line in lines if line.endswith("\n")]

    def append(self, entry: Entry) -> None:
        """Write down a finished item; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(whole)
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def next_step(self, items: list[str], first_seed: int) -> tuple[int, int]:
        """Index of the item to do next and its seed: after the last one in the table, with the seed after its seed."""
        done = [entry for entry in self.entries() if entry.item in items]
        if not done:
            return 0, first_seed
        return (items.index(done[-1].item) + 1) % len(items), done[-1].seed + 1
