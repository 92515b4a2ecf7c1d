"""Events that a contract accepts, made up from its rules alone.

For trying out a topic before anything real is produced to it, and for tests that must hold for every contract. The
values have no meaning; where events that mean something are wanted, there is the generated ad feed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.streaming.contracts.contract import Column, Contract

_START = datetime(2026, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def sample_events(contract: Contract, n: int, seed: int = 0) -> pa.RecordBatch:
    """n events in the contract's schema that pass its gate; the same seed gives the same events.

    Values that are not required are missing now and then. Kinds take turns.

    Raises:
        ValueError: a column's pattern is not a plain sequence of character classes, each perhaps repeated, so that
            no value for it can be made up.
    """
    rng = np.random.default_rng([seed, n])
    kinds = contract.kinds
    columns: list[pa.Array] = []
    for column in contract.columns:
        values: list[Any] = []
        for row in range(n):
            kind = kinds[row % len(kinds)] if kinds else None
            required = column.required if isinstance(column.required, bool) else kind in column.required
            if column.name == contract.features.kind:
                values.append(kind)
            elif not required and rng.random() < 0.3:
                values.append(None)
            else:
                values.append(_value(column, rng, row))
        columns.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=contract.schema)


def _value(column: Column, rng: np.random.Generator, row: int) -> Any:
    type_ = column.type
    if column.in_set is not None:
        return column.in_set[int(rng.integers(len(column.in_set)))]
    if pa.types.is_list(type_):
        size = int(rng.integers(0, min(4, column.max_length if column.max_length is not None else 4) + 1))
        item = Column(column.name, type_.value_type)
        return [_value(item, rng, row) for _ in range(size)]
    if pa.types.is_boolean(type_):
        return bool(rng.random() < 0.5)
    if pa.types.is_timestamp(type_):
        low, high = _bounds(column, _START, _START + timedelta(days=1))
        span_us = min((high - low) // timedelta(microseconds=1), _DAY_US)
        return low + timedelta(microseconds=int(rng.integers(0, span_us + 1)))
    if pa.types.is_floating(type_):
        low, high = _bounds(column, 0.0, 1.0)
        exact = np.float32 if type_ == pa.float32() else np.float64
        return float(np.clip(exact(low + rng.random() * (high - low)), low, high))
    if pa.types.is_integer(type_):
        low, high = _bounds(column, 0, 100)
        return low + int(rng.integers(0, min(high - low, 1_000_000) + 1))
    return _text(column, rng, row)


def _bounds(column: Column, low: Any, high: Any) -> tuple[Any, Any]:
    """The column's bounds; of `low` and `high` those that lie within them."""
    if column.between is None:
        return low, high
    least, most = column.between
    return (low if least <= low <= most else least), most


def _text(column: Column, rng: np.random.Generator, row: int) -> str:
    most = column.max_length if column.max_length is not None else 1 << 30
    if column.pattern is None:
        return f"{column.name[0]}{row}"[:most]  # numbered, so that ids differ
    for repeats in (12, 1, 0):
        text = "".join(
            str(rng.choice(atom))
            for atom, least, many in _atoms(column)
            for _ in range(repeats if many else least)
        )
        if len(text) <= most and re.fullmatch(f"(?a:{column.pattern[1:-1]})", text):
            return text
    raise _unreadable(column)


_ATOM = re.compile(r"(\[[^\]\\^]+\]|\\d|\\\W|[A-Za-z0-9 _/:@#%&=,;-])(\+|\*|\{([0-9]+)(?:,[0-9]*)?\})?")


def _atoms(column: Column) -> list[tuple[list[str], int, bool]]:
    """The pattern's character classes: the characters, how many at least, and whether there is no most."""
    body, atoms, end = (column.pattern or "")[1:-1], [], 0
    for found in _ATOM.finditer(body):
        if found.start() != end:
            break
        end = found.end()
        atom, repeat, least = found[1], found[2] or "", found[3]
        atoms.append((_characters(atom), int(least or 1), repeat in ("+", "*")))
    if end != len(body):
        raise _unreadable(column)
    return atoms


def _characters(atom: str) -> list[str]:
    if atom == "\\d":
        return list("0123456789")
    if not atom.startswith("["):
        return [atom[-1]]
    singles = re.sub(
        r"(.)-(.)", lambda ends: "".join(map(chr, range(ord(ends[1]), ord(ends[2]) + 1))), atom[1:-1]
    )
    return list(singles)


def _unreadable(column: Column) -> ValueError:
    return ValueError(
        f"column {column.name}: expected a pattern of character classes and repetitions such as ^[a-z]+[0-9]{{2}}$, got"
        f" {column.pattern}; no sample can be made up for it, write some events by hand"
    )
