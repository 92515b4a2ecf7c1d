"""Reading a table's rows: projection, filter and the Arrow stream that other engines take.

A scan is a recipe; it reads when iterated, file by file, row group by row group. Each file is checked to be the one
that its manifest speaks of. Filters are applied row by row after decoding: nothing is skipped by statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.storage import exact
from headrace.storage.errors import CorruptManifest, ErasedDataReturned, NoSuchColumn, SchemaMismatch
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.manifest import DATA, DataFile
from headrace.storage.objects import Place
from headrace.storage.paths import inside
from headrace.storage.reader import File, record_batch

Condition = tuple[str, str, Any]
Filter: TypeAlias = "pc.Expression | Sequence[Condition] | Sequence[Sequence[Condition]]"


@dataclass(frozen=True)
class Scan:
    """Some columns and rows of some files; iterate it for ``RecordBatch``es.

    ``columns`` are those returned, ``filter`` may use others, which are read and dropped.
    """

    root: Place
    files: tuple[DataFile, ...]
    table_schema: pa.Schema
    columns: tuple[str, ...]
    filter: pc.Expression | None = None
    batch_rows: int = GROUP_ROWS

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        return pa.schema([self.table_schema.field(name) for name in self.columns])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches in file order; without filter at most ``batch_rows`` rows each."""
        return self.rows_from(0, None)

    def rows_from(self, first: int, last: int | None) -> Iterator[pa.RecordBatch]:
        """As iterating, but only of row groups that start in rows ``first`` up to ``last`` of each file; None is all."""
        tested = [] if self.filter is None else filter_columns(self.filter, self.table_schema)
        needed = [*self.columns, *(name for name in tested if name not in self.columns)]
        for entry in self.files:
            with checked_file(self.root, entry, self.table_schema, needed) as file:
                size = file.footer.group_rows
                end = file.n_rows if last is None else min(last, file.n_rows)
                groups = range(-(-first // size), -(-end // size))
                for batch in file.batches(needed, batch_rows=self.batch_rows, groups=groups):
                    found = self._filtered(batch, tested)
                    if found.num_rows:
                        yield found

    def _filtered(self, batch: pa.RecordBatch, tested: list[str]) -> pa.RecordBatch:
        arrays, n_rows = [batch.column(name) for name in self.columns], batch.num_rows
        if self.filter is not None:
            rows = matching(exact.plain_batch(batch, tested), self.filter)
            if len(rows) < n_rows:
                arrays, n_rows = [exact.take(array, rows) for array in arrays], len(rows)
        return record_batch(arrays, self.schema, n_rows)

    def to_reader(self) -> pa.RecordBatchReader:
        """The batches as an Arrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def to_table(self) -> pa.Table:
        """All rows in memory."""
        return pa.Table.from_batches(list(self), schema=self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule stream that pyarrow, polars and DuckDB take."""
        return self.to_reader().__arrow_c_stream__(requested_schema)


def checked_file(root: Place, entry: DataFile, schema: pa.Schema, columns: Sequence[str] | None) -> File:
    """Open a table's file and make sure that it is the one its manifest names.

    Args:
        root: the table's folder.
        entry: what the manifest says.
        schema: the table's.
        columns: those whose types are checked, so that a wide file is not read for a few; None is all.

    Raises:
        ErasedDataReturned: the file is from before an erase that the manifest knows.
        CorruptManifest: it is missing, or another file.
        SchemaMismatch: its columns are not the table's.
        UnsafePath: the path leaves the table.
    """
    path = inside(root, entry.path, DATA)
    try:
        file = File(path)
    except FileNotFoundError as error:
        raise CorruptManifest(
            f"{path}: named by the table's manifest but missing; restore it from a copy"
        ) from error
    footer = file.footer
    epoch = footer.trailer.erase_epoch
    came = (footer.header.uuid.hex(), footer.n_rows, footer.trailer.root.hex())
    expected = (entry.uuid, entry.rows, entry.root if epoch == entry.erase_epoch else came[2])
    try:
        if epoch < entry.erase_epoch:
            raise ErasedDataReturned(
                f"{path}: has erase epoch {epoch}, the table's last erase made it {entry.erase_epoch}: an old copy was "
                "put back; remove it and restore one taken after the erase"
            )
        if came != expected:
            raise CorruptManifest(
                f"{path}: expected uuid, rows and root {expected}, got {came}; restore the right file"
            )
        fields = schema if columns is None else [schema.field(name) for name in columns]
        differing = {str(field) for field in file.schema(columns)} ^ {str(field) for field in fields}
        if differing:
            raise SchemaMismatch(
                f"{path}: columns differ from the table's: {sorted(differing)}; stage its rows through this table"
            )
    except BaseException:
        file.close()
        raise
    return file


def parse_filter(given: Filter | None) -> pc.Expression | None:
    """A filter as an Arrow expression.

    Args:
        given: an expression; or (column, op, value) tuples, all of which must hold; or a list of such lists, one of
            which must hold. Ops: ``=`` ``==`` ``!=`` ``<`` ``<=`` ``>`` ``>=`` ``in`` ``not in``.

    Raises:
        ValueError: an unknown op or another shape.
    """
    if given is None or isinstance(given, pc.Expression):
        return given
    groups: list[Any] = list(given)
    if not groups:
        return None
    if isinstance(groups[0], tuple):
        groups = [groups]
    any_of: Any = None
    for group in groups:
        all_of: Any = None
        for condition in group:
            term = _term(condition)
            all_of = term if all_of is None else all_of & term
        if all_of is None:
            raise ValueError("a filter's inner list is empty; leave it out")
        any_of = all_of if any_of is None else any_of | all_of
    return any_of


def _term(condition: Any) -> pc.Expression:
    match condition:
        case (str(name), str(op), value):
            field = pc.field(name)
        case _:
            raise ValueError(f"expected filter conditions as (column, op, value), got {condition!r}")
    match op:
        case "=" | "==":
            return field == value
        case "!=":
            return field != value
        case "<":
            return field < value
        case "<=":
            return field <= value
        case ">":
            return field > value
        case ">=":
            return field >= value
        case "in":
            return field.isin(list(value))
        case "not in":
            return ~field.isin(list(value))
    raise ValueError(f"expected one of = == != < <= > >= in, not in, got {op!r} for column {name!r}")


def matching(batch: pa.RecordBatch, expression: pc.Expression) -> pa.Array:
    """The numbers of the rows for which an expression holds, int64, ascending."""
    numbers = np.arange(batch.num_rows, dtype=np.int64)
    column = pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
    numbered = pa.RecordBatch.from_arrays([*batch.columns, column], names=[*batch.schema.names, "\0row"])
    return numbered.filter(expression).columns[-1]


def filter_columns(expression: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns an expression reads, by trying it on empty tables: Arrow has no way to ask.

    Raises:
        NoSuchColumn: it does not fit the schema at all.
    """

    def fits(names: list[str]) -> bool:
        fields = [pa.field(name, exact.plain_type(schema.field(name))) for name in names]
        empty = pa.schema(fields).empty_table()
        try:
            empty.filter(expression)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError):
            return False
        return True

    text = str(expression)
    named = [name for name in schema.names if name in text]
    if not fits(named):
        named = list(schema.names)
        if not fits(named):
            raise NoSuchColumn(
                f"the filter {text} does not fit the columns {schema.names[:20]}; check names and types"
            )
    return [name for name in named if not fits([other for other in named if other != name])]
