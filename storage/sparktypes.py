"""The Arrow types in which columns travel to and from Spark, which has no unsigned integers and one unit of time.

Unsigned integers travel as the next wider signed type (uint64 as a decimal), timestamps in microseconds, in UTC if they
have a zone. Only ``spark`` uses this; it is Arrow alone and imports no Spark.
"""

from __future__ import annotations

import pyarrow as pa

from headrace.storage.errors import SchemaMismatch

_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}


def spark_type(arrow: pa.DataType) -> pa.DataType:
    """The Arrow type under which a stored type travels to and from Spark."""
    if pa.types.is_list(arrow):
        return pa.list_(spark_type(arrow.value_type))
    if pa.types.is_timestamp(arrow):
        return pa.timestamp("us", "UTC" if arrow.tz else None)
    return _WIDER.get(arrow, arrow)


def to_spark(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of the table in the exact Arrow schema that Spark expects of a source.

    Raises:
        SchemaMismatch: a value does not fit Spark's type, for example a nanosecond.
    """
    return _cast(batch, schema, "read by Spark")


def from_spark(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch from Spark in the table's types, where Spark had to use others; what else differs is left to the writer.

    Raises:
        SchemaMismatch: a value does not fit the table's type.
    """
    stored = {field.name: field.type for field in schema}
    fields = []
    for field in batch.schema:
        wanted = stored.get(field.name)
        travels = wanted is not None and plain_type(spark_type(wanted)) == plain_type(field.type)
        fields.append(pa.field(field.name, wanted if travels else field.type))
    return _cast(batch, pa.schema(fields), "written by Spark")


def plain_type(arrow: pa.DataType) -> pa.DataType:
    """Without the names and zones in which Spark and the store differ for the same type."""
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return pa.list_(plain_type(arrow.value_type))
    if pa.types.is_timestamp(arrow):
        return pa.timestamp(arrow.unit, "UTC" if arrow.tz else None)
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(arrow, arrow)


def _cast(batch: pa.RecordBatch, schema: pa.Schema, doing: str) -> pa.RecordBatch:
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise SchemaMismatch(
                f"column {field.name!r} cannot be {doing} as {field.type}: {error}; cast it first or leave it out"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)
