"""Tables written by earlier commits stay readable, can be written to, and their roots are still what they were.

``golden/tables/format_1`` was written before manifests had ``standing``: ten versions of a table with an erase key, keyed
commits, attachments, tags, an overwrite, and a version that leads back over eight others. ``format_1_upkeep`` was written
before persons could be forgotten: parts by bucket, a fence, a compaction, columns added, renamed, widened and dropped, and
a collection after which only a checkpoint knows the older keys. ``format_1_forgotten`` was written when persons' media were
first forgotten: user 1 is erased, also from side files and from rows that came later, user 4 is hidden.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import manifest as manifests
from headrace.storage import residue
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import CommitFenced, NoSuchVersion
from headrace.storage.log import Log
from headrace.storage.media import fetch
from headrace.storage.verify import verify

GOLDEN = Path(__file__).parent / "golden" / "tables"
FORMAT_1, UPKEEP, FORGOTTEN = (GOLDEN / f"format_1{name}" for name in ("", "_upkeep", "_forgotten"))
USERS = {1: [], 2: [2, 102], 3: [2, 102, 3, 103], 4: [2, 102, 3, 103], 5: [2, 102, 3, 103, 5, 105]} | {
    version: [user for number in range(6, version + 1) if number != 9 for user in (number, number + 100)]
    for version in range(6, 11)
}


@pytest.mark.parametrize("version", USERS)
def test_every_version_reads_as_it_was_written(version: int) -> None:
    table = storage.open(FORMAT_1, version)
    assert table.to_table().to_pydict() == {
        "user": USERS[version],
        "word": [f"w{user}" for user in USERS[version]],
    }
    assert (table.erase_key, table.personal) == ("user", ("word",))


def test_history_keys_attachments_and_tags_are_kept() -> None:
    table = storage.open(FORMAT_1)
    assert [commit.operation for commit in table.history()] == [
        *["append"] * 4,
        "overwrite",
        *["append"] * 4,
        "create",
    ]
    last = table.last_commit("q")
    assert last is not None
    assert (last.version, last.key) == (9, ("q", 9))
    fifth = next(commit for commit in table.history() if commit.version == 5)
    assert fifth.attachment("progress") == b"5"
    assert [file.tags for file in table.files] == [{"part": number} for number in (6, 7, 8, 10)]


def test_a_plain_manifest_is_written_as_it_always_was() -> None:
    """Newer fields say nothing in it, so that an earlier reader takes it."""
    for version in range(1, 11):
        raw = Log(FORMAT_1).path(version).read_bytes()
        assert manifests.encode(manifests.decode(raw, version, "golden")) == raw


def test_upkeep_of_old_is_read_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(UPKEEP, tmp_path / "t")
    table = storage.open(tmp_path / "t")
    assert [commit.operation for commit in table.history()] == ["evolve", "append", "gc", "evolve"]
    assert table.to_table().sort_by("user").to_pydict() == {
        "user": list(range(50)),
        "text": [f"w{user}" for user in range(50)],
        "twice": [2 * user for user in range(50)],
        "word": [None] * 50,
    }
    tenth = storage.open(tmp_path / "t", 10).to_table().sort_by("user")
    assert tenth["n"].to_pylist() == [user % 7 if user < 40 else 2**40 + user for user in range(50)]
    with pytest.raises(NoSuchVersion, match="expired"):
        storage.open(tmp_path / "t", 7)
    assert not verify(table, every_version=True).findings
    rows = storage.open(tmp_path / "t").scan(filter=[("user", "<", 5)]).to_table()
    with pytest.raises(CommitFenced, match="'driver 1' of epoch 1"):
        table.commit(table.stage_parts(rows.to_batches()), key=("q", 5))
    staged = table.stage_parts(rows.to_batches())
    assert [table.commit(staged, key=("q", batch), epoch=1).replayed for batch in (0, 3, 4)] == [True] * 3
    assert table.commit(staged, key=("q", 5), epoch=1).version == 12
    assert compact(table, cluster_by="user").files_before == 6
    assert not collect(table, keep_versions=1, forget=["q"]).held_back_by
    assert table.to_table().num_rows == 55
    assert not verify(storage.open(tmp_path / "t"), every_version=True).findings


def test_who_was_forgotten_of_old_stays_so(tmp_path: Path) -> None:
    shutil.copytree(FORGOTTEN, tmp_path / "t")
    table = storage.open(tmp_path / "t")
    assert [commit.operation for commit in table.history()][:3] == ["erase", "append", "erase"]
    assert sorted(table.to_table()["user"].to_pylist()) == [2, 2, 3, 3, 3, 5]
    pictures = [f"picture of {user}; ".encode() * 20 for user in table.to_table()["user"].to_pylist()]
    assert fetch(table, table.to_table()["image"]) == pictures
    for version in range(2, 10):
        assert not {1, 4} & set(storage.open(tmp_path / "t", version).to_table()["user"].to_pylist())
    residues = residue.search(table, [1])
    assert (residues.residues, residues.unreadable) == ((), ())
    assert not verify(table, every_version=True).findings
    late = pa.table({"user": [1, 4, 6], "word": ["a", "b", "c"], "image": [None] * 3}, schema=table.schema)
    table.append(late)
    compact(table, everything=True)
    assert sorted(storage.open(tmp_path / "t").to_table()["user"].to_pylist()) == [2, 2, 3, 3, 3, 5, 6]


def test_it_can_be_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path / "t")
    table = storage.open(tmp_path / "t")
    again = table.commit([table.stage(table.to_table().to_batches())], key=("q", 9))
    assert (again.replayed, again.version) == (True, 9)
    assert table.append(pa.table({"user": [11], "word": ["w11"]})).version == 11
    assert storage.open(tmp_path / "t").to_table()["user"].to_pylist() == [*USERS[10], 11]
    assert storage.open(tmp_path / "t", 5).to_table()["user"].to_pylist() == USERS[5]
