"""Files and columns that older versions alone name: a person is forgotten in those too, and none of them brings anybody back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import erase, erase_file, residue
from headrace.storage.compaction import compact
from headrace.storage.errors import CannotEraseInPlace, NoSuchVersion
from headrace.storage.evolution import Add, evolve
from headrace.storage.reader import File
from headrace.storage.table import Table
from headrace.storage.verify import verify

ANN, BOB, CY = (2**60 + n for n in (11, 12, 13))


def rows(*users: int) -> pa.Table:
    """Ten of each."""
    return pa.table({"user": pa.array(np.repeat(users, 10), pa.int64()), "n": np.arange(10 * len(users))})


def files_of(table: Table) -> set[str]:
    return {f"data/{path.name}" for path in (table.folder / "data").iterdir()}


def nowhere(table: Table, *persons: int) -> None:
    """None of these is in a byte of the folder, or in a version that can be read."""
    found = residue.search(table, persons)
    assert (found.residues, found.unreadable) == ((), ())
    for version in range(1, storage.open(table.path).version + 1):
        try:
            shown = storage.open(table.path, version).to_table()
        except NoSuchVersion:
            continue
        for column in shown.columns:
            assert not set(column.to_pylist()) & set(persons), version


def test_columns_that_an_older_version_alone_names(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", rows(CY), erase_key="user")
    staged = table.stage(rows(ANN, BOB).to_batches())
    table.commit([staged])
    evolve(table, [Add("again", pa.int64(), lambda batch: batch["user"], ("user",))])
    table.overwrite(rows(CY).append_column("again", pa.array([0] * 10)))
    table.commit([staged])  # again part of the table, and this time without the column that was joined to it
    assert [file.families for file in table.files] == [(), ()]
    assert {one.path for one in residue.search(table, [ANN]).residues} > {staged.path}, "they are there"
    done = erase.erase(table, [ANN])
    assert done.rows == 10
    assert done.closed_before == done.version
    nowhere(table, ANN)
    assert sorted(set(table.to_table()["user"].to_pylist())) == [BOB, CY]
    erase.erase(table, [BOB], level="canonical")
    nowhere(table, ANN, BOB)
    assert verify(table, every_version=True).findings == ()


@pytest.mark.parametrize("level", ["erased", "canonical"])
def test_files_that_were_compacted_since(tmp_path: Path, level: erase.Level) -> None:
    table = storage.write(tmp_path / "t", rows(ANN, BOB), erase_key="user")
    table.append(rows(BOB, CY))
    compact(table, everything=True)
    done = erase.erase(table, [ANN], level=level)
    nowhere(table, ANN)
    listed = {file.path for file in table.files}
    assert {file.how for file in done.files if file.path not in listed} == (
        {"in place"} if level == "erased" else {"anew", "removed"}
    )
    if (
        level == "canonical"
    ):  # nobody needs a new copy of what was compacted; what held nobody may stay until it is collected
        assert len(files_of(table) - listed) == 1
    erase.erase(table, [BOB], level=level)
    nowhere(table, ANN, BOB)
    assert residue.search(table, [CY]).residues
    assert table.to_table()["user"].to_pylist() == [CY] * 10
    assert verify(table, every_version=True).findings == ()


def test_what_an_older_version_lists_is_known_by_its_epoch(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", rows(ANN, BOB), erase_key="user", profile="compliance")
    before = table.files[0]
    table.overwrite(rows(CY))
    erase.erase(table, [ANN])
    known = table.forgotten()
    assert known is not None
    with File(table.folder / before.path) as file:
        assert known.epochs == {before.path: (1, file.footer.trailer.root.hex())}
    assert erase.erase(table, [ANN]).files == (), "it was said"
    assert storage.open(table.path, 1).to_table()["user"].to_pylist() == [BOB] * 10


def test_a_file_that_was_compacted_while_it_was_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = storage.write(tmp_path / "t", rows(ANN, BOB), erase_key="user")
    table.append(rows(BOB))
    commit, left = erase._commit, [1]

    def meanwhile(*given: object, **named: object) -> object:
        if named and left:
            left.pop()
            compact(storage.open(table.path), everything=True)
        return commit(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(erase, "_commit", meanwhile)
    erase.erase(table, [ANN], level="canonical")
    monkeypatch.undo()
    erase.erase(table, [BOB], level="canonical")
    nowhere(table, ANN, BOB)
    assert table.num_rows == 0


@pytest.mark.parametrize("level", ["erased", "canonical"])
def test_columns_that_come_while_rows_are_hidden(tmp_path: Path, level: erase.Level) -> None:
    table = storage.write(tmp_path / "t", rows(ANN, BOB, CY), erase_key="user")
    erase.suppress(table, [BOB])
    evolve(table, [Add("again", pa.int64(), lambda batch: batch["user"], ("user",))])
    shown = storage.open(table.path).to_table()
    assert shown["again"].to_pylist() == shown["user"].to_pylist() == [ANN] * 10 + [CY] * 10
    erase.erase(table, [BOB], level=level)
    nowhere(table, BOB)
    assert table.to_table()["again"].to_pylist() == [ANN] * 10 + [CY] * 10
    assert verify(table, every_version=True).findings == ()


@pytest.mark.parametrize("level", ["erased", "canonical"])
def test_columns_that_come_while_somebody_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: erase.Level
) -> None:
    table = storage.write(tmp_path / "t", rows(ANN, BOB, CY), erase_key="user")
    commit, left = erase._commit, [1]

    def meanwhile(*given: object, **named: object) -> object:
        if named and left:
            left.pop()
            add = Add("again", pa.int64(), lambda batch: batch["user"], ("user",))
            evolve(storage.open(table.path), [add])
        return commit(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(erase, "_commit", meanwhile)
    erase.erase(table, [BOB], level=level)
    nowhere(table, BOB)
    shown = storage.open(table.path).to_table()
    assert shown["again"].to_pylist() == shown["user"].to_pylist() == [ANN] * 10 + [CY] * 10
    assert verify(table).findings == ()


@pytest.mark.parametrize("dry_run", [True, False])
def test_pages_without_room_are_counted_in_files_that_go_and_in_those_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise CannotEraseInPlace(f"{path}: no page has room")

    table = storage.write(tmp_path / "t", rows(ANN, BOB), erase_key="user")
    table.append(rows(ANN, CY))
    (compacted,) = compact_into_one(table)
    monkeypatch.setattr(erase_file, "plan", full)
    done = erase.erase(table, [ANN], dry_run=dry_run)
    assert sorted((file.how, file.rows) for file in done.files) == [
        ("anew", 20),
        ("removed", 10),
        ("removed", 10),
    ]
    assert {file.path for file in done.files if file.how == "anew"} == {compacted}
    if not dry_run:
        nowhere(table, ANN)


def compact_into_one(table: Table) -> tuple[str, ...]:
    compact(table, everything=True)
    return tuple(file.path for file in table.files)


def test_files_that_wait_for_a_commit_are_told(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", rows(BOB), erase_key="user")
    staged = table.stage(rows(ANN, BOB).to_batches())
    assert erase.erase(table, [ANN], dry_run=True).waiting == 1
    assert erase.erase(table, [ANN]).waiting == 1
    table.commit([staged])
    assert erase.erase(table, [ANN]).waiting == 0
    nowhere(table, ANN)
