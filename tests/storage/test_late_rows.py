"""A file may wait for its commit while its persons are forgotten; none of them comes back by it, in rows or in bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import committing, erase, late_rows
from headrace.storage.compaction import compact
from headrace.storage.errors import CannotEraseInPlace, NoSuchVersion, StagedTooLongAgo
from headrace.storage.manifest import DataFile
from headrace.storage.table import Table


def rows(*users: int, start: int = 0) -> pa.Table:
    numbers = np.arange(start, start + len(users))
    return pa.table(
        {"user": pa.array(users, pa.int64()), "at": pa.array(numbers), "word": [f"w{u}" for u in users]}
    )


def users_of(table: Table) -> list[int]:
    return storage.open(table.path).to_table()["user"].to_pylist()


@pytest.mark.parametrize("level", erase.LEVELS)
def test_a_file_staged_before_an_erase_and_committed_after_it(tmp_path: Path, level: erase.Level) -> None:
    table = storage.write(tmp_path / "t", rows(1, 2, 3, 2), erase_key="user")
    waiting = [table.stage(rows(2, 4, 2, 5).to_batches()), table.stage(rows(6).to_batches())]
    erase.erase(storage.open(table.path), [2], level=level)
    done = table.commit(waiting)
    assert sorted(users_of(table)) == [1, 3, 4, 5, 6]
    assert [file.deleted for file in done.files] == [2, 0]
    assert storage.open(table.path).num_rows == 5, "hidden rows are no rows, even while their bytes are there"
    assert done.num_rows == 3
    assert (
        b"w2" not in b"".join(path.read_bytes() for path in (tmp_path / "t" / "data").iterdir())
        or level == "suppressed"
    )


def test_what_was_staged_after_it_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = storage.write(tmp_path / "t", rows(1, 2), erase_key="user")
    erase.erase(table, [2])
    staged = table.stage(rows(2, 3).to_batches())
    monkeypatch.setattr(late_rows, "_cleared", lambda *_: pytest.fail("it was staged without them"))
    table.commit([staged])
    assert users_of(table) == [1, 3]


def test_an_erase_that_comes_between_two_attempts_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = storage.write(tmp_path / "t", rows(1, 2), erase_key="user")
    staged = table.stage(rows(2, 3).to_batches())
    refuse_old, left = committing.refuse_old, [3, 2]

    def meanwhile(*given: object) -> None:
        refuse_old(*given)  # type: ignore[arg-type]
        if left:
            erase.erase(storage.open(table.path), [left.pop()])

    monkeypatch.setattr(committing, "refuse_old", meanwhile)
    table.commit([staged])
    assert users_of(table) == [1]


def test_what_cannot_be_erased_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.storage import erase_file

    table = storage.write(tmp_path / "t", rows(1, 2), erase_key="user")
    staged = table.stage(rows(2, 3).to_batches())
    erase.suppress(storage.open(table.path), [2])

    def full(*_: object) -> None:
        raise CannotEraseInPlace("no room")

    monkeypatch.setattr(erase_file, "plan", full)
    with pytest.raises(StagedTooLongAgo, match=r"1 persons of it were forgotten.*stage its rows again"):
        table.commit([staged])
    assert storage.open(table.path).version == 2
    table.commit([table.stage(rows(2, 3).to_batches())])
    assert users_of(table) == [1, 3]


def test_dictionaries_as_keys(tmp_path: Path) -> None:
    def named(*users: str) -> pa.Table:
        return pa.table({"user": pa.array(users).dictionary_encode()})

    table = storage.write(tmp_path / "t", named("ann", "bob"), erase_key="user")
    staged: DataFile = table.stage(named("bob", "cy").to_batches())
    erase.erase(storage.open(table.path), ["bob"])
    table.commit([staged])
    assert storage.open(table.path).to_table()["user"].to_pylist() == ["ann", "cy"]


def test_who_is_hidden_stays_hidden_when_another_is_erased_from_the_same_file(tmp_path: Path) -> None:
    for level in ("erased", "canonical"):
        table = storage.write(tmp_path / level, rows(1, 2, 3, 2), erase_key="user")
        erase.suppress(table, [2])
        erase.erase(table, [3], level=level)  # type: ignore[arg-type]
        assert users_of(table) == [1]
        erase.erase(table, [2], level=level)  # type: ignore[arg-type]
        known = storage.open(table.path).forgotten()
        assert known is not None
        assert known.rows == {}
        assert users_of(table) == [1]


def test_compaction_gives_way(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", rows(1, 2), erase_key="user")
    table.append(rows(2, 3))
    erase.suppress(table, [2])
    compact(storage.open(table.path), everything=True)
    assert users_of(table) == [1, 3]


@pytest.mark.parametrize("level", erase.LEVELS)
def test_as_many_rows_are_told_as_a_scan_gives(tmp_path: Path, level: erase.Level) -> None:
    table = storage.write(tmp_path / "t", rows(1, 2, 3, 2, 4), erase_key="user")
    table.append(rows(2, 5))
    erase.suppress(table, [4])
    erase.erase(storage.open(table.path), [2], level=level)
    table.append(rows(2, 4, 6, 7))  # the first two of which are left out
    compared = 0
    for version in range(1, storage.open(table.path).version + 1):
        try:
            shown = storage.open(table.path, version)
        except NoSuchVersion:
            assert level == "canonical"
            continue
        assert shown.num_rows == shown.to_table().num_rows == len(users_of_version(shown)), version
        compared += 1
    assert compared >= 2
    assert table.num_rows == storage.open(table.path).num_rows == 5
    compact(table, everything=True)
    assert table.num_rows == table.to_table().num_rows == 5
    assert "rows=" not in repr(table), "which must not read what says who is hidden"


def users_of_version(table: Table) -> list[int]:
    return table.scan(["user"]).to_table()["user"].to_pylist()
