"""Sixteen writers, four compactors and eight readers; writers that are killed; clocks that jump."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import stores
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import ClockDoubtful
from headrace.storage.log import Log
from headrace.storage.manifest import Manifest
from headrace.storage.verify import verify

from .crowd import SCHEMA, consistent

PROCESSES, WRITERS = 4, 4
COMMITS = 100
KILLS = 25


def many(path: Path, commits: int) -> list[dict[str, object]]:
    """The crowd on a new table; returns what its processes report, after checking what they left."""
    storage.create(path, SCHEMA)
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "tests.storage.crowd",
                str(path),
                str(at),
                str(WRITERS),
                str(commits),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for at in range(PROCESSES)
    ]
    reports = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    table = storage.open(path)
    assert consistent(table) == dict.fromkeys(range(PROCESSES * WRITERS), commits)
    assert [commit.version for commit in table.history()] == list(range(table.version, 0, -1))
    assert sum(commit.operation == "append" for commit in table.history()) == PROCESSES * WRITERS * commits
    assert not verify(table).findings
    assert not list((path / "_manifest").glob(".*"))
    return [json.loads(report) for report in reports]


@pytest.mark.parametrize("iteration", range(2))
def test_many_writers_compactors_and_readers(iteration: int, tmp_path: Path) -> None:
    reports = many(tmp_path / f"{iteration}", COMMITS)
    assert all(report["reads"] for report in reports)
    assert any(report["races"] for report in reports), "they did meet"
    assert any(report["compactions"] for report in reports)


def test_whoever_keeps_the_turn_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that was stopped while it had its turn, or died: the next ones go on, at once or after a moment."""
    monkeypatch.setattr(stores, "TURN_S", 0.1)
    table, other = storage.create(tmp_path / "t", SCHEMA), storage.open(tmp_path / "t")
    keep, waited = Log.publish, list[float]()

    def beaten(log: Log, manifest: Manifest) -> bool:
        monkeypatch.setattr(Log, "publish", keep)
        other.append(pa.table({"writer": [1], "number": [len(waited)]}))
        return log.publish(manifest)

    def append(number: int) -> None:
        monkeypatch.setattr(Log, "publish", beaten)
        began = time.monotonic()
        table.append(pa.table({"writer": [0], "number": [number]}))
        waited.append(time.monotonic() - began)

    with table._log.store.turn("_manifest"):
        append(0)
    append(1)
    assert waited[0] >= 0.1
    assert consistent(storage.open(tmp_path / "t")) == {0: 2, 1: 2}


FIRST_AT_ONCE = """
import sys, threading
from headrace.storage import manifest
sys.setswitchinterval(1e-6)  # so that threads meet in the middle of what is done once
data = open(sys.argv[1], "rb").read()
together = threading.Barrier(16)
def read():
    together.wait()
    manifest.decode(data, 1, "here")
threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_read_the_first_manifest_of_a_process_at_once(tmp_path: Path) -> None:
    storage.create(tmp_path / "t", SCHEMA)
    (manifest,) = (tmp_path / "t" / "_manifest").glob("*.json")
    for _ in range(4):  # one in two of them crashed when types were read at first use
        subprocess.run([sys.executable, "-c", FIRST_AT_ONCE, str(manifest)], check=True)


KILLED = """
import sys
import headrace.storage as storage
from headrace.storage.compaction import compact
from headrace.storage.collecting import collect
from tests.storage.crowd import row
table = storage.open(sys.argv[1])
last = table.last_commit("q")
number = last.key[1] + 1 if last else 0
while True:
    table.commit([table.stage([row(0, number)])], key=("q", number), attachments={"m": str(number).encode()})
    print(number, flush=True)
    number += 1
    if number % 7 == 0:
        compact(table)
    if number % 11 == 0:
        collect(table, keep_versions=3)
"""


def kills(path: Path, n: int, seed: int) -> int:
    """Kill a writer ``n`` times, at any moment of what follows a few of its commits; returns how many commits there were.

    After each kill everything it acknowledged is there, each once.
    """
    storage.create(path, SCHEMA)
    draw, held = random.Random(seed), 0
    for _ in range(n):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline() for _ in range(1 + draw.randrange(8))]
            time.sleep(draw.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
            said += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        whole = [int(line) for line in said if line.endswith("\n")]
        assert whole == list(range(held, held + len(whole)))
        table = storage.open(path)
        before, held = held, consistent(table).get(0, 0)
        assert before + len(whole) <= held <= before + len(whole) + 1
        assert not verify(table).findings
        last = table.last_commit("q")
        assert last is not None
        assert last.key == ("q", held - 1)
    return held


def test_a_writer_is_killed(tmp_path: Path) -> None:
    assert kills(tmp_path / "t", KILLS, seed=3) >= KILLS
    table = storage.open(tmp_path / "t")
    table.append(pa.table({"writer": [1], "number": [0]}))
    compact(table)
    for _ in range(3):
        table.append(pa.table({"writer": [1], "number": [1]}))
        collect(table, keep_versions=1, forget=["q"])
    assert verify(table).unlisted == 0, "what dead writers left is collected"


HOUR, YEAR = 3_600_000, 365 * 86_400_000
NOW = 1_790_000_000_000


@pytest.mark.parametrize("jump", [-HOUR, HOUR, 10 * YEAR], ids=["back an hour", "an hour on", "ten years on"])
def test_order_is_not_the_clocks(jump: int, tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", SCHEMA, clock_ms=lambda: NOW)
    for number in range(6):
        clock = NOW + number * 60_000 + (jump if number in (2, 3) else 0)
        staged = [table.stage([pa.record_batch({"writer": [0], "number": [number]})])]
        table.commit(staged, clock_ms=lambda clock=clock: clock)  # type: ignore[misc]
    assert storage.open(tmp_path / "t").to_table()["number"].to_pylist() == list(range(6))
    assert [commit.version for commit in table.history()] == list(range(7, 0, -1))


def _aged(path: Path, steps: list[int]) -> storage.Table:
    """A table whose versions were committed at these times, by their writers' clocks and the file system's."""
    table = storage.create(path, SCHEMA, clock_ms=lambda: NOW + steps[0])
    for number, step in enumerate(steps[1:]):
        staged = [table.stage([pa.record_batch({"writer": [0], "number": [number]})])]
        table.commit(staged, replace_all=True, clock_ms=lambda step=step: NOW + step)  # type: ignore[misc]
    for version, step in enumerate(steps, 1):
        seconds = (NOW + step) / 1000
        os.utime(path / "_manifest" / f"{version:020d}.json", (seconds, seconds))
    return table


DAY = 86_400_000


def test_versions_expire_by_age_and_every_doubt_keeps_them(tmp_path: Path) -> None:
    steps = [0, DAY, 2 * DAY, 9 * DAY, 10 * DAY]

    def horizon(name: str, steps: list[int], now: int) -> int:
        table = _aged(tmp_path / name, steps)
        return collect(table, older_than=timedelta(days=7), clock_ms=lambda: NOW + now, dry_run=True).horizon

    assert horizon("fine", steps, 12 * DAY) == 3, "version 3 was there seven days and the skew ago"
    assert horizon("an hour back", steps, 12 * DAY - HOUR) == 3
    assert horizon("long back", steps, -10 * YEAR) == 1
    assert horizon("one ahead", [0, DAY, 10 * YEAR, 9 * DAY, 10 * DAY], 12 * DAY) == 2
    assert horizon("one behind", [0, 8 * DAY, -10 * YEAR, 9 * DAY, 10 * DAY], 12 * DAY) == 1
    with pytest.raises(ClockDoubtful, match="set the clock"):
        horizon("ten years on", steps, 10 * YEAR)
    with pytest.raises(ClockDoubtful, match=r"version 3 is .* past those before it"):
        horizon("ten years on, as somebody's who wrote", [0, DAY, 10 * YEAR], 10 * YEAR + DAY)


FAKETIME = next((str(found) for found in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

COLLECTS = """
import sys
from datetime import timedelta
import headrace.storage as storage
from headrace.storage import stores
from headrace.storage.collecting import collect
from headrace.storage.errors import ClockDoubtful
try:
    print(collect(storage.open(sys.argv[1]), older_than=timedelta(minutes=1)).horizon)
except ClockDoubtful:
    print("doubtful")
"""


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime")
@pytest.mark.parametrize("jump", ["-1h", "+1h", "+10y"])
def test_a_machine_whose_clock_has_jumped_removes_nothing_early(jump: str, tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", SCHEMA)
    for number in range(3):
        table.append(pa.table({"writer": [0], "number": [number]}))
    environment = {**os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": jump}
    done = subprocess.run(
        [sys.executable, "-c", COLLECTS, str(table.path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() in ("1", "doubtful")
    assert storage.open(table.path, 1).version == 1


JUMPS = """
import sys, time
from datetime import timedelta
from pathlib import Path
import pyarrow as pa
import headrace.storage as storage
from headrace.storage import durable
from headrace.storage.collecting import collect
from headrace.storage.errors import ClockDoubtful
path, clock = sys.argv[1], Path(sys.argv[2])
keep, jumps = durable.publish_exclusive, ["+1h", "-1h", "+10y", "-10y"]
def publish(temporary, final):
    before = time.time()
    clock.write_text(jumps[int(final.stem) % len(jumps)])
    assert abs(time.time() - before) > 1000, "the clock did not jump"
    keep(temporary, final)
durable.publish_exclusive = publish
table = storage.open(path)
for number in range(8):
    staged = table.stage([pa.record_batch({"writer": [0], "number": [number]})])
    table.commit([staged], key=("q", number))
    try:
        assert collect(table, older_than=timedelta(days=1), dry_run=True).horizon == 1
    except ClockDoubtful:
        pass
"""


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime")
def test_the_clock_jumps_back_and_forth_in_the_middle_of_commits(tmp_path: Path) -> None:
    table, clock = storage.create(tmp_path / "t", SCHEMA), tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    subprocess.run(
        [sys.executable, "-c", JUMPS, str(table.path), str(clock)],
        env={**os.environ, **faked},
        check=True,
        timeout=120,
    )
    found = storage.open(table.path)
    assert [commit.key and commit.key[1] for commit in found.history()] == [*range(7, -1, -1), None]
    assert found.to_table()["number"].to_pylist() == list(range(8))
    times = [commit.committed_at_ms for commit in found.history()]
    assert max(times) - min(times) > 10 * YEAR, "what was written down did jump"
    assert collect(found, older_than=timedelta(minutes=1), dry_run=True).horizon == 1
