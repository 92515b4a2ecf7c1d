"""Files and tables wherever they lie: the same rows, few requests, and errors that say what is wrong."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import obstore
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore

from headrace import storage
from headrace.storage.errors import (
    BadFile,
    CommitConflict,
    CommitUnknown,
    ExtraMissing,
    SourceFailed,
    TableExists,
    TableNotFound,
)
from headrace.storage.objects import FsspecPath, ObjectPath, place
from headrace.storage.paths import is_table
from headrace.storage.reader import File
from headrace.storage.source import REMOTE_GAP_BYTES, TAIL_BYTES, Source, open_source
from headrace.storage.writer import Writer

from .fake_s3 import FakeS3

BYTES = np.random.default_rng(7).bytes(TAIL_BYTES * 3)
ROWS = pa.table({"user": [1, 2, 3], "items": [[7, 9], [], [4]], "word": ["a", None, "b"]})


def everywhere(data: bytes, folder: Path) -> list[Callable[[], Source]]:
    """The same bytes by every way to name them."""
    path = folder / "a b"
    path.write_bytes(data)
    memory, filesystem = MemoryStore(), fsspec.filesystem("memory")
    obstore.put(memory, "x/y", data)
    filesystem.pipe("/x/y", data)
    return [
        lambda: open_source(path),
        lambda: open_source(str(path)),
        lambda: open_source(path.as_uri()),
        lambda: open_source((memory, "x/y")),
        lambda: open_source((LocalStore(folder), "a b")),
        lambda: open_source((filesystem, "/x/y")),
        lambda: open_source(fsspec.open("memory://x/y")),
        lambda: open_source(filesystem.open("/x/y")),
        lambda: open_source(io.BytesIO(data)),
    ]


@pytest.mark.parametrize("size", [0, 1, 1000, TAIL_BYTES, len(BYTES)])
def test_every_source_gives_the_same_bytes(tmp_path: Path, size: int) -> None:
    data = BYTES[:size]
    ranges = [
        (0, size),
        (size // 3, size // 3),
        (size, 0),
        (0, min(size, 9)),
        (size - min(size, 4), min(size, 4)),
    ]
    for make in everywhere(data, tmp_path):
        with make() as source:
            assert source.size == size
            assert source.read_ranges(ranges) == [data[at : at + n] for at, n in ranges]
            assert source.read(0, size) == data
            for offset, length in [(size, 1), (0, size + 1)]:
                with pytest.raises(BadFile, match="cut short"):
                    source.read(offset, length)


@given(
    st.lists(st.tuples(st.integers(0, 999_000), st.integers(0, 100_000)), max_size=12),
    st.lists(st.tuples(st.integers(0, 900_000), st.integers(0, 100_000)), max_size=3),
)
def test_ranges_are_what_they_would_be_one_by_one(
    ranges: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    data = (BYTES * 2)[:1_100_000]
    source = open_source(io.BytesIO(data))
    for offset, length in kept:
        source.keep(offset, length)
        reads = source.reads
        assert source.read(offset, length) == data[offset : offset + length]
        assert source.reads == reads
    assert source.read_ranges(ranges) == [data[at : at + n] for at, n in ranges]


def test_ranges_close_together_are_one_request(s3: FakeS3) -> None:
    s3.objects["shop/x"] = BYTES
    source = open_source("s3://shop/x")
    assert s3.requests == [("GET", "shop/x", f"bytes=-{TAIL_BYTES}")]
    assert (source.reads, source.bytes_read) == (1, TAIL_BYTES)
    near = [(0, 10), (REMOTE_GAP_BYTES, 10), (20, 5)]
    assert source.read_ranges(near) == [BYTES[at : at + n] for at, n in near]
    assert s3.asked("GET")[1:] == [f"bytes=0-{REMOTE_GAP_BYTES + 9}"]
    source.read_ranges([(0, 10), (REMOTE_GAP_BYTES + 11, 10)])
    assert len(s3.requests) == source.reads == 4
    source.read(len(BYTES) - 100, 50)
    source.keep(len(BYTES) - TAIL_BYTES - 10, 20)
    assert s3.asked("GET")[4:] == [f"bytes={len(BYTES) - TAIL_BYTES - 10}-{len(BYTES) - TAIL_BYTES - 1}"]
    assert source.bytes_read == sum([TAIL_BYTES, REMOTE_GAP_BYTES + 10, 10, 10, 10]), (
        "bytes are counted where they are read"
    )


def test_an_object_that_was_replaced_is_not_read_on(s3: FakeS3) -> None:
    s3.objects["shop/x"] = BYTES
    source = open_source("s3://shop/x")
    s3.objects["shop/x"] = BYTES[::-1]
    with pytest.raises(SourceFailed, match="s3://shop/x"):
        source.read(0, 10)


def test_what_cannot_be_opened_says_why(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="s3://shop/none"):
        open_source("s3://shop/none")
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "none")
    for url, said in [
        ("gs://a/b", "got gs://"),
        ("s3://", "no bucket"),
        ("file://elsewhere/a", "the machine 'elsewhere'"),
    ]:
        with pytest.raises(ValueError, match=said):
            open_source(url)
    with pytest.raises(TypeError, match="got int"):
        open_source(5)
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(ExtraMissing, match=r"headrace\[s3\]"):
        open_source("s3://shop/x")


def test_a_file_is_opened_in_two_reads_and_its_pages_in_one_each(s3: FakeS3, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {f"c{i:04}": rng.integers(0, 1 << 60, 300) for i in range(3000)}
    with Writer(tmp_path / "f.hrc", pa.table(columns).schema, seed=1) as writer:
        writer.write(pa.table(columns))
        writer.close()
    s3.objects["shop/f.hrc"] = (tmp_path / "f.hrc").read_bytes()
    with File("s3://shop/f.hrc") as file:
        wanted = ["c0003", "c1500", "c2999"]
        found = pa.Table.from_batches(file.batches(wanted))
    assert found.equals(pa.table({name: columns[name] for name in wanted}))
    assert len(s3.requests) <= 2 + len(wanted), s3.requests
    footer = [r for r in s3.asked("GET") if r is not None][:2]
    assert footer[0] == f"bytes=-{TAIL_BYTES}"


def test_a_table_in_a_store_is_made_appended_and_read(s3: FakeS3) -> None:
    made = storage.write("s3://shop/tables/clicks", ROWS, erase_key="user", seed=1)
    commit = made.append(ROWS)
    assert (commit.version, commit.num_rows) == (2, 3)
    table = storage.open("s3://shop/tables/clicks")
    assert table.to_table().equals(pa.concat_tables([ROWS, ROWS]))
    assert table.scan(["user"], filter=[("user", ">", 1)]).to_table().num_rows == 4
    assert storage.open("s3://shop/tables/clicks", version=1).num_rows == 3
    assert [commit.version for commit in table.history()] == [2, 1]
    names = {name.removeprefix("shop/tables/clicks/").partition("/")[0] for name in s3.objects}
    assert names == {"data", "_manifest"}, "nothing temporary is left, and nothing lies beside the table"
    noted = made.commit([made.stage(ROWS.to_batches())], key=("q", 1), attachments={"note": b"hello"})
    assert noted.attachment("note") == b"hello"
    assert made.commit([made.stage(ROWS.to_batches())], key=("q", 1)).replayed
    with pytest.raises(TableExists):
        storage.write("s3://shop/tables/clicks", ROWS)
    with pytest.raises(TableNotFound):
        storage.open("s3://shop/tables/none")
    with pytest.raises(FileExistsError):
        storage.open("s3://shop/tables/clicks", version=1).stage(ROWS.to_batches(), seed=1)


def test_many_versions_are_listed_page_by_page(s3: FakeS3) -> None:
    table = storage.create("s3://shop/t", ROWS.schema)
    staged = [table.stage(ROWS.to_batches()) for _ in range(3)]
    for file in staged:
        table.commit([file])
    manifest = s3.objects["shop/t/_manifest/00000000000000000004.json"]
    for version in range(5, 130):
        numbered = manifest.replace(b'"version": 4', b'"version": %d' % version)
        s3.objects[f"shop/t/_manifest/{version:020d}.json"] = numbered
    before = len(s3.asked("GET", "list-type"))
    assert storage.open("s3://shop/t", version=4).num_rows == 9
    assert len(s3.asked("GET", "list-type")) - before == 2


def test_two_writers_never_publish_the_same_version(s3: FakeS3) -> None:
    storage.create("s3://shop/t", ROWS.schema)

    def append() -> None:
        storage.open("s3://shop/t").append(ROWS)

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    table = storage.open("s3://shop/t")
    assert (table.version, table.num_rows) == (5, 12)
    stale = storage.open("s3://shop/t")
    table.append(ROWS)
    with pytest.raises(CommitConflict):
        stale.overwrite(ROWS)


def test_a_publication_whose_answer_was_lost_is_found_again(s3: FakeS3) -> None:
    table = storage.create("s3://shop/t", ROWS.schema)
    staged = table.stage(ROWS.to_batches())
    s3.forget_answers = 1  # the client sends it again, and then meets its own manifest
    assert table.commit([staged]).version == 2
    assert storage.open("s3://shop/t").num_rows == 3


class Silent(ObjectPath):
    """An object that nobody can tell the outcome of."""

    def create(self, data: bytes) -> None:
        raise SourceFailed("no answer")


def test_a_publication_without_an_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    table = storage.create((store, "t"), ROWS.schema)
    staged = table.stage(ROWS.to_batches())
    monkeypatch.setattr("headrace.storage.objects.ObstorePath.create", Silent.create)
    with pytest.raises(CommitUnknown, match="nothing was removed"):
        table.commit([staged])


def test_a_table_behind_fsspec_is_read_only(tmp_path: Path) -> None:
    made = storage.write(tmp_path / "t", ROWS)
    made.append(ROWS)
    for where in ((fsspec.filesystem("file"), str(tmp_path / "t")), (LocalStore(tmp_path), "t")):
        assert storage.open(where).to_table().num_rows == 6
    table = storage.open((fsspec.filesystem("file"), str(tmp_path / "t")))
    with pytest.raises(SourceFailed, match="can only be read"):
        table.append(ROWS)


def test_places_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert is_table(tmp_path / "t")
    assert not is_table(tmp_path / "none")
    assert is_table((MemoryStore(), "t"))
    assert not is_table((MemoryStore(), "t/data/x.hrc"))
    assert not is_table(io.BytesIO())
    assert place((tmp_path / "t").as_uri()) == tmp_path / "t"
    below: Any = place((fsspec.filesystem("memory"), "/a")) / "b"
    assert isinstance(below, FsspecPath)
    assert (below.key, below.name, str(below)) == ("a/b", "b", "memory:///a/b")
    again = pickle.loads(pickle.dumps(below))  # noqa: S301 (this process wrote it)
    assert str(again) == str(below)
    store: Any = place((MemoryStore(), "a"))
    assert str(store / "b") == "a/b"
