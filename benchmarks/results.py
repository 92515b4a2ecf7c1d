"""Cells: what one contestant did in one case, kept as JSON files so that a killed ``--full`` run goes on where it was.

A file is keyed by everything that could change its numbers: table, case, contestant, arguments, versions (ours with a
fingerprint of its sources), the runner's source, profile and machine. Where scores alone are asked for, the same work counts wherever
and under whatever name it was done: on another machine, in another case, for another profile. A file is written anew after every
repetition; each repetition is therefore measured once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import Json, Repetition


@dataclass
class Cell:
    """The counted repetitions of one contestant in one case, and why it failed if it did."""

    key: Mapping[str, Json] = field(default_factory=dict)
    repetitions: list[Repetition] = field(default_factory=list)
    failure: str | None = None

    def is_complete(self, repetitions: int) -> bool:
        """Whether nothing is left to measure."""
        return self.failure is not None or len(self.repetitions) >= repetitions


class CellFile(ValueError):
    """A file among the results is not a cell."""


_NAMES = ("case", "contestant", "profile", "machine")
"""What of a key says where and under which name something was done, and not what."""


@dataclass(frozen=True)
class Cells:
    """The kept cells of one folder."""

    folder: Path
    _done: dict[str, dict[str, Cell]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By table, what has not failed, by its work; read when it is first asked for."""

    def path(self, key: Mapping[str, Json]) -> Path:
        """Where the cell of ``key`` is kept; the name says what it is, the digest that nothing differs."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        name = "--".join(slug(str(key[part])) for part in ("case", "contestant"))
        return self.folder / str(key["table"]) / f"{name}--{digest}.json"

    def read(self, key: Mapping[str, Json], *, clocked: bool = True) -> Cell:
        """The kept cell, or an empty one; not ``clocked``: else one of the same work that has not failed, whose key names its machine.

        Raises:
            CellFile: the file is damaged; remove it to measure again.
        """
        path = self.path(key)
        if path.exists():
            return _read(path, key)
        same = None if clocked else self._done_in(str(key["table"])).get(_work(key))
        if same is None:
            return Cell(key)
        return Cell({**key, "machine": same.key["machine"]}, list(same.repetitions))

    def write(self, cell: Cell) -> None:
        """Keep ``cell``, whole or not at all."""
        path = self.path(cell.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(cell), indent=1, sort_keys=True) + "\n")
        fresh.replace(path)
        done = self._done.get(str(cell.key["table"]))
        if done is not None and cell.failure is None:
            done[_work(cell.key)] = cell

    def _done_in(self, table: str) -> dict[str, Cell]:
        if table not in self._done:
            kept = (_read(path) for path in sorted((self.folder / table).glob("*.json")))
            self._done[table] = {_work(cell.key): cell for cell in kept if cell.failure is None}
        return self._done[table]


def _work(key: Mapping[str, Json]) -> str:
    """What was done, whatever it was called."""
    return json.dumps({part: value for part, value in key.items() if part not in _NAMES}, sort_keys=True)


def _read(path: Path, key: Mapping[str, Json] | None = None) -> Cell:
    """The cell of a file, whose own key is taken where none is given."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        repetitions = [Repetition(**repetition) for repetition in kept["repetitions"]]
        return Cell(kept["key"] if key is None else key, repetitions, kept["failure"])
    except (ValueError, KeyError, TypeError) as error:
        raise CellFile(f"'{path}' is not a kept cell ({error}); remove it to measure it again") from error


def slug(name: str) -> str:
    """``name`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
