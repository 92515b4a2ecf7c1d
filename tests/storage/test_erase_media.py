"""Media of a person in side files: zeros at every level, in every version, and not one byte of anybody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import erase, erase_media
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import NoSuchVersion, StagedTooLongAgo
from headrace.storage.media import REFERENCE, Side, fetch, side_file
from headrace.storage.table import Table
from headrace.storage.verify import verify

SCHEMA = pa.schema([("user", pa.int64()), ("image", REFERENCE), ("more", pa.list_(REFERENCE))])
USERS = (1, 2, 3, 2)


def picture(user: int, number: int) -> bytes:
    return f"picture {number} of {user}; ".encode() * 300


def staged(table: Table, side: Side, first: int = 0) -> pa.Table:
    """Of each user a picture and two more; the last row of all refers to a picture of user 1 as well."""
    images = [side.put(picture(user, first + at)) for at, user in enumerate(USERS)]
    more = [
        [side.put(picture(user, 100 + first + at)), side.put(picture(user, 200 + first + at))]
        for at, user in enumerate(USERS)
    ]
    rows = {"user": [*USERS, 3], "image": [*images, images[0]], "more": [*more, None]}
    return pa.table({name: pa.array(rows[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = storage.create(tmp_path / "t", SCHEMA, erase_key="user")
    for batch in range(2):
        with side_file(found) as side:
            rows = staged(found, side, 10 * batch)
        found.commit([side.of(found.stage(rows.to_batches()))])
    return found


def media(table: Table) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((table.folder / "media").iterdir()))


def shown(table: Table) -> list[tuple[int, bytes | None, list[bytes | None]]]:
    rows = table.to_table()
    more = [fetch(table, refs or []) for refs in rows["more"].to_pylist()]
    return list(zip(rows["user"].to_pylist(), fetch(table, rows["image"]), more, strict=True))


@pytest.mark.parametrize("level", ["erased", "canonical"])
@pytest.mark.parametrize("between", ["nothing", "compacted", "compacted and collected"])
def test_media_go_with_their_person(table: Table, level: erase.Level, between: str) -> None:
    before, size = shown(table), len(media(table))
    assert b" of 2; " in media(table)
    erase.suppress(table, [2])
    if between != "nothing":
        compact(table, everything=True)
    if between.endswith("collected"):
        collect(table, keep_versions=1)
    done = erase.erase(table, [2], level=level)
    assert b" of 2; " not in media(table)
    assert len(media(table)) == size
    assert shown(table) == [row for row in before if row[0] != 2], "others' are as they were"
    assert verify(table).findings == ()
    assert verify(table, every_version=True).findings == ()
    touched = [file for file in done.files if file.path.startswith("media/")]
    assert len(touched) == 2
    assert all(file.root_before != file.root_after for file in touched)
    known = table.forgotten()
    assert known is not None
    assert known.media == {}


def test_what_somebody_else_refers_to_stays(table: Table) -> None:
    before = shown(table)
    erase.erase(table, [1])
    assert media(table).count(b" of 1; ") == 2 * 300, "of each batch the picture that user 3 refers to"
    assert shown(table) == [row for row in before if row[0] != 1]
    erase.erase(table, [3])
    assert b" of 1; " not in media(table), "the last who referred to it is gone"


def test_older_versions_show_no_media_either(table: Table) -> None:
    table.overwrite(SCHEMA.empty_table())
    erase.erase(table, [2])
    assert b" of 2; " not in media(table)
    old = storage.open(table.path, 3)
    assert {user for user, *_ in shown(old)} == {1, 3}
    assert verify(table, every_version=True).findings == ()
    erase.erase(table, [3], level="canonical")  # which removes those files, and what they alone referred to
    assert media(table) == b""
    with pytest.raises(NoSuchVersion):
        storage.open(table.path, 3)


def test_a_dry_run_counts_them_and_writes_nothing(table: Table) -> None:
    before = media(table)
    plan = erase.erase(table, [2], dry_run=True)
    sides = [file for file in plan.files if file.path.startswith("media/")]
    of_two = [picture(2, ten + hundred + at) for ten in (0, 10) for hundred in (0, 100, 200) for at in (1, 3)]
    assert sum(file.bytes_written for file in sides) == sum(map(len, of_two))
    assert media(table) == before
    done = erase.erase(table, [2])
    assert [(f.path, f.bytes_written, f.data_blocks) for f in done.files if f.path.startswith("media/")] == [
        (f.path, f.bytes_written, f.data_blocks) for f in sides
    ]


def test_a_kill_between_zeros_and_version_is_made_good(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown(table)
    erase.suppress(table, [2])
    with monkeypatch.context() as patched:

        def killed(*_: object, **named: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(erase, "suppress", lambda *_, **__: None)
        patched.setattr(erase, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            erase.erase(table, [2])
    assert any("media/" in finding.path for finding in verify(table).findings), "it is seen"
    erase.erase(storage.open(table.path), [2])
    assert verify(table).findings == ()
    assert shown(table) == [row for row in before if row[0] != 2]


def test_media_of_who_was_forgotten_while_they_waited(table: Table) -> None:
    with side_file(table) as side:
        rows = staged(table, side, 40)
    waiting = side.of(table.stage(rows.to_batches()))
    erase.erase(storage.open(table.path), [2])
    assert b" of 2; " in media(table)
    table.commit([waiting])
    assert b" of 2; " not in media(table)
    assert {user for user, *_ in shown(table)} == {1, 3}
    assert verify(table).findings == ()


def test_media_that_the_table_has_already_are_not_changed_by_a_commit(table: Table) -> None:
    with side_file(table) as side:
        rows = staged(table, side, 40)
    first, second = (side.of(table.stage(rows.to_batches())) for _ in range(2))
    table.commit([first])
    erase.suppress(storage.open(table.path), [2])
    with pytest.raises(StagedTooLongAgo, match="which the table has already"):
        table.commit([second])


def test_ranges_without_others() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        mine, theirs = (
            [
                (int(at), int(size))
                for at, size in zip(rng.integers(0, 60, n), rng.integers(1, 20, n), strict=True)
            ]
            for n in rng.integers(0, 6, 2)
        )
        expected = {b for at, size in mine for b in range(at, at + size)}
        expected -= {b for at, size in theirs for b in range(at, at + size)}
        others = [np.array([(at, at + size)], np.int64) for at, size in theirs]
        found = erase_media._without(mine, others)
        assert [b for first, last in found for b in range(first, last)] == sorted(expected)
