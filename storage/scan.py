"""Reading a table's rows: projection, filter, single rows, and the Arrow stream that other engines take.

A scan is a recipe; it reads when iterated, file by file, row group by row group. Each file is checked to be the one
that its manifest speaks of. What a filter may be is ``predicate``'s, which pages it rules out ``statistics``' and
``group_read``'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import exact
from headrace.storage.errors import CorruptManifest, ErasedDataReturned, SchemaMismatch
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.logical import column_type
from headrace.storage.manifest import DATA, DataFile
from headrace.storage.objects import Place
from headrace.storage.paths import inside
from headrace.storage.predicate import AnyOf, Condition, Filter, filter_columns, parse_filter, predicate
from headrace.storage.prefetch import MEMORY_BYTES
from headrace.storage.reader import File, row_numbers
from headrace.storage.views import view_type

if TYPE_CHECKING:
    import pyarrow.compute as pc

    from headrace.storage.quantise import Kind


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
    conditions: AnyOf | None = None
    """The filter as it was written in tuples, if it was."""
    list_view: bool = False
    threads: int | None = None
    memory_bytes: int = MEMORY_BYTES
    rows: range | None = None
    """Rows of all files together, deleted ones counted; None is all."""
    hidden: Mapping[str, bytes] = field(default_factory=dict)
    """By file, rows that are suppressed: a serialised roaring bitmap."""
    as_stored: bool = False
    """Whether quantised columns come as they are stored, not converted; see ``as_stored``."""
    agreed: Mapping[str, Kind] | None = None
    """Which do, where that is known; None asks the files' footers."""

    @cached_property
    def stored(self) -> dict[str, Kind]:
        """The columns that come as they are stored, and the format that all files hold them in; reads their footers."""
        if not self.as_stored or self.agreed is not None:
            return dict(self.agreed or {})
        from headrace.storage.as_stored import agreed  # here: few scans need it

        return agreed(self._kinds(entry) for entry in self.files if entry.rows)

    def _kinds(self, entry: DataFile) -> dict[str, Kind]:
        """The columns that one file holds in one format, and that format."""
        from headrace.storage.as_stored import kinds

        with checked_file(self.root, entry, self.table_schema, self.columns) as file:
            return kinds(file.footer, file.footer.columns(self.columns))

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        fields = [self.table_schema.field(name) for name in self.columns]
        types = [column_type(field.type, field.name) for field in fields]
        if self.list_view:
            fields = [field.with_type(view_type(type_)) for field, type_ in zip(fields, types, strict=True)]
        if not self.stored:
            return pa.schema(fields)
        from headrace.storage.as_stored import StoredAs

        return pa.schema(
            StoredAs(self.stored[field.name], type_).field(field.name, field.type, field.nullable)
            if field.name in self.stored
            else field
            for field, type_ in zip(fields, types, strict=True)
        )

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches in file order, at most ``batch_rows`` rows each."""
        return self.rows_from(0, None)

    def rows_from(self, first: int, last: int | None) -> Iterator[pa.RecordBatch]:
        """As iterating, but only of row groups that start in rows ``first`` up to ``last`` of each file; None is all."""
        asked = None
        if self.filter is not None:
            asked = predicate(self.filter, self.table_schema, self.conditions)
        tested = () if asked is None else asked.columns
        needed = [*self.columns, *(name for name in tested if name not in self.columns)]
        for entry, rows in self._asked():
            with self._open(entry, needed) as file:
                size = file.footer.group_rows
                end = file.n_rows if last is None else min(last, file.n_rows)
                for batch in file.batches(
                    self.columns,
                    batch_rows=self.batch_rows,
                    groups=range(-(-first // size), -(-end // size)),
                    rows=rows,
                    threads=self.threads,
                    memory_bytes=self.memory_bytes,
                    list_view=self.list_view,
                    as_stored=self.stored.keys(),
                    filter=asked,
                ):
                    if batch.num_rows:
                        yield batch

    def _asked(self) -> Iterator[tuple[DataFile, range | None]]:
        """The files that hold rows which are asked for, and which of their rows those are; None is all."""
        start = 0
        for entry in self.files:
            rows = None
            if self.rows is not None:
                rows = range(max(0, self.rows.start - start), min(entry.rows, self.rows.stop - start))
                start += entry.rows
                if rows.start >= rows.stop:
                    continue
            yield entry, rows

    def _open(self, entry: DataFile, columns: Sequence[str]) -> File:
        file = checked_file(self.root, entry, self.table_schema, columns)
        if entry.path in self.hidden:
            file.hide(self.hidden[entry.path])
        return file

    def to_reader(self) -> pa.RecordBatchReader:
        """The batches as an Arrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def to_table(self) -> pa.Table:
        """All rows in memory."""
        return pa.Table.from_batches(list(self), schema=self.schema)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> pa.Table:
        """Rows by number over all files, in any order, as often as they are named; the filter is not asked.

        Args:
            rows: 0 .. rows of the files - 1, counting deleted rows.

        Raises:
            IndexError: a row that is deleted, or that there never was.
        """
        starts = np.cumsum([0, *(entry.rows for entry in self.files)])
        at = row_numbers(rows, int(starts[-1]), self.root)
        which = np.searchsorted(starts, at, side="right") - 1
        parts, places = [], []
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            with self._open(self.files[number], self.columns) as file:
                found = file.take(
                    at[mine] - starts[number],
                    self.columns,
                    list_view=self.list_view,
                    as_stored=self.stored.keys(),
                    threads=self.threads,
                )
            parts.append(found)
            places.append(mine)
        table = pa.Table.from_batches(parts, schema=self.schema)
        if len(parts) < 2:
            return table
        order = np.argsort(np.concatenate(places))
        back = pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)])
        if not table.num_columns:
            return table
        columns = [exact.gathered(column.chunks, back) for column in table.columns]
        return pa.Table.from_arrays(columns, schema=self.schema)

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
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        found = file.schema(columns)
        if not found.equals(wanted):
            differing = {str(field) for field in found} ^ {str(field) for field in wanted}
            if differing:  # else the order alone
                raise SchemaMismatch(
                    f"{path}: columns differ from the table's: {sorted(differing)}; stage its rows through this table"
                )
    except BaseException:
        file.close()
        raise
    return file


__all__ = ["Condition", "Filter", "Scan", "checked_file", "filter_columns", "parse_filter"]
