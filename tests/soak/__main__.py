"""`python -m tests.soak --room ROOM --minutes N`: a room's table of items, round after round, until the time is over.

Each item runs in a process of its own with a seed that is printed and written to ``.soak/ROOM.jsonl``; a restart goes on
with the item and the seed after the last one written. `--item NAME --seed N` repeats one and writes nothing down.
Exit code 1 where any item of this run failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.tree import ROOT

from .item import Item, Room
from .ledger import PASSED, Entry, Ledger

ROOMS = ("storage", "learners", "streaming", "scheduler", "jobs", "mutants")
LIMIT_S = 3600


def room_of(name: str) -> Room:
    """A room's table; only that room is imported."""
    room: Room = importlib.import_module(f"tests.soak.{name}").ROOM
    return room


def command(room: str, item: str, seed: int) -> str:
    """What repeats an item."""
    return f"{Path(sys.executable).name} -m tests.soak --room {room} --item {shlex.quote(item)} --seed {seed}"


def repeat(item: Item, seed: int, answer: Path | None) -> int:
    """Do one item here, in this process; its figures go to ``answer`` or are printed."""
    with tempfile.TemporaryDirectory(prefix="headrace-soak-") as folder:
        tried = item.work(seed, Path(folder))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {"cases": tried.cases, "peak_bytes": peak * 1024, "figures": tried.figures}
    if answer is None:
        print(json.dumps(found))
    else:
        answer.write_text(json.dumps(found))
    return 0


def step(room: str, item: str, seed: int) -> Entry:
    """Do one item in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="headrace-soak-") as folder:
        answer = Path(folder) / "answer.json"
        line = [sys.executable, "-m", "tests.soak", "--room", room, "--item", item, "--seed", str(seed)]
        started = time.monotonic()
        result = _outcome([*line, "--answer", str(answer)])
        seconds = round(time.monotonic() - started, 1)
        found: dict[str, Any] = {"cases": 0, "peak_bytes": 0, "figures": {}}
        if answer.exists():
            found = json.loads(answer.read_text())
    return Entry(item=item, seed=seed, seconds=seconds, result=result, **found)


def _outcome(line: list[str]) -> str:
    """Run a child with a group of its own, so that whatever it started ends with it."""
    with subprocess.Popen(line, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"took more than {LIMIT_S} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return PASSED if code == 0 else f"exit code {code}"


def soak(name: str, room: Room, minutes: float, ledger: Ledger) -> list[Entry]:
    """Do items until the time is over, or each once; returns what this run finished."""
    names = [item.name for item in room.items]
    place, seed = ledger.next_step(names, secrets.randbelow(2**31))
    place = 0 if room.once else place
    until, finished = time.monotonic() + 60 * minutes, list[Entry]()
    while (len(finished) < len(names)) if room.once else (time.monotonic() < until):
        item = names[(place + len(finished)) % len(names)]
        print(f"{item}, seed {seed}", flush=True)
        entry = step(name, item, seed)
        ledger.append(entry)
        finished.append(entry)
        print(
            f"  {entry.result}, {entry.cases:,} cases, {entry.seconds:.1f} s {entry.figures or ''}",
            flush=True,
        )
        if entry.result != PASSED:
            print(f"  again: {command(name, item, seed)}", flush=True)
        seed += 1
    return finished


def report(finished: list[Entry]) -> int:
    """One line an item, and what failed; 1 if anything did."""
    for item in dict.fromkeys(entry.item for entry in finished):
        mine = [entry for entry in finished if entry.item == item]
        failed = sum(entry.result != PASSED for entry in mine)
        cases, seconds = sum(entry.cases for entry in mine), sum(entry.seconds for entry in mine)
        peak = max(entry.peak_bytes for entry in mine) >> 20
        print(
            f"{len(mine):4} runs {failed:4} failed {cases:10,} cases {seconds:8.1f} s {peak:6,} MiB  {item}"
        )
    return 1 if any(entry.result != PASSED for entry in finished) else 0


def main() -> int:
    """Parse the command line and soak, or repeat one item."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="The longer forms of the tests."
    )
    parser.add_argument("--room", required=True, choices=ROOMS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--item", help="repeat only this one, and write nothing down")
    parser.add_argument("--seed", type=int, default=0, help="what --item draws from")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    room = room_of(asked.room)
    if asked.item is not None:
        found = [item for item in room.items if item.name == asked.item]
        if not found:
            parser.error(
                f"no item {asked.item!r} in {asked.room}; there are {[item.name for item in room.items]}"
            )
        return repeat(found[0], asked.seed, asked.answer)
    return report(soak(asked.room, room, asked.minutes, Ledger(ROOT / ".soak" / f"{asked.room}.jsonl")))


if __name__ == "__main__":
    sys.exit(main())
