"""Rows as they come, made to fit a schema: columns by name, in its order, in the plain forms that pages are made from."""

from __future__ import annotations

import pyarrow as pa

from headrace.storage import exact, nested_columns
from headrace.storage.errors import SchemaMismatch
from headrace.storage.logical import column_type, shape, stored_schema


def fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` with exactly the columns of ``schema``, in its order, in their plain forms.

    Raises:
        SchemaMismatch: listing every column that is missing, unknown, of another type, or null against the schema.
        UnsupportedType: a column's type cannot be held.
    """
    came = {field.name: (at, field.type) for at, field in enumerate(stored_schema(batch.schema))}
    expected = set(schema.names)
    wrong = [f"{name!r} is missing" for name in schema.names if name not in came]
    wrong += [f"{name!r} is not expected" for name in came if name not in expected]
    columns = []
    for field in schema:
        if field.name not in came:
            continue
        at, got = came[field.name]
        if shape(got) != shape(field.type):
            wrong.append(f"{field.name!r} has type {got}, expected {field.type}")
            continue
        column = exact.plain(batch.column(at), column_type(field.type, field.name).plain)
        if not field.nullable and column.null_count:
            wrong.append(f"{field.name!r} has {column.null_count} nulls, expected none")
        columns.append(column)
    if wrong:
        raise SchemaMismatch(
            f"rows do not fit the schema: {'; '.join(wrong)}; cast, rename or drop these columns"
        )
    for field, column in zip(schema, columns, strict=True):
        if " not null" in str(field.type):
            type_ = column_type(field.type, field.name)
            nested_columns.refuse_nulls(nested_columns.shred(column, type_), type_, field.name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise SchemaMismatch(
                f"column {field.name!r} holds text that is not UTF-8, or is no sound Arrow array: {error}; use binary"
            ) from error
    fields = [
        pa.field(field.name, column.type, field.nullable)
        for field, column in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)) if columns else batch.select([])
