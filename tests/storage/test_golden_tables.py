"""Tables written by earlier commits stay readable, can be written to, and their roots are still what they were.

``golden/tables/format_1`` was written before manifests had ``standing``: ten versions of a table with an erase key, keyed
commits, attachments, tags, an overwrite, and a version that leads back over eight others.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import manifest as manifests
from headrace.storage.log import Log

FORMAT_1 = Path(__file__).parent / "golden" / "tables" / "format_1"
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


def test_it_can_be_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path / "t")
    table = storage.open(tmp_path / "t")
    again = table.commit([table.stage(table.to_table().to_batches())], key=("q", 9))
    assert (again.replayed, again.version) == (True, 9)
    assert table.append(pa.table({"user": [11], "word": ["w11"]})).version == 11
    assert storage.open(tmp_path / "t").to_table()["user"].to_pylist() == [*USERS[10], 11]
    assert storage.open(tmp_path / "t", 5).to_table()["user"].to_pylist() == USERS[5]
