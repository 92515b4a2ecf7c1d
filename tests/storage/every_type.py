"""Arrays of every type that the store holds, and their values bit by bit, by the plainest means: slow and independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage import typecode

Array = Any

LEAVES: list[pa.DataType] = [
    *typecode.SIMPLE.values(),
    pa.timestamp("s"),
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "Europe/Amsterdam"),
    pa.timestamp("ns", "+01:00"),
    pa.decimal32(5, 2),
    pa.decimal64(12, -3),
    pa.decimal128(38, 9),
    pa.decimal256(60, 5),
    pa.binary(3),
    pa.binary(0),
]
DICTIONARIES: list[pa.DataType] = [
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint16(), pa.float64(), True),
    pa.dictionary(pa.int64(), pa.string_view()),
    pa.dictionary(pa.uint64(), pa.bool_()),
    pa.dictionary(pa.int32(), pa.decimal32(5, 2)),
    pa.dictionary(pa.int32(), pa.float16()),
    pa.dictionary(pa.int16(), pa.large_binary()),
    pa.dictionary(pa.int32(), pa.timestamp("us", "UTC"), True),
    pa.dictionary(pa.uint8(), pa.decimal128(20, 2)),
    pa.dictionary(pa.int32(), pa.binary(4)),
]
NESTED: list[pa.DataType] = [
    pa.list_(pa.string_view()),
    pa.list_(pa.float16(), 2),
    pa.large_list_view(pa.decimal128(9, 2)),
    pa.struct([("a", pa.int8()), ("b", pa.string_view())]),
    pa.struct([pa.field("d", pa.dictionary(pa.int8(), pa.string()), True, {"unit": "m"}), ("n", pa.null())]),
    pa.struct([pa.field("must", pa.int64(), False), pa.field("list", pa.list_(pa.bool_()), False)]),
    pa.struct([("deep", pa.struct([("er", pa.large_list(pa.struct([("x", pa.date64())])))]))]),
    pa.struct([]),
]


def lists_of(item: pa.DataType) -> list[pa.DataType]:
    """Every kind of list of it, with items of other names and rules too."""
    kinds = [pa.list_(item), pa.large_list(item), pa.list_view(item), pa.large_list_view(item)]
    kinds += [pa.list_(item, 2), pa.list_(item, 0)]
    kinds += [
        pa.list_(pa.field("element", item)),
        pa.large_list(pa.field("item", item, pa.types.is_null(item))),
    ]
    return kinds


FLAT_TYPES = [*LEAVES, *DICTIONARIES, *(kind for leaf in (*LEAVES, *DICTIONARIES) for kind in lists_of(leaf))]
NESTED_TYPES = [
    *NESTED[3:],
    *(kind for inner in NESTED for kind in lists_of(inner)),
    *(pa.struct([("p", kind), ("q", pa.null())]) for inner in NESTED[:4] for kind in lists_of(inner)),
]


def array(rng: np.random.Generator, type_: pa.DataType, n: int, nulls: float) -> Array:
    """n rows of random bits; about ``nulls`` of all values that may be null are."""
    mask = rng.random(n) < nulls
    bitmap = pa.py_buffer(np.packbits(~mask, bitorder="little").tobytes())
    if pa.types.is_struct(type_):
        fields = [type_.field(i) for i in range(type_.num_fields)]
        children = [array(rng, field.type, n, nulls * field.nullable) for field in fields]
        return pa.Array.from_buffers(type_, n, [bitmap], children=children)
    if typecode.is_list(type_):
        return _lists(rng, type_, n, bitmap, nulls * type_.value_field.nullable)
    if pa.types.is_null(type_):
        return pa.nulls(n)
    if pa.types.is_dictionary(type_):
        n_entries = 2 if pa.types.is_boolean(type_.value_type) else 5
        indices = pa.array(rng.integers(0, n_entries, n), mask=mask).cast(type_.index_type)
        entries = array(rng, type_.value_type, n_entries, 0)
        return pa.DictionaryArray.from_arrays(indices, entries, ordered=type_.ordered)
    number = typecode.number(type_)
    if number in (16, 18, 47):
        words = ["é" * int(k) for k in rng.integers(0, 12, n)]
        return pa.array(words, pa.string(), mask=mask).cast(type_)
    if number in (17, 19, 48):
        texts = [rng.bytes(int(k)) for k in rng.integers(0, 20, n)]
        return pa.array(texts, pa.binary(), mask=mask).cast(type_)
    return pa.Array.from_buffers(type_, n, [bitmap, pa.py_buffer(_raw(rng, type_, n))])


def _raw(rng: np.random.Generator, type_: pa.DataType, n: int) -> bytes:
    width = type_.bit_width // 8
    if pa.types.is_decimal(type_):
        return b"".join(
            int(k).to_bytes(width, "little", signed=True) for k in rng.integers(-99_999, 99_999, n)
        )
    if pa.types.is_date64(type_):
        return (rng.integers(-1000, 1000, n) * 86_400_000).astype("<i8").tobytes()
    if pa.types.is_temporal(type_) and width == 8:
        # Whole microseconds, and few enough of them, in every unit.
        return (
            (rng.integers(0 if pa.types.is_time(type_) else -(2**30), 2**25, n) * 1000)
            .astype("<i8")
            .tobytes()
        )
    if pa.types.is_time(type_):
        return rng.integers(0, 86_000, n).astype(f"<i{width}").tobytes()
    return rng.bytes((n + 7) // 8 if pa.types.is_boolean(type_) else n * width)


def _lists(rng: np.random.Generator, type_: pa.DataType, n: int, bitmap: Any, nulls: float) -> Array:
    if pa.types.is_fixed_size_list(type_):
        items = array(rng, type_.value_type, n * type_.list_size, nulls)
        return pa.Array.from_buffers(type_, n, [bitmap], children=[items])
    large = pa.types.is_large_list(type_) or pa.types.is_large_list_view(type_)
    lengths = rng.integers(0, 4, n)
    ends = np.append(0, np.cumsum(lengths)).astype("<i8" if large else "<i4")
    items = array(rng, type_.value_type, int(ends[-1]), nulls)
    buffers = [bitmap, pa.py_buffer(ends.tobytes())]
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        # In no order and overlapping, as views may be.
        starts = [int(rng.integers(0, ends[-1] - k + 1)) for k in lengths]
        buffers = [bitmap, pa.py_buffer(np.array(starts, ends.dtype).tobytes())]
        buffers.append(pa.py_buffer(lengths.astype(ends.dtype).tobytes()))
    return pa.Array.from_buffers(type_, n, buffers, children=[items])


def bits(values: Array) -> list[Any]:
    """The rows as Python objects in which every bit of a value counts and what lies under a null does not."""
    valid, type_ = values.is_valid().to_pylist(), values.type
    if pa.types.is_struct(type_):
        fields = [bits(values.field(i)) for i in range(type_.num_fields)]
        rows: list[Any] = [tuple(field[i] for field in fields) for i in range(len(values))]
    elif typecode.is_list(type_):
        rows = _list_rows(values)
    elif pa.types.is_null(type_):
        rows = [None] * len(values)
    elif pa.types.is_dictionary(type_):
        entries = bits(values.dictionary)
        rows = [None if i is None else entries[i] for i in values.indices.to_pylist()]
    elif typecode.number(type_) in (1, 16, 17, 18, 19, 47, 48):
        rows = values.to_pylist()
    else:
        width, buffer = type_.bit_width // 8, values.buffers()[1]
        raw = buffer.to_pybytes() if buffer is not None else b""
        rows = [
            raw[(values.offset + i) * width : (values.offset + i + 1) * width] for i in range(len(values))
        ]
    return [row if there else None for row, there in zip(rows, valid, strict=True)]


def _list_rows(values: Array) -> list[Any]:
    type_, items, n = values.type, bits(values.values), len(values)
    if pa.types.is_fixed_size_list(type_):
        size = type_.list_size
        starts = [(values.offset + i) * size for i in range(n)]
        sizes = [size] * n
    else:
        starts = values.offsets.to_pylist()
        sizes = values.value_lengths().fill_null(0).to_pylist()
    return [items[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def same(left: Array, right: Array) -> bool:
    """Whether two arrays have the same type to the last name and the same bits."""
    return bool(left.type.equals(right.type, check_metadata=True)) and bits(left) == bits(right)
