"""Stores and disks that fail at any call, once or for good: nothing referenced is removed, and trying again succeeds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import stores
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import (
    CommitConflict,
    CommitFenced,
    CommitUnknown,
    StagedTooLongAgo,
    StorageError,
)
from headrace.storage.evolution import Add, Drop, evolve
from headrace.storage.log import Change
from headrace.storage.table import Table
from headrace.storage.verify import verify

from .fault_store import FaultStore, by_seed, wrapped

SCHEMA = pa.schema([("user", pa.int64())])
AMBIGUOUS = 250  # of a thousand in the soak


def rows(*users: int) -> pa.Table:
    return pa.table({"user": pa.array(users, pa.int64())})


def ambiguous_puts(path: Path, seed: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit ``n`` keyed batches through a store that lies, retrying as a stream would; every batch is there once."""
    storage.create(path, SCHEMA)
    fault = by_seed(seed, 0.5)
    held: list[FaultStore] = []

    def store_of(root: Any) -> FaultStore:
        held.append(FaultStore(root, fault))
        return held[-1]

    monkeypatch.setattr(stores, "store_of", store_of)
    for batch in range(n):
        for _ in range(40):
            table = storage.open(path)
            try:
                table.commit([table.stage(rows(batch).to_batches())], key=("q", batch))
            except (CommitUnknown, OSError):
                if batch % 3 == 0:
                    for store in held:
                        store.settle()
                continue
            break
        else:
            raise AssertionError(f"batch {batch} never got through")
        if batch % 50 == 49:
            for store in held:
                store.settle()
            held.clear()
            while True:
                try:
                    collect(storage.open(path), keep_versions=5)
                    break
                except OSError:
                    continue
    for store in held:
        store.settle()
    monkeypatch.undo()
    table = storage.open(path)
    assert table.to_table()["user"].to_pylist() == list(range(n))
    assert not verify(table).findings
    assert all((table.folder / file.path).is_file() for file in table.files)


@pytest.mark.parametrize("seed", [1, 2])
def test_ambiguous_puts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ambiguous_puts(tmp_path / "t", seed, AMBIGUOUS // 5, monkeypatch)


OPERATIONS: dict[str, Callable[[Table], object]] = {
    "append": lambda table: table.commit([table.stage(rows(9).to_batches())], attachments={"m": b"1" * 5000}),
    "compact": lambda table: compact(table, cluster_by="user"),
    "evolve": lambda table: evolve(table, [Add("n", pa.int64(), lambda b: b["user"]), Drop("n")]),
    "gc": lambda table: collect(table, keep_versions=1),
}


class Failing:
    """Stands in for some calls of ``os``: the n-th and, if sticky, all after it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int, at: int, sticky: bool) -> None:
        self.at, self.sticky, self.error, self.calls = at, sticky, error, 0
        for name in ("fsync", "link", "write", "replace", "open"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name))

    def _failing(self, keep: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            if name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT):
                return keep(*args, **how)
            self.calls += 1
            if self.calls - 1 == self.at or (self.sticky and self.calls > self.at):
                raise OSError(self.error, os.strerror(self.error))
            return keep(*args, **how)

        return call


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_call_fails_in_turn(operation: str, error: int, sticky: bool, tmp_path: Path) -> None:
    at = -1
    for at in range(60):
        path = tmp_path / f"{at}"
        table = storage.write(path, rows(3, 1))
        table.append(rows(2))
        expected = sorted(table.to_table()["user"].to_pylist())
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, error, at, sticky)
            try:
                OPERATIONS[operation](table)
                failed = False
            except (OSError, StorageError):
                failed = True
        found = storage.open(path)
        users = sorted(found.to_table()["user"].to_pylist())
        assert users in (expected, sorted([*expected, 9]))
        if not failed:
            assert found.version >= 3
        else:
            assert not list((path / "_manifest").glob(".*")), "temporary files are gone"
            again = storage.open(path)
            OPERATIONS[operation](again)
        assert not verify(storage.open(path)).findings
        if failing.calls <= at:
            break
    assert 3 <= at < 59, "every call was reached"


FULL = """
import os, subprocess, sys
import pyarrow as pa
import headrace.storage as storage
from headrace.storage.compaction import compact
from headrace.storage.evolution import Add, evolve
from headrace.storage.verify import verify
path = sys.argv[1]
table = storage.write(path, pa.table({"user": list(range(1000))}))
def append():
    table.append(pa.table({"user": [7919 * row % 2**40 for row in range(60_000)]}))
def full(act):
    try:
        act()
    except OSError as error:
        return error.errno
    raise AssertionError("there was room")
def sound():
    found = storage.open(path)
    assert found.version == table.version and not verify(found).findings
    assert found.scan(rows=range(0, 1000)).to_table()["user"].to_pylist() == list(range(1000))
    left = os.listdir(path + "/data")
    assert len(left) == len({file.path for commit in found.history() for file in commit.files}), left
    assert not [name for name in os.listdir(path + "/_manifest") if name.startswith(".")]
failed = set()
try:
    for batch in range(1000):
        append()
except OSError as error:
    failed.add(error.errno)
sound()
for act in (append, lambda: compact(table), lambda: evolve(table, [Add("n", pa.int64(), lambda batch: batch["user"])])):
    failed.add(full(act))
    sound()
subprocess.run(["mount", "-o", "remount,size=32m", os.path.dirname(path)], check=True)
append()
sound()
assert compact(table).files_after == 1
sound()
print(*failed)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_of_four_mebibytes(tmp_path: Path) -> None:
    """A real full disk: the old version reads, what was half written is gone, and with more room all goes on."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    shell = f'mount -t tmpfs -o size=4m none {mounted} && exec {sys.executable} -c "$1" {mounted}/t'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", shell, "sh", FULL],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "permitted" in done.stderr or "permission" in done.stderr.lower():
        pytest.skip("mounting needs root")
    assert done.stdout.strip() == str(errno.ENOSPC), done.stderr


def test_a_zombie_driver_is_fenced(tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", SCHEMA)
    old, new = storage.open(table.path), storage.open(table.path)
    first = old.fence("q", "driver 1")
    old.commit([old.stage(rows(0).to_batches())], key=("q", 0), epoch=first)
    second = new.fence("q", "driver 2")
    assert (first, second) == (1, 2)
    late = [old.stage(rows(1).to_batches())]
    for epoch in (first, None, 7):
        with pytest.raises(CommitFenced, match="'driver 2' of epoch 2"):
            old.commit(late, key=("q", 1), epoch=epoch)
    assert new.commit([new.stage(rows(1).to_batches())], key=("q", 1), epoch=second).version == 5
    assert old.commit(late, key=("q", 1), epoch=first).replayed, "what is there already is no harm"
    other = new.commit([new.stage(rows(5).to_batches())], key=("r", 0))
    assert not other.replayed, "other queries are not fenced"
    assert storage.open(table.path).to_table()["user"].to_pylist() == [0, 1, 5]


def test_a_fence_is_drawn_between_look_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = storage.create(tmp_path / "t", SCHEMA)
    epoch = table.fence("q")
    staged = [table.stage(rows(1).to_batches())]
    keep, other = table._log.publish, storage.open(table.path)

    def publish(manifest: Any) -> bool:
        monkeypatch.setattr(table._log, "publish", keep)
        other.fence("q", "the newer one")
        return keep(manifest)

    monkeypatch.setattr(table._log, "publish", publish)
    with pytest.raises(CommitFenced, match="the newer one"):
        table.commit(staged, key=("q", 0), epoch=epoch)
    assert storage.open(table.path).num_rows == 0


def test_a_stale_writer_cannot_bring_back_a_collected_version(tmp_path: Path) -> None:
    """Its next number is free again; publishing there is seen to be void and tried again on top of the newest."""
    path = tmp_path / "t"
    stale = storage.write(path, rows(0))
    table = storage.open(path)
    for user in range(1, 12):
        table.append(rows(user))
        if user in (4, 8, 11):
            collect(table, keep_versions=1)
    assert not (path / "_manifest" / f"{2:020d}.json").exists()
    manifest = stale._manifest
    stale.refresh = lambda: stale  # type: ignore[method-assign]  # it looked long ago
    assert not stale._log.path(1).exists()
    doomed = table._log.following(table._manifest, Change((), (), "doomed", None, False, 0))
    forged = replace(doomed, version=2, parent_blake3="0" * 64, since=0, since_blake3="")
    assert stale._log.publish(forged) is False
    assert not (path / "_manifest" / f"{2:020d}.json").exists()
    del stale.refresh
    assert manifest.version == 1
    assert stale.refresh().version == table.version
    assert stale.num_rows == 12


def test_files_staged_before_the_horizon_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    slow, table = storage.write(path, rows(0)), storage.open(path)
    early = slow.stage(rows(1).to_batches())
    for user in (2, 3, 4):
        table.append(rows(user))
    first = collect(table, keep_versions=2)
    assert (first.noted, first.orphans) == (1, ())
    assert (path / early.path).exists(), "its writer may still be at work"
    table.append(rows(5))
    table.append(rows(6))
    assert collect(table, keep_versions=1, dry_run=True).orphans == (early.path,)
    assert (path / early.path).exists()
    collect(table, keep_versions=1)
    assert not (path / early.path).exists()
    with pytest.raises(StorageError):
        slow.commit([early])
    again = slow.stage(rows(1).to_batches())
    slow.commit([again])
    assert sorted(storage.open(path).to_table()["user"].to_pylist()) == [0, 1, 2, 3, 4, 5, 6]


def test_a_file_that_is_still_there_but_too_old_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    slow, table = storage.write(path, rows(0)), storage.open(path)
    early = slow.stage(rows(1).to_batches())
    table.append(rows(2))
    collect(table, keep_versions=1)
    assert (path / early.path).exists()
    with pytest.raises(StagedTooLongAgo, match="stage its rows again"):
        slow.commit([early])
    assert isinstance(StagedTooLongAgo(""), CommitConflict)


def test_the_last_commit_of_a_query_holds_the_horizon_back(tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", SCHEMA)
    table.commit([], key=("q", 0), attachments={"model": b"weights"})
    for user in range(5):
        table.append(rows(user))
    done = collect(table, keep_versions=1)
    assert (done.horizon, done.held_back_by) == (2, "q")
    last = table.last_commit("q")
    assert last is not None
    assert last.attachment("model") == b"weights"
    assert collect(table, keep_versions=1, forget=["q"]).horizon == 8
    again = storage.open(table.path).commit([], key=("q", 0))
    assert (again.replayed, again.version, again.operation) == (True, 2, "expired")
    with pytest.raises(ValueError, match="keep_versions or older_than"):
        collect(table)


def test_wrapped_is_what_every_table_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a store that always fails lets nothing through."""
    storage.create(tmp_path / "t", SCHEMA)
    monkeypatch.setattr(
        stores, "store_of", wrapped(lambda call, name: "before" if call == "create" else None)
    )
    with pytest.raises(OSError, match="Input/output"):
        storage.open(tmp_path / "t").append(rows(1))
    monkeypatch.undo()
    assert storage.open(tmp_path / "t").version == 1
