"""One file: every type comes back bit for bit, whatever its slicing, nulls and emptiness; equal seeds give equal bytes."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.storage import page
from headrace.storage.errors import NoSuchColumn, SchemaMismatch, TooLarge, UnsupportedType
from headrace.storage.explain import explain
from headrace.storage.reader import File, read_file
from headrace.storage.writer import Writer

from .bits import same_array, same_table

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, data: pa.Table, **options: Any) -> Path:
    path.unlink(missing_ok=True)
    with Writer(path, data.schema, **options) as writer:
        writer.write(data)
        writer.close()
    return path


def read(path: Path, columns: list[str] | None = None, batch_rows: int = 65_536) -> pa.Table:
    with File(path) as file:
        schema = file.schema(columns)
    return pa.Table.from_batches(read_file(path, columns, batch_rows), schema=schema)


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def _float32(bits: int) -> float:
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(value)


LEAVES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(max_size=12) | st.sampled_from(["", "a", "click", "impression"]),
    pa.binary(): st.binary(max_size=12),
    pa.date32(): st.dates(),
    **{getattr(pa, f"int{bits}")(): _integers(bits, signed=True) for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): _integers(bits, signed=False) for bits in (8, 16, 32, 64)},
    **{
        pa.timestamp(unit, zone): _integers(64, signed=True)
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC")
    },
}
TYPES = [*LEAVES, *(pa.list_(leaf) for leaf in LEAVES)]


def values_of(type_: pa.DataType) -> st.SearchStrategy[list[Any]]:
    one = LEAVES.get(type_)
    if one is None:
        one = st.lists(st.none() | LEAVES[type_.value_type], max_size=5)
    few = st.lists(one, min_size=1, max_size=3).flatmap(
        lambda drawn: st.lists(st.none() | st.sampled_from(drawn), max_size=60)
    )
    return st.lists(st.none() | one, max_size=40) | st.lists(one, max_size=40) | few


@pytest.mark.parametrize("type_", TYPES, ids=str)
@settings(QUICK, max_examples=25)
@given(data=st.data())
def test_round_trip(type_: pa.DataType, data: st.DataObject, tmp_path: Path) -> None:
    whole = pa.array(data.draw(values_of(type_)), type_)
    lo = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(lo, len(whole)))
    given_chunks = pa.chunked_array([whole[lo:cut], whole[cut:]], type_)
    path = write(tmp_path / "f", pa.table({"before": given_chunks.is_valid(), "x": given_chunks}))
    assert same_array(pa.concat_arrays(read(path)["x"].chunks or [whole[:0]]), whole[lo:])


@QUICK
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_every_bit_of_a_float_survives(bits: list[int], tmp_path: Path) -> None:
    raw = np.array(bits, np.uint32)
    floats = pa.Array.from_buffers(pa.float32(), len(raw), [None, pa.py_buffer(raw)])
    back = read(write(tmp_path / "f", pa.table({"x": floats})))["x"].chunk(0)
    assert np.array_equal(np.frombuffer(back.buffers()[1], np.uint32)[: len(raw)], raw)


def many(n: int) -> pa.Table:
    rng = np.random.default_rng(7)
    zipf = np.minimum(rng.zipf(1.4, n), 500)
    return pa.table(
        {
            "user": pa.array(rng.integers(0, 2**40, n)),
            "rank": pa.array(zipf, pa.int32(), mask=rng.random(n) < 0.3),
            "price": pa.array(rng.normal(size=n).astype(np.float32)),
            "kind": pa.array(np.where(rng.random(n) < 0.1, "click", "impression")),
            "title": pa.array([f"title {i}" if i % 5 else None for i in range(n)], pa.string()),
            "at": pa.array(np.arange(n) * 1000, pa.timestamp("us", tz="UTC")),
            "seen": pa.array(rng.random(n) < 0.01),
            "none": pa.nulls(n, pa.float64()),
            "same": pa.array(np.full(n, 7, np.uint16)),
            "items": pa.array(
                [[int(z)] * (i % 4) if i % 9 else None for i, z in enumerate(zipf)], pa.list_(pa.int64())
            ),
            "words": pa.array([["a", None, "b"][: i % 4] for i in range(n)], pa.list_(pa.string())),
        }
    )


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    data = many(10_000)
    return write(tmp_path_factory.mktemp("big") / "f", data, group_rows=4096, page_blocks=2, seed=1), data


@pytest.mark.parametrize("batch_rows", [1, 1000, 1024, 2048, 4096, 5000, 65_536])
def test_batches_follow_groups_and_pages(big: tuple[Path, pa.Table], batch_rows: int) -> None:
    path, data = big
    wanted = ["words", "user", "rank"] if batch_rows > 1 else ["rank"]
    batches = list(read_file(path, wanted, batch_rows))
    assert same_table(pa.Table.from_batches(batches), data.select(wanted))
    assert max(batch.num_rows for batch in batches) <= batch_rows
    starts = np.cumsum([0] + [batch.num_rows for batch in batches])
    assert {4096, 8192} <= set(starts.tolist())  # no batch crosses a row group


def test_whole_file(big: tuple[Path, pa.Table]) -> None:
    path, data = big
    assert same_table(read(path), data)


def test_input_batches_of_any_size_give_the_same_file(tmp_path: Path) -> None:
    data = many(3000)
    files = []
    for rows in (17, 1024, 3000):
        path = tmp_path / str(rows)
        with Writer(path, data.schema, seed=5, group_rows=1024) as writer:
            for batch in data.to_batches(max_chunksize=rows):
                writer.write(batch)
            writer.close()
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_seed_decides_every_byte(tmp_path: Path) -> None:
    data = many(100)
    same = [write(tmp_path / name, data, seed=3).read_bytes() for name in "ab"]
    other = write(tmp_path / "c", data, seed=4).read_bytes()
    drawn = [write(tmp_path / name, data).read_bytes() for name in "de"]
    assert same[0] == same[1]
    assert len({same[0], other, *drawn}) == 4


def test_empty_and_columnless(tmp_path: Path) -> None:
    schema = many(1).schema
    assert read(write(tmp_path / "empty", schema.empty_table())).schema == schema
    assert read(tmp_path / "empty").num_rows == 0
    bare = pa.table({"x": [1, 2, 3]})
    path = write(tmp_path / "bare", bare)
    assert [batch.num_rows for batch in read_file(path, [])] == [3]
    with pytest.raises(NoSuchColumn, match="'y'"):
        read(path, ["x", "y"])


def test_types_that_cannot_be_held_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    odd = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))
    with pytest.raises(UnsupportedType, match="column 'odd'"):
        write(tmp_path / "f", pa.table({"fine": [1], "odd": odd}))
    assert not (tmp_path / "f").exists()


def test_rows_that_do_not_fit_are_refused_with_every_difference(tmp_path: Path) -> None:
    schema = pa.schema(
        [pa.field("a", pa.int64()), pa.field("b", pa.string(), nullable=False), pa.field("c", pa.bool_())]
    )
    with Writer(tmp_path / "f", schema) as writer:
        with pytest.raises(SchemaMismatch) as caught:
            writer.write(pa.record_batch({"a": [1.5], "b": pa.array([None], pa.string()), "z": [1]}))
        for part in (
            "'a' has type double, expected int64",
            "'b' has 1 nulls",
            "'c' is missing",
            "'z' is not expected",
        ):
            assert part in str(caught.value)
        writer.abort()
    assert not (tmp_path / "f").exists()


def test_names_twice_and_personal_columns_that_are_none(tmp_path: Path) -> None:
    twice = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(UnsupportedType, match="twice"):
        write(tmp_path / "f", twice)
    with pytest.raises(SchemaMismatch, match="nobody"):
        write(tmp_path / "f", pa.table({"x": [1]}), personal=["nobody"])


def test_text_that_is_not_utf8_is_refused_when_written(tmp_path: Path) -> None:
    bad = pa.array([b"ok", b"\xff"]).view(pa.string())
    with pytest.raises(SchemaMismatch, match="not UTF-8"):
        write(tmp_path / "f", pa.table({"x": bad}))


def test_flags_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "f", pa.table({"u": [1], "q": ["x"], "n": [2]}), erase_key="u", personal=["q"])
    with File(path) as file:
        flags = [(column.name, column.erase_key, column.personal) for column in file.footer.columns()]
    assert flags == [("u", True, False), ("q", False, True), ("n", False, False)]


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Writer(tmp_path / "f", many(1).schema) as writer:
            writer.write(many(10))
            raise RuntimeError("mid-way")

    with pytest.raises(RuntimeError, match="mid-way"):
        interrupted()
    assert not (tmp_path / "f").exists()


def test_wide_rows_get_smaller_pages_and_big_values_still_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blobs = pa.array([rng.bytes(20_000) for _ in range(2100)], pa.binary())
    path = write(tmp_path / "f", pa.table({"x": blobs}))
    with File(path) as file:
        (column,) = file.footer.columns()
        assert [page.n_rows for page in file.footer.chunk(column, 0).pages] == [1024, 1024, 52]
    assert read(path)["x"].combine_chunks().equals(pa.chunked_array([blobs]).combine_chunks())


def test_what_compresses_beyond_the_memory_rule_is_stored_plain(tmp_path: Path) -> None:
    n = 1024
    lists = pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * 2100, np.zeros(n * 2100, np.int64))
    assert lists.nbytes > page.FREE_BYTES
    path = write(tmp_path / "f", pa.table({"x": lists}))
    assert path.stat().st_size > lists.nbytes, "constants would be refused as a bomb"
    assert read(path)["x"].combine_chunks().equals(pa.chunked_array([lists]).combine_chunks())


@pytest.mark.parametrize("wins", ["words", "hashes", "unlike"])
def test_dictionaries_are_used_where_they_win(tmp_path: Path, wins: str) -> None:
    rng = np.random.default_rng(0)
    column = {
        "words": pa.array(["impression", "click"] * 5000),
        "hashes": pa.array(rng.choice(rng.integers(0, 2**62, 300), 20_000)),
        "unlike": pa.array([f"user-{i}" for i in range(10_000)]),
    }[wins]
    path = write(tmp_path / "f", pa.table({"x": column}))
    with File(path) as file:
        (found,) = explain(file)
    assert found.layout == ("values" if wins == "unlike" else "dictionary")
    assert read(path)["x"].combine_chunks().equals(column)


def test_a_row_group_beyond_two_gib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(_: object) -> pa.Array:
        raise pa.ArrowInvalid("offset overflow while concatenating arrays")

    monkeypatch.setattr(pa, "concat_arrays", overflow)
    writer = Writer(tmp_path / "f", pa.schema({"x": pa.binary()}))
    for _ in range(2):
        writer.write(pa.record_batch({"x": [b"a"]}))
    with pytest.raises(TooLarge, match="smaller group_rows"):
        writer.close()
    writer.abort()


def test_memory_is_one_row_group_to_write_and_one_batch_to_read(tmp_path: Path) -> None:
    """40 MB of text pass through; a few of its 1-MB row groups are in memory at a time, both ways."""
    rng = np.random.default_rng(0)

    def batches(n: int) -> Iterator[pa.RecordBatch]:
        for at in range(n):
            text = pa.Array.from_buffers(
                pa.binary(),
                256,
                [None, pa.py_buffer(np.arange(257, dtype=np.int32) * 1000), pa.py_buffer(rng.bytes(256_000))],
            )
            ids = pa.Array.from_buffers(pa.int64(), 256, [None, pa.py_buffer(np.arange(256) + at)])
            yield pa.RecordBatch.from_arrays([text, ids], names=["text", "id"])

    schema = next(batches(1)).schema
    tracemalloc.start()
    with Writer(tmp_path / "f", schema, group_rows=1024) as writer:
        for batch in batches(160):
            writer.write(batch)
        writer.close()
    _, written = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    arrow_before, arrow_peak, n = pa.total_allocated_bytes(), 0, 0
    for batch in read_file(tmp_path / "f"):
        n += batch.num_rows
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
    _, read_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 160 * 256
    assert (tmp_path / "f").stat().st_size > 40_000_000
    assert written < 10_000_000
    assert read_peak < 10_000_000
    assert arrow_peak < 10_000_000
