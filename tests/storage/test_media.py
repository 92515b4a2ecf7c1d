"""Media in side files: rows refer to them, whatever is compacted or collected, and damage is seen."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import CorruptManifest, UnsafePath
from headrace.storage.media import REFERENCE, fetch, side_file
from headrace.storage.quality import best
from headrace.storage.table import Table
from headrace.storage.verify import verify

SCHEMA = pa.schema([("caption", pa.string()), ("score", pa.float64()), ("image", REFERENCE)])


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = storage.create(tmp_path / "t", SCHEMA)
    for batch in range(3):
        with side_file(found) as side:
            images = [side.put(bytes([batch, number]) * 5000) for number in range(4)]
        rows = pa.table(
            {
                "caption": [f"{batch}.{number}" for number in range(5)],
                "score": [(number * 3 + batch) / 20 for number in range(5)],
                "image": pa.array([*images, None], REFERENCE),
            }
        )
        found.commit([side.of(found.stage(rows.to_batches()))])
    return found


def shown(table: Table) -> dict[str, bytes | None]:
    rows = table.to_table()
    return dict(zip(rows["caption"].to_pylist(), fetch(table, rows["image"]), strict=True))


def test_references_survive_compaction_and_collection(table: Table) -> None:
    before = shown(table)
    assert before["2.3"] == bytes([2, 3]) * 5000
    assert before["2.4"] is None
    compact(table, quality="score")
    assert [len(file.media) for file in table.files] == [3]
    for _ in range(2):
        table.append(pa.table({"caption": ["x"], "score": [0.0], "image": pa.nulls(1, REFERENCE)}))
        collect(table, keep_versions=1)
    assert {name: data for name, data in shown(table).items() if name != "x"} == before
    assert len(list((table.folder / "media").iterdir())) == 3
    assert len(fetch(table, best(table, "score", 0.2).to_table()["image"])) == 4
    assert not verify(table).findings


def test_media_that_nobody_committed_are_collected(table: Table) -> None:
    with side_file(table) as side:
        side.put(b"lost")
    for _ in range(4):
        table.append(pa.table({"caption": ["x"], "score": [0.0], "image": pa.nulls(1, REFERENCE)}))
        collect(table, keep_versions=1)
    assert not (table.folder / side.name).exists()


def test_damage_and_hostile_references(table: Table) -> None:
    rows = table.to_table()["image"].to_pylist()
    path = table.folder / rows[0]["file"]
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptManifest, match="at 0"):
        fetch(table, rows[:1])
    assert fetch(table, rows[1:2]) == [bytes([0, 1]) * 5000]
    assert any(finding.path == rows[0]["file"] for finding in verify(table).findings)
    for changes in ({"offset": 10**12}, {"bytes": -1}, {"offset": -1}):
        with pytest.raises(CorruptManifest):
            fetch(table, [{**rows[1], **changes}])
    for name in ("media/../data/x", "/etc/passwd", "data/x.hrc"):
        with pytest.raises(UnsafePath):
            fetch(table, [{**rows[1], "file": name}])
    path.unlink()
    with pytest.raises(CorruptManifest, match="missing"):
        fetch(table, rows[:1])


def test_a_side_file_that_failed_is_removed(table: Table) -> None:
    before = set((table.folder / "media").iterdir())
    with pytest.raises(TypeError), side_file(table) as side:
        side.put("half")  # type: ignore[arg-type]
    assert set((table.folder / "media").iterdir()) == before
    staged = table.stage(
        pa.table({"caption": ["x"], "score": [0.0], "image": pa.nulls(1, REFERENCE)}).to_batches()
    )
    with pytest.raises(ValueError, match="leave its block"):
        side.of(staged)
