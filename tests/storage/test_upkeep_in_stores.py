"""Upkeep of tables in a store of objects: collection, compaction, evolution, verification and repair, also where requests go wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from obstore.store import MemoryStore

from headrace import storage
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import CommitConflict, CommitFenced, CommitUnknown, SourceFailed, StorageError
from headrace.storage.evolution import Add, Drop, Rename, Widen, evolve
from headrace.storage.objects import ObstorePath
from headrace.storage.parting import PartitionBy
from headrace.storage.quality import best
from headrace.storage.repair import repair
from headrace.storage.table import Table
from headrace.storage.verify import verify

from .fake_s3 import FakeS3

HERE = "s3://shop/tables/t"
SCHEMA = pa.schema([("user", pa.int64()), ("q", pa.float64())])


def rows(*users: int) -> pa.Table:
    return pa.table({"user": users, "q": [user / 100 for user in users]}, schema=SCHEMA)


def users(table: Table) -> list[int]:
    found: list[int] = table.to_table()["user"].to_pylist()
    return sorted(found)


def test_every_kind_of_upkeep(s3: FakeS3) -> None:
    table = storage.write(HERE, rows(5, 1, 3), erase_key="user")
    for user in (4, 2, 9):
        table.append(rows(user))
    done = compact(table, cluster_by="user")
    assert (done.files_before, done.files_after) == (4, 1)
    assert table.to_table()["user"].to_pylist() == [1, 2, 3, 4, 5, 9]
    evolve(table, [Add("n", pa.int32(), lambda batch: batch["user"]), Rename("q", "quality")])
    evolve(table, [Widen("n", pa.int64()), Drop("quality")])
    assert table.to_table().column_names == ["user", "n"]
    assert table.to_table()["n"].to_pylist() == [1, 2, 3, 4, 5, 9]
    assert [commit.operation for commit in storage.open(HERE).history()][:3] == [
        "evolve",
        "evolve",
        "compact",
    ]
    assert users(storage.open(HERE, version=2)) == [1, 3, 4, 5]
    left = table.stage(
        pa.table({"user": [7], "n": [7]}, schema=table.schema).to_batches()
    )  # and never committed

    before = set(s3.objects)
    assert collect(table, keep_versions=1, dry_run=True).expired
    assert set(s3.objects) == before, "a dry run writes nothing"
    first = collect(table, keep_versions=1)
    assert (len(first.expired), first.noted) == (4, 1)
    table.append(pa.table({"user": [8], "n": [8]}, schema=table.schema))
    second = collect(table, keep_versions=1)
    assert second.orphans == (left.path,)
    assert f"shop/tables/t/{left.path}" not in s3.objects
    again = storage.open(HERE)
    assert users(again) == [1, 2, 3, 4, 5, 8, 9]
    with pytest.raises(StorageError):
        storage.open(HERE, version=2)
    assert not verify(again, every_version=True).findings
    with pytest.raises(CommitConflict):
        again.commit([left])


def test_parts_and_quality(s3: FakeS3) -> None:
    table = storage.create(HERE, SCHEMA, partition_by=[PartitionBy("user", buckets=4)])
    table.append(rows(*range(40)))
    table.append(rows(*range(40, 80)))
    done = compact(table, quality="q")
    assert done.files_after == 4
    assert users(storage.open(HERE)) == list(range(80))
    assert best(storage.open(HERE), "q", 0.1).to_table().num_rows >= 8
    assert not verify(table).findings


def test_what_is_damaged_is_found_and_saved(s3: FakeS3) -> None:
    table = storage.write(HERE, rows(1, 2))
    table.append(rows(3))
    table.append(rows(4))
    head = verify(table)
    bad = f"shop/tables/t/{table.files[1].path}"
    s3.objects[bad] = s3.objects[bad][:100] + b"?" + s3.objects[bad][101:]
    lost = f"shop/tables/t/{table.files[2].path}"
    kept = s3.objects.pop(lost)
    findings = verify(storage.open(HERE)).findings
    assert {found.path for found in findings} == {table.files[1].path, table.files[2].path}, findings
    planned = repair(HERE, dry_run=True)
    assert planned.commit is None
    assert storage.open(HERE).version == 3
    done = repair(HERE)
    assert done.commit is not None
    assert {one.path for one in done.lost} == {table.files[1].path, table.files[2].path}
    assert users(storage.open(HERE)) == [1, 2]
    assert not verify(storage.open(HERE)).findings
    s3.objects[lost] = kept

    newest = "shop/tables/t/_manifest/00000000000000000004.json"
    s3.objects[newest] = s3.objects[newest][:-20]
    assert repair(HERE).commit is not None
    assert set(users(storage.open(HERE))) >= {1, 2}
    del s3.objects["shop/tables/t/_manifest/00000000000000000005.json"]
    del s3.objects[newest]
    assert {found.path for found in verify(storage.open(HERE), expect=(3, head.head)).findings} == {
        bad.removeprefix("shop/tables/t/")
    }
    assert verify(storage.open(HERE), expect=(5, "0" * 64)).findings, "rolled back"


def test_a_driver_is_fenced(s3: FakeS3) -> None:
    old, new = storage.create(HERE, SCHEMA), storage.open(HERE)
    first = old.fence("q", "driver 1")
    new.fence("q", "driver 2")
    with pytest.raises(CommitFenced, match="driver 2"):
        old.commit([old.stage(rows(1).to_batches())], key=("q", 0), epoch=first)
    assert storage.open(HERE).num_rows == 0


UPKEEP: dict[str, Callable[[Table], object]] = {
    "append": lambda table: table.commit([table.stage(rows(9).to_batches())], attachments={"note": b"n"}),
    "compact": lambda table: compact(table, cluster_by="user"),
    "evolve": lambda table: (
        "n" in table.schema.names or evolve(table, [Add("n", pa.int64(), lambda batch: batch["user"])])
    ),
    "gc": lambda table: collect(table, keep_versions=1),
    "repair": lambda table: repair(table.path),
}


@pytest.mark.parametrize("operation", UPKEEP)
def test_answers_that_are_lost(operation: str, s3: FakeS3) -> None:
    """The client sends a PUT again when its answer is lost, and may meet what it has put itself."""
    for lost in (1, 2, 3):
        here = f"s3://shop/{lost}"
        table = storage.write(here, rows(3, 1))
        table.append(rows(2))
        s3.forget_answers = lost
        UPKEEP[operation](table)
        s3.forget_answers = 0
        found = storage.open(here)
        assert users(found) in ([1, 2, 3], [1, 2, 3, 9])
        assert not verify(found, every_version=True).findings


class Unreliable:
    """Stands in for requests of every object: the n-th, and if sticky all after it, fail, before or after they were done."""

    NAMES = ("create", "put", "unlink", "read_bytes", "read", "tail", "stat", "names")

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, sticky: bool, done: bool) -> None:
        self.at, self.sticky, self.done, self.calls = at, sticky, done, 0
        for name in self.NAMES:
            patch.setattr(ObstorePath, name, self._failing(getattr(ObstorePath, name)))

    def _failing(self, honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            self.calls += 1
            fails = self.calls - 1 == self.at or (self.sticky and self.calls > self.at)
            if not fails or self.done:
                found = honest(*args, **how)
            if fails:
                raise SourceFailed("the store did not answer")
            return found

        return call


@pytest.mark.parametrize("how", ["before", "after", "for good"])
@pytest.mark.parametrize("operation", UPKEEP)
def test_every_request_fails_in_turn(operation: str, how: str) -> None:
    """Rows are there, or are found to be there; trying again succeeds; nothing that is referenced is gone."""
    at = -1
    for at in range(400):
        store = MemoryStore()
        table = storage.write((store, "t"), rows(3, 1))
        table.append(rows(2))
        damaged = operation == "repair"
        if damaged:
            store_file = table.files[1].path
            (table.path / store_file).unlink()
        expected = [1, 3] if damaged else [1, 2, 3]
        with pytest.MonkeyPatch.context() as patch:
            failing = Unreliable(patch, at, sticky=how == "for good", done=how == "after")
            failed: Exception | None = None
            try:
                UPKEEP[operation](table)
            except (StorageError, OSError) as error:
                failed = error
        if failed is not None:
            if operation in ("append", "compact", "evolve") and not isinstance(failed, CommitUnknown):
                assert storage.open((store, "t")).version == 2, (
                    at,
                    how,
                    "what is published is not said to have failed",
                )
            UPKEEP[operation](storage.open((store, "t")))
        found = storage.open((store, "t"))
        assert users(found) in (expected, [*expected, 9], [*expected, 9, 9]), (at, how)
        assert not verify(found).findings, (at, how)
        if failing.calls <= at:
            break
    assert 5 <= at < 399, "every request was reached"


def test_a_thousand_ambiguous_puts() -> None:
    lying(5, 1000)


class Lying:
    """Stands in for every PUT of a store: half of the answers are errors, of requests that were done, were not, or are yet to be.

    Attributes:
        lies: how many answers were errors.
    """

    def __init__(self, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.lies, self.draw = 0, random.Random(seed)
        self.late: list[Callable[[], object]] = []
        for name in ("create", "put"):
            patch.setattr(ObstorePath, name, self._lying(getattr(ObstorePath, name)))

    def _lying(self, honest: Callable[..., None]) -> Callable[..., None]:
        def call(place: ObstorePath, what: Any) -> None:
            if len(self.late) > 3:
                self.settle()
            kind = self.draw.choice(["fine"] * 3 + ["before", "after", "late"])
            if kind == "late" and isinstance(what, bytes):
                self.late.append(lambda: honest(place, what))
            elif kind in ("fine", "after"):
                honest(place, what)
            if kind != "fine":
                self.lies += 1
                raise SourceFailed("the store did not answer")

        return call

    def settle(self) -> None:
        """Let everything that is late happen."""
        while self.late:
            with suppress(FileExistsError):
                self.late.pop(0)()


def _commit(table: Table, batch: int) -> None:
    table.commit([table.stage(rows(batch).to_batches())], key=("q", batch))


def lying(seed: int, lies: int) -> int:
    """Commit keyed batches, compact and collect, until so many PUTs were answered wrongly; returns how many batches.

    Raises:
        AssertionError: a version that is kept refers to something that is gone, or a batch is missing or there twice.
    """
    store, batch = MemoryStore(), 0
    storage.create((store, "t"), SCHEMA)

    def through(act: Callable[[Table], object]) -> None:
        for _ in range(60):
            try:
                act(storage.open((store, "t")))
            except (CommitUnknown, SourceFailed, OSError):
                nothing_is_missing()
            else:
                nothing_is_missing()
                return
        raise AssertionError("never went through")

    def nothing_is_missing() -> None:
        there = {found["path"].removeprefix("t/") for page in store.list("t/") for found in page}
        for commit in storage.open((store, "t")).history():
            files = {file.path for file in storage.open((store, "t"), commit.version).files}
            assert files <= there, (commit.version, files - there)

    with pytest.MonkeyPatch.context() as patch:
        faults = Lying(patch, seed)
        while faults.lies < lies:
            through(partial(_commit, batch=batch))
            batch += 1
            if batch % 8 == 0:
                through(lambda table: compact(table, cluster_by="user"))
                through(lambda table: collect(table, keep_versions=2))
        faults.settle()
    found = storage.open((store, "t"))
    assert users(found) == list(range(batch))
    assert not verify(found, every_version=True).findings
    return batch
