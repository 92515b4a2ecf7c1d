"""Reading: row ranges, views, threads and memory, patterns, what is handed out, and when a compiler is loaded."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace import storage
from headrace.storage import arrays, group_read, layout, page_rows, prefetch
from headrace.storage.errors import CorruptPage, NoSuchColumn
from headrace.storage.reader import File
from headrace.storage.writer import Writer

from .bits import same_array, same_table
from .forge import Forged
from .test_footer import delete
from .test_take import big, wide  # noqa: F401  # a fixture

N = 9000


def read(path: Path, columns: list[str] | None = None, **how: Any) -> pa.Table:
    with File(path) as file:
        return pa.Table.from_batches(
            list(file.batches(columns, **how)), schema=pa.schema([]) if columns == [] else None
        )


def as_lists(table: pa.Table) -> pa.Table:
    """List views as the lists they show."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_list_view(field.type):
            column = pa.chunked_array([pa.array(column.to_pylist(), pa.list_(field.type.value_type))])
        columns.append(column)
    return pa.table(columns, names=table.schema.names)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_rows", [700, 2048, 65_536])
@pytest.mark.parametrize("memory_bytes", [1 << 17, 1 << 30])
def test_every_way_to_read_gives_the_same_rows(
    big: tuple[Path, pa.Table],  # noqa: F811
    threads: int,
    batch_rows: int,
    memory_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "BUNDLE_BYTES", 20_000)
    path, data = big
    found = read(path, batch_rows=batch_rows, threads=threads, memory_bytes=memory_bytes)
    assert same_table(found, data)


@pytest.mark.parametrize(
    "rows", [range(0, 1), range(4090, 4100), range(1000, 8500), range(8999, 20_000), range(5, 5)]
)
@pytest.mark.parametrize("list_view", [False, True])
def test_ranges_of_rows(big: tuple[Path, pa.Table], rows: range, list_view: bool) -> None:  # noqa: F811
    path, data = big
    with File(path) as file:
        batches = list(file.batches(None, rows=rows, list_view=list_view))
    expected = data[rows.start : rows.stop]
    assert sum(batch.num_rows for batch in batches) == expected.num_rows
    if batches:
        found = as_lists(pa.Table.from_batches(batches))
        for name in data.schema.names:
            one = found[name].combine_chunks()
            assert same_array(one.cast(expected[name].type), expected[name].combine_chunks()), name


def test_views_share_their_items(tmp_path: Path) -> None:
    """One history of 20 items that slides over 4,000 rows is some 4,000 items as views, and 80,000 as lists."""
    items = list(range(4020))
    lists = [items[i : i + 20][::-1] for i in range(4000)]
    table = storage.write(tmp_path / "t", pa.table({"user": [1] * 4000, "ids": lists}), erase_key="user")
    views = table.scan(["ids"], list_view=True).to_table()["ids"].combine_chunks()
    assert pa.types.is_list_view(views.type)
    assert views.to_pylist() == lists
    assert len(views.values) < 5000
    plain = table.scan(["ids"]).to_table()["ids"].combine_chunks()
    assert len(plain.values) == 80_000
    whole = table.scan(["ids"], [("user", "==", 1)], list_view=True).to_table()
    assert whole["ids"].to_pylist() == lists


def test_lists_without_slides_come_as_views_too(tmp_path: Path) -> None:
    data = pa.table({"bag": [["a", None], None, [], ["b"]], "n": [1, 2, 3, 4]})
    table = storage.write(tmp_path / "t", data)
    found = table.scan(list_view=True).to_table()
    assert found.schema.types == [pa.list_view(pa.string()), pa.int64()]
    assert found["bag"].to_pylist() == data["bag"].to_pylist()


def test_deleted_rows_of_every_kind_stay_away(big: tuple[Path, pa.Table], tmp_path: Path) -> None:  # noqa: F811
    path, data = big
    forged = Forged(path.read_bytes())
    gone = sorted({0, 17, 4095, 4096, *range(5000, 6500), 8999})
    delete(forged, gone, 4096)
    changed = tmp_path / "f"
    changed.write_bytes(forged.bytes())
    kept = np.setdiff1d(np.arange(N), gone)
    expected = data.take(pa.array(kept))
    for batch_rows in (999, 65_536):
        with File(changed) as file:
            found = pa.Table.from_batches(list(file.batches(batch_rows=batch_rows)))
        for name in data.schema.names:
            assert same_array(found[name].combine_chunks(), expected[name].combine_chunks()), name


def test_memory_stays_within_what_was_granted(tmp_path: Path) -> None:
    n, granted = 20_000, 16 << 20
    rng = np.random.default_rng(0)
    data = pa.table(
        {
            "blob": pa.array([rng.bytes(3000) for _ in range(n)], pa.binary()),
            "ids": pa.array([[i] * 300 for i in range(n)], pa.list_(pa.int64())),
            "x": np.arange(n),
        }
    )
    path = tmp_path / "f"
    with Writer(path, data.schema, seed=1) as writer:
        writer.write(data)
        writer.close()
    del data
    gc.collect()
    for threads in (1, 2):
        before, most, rows = pa.total_allocated_bytes(), 0, 0
        with File(path) as file:
            for batch in file.batches(memory_bytes=granted, threads=threads):
                rows += batch.num_rows
                most = max(most, pa.total_allocated_bytes() - before)
        assert rows == n
        assert most < granted
        del batch


def test_batches_outlive_their_file_and_do_not_follow_it(tmp_path: Path) -> None:
    """Nothing that is handed out points into the file, whatever becomes of it: erasure relies on that."""
    path = tmp_path / "f"
    data = pa.table({"key": np.arange(3000), "x": np.random.default_rng(0).integers(0, 2**62, 3000)})
    with Writer(path, data.schema, erase_key="key", encodings={"x": "plain"}, seed=1) as writer:
        writer.write(data)
        writer.close()
    with File(path) as file:
        (batch,) = file.batches()
        taken = file.take([5, 2999])
    with path.open("r+b") as changed:
        changed.write(bytes(path.stat().st_size))
    assert pa.Table.from_batches([batch]).equals(data)
    assert taken["x"].to_pylist() == data["x"].take(pa.array([5, 2999])).to_pylist()


def test_an_erase_while_reading_ahead_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second group was decoded before the erase; its rows are read again before they are handed out."""
    from dataclasses import replace

    monkeypatch.setattr(prefetch, "BUNDLE_BYTES", 1)
    path = tmp_path / "f"
    data = pa.table({"x": np.arange(3000)})
    with Writer(path, data.schema, group_rows=1024, seed=1) as writer:
        writer.write(data)
        writer.close()
    forged = Forged(path.read_bytes())
    delete(forged, [1500, 2999], 1024)
    forged.trailer = replace(forged.trailer, erase_epoch=1)
    with File(path) as file:
        batches = file.batches(threads=2)
        assert next(batches).num_rows == 1024
        with path.open("r+b") as changed:
            changed.write(forged.bytes())
        rest = [value for batch in batches for value in batch["x"].to_pylist()]
    assert rest == [i for i in range(1024, 3000) if i not in (1500, 2999)]


def test_damage_is_named_by_threads_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "BUNDLE_BYTES", 1)
    path = tmp_path / "f"
    with Writer(path, pa.schema({"x": pa.int64(), "y": pa.int64()}), group_rows=1024, seed=1) as writer:
        writer.write(pa.table({"x": range(4000), "y": range(4000)}))
        writer.close()
    raw = bytearray(path.read_bytes())
    with File(path) as file:
        page = file.footer.chunk(file.footer.columns(["y"])[0], 2).pages[0]
    raw[page.off + 30] ^= 1
    path.write_bytes(raw)
    with File(path) as file:
        batches = file.batches(threads=2)
        assert [next(batches).num_rows for _ in range(2)] == [1024, 1024]
        with pytest.raises(CorruptPage) as caught:
            next(batches)
        assert (caught.value.column, caught.value.offset) == ("y", page.off)
        assert sum(batch.num_rows for batch in file.batches(["x"], threads=2)) == 4000


def test_columns_by_pattern_and_the_nearest_name(tmp_path: Path) -> None:
    names = ["price_usd", "price_eur", "label", "odd[1]", "priceless"]
    data = pa.table({name: [i] for i, name in enumerate(names)})
    table = storage.write(tmp_path / "t", data)
    path = table.path / table.files[0].path
    with File(path) as file:
        for wanted, found in (
            (["price_*"], ["price_usd", "price_eur"]),
            (["label", "price*"], ["label", "price_usd", "price_eur", "priceless"]),
            (["price_eur", "price_*"], ["price_eur", "price_usd"]),
            (["odd[1]"], ["odd[1]"]),
            (["*_???"], ["price_usd", "price_eur"]),
        ):
            assert [column.name for column in file.footer.columns(wanted)] == found
            assert table.scan(wanted).to_table().schema.names == found
        with pytest.raises(NoSuchColumn, match=r"f*lable.*did you mean 'label'"):
            file.footer.columns(["lable"])
        with pytest.raises(NoSuchColumn, match=r"nothing\*"):
            file.footer.columns(["nothing*"])


def test_few_bytes_tell_where_ten_of_many_columns_are(tmp_path: Path) -> None:
    """Bytes counted where the file is read, pages left out."""
    n = 2000
    names = [f"feature_{i:05d}" for i in range(n)]
    with Writer(tmp_path / "f", pa.schema([(name, pa.int8()) for name in names]), seed=1) as writer:
        writer.write(pa.table({name: pa.array([1, 2], pa.int8()) for name in names}))
        writer.close()
    wanted = [names[i] for i in np.random.default_rng(1).choice(n, 10, replace=False)]
    with File(tmp_path / "f") as file:
        (batch,) = file.batches(wanted)
        pages = sum(file.footer.chunk(column, 0).pages[0].used_len for column in file.footer.columns(wanted))
        assert file.source.bytes_read - pages == file.footer.bytes_read <= 45 * layout.LEAF_BYTES
    assert batch.num_rows == 2


def test_wide_steps_are_cut_to_batches(big: tuple[Path, pa.Table], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    path, data = big
    monkeypatch.setattr(group_read, "BATCH_BYTES", 100_000)
    found = read(path, ["text", "narrow", "clicks"], batch_rows=3000)
    assert same_table(found, data.select(["text", "narrow", "clicks"]))


def _modules_after(code: str) -> Iterator[str]:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    yield from run.stdout.split()


def test_a_small_table_is_read_without_a_compiler(tmp_path: Path) -> None:
    n = 16_000
    rng = np.random.default_rng(0)
    data = pa.table(
        {
            "a": np.repeat(rng.integers(0, 9, n // 8), 8),
            "b": rng.normal(size=n).round(2),
            "c": pa.array(rng.integers(0, 2**40, n)),
            "s": [f"word {i % 100}" for i in range(n)],
        }
    )
    storage.write(tmp_path / "t", data)
    path = str(tmp_path / "t")
    code = f"""
import sys
from headrace import storage
table = storage.open({path!r})
assert table.to_table().num_rows == {n}
assert table.take([5, 9000]).num_rows == 2
print(*(name for name in ("numba", "pandas", "torch", "pyarrow.compute") if name in sys.modules))
assert table.scan(["b"], [("c", ">", 5)]).to_table().num_rows  # Arrow's own scalars load pandas
print(*(name for name in ("numba", "torch") if name in sys.modules))
"""
    assert list(_modules_after(code)) == []


@pytest.mark.parametrize("type_", [pa.string(), pa.binary()])
@pytest.mark.parametrize("nulls", [0.0, 0.3, 1.0])
def test_few_texts_are_gathered_as_arrow_takes_them(type_: pa.DataType, nulls: float) -> None:
    rng = np.random.default_rng(5)
    entries = pa.array(["before", "", "wörter", "x", "", "yz" * 40, "after"], type_)[1:-1]
    for n in (0, 1, 9, 400):
        rows = rng.integers(0, len(entries), n).astype(np.int32)
        valid = rng.random(n) >= nulls if nulls else None
        found = arrays.few_texts(entries, rows, valid)
        found.validate(full=True)
        assert same_array(found, entries.take(arrays.indices(rows, valid)))


@pytest.mark.parametrize("word", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("nulls", [0.02, 0.5, 0.98])
def test_values_are_spread_over_nulls_alike(word: str, nulls: float) -> None:
    rng = np.random.default_rng(6)
    for n in (1, 7, 64, 1000):
        valid = rng.random(n) >= nulls
        valid[rng.integers(n)] = True
        dense = rng.integers(1, 200, np.count_nonzero(valid)).astype(word)
        expected = iter(dense.tolist())
        wanted = [next(expected) if here else 0 for here in valid]
        for spread in (page_rows._spread_numpy, page_rows._spread, page_rows._spread.function):
            out = np.full(n, 77, word)
            with np.errstate(over="ignore"):  # words wrap in plain Python too
                spread(dense, valid.view(np.uint8), out)
            assert out.tolist() == wanted
