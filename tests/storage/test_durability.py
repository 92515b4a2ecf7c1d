"""The order of syncs around a commit, and what is concluded when one of them fails."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import durable
from headrace.storage.errors import CommitUnknown
from headrace.storage.table import Table

BATCH = pa.record_batch({"x": [1, 2]})
# Of t, its data and its manifests, and of the folder that t was to be made in.
NAMES_MADE = ["sync /..", "sync ", "sync /t", "sync ", "sync /t"]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fsync and link from now on, by path in the test's folder, with drawn names made equal."""
    seen: list[str] = []

    def name(path: str) -> str:
        if path == str(tmp_path.parent):
            return "/.."
        path = path.replace(str(tmp_path), "")
        path = re.sub(r"schema-[0-9a-f]{32,}", "SCHEMA", path)
        return re.sub(r"[0-9a-f]{32}", "ID", path)

    def fsync(fd: int, keep: Callable[[int], None] = os.fsync) -> None:
        seen.append("sync " + name(str(Path(f"/proc/self/fd/{fd}").readlink())))
        keep(fd)

    def link(source: Path, target: Path, keep: Callable[..., None] = os.link) -> None:
        seen.append(f"link {name(str(target))}")
        keep(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    return seen


def test_create_syncs_every_name_it_makes(tmp_path: Path, calls: list[str]) -> None:
    storage.create(tmp_path / "t", BATCH.schema)
    assert calls == [
        *NAMES_MADE,
        "sync /t/_manifest/.SCHEMA.tmp",
        "sync /t/_manifest",
        "sync /t/_manifest/.ID-1.tmp",
        "link /t/_manifest/00000000000000000001.json",
        "sync /t/_manifest",
    ]


def test_write_syncs_schema_then_data_then_its_only_manifest(tmp_path: Path, calls: list[str]) -> None:
    storage.write(tmp_path / "t", BATCH)
    assert calls == [
        *NAMES_MADE,
        "sync /t/_manifest/.SCHEMA.tmp",
        "sync /t/_manifest",
        "sync /t/data/ID.hrc",
        "sync /t/data",
        "sync /t/_manifest/.ID-1.tmp",
        "link /t/_manifest/00000000000000000001.json",
        "sync /t/_manifest",
    ]


def test_names_found_are_synced_like_names_made(tmp_path: Path, calls: list[str]) -> None:
    """Whoever made them may have died before doing so."""
    storage.create(tmp_path / "t", BATCH.schema)
    next((tmp_path / "t" / "_manifest").glob("*.json")).unlink()
    calls.clear()
    storage.create(tmp_path / "t", BATCH.schema)
    assert calls == [
        "sync /t",
        "sync /t",
        "sync /t/_manifest",
        "sync /t/_manifest/.ID-1.tmp",
        "link /t/_manifest/00000000000000000001.json",
        "sync /t/_manifest",
    ]


def test_a_folder_in_one_that_may_not_be_written_is_taken_as_it_is(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No writer can have made it just now, and its parent need not be readable either."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path.parent)
    storage.create(tmp_path / "t", BATCH.schema)
    assert calls[:4] == NAMES_MADE[1:]


def test_commit_syncs_data_then_attachments_then_manifest(tmp_path: Path, calls: list[str]) -> None:
    table = storage.create(tmp_path / "t", BATCH.schema)
    calls.clear()
    staged = table.stage([BATCH])
    assert calls == ["sync /t/data/ID.hrc", "sync /t/data"]
    calls.clear()
    table.commit([staged], attachments={"a": b"1", "b": b"2"})
    assert calls == [
        "sync /t/data",
        "sync ",
        "sync /t",
        "sync /t/attachments",
        "sync /t/attachments/ID/0.bin",
        "sync /t/attachments/ID/1.bin",
        "sync /t/attachments/ID",
        "sync /t/_manifest/.ID-2.tmp",
        "link /t/_manifest/00000000000000000002.json",
        "sync /t/_manifest",
    ]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return storage.write(tmp_path / "t", BATCH)


def failing(after: bool, keep: Callable[..., Any], error: int = errno.EIO) -> Callable[..., Any]:
    """``keep``, but its first call reports an error, after or instead of doing its work."""
    state = {"failed": False}

    def call(*args: Any) -> Any:
        if state["failed"]:
            return keep(*args)
        state["failed"] = True
        if after:
            keep(*args)
        raise OSError(error, os.strerror(error))

    return call


@pytest.mark.parametrize("error", [errno.EIO, errno.EEXIST, errno.ESTALE])
def test_a_link_that_worked_but_reported_an_error_is_recognised(
    error: int, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = table.stage([BATCH])
    monkeypatch.setattr(durable, "publish_exclusive", failing(True, durable.publish_exclusive, error))
    commit = table.commit([staged])
    assert (commit.version, commit.files, commit.replayed) == (2, (staged,), False)
    assert storage.open(table.path).num_rows == 4


def test_a_link_that_did_not_work_says_so_and_removes_nothing(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = table.stage([BATCH])
    monkeypatch.setattr(durable, "publish_exclusive", failing(False, durable.publish_exclusive))
    with pytest.raises(OSError, match="Input/output") as caught:
        table.commit([staged], attachments={"m": b"1"})
    assert not isinstance(caught.value, CommitUnknown)
    assert storage.open(table.path).version == 1
    assert len(list((table.path / "attachments").rglob("*.bin"))) == 1
    assert table.commit([staged]).version == 2


def test_a_failed_folder_sync_is_tried_again_then_reported_as_unknown(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, fails = durable.sync_dir, [1]

    def sync_dir(folder: Path) -> None:
        if folder.name == "_manifest" and fails:
            fails.pop()
            raise OSError(errno.EIO, "lost")
        keep(folder)

    monkeypatch.setattr(durable, "sync_dir", sync_dir)
    assert table.commit([table.stage([BATCH])]).version == 2
    fails += [1, 1]
    staged = table.stage([BATCH])
    with pytest.raises(CommitUnknown, match="transaction"):
        table.commit([staged])
    found = storage.open(table.path)
    assert (found.version, found.files[-1]) == (3, staged)
    assert found.to_table().num_rows == 6


def test_reading_back_fails_too(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "publish_exclusive", failing(True, durable.publish_exclusive))
    keep = Path.read_bytes

    def unreadable(path: Path) -> bytes:
        if path.name.endswith("2.json"):
            raise OSError(errno.EIO, "lost")
        return keep(path)

    staged = table.stage([BATCH])
    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(CommitUnknown, match="reading back"):
        table.commit([staged])
    monkeypatch.setattr(Path, "read_bytes", keep)
    assert storage.open(table.path).num_rows == 4


def test_every_sync_that_fails_is_reported_and_the_old_version_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail the n-th fsync for every n until a commit meets none: never a false success, never a lost version."""
    keep = os.fsync
    table = storage.write(tmp_path / "t", BATCH)
    n = -1
    for n in range(100):
        count = [n]

        def fsync(fd: int, count: list[int] = count) -> None:
            count[0] -= 1
            if count[0] == -1:
                raise OSError(errno.EIO, "lost")
            keep(fd)

        before = storage.open(tmp_path / "t")
        monkeypatch.setattr(os, "fsync", fsync)
        try:
            commit = table.commit([table.stage([BATCH])], attachments={"m": b"1"})
        except OSError:
            assert storage.open(tmp_path / "t").num_rows == before.num_rows
            continue
        finally:
            monkeypatch.setattr(os, "fsync", keep)
        assert storage.open(tmp_path / "t").version == commit.version == before.version + 1
        if count[0] >= 0:
            break
    assert n == 9  # one of them, the last, is tried again and its commit stands


def test_a_full_disk_leaves_the_old_version_and_no_half_file(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "sync_file", full)
    with pytest.raises(OSError, match="No space"):
        table.append(BATCH)
    assert len(list((table.path / "data").iterdir())) == 1
    monkeypatch.undo()
    assert table.append(BATCH).version == 2
