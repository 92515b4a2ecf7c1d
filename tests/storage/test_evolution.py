"""Columns that come, go, change names and grow: every version reads under its own columns, and no file is written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import headrace.storage as storage
from headrace.storage.compaction import compact
from headrace.storage.errors import NoSuchColumn, SchemaMismatch, StorageError, TooLarge, UnsupportedType
from headrace.storage.evolution import Add, Drop, Edit, Rename, Widen, evolve, planned
from headrace.storage.partition import parse
from headrace.storage.reader import File
from headrace.storage.table import Table

ROWS = pa.table({"user": pa.array([1, 2, 3], pa.int32()), "word": ["a", "b", None]})


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = storage.write(tmp_path / "t", ROWS, erase_key="user", personal=["word"])
    found.append(pa.table({"user": pa.array([4], pa.int32()), "word": ["d"]}))
    return found


def twice(batch: pa.RecordBatch) -> pa.Array:
    return pc.multiply(pc.cast(batch["user"], pa.int64()), 2)


def test_old_bytes_stay_and_every_version_reads_as_it_was(table: Table) -> None:
    before = {path: path.read_bytes() for path in (table.folder / "data").iterdir()}
    late = table.stage([pa.record_batch({"user": pa.array([5], pa.int32()), "word": ["e"]})])
    edits: list[Edit] = [
        Add("n", pa.int64(), twice, ("user",)),
        Widen("user", pa.int64()),
        Rename("word", "text"),
        Add("word", pa.string()),
    ]
    assert planned(table, edits).names == ["user", "text", "n", "word"]
    assert table.version == 2
    evolve(table, edits)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert (table.erase_key, table.personal) == ("user", ("text",))
    table.commit([late])  # staged under the old columns
    table.append(pa.table({"user": [6], "text": ["f"], "n": [1], "word": ["new"]}))
    expected: dict[str, list[Any]] = {
        "user": [1, 2, 3, 4, 5, 6],
        "text": ["a", "b", None, "d", "e", "f"],
        "n": [2, 4, 6, 8, None, 1],
        "word": [None] * 5 + ["new"],
    }
    for found in (table, storage.open(table.path)):
        assert found.to_table().to_pydict() == expected
        assert found.to_table().schema == found.schema
    assert storage.open(table.path, 2).to_table().to_pydict() == {
        "user": [1, 2, 3, 4],
        "word": ["a", "b", None, "d"],
    }


def test_filters_ranges_and_single_rows_of_joined_files(table: Table) -> None:
    evolve(table, [Add("n", pa.int64(), twice), Rename("word", "text")])
    table.append(pa.table({"user": pa.array([7], pa.int32()), "text": ["g"], "n": [0]}))
    assert table.scan(["text"], filter=[("n", ">", 4)]).to_table().to_pydict() == {"text": [None, "d"]}
    assert table.scan(["user"], filter=pc.field("text") == "g").to_table().to_pydict() == {"user": [7]}
    assert table.scan(["n"], rows=range(1, 4)).to_table()["n"].to_pylist() == [4, 6, 8]
    assert table.take([4, 0, 3, 0], ["n", "user"]).to_pydict() == {"n": [0, 2, 8, 2], "user": [7, 1, 4, 1]}
    assert [batch.num_rows for batch in table.scan(["n"], batch_rows=2)] == [2, 1, 1, 1]
    assert table.scan([]).to_table().num_rows == 5
    with pytest.raises(IndexError, match=r"expected rows 0\.\.4, got 5\.\.5"):
        table.take([5])


def test_a_name_that_was_used_before_never_shows_old_values(table: Table) -> None:
    evolve(table, [Drop("word"), Add("word", pa.int16())])
    assert table.to_table()["word"].to_pylist() == [None] * 4
    table.append(pa.table({"user": pa.array([5], pa.int32()), "word": pa.array([9], pa.int16())}))
    with File(table.folder / table.files[-1].path) as file:
        assert file.schema().names == ["user", "word~2"]
    evolve(table, [Rename("user", "person"), Rename("word", "user")])
    assert table.erase_key == "person"
    assert table.to_table().to_pydict() == {"person": [1, 2, 3, 4, 5], "user": [None] * 4 + [9]}


REFUSED: list[tuple[Edit, type[StorageError], str]] = [
    (Drop("user"), SchemaMismatch, "erase key"),
    (Drop("nope"), NoSuchColumn, "nope"),
    (Rename("word", "user"), SchemaMismatch, "there is a column 'user'"),
    (Add("word", pa.int8()), SchemaMismatch, "drop or rename"),
    (Widen("user", pa.float64()), SchemaMismatch, "not all its values are double"),
    (Widen("user", pa.int8()), SchemaMismatch, "not all its values are int8"),
    (Widen("user", pa.int32()), SchemaMismatch, "already"),
    (Widen("word", pa.binary()), SchemaMismatch, "add a column instead"),
    (Add("m", pa.map_(pa.string(), pa.int8())), UnsupportedType, "map"),
    (Add("n", pa.int64(), lambda batch: pa.array([1])), SchemaMismatch, "expected 3 values"),
]


@pytest.mark.parametrize(("edit", "error", "match"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_no_file_could_be_read_under_is_refused(
    edit: Edit, error: type[StorageError], match: str, table: Table
) -> None:
    with pytest.raises(error, match=match):
        evolve(table, [edit])
    assert storage.open(table.path).version == 2
    assert len(list((table.folder / "data").iterdir())) == 2, "a family that failed is removed"


def test_the_only_column_and_the_column_of_parts_stay(tmp_path: Path) -> None:
    one = storage.write(tmp_path / "one", pa.table({"a": [1]}))
    with pytest.raises(SchemaMismatch, match="only column"):
        evolve(one, [Drop("a")])
    parted = storage.write(tmp_path / "parted", pa.table({"a": [1], "b": [2]}), partition_by=["a"])
    with pytest.raises(SchemaMismatch, match="parted"):
        evolve(parted, [Drop("a")])


def test_two_who_add_a_column_at_once(table: Table) -> None:
    """Both are retried on top of the other; the same name twice is refused."""
    other = storage.open(table.path)
    evolve(other, [Add("a", pa.int8())])
    evolve(table, [Add("b", pa.int64(), twice, ("user",))])
    assert table.schema.names == ["user", "word", "a", "b"]
    with pytest.raises(SchemaMismatch, match="there is a column 'b'"):
        evolve(other, [Add("b", pa.int8())])


def test_rows_are_parted_by_value_and_bucket_and_files_left_out(tmp_path: Path) -> None:
    rows = pa.table({"user": range(1000), "country": ["a", "b"] * 500, "n": range(1000)})
    by = ["country", "bucket(user, 4)"]
    table = storage.write(tmp_path / "t", rows, erase_key="user", partition_by=by)
    assert len(table.files) == 8
    assert table.to_table().sort_by("n").equals(rows.cast(table.schema))
    scan = table.scan(filter=[("user", "==", 7)])
    assert len(scan.files) == 2
    assert scan.to_table()["n"].to_pylist() == [7]
    assert len(table.scan(filter=[("country", "in", ["b"]), ("user", "in", [1, 3])]).files) <= 2
    assert len(table.scan(filter=[("country", "!=", "a")]).files) == 4
    assert len(table.scan(filter=[("n", "==", 3)]).files) == 8
    table.append(rows.slice(0, 2))
    assert table.num_rows == 1002
    with pytest.raises(SchemaMismatch, match="stage_parts"):
        table.stage(rows.to_batches())
    assert storage.open(table.path).partition_by == tuple(map(parse, by))


def test_what_rows_cannot_be_parted_by(tmp_path: Path) -> None:
    rows = pa.table({"user": ["u"], "price": [0.5], "n": [1]})
    for by, error in (("price", UnsupportedType), ("nope", NoSuchColumn), ("user", SchemaMismatch)):
        with pytest.raises(error):
            storage.write(tmp_path / "t", rows, erase_key="user", partition_by=[by])
    many = pa.table({"n": range(300)})
    with pytest.raises(TooLarge, match="bucket"):
        storage.write(tmp_path / "many", many, partition_by=["n"])
    assert not list((tmp_path / "many" / "data").iterdir())
    with pytest.raises(ValueError, match="4096"):
        parse("bucket(user, 0)")


def test_lists_of_one_size_and_other_types_with_a_plain_form_go_on(tmp_path: Path) -> None:
    """Columns of other names in files are handed on as they came, not in the form that pages are made from."""
    vector = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 3, 4], pa.float32()), 2)
    word = pa.array(["a", "b"]).dictionary_encode()
    rows = pa.table({"user": [1, 2], "vector": vector, "word": word})
    table = storage.write(tmp_path / "t", rows)
    evolve(table, [Rename("vector", "v")])
    more = rows.rename_columns(["user", "v", "word"])
    table.append(more.select(["word", "v", "user"]))
    assert table.to_table().equals(pa.concat_tables([more, more]))
    compact(table, cluster_by="user")
    assert table.to_table()["v"].to_pylist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
