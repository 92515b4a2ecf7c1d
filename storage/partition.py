"""Rows parted into files by the value of a column or by a hash of it, and files left out by what a filter asks for.

In the flow: ``staging`` parts rows, manifests note each file's values, ``Table.scan`` leaves files out. A bucket is
SplitMix64 (Steele, Lea and Flood, 2014) of an integer, or the first 8 bytes of BLAKE3 of a string, modulo their number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from blake3 import blake3
from numpy.typing import NDArray

from headrace.storage.errors import SchemaMismatch, UnsupportedType, no_such_column
from headrace.storage.parting import PartitionBy
from headrace.storage.predicate import AnyOf

Value: TypeAlias = "str | int | bool | None"
_BUCKET = re.compile(r"bucket\(\s*(?P<column>.+?)\s*,\s*(?P<buckets>\d+)\s*\)")
MAX_BUCKETS = 4096


def parse(given: str | PartitionBy) -> PartitionBy:
    """How rows are parted, as people write it.

    >>> parse("country"), parse("bucket(user, 16)")
    (PartitionBy(column='country', buckets=None), PartitionBy(column='user', buckets=16))
    """
    if isinstance(given, PartitionBy):
        return given
    found = _BUCKET.fullmatch(given.strip())
    if found is None:
        return PartitionBy(given.strip())
    buckets = int(found["buckets"])
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"{given}: expected 1 to {MAX_BUCKETS} buckets, got {buckets}")
    return PartitionBy(found["column"], buckets)


def checked(
    by: Sequence[PartitionBy], schema: pa.Schema, personal: Collection[str]
) -> tuple[PartitionBy, ...]:
    """Make sure that rows of a schema can be parted so.

    Raises:
        NoSuchColumn, UnsupportedType: by a column that is not there, or is neither whole number, bool nor string.
        SchemaMismatch: by the plain value of a column that tells of a person, which would stand in every manifest.
    """
    for part in by:
        if part.column not in schema.names:
            raise no_such_column("partition_by", part.column, schema.names)
        type_ = schema.field(part.column).type
        plain = pa.types.is_integer(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_)
        if not plain and (part.buckets or not pa.types.is_boolean(type_)):
            raise UnsupportedType(
                f"rows are parted by whole numbers, bools or strings, {part.column!r} is {type_}; add such a column"
            )
        if part.column in personal and part.buckets is None:
            raise SchemaMismatch(
                f"{part.column!r} tells of a person, and its values would stand in every manifest; part by "
                f"'bucket({part.column}, 16)' instead"
            )
    return tuple(by)


def parts_of(
    batch: pa.RecordBatch, by: Sequence[PartitionBy], beside: Sequence[pa.Array] = ()
) -> Iterator[tuple[tuple[Value, ...], pa.RecordBatch]]:
    """A batch's rows by the values they are parted by, and those of ``beside`` it, in the order of their first rows."""
    codes = np.zeros(batch.num_rows, np.int64)
    distinct: list[list[Value]] = []
    columns = [
        pa.array(buckets_of(batch.column(part.column), part.buckets))
        if part.buckets
        else batch.column(part.column)
        for part in by
    ]
    for values in (*columns, *beside):
        encoded = values.dictionary_encode(null_encoding="encode")
        known = encoded.dictionary.to_pylist()
        codes = codes * max(len(known), 1) + encoded.indices.to_numpy(zero_copy_only=False)
        distinct.append(known)
    found, firsts, which = np.unique(codes, return_index=True, return_inverse=True)
    for at in np.argsort(firsts).tolist():
        code, values_of = int(found[at]), list[Value]()
        for known in reversed(distinct):
            code, mine = divmod(code, max(len(known), 1))
            values_of.insert(0, known[mine])
        rows = batch if len(found) == 1 else batch.take(pa.array(np.flatnonzero(which == at)))
        yield tuple(values_of), rows


def buckets_of(column: pa.Array, buckets: int) -> NDArray[np.int64]:
    """The bucket of each value; a null is in bucket 0."""
    encoded = column.dictionary_encode()
    entries = np.array([_hash(value) % buckets for value in encoded.dictionary.to_pylist()], np.int64)
    indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    found = entries[indices] if len(entries) else np.zeros(len(column), np.int64)
    if column.null_count:
        found[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return found


def _hash(value: object) -> int:
    if isinstance(value, str):
        return int.from_bytes(blake3(value.encode()).digest(8), "little")
    mask = (1 << 64) - 1
    z = (int(value) + 0x9E3779B97F4A7C15) & mask  # type: ignore[call-overload]
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return int(z ^ (z >> 31))


def may_hold(partition: Mapping[str, Value], by: Sequence[PartitionBy], conditions: AnyOf | None) -> bool:
    """Whether a file with these values can hold a row that a filter asks for; True where that is not known."""
    if conditions is None or not partition:
        return True
    parts = {part.column: part for part in by if part.column in partition}
    return any(
        all(
            name not in parts or _agrees(partition[name], parts[name], op, value) for name, op, value in terms
        )
        for terms in conditions
    )


def _agrees(held: Value, part: PartitionBy, op: str, value: object) -> bool:
    if op in ("in", "==", "="):
        wanted = list(value) if op == "in" else [value]  # type: ignore[call-overload]
        if not all(isinstance(one, str | int) for one in wanted):
            return True
        if part.buckets:
            return any(_hash(one) % part.buckets == held for one in wanted)
        return held in wanted
    if part.buckets or held is None or not isinstance(value, type(held)):
        return True
    match op:
        case "!=":
            return held != value
        case "<":
            return held < value  # type: ignore[operator]
        case "<=":
            return held <= value  # type: ignore[operator]
        case ">":
            return held > value  # type: ignore[operator]
        case ">=":
            return held >= value  # type: ignore[operator]
    return True
