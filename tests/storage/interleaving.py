"""Random orders of erase, compact, collect, append, late events and files that wait for their commit; nobody may come back.

What they ask is who sees whom, not what survives a crash, so nothing is synced: that was three quarters of the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import durable, erase
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import StagedTooLongAgo
from headrace.storage.manifest import DataFile
from headrace.storage.table import Table

USERS = 6


def interleave(folder: Path, seed: int) -> int:
    """One order of operations on a small table; how many there were.

    After each, the newest version has every row of everybody who was not forgotten, and no row of anybody else; nor does an
    older one have, of which one is looked at after each operation and all at the end.
    """
    with pytest.MonkeyPatch.context() as patched:
        for name in ("sync_file", "sync_dir"):
            patched.setattr(durable, name, lambda _: None)
        return _interleave(folder, seed)


def _interleave(folder: Path, seed: int) -> int:
    rng = np.random.default_rng(seed)
    next_row = 0

    def rows() -> pa.Table:
        nonlocal next_row
        n = int(rng.integers(2, 7))
        next_row += n
        users = rng.integers(0, USERS, n)
        return pa.table({"user": users, "row": np.arange(next_row - n, next_row)})

    first = rows()
    table = storage.write(folder, first, erase_key="user")
    expected = {
        int(r): int(u) for u, r in zip(first["user"].to_pylist(), first["row"].to_pylist(), strict=True)
    }
    forgotten: set[int] = set()
    waiting: list[tuple[DataFile, pa.Table]] = []
    n_operations = int(rng.integers(4, 8))
    for _ in range(n_operations):
        match rng.choice(["append", "stage", "commit", "suppress", "erase", "canonical", "compact", "gc"]):
            case "append":
                came = rows()
                storage.open(folder).append(came)
                _expect(expected, came)
            case "stage":
                came = rows()
                waiting.append((storage.open(folder).stage(came.to_batches()), came))
            case "commit" if waiting:
                staged, came = waiting.pop(int(rng.integers(len(waiting))))
                _commit(table, staged, came)  # by an object that may not have looked at the table for long
                _expect(expected, came)
            case "compact":
                compact(storage.open(folder), everything=True)
            case "gc":
                collect(storage.open(folder), keep_versions=1)
            case "suppress" | "erase" | "canonical" as level:
                one = int(rng.integers(USERS))
                forgotten.add(one)
                how: erase.Level = {"suppress": "suppressed", "erase": "erased", "canonical": "canonical"}[
                    str(level)
                ]  # type: ignore[assignment]
                erase.erase(storage.open(folder), [one], level=how)
        _check(folder, expected, forgotten, seed, rng)
    for staged, came in waiting:
        _commit(table, staged, came)
        _expect(expected, came)
    _check(folder, expected, forgotten, seed)
    return n_operations


def _commit(table: Table, staged: DataFile, came: pa.Table) -> None:
    try:
        table.commit([staged])
    except StagedTooLongAgo:  # the message says what to do
        table.commit([table.stage(came.to_batches())])


def _expect(expected: dict[int, int], came: pa.Table) -> None:
    expected |= {
        int(r): int(u) for u, r in zip(came["user"].to_pylist(), came["row"].to_pylist(), strict=True)
    }


def _check(
    folder: Path,
    expected: dict[int, int],
    forgotten: set[int],
    seed: int,
    rng: np.random.Generator | None = None,
) -> None:
    newest = storage.open(folder)
    found = newest.scan(threads=1).to_table()
    assert newest.num_rows == found.num_rows, f"seed {seed}"
    got = dict(zip(found["row"].to_pylist(), found["user"].to_pylist(), strict=True))
    back = sorted(set(got.values()) & forgotten)
    assert not back, f"seed {seed}: {back} came back"
    assert got == {row: user for row, user in expected.items() if user not in forgotten}, f"seed {seed}"
    standing = newest._manifest.standing
    older = range(max(standing.horizon, standing.closed_before), newest.version)
    for version in older if rng is None or not older else [older[int(rng.integers(len(older)))]]:
        shown = storage.open(folder, version).scan(["user"], threads=1).to_table()
        users = set(shown["user"].to_pylist())
        assert not users & forgotten, f"seed {seed}: {users & forgotten} came back in version {version}"
