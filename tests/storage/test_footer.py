"""The footer: a few columns of very many touch few bytes, deleted rows stay away, and an erase in place is noticed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.storage import layout, leaves
from headrace.storage.errors import CorruptFooter, CorruptPage, NoSuchColumn
from headrace.storage.footer import deletion_extent
from headrace.storage.reader import File, read_file
from headrace.storage.sections import name_index
from headrace.storage.source import OpenFileSource
from headrace.storage.writer import Writer

from .forge import Forged


def wide(path: Path, n_columns: int) -> tuple[Path, list[str]]:
    names = [f"feature_{i:05d}" for i in range(n_columns)]
    values = np.arange(4, dtype=np.float32)
    columns = [
        pa.Array.from_buffers(pa.float32(), 4, [None, pa.py_buffer(values + i)]) for i in range(n_columns)
    ]
    with Writer(path, pa.schema([(name, pa.float32()) for name in names]), seed=1) as writer:
        writer.write(pa.record_batch(columns, names=names))
        writer.close()
    return path, names


def touched(path: Path, wanted: list[str]) -> tuple[int, int]:
    """Bytes read to open and to find the pages of these columns, and bytes of the whole footer."""
    with File(path) as file:
        for column in file.footer.columns(wanted):
            file.footer.chunk(column, 0)
        return file.footer.bytes_read, file.footer.trailer.footer_len


@pytest.mark.parametrize(("seed", "many"), [(2, 20_000)])
def test_ten_of_thousands_of_columns(seed: int, many: int, tmp_path: Path) -> None:
    """At most a bucket, a COLUMN, a NAMES, a CHUNK, a PAGE leaf and its tree nodes for each, whatever the width."""
    rng = np.random.default_rng(seed)
    read = {}
    for n in (1000, many):
        path, names = wide(tmp_path / str(n), n)
        wanted = [names[i] for i in rng.choice(n, 10, replace=False)]
        batch = next(read_file(path, wanted))
        assert batch.schema.names == wanted
        assert [column[0].as_py() for column in batch.columns] == [
            float(names.index(name)) for name in wanted
        ]
        read[n], whole = touched(path, wanted)
        bound = (10 * 6 + 4) * layout.LEAF_BYTES
        assert read[n] <= bound <= 128 << 10
        assert n == 1000 or whole > 3 * read[n]
    assert read[many] < 2 * read[1000] + 4 * layout.LEAF_BYTES


def test_every_column_is_found_and_no_other(tmp_path: Path) -> None:
    path, names = wide(tmp_path / "f", 700)
    with File(path) as file:
        assert [column.id for column in file.footer.columns(names)] == list(range(700))
        assert [column.name for column in file.footer.columns()] == names
        for name in ("feature_00700", "", "Feature_00001"):
            with pytest.raises(NoSuchColumn):
                file.footer.columns([name])


def test_name_buckets_grow_until_each_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    n_buckets, slots, table = name_index([f"c{i}" for i in range(3000)], 9)
    rows = np.frombuffer(table, layout.NAME_SLOT).reshape(n_buckets, slots)
    assert sorted((rows["column"][rows["column"] > 0] - 1).tolist()) == list(range(3000))
    assert all((row["hash"][row["column"] > 0] % n_buckets == at).all() for at, row in enumerate(rows))
    monkeypatch.setattr("headrace.storage.sections.name_hashes", lambda name, seed: (int(name[1:]) * 32, 1))
    assert name_index([f"c{i}" for i in range(2000)], 9)[0] == 512  # 32 would do for hashes that spread


@pytest.mark.parametrize("leaf", [leaves.OLD_LEAF_BYTES, layout.LEAF_BYTES])
@pytest.mark.parametrize("n_leaves", [0.1, 1, 1.1, 256, 257, 257.2])
def test_hash_tree_of_every_height(n_leaves: float, leaf: int) -> None:
    footer_len = int(n_leaves * leaf)
    footer = np.random.default_rng(0).bytes(footer_len)
    levels = leaves.build(footer, leaf)
    assert [len(level) // layout.HASH_BYTES for level in levels] == leaves.level_sizes(footer_len, leaf)
    raw = b"".join(levels)
    assert len(raw) == leaves.tree_bytes(footer_len, leaf)
    off = 100

    def opened(tree: bytes, footer: bytes) -> leaves.Leaves:
        source = OpenFileSource(io.BytesIO(bytes(off) + footer + tree))
        return leaves.Leaves(source, off, footer_len, off + footer_len, leaf)

    found = opened(raw, footer)
    assert found.top == levels[-1]
    last = max(footer_len - 5, 0)
    found.load([(0, 1), (footer_len // 2, 1)])
    assert found.get(0, footer_len) == footer
    assert found.get(last, footer_len - last) == footer[last:]
    damaged = bytearray(footer)
    damaged[-1] ^= 1
    with pytest.raises(CorruptFooter, match=f"leaf {len(levels[0]) // 16 - 1}"):
        opened(raw, bytes(damaged)).get(last, 1)
    if len(levels) > 1:
        bad = bytes([raw[0] ^ 1]) + raw[1:]
        with pytest.raises(CorruptFooter, match="hash tree node 0"):
            opened(bad, footer).get(0, 1)


def numbered(path: Path, n: int, **options: Any) -> Path:
    with Writer(path, pa.schema({"x": pa.int64(), "y": pa.string()}), seed=2, **options) as writer:
        writer.write(pa.record_batch({"x": list(range(n)), "y": [f"row {i}" for i in range(n)]}))
        writer.close()
    return path


def delete(forged: Forged, rows: list[int], group_rows: int) -> None:
    """Set deletion bits the way an eraser will: bitmap and popcount, nothing moves."""
    start, _ = forged.sections[layout.DELETION]
    n_rows = forged.trailer.n_rows
    popcounts, _ = deletion_extent(n_rows, group_rows)
    for row in rows:
        forged.raw[start + popcounts + row // 8] |= 1 << row % 8
        forged.view(start, -(-n_rows // group_rows), np.dtype("<u4"))[row // group_rows] += 1


@pytest.mark.parametrize("batch_rows", [7, 1000, 65_536])
def test_deleted_rows_never_come_out(batch_rows: int, tmp_path: Path) -> None:
    path = numbered(tmp_path / "f", 5000, group_rows=2048)
    forged = Forged(path.read_bytes())
    gone = [0, 1, 2047, 2048, *range(3000, 3100), 4999]
    delete(forged, gone, 2048)
    path.write_bytes(forged.bytes())
    expected = [i for i in range(5000) if i not in set(gone)]
    for columns in (["x"], ["y", "x"]):
        back = pa.Table.from_batches(read_file(path, columns, batch_rows))
        assert back["x"].to_pylist() == expected
    assert sum(batch.num_rows for batch in read_file(path, [], batch_rows)) == len(expected)
    with File(path) as file:
        assert file.footer.n_deleted() == len(gone)


def test_deletion_bits_that_disagree_with_their_count_are_damage(tmp_path: Path) -> None:
    path = numbered(tmp_path / "f", 100)
    forged = Forged(path.read_bytes())
    delete(forged, [5], layout.GROUP_ROWS)
    forged.view(forged.sections[layout.DELETION][0], 1, np.dtype("<u4"))[0] = 2
    path.write_bytes(forged.bytes())
    with pytest.raises(CorruptFooter, match="deletion bits of group 0"):
        list(read_file(path))


def test_the_trailer_with_the_higher_epoch_wins(tmp_path: Path) -> None:
    path = numbered(tmp_path / "f", 10)
    old = path.read_bytes()
    forged = Forged(old)
    forged.trailer = replace(forged.trailer, erase_epoch=1)
    delete(forged, [3], layout.GROUP_ROWS)
    new = forged.bytes()
    slot = layout.TRAILER_SLOT_BYTES
    for data in (new[: -2 * slot] + old[-2 * slot : -slot] + new[-slot:], new[:-slot] + old[-slot:]):
        path.write_bytes(data)
        with File(path) as file:
            assert file.footer.trailer.erase_epoch == 1
        assert sum(batch.num_rows for batch in read_file(path)) == 9


def test_an_erase_under_a_readers_feet_is_followed_or_refused(tmp_path: Path) -> None:
    """The reader has the old footer in hand; then bytes, deletion bits and epoch change in the file it has open."""
    path = numbered(tmp_path / "f", 5000, group_rows=2048)
    forged = Forged(path.read_bytes())
    delete(forged, [2500], 2048)
    page = forged.rows(layout.PAGE)[1]
    forged.patch(int(page["off"]), bytes(16))  # another nonce stands for re-encoded bytes
    for epoch, expected in ((1, 4999), (0, None)):
        numbered(path, 5000, group_rows=2048) if not path.exists() else None
        with File(path) as file:
            batches = file.batches(["x"])
            first = next(batches)
            forged.trailer = replace(forged.trailer, erase_epoch=epoch)
            with path.open("r+b") as changed:
                changed.write(forged.bytes())
            if expected is None:
                with pytest.raises(CorruptPage):
                    list(batches)
            else:
                assert first.num_rows + sum(batch.num_rows for batch in batches) == expected
        path.unlink()
