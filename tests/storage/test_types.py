"""Types and layouts: every array comes back from its plain form, every type from its description; others are refused."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import storage
from headrace.storage import exact, logical, typecode
from headrace.storage.errors import SchemaMismatch, UnsupportedType
from headrace.storage.reader import File
from headrace.storage.sparktypes import from_spark, spark_type, to_spark
from headrace.storage.typecode import BadDescription
from headrace.storage.writer import Writer

from .every_type import DICTIONARIES, FLAT_TYPES, NESTED_TYPES, array, bits, same


class Refused(Exception):
    """What ``fail`` raises here."""


def fail(what: str, expected: object, got: object) -> NoReturn:
    raise Refused(f"{what}: expected {expected}, got {got}")


def slices(whole: Any) -> list[Any]:
    n = len(whole)
    return [whole, whole[n // 3 : n - n // 5]]


@pytest.mark.parametrize("type_", [*FLAT_TYPES, *NESTED_TYPES], ids=str)
def test_plain_form_and_back(type_: pa.DataType) -> None:
    rng = np.random.default_rng(0)
    column = logical.column_type(type_, "x")
    for nulls in (0.0, 0.4, 1.0):
        for n in (0, 1, 23):
            for given_array in slices(array(rng, type_, n, nulls)):
                plain = exact.plain(given_array, column.plain)
                plain.validate(full=True)
                assert plain.type == column.plain
                back = exact.restore(plain, column.arrow, fail)
                back.validate(full=True)
                assert same(back, given_array)
                assert same(exact.restore(plain[n // 2 :], column.arrow, fail), given_array[n // 2 :])


def test_types_are_known_from_their_column_rows() -> None:
    for type_ in [*FLAT_TYPES, *NESTED_TYPES]:
        column = logical.column_type(type_, "x")
        described = logical.description(column)
        if described:
            back = logical.from_description(described)
        else:
            back = logical.from_ids(column.logical, column.item_logical, column.timezone)
        assert back == column
        assert back is not None
        assert back.arrow.equals(type_, check_metadata=True)


def test_types_without_parameters_need_no_description() -> None:
    bare = [pa.int8(), pa.null(), pa.string_view(), pa.float16(), pa.timestamp("us", "UTC"), pa.time64("ns")]
    bare += [pa.list_(pa.int64()), pa.large_list(pa.string()), pa.list_view(pa.timestamp("ms", "Asia/Tokyo"))]
    assert [logical.description(logical.column_type(type_, "x")) for type_ in bare] == [b""] * len(bare)
    with_name = pa.list_(pa.field("element", pa.int64(), False))
    assert logical.description(logical.column_type(with_name, "x")) == b"\x25\x02\x07\x00element\x05"


def ordered(values: list[Any], type_: pa.DataType, rows: list[int | None], index: pa.DataType) -> Any:
    indices = pa.array(rows, index)
    return pa.DictionaryArray.from_arrays(indices, pa.array(values, type_), ordered=True)


def of_rows(array_: Any) -> Any:
    """The dictionary of an array or of the items of its lists."""
    while not pa.types.is_dictionary(array_.type):
        array_ = array_.values
    return array_.dictionary


@pytest.mark.parametrize("profile", ["balanced", "size", "compliance"])
def test_ordered_dictionaries_keep_the_order_of_their_entries(tmp_path: Path, profile: str) -> None:
    """Whether they are used or not, and in whatever order rows use them; unordered ones only their values."""
    rows = [2, 0, None, 2, 1, 0]
    places = [Decimal("2.50"), Decimal("-1.00"), Decimal("0.00"), Decimal("9.99")]
    columns = {
        "level": ordered(["low", "mid", "high", "never"], pa.string(), rows, pa.int8()),
        "size": ordered([9, 5, 7], pa.int64(), rows, pa.uint16()),
        "small": ordered([9, 5, 7], pa.int8(), rows, pa.int32()),
        "flag": ordered([True, False, None], pa.bool_(), [1, 0, None, 2, 1, 0], pa.int32()),
        "price": ordered(places, pa.decimal128(5, 2), rows, pa.int64()),
        "code": ordered([b"bb", b"aa", b"cc"], pa.binary(2), rows, pa.int8()),
        "view": ordered(["z", "a", "m"], pa.string_view(), rows, pa.int8()),
        "nothing": ordered(["z", "a", "m"], pa.string(), [None] * 6, pa.int8()),
    }
    level = columns["level"]
    offsets = pa.array([0, 2, 2, 3, None, 6, 6], pa.int32())
    columns["lists"] = pa.ListArray.from_arrays(offsets, level)
    columns["wide"] = pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), columns["size"])
    columns["pairs"] = pa.FixedSizeListArray.from_arrays(pa.concat_arrays([level, level]), 2)
    columns["free"] = pa.DictionaryArray.from_arrays(level.indices, level.dictionary)
    data = pa.table(columns)
    some = pa.concat_tables([data.slice(0, 1), data, data] * 50).combine_chunks()
    many = pa.concat_tables([some] * 10)  # in few batches, since each is fitted to the schema anew
    path = tmp_path / "f"
    with Writer(path, data.schema, seed=1, group_rows=1024, profile=profile, personal=["level"]) as writer:
        writer.write(many)
        writer.close()
    at = [5, 0, 6000, 2]
    with File(path) as file:
        back = [*file.batches(), *file.batches(rows=range(7, 12)), *file.batches(list_view=True)]
        taken = file.take(at)
    for batch in [*back, taken]:
        batch.validate(full=True)
        for name in data.column_names:
            if name == "free":
                assert set(of_rows(batch[name]).to_pylist()) <= set(level.dictionary.to_pylist())
                continue
            expected = of_rows(columns[name]).drop_null()
            assert of_rows(batch[name]).equals(expected), name
    whole = pa.Table.from_batches(back[: -(-many.num_rows // 1024)])
    assert whole.schema == data.schema
    for name in data.column_names:
        assert whole[name].to_pylist() == many[name].to_pylist(), name
        assert taken[name].to_pylist() == [many[name][row].as_py() for row in at], name


def test_orders_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    first = ordered(["low", "high"], pa.string(), [0, 1], pa.int8())
    grown = ordered(["low", "high", "higher"], pa.string(), [2, 1], pa.int8())
    other = ordered(["high", "low"], pa.string(), [0, 1], pa.int8())
    many = ordered([str(k) for k in range(200)], pa.string(), [0, 1], pa.int16())
    schema = pa.schema([("x", first.type)])
    with Writer(tmp_path / "f", schema, seed=1) as writer:
        for rows in (first, grown, first):
            writer.write(pa.record_batch([rows], names=["x"]))
        writer.close()
    [back] = storage.read_file(tmp_path / "f")
    assert back["x"].dictionary.to_pylist() == ["low", "high", "higher"]
    assert back["x"].to_pylist() == ["low", "high", "higher", "high", "low", "high"]
    for wrong, said in ((other, "in one order"), (many, "at most 128")):
        batch = pa.record_batch([wrong], names=["x"])
        with Writer(tmp_path / f"g{said}", schema, seed=1) as writer:
            writer.write(pa.record_batch([first], names=["x"]))
            with pytest.raises(SchemaMismatch, match=f"column 'x'.*{said}"):
                writer.write(batch)
            writer.abort()
    for within in (pa.struct([("d", first.type)]), pa.list_(pa.list_(first.type))):
        with pytest.raises(UnsupportedType, match=r"'x.*ordered dictionary"):
            Writer(tmp_path / "h", pa.schema([("x", within)]))
    assert not (tmp_path / "h").exists()


GOLDEN = [
    (pa.decimal128(9, -2), "2309feffffff"),
    (pa.binary(16), "1410000000"),
    (pa.list_(pa.float32(), 64), "2740000000010b"),
    (pa.dictionary(pa.int8(), pa.string(), True), "2a010210"),
    (pa.timestamp("us", "UTC"), "1d0300555443"),
    (
        pa.struct([pa.field("a", pa.int8(), False, {"k": "v"})]),
        "2801000000060100610100010000006b010000007602",
    ),
]


@pytest.mark.parametrize(("type_", "described"), GOLDEN, ids=str)
def test_descriptions_are_these_bytes(type_: pa.DataType, described: str) -> None:
    assert typecode.write(type_).hex() == described
    assert typecode.read(bytes.fromhex(described)).equals(type_, check_metadata=True)


@pytest.mark.parametrize("type_", NESTED_TYPES[:12], ids=str)
def test_descriptions_cut_short_or_grown_are_refused(type_: pa.DataType) -> None:
    data = typecode.write(type_)
    for bad in [data[:end] for end in range(len(data))] + [data + b"\0"]:
        with pytest.raises(BadDescription):
            typecode.read(bad)
        assert logical.from_description(bad) is None


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, 200), byte=st.integers(0, 255), which=st.sampled_from([*FLAT_TYPES, *NESTED_TYPES]))
def test_descriptions_with_a_wrong_byte_are_types_or_refused(at: int, byte: int, which: pa.DataType) -> None:
    data = bytearray(typecode.write(which))
    data[at % len(data)] = byte
    try:
        typecode.read(bytes(data))
    except BadDescription:
        return


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=40))
def test_any_bytes_are_a_description_or_refused(data: bytes) -> None:
    try:
        typecode.read(data)
    except BadDescription:
        return


def test_deep_descriptions_are_refused_without_recursion() -> None:
    with pytest.raises(BadDescription, match="at most 16 types"):
        typecode.read(b"\x25\x01" * 10_000 + b"\x02")
    with pytest.raises(BadDescription, match="fields"):
        typecode.read(b"\x28\xff\xff\xff\xff")


class Point(pa.ExtensionType):
    """An extension type, which the store does not hold."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "headrace.test.point")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Point:
        return Point()


def _deep(n: int) -> pa.DataType:
    type_ = pa.int8()
    for _ in range(n):
        type_ = pa.list_(type_)
    return type_


REFUSED = [
    pa.map_(pa.string(), pa.int8()),
    pa.sparse_union([pa.field("a", pa.int8())]),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.run_end_encoded(pa.int32(), pa.int8()),
    pa.month_day_nano_interval(),
    Point(),
    pa.dictionary(pa.int8(), pa.list_(pa.int8())),
    pa.dictionary(pa.int8(), pa.null()),
    pa.struct([pa.field("a", pa.int8()), pa.field("a", pa.int8())]),
]


@pytest.mark.parametrize("type_", REFUSED, ids=str)
def test_other_types_are_refused_by_name(type_: pa.DataType) -> None:
    for wrapped, path in [
        (type_, "odd"),
        (pa.list_(type_), "odd.item"),
        (pa.struct([("in", pa.large_list(type_))]), "odd.in.item"),
    ]:
        with pytest.raises(UnsupportedType, match=f"column '{path}' has type") as caught:
            logical.column_type(wrapped, "odd")
        assert str(type_) in str(caught.value)


def test_types_deeper_than_the_limit_are_refused_by_name() -> None:
    logical.column_type(_deep(typecode.MAX_NESTING - 1), "x")
    with pytest.raises(UnsupportedType, match="16 types deep"):
        logical.column_type(_deep(typecode.MAX_NESTING), "x")


def test_what_pages_hold_of_each_kind() -> None:
    kinds = {
        pa.float16(): (10, "f2", 0),
        pa.date64(): (5, "i8", 0),
        pa.time32("ms"): (4, "i4", 0),
        pa.duration("ns"): (5, "i8", 0),
        pa.decimal32(4, 1): (4, "i4", 0),
        pa.decimal128(20, 1): (logical.WORDS, None, 0),
        pa.decimal256(60, 1): (logical.FIXED_BYTES, None, 32),
        pa.binary(7): (logical.FIXED_BYTES, None, 7),
        pa.large_string(): (logical.BYTES, None, 0),
        pa.null(): (0, "u1", 0),
        pa.dictionary(pa.int8(), pa.int16()): (3, "i2", 0),
    }
    for type_, (stored_as, dtype, width) in kinds.items():
        leaf = logical.column_type(type_, "x").leaf
        assert (leaf.storage, leaf.dtype, leaf.width) == (
            stored_as,
            np.dtype(dtype) if dtype else None,
            width,
        )


@pytest.mark.parametrize("type_", DICTIONARIES, ids=str)
def test_dictionaries_keep_their_entries_in_order(type_: pa.DataType) -> None:
    given_array = array(np.random.default_rng(1), type_, 40, 0.2)
    entries = exact.plain(given_array.dictionary, logical.column_type(type_.value_type, "x").plain)
    plain = exact.plain(given_array, entries.type)
    back = exact.restore(plain, type_, fail, entries)
    back.validate(full=True)
    assert bits(back.dictionary) == bits(given_array.dictionary)
    assert same(back, given_array)
    some = exact.restore(plain[:3], type_, fail, entries)
    assert bits(some.dictionary) == bits(given_array.dictionary)
    with pytest.raises(Refused, match="outside the dictionary"):
        exact.restore(plain, type_, fail, entries[:0])


def test_more_entries_than_indices_can_number_are_refused() -> None:
    plain = pa.array(range(200), pa.int64())
    assert len(exact.restore(plain, pa.dictionary(pa.uint8(), pa.int64()), fail).dictionary) == 200
    with pytest.raises(Refused, match="at most 128"):
        exact.restore(plain, pa.dictionary(pa.int8(), pa.int64()), fail)


def test_values_that_cannot_be_of_the_type_are_refused() -> None:
    with pytest.raises(Refused, match="type null"):
        exact.restore(pa.array([None, 0], pa.uint8()), pa.null(), fail)
    with pytest.raises(Refused, match="items in a row: expected 2"):
        exact.restore(pa.array([[1, 2], [3]], pa.list_(pa.int8())), pa.list_(pa.int8(), 2), fail)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_payloads_of_nans_survive_a_dictionary(width: int) -> None:
    raw = np.array([2**width - 1, 2**width - 2, 1 << (width - 1), 0, 2**width - 1], f"u{width // 8}")
    floats = pa.Array.from_buffers(
        getattr(pa, f"float{width}")(), len(raw), [None, pa.py_buffer(raw.tobytes())]
    )
    back = exact.restore(floats, pa.dictionary(pa.int8(), floats.type), fail)
    assert len(back.dictionary) == 4
    assert bits(back) == bits(floats)


def test_views_are_made_without_copying_items() -> None:
    plain = pa.array([[1, 2], None, [], [3]], pa.list_(pa.int64()))
    view = exact.restore(plain, pa.list_view(pa.int64()), fail)
    assert view.values.buffers()[1].address == plain.values.buffers()[1].address


def test_types_of_one_shape_hold_the_same_values() -> None:
    one = pa.struct([("a", pa.large_list(pa.dictionary(pa.int8(), pa.string_view())))])
    other = pa.struct([pa.field("a", pa.list_(pa.field("element", pa.string(), False)), False)])
    assert logical.shape(one) == logical.shape(other)
    assert logical.shape(pa.list_(pa.int8(), 2)) != logical.shape(pa.list_(pa.int8(), 3))
    assert logical.shape(pa.null()) != logical.shape(pa.uint8())
    assert logical.shape(pa.timestamp("us", "UTC")) != logical.shape(pa.timestamp("us"))


@pytest.mark.parametrize("nulls", [0.0, 0.4, 1.0])
def test_every_type_travels_to_spark_and_back(nulls: float) -> None:
    rng = np.random.default_rng(5)
    for type_ in [*FLAT_TYPES, *NESTED_TYPES]:
        if "halffloat" in str(type_) or "decimal256" in str(type_):
            continue  # a NaN that changes width loses its payload; Spark has no decimals that long
        given_array = array(rng, type_, 9, nulls)
        target = pa.schema([("x", spark_type(type_))])
        there = to_spark(pa.record_batch([given_array], names=["x"]), target)
        there.validate(full=True)
        again = from_spark(there, pa.schema([("x", type_)])).column(0)
        assert logical.shape(again.type) == logical.shape(type_)
        plain = exact.plain(again, logical.column_type(type_, "x").plain)
        assert same(exact.restore(plain, type_, fail), given_array)


def write(path: Path, batches: list[Any], schema: pa.Schema, **options: Any) -> Path:
    path.unlink(missing_ok=True)
    with Writer(path, schema, **options) as writer:
        for batch in batches:
            writer.write(batch)
        writer.close()
    return path


def read(path: Path, **options: Any) -> pa.Table:
    with File(path) as file:
        return pa.Table.from_batches(file.batches(**options), schema=file.schema())


def rows(column: pa.ChunkedArray) -> list[Any]:
    return [row for chunk in column.chunks for row in bits(chunk)]


@pytest.mark.parametrize("nulls", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n", [0, 1, 23, 1500])
def test_files_give_back_every_type(nulls: float, n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    every = (1, 1) if (n, nulls) == (23, 0.4) else (3, 2) if n < 1000 else (9, 5)
    types = [*FLAT_TYPES[:: every[0]], *NESTED_TYPES[:: every[1]]]
    columns = [array(rng, type_, n + n // 3, nulls)[n // 3 :] for type_ in types]
    schema = pa.schema([pa.field(str(at), type_) for at, type_ in enumerate(types)])
    whole = pa.RecordBatch.from_arrays(columns, schema=schema)
    path = write(tmp_path / "f", [whole[: n // 3], whole[n // 3 :]], schema, group_rows=1024, page_blocks=1)
    back = read(path)
    back.validate(full=True)
    assert back.schema.equals(schema, check_metadata=True)
    for at, type_ in enumerate(types):
        assert rows(back.column(at)) == bits(columns[at]), type_
    few = read(path, batch_rows=400)
    assert all(rows(few.column(at)) == bits(column) for at, column in enumerate(columns))


def test_rows_of_one_shape_are_written_in_the_type_of_the_schema(tmp_path: Path) -> None:
    schema = pa.schema(
        [("d", pa.dictionary(pa.int8(), pa.large_string())), ("l", pa.large_list_view(pa.int8()))]
    )
    lists = pa.array([[1], None, []], pa.list_(pa.field("element", pa.int8())))
    given_batches = [
        pa.record_batch({"d": pa.array(["a", None, "b"]), "l": lists}),
        pa.record_batch(
            {
                "d": pa.array(["b", "c", None]).dictionary_encode(),
                "l": pa.array([[1], None, []], pa.list_view(pa.int8())),
            }
        ),
    ]
    back = read(write(tmp_path / "f", given_batches, schema))
    assert back.schema == schema
    assert back.to_pydict() == {"d": ["a", None, "b", "b", "c", None], "l": [[1], None, []] * 2}


def test_filters_see_values_whatever_their_type(tmp_path: Path) -> None:
    words = ["a", None, "bb", "a"]
    columns = {
        "dictionary": pa.array(words).dictionary_encode(),
        "view": pa.array(words, pa.string_view()),
        "large": pa.array(words, pa.large_string()),
        "nested": pa.array([{"v": word} for word in words], pa.struct([("v", pa.string_view())])),
        "number": pa.array([1, None, 2, 1], pa.decimal128(9, 2)),
        "kept": pa.array([0, 1, 2, 3], pa.float16()),
    }
    table = storage.write(tmp_path / "t", pa.table(columns))
    assert table.schema.types == [column.type for column in columns.values()]
    for name in ("dictionary", "view", "large"):
        found = table.scan(filter=[(name, "==", "a")]).to_table()
        assert found.schema == table.schema
        found.validate(full=True)
        assert found.to_pydict() == {
            key: [column[0].as_py(), column[3].as_py()] for key, column in columns.items()
        }
    assert table.scan(["kept"], pc.field("number") > Decimal(1)).to_table().to_pydict() == {"kept": [2.0]}
    assert table.scan(["view"], pc.field("nested", "v") == "bb").to_table().to_pydict() == {"view": ["bb"]}


def test_names_of_refused_types_say_what_to_do() -> None:
    with pytest.raises(UnsupportedType, match="cast it or leave it out"):
        logical.column_type(pa.map_(pa.string(), pa.int8()), str(uuid.UUID(int=0)))
