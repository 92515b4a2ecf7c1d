"""Forgetting persons: every byte of theirs goes, nobody else's changes, and a killed erase ends as one that was not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import headrace.storage as storage
from headrace.storage import canonical, durable, erase, erase_file, exact, redo, residue
from headrace.storage.entropy import Entropy
from headrace.storage.erase_page import runs
from headrace.storage.errors import CannotEraseInPlace, EraseUnfinished, NoEraseKey, NoSuchVersion
from headrace.storage.evolution import Add, evolve
from headrace.storage.reader import File
from headrace.storage.verify import verify
from headrace.storage.writer import Writer

from .every_type import FLAT_TYPES, NESTED_TYPES, array, same
from .rich import rich, write_rich

PROFILES = ("balanced", "size", "train", "compliance")


def persons(n: int = 1300, users: int = 30, seed: int = 1) -> pa.Table:
    """``rich`` rows whose users have ids that no other byte of a file resembles."""
    table = rich(n, users)
    rng = np.random.default_rng(seed)
    ids = rng.integers(2**60, 2**62, users)
    numbers = np.asarray(table["user"].combine_chunks()) - 2**40
    return table.set_column(0, "user", pa.array(ids[numbers]))


def without(table: pa.Table, keys: list[int]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["user"], value_set=pa.array(keys, pa.int64()))))


def read(path: Path) -> pa.Table:
    with File(path) as file:
        return pa.Table.from_batches(file.batches(), schema=file.schema())


def twin_of(table: pa.Table, key: int, other: pa.Table) -> pa.Table:
    """The same table, in which everything of one person but the key is ``other``'s."""
    mine = np.asarray(pc.equal(table["user"], key))
    rows = pa.array(np.where(mine, len(table) + np.arange(len(table)), np.arange(len(table))))
    columns = []
    for name in table.schema.names:
        own = table[name].combine_chunks()
        theirs = own if name == "user" else other[name].combine_chunks()
        columns.append(pa.concat_arrays([own, theirs]).take(rows))
    return pa.Table.from_arrays(columns, schema=table.schema)


# -- one file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_persons_go_one_after_the_other_and_others_stay(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "f.hrc"
    write_rich(path, persons(), profile)
    left = read(path)  # two columns are stored with less precision
    in_place = 0
    for key in pc.unique(left["user"]).to_pylist()[:6]:
        assert residue.decoded(path, "f", [key], [])[0], "the search finds who is there"
        gone = without(left, [key])
        try:
            plan = erase_file.plan(path, pa.array([key]), nonces=Entropy(key % 1000).take)
        except CannotEraseInPlace as error:
            expected = str(error)
            assert "write the file anew" in expected
            before = path.read_bytes()
            canonical.rewrite(path, tmp_path / "g.hrc", pa.array([key]), seed=3)
            assert path.read_bytes() == before
            (tmp_path / "g.hrc").replace(path)
        else:
            assert plan is not None
            assert plan.rows == len(left) - len(gone)
            erase_file.run(plan)
            in_place += 1
            with File(path) as file:
                assert file.footer.trailer.erase_epoch == plan.epoch
                assert file.footer.trailer.root.hex() == plan.root
                assert file.footer.n_deleted() == plan.deleted
        assert read(path).equals(gone), "what others have is as it was"
        assert residue.decoded(path, "f", [key], [])[0] == []
        assert residue.scan(path, list(residue.codings(key).items())) == []
        assert erase_file.plan(path, pa.array([key])) is None, "nothing is left to erase"
        left = gone
    assert in_place or profile != "compliance", "this profile is written to be erased in place"


@pytest.mark.parametrize("profile", PROFILES)
def test_two_files_that_differed_in_one_person_are_the_same_bytes(tmp_path: Path, profile: str) -> None:
    table = persons()
    key = table["user"][5].as_py()
    other = rich(2600).slice(1300)
    images = []
    for name, rows in (("a", table), ("b", twin_of(table, key, other))):
        write_rich(tmp_path / name, rows, profile)
        canonical.rewrite(tmp_path / name, tmp_path / f"{name}2", pa.array([key]), seed=5)
        images.append((tmp_path / f"{name}2").read_bytes())
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert images[0] == images[1]
    assert read(tmp_path / "a2").equals(without(read(tmp_path / "a"), [key]))


@pytest.mark.parametrize("type_", [*FLAT_TYPES[::8], *NESTED_TYPES[::5]], ids=str)
@pytest.mark.parametrize("nulls", [0.0, 0.3])
def test_every_type_can_be_forgotten(tmp_path: Path, type_: pa.DataType, nulls: float) -> None:
    n = 90
    rng = np.random.default_rng(4)
    values = array(rng, type_, n, nulls)
    other = array(rng, type_, n, nulls)
    mine = np.arange(n) % 3 == 1
    keys = pa.array(np.arange(n) % 3 + 2**61)
    kept = pa.array(np.flatnonzero(~mine))
    twins = [
        values,
        exact.gathered([values, other], pa.array(np.where(mine, n + np.arange(n), np.arange(n)))),
    ]
    images = []
    for at, twin in enumerate(twins):
        folder = tmp_path / str(at)
        table = storage.write(folder, pa.table({"user": keys, "x": twin}), erase_key="user", seed=1)
        assert erase.erase(table, [2**61 + 1]).rows == n // 3
        assert same(table.to_table()["x"].combine_chunks(), exact.gathered([values], kept))
        assert verify(table).findings == ()
        last = erase.erase(table, [2**61 + 1], level="canonical", seed=2)
        assert {file.how for file in last.files} == {"anew"}
        assert same(table.to_table()["x"].combine_chunks(), exact.gathered([values], kept))
        images.append((folder / table.files[0].path).read_bytes())
    # The entries of an ordered dictionary are the column's type, used or not, and stay.
    assert images[0] == images[1] or "ordered=1" in str(type_), "nothing tells what it was that went"


def test_positions_of_runs() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, 50).astype(np.uint32)
    at = np.flatnonzero(rng.random(50) < 0.4)
    ends = np.cumsum(lengths)
    expected = [p for row in at for p in range(int(ends[row]) - int(lengths[row]), int(ends[row]))]
    assert runs(lengths, at).tolist() == expected


# -- crashes -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends an erase where a kill would."""


def _steps(monkeypatch: pytest.MonkeyPatch, kill_at: int) -> Callable[[], int]:
    """Every write, truncation, sync and removal of an erase counts; one of them never happens, nor does any after it."""
    done = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == kill_at:
                raise Killed
            return real(*args, **named)

        return call

    for module, name in (
        (os, "pwrite"),
        (os, "ftruncate"),
        (durable, "sync_file"),
        (durable, "sync_dir"),
        (Path, "unlink"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return lambda: done


def test_a_kill_at_each_step_ends_in_the_same_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = persons(1100, 12)
    key = table["user"][3].as_py()
    path = tmp_path / "f.hrc"
    with Writer(
        path, table.schema, erase_key="user", profile="compliance", seed=1, group_rows=1024
    ) as writer:
        writer.write(table)
        writer.close()
    before = path.read_bytes()
    plan = erase_file.plan(path, pa.array([key]), nonces=Entropy(7).take)
    assert plan is not None
    erase_file.run(plan)
    after = path.read_bytes()
    step, seen = 0, set()
    while True:
        step += 1
        path.write_bytes(before)
        with pytest.MonkeyPatch.context() as patched:
            steps = _steps(patched, step)
            try:
                erase_file.run(plan)
            except Killed:
                pass
            else:
                assert steps() < step
                break
        torn = path.read_bytes()
        caplog.clear()
        found = read(path)  # whoever opens it next
        assert not redo.journal_of(path).exists()
        if path.read_bytes() == before:
            assert found.equals(table)
            seen.add("untouched")
        else:
            assert path.read_bytes() == after
            assert found.equals(without(table, [key]))
            seen.add("finished" if torn != after else "done")
        assert len(caplog.records) <= 1, "one line says so"
    assert step > 8
    assert {"untouched", "finished"} <= seen


def test_a_torn_journal_is_as_none(tmp_path: Path) -> None:
    table = persons(1100, 12)
    path = tmp_path / "f.hrc"
    before = write_rich(path, table, "compliance")
    images = [(64, b"x" * 100)]
    whole = redo._packed(images, len(before))
    for length in range(0, len(whole), 7):
        redo.journal_of(path).write_bytes(whole[:length])
        assert read(path).num_rows == 1100
        assert path.read_bytes() == before
    redo.journal_of(path).write_bytes(redo._packed(images, 5))
    with pytest.raises(EraseUnfinished, match="expected a journal"):
        read(path)


def test_a_reader_waits_for_an_eraser_that_lives(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "f.hrc"
    table = persons(1100, 12)
    write_rich(path, table)
    journal = redo.journal_of(path)
    with journal.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(read(path).num_rows))
        reader.start()
        reader.join(0.3)
        assert reader.is_alive()
        assert not found
        journal.unlink()
    reader.join(20)
    assert found == [1100]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_table_forgets_at_three_levels(tmp_path: Path) -> None:
    rows = persons(2500)
    keys = pc.unique(rows["user"]).to_pylist()[2:5]
    table = storage.write(tmp_path / "t", rows, erase_key="user", seed=1)
    table.append(rows.slice(0, 900))
    whole = table.to_table()
    assert residue.search(table, keys).residues, "the search finds who is there"

    plan = erase.erase(table, keys, dry_run=True)
    assert plan.rows == len(whole) - len(without(whole, keys))
    assert table.version == 2
    hidden = erase.suppress(table, keys)
    assert hidden.rows == plan.rows
    for version, expected in ((None, whole), (1, rows)):
        shown = storage.open(tmp_path / "t", version)
        assert shown.to_table().equals(without(expected, keys))
        assert shown.scan(["user"], filter=[("user", "in", keys)]).to_table().num_rows == 0

    table.append(rows.slice(0, 300))  # late rows of theirs do not come back
    assert (
        storage.open(tmp_path / "t")
        .to_table()[len(without(whole, keys)) :]
        .equals(without(rows.slice(0, 300), keys))
    )

    done = erase.erase(table, keys)
    assert done.rows == plan.rows
    assert residue.search(table, keys).residues == ()
    assert verify(table, every_version=not done.closed_before).findings == ()
    assert residue.search(table, pc.unique(rows["user"]).to_pylist()[:1]).residues, "others are still there"

    last = erase.erase(table, keys, level="canonical")
    assert last.closed_before == last.version
    with pytest.raises(NoSuchVersion, match="closed by an erasure"):
        storage.open(tmp_path / "t", 1)
    assert residue.search(table, keys).residues == ()
    assert verify(storage.open(tmp_path / "t"), every_version=True).findings == ()
    assert (
        without(whole, keys).num_rows + without(rows.slice(0, 300), keys).num_rows
        == table.to_table().num_rows
    )


def test_two_dry_runs_say_the_same(tmp_path: Path) -> None:
    """Which bytes change depends on nonces; what a plan says of how many must not, else it cannot be compared."""
    looked_at = set[str]()
    for seed in range(15):
        table = storage.write(
            tmp_path / str(seed), persons(60, 6, seed), erase_key="user", profile="compliance"
        )
        table.append(persons(30, 6, seed))
        keys = pc.unique(table.to_table()["user"]).to_pylist()[:2]
        first, again = (replace(erase.erase(table, keys, dry_run=True), seconds=0.0) for _ in range(2))
        assert first == again
        assert first.bytes_written > 0
        looked_at.add(first.root_before)
    assert len(looked_at) == 15, "tables that differ"


def test_an_erase_that_was_killed_between_file_and_version_is_said_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = persons(1100, 12)
    key = rows["user"][0].as_py()
    table = storage.write(tmp_path / "t", rows, erase_key="user", seed=1, profile="compliance")

    def killed(*args: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        erase.suppress(table, [key])
        patched.setattr(erase, "suppress", lambda *args, **named: None)
        patched.setattr(erase, "_commit", killed)
        with pytest.raises(Killed):
            erase.erase(table, [key])
    reopened = storage.open(tmp_path / "t")
    assert reopened.to_table().equals(without(rows, [key]))
    erase.erase(reopened, [key])
    entry = reopened.files[0]
    with File(tmp_path / "t" / entry.path) as file:
        assert (entry.erase_epoch, entry.root) == (
            file.footer.trailer.erase_epoch,
            file.footer.trailer.root.hex(),
        )
        assert entry.deleted == file.footer.n_deleted()
    assert verify(reopened).findings == ()


@pytest.mark.parametrize("seed", range(6))
def test_nobody_comes_back_whatever_happens_in_between(tmp_path: Path, seed: int) -> None:
    from headrace.storage.compaction import compact

    rng = np.random.default_rng(seed)
    rows = persons(400, 10, seed=1)
    everyone = pc.unique(rows["user"]).to_pylist()
    table, forgotten = storage.write(tmp_path / "t", rows, erase_key="user"), list[int]()
    n = {key: int(pc.sum(pc.equal(rows["user"], key)).as_py()) for key in everyone}
    expected = dict(n)
    for step in rng.integers(0, 5, 8):
        other = storage.open(tmp_path / "t")  # a writer that has seen nothing of the others
        if step == 0:
            other.append(rows)
            for key in everyone:
                expected[key] += n[key] * (key not in forgotten)
        elif step == 1:
            compact(other, everything=True)
        else:
            key = int(rng.choice(everyone))
            level: Any = ("suppressed", "erased", "canonical")[step - 2]
            erase.erase(other, [key], level=level)
            forgotten.append(key)
            expected[key] = 0
        shown = storage.open(tmp_path / "t").to_table()["user"]
        counts = {row["values"]: row["counts"] for row in pc.value_counts(shown.combine_chunks()).to_pylist()}
        assert counts == {key: count for key, count in expected.items() if count}
    assert verify(table.refresh()).findings == ()


def test_columns_that_were_added_are_forgotten_too(tmp_path: Path) -> None:
    rows = persons(600, 10).select(["user", "url"])
    key, other = pc.unique(rows["user"]).to_pylist()[:2]
    table = storage.write(tmp_path / "t", rows, erase_key="user")
    evolve(table, [Add("again", pa.int64(), lambda batch: batch["user"], ("user",))])
    assert table.files[0].families
    assert any(
        residue.scan(path, [("id", int(key).to_bytes(8, "little"))])
        for path in (tmp_path / "t/data").iterdir()
    )
    done = erase.erase(table, [key])
    assert done.closed_before == done.version
    left = storage.open(tmp_path / "t").to_table()
    assert left["user"].equals(left["again"])
    assert key not in left["user"].to_pylist()
    assert left.num_rows == without(rows, [key]).num_rows
    assert residue.search(table, [key]).residues == ()
    assert residue.search(table, [other]).residues
    assert verify(table, every_version=True).findings == ()


def test_bad_requests_are_answered_in_one_sentence(tmp_path: Path) -> None:
    plain = storage.write(tmp_path / "p", pa.table({"x": [1]}))
    with pytest.raises(NoEraseKey, match="without an erase key"):
        erase.erase(plain, [1])
    table = storage.write(tmp_path / "t", pa.table({"user": [1, 2]}), erase_key="user")
    with pytest.raises(NoEraseKey, match="the erase key is int64"):
        erase.erase(table, ["somebody"])
    with pytest.raises(ValueError, match="expected a level"):
        erase.erase(table, [1], level="deleted")  # type: ignore[arg-type]
    nobody = erase.erase(table, [99])
    assert (nobody.rows, nobody.files) == (0, ())
    assert storage.open(tmp_path / "t").to_table().num_rows == 2
