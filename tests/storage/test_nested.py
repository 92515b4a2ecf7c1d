"""Nested columns: what is cut into flat columns, in whole or page by page, comes back; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.storage import exact
from headrace.storage import nested_columns as nested
from headrace.storage.errors import SchemaMismatch
from headrace.storage.logical import column_type
from headrace.storage.writer import Writer

from .every_type import DICTIONARIES, FLAT_TYPES, LEAVES, NESTED_TYPES, array, lists_of, same


class Refused(Exception):
    """What ``fail`` raises here."""


def fail(what: str, expected: object, got: object) -> NoReturn:
    raise Refused(f"{what}: expected {expected}, got {got}")


def check(given_array: Any, at: list[int]) -> None:
    """Shred, cut at these rows, assemble each part and all of it."""
    type_ = column_type(given_array.type, "x")
    flat = nested.shred(exact.plain(given_array, type_.plain), type_)
    for part, node in zip(flat, nested.nodes(type_), strict=True):
        part.validate(full=True)
        assert part.type == (pa.list_(node.leaf.arrow) if node.is_list else node.leaf.arrow)
    cuts = nested.boundaries(flat, type_, np.array(at, np.int64))
    pages = [
        [part[int(cut[k]) : int(cut[k + 1])] for part, cut in zip(flat, cuts, strict=True)]
        for k in range(len(at) - 1)
    ]
    whole = nested.assemble(flat, type_, fail)
    whole.validate(full=True)
    assert same(exact.restore(whole, type_.arrow, fail), given_array)
    for k, page in enumerate(pages):
        back = exact.restore(nested.assemble(page, type_, fail), type_.arrow, fail)
        back.validate(full=True)
        assert same(back, given_array[at[k] : at[k + 1]])


@pytest.mark.parametrize("type_", [*FLAT_TYPES[:40:7], *NESTED_TYPES], ids=str)
def test_shredded_and_assembled(type_: pa.DataType) -> None:
    rng = np.random.default_rng(3)
    for nulls in (0.0, 0.4, 1.0):
        for n in (0, 1, 19):
            whole = array(rng, type_, n, nulls)
            check(whole, [0, n])
            check(whole[n // 3 :], sorted({0, (n - n // 3) // 2, n - n // 3}))


def types(depth: int) -> st.SearchStrategy[pa.DataType]:
    leaf = st.sampled_from([*LEAVES, *DICTIONARIES])
    if not depth:
        return leaf
    inner = types(depth - 1)
    fields = st.lists(st.tuples(inner, st.booleans()), max_size=3)
    structs = fields.map(
        lambda some: pa.struct(
            [pa.field(f"f{i}", t, n or pa.types.is_null(t)) for i, (t, n) in enumerate(some)]
        )
    )
    return leaf | structs | inner.flatmap(lambda item: st.sampled_from(lists_of(item)))


@settings(deadline=None, max_examples=150)
@given(
    type_=types(4),
    seed=st.integers(0, 2**32 - 1),
    nulls=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    n=st.integers(0, 12),
    cut=st.integers(0, 12),
)
def test_any_tree_of_types(type_: pa.DataType, seed: int, nulls: float, n: int, cut: int) -> None:
    whole = array(np.random.default_rng(seed), type_, n, nulls)
    check(whole[n // 4 :], sorted({0, min(cut, n - n // 4), n - n // 4}))


def test_children_have_no_rows_for_nulls() -> None:
    rows = [{"a": 1, "b": [{"c": 1}, None]}, None, {"a": None, "b": None}, {"a": 4, "b": []}]
    inner = pa.struct([("c", pa.int16())])
    column = pa.array(rows, pa.struct([("a", pa.int64()), ("b", pa.list_(inner))]))
    type_ = column_type(column.type, "x")
    assert [name for name, _, _ in nested.names(type_)] == ["", "a", "b", "item", "c"]
    assert [parent for _, _, parent in nested.names(type_)] == [-1, 0, 0, 2, 3]
    flat = nested.shred(exact.plain(column, type_.plain), type_)
    assert [part.to_pylist() for part in flat] == [
        [0, None, 0, 0],
        [1, None, 4],
        [2, None, 0],
        [0, None],
        [1],
    ]
    cuts = nested.boundaries(flat, type_, np.array([0, 1, 3, 4], np.int64))
    assert [cut.tolist() for cut in cuts] == [
        [0, 1, 3, 4],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 2, 2, 2],
        [0, 1, 1, 1],
    ]


def test_a_child_with_other_rows_than_its_parent_says_is_refused() -> None:
    column = pa.array([[[1], [2, 3]], [[4]]], pa.list_(pa.list_(pa.int8())))
    type_ = column_type(column.type, "x")
    flat = nested.shred(column, type_)
    for wrong in (flat[1][1:], pa.concat_arrays([flat[1], flat[1]])):
        with pytest.raises(Refused, match="rows of a child column"):
            nested.assemble([flat[0], wrong], type_, fail)
    with pytest.raises(Refused, match="less than"):
        nested.assemble([pa.array([2**31 - 1, 2**31 - 1], pa.uint32()), flat[1]], type_, fail)


def test_nulls_where_none_may_be_are_named_with_their_path() -> None:
    must = pa.struct([pa.field("a", pa.list_(pa.field("item", pa.int8(), False)), False)])
    type_ = column_type(pa.list_(must), "x")
    soft = pa.struct([("a", pa.list_(pa.int8()))])
    fine = pa.array([[{"a": [1]}, None], None], pa.list_(soft))
    nested.refuse_nulls(nested.shred(fine, type_), type_, "x")
    with pytest.raises(SchemaMismatch, match=r"'x\.item\.a' has 1 nulls"):
        nested.refuse_nulls(nested.shred(pa.array([[{"a": None}]], pa.list_(soft)), type_), type_, "x")
    with pytest.raises(SchemaMismatch, match=r"'x\.item\.a\.item' has 2 nulls"):
        nested.refuse_nulls(
            nested.shred(pa.array([[{"a": [None, 1, None]}]], pa.list_(soft)), type_), type_, "x"
        )


def test_files_refuse_nulls_within_a_row_where_none_may_be(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.list_(pa.field("item", pa.int8(), False)))])
    with Writer(tmp_path / "f", schema) as writer:
        with pytest.raises(SchemaMismatch, match=r"'x\.item' has 1 nulls"):
            writer.write(pa.record_batch({"x": pa.array([[1, None], None], pa.list_(pa.int8()))}))
        writer.abort()
