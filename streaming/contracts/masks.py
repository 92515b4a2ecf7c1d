"""The gate: judges every row of a batch by every rule of its contract, with Arrow masks.

After decoding, before anything is stored, on the executors. One function per rule gives the rows that break it;
each first asks a question about the whole column that is cheap to answer (no nulls, smallest and largest value,
longest bytes), because nearly all batches break nearly no rules. `expectations` repeats the judgement with an
engine that shares no code with this one.

Batch-wide rules (means, counts, shares) are deliberately absent: a row must not be refused for its neighbours.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.streaming.contracts.contract import Column, Contract

NULL_KEY = "null_key"
"""Reason of an event whose Kafka message had no key; without one its user's events may arrive out of order."""

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """What the gate says of n rows.

    Attributes:
        keep: bool per row, never null.
        reasons: list<string> per row; empty where the row is kept, else the decoder's reason, `null_key` and the
            ids of the rules it breaks, such as `between:price`.
        failures: rows per reason; reasons that no row has are absent.
    """

    keep: pa.BooleanArray
    reasons: pa.ListArray
    failures: dict[str, int]


def gate(
    batch: pa.RecordBatch,
    contract: Contract,
    *,
    error: pa.StringArray | None = None,
    null_key: pa.BooleanArray | None = None,
) -> Verdict:
    """Judge every row; nothing is raised for what a row holds.

    Args:
        batch: n rows in the contract's schema.
        error: the decoder's reason per row, null where there is none. Rows with one are not judged by the rules.
        null_key: bool per row, the message had no key.
    """
    rows = batch.num_rows
    decoded = np.ones(rows, np.bool_) if error is None else _numpy(pc.is_null(error))
    reasons, broken = _decoder_reasons(error, decoded)
    if null_key is not None:
        reasons.append(NULL_KEY)
        broken.append(np.flatnonzero(_numpy(pc.fill_null(null_key, True))))
    undecoded = rows - int(np.count_nonzero(decoded))
    of_kinds = _of_kinds(batch, contract)
    for column in contract.columns:
        values = batch.column(column.name)
        for rule in column.rules:
            mask = VIOLATIONS[rule.partition(":")[0]](_Values(column, values, undecoded, of_kinds))
            if mask is not None:
                reasons.append(rule)
                broken.append(np.flatnonzero(mask & decoded))
    return _verdict(rows, reasons, broken)


@dataclass(frozen=True)
class _Values:
    """A column of a batch and what the rules need to know beside it."""

    column: Column
    values: pa.Array
    undecoded: int
    of_kinds: dict[tuple[str, ...], _Mask]


def _required(v: _Values) -> _Mask | None:
    # Rows that were not decoded are null in every column, so only further nulls can break the rule.
    if v.values.null_count <= v.undecoded:
        return None
    missing = _numpy(pc.is_null(v.values))
    return missing if isinstance(v.column.required, bool) else missing & v.of_kinds[v.column.required]


def _finite(v: _Values) -> _Mask | None:
    finite = pc.is_finite(v.values)
    return None if pc.all(finite, min_count=0).as_py() else _broken(finite)


def _between(v: _Values) -> _Mask | None:
    low, high = (pa.scalar(bound, v.values.type) for bound in v.column.between or ())
    extremes = pc.min_max(v.values)
    # Arrow leaves NaN out of the extremes, so floats are never let off here without `is_finite`.
    if not extremes["min"].is_valid and not v.column.is_float:
        return None
    inside = extremes["min"].is_valid and extremes["min"].as_py() >= low.as_py()
    inside = inside and extremes["max"].as_py() <= high.as_py()
    if inside and (not v.column.is_float or _finite(v) is None):
        return None
    return _broken(pc.and_(pc.greater_equal(v.values, low), pc.less_equal(v.values, high)))


def _in_set(v: _Values) -> _Mask | None:
    allowed = pc.is_in(v.values, pa.array(v.column.in_set, v.values.type))
    if pc.sum(allowed).as_py() == len(v.values) - v.values.null_count:
        return None
    return _broken(pc.if_else(pc.is_null(v.values), True, allowed))


def _max_length(v: _Values) -> _Mask | None:
    limit = v.column.max_length
    _, offsets, *_ = v.values.buffers()
    if offsets is not None and len(v.values):
        # A string has no more characters than bytes.
        ends = np.frombuffer(offsets, np.int32)[v.values.offset : v.values.offset + len(v.values) + 1]
        if int(np.diff(ends).max()) <= int(limit or 0):
            return None
    lengths = pc.list_value_length(v.values) if v.column.is_list else pc.utf8_length(v.values)
    return _broken(pc.less_equal(lengths, limit))


def _pattern(v: _Values) -> _Mask | None:
    body = (v.column.pattern or "")[1:-1]
    matches = pc.match_substring_regex(v.values, rf"\A(?:{body})\z")
    return None if pc.all(matches, min_count=0).as_py() else _broken(matches)


VIOLATIONS: dict[str, Callable[[_Values], _Mask | None]] = {
    "required": _required,
    "finite": _finite,
    "between": _between,
    "in_set": _in_set,
    "max_length": _max_length,
    "pattern": _pattern,
}
"""Per rule, the rows that break it, or None where none does; in the order of `Column.rules`."""


def _of_kinds(batch: pa.RecordBatch, contract: Contract) -> dict[tuple[str, ...], _Mask]:
    """For each group of kinds that must carry something, the rows of those kinds."""
    groups = {column.required for column in contract.columns if isinstance(column.required, tuple)}
    if not groups:
        return {}
    kinds = batch.column(str(contract.features.kind))
    return {group: _numpy(pc.is_in(kinds, pa.array(group, pa.string()))) for group in groups}


def _broken(holds: pa.BooleanArray) -> _Mask:
    """Rows where a rule does not hold; it says nothing about a missing value."""
    return ~_numpy(pc.fill_null(holds, True))


def _numpy(mask: pa.BooleanArray) -> _Mask:
    return mask.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _decoder_reasons(error: pa.StringArray | None, decoded: _Mask) -> tuple[list[str], list[NDArray[Any]]]:
    if error is None or decoded.all():
        return [], []
    encoded = error.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    return names, [np.flatnonzero(codes == code) for code in range(len(names))]


def _verdict(rows: int, reasons: list[str], broken: list[NDArray[Any]]) -> Verdict:
    counts = {reason: len(where) for reason, where in zip(reasons, broken, strict=True) if len(where)}
    where = np.concatenate([np.zeros(0, np.int64), *broken])
    which = np.repeat(np.arange(len(reasons)), [len(part) for part in broken])
    order = np.argsort(
        where, kind="stable"
    )  # stable: within a row the reasons stay in the order of the rules
    per_row = np.bincount(where, minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(per_row)]).astype(np.int32)
    items = pa.array(reasons, pa.string()).take(pa.array(which[order]))
    return Verdict(pa.array(per_row == 0), pa.ListArray.from_arrays(pa.array(offsets), items), counts)
