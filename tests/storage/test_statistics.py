"""Statistics never rule out a page that holds a matching row, and rule out those that plainly hold none."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import storage
from headrace.storage.logical import column_type
from headrace.storage.predicate import conditions_of, parse_filter, predicate
from headrace.storage.reader import File
from headrace.storage.statistics import (
    ROW_BYTES,
    PageStatistics,
    bounds_of,
    may_match,
    of_page,
    unpack,
)
from headrace.storage.writer import Writer

OPS = ["==", "!=", "<", "<=", ">", ">=", "in"]
_EDGES = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    pa.uint64(): st.integers(0, 2**64 - 1) | st.integers(0, 3),
    pa.float32(): st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.5, float("inf")]),
    pa.float64(): st.floats() | st.sampled_from([0.1, -0.0]),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(alphabet="ab\0é", max_size=10),
    pa.binary(): st.binary(max_size=10),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
}


def statistics(array: pa.Array) -> PageStatistics:
    type_ = column_type(array.type, "x")
    row = of_page(array, type_)
    assert len(row) == ROW_BYTES
    return unpack(row, type_)[0]


@pytest.mark.parametrize("type_", _EDGES, ids=str)
@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_no_page_with_a_matching_row_is_left_out(type_: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | _EDGES[type_], min_size=1, max_size=12))
    op = data.draw(st.sampled_from(OPS))
    wanted: Any = data.draw(
        _EDGES[type_] | st.sampled_from([one for one in values if one is not None] or [None])
    )
    if wanted is None:
        return
    array = pa.array(values, type_)
    wanted = pa.scalar(wanted, type_)
    given_value = [wanted.as_py()] if op == "in" else wanted
    try:
        expression = parse_filter([("x", op, given_value)])
    except OverflowError:  # Arrow makes no set of Python integers above 2^63
        return
    matches = pa.table({"x": array}).filter(expression).num_rows
    bounds = bounds_of([wanted], column_type(type_, "x"))
    assert may_match(statistics(array), len(values), op, bounds) or not matches


@settings(deadline=None, max_examples=80)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6),
    wanted=st.floats() | st.integers(-(2**70), 2**70),
    op=st.sampled_from(OPS[:-1]),
)
def test_narrow_floats_against_wide_literals(values: list[float], wanted: float, op: str) -> None:
    """Arrow may compare in the column's precision or in the literal's: either way no match is lost."""
    array = pa.array(values, pa.float32())
    try:
        matches = pa.table({"x": array}).filter(parse_filter([("x", op, wanted)])).num_rows
    except (pa.ArrowInvalid, OverflowError):
        return
    assert (
        may_match(statistics(array), len(values), op, bounds_of([wanted], column_type(pa.float32(), "x")))
        or not matches
    )


def test_bounds_of_every_kind() -> None:
    assert statistics(pa.array([None, 3, -1], pa.int16())) == PageStatistics(-1, 3, 1, False)
    assert statistics(pa.array([2**64 - 1, 5], pa.uint64())) == PageStatistics(5, 2**64 - 1, 0, False)
    assert statistics(pa.array([float("nan"), 2.5, None])) == PageStatistics(2.5, 2.5, 1, True)
    assert statistics(pa.array([float("nan")])) == PageStatistics(None, None, 0, True)
    assert statistics(pa.array([True, False])) == PageStatistics(0, 1, 0, False)
    assert statistics(pa.array(["pear", "apple-tree", None])) == PageStatistics(
        b"apple-tr", b"pear\0\0\0\0", 1, False
    )
    assert statistics(pa.nulls(3, pa.int8())) == PageStatistics(None, None, 3, False)
    for bare in (pa.array([[1], [2]]), pa.array([{"a": 1}])):
        assert statistics(bare).low is None


def test_pages_that_hold_nothing_are_known() -> None:
    ints, type_ = statistics(pa.array([10, 20])), column_type(pa.int64(), "x")
    answers = {
        (op, value): may_match(ints, 2, op, bounds_of([value], type_))
        for op in OPS
        for value in (9, 10, 15, 20, 21)
    }
    assert [value for value in (9, 10, 15, 20, 21) if answers["==", value]] == [10, 15, 20]
    assert [value for value in (9, 10, 15, 20, 21) if answers["<", value]] == [15, 20, 21]
    assert [value for value in (9, 10, 15, 20, 21) if answers["<=", value]] == [10, 15, 20, 21]
    assert [value for value in (9, 10, 15, 20, 21) if answers[">", value]] == [9, 10, 15]
    assert [value for value in (9, 10, 15, 20, 21) if answers[">=", value]] == [9, 10, 15, 20]
    one = statistics(pa.array([7, 7]))
    assert not may_match(one, 2, "!=", bounds_of([7], type_))
    assert may_match(one, 2, "!=", bounds_of([8], type_))
    assert not may_match(statistics(pa.nulls(4, pa.int64())), 4, "==", bounds_of([7], type_))
    assert may_match(ints, 2, "==", bounds_of([2.5], type_))  # not an integer: left to Arrow


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (pc.field("a") == 40, ((("a", "==", 40),),)),
        ((pc.field("a") >= -4) & (pc.field("b") < 2.5), ((("a", ">=", -4), ("b", "<", 2.5)),)),
        ((pc.field("a") == 1) | (pc.field("b") != "x y"), ((("a", "==", 1),), (("b", "!=", "x y"),))),
        (
            (pc.field("a") > 1) & ((pc.field("b") == 2) | (pc.field("c") == True)),  # noqa: E712
            ((("a", ">", 1), ("b", "==", 2)), (("a", ">", 1), ("c", "==", True))),
        ),
        (pc.field("a") == 'it said "no" and (b == 2)', ((("a", "==", 'it said "no" and (b == 2)'),),)),
        (~(pc.field("a") == 1), None),
        (pc.field("a").isin([1]), None),
        (pc.field("a") + 1 == 2, None),
        (pc.field("a b") == 2, None),
        (pc.field("a") == dt.datetime(2020, 1, 1), None),
        (pc.field("a").is_null(), None),
    ],
    ids=str,
)
def test_conditions_are_read_from_expressions_or_not_at_all(expression: pc.Expression, expected: Any) -> None:
    assert conditions_of(expression) == expected


def sorted_file(path: Path) -> tuple[Path, pa.Table]:
    n = 20_000
    data = pa.table(
        {
            "at": np.arange(n) // 3,
            "kind": pa.array([f"kind-{i // 4000}" for i in range(n)]),
            "noise": np.random.default_rng(0).integers(0, 9, n),
            "owner": np.arange(n),
        }
    )
    with Writer(path, data.schema, group_rows=8192, page_blocks=1, personal=["owner"], seed=1) as writer:
        writer.write(data)
        writer.close()
    return path, data


def test_pages_are_left_unread(tmp_path: Path) -> None:
    path, data = sorted_file(tmp_path / "f")
    for condition, at_most in (
        (("at", "==", 4000), 0.1),
        (("at", "<", 300), 0.1),
        (("kind", "==", "kind-4"), 0.5),
        (("at", ">", 1_000_000), 0.0),
        (("noise", "==", 20), 0.0),
    ):
        expected = data.filter(parse_filter([condition]))
        asked = predicate(parse_filter([condition]), data.schema)
        with File(path) as file:
            before = file.footer.bytes_read
            batches = list(file.batches(["noise", "at"], filter=asked))
            read = file.source.bytes_read - (file.footer.bytes_read - before) - before
        found = pa.Table.from_batches(batches, schema=data.select(["noise", "at"]).schema)
        assert found.equals(expected.select(["noise", "at"]))
        with File(path) as file:
            stored = sum(
                page.used_len
                for group in range(file.footer.n_groups)
                for column in file.footer.columns(["noise", "at", condition[0]])
                for page in file.footer.chunk(column, group).pages
            )
        assert read <= at_most * stored


def test_no_statistics_of_persons(tmp_path: Path) -> None:
    path, _ = sorted_file(tmp_path / "f")
    with File(path) as file:
        kept = {column.name: column.stats is not None for column in file.footer.columns()}
    assert kept == {"at": True, "kind": True, "noise": True, "owner": False}


def test_filters_of_a_table_in_every_spelling(tmp_path: Path) -> None:
    n = 3000
    rng = np.random.default_rng(5)
    data = pa.table(
        {
            "a": pa.array(rng.integers(0, 50, n), mask=rng.random(n) < 0.2),
            "b": pa.array([["x", "y", None][i % 3] for i in range(n)]),
            "ids": pa.array([[i] * (i % 3) for i in range(n)]),
            "f": rng.normal(size=n).astype(np.float32),
        }
    )
    table = storage.write(tmp_path / "t", data)
    f = pc.field
    for given_filter in (
        [("a", "=", 4)],
        [("a", "in", [4, 5, 900])],
        [("a", "not in", [4, 5]), ("b", "==", "x")],
        [[("a", "<", 3)], [("b", "==", "y"), ("f", ">", 1.5)]],
        [("f", "<=", 0.1)],
        [("a", "==", 4.0)],
        (f("a") == 4) & (f("b") != "x"),
        ~(f("a") > 3) | f("b").is_null(),
        (f("a") + 1) == 5,
        [("a", ">=", 0)],
    ):
        expected = data.filter(parse_filter(given_filter))
        for columns in (["ids", "f"], ["a", "b", "ids"], ["b"]):
            assert table.scan(columns, given_filter).to_table().equals(expected.select(columns)), given_filter
