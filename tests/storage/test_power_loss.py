"""What a table looks like after the power fails at any moment: only what was synced is still there.

The disk is a model of the worst that a file system may do: a file holds what it held when it was last synced, a folder
the names it had when it was last synced, and everything else is gone.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage.errors import TableNotFound


class Disk:
    """Stands in for ``os.fsync`` and remembers what it has made durable; ``on_event`` is called around each step."""

    def __init__(self, root: Path, on_event: Callable[[], None]) -> None:
        self.root, self.on_event = root, on_event
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, int]] = {root.stat().st_ino: {}}
        self.synced = 0

    def fsync(self, fd: int) -> None:
        self.on_event()
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(fd) as entries:
                self.folders[status.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self.files[status.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()
        self.synced += 1
        self.on_event()

    def lose_power(self, target: Path) -> None:
        """Make in ``target`` what would be found under ``root`` after the power came back."""
        self._restore(self.root.stat().st_ino, target)

    def _restore(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, child in self.folders.get(inode, {}).items():
            if child in self.folders:
                self._restore(child, target / name)
            else:
                (target / name).write_bytes(self.files.get(child, b""))


def rows(*users: int) -> pa.Table:
    return pa.table(
        {"user": pa.array(users, pa.int64()), "word": pa.array([f"w{user}" for user in users], pa.string())}
    )


def test_power_may_fail_at_any_moment_of_any_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    images = itertools.count()
    allowed: list[list[int]] = [[]]
    seen: set[int] = set()

    def check() -> None:
        image = tmp_path / f"image{next(images)}"
        disk.lose_power(image)
        try:
            table = storage.open(image / "tables" / "clicks")
        except TableNotFound:
            assert len(allowed) == 1, "the table itself is gone"
            return
        found = table.to_table().column("user").to_pylist() if table.version > 1 else []
        assert found in allowed, f"version {table.version} holds {found}, expected one of {allowed}"
        for commit in itertools.islice(table.history(), table.version - 1):
            assert commit.attachment("progress") == str(commit.version).encode()
        seen.add(table.version)

    disk = Disk(root, check)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    # The parents of a new table are made durable too.
    table = storage.create(root / "tables" / "clicks", rows().schema)
    check()
    assert seen == {1}, "create returned, and the table would not be there"
    held: list[int] = []
    for version in range(2, 12):
        allowed[:] = [held, [*held, version]]
        staged = table.stage(rows(version).to_batches())
        table.commit([staged], key=("query", version), attachments={"progress": str(version).encode()})
        held = allowed[1]
        allowed[:] = [held, held]
        check()
        assert max(seen) == version, "commit returned, and its version would not be there"
    assert disk.synced >= 10 * 6


def test_power_may_fail_at_any_moment_of_a_first_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no table, or one with all its rows; never an empty one."""
    root = tmp_path / "disk"
    root.mkdir()
    images = itertools.count()
    seen: list[object] = []

    def check() -> None:
        image = tmp_path / f"image{next(images)}"
        disk.lose_power(image)
        seen.append(_found(image / "tables" / "clicks"))

    disk = Disk(root, check)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    storage.write(root / "tables" / "clicks", rows(1, 2, 3))
    check()
    assert len(seen) == 2 * disk.synced + 1
    assert seen == [None] * (len(seen) - 2) + [(1, [1, 2, 3])] * 2, "from the last sync on, and not before"


def _found(path: Path) -> tuple[int, list[int]] | None:
    """Version and users of a table; None if there is none."""
    try:
        table = storage.open(path)
    except TableNotFound:
        return None
    return table.version, table.to_table().column("user").to_pylist()


def test_what_a_dead_writer_did_not_sync_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first writer is stopped at each of its syncs in turn: what it made is there, but would not survive."""
    n = -1
    for n in range(100):
        root = tmp_path / f"disk{n}"
        root.mkdir()
        disk, path = Disk(root, lambda: None), root / "tables" / "clicks"
        left = [n]

        def fsync(fd: int, disk: Disk = disk, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            disk.fsync(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            storage.write(path, rows(1))
        except KeyboardInterrupt:
            monkeypatch.setattr(os, "fsync", disk.fsync)
            if (path / "_manifest" / f"{1:020d}.json").exists():
                assert _found(path) == (1, [1])
                break
            assert _found(path) is None
        storage.write(path, rows(2))
        disk.lose_power(tmp_path / f"image{n}")
        assert _found(tmp_path / f"image{n}" / "tables" / "clicks") == (1, [2]), f"stopped at sync {n}"
    assert n == 11, "only the last of twelve syncs comes after the manifest"


def test_attachments_outlive_a_writer_that_died_making_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root, lambda: None)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    table = storage.write(root / "clicks", rows(1))
    (table.path / "attachments").mkdir()  # by a writer that died before it synced the name
    table.commit([], attachments={"progress": b"7"})
    disk.lose_power(tmp_path / "image")
    assert next(storage.open(tmp_path / "image" / "clicks").history()).attachment("progress") == b"7"


def test_a_staged_file_is_durable_before_anybody_is_told_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may stage on one machine and end; the commit on another must be able to rely on its file."""
    table = storage.create(tmp_path / "clicks", rows().schema)
    disk = Disk(table.path, lambda: None)
    disk.folders[table.path.stat().st_ino] = {"data": (table.path / "data").stat().st_ino}
    monkeypatch.setattr(os, "fsync", disk.fsync)
    staged = table.stage(rows(1, 2).to_batches())
    disk.lose_power(tmp_path / "image")
    back = pa.Table.from_batches(storage.read_file(tmp_path / "image" / staged.path))
    assert back.column("user").to_pylist() == [1, 2]


def test_one_of_two_writers_gets_a_version_and_the_other_the_next(tmp_path: Path) -> None:
    """Publishing never replaces what somebody else published."""
    table = storage.create(tmp_path / "clicks", rows().schema)
    late = storage.open(table.path)
    mine, theirs = late.stage(rows(1).to_batches()), table.stage(rows(2).to_batches())
    first = table.commit([theirs])
    refresh = late.refresh
    late.refresh = lambda: late  # type: ignore[method-assign]  # it looked just before the other one published
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            late._log, "publish", _then(late._log.publish, lambda: setattr(late, "refresh", refresh))
        )
        second = late.commit([mine])
    assert (first.version, second.version) == (2, 3)
    assert storage.open(table.path, version=2).to_table().column("user").to_pylist() == [2]
    assert storage.open(table.path).to_table().column("user").to_pylist() == [2, 1]


def _then(call: Callable[..., bool], after: Callable[[], None]) -> Callable[..., bool]:
    def calling(*arguments: object) -> bool:
        try:
            return call(*arguments)
        finally:
            after()

    return calling
