"""Many writers, compactors and readers on one table, as processes of a few threads each; every one checks what it sees.

    python -m tests.storage.crowd PATH PROCESS WRITERS COMMITS

Each process has its own connection to nothing: all they share is the folder. A writer's rows are its number and its
commit's; it prints how long its commits took and how often it was beaten to a version. A reader demands that every
version has each writer's commits from its first one on without a gap, each once.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa

import headrace.storage as storage
from headrace.storage.compaction import compact
from headrace.storage.errors import PlanOutdated
from headrace.storage.log import Log
from headrace.storage.table import Table

SCHEMA = pa.schema([("writer", pa.int64()), ("number", pa.int64())])


def row(writer: int, number: int) -> pa.RecordBatch:
    """Made of buffers: to make an array of values Arrow imports pandas, which takes longer than many commits."""
    buffers = [[None, pa.py_buffer(value.to_bytes(8, "little"))] for value in (writer, number)]
    return pa.RecordBatch.from_arrays(
        [pa.Array.from_buffers(pa.int64(), 1, one) for one in buffers], schema=SCHEMA
    )


def consistent(table: Table) -> dict[int, int]:
    """How many commits of each writer a version has.

    Raises:
        AssertionError: one is missing or there twice.
    """
    found: dict[int, list[int]] = defaultdict(list)
    rows = table.to_table().to_pydict()
    for writer, number in zip(rows["writer"], rows["number"], strict=True):
        found[writer].append(number)
    for writer, numbers in found.items():
        assert sorted(numbers) == list(range(len(numbers))), (table.version, writer, sorted(numbers))
    return {writer: len(numbers) for writer, numbers in found.items()}


def crowd(path: Path, process: int, writers: int, commits: int) -> dict[str, object]:
    """One process's part; returns seconds of its commits and lost races, and how much was read and compacted."""
    seconds: list[float] = []
    wrong: list[Exception] = []
    done = threading.Event()
    counts = {"races": 0, "reads": 0, "compactions": 0, "given_up": 0}
    keep = Log.publish

    def publish(log: Log, manifest: object) -> bool:
        won = keep(log, manifest)  # type: ignore[arg-type]
        counts["races"] += not won
        return won

    Log.publish = publish  # type: ignore[method-assign, assignment]

    def write(writer: int) -> None:
        table = storage.open(path)
        for number in range(commits):
            start = time.perf_counter()
            staged = table.stage([row(writer, number)])
            commit = table.commit([staged], key=(f"w{writer}", number))
            seconds.append(time.perf_counter() - start)
            assert not commit.replayed

    def shrink() -> None:
        while not done.is_set():
            try:
                counts["compactions"] += compact(storage.open(path)).commit is not None
            except PlanOutdated:
                counts["given_up"] += 1
            done.wait(0.3)

    def read() -> None:
        seen: dict[int, int] = {}
        while not done.is_set():
            now = consistent(storage.open(path))
            assert all(now.get(writer, 0) >= n for writer, n in seen.items()), (
                "a commit was there and is gone"
            )
            seen = now
            counts["reads"] += 1
            done.wait(0.4)

    def guarded(act: object, *arguments: int) -> None:
        try:
            act(*arguments)  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 (raised again by the main thread)
            wrong.append(error)
            done.set()

    own = [threading.Thread(target=guarded, args=(write, process * writers + at)) for at in range(writers)]
    others = [threading.Thread(target=guarded, args=(act,)) for act in (shrink, read, read)]
    for thread in own + others:
        thread.start()
    for thread in own:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    if wrong:
        raise wrong[0]
    return {"seconds": seconds, **counts}


if __name__ == "__main__":
    print(json.dumps(crowd(Path(sys.argv[1]), *map(int, sys.argv[2:5]))))
