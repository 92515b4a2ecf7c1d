"""Tables: commits appear whole, once and in a row without gaps; nothing a manifest says is believed unchecked."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import headrace.storage as storage
from headrace.storage import durable, errors, paths
from headrace.storage import manifest as manifests
from headrace.storage.collecting import collect
from headrace.storage.committing import committed
from headrace.storage.compaction import compact
from headrace.storage.errors import (
    CommitConflict,
    CorruptManifest,
    ErasedDataReturned,
    NoSuchColumn,
    NoSuchVersion,
    SchemaMismatch,
    StorageError,
    TableExists,
    TableNotFound,
    UnsafePath,
    UnsupportedFeature,
)
from headrace.storage.evolution import Add, Drop, Rename, evolve
from headrace.storage.log import Change, Log
from headrace.storage.scan import checked_file, filter_columns
from headrace.storage.table import Table
from headrace.storage.verify import verify

from .bits import same_table

ROWS = pa.table({"user": [1, 2, 3], "word": ["a", None, "c"]})


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return storage.write(tmp_path / "t", ROWS, erase_key="user", personal=["word"])


def rows(user: int) -> pa.Table:
    return pa.table({"user": [user], "word": ["x"]})


def test_write_open_scan(table: Table) -> None:
    opened = storage.open(table.path)
    assert same_table(opened.to_table(), ROWS)
    assert (opened.version, opened.num_rows, opened.erase_key, opened.personal) == (1, 3, "user", ("word",))
    assert [(commit.operation, commit.num_rows) for commit in opened.history()] == [("create", 3)]
    assert opened.scan(["word"]).to_table().to_pydict() == {"word": ["a", None, "c"]}
    assert opened.scan([]).to_table().num_rows == 3
    with pytest.raises(TableExists):
        storage.write(table.path, ROWS)
    assert len(list((table.path / "data").iterdir())) == 1
    with pytest.raises(TableNotFound):
        storage.open(table.path.parent)
    with pytest.raises(NoSuchVersion):
        storage.open(table.path, version=9)
    with pytest.raises(NoSuchColumn, match="nope"):
        opened.scan(["nope"])


def test_whatever_carries_arrow_can_be_written(tmp_path: Path) -> None:
    sources: list[Callable[[], Any]] = [
        lambda: ROWS,
        lambda: ROWS.to_batches()[0],
        lambda: ROWS.to_reader(),
        lambda: iter(ROWS.to_batches()),
        lambda: storage.open(tmp_path / "0"),
        lambda: storage.open(tmp_path / "0").scan(),
    ]
    for number, source in enumerate(sources):
        assert same_table(storage.write(tmp_path / str(number), source()).to_table(), ROWS)
    for wrong in ([], 5, [1]):
        with pytest.raises(TypeError, match="Arrow"):
            storage.write(tmp_path / "wrong", wrong)


def test_arrow_stream_of_table_and_scan(table: Table) -> None:
    assert same_table(pa.table(table), ROWS)
    assert same_table(pa.table(table.scan(["user"])), ROWS.select(["user"]))
    reader = pa.RecordBatchReader.from_stream(table.scan(batch_rows=2))
    assert [batch.num_rows for batch in reader] == [2, 1]


def test_append_fits_columns_by_name_and_refuses_others(table: Table) -> None:
    commit = table.append(pa.table({"word": ["d"], "user": [4]}))
    assert (commit.version, commit.num_rows, table.version, table.num_rows) == (2, 1, 2, 4)
    with pytest.raises(
        SchemaMismatch, match=r"'more' is not expected; 'word' has type int64, expected string"
    ):
        table.append(pa.table({"user": [1], "word": [2], "more": [3]}))
    assert storage.open(table.path).version == 2
    assert len(list((table.path / "data").iterdir())) == 2  # the refused file is gone


def test_versions_stay_readable_and_overwrite_replaces(table: Table) -> None:
    table.append(rows(9))
    table.overwrite(rows(7))
    assert storage.open(table.path).to_table()["user"].to_pylist() == [7]
    assert [storage.open(table.path, version=v).num_rows for v in (1, 2, 3)] == [3, 4, 1]
    table.append(rows(8))
    assert storage.open(table.path).to_table()["user"].to_pylist() == [7, 8]
    assert [commit.operation for commit in table.history()] == [
        "append",
        "overwrite",
        "append",
        "create",
    ]


def test_overwrite_meets_another_writer(table: Table) -> None:
    other = storage.open(table.path)
    other.append(rows(5))
    with pytest.raises(CommitConflict, match="replacing all rows of version 1 met version 2 "):
        table.overwrite(rows(6))
    assert storage.open(table.path).num_rows == 4


def test_a_version_by_its_time(tmp_path: Path) -> None:
    """The newest that was committed by then; one whose clock was ahead does not hide those after it."""
    minutes = (0, 1, 500_000, 2, 3)
    table = storage.create(tmp_path / "t", rows(0).schema, clock_ms=lambda: 0)
    for number, minute in enumerate(minutes[1:], 2):
        staged = [table.stage(rows(number).to_batches())]
        table.commit(staged, clock_ms=lambda minute=minute: minute * 60_000)  # type: ignore[misc]

    def at(minute: float) -> int:
        return storage.open(table.path, at=datetime.fromtimestamp(minute * 60, UTC)).version

    assert [at(minute) for minute in (0, 0.5, 1, 2, 2.5, 3, 9)] == [1, 1, 2, 4, 4, 5, 5]
    with pytest.raises(NoSuchVersion, match="no version that is kept was there"):
        at(-1)
    with pytest.raises(ValueError, match="zone"):
        storage.open(table.path, at=datetime(2026, 1, 1))


FILTERS: list[tuple[Any, list[int]]] = [
    ([("user", "==", 2)], [2]),
    ([("user", "=", 2)], [2]),
    ([("user", "!=", 2)], [1, 3]),
    ([("user", ">", 1), ("user", "<", 3)], [2]),
    ([("user", ">=", 3)], [3]),
    ([("user", "<=", 1)], [1]),
    ([[("user", "==", 1)], [("word", "==", "c")]], [1, 3]),
    ([("user", "in", {1, 3})], [1, 3]),
    ([("user", "not in", [1])], [2, 3]),
    ([("word", "==", "c")], [3]),
    (pc.field("word").is_null(), [2]),
    ((pc.field("user") + 1) == 3, [2]),
    ([], [1, 2, 3]),
    (None, [1, 2, 3]),
    (pc.scalar(False), []),
]


@pytest.mark.parametrize(("given", "expected"), FILTERS, ids=lambda value: str(value))
def test_filters(given: Any, expected: list[int], table: Table) -> None:
    scan = table.scan(["user"], filter=given)
    assert scan.schema.names == ["user"]
    assert scan.to_table()["user"].to_pylist() == expected


def test_filter_reads_its_columns_and_no_others(table: Table) -> None:
    schema = pa.schema([("a", pa.int64()), ("ab", pa.int64()), ("b", pa.string()), ("scalar", pa.bool_())])
    assert filter_columns(pc.field("ab") > 1, schema) == ["ab"]
    assert filter_columns((pc.field("a") > 1) & (pc.field("b") == "ab"), schema) == ["a", "b"]
    with pytest.raises(NoSuchColumn, match="does not fit"):
        table.scan(filter=[("nope", "==", 1)]).to_table()
    for wrong in ([("user", "~", 1)], [("user",)], [[]]):
        with pytest.raises(ValueError, match=r"expected|empty"):
            table.scan(filter=wrong)


def test_staged_files_travel_and_appear_only_when_committed(table: Table) -> None:
    worker = pickle.loads(pickle.dumps(table))  # noqa: S301 (our own bytes, as Spark would send them)
    tags = {"partition": 3, "max_event_time_ms": 1_700_000_000_000, "kinds": ["click"]}
    staged = worker.stage(rows(4).to_batches(), tags=tags)
    assert storage.open(table.path).num_rows == 3
    sent = pickle.loads(pickle.dumps(staged))  # noqa: S301
    assert sent == staged
    assert json.loads(msgspec.json.encode(sent))["tags"] == tags
    assert next(storage.read_file(table.path / staged.path, ["user"]))["user"].to_pylist() == [4]
    table.commit([sent])
    assert storage.open(table.path).files[-1].tags == tags
    with pytest.raises(CommitConflict, match=staged.path):
        table.commit([staged])


def test_a_key_commits_once(table: Table) -> None:
    def batch(number: int) -> list[Any]:
        return [table.stage(rows(number).to_batches())]

    first = table.commit(batch(0), key=("q", 0), attachments={"snapshot": b"model", "metrics": b""})
    assert not first.replayed
    for again in (table, storage.open(table.path)):
        replay = again.commit(batch(0), key=("q", 0), attachments={"snapshot": b"another"})
        assert (replay.replayed, replay.version) == (True, first.version)
        assert replay.attachment("snapshot") == b"model"
    assert table.commit(batch(1), key=("r", 0)).version == first.version + 1
    table.append(rows(2))
    last = storage.open(table.path).last_commit("q")
    assert last is not None
    assert (last.key, last.version, last.attachment("metrics")) == (("q", 0), first.version, b"")
    assert table.last_commit("nobody") is None
    with pytest.raises(KeyError, match="snapshot"):
        last.attachment("weights")
    assert storage.open(table.path).num_rows == 6


def test_a_key_survives_an_overwrite(table: Table) -> None:
    table.commit([], key=("q", 0))
    for user in range(20):
        table.overwrite(rows(user))
    assert table.commit([], key=("q", 0)).replayed


def test_a_model_of_the_log(tmp_path: Path) -> None:
    """150 commits of every kind against plain lists: what each version holds, from any reader's state."""
    table = storage.create(tmp_path / "t", rows(0).schema)
    kept = storage.open(tmp_path / "t")
    model: list[list[int]] = [[], []]
    for number in range(2, 152):
        if number % 37 == 0:
            table.overwrite(rows(number))
            model.append([number])
        else:
            table.commit([table.stage(rows(number).to_batches())], key=("q", number) if number % 3 else None)
            model.append([*model[-1], number])
        if number % 11 == 0:
            assert [file.rows for file in kept.refresh().files] == [1] * len(model[-1])
            assert kept.files == table.files
    for version in (1, 2, 8, 9, 36, 37, 38, 63, 64, 65, 73, 74, 75, 128, 150, 151):
        seen = storage.open(tmp_path / "t", version=version)
        assert seen.to_table()["user"].to_pylist() == model[version]
        assert seen.num_rows == len(model[version])
    assert [commit.version for commit in table.history()] == list(range(151, 0, -1))
    for number in range(2, 152):
        expected = number % 3 and number % 37
        assert (committed(table, ("q", number)) is not None) == bool(expected)


def test_a_model_of_every_operation(tmp_path: Path) -> None:
    """110 operations of every kind: what each version holds, from a live object, one left behind, and a fresh one."""
    draw = random.Random(7)
    table = storage.create(tmp_path / "t", rows(0).schema, erase_key="user")
    behind = storage.open(table.path)
    model: dict[int, list[int]] = {1: []}
    users: list[int] = []
    for number in range(110):
        match draw.choices(("append", "overwrite", "compact", "evolve", "gc", "fence"), (9, 1, 2, 2, 1, 1))[
            0
        ]:
            case "append":
                table.append(rows(number))
                users = [*users, number]
            case "overwrite":
                table.overwrite(rows(number))
                users = [number]
            case "compact":
                compact(table, cluster_by="user")
            case "evolve" if draw.random() < 0.5:
                evolve(table, [Add("n", pa.int64(), lambda batch: batch["user"], ("user",)), Drop("n")])
            case "evolve":
                evolve(table, [Rename("word", "text"), Rename("text", "word")])
            case "gc":
                collect(table, keep_versions=20)
            case _:
                table.fence("q")
        model[table.version] = sorted(users)
        assert sorted(table.to_table()["user"].to_pylist()) == sorted(users)
        if draw.random() < 0.1:
            assert behind.refresh().files == table.files
    fresh = storage.open(table.path)
    assert fresh.files == table.files
    kept = [commit.version for commit in fresh.history()]
    assert kept[-1] > 20
    for version in kept:
        older = storage.open(table.path, version)
        assert sorted(older.to_table()["user"].to_pylist()) == model[version]
        assert older.num_rows == len(model[version])
    assert not verify(fresh, every_version=True).findings


def test_opening_reads_few_manifests_and_they_grow_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = storage.create(tmp_path / "t", rows(0).schema)
    one = table.stage(rows(0).to_batches())
    log, manifest = Log(tmp_path / "t"), table._manifest
    monkeypatch.setattr("headrace.storage.durable.os.fsync", lambda fd: None)
    for number in range(2, 1001):
        entry = replace(one, path=f"data/f{number}.hrc")
        manifest = log.following(manifest, Change((entry,), (), f"{number}", None, False, 0))
        assert log.publish(manifest)
    sizes = [path.stat().st_size for path in log.folder.glob("0*.json")]
    assert len(sizes) == 1000
    listed = sum(len(log.read(version)[0].span.files) + 1 for version in range(1, 1001))
    assert listed < 1000 * 5
    reads: list[int] = []
    original = Log.read
    monkeypatch.setattr(
        Log,
        "read",
        lambda self, version, expected=None: reads.append(version) or original(self, version, expected),
    )
    assert len(storage.open(tmp_path / "t", version=999).files) == 998
    assert len(reads) <= 28


COMMITS = """
import sys
import pyarrow as pa
import headrace.storage as storage
path, worker = sys.argv[1], int(sys.argv[2])
table = storage.open(path)
for number in range(20):
    staged = table.stage([pa.record_batch({"user": [worker * 1000 + number], "word": ["x"]})])
    table.commit([staged], key=(f"w{worker}", number), attachments={"a": str(number).encode()})
"""


def test_eight_processes_commit_twenty_each(tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", rows(0).schema)
    workers = [
        subprocess.Popen([sys.executable, "-c", COMMITS, str(table.path), str(worker)]) for worker in range(8)
    ]
    assert [process.wait(120) for process in workers] == [0] * 8
    final = storage.open(table.path)
    assert final.version == 161
    assert [commit.version for commit in final.history()] == list(range(161, 0, -1))
    users = final.to_table()["user"].to_pylist()
    assert Counter(users) == Counter(worker * 1000 + number for worker in range(8) for number in range(20))
    for worker in range(8):  # each writer's own order is kept
        assert [user for user in users if user // 1000 == worker] == [worker * 1000 + i for i in range(20)]
    last = final.last_commit("w5")
    assert last is not None
    assert last.attachment("a") == b"19"
    assert not [path for path in (table.path / "_manifest").iterdir() if path.name.startswith(".")]


KILLED = """
import os, signal, sys
import pyarrow as pa
import headrace.storage as storage
from headrace.storage import durable
table = storage.open(sys.argv[1])
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before":
    durable.publish_exclusive = dies
else:
    durable.sync_dir, keep = (lambda folder: dies() if folder.name == "_manifest" else keep(folder)), durable.sync_dir
table.commit([table.stage([pa.record_batch({"user": [9], "word": ["z"]})])], key=("q", 1), attachments={"m": b"1"})
"""


@pytest.mark.parametrize(("where", "version"), [("before", 1), ("after", 2)])
def test_a_writer_killed_around_its_manifest(where: str, version: int, table: Table) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(table.path), where], check=False)
    assert done.returncode == -signal.SIGKILL
    found = storage.open(table.path)
    assert found.version == version
    assert found.num_rows == (4 if where == "after" else 3)
    assert len(list((table.path / "data").iterdir())) == 2  # written, listed or not, and not in the way
    again = found.commit([found.stage(rows(9).to_batches())], key=("q", 1), attachments={"m": b"1"})
    assert again.replayed == (where == "after")
    assert storage.open(table.path).num_rows == 4


KILLED_FIRST = """
import os, signal, sys
import pyarrow as pa
import headrace.storage as storage
from headrace.storage import durable
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before":
    durable.publish_exclusive = dies
else:
    link = durable.publish_exclusive
    durable.publish_exclusive = lambda *names: (link(*names), dies())
storage.write(sys.argv[1], pa.record_batch({"user": [9], "word": ["z"]}))
"""


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_first_writer_killed_around_its_manifest(where: str, tmp_path: Path) -> None:
    """Before it there is no table, and the folder can be used again; after it there are table and rows."""
    path = tmp_path / "t"
    done = subprocess.run([sys.executable, "-c", KILLED_FIRST, str(path), where], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((path / "data").iterdir())) == 1
    if where == "before":
        for version in (None, 1):
            with pytest.raises(TableNotFound):
                storage.open(path, version)
        # A schema of its own shows that nothing of the dead writer's is taken over.
        other = pa.table({"item": [1, 2]})
        written = storage.write(path, other, erase_key="item")
        assert (written.version, written.erase_key, len(written.files)) == (1, "item", 1)
        assert same_table(storage.open(path).to_table(), other)
        assert len(list((path / "data").iterdir())) == 2
    else:
        with pytest.raises(TableExists):
            storage.write(path, ROWS)
        found = storage.open(path)
        assert (found.version, found.to_table().to_pydict()) == (1, {"user": [9], "word": ["z"]})
        assert found.append(rows(4)).version == 2


def test_a_first_writer_whose_source_fails_leaves_no_table_and_no_file(tmp_path: Path) -> None:
    def source() -> Iterator[pa.RecordBatch]:
        yield from ROWS.to_batches()
        raise ConnectionError("the source is gone")

    with pytest.raises(ConnectionError):
        storage.write(tmp_path / "t", source())
    with pytest.raises(TableNotFound):
        storage.open(tmp_path / "t")
    assert not list((tmp_path / "t" / "data").iterdir())
    assert storage.write(tmp_path / "t", ROWS).version == 1


def test_a_seed_whose_first_writer_died_is_refused_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may as well be one that a writer beside is about to publish; it is not touched."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "publish_exclusive", dies)
    with pytest.raises(KeyboardInterrupt):
        storage.write(tmp_path / "t", ROWS, seed=8)
    monkeypatch.undo()
    (left,) = (tmp_path / "t" / "data").iterdir()
    held = left.read_bytes()
    with pytest.raises(FileExistsError, match=left.name):
        storage.write(tmp_path / "t", ROWS, seed=8)
    assert left.read_bytes() == held
    assert same_table(storage.write(tmp_path / "t", ROWS, seed=9).to_table(), ROWS)


def test_of_first_writers_at_once_one_makes_the_table(tmp_path: Path) -> None:
    """All have looked and found none; one publishes, the others hear of it and leave nothing in its table."""
    writers = 6
    together = threading.Barrier(writers)

    def source(writer: int) -> Iterator[pa.RecordBatch]:
        yield from rows(writer).to_batches()
        together.wait(60)  # staging has begun, so nobody has published
        yield from rows(writer + 100).to_batches()

    def attempt(writer: int) -> Table | TableExists:
        try:
            return storage.write(tmp_path / "t", source(writer))
        except TableExists as error:
            return error

    with ThreadPoolExecutor(writers) as pool:
        outcomes = list(pool.map(attempt, range(writers)))
    made = [(writer, found) for writer, found in enumerate(outcomes) if isinstance(found, Table)]
    assert len(made) == 1, outcomes
    winner, table = made[0]
    found = storage.open(tmp_path / "t")
    assert (found.version, found.files) == (1, table.files)
    assert found.to_table()["user"].to_pylist() == [winner, winner + 100]
    assert [path.name for path in (table.path / "data").iterdir()] == [Path(table.files[0].path).name]
    assert not [path for path in (table.path / "_manifest").iterdir() if path.name.startswith(".")]


HOSTILE = [
    *(
        "../x.hrc",
        "data/../../x.hrc",
        "/etc/passwd",
        "data//x",
        "data",
        "data/",
        "data/.",
        "data/..",
        "",
        ".",
    ),
    *(
        "data/%2e%2e/x",
        "data/..%2fx",
        "file:///etc/passwd",
        "data\\..\\x",
        "data/a b",
        "data/a\0b",
        "data/a\nb",
    ),
    *(
        "data/.hidden",
        "DATA/x.hrc",
        "data-evil/x",
        "data/ü.hrc",
        "data/x:y",
        "~/x",
        "data/~x",
        "data/" + "x" * 200,
    ),
    *(
        "attachments/x",
        "_manifest/00000000000000000001.json",
        "data/x/",
        "./data/x",
        "data/./x",
        "data/\u2025/x",
    ),
    *(
        "data/%2E%2E/%2E%2E/x",
        "data/%252e%252e/x",
        "data%2f..%2f..%2fx",
        "data/.%2e/x",
        "data/x%00.hrc",
        "%2e%2e/x",
        "data/..;/x",
        "data/.../x",
        "data/x/../../../x",
        "data/x/..",
    ),
    *(
        "s3://bucket/data/x.hrc",
        "http://127.0.0.1/x.hrc",
        "//host/data/x.hrc",
        "C:/x.hrc",
        "data/C:\\x.hrc",
        "\\\\host\\data\\x.hrc",
        "data\\x.hrc",
        "file:data/x.hrc",
        "data/../data/x.hrc",
        "/data/x.hrc",
    ),
    *(
        "data_evil/x.hrc",
        "data./x.hrc",
        " data/x.hrc",
        "data /x.hrc",
        "data/ x.hrc",
        "data/x.hrc ",
        "data/x\t.hrc",
        "data/x\r\n.hrc",
        "data/\u202ex.hrc",
        "data/x\u200b.hrc",
        "data/\uff0e\uff0e/x",
        "data\u2215x.hrc",
        "data/*",
        "data/?",
        "data/$HOME",
        "data/`x`",
        "data/-x",
        "/",
        "..",
        "\0",
    ),
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths(path: str, table: Table) -> None:
    with pytest.raises(UnsafePath):
        paths.inside(table.path, path, "data")
    entry = manifests.DataFile(path, 1, 1, "", 0, "")
    with pytest.raises(UnsafePath):
        table.commit([entry])


def test_symbolic_links_do_not_lead_out(table: Table, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x.hrc").write_bytes(b"x")
    (table.path / "data" / "link.hrc").symlink_to(secret / "x.hrc")
    (table.path / "data" / "folder").symlink_to(secret)
    for path in ("data/link.hrc", "data/folder/x.hrc"):
        with pytest.raises(UnsafePath, match="symbolic link"):
            paths.inside(table.path, path, "data")
    moved = tmp_path / "alias"
    moved.symlink_to(table.path)
    assert storage.open(moved).to_table().num_rows == 3  # the table itself may be reached by a link


def edit(table: Table, number: int, **changes: Any) -> None:
    """Rewrite a manifest as somebody with access to the folder could."""
    path = table.path / "_manifest" / f"{number:020d}.json"
    content = json.loads(path.read_bytes())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 5}, CorruptManifest),
        ({"since": 7}, CorruptManifest),
        ({"n_rows": "many"}, CorruptManifest),
        ({"added": [{"path": 5}]}, CorruptManifest),
        ({"schema_blake3": "../../x"}, CorruptManifest),
        ({"format": 2}, UnsupportedFeature),
        ({"required_features": ["time-travel-fences"]}, UnsupportedFeature),
    ],
    ids=str,
)
def test_manifests_that_are_not_what_they_should_be(
    changes: dict[str, Any], error: type, table: Table
) -> None:
    edit(table, 1, **changes)
    with pytest.raises(error):
        storage.open(table.path)


def test_text_that_is_no_manifest(table: Table) -> None:
    path = table.path / "_manifest" / f"{1:020d}.json"
    for text in (b"", b"{", b"\xff", b"[" * 100_000, b"null", path.read_bytes()[:-200]):
        path.write_bytes(text)
        with pytest.raises(CorruptManifest):
            storage.open(table.path)


def test_the_chain_notices_a_changed_past(table: Table) -> None:
    for user in range(8):
        table.append(rows(user))
    edit(table, 8, committed_at_ms=0)
    found = storage.open(table.path)
    with pytest.raises(CorruptManifest, match="expected hash"):
        list(found.history())
    with pytest.raises(CorruptManifest, match="expected hash"):
        found.to_table()


def test_data_and_attachments_are_held_to_the_manifest(table: Table) -> None:
    commit = table.commit([table.stage(rows(4).to_batches())], attachments={"m": b"model"})
    attached = next((table.path / "attachments").rglob("*.bin"))
    attached.write_bytes(b"other")
    with pytest.raises(CorruptManifest, match="attachment 'm'"):
        commit.attachment("m")
    first, second = (table.path / file.path for file in table.files)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptManifest, match="expected uuid"):
        table.to_table()
    first.unlink()
    with pytest.raises(CorruptManifest, match="missing"):
        table.to_table()
    first.write_bytes(kept)
    assert table.to_table().num_rows == 4
    schema = next((table.path / "_manifest").glob("schema-*"))
    schema.write_bytes(b"")
    with pytest.raises(CorruptManifest, match="schema"):
        storage.open(table.path).to_table()


def test_a_file_from_before_an_erase_is_refused(table: Table) -> None:
    with pytest.raises(ErasedDataReturned, match="erase epoch 0"):
        checked_file(table.path, replace(table.files[0], erase_epoch=1), table.schema, None)


def test_files_of_another_table_are_refused(table: Table, tmp_path: Path) -> None:
    other = storage.write(tmp_path / "other", pa.table({"user": ["text"]}))
    staged = other.files[0]
    os.link(other.path / staged.path, table.path / staged.path)
    with pytest.raises(SchemaMismatch, match="user"):
        table.commit([staged])


def test_a_seed_names_the_file_and_is_not_used_twice(table: Table, tmp_path: Path) -> None:
    one, two = (storage.write(tmp_path / name, ROWS, seed=8) for name in "ab")
    assert one.files == two.files
    assert (one.path / one.files[0].path).read_bytes() == (two.path / two.files[0].path).read_bytes()
    with pytest.raises(FileExistsError):
        one.append(ROWS, seed=8)
    assert storage.open(one.path).to_table().num_rows == 3


def test_the_clock_is_only_written_down(table: Table) -> None:
    for now in (10**15, -5, 0):
        commit = table.commit([], clock_ms=lambda now=now: now)
        assert commit.committed_at_ms == now
    assert [commit.version for commit in table.history()] == [4, 3, 2, 1]
    assert table.append(rows(1)).committed_at_ms <= time.time() * 1000 + 1000


def test_every_error_is_the_stores_and_a_builtin() -> None:
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, Exception) and error is not StorageError:
            assert issubclass(error, StorageError), name
            assert len(error.__mro__) > 5, f"{name} is no builtin besides"


def test_the_store_alone_brings_nothing_else_along(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np, pyarrow as pa
import headrace.storage as storage
loaded = lambda: {name for name in ("pyspark", "torch", "kafka", "pandas", "numba", "great_expectations") if name in sys.modules}
assert not loaded(), loaded()
n = 60_000
numbers = pa.Array.from_buffers(pa.int64(), n, [None, pa.py_buffer(np.arange(n) % 1000)])
batch = pa.RecordBatch.from_arrays([numbers, numbers.cast(pa.string())], names=["n", "s"])
table = storage.write(sys.argv[1], batch)
assert storage.open(sys.argv[1]).to_table().num_rows == n
assert not loaded(), loaded()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
