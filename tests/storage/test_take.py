"""Rows by number: the same rows as a full read has, in the order asked for, from few decoded blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace import storage
from headrace.storage import page
from headrace.storage.errors import CorruptPage
from headrace.storage.fetch import ChunkReader
from headrace.storage.reader import File
from headrace.storage.writer import Writer

from .bits import same_array
from .every_type import FLAT_TYPES, NESTED_TYPES, array, bits
from .forge import Forged
from .test_footer import delete, numbered


def histories(n: int, rng: np.random.Generator, users: int) -> tuple[list[int], list[list[int]]]:
    owners = rng.integers(0, users, n).tolist()
    seen: dict[int, list[int]] = {}
    lists = []
    for i, owner in enumerate(owners):
        seen[owner] = [int(rng.integers(0, 2**30)), *seen.get(owner, [])][:20]
        lists.append(list(seen[owner]) if i % 50 else [])
    return owners, lists


def wide(n: int) -> pa.Table:
    rng = np.random.default_rng(3)
    owners, lists = histories(n, rng, 40)
    words = ["", "impression", "click", "déjà vu"]
    runs = np.repeat(rng.integers(0, 9, n // 10 + 1), 10)[:n]
    return pa.table(
        {
            "user": owners,
            "clicks": pa.array(lists, pa.list_(pa.int64())),
            "scores": pa.array([[item / 8 for item in one] for one in lists], pa.list_(pa.float32())),
            "narrow": rng.integers(0, 200, n),
            "runs": runs,
            "gaps": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.4),
            "coded": pa.array(
                [2**60 + 977 * int(i) for i in rng.integers(0, 30, n)], mask=rng.random(n) < 0.1
            ),
            "word": pa.array([words[i % 4] if i % 7 else None for i in range(n)]),
            "text": pa.array([f"row {i} {'x' * (i % 40)}" if i % 11 else None for i in range(n)]),
            "flag": pa.array(rng.random(n) < 0.02),
            "none": pa.nulls(n, pa.int32()),
            "bag": pa.array([[int(i) % 70] * (i % 5) if i % 13 else None for i in range(n)]),
            "tags": pa.array([["a", None, "bb"][: i % 4] for i in range(n)]),
            "vector": pa.array(
                rng.normal(size=(n, 4)).astype(np.float32).tolist(), pa.list_(pa.float32(), 4)
            ),
            "place": pa.array([{"row": i, "tags": ["q"] * (i % 3)} if i % 9 else None for i in range(n)]),
            "amount": pa.array([i * 10**20 for i in range(n)], pa.decimal128(38, 3)),
        }
    )


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    data = wide(9000)
    path = tmp_path_factory.mktemp("take") / "f"
    with Writer(path, data.schema, erase_key="user", group_rows=4096, page_blocks=2, seed=2) as writer:
        writer.write(data)
        writer.close()
    return path, data


def rows_of(data: pa.Table, name: str, rows: Any) -> pa.Array:
    column = data[name].combine_chunks()
    return column.take(pa.array(rows, pa.int64()))


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [8999, 0, 4096, 4095, 4096],
        list(range(2040, 2060)),
        np.random.default_rng(0).integers(0, 9000, 60).tolist(),
        np.random.default_rng(1).integers(0, 9000, 5000).tolist(),
        list(range(9000)),
    ],
    ids=["one", "twice", "across", "sparse", "dense", "all"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_column(big: tuple[Path, pa.Table], rows: list[int], threads: int) -> None:
    path, data = big
    with File(path) as file:
        assert any(column.cluster is not None for column in file.footer.columns())
        found = file.take(rows, threads=threads)
    assert found.schema == data.schema
    for name in data.schema.names:
        assert same_array(found[name], rows_of(data, name, rows)), name
        found[name].validate(full=True)


def test_views(big: tuple[Path, pa.Table]) -> None:
    path, data = big
    rows = [7000, 3, 3, 8000]
    with File(path) as file:
        found = file.take(rows, ["clicks", "bag", "narrow"], list_view=True)
    assert found.schema.types == [pa.list_view(pa.int64()), pa.list_view(pa.int64()), pa.int64()]
    for name in found.schema.names:
        assert found[name].to_pylist() == rows_of(data, name, rows).to_pylist()


def test_only_touched_blocks_are_decoded(tmp_path: Path) -> None:
    n = 40 * 1024
    rng = np.random.default_rng(8)
    data = pa.table(
        {
            "id": rng.integers(0, 2**40, n),
            "price": rng.normal(size=n).astype(np.float32),
            "place": rng.integers(0, 5000, n).astype(np.int32),
        }
    )
    path = tmp_path / "f"
    with Writer(path, data.schema, seed=1) as writer:
        writer.write(data)
        writer.close()
    rows = np.sort(rng.choice(n, 10, replace=False))
    with File(path) as file:
        assert len(file.footer.chunk(file.footer.columns(["id"])[0], 0).pages) == 1
        found = file.take(rows, ["id", "price", "place"])
        assert file.blocks_taken <= 30
        file.take(rows, ["id"])
        assert file.blocks_taken <= 40
    assert found.equals(data.take(pa.array(rows)).combine_chunks().to_batches()[0])


def test_nothing_and_nonsense(big: tuple[Path, pa.Table]) -> None:
    path, data = big
    with File(path) as file:
        assert file.take([], ["narrow", "clicks"]).schema == data.select(["narrow", "clicks"]).schema
        assert file.take([5, 6], []).num_rows == 2
        for rows in ([9000], [-1], [0, 10**12]):
            with pytest.raises(IndexError, match=r"expected rows 0\.\.8999"):
                file.take(rows)


def test_where_there_are_no_rows_it_says_so(tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", pa.schema([("x", pa.int64())]))
    for empty in (table, table.scan(["x"])):
        with pytest.raises(IndexError, match=r"expected no rows, since there are none, got 0\.\.3"):
            empty.take([0, 3])
        assert empty.take([]).num_rows == 0


def test_deleted_rows_are_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "f", 5000, group_rows=2048)
    forged = Forged(path.read_bytes())
    delete(forged, [2500], 2048)
    path.write_bytes(forged.bytes())
    with File(path) as file:
        assert file.take([2499, 2501], ["x"])["x"].to_pylist() == [2499, 2501]
        with pytest.raises(IndexError, match="row 2500 was deleted"):
            file.take([2499, 2500])


def test_damage_is_found_where_it_lies(tmp_path: Path) -> None:
    path = numbered(tmp_path / "f", 5000, group_rows=2048)
    raw = bytearray(path.read_bytes())
    with File(path) as file:
        (column,) = file.footer.columns(["x"])
        second = file.footer.chunk(column, 1).pages[0]
    raw[second.off + 40] ^= 1
    path.write_bytes(raw)
    with File(path) as file:
        assert file.take([5, 4999], ["x"])["x"].to_pylist() == [5, 4999]
        with pytest.raises(CorruptPage) as caught:
            file.take([5, 2048], ["x"])
    assert (caught.value.column, caught.value.offset) == ("x", second.off)


def test_a_table_of_many_files(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", pa.table({"x": range(100), "s": [str(i) for i in range(100)]}))
    for first in (100, 200):
        table.append(
            pa.table({"x": range(first, first + 100), "s": [str(i) for i in range(first, first + 100)]})
        )
    rows = [250, 3, 199, 3, 100]
    found = table.take(rows, ["s", "x"])
    assert found.to_pydict() == {"s": [str(i) for i in rows], "x": rows}
    with pytest.raises(IndexError, match=r"0\.\.299"):
        table.take([300])


def test_every_type_from_several_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    types = [type_ for type_ in [*FLAT_TYPES, *NESTED_TYPES] if type_ != pa.struct([])][::5]
    types += [
        pa.string_view(),
        pa.binary_view(),
        pa.list_(pa.string_view()),
        pa.list_view(pa.int64()),
        pa.struct([]),
    ]
    names = [f"c{at}" for at in range(len(types))]
    parts = [
        pa.table([array(rng, type_, 30, 0.3 if nulls else 0.0) for type_ in types], names=names)
        for nulls in (0, 1, 0)
    ]
    table = storage.write(tmp_path / "t", parts[0], seed=1)
    for number, part in enumerate(parts[1:]):
        table.append(part, seed=2 + number)
    rows = [89, 3, 31, 3, 60, 0]
    found = table.take(rows)
    assert found.schema.equals(table.schema)
    for name in names:
        kept = [bits(part[name].chunk(0)) for part in parts]
        got = found[name].chunk(0)
        got.validate(full=True)
        assert bits(got) == [kept[row // 30][row % 30] for row in rows], (name, got.type)


@pytest.mark.parametrize(("n", "rows"), [(200_000, 10), (1_000_000, 1000)])
def test_a_row_of_a_column_costs_a_block_at_most(tmp_path: Path, n: int, rows: int) -> None:
    few_blocks(tmp_path / "f", n, rows, seed=1)


def few_blocks(path: Path, n: int, rows: int, seed: int) -> int:
    """Take so many rows of three columns of n; the blocks that were decoded, at most one for each."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(rng.integers(0, 2**40, n), rng.geometric(1 / 20, n))[:n]
    data = pa.table(
        {
            "user": np.sort(owners),  # runs
            "item": np.minimum(rng.zipf(1.2, n), 2**20).astype(np.int32),  # exceptions
            "price": rng.integers(0, 10_000, n) / 100,  # decimals
        }
    )
    with Writer(path, data.schema, erase_key="user", seed=1) as writer:
        writer.write(data)
        writer.close()
    at = rng.integers(0, n, rows)
    with File(path) as file:
        found, blocks = file.take(at), file.blocks_taken
    assert 0 < blocks <= 3 * rows
    assert found.equals(data.take(pa.array(at)).combine_chunks().to_batches()[0])
    return blocks


def test_what_a_row_of_a_history_costs_is_counted(tmp_path: Path) -> None:
    """All of its page's streams, and of a list that follows another the edits of that one too."""
    rng = np.random.default_rng(4)
    lists = [[int(one) for one in range(i + 30, i, -1)] for i in range(3000)]
    scores = pa.array([[one / 8 for one in row] for row in lists], pa.list_(pa.float32()))
    data = pa.table({"clicks": pa.array(lists, pa.list_(pa.int64())), "scores": scores})
    with Writer(tmp_path / "f", data.schema, seed=1) as writer:
        writer.write(data)
        writer.close()
    at = sorted(rng.choice(3000, 4, replace=False).tolist())
    controls = {page.SEQ_MODE, page.SEQ_NEW, page.SEQ_SKIP, page.SEQ_KEEP}
    with File(tmp_path / "f") as file:
        clicks, followers = (file.footer.columns([name])[0] for name in ("clicks", "scores"))
        assert followers.follows
        counts: dict[str, dict[int, int]] = {}
        for column in (clicks, followers):
            reader = ChunkReader(file.source, column, file.footer.chunk(column, 0))
            [only] = reader.pages([0])
            counts[column.name] = {role: -(-only.count(role) // 1024) for role in only.streams}
        assert controls <= counts["clicks"].keys()
        file.take(at, ["clicks"])
        own = sum(counts["clicks"].values())
        assert file.blocks_taken == own
        file.take(at, ["scores"])
        led = sum(n for role, n in counts["clicks"].items() if role in controls)
        assert file.blocks_taken == own + sum(counts["scores"].values()) + led
