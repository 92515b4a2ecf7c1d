"""The gate's masks against a twin that looks at one value at a time."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.contracts import Column, Contract, gate, load

CONTRACT = load(Path(__file__).parent / "contracts_for_tests" / "every_type.toml")


def broken_rules(row: dict[str, Any], contract: Contract) -> list[str]:
    """The slow twin: ids of the rules that one row breaks."""
    kind = row[contract.features.kind] if contract.features.kind else None
    return [
        rule
        for column in contract.columns
        for rule in column.rules
        if breaks(rule, column, row[column.name], kind)
    ]


def breaks(rule: str, column: Column, value: Any, kind: str | None) -> bool:
    name = rule.split(":")[0]
    if name == "required":
        needed = column.required if isinstance(column.required, bool) else kind in column.required
        return bool(needed) and value is None
    if value is None:
        return False
    if name == "finite":
        return not math.isfinite(value)
    if name == "between":
        assert column.between is not None
        return not column.between[0] <= value <= column.between[1]
    if name == "in_set":
        return value not in (column.in_set or ())
    if name == "max_length":
        return len(value) > (column.max_length or 0)
    assert name == "pattern"
    return re.fullmatch((column.pattern or "")[1:-1], value, re.ASCII) is None


def values(column: Column) -> st.SearchStrategy[Any]:
    type_ = column.type
    texts = st.one_of(
        st.text(max_size=5), st.sampled_from(["e1", "e1\n", "12", "ab", "ab\x0b", "１２", "e123456789", ""])
    )
    if column.in_set is not None and pa.types.is_string(type_):
        return st.one_of(st.sampled_from(column.in_set), texts)
    if pa.types.is_string(type_):
        return texts
    if pa.types.is_list(type_):
        items = st.text(max_size=2) if type_.value_type == pa.string() else st.integers(0, 200)
        return st.lists(items, max_size=5)
    if pa.types.is_boolean(type_):
        return st.booleans()
    if pa.types.is_timestamp(type_):
        return st.datetimes(datetime(1990, 1, 1), datetime(2110, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
    if pa.types.is_floating(type_):
        width = 32 if type_ == pa.float32() else 64
        edges = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, *(column.between or ())])
        return st.one_of(st.floats(width=width), st.floats(-0.125, 0.125, width=width), edges)  # type: ignore[arg-type]
    bits, signed = type_.bit_width, pa.types.is_signed_integer(type_)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.one_of(st.integers(low, high), st.integers(max(low, -6), 6))


ROWS = st.fixed_dictionaries({c.name: st.one_of(st.none(), values(c)) for c in CONTRACT.columns})


@settings(max_examples=120, deadline=None)
@given(rows=st.lists(ROWS, max_size=6), data=st.data())
def test_masks_judge_like_the_twin(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    errors = data.draw(
        st.lists(
            st.sampled_from([None, None, "bad_json", "wrong_type:text"]),
            min_size=len(rows),
            max_size=len(rows),
        )
    )
    keyless = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    rows = [dict.fromkeys(row) if error else row for row, error in zip(rows, errors, strict=True)]
    batch = pa.RecordBatch.from_pylist(rows, CONTRACT.schema)
    verdict = gate(
        batch, CONTRACT, error=pa.array(errors, pa.string()), null_key=pa.array(keyless, pa.bool_())
    )
    # The batch is asked again, since a float32 column has rounded what was drawn.
    expected = [
        ([error] if error else [])
        + (["null_key"] if no_key else [])
        + ([] if error else broken_rules(row, CONTRACT))
        for row, error, no_key in zip(batch.to_pylist(), errors, keyless, strict=True)
    ]
    assert verdict.reasons.to_pylist() == expected
    assert verdict.keep.to_pylist() == [not reasons for reasons in expected]
    flat = [reason for reasons in expected for reason in reasons]
    assert verdict.failures == {reason: flat.count(reason) for reason in dict.fromkeys(flat)}
    # A slice of a larger array has other offsets.
    if rows:
        part = gate(batch.slice(1), CONTRACT, error=pa.array(errors, pa.string()).slice(1))
        assert part.reasons.to_pylist() == [[x for x in r if x != "null_key"] for r in expected[1:]]


def good_row() -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(CONTRACT.names)
    row |= {"id": "e1", "time": datetime(2026, 1, 1, tzinfo=UTC), "user": 1, "sort": "shown"}
    row |= {"int32": 1, "bounded64": 1.0, "items": [1, 2, 3]}
    return row


def reasons_of(**changes: Any) -> list[str]:
    batch = pa.RecordBatch.from_pylist([good_row() | changes], CONTRACT.schema)
    reasons: list[str] = gate(batch, CONTRACT).reasons.to_pylist()[0]
    return reasons


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"float32": 0.1}, []),
        ({"float32": 0.1000001}, ["between:float32"]),
        ({"float32": math.nan}, ["between:float32"]),
        ({"float64": math.nan}, ["finite:float64"]),
        ({"float64": -math.inf}, ["finite:float64"]),
        ({"bounded64": math.inf}, ["between:bounded64"]),
        ({"int8": 6}, ["between:int8"]),
        ({"int64": 9007199254740992}, ["between:int64"]),
        ({"int64": -(1 << 63)}, []),
        ({"id": "e1\n"}, ["pattern:id"]),
        ({"id": "e１"}, ["pattern:id"]),
        ({"id": "e12345678"}, ["max_length:id"]),
        ({"id": "f12345678"}, ["max_length:id", "pattern:id"]),
        ({"text": "äöü"}, []),
        ({"text": "äöüß"}, ["max_length:text"]),
        ({"items": [1, 2, 3, 4]}, ["max_length:items"]),
        ({"items": None}, ["required:items"]),
        ({"sort": "clicked", "of": "e1", "items": None, "int32": None, "bounded64": None}, []),
        ({"sort": "clicked", "items": None}, ["required:of"]),
        ({"sort": "else", "items": None}, ["in_set:sort"]),
        ({"sort": None, "int8": -6}, ["required:sort", "between:int8"]),
        ({"time": datetime(2100, 1, 1, 0, 0, 0, 1, tzinfo=UTC)}, ["between:time"]),
        ({"code": "1"}, ["pattern:code"]),
        ({"code": "abc!"}, []),
    ],
)
def test_single_rules(changes: dict[str, Any], reasons: list[str]) -> None:
    assert reasons_of(**changes) == reasons


def test_a_batch_without_rows() -> None:
    batch = pa.RecordBatch.from_pylist([], CONTRACT.schema)
    verdict = gate(batch, CONTRACT, error=pa.array([], pa.string()), null_key=pa.array([], pa.bool_()))
    assert (len(verdict.keep), len(verdict.reasons), verdict.failures) == (0, 0, {})


def test_bytes_under_a_null_are_not_judged() -> None:
    # Arrow leaves undefined what lies under a null; a producer of Arrow messages may leave anything.
    texts = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\x06\0\0\0"), pa.py_buffer(b"abcdef"), pa.py_buffer(b"\0"), 1
    )
    batch = pa.RecordBatch.from_pylist([good_row()], CONTRACT.schema)
    batch = batch.set_column(CONTRACT.names.index("text"), CONTRACT.schema.field("text"), texts)
    assert gate(batch, CONTRACT).failures == {}
