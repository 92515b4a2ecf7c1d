"""verify says everything that is wrong, repair saves what is left; a table root may be anything at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import paths
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import (
    CorruptManifest,
    NoSuchVersion,
    StorageError,
    TableNotFound,
    UnsafePath,
    UnsupportedFeature,
)
from headrace.storage.evolution import Add, evolve
from headrace.storage.reader import File
from headrace.storage.repair import repair
from headrace.storage.table import Table
from headrace.storage.verify import verify

from .test_tables import HOSTILE


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve versions; tests damage copies of it."""
    path = tmp_path_factory.mktemp("sound") / "t"
    schema = pa.schema([("user", pa.int64()), ("n", pa.float64())])
    found = storage.create(path, schema, erase_key="user")
    for batch in range(10):
        rng = np.random.default_rng(batch)
        rows = pa.table({"user": rng.integers(0, 2**60, 3000), "n": rng.random(3000)})
        staged = found.stage(rows.to_batches(), group_rows=1024)
        found.commit([staged], key=("q", batch), attachments={"progress": str(batch).encode()})
    evolve(found, [Add("twice", pa.float64(), lambda b: b["n"], ("n",))])
    return path


@pytest.fixture
def table(sound: Path, tmp_path: Path) -> Table:
    shutil.copytree(sound, tmp_path / "t")
    return storage.open(tmp_path / "t")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def manifest(table: Table, version: int) -> Path:
    return table.folder / "_manifest" / f"{version:020d}.json"


def edited(table: Table, version: int, **changes: object) -> None:
    content = json.loads(manifest(table, version).read_bytes())
    content.update(changes)
    manifest(table, version).write_text(json.dumps(content))


def data(table: Table, number: int) -> Path:
    return table.folder / table.files[number].path


def attachment(table: Table) -> Path:
    return next((table.folder / "attachments").rglob("*.bin"))


DAMAGE: dict[str, tuple[Callable[[Table], object], str]] = {
    "a page": (
        lambda t: flip(data(t, 3), 80),
        "page 0 of column 'user' in row group 0 at byte 64 does not match",
    ),
    "a page's slack": (lambda t: _slack(data(t, 3)), "are not zero"),
    "a footer": (lambda t: flip(data(t, 2), data(t, 2).stat().st_size - 9000), "footer d"),
    "one trailer": (lambda t: flip(data(t, 2), data(t, 2).stat().st_size - 8100), "trailers differ"),
    "both trailers": (
        lambda t: (
            flip(data(t, 2), data(t, 2).stat().st_size - 8100),
            flip(data(t, 2), data(t, 2).stat().st_size - 4000),
        ),
        "trailer",
    ),
    "a header": (lambda t: flip(data(t, 1), 30), "header"),
    "a lost file": (lambda t: data(t, 4).unlink(), "missing"),
    "a file cut short": (lambda t: os.truncate(data(t, 4), 5000), "expected"),
    "another file's bytes": (lambda t: shutil.copy(data(t, 4), data(t, 5)), "expected uuid, rows and root"),
    "a family": (lambda t: flip(t.folder / t.files[0].families[0].path, 80), "page 0 of column 'twice'"),
    "an attachment": (lambda t: flip(attachment(t), 0), "expected 1 bytes of hash"),
    "a lost attachment": (lambda t: attachment(t).unlink(), "missing: 'progress'"),
    "a manifest": (lambda t: edited(t, 6, committed_at_ms=5), "not the manifest that version 7 follows"),
    "a lost manifest": (lambda t: manifest(t, 6).unlink(), "missing"),
    "a manifest of another version": (
        lambda t: shutil.copy(manifest(t, 5), manifest(t, 6)),
        "expected version 6, got 5",
    ),
    "the newest manifest's files": (
        lambda t: edited(t, 12, n_rows=5),
        "it says (10, 5), it lists (10, 30000)",
    ),
    "two manifests of one version": (
        lambda t: shutil.copy(manifest(t, 5), t.folder / "_manifest" / "00000000000000000005 (1).json"),
        "a second manifest of version 5",
    ),
    "a name of fewer digits": (
        lambda t: shutil.copy(manifest(t, 5), t.folder / "_manifest" / "7.json"),
        "a second manifest of version 7",
    ),
    "a foreign file": (lambda t: (t.folder / "_manifest" / "notes.txt").write_text("x"), "not a name"),
    "a schema": (lambda t: flip(next((t.folder / "_manifest").glob("schema-*")), 50), "expected hash"),
}


def _slack(path: Path) -> None:
    """Put a byte into the zeros behind a page."""
    with File(path) as file:
        footer = file.footer
        pages = [
            row
            for column in footer.columns()
            for g in range(footer.n_groups)
            for row in footer.chunk(column, g).pages
        ]
    row = next(row for row in pages if row.slot_len > row.used_len)
    flip(path, row.off + row.used_len)


def test_a_sound_table_has_no_findings(table: Table) -> None:
    found = verify(table, every_version=True)
    assert (found.findings, found.version, found.versions, found.files) == ((), 12, 12, 10)
    assert found.bytes == sum(file.bytes + sum(f.bytes for f in file.families) for file in table.files)
    assert not verify(table, expect=(found.version, found.head)).findings
    table.stage(pa.record_batch({"user": [1], "n": [1.0], "twice": [1.0]}) for _ in range(1))
    assert verify(table).unlisted == 1


@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_is_wrong_is_said(what: str, table: Table) -> None:
    damage, expected = DAMAGE[what]
    damage(table)
    found = [finding.what for finding in verify(table).findings]
    assert any(expected in one for one in found), found


def test_all_that_is_wrong_is_said_at_once(table: Table) -> None:
    for number in (1, 3, 5):
        flip(data(table, number), 80)
    attachment(table).unlink()
    manifest(table, 6).unlink()
    found = {finding.path for finding in verify(table).findings}
    damaged = {table.files[number].path for number in (1, 3, 5)}
    assert damaged | {f"_manifest/{6:020d}.json"} <= found
    assert any(path.startswith("attachments/") for path in found)


def test_a_rolled_back_table_is_seen_by_who_kept_its_head(table: Table, tmp_path: Path) -> None:
    shutil.copytree(table.folder, tmp_path / "old")
    table.append(pa.table({"user": [1], "n": [1.0], "twice": [1.0]}))
    found = verify(table)
    old = storage.open(tmp_path / "old")
    assert not verify(old).findings, "by itself it is a sound older one"
    assert "rolled back" in verify(old, expect=(found.version, found.head)).findings[0].what
    forked = storage.open(tmp_path / "old")
    forked.append(pa.table({"user": [2], "n": [1.0], "twice": [1.0]}))
    assert "another one than was there" in verify(forked, expect=(found.version, found.head)).findings[0].what


def test_a_roll_back_past_a_collection_is_seen_by_itself(table: Table) -> None:
    for _ in range(2):
        table.append(pa.table({"user": [1], "n": [1.0], "twice": [1.0]}))
        collect(table, keep_versions=1, forget=["q"])
    newest = table.version
    shutil.copy(manifest(table, newest), table.folder / "_manifest" / "kept")
    for version in range(1, newest + 1):
        manifest(table, version).unlink(missing_ok=True)
    content = json.loads((table.folder / "_manifest" / "kept").read_bytes())
    (table.folder / "_manifest" / "kept").unlink()
    content["version"] = 3
    manifest(table, 3).write_text(json.dumps(content))
    assert any("was collected: rolled back" in one.what for one in verify(storage.open(table.path)).findings)


def test_repair_saves_what_is_readable_and_lists_the_rest(table: Table) -> None:
    assert repair(table.path).commit is None
    before = table.to_table()["user"].to_pylist()
    flip(data(table, 3), 80)  # the first of three row groups
    data(table, 5).unlink()
    flip(table.folder / table.files[7].families[0].path, 80)
    dry = repair(table.path, dry_run=True)
    assert storage.open(table.path).version == 12
    done = repair(table.path)
    assert done.commit is not None
    assert (done.commit.version, done.commit.operation) == (13, "repair")
    assert (done.salvaged, dry.salvaged) == (2 * (3000 - 1024), 2 * (3000 - 1024))
    assert sorted(lost.rows for lost in done.lost) == [1024, 1024, 3000]
    assert [lost.rows for lost in dry.lost] == [lost.rows for lost in done.lost]
    after = storage.open(table.path)
    left = after.to_table()["user"].to_pylist()
    assert len(left) == 30_000 - 5048 == after.num_rows
    assert set(left) <= set(before)
    assert not verify(after).findings
    assert after.commit([], key=("q", 3)).replayed, "keys are kept"
    assert after.append(pa.table({"user": [1], "n": [1.0], "twice": [1.0]})).version == 14
    assert storage.open(table.path, 12).version == 12, "nothing was removed"


def test_repair_of_manifests(table: Table) -> None:
    """The newest is cut short and one in between is gone: what they can still say is used, the rest goes on."""
    table.append(pa.table({"user": [1], "n": [1.0], "twice": [1.0]}))
    table.append(pa.table({"user": [2], "n": [1.0], "twice": [1.0]}))
    os.truncate(manifest(table, 14), 100)
    manifest(table, 6).unlink()
    with pytest.raises(CorruptManifest):
        storage.open(table.path)
    done = repair(table.path)
    assert done.commit is not None
    assert done.commit.version == 15
    found = storage.open(table.path)
    assert found.num_rows == 30_001, "the file of the broken manifest is not known any more"
    assert not [one for one in verify(found).findings if one.path.endswith("15.json")]
    assert [commit.version for commit in found.history()] == [15]
    compact(found, everything=True)
    assert storage.open(table.path).to_table().num_rows == 30_001


def test_nothing_left_to_repair(table: Table) -> None:
    for version in range(1, 13):
        manifest(table, version).write_bytes(b"{}")
    with pytest.raises(CorruptManifest, match="none of 12 manifests"):
        repair(table.path)
    with pytest.raises(TableNotFound):
        repair(table.folder.parent)


def test_hostile_paths_in_manifests(table: Table) -> None:
    """Of files, families and attachments: nothing outside the table is opened, whoever asks."""
    raw = json.loads(manifest(table, 12).read_bytes())
    own = raw["added"][0]["path"]

    def read_with(path: str, family: str, column: str) -> None:
        first = dict(raw["added"][0], path=path)
        first["families"] = [dict(first["families"][0], path=family)]
        side = {"name": "m", "path": path, "bytes": 1, "blake3": "0" * 64}
        manifest(table, 12).write_text(
            json.dumps({**raw, "added": [first], "removed": [], "attachments": [side]})
        )
        storage.open(table.path).scan([column]).to_table()

    for path in HOSTILE:
        with pytest.raises(UnsafePath):
            read_with(own, path, "twice")
        with pytest.raises(UnsafePath):
            read_with(path, raw["added"][0]["families"][0]["path"], "user")
        if path != "attachments/x":
            with pytest.raises(UnsafePath):
                next(storage.open(table.path).history()).attachment("m")
    assert any("expected a path like" in one.what for one in verify(storage.open(table.path)).findings)


def test_there_are_enough_hostile_paths() -> None:
    assert len(set(HOSTILE)) >= 60


BAD_MANIFESTS: dict[str, tuple[bytes, type[StorageError]]] = {
    "empty": (b"", CorruptManifest),
    "not JSON": (b"\x89PNG\r\n", CorruptManifest),
    "a list": (b"[]", CorruptManifest),
    "another table format's": (b'{"format-version": 2, "table-uuid": "x"}', CorruptManifest),
    "a future format": (b'{"format": 99, "required_features": []}', UnsupportedFeature),
    "an unknown feature": (b'{"format": 1, "required_features": ["teleport"]}', UnsupportedFeature),
    "deep": (b"[" * 100_000, CorruptManifest),
    "not UTF-8": (b'{"format": 1, "required_features": ["\xff"]}', CorruptManifest),
}


@pytest.mark.parametrize("what", BAD_MANIFESTS)
def test_bad_manifests_are_refused_in_one_sentence(what: str, table: Table) -> None:
    content, error = BAD_MANIFESTS[what]
    manifest(table, 12).write_bytes(content)
    with pytest.raises(error) as caught:
        storage.open(table.path)
    assert "\n" not in str(caught.value)
    assert manifest(table, 12).name in str(caught.value)


def test_truncated_and_doubled_manifests(table: Table) -> None:
    raw = manifest(table, 12).read_bytes()
    for length in range(0, len(raw) - 1, 97):
        manifest(table, 12).write_bytes(raw[:length])
        with pytest.raises((CorruptManifest, UnsupportedFeature)):
            storage.open(table.path)
    manifest(table, 12).write_bytes(raw + raw)
    with pytest.raises(CorruptManifest):
        storage.open(table.path)
    manifest(table, 12).write_bytes(raw.replace(b'"evolve"', b'"exolve"'))
    with pytest.raises(UnsupportedFeature, match="exolve"):
        storage.open(table.path)


def test_a_root_that_is_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for act in (storage.open, lambda path: storage.create(path, pa.schema([("a", pa.int8())])), repair):
        with pytest.raises((StorageError, NotADirectoryError, FileExistsError)) as caught:
            act(tmp_path / "file")
        assert "file" in str(caught.value)
    with pytest.raises(TableNotFound, match="create one"):
        storage.open(tmp_path / "nothing")
    (tmp_path / "odd" / "_manifest").mkdir(parents=True)
    with pytest.raises(TableNotFound):
        storage.open(tmp_path / "odd")


def test_a_table_that_is_gone_in_the_middle(table: Table) -> None:
    staged = table.stage(pa.record_batch({"user": [1], "n": [1.0], "twice": [1.0]}) for _ in range(1))
    shutil.rmtree(table.folder)
    for act in (lambda: table.commit([staged]), table.refresh, lambda: compact(table), lambda: verify(table)):
        with pytest.raises(StorageError):
            act()
    assert not table.folder.exists(), "nothing was made in its place"


def test_a_table_that_may_only_be_read(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount answers like this to root, too."""
    keep = os.open

    def read_only(path: object, flags: int, *rest: object) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return keep(path, flags, *rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", read_only)
    before = sorted(path.name for path in table.folder.rglob("*"))
    with pytest.raises(OSError, match="Read-only") as caught:
        table.commit([], attachments={"m": b"1"})
    assert caught.value.filename or "manifest" in str(caught.value)
    assert storage.open(table.path).to_table().num_rows == 30_000
    assert not verify(table).findings
    after = sorted(path.name for path in table.folder.rglob("*"))
    assert len(after) - len(before) <= 1, "at most the empty folder of its attachments"


def test_expired_versions_are_named_as_such(table: Table) -> None:
    collect(table, keep_versions=1, forget=["q"])
    with pytest.raises(NoSuchVersion, match="has expired, the oldest that is kept is 12"):
        storage.open(table.path, 5)


def test_a_symbolic_link_in_place_of_a_file(table: Table, tmp_path: Path) -> None:
    secret = tmp_path / "secret.hrc"
    shutil.copy(data(table, 0), secret)
    data(table, 0).unlink()
    data(table, 0).symlink_to(secret)
    with pytest.raises(UnsafePath, match="symbolic link"):
        table.scan(["user"]).to_table()
    assert any("symbolic link" in one.what for one in verify(table).findings)
    assert stat.S_ISLNK(data(table, 0).lstat().st_mode)
    with pytest.raises(UnsafePath):
        paths.inside(table.path, table.files[0].path, "data")
