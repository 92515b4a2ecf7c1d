"""The Arrow types in which columns travel to and from Spark, which has fewer of them.

Unsigned integers travel as the next wider signed type (uint64 as a decimal), float16 as float32, decimals as decimal128,
times in nanoseconds, timestamps and durations in microseconds, timestamps in UTC if they have a zone. Dictionaries
travel as their values, and every kind of list, string and binary as the plain one. Only ``spark`` uses this; it is Arrow
alone and imports no Spark.
"""

from __future__ import annotations

from typing import NoReturn

import pyarrow as pa

from headrace.storage import exact, logical, typecode
from headrace.storage.arrays import bitmap, validity
from headrace.storage.errors import SchemaMismatch

_OTHER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
}
_DECIMAL_DIGITS = 38
"""More than Spark's decimals have is left as it is, and refused by Spark."""


def spark_type(arrow: pa.DataType) -> pa.DataType:
    """The Arrow type under which a stored type travels to and from Spark."""
    if typecode.is_list(arrow):
        return pa.list_(spark_type(arrow.value_type))
    if pa.types.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return pa.struct([pa.field(field.name, spark_type(field.type), field.nullable) for field in fields])
    if pa.types.is_dictionary(arrow):
        return spark_type(arrow.value_type)
    if pa.types.is_timestamp(arrow):
        return pa.timestamp("us", "UTC" if arrow.tz else None)
    if pa.types.is_duration(arrow):
        return pa.duration("us")
    if pa.types.is_time(arrow):
        return pa.time64("ns")
    if pa.types.is_decimal(arrow):
        digits = arrow.precision + max(0, -arrow.scale)
        return pa.decimal128(digits, max(0, arrow.scale)) if digits <= _DECIMAL_DIGITS else arrow
    if pa.types.is_fixed_size_binary(arrow):
        return pa.binary()
    return _OTHER.get(arrow, logical.shape(arrow))


def to_spark(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of the table in the exact Arrow schema that Spark expects of a source.

    Raises:
        SchemaMismatch: a value does not fit Spark's type, for example a nanosecond.
    """
    return _cast(batch, schema, "read by Spark")


def from_spark(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch from Spark in types of the table's shape, where Spark had to use others; the writer does the rest.

    What differs from the table in more than that is left to the writer, to be refused with everything else.

    Raises:
        SchemaMismatch: a value does not fit the table's type.
    """
    stored = {field.name: field.type for field in schema}
    fields = []
    for field in batch.schema:
        wanted = stored.get(field.name)
        travels = wanted is not None and plain_type(spark_type(wanted)) == plain_type(field.type)
        fields.append(pa.field(field.name, logical.shape(wanted) if travels else field.type))
    return _cast(batch, pa.schema(fields), "written by Spark")


def plain_type(arrow: pa.DataType) -> pa.DataType:
    """Without the names and zones in which Spark and the store differ for the same type."""
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return pa.list_(plain_type(arrow.value_type))
    if pa.types.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return pa.struct([(field.name, plain_type(field.type)) for field in fields])
    if pa.types.is_timestamp(arrow):
        return pa.timestamp(arrow.unit, "UTC" if arrow.tz else None)
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(arrow, arrow)


def _cast(batch: pa.RecordBatch, schema: pa.Schema, doing: str) -> pa.RecordBatch:
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        try:
            columns.append(column if column.type == field.type else _converted(column, field))
        except pa.ArrowInvalid as error:
            raise SchemaMismatch(
                f"column {field.name!r} cannot be {doing} as {field.type}: {error}; cast it first or leave it out"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _converted(column: pa.Array, field: pa.Field) -> pa.Array:
    def fail(what: str, expected: object, got: object) -> NoReturn:
        raise pa.ArrowInvalid(f"{what}: expected {expected}, got {got}")

    plain = exact.plain(column, logical.column_type(column.type, field.name).plain)
    values = _values_cast(plain, logical.column_type(field.type, field.name).plain)
    return exact.restore(values, field.type, fail)


def _values_cast(plain: pa.Array, type_: pa.DataType) -> pa.Array:
    """Leaf by leaf, since Arrow's own cast of lists of nulls gives arrays that are not sound."""
    if plain.type == type_:
        return plain
    if pa.types.is_struct(type_):
        children = [_values_cast(plain.field(i), type_.field(i).type) for i in range(type_.num_fields)]
    elif pa.types.is_list(type_):
        valid, lengths, items = exact.list_parts(plain)
        return exact.list_array(type_, valid, lengths, _values_cast(items, type_.value_type))
    else:
        return plain.cast(type_)
    mask = bitmap(validity(plain)) if plain.null_count else None
    return pa.Array.from_buffers(type_, len(plain), [mask], children=children)
