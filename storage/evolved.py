"""Reads a table whose columns have changed: each file as it was written, joined, renamed, widened and filled with nulls.

In the flow: ``Table.scan`` makes one instead of a plain ``Scan`` once a table has evolved. A file that holds every
wanted column as the table has it is read by ``scan`` with the filter pushed down; any other is read here, row group by
row group, and filtered afterwards. Rows of a column family are joined by position, so a row that is deleted in one of
the two is left out of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage.errors import CorruptManifest, SchemaMismatch
from headrace.storage.manifest import DataFile, Family
from headrace.storage.predicate import Predicate, predicate
from headrace.storage.reader import File, record_batch, row_numbers
from headrace.storage.scan import Scan, checked_file

if TYPE_CHECKING:
    from headrace.storage.quantise import Kind

_PLACE = "\0place"
_INTS = ("int8", "int16", "int32", "int64")
_GROWS: dict[str, tuple[str, ...]] = {
    **{name: _INTS[at + 1 :] for at, name in enumerate(_INTS)},
    "uint8": ("uint16", "uint32", "uint64", "int16", "int32", "int64"),
    "uint16": ("uint32", "uint64", "int32", "int64"),
    "uint32": ("uint64", "int64"),
    "halffloat": ("float", "double"),
    "float": ("double",),
    "string": ("large_string",),
    "binary": ("large_binary",),
}


def widens(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Whether every value of one type is exactly one of the other.

    >>> widens(pa.int32(), pa.int64()), widens(pa.int64(), pa.float64())
    (True, False)
    """
    if pa.types.is_decimal(narrow) and pa.types.is_decimal(wide):
        whole = narrow.precision - narrow.scale <= wide.precision - wide.scale
        return bool(whole and narrow.scale <= wide.scale)
    return str(wide) in _GROWS.get(str(narrow), ())


def refuse_unreadable(
    found: pa.Schema, schema: pa.Schema, stored_as: Mapping[str, str], where: object
) -> None:
    """Make sure that a file can be read under a table's schema.

    Raises:
        SchemaMismatch: listing the columns that cannot.
    """
    wrong, types = [], {name: found.field(name).type for name in found.names}
    for wanted in schema:
        stored = stored_as.get(wanted.name, wanted.name)
        if stored not in types:
            if not wanted.nullable:
                wrong.append(f"{wanted.name!r} is missing and may not be null")
        elif types[stored] != wanted.type and not widens(types[stored], wanted.type):
            wrong.append(f"{wanted.name!r} has type {types[stored]}, expected {wanted.type}")
    if wrong:
        raise SchemaMismatch(
            f"{where}: columns differ from the table's: {'; '.join(wrong)}; stage its rows through this table"
        )


@dataclass(frozen=True)
class EvolvedScan(Scan):
    """As ``Scan``, over files of several schemas."""

    stored_as: Mapping[str, str] = field(default_factory=dict)

    def rows_from(self, first: int, last: int | None) -> Iterator[pa.RecordBatch]:
        asked = None
        if self.filter is not None:
            asked = predicate(self.filter, self.table_schema, self.conditions)
        for entry, rows in self._asked():
            if self._is_plain(entry, asked):
                yield from self._plain(entry, rows).rows_from(first, last)
            else:
                yield from self._joined(entry, asked, rows, first, last)

    def _plain(self, entry: DataFile, rows: range | None = None) -> Scan:
        """As this, of one file that is read as it was written."""
        same = {part.name: getattr(self, part.name) for part in fields(Scan)}
        return Scan(**{**same, "files": (entry,), "rows": rows, "agreed": self.stored})

    def _kinds(self, entry: DataFile) -> dict[str, Kind]:
        """As of ``Scan``; a column that is not there, or that was widened, is in no format that a file could hand out."""
        from headrace.storage.as_stored import kinds  # here: few scans need it

        found: dict[str, Kind] = {}
        with ExitStack() as stack:
            parts = _Parts(self, entry, self.columns, stack, exact=True)
            for name, (at, stored) in parts.sources.items():
                file = parts.files[at]
                if file.schema([stored]).field(stored).type == self.table_schema.field(name).type:
                    kind = kinds(file.footer, file.footer.columns([stored])).get(stored)
                    found |= {} if kind is None else {name: kind}
        return found

    def _is_plain(self, entry: DataFile, asked: Predicate | None) -> bool:
        """Whether a file holds every column that is needed as the table has it."""
        needed = {*self.columns, *(asked.columns if asked else ())}
        if not needed:
            return True
        if entry.families or any(self.stored_as.get(name, name) != name for name in needed):
            return False
        with checked_file(self.root, entry, self.table_schema, []) as file:
            return all(_column_type(file, name) == self.table_schema.field(name).type for name in needed)

    def _joined(
        self, entry: DataFile, asked: Predicate | None, rows: range | None, first: int, last: int | None
    ) -> Iterator[pa.RecordBatch]:
        tested = asked.columns if asked else ()
        apart = not self.stored.keys().isdisjoint(tested)  # a filter is of values, not of codes
        needed = [*self.columns, *(name for name in tested if name not in self.columns and not apart)]
        with ExitStack() as stack:
            parts = _Parts(self, entry, needed, stack)
            values = _Parts(self, entry, tested, stack, exact=True) if apart else None
            size = parts.base.footer.group_rows
            end = entry.rows if last is None else min(last, entry.rows)
            groups = range(-(-first // size), -(-end // size))
            if rows is not None:
                groups = range(max(groups.start, rows.start // size), min(groups.stop, -(-rows.stop // size)))
            for group in groups:
                found = parts.group(group, rows)
                if asked is not None and values is not None:
                    found = found.take(_passing(values.group(group, rows), asked))
                elif asked is not None:
                    found = found.filter(asked.expression)
                if not self.columns:
                    if found.num_rows:
                        yield record_batch([], self.schema, found.num_rows)
                    continue
                found = found.select(list(self.columns)).cast(self.schema)
                for batch in found.combine_chunks().to_batches(self.batch_rows):
                    if batch.num_rows:
                        yield batch

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> pa.Table:
        """As ``Scan.take``; files that need joining are read by row group."""
        starts = np.cumsum([0, *(entry.rows for entry in self.files)])
        at = row_numbers(rows, int(starts[-1]), self.root)
        which = np.searchsorted(starts, at, side="right") - 1
        found, order = [], []
        for number in np.unique(which).tolist():
            mine = np.flatnonzero(which == number)
            found.append(self._taken(self.files[number], at[mine] - starts[number]))
            order.append(mine)
        if not found:
            return self.schema.empty_table()
        back = np.argsort(np.concatenate(order))
        return pa.concat_tables(found).take(pa.array(back))

    def _taken(self, entry: DataFile, local: NDArray[np.int64]) -> pa.Table:
        if self._is_plain(entry, None):
            return self._plain(entry).take(local)
        with ExitStack() as stack:
            parts = _Parts(self, entry, list(self.columns), stack)
            return parts.take(local).cast(self.schema)


def _passing(values: pa.Table, asked: Predicate) -> pa.Array:
    """Which rows a filter lets through, by their place."""
    places = pa.array(np.arange(len(values)))
    return values.append_column(_PLACE, places).filter(asked.expression).column(_PLACE)


def _column_type(file: File, name: str) -> pa.DataType | None:
    found = [column for column in file.footer.columns() if column.name == name]
    return file.schema([name]).field(name).type if found else None


class _Parts:
    """The open files that one entry's columns lie in: its own, and those of its families."""

    def __init__(
        self,
        scan: EvolvedScan,
        entry: DataFile,
        needed: Sequence[str],
        stack: ExitStack,
        *,
        exact: bool = False,
    ) -> None:
        self.scan, self.entry, self.needed = scan, entry, needed
        kept = {} if exact else scan.stored
        self.fields = [(scan.schema if name in kept else scan.table_schema).field(name) for name in needed]
        self.kept = {scan.stored_as.get(name, name) for name in kept}
        self.base = stack.enter_context(scan._open(entry, []))
        files: list[tuple[File, frozenset[str]]] = [(self.base, _names(self.base))]
        for family in entry.families:
            opened = stack.enter_context(checked_family(scan, entry, family))
            files.append((opened, frozenset(family.columns)))
        self.sources: dict[str, tuple[int, str]] = {}
        for name in needed:
            stored = scan.stored_as.get(name, name)
            holders = [at for at, (_, names) in enumerate(files) if stored in names]
            if holders:
                self.sources[name] = (holders[-1], stored)
        self.files = [file for file, _ in files]

    def _wanted(self) -> dict[int, list[str]]:
        by_file: dict[int, list[str]] = {0: []}
        for at, stored in self.sources.values():
            by_file.setdefault(at, []).append(stored)
        return by_file

    def group(self, number: int, rows: range | None) -> pa.Table:
        """One row group's live rows, as the table has them."""
        wanted = self._wanted()
        masks = {at: self.files[at].gone(number) for at in wanted}
        gone = np.zeros(self.base.footer.rows_in(number), np.bool_)
        for mask in masks.values():
            if mask is not None:
                gone |= mask
        if rows is not None:
            start = number * self.base.footer.group_rows
            places = np.arange(start, start + len(gone))
            gone |= (places < rows.start) | (places >= rows.stop)
        pieces: dict[int, pa.Table] = {}
        for at, names in wanted.items():
            file, mask = self.files[at], masks[at]
            kept_as = self.kept.intersection(names)
            one = range(number, number + 1)
            batches = list(file.batches(names, groups=one, threads=self.scan.threads, as_stored=kept_as))
            piece = pa.Table.from_batches(batches, schema=file.schema(names, as_stored=kept_as))
            kept = ~gone if mask is None else ~gone[~mask]
            pieces[at] = piece if kept.all() else piece.filter(pa.array(kept))
        return self._assembled(pieces, int(np.count_nonzero(~gone)))

    def take(self, local: NDArray[np.int64]) -> pa.Table:
        """Rows by number, as the table has them."""
        pieces = {
            at: pa.Table.from_batches(
                [self.files[at].take(local, names, as_stored=self.kept.intersection(names))]
            )
            for at, names in self._wanted().items()
            if names or not at
        }
        return self._assembled(pieces, len(local))

    def _assembled(self, pieces: Mapping[int, pa.Table], n: int) -> pa.Table:
        columns: list[Any] = []
        schema = pa.schema(self.fields)
        for wanted in schema:
            if wanted.name not in self.sources:
                columns.append(pa.nulls(n, wanted.type))
                continue
            at, stored = self.sources[wanted.name]
            column = pieces[at].column(stored)
            columns.append(column if column.type == wanted.type else column.cast(wanted.type))
        return pa.table(columns, schema=schema)


def _names(file: File) -> frozenset[str]:
    return frozenset(column.name for column in file.footer.columns())


def checked_family(scan: Scan, entry: DataFile, family: Family) -> File:
    """Open a family's file and make sure that it is the one named, and fits the file it is joined to."""
    as_file = DataFile(family.path, entry.rows, family.bytes, family.uuid, family.erase_epoch, family.root)
    file = checked_file(scan.root, as_file, scan.table_schema, [])
    lacking = set(family.columns) - _names(file)
    if lacking:
        file.close()
        raise CorruptManifest(f"{scan.root}: {family.path} lacks columns {sorted(lacking)} it is named for")
    if entry.path in scan.hidden:
        file.hide(scan.hidden[entry.path])
    return file
