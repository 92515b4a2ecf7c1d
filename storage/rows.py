"""Rows of a table or of one file, addressed by file and row number: what shuffled reading needs of either.

Between the reader and ``storage.torch``. ``Rows`` is small and picklable and holds no open file; a ``RowReader``, made
by whoever reads, keeps the files it has opened. Which rows to read, and in which order, is decided in ``epoch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage.as_stored import kinds
from headrace.storage.epoch import Stretch
from headrace.storage.errors import no_such_column
from headrace.storage.opening import open as open_table
from headrace.storage.paths import is_table
from headrace.storage.quantise import Kind
from headrace.storage.reader import File
from headrace.storage.scan import checked_file
from headrace.storage.table import Table


@dataclass(frozen=True)
class Rows:
    """Some columns of a table's version, or of one file.

    Attributes:
        name: for messages.
        schema: of the columns, in the order wanted.
        identity: what tells these very rows from any others.
        table: the table, or None.
        location: the file, or None.
        stored: the columns that come as they are stored, and the format of each.
    """

    name: str
    schema: pa.Schema
    identity: str
    table: Table | None
    location: Any
    stored: Mapping[str, Kind] = field(default_factory=dict)

    def stretches(self, rows: int) -> list[Stretch]:
        """All rows, in file order, cut into stretches of ``rows`` rows; deleted ones are not counted."""
        found = []
        with RowReader(self) as reader:
            for number, (n_rows, deleted) in enumerate(self._extents()):
                gone = reader.deleted(number) if deleted else np.zeros(0, np.int64)
                for first in range(0, n_rows, rows):
                    last = min(first + rows, n_rows)
                    lost = int(np.searchsorted(gone, last) - np.searchsorted(gone, first))
                    found.append(Stretch(number, first, last, last - first - lost))
        return found

    def _extents(self) -> list[tuple[int, int]]:
        if self.table is not None:
            hidden = self.table._hidden()
            return [(entry.rows, entry.deleted + (entry.path in hidden)) for entry in self.table.files]
        with File(self.location) as file:
            return [(file.n_rows, file.footer.n_deleted())]


class RowReader:
    """Reads stretches of ``Rows``; a context manager, for one thread at a time."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._files: dict[int, File] = {}

    def __enter__(self) -> RowReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _file(self, number: int) -> File:
        file = self._files.get(number)
        if file is None:
            table = self._rows.table
            if table is None:
                file = File(self._rows.location)
            else:
                entry = table.files[number]
                file = checked_file(table.path, entry, table.schema, self._rows.schema.names)
                if entry.path in (hidden := table._hidden()):
                    file.hide(hidden[entry.path])
            self._files[number] = file
        return file

    def deleted(self, number: int) -> Any:
        """int64: the deleted and hidden rows of a file, ascending."""
        file = self._file(number)
        footer = file.footer
        masks = [file.gone(group) for group in range(footer.n_groups)]
        parts = [
            np.flatnonzero(mask) + group * footer.group_rows
            for group, mask in enumerate(masks)
            if mask is not None
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def read(self, stretch: Stretch) -> Iterator[pa.RecordBatch]:
        """The rows of a stretch that are not deleted, in order, lists as views."""
        rows = range(stretch.first, stretch.last)
        names, stored = self._rows.schema.names, self._rows.stored.keys()
        yield from self._file(stretch.file).batches(names, rows=rows, list_view=True, as_stored=stored)


def rows_of(data: Any, columns: Sequence[str] | None = None, *, as_stored: bool = False) -> Rows:
    """The rows of a ``Table``, or of the table or file at a path or URL.

    Args:
        data: one of these.
        columns: names; None is all.
        as_stored: whether columns in fp16, bf16 and fp8 come unconverted. int8 does not: its codes mean nothing alone.

    Raises:
        NoSuchColumn: naming the one missing.
        TableNotFound, FileNotFoundError: there is nothing.
    """
    if not isinstance(data, Table) and is_table(data):
        data = open_table(data)
    if isinstance(data, Table):
        names = data.schema.names if columns is None else list(columns)
        for name in names:
            if name not in data.schema.names:
                raise no_such_column(data.path, name, data.schema.names)
        schema = pa.schema([data.schema.field(name) for name in names])
        files = ",".join(f"{entry.uuid}:{entry.erase_epoch}" for entry in data.files)
        stored = _floats(data.scan(names, as_stored=as_stored).stored)
        return Rows(str(data.path), schema, f"{data.version}:{files}", data, None, stored)
    with File(data) as file:
        trailer, schema = file.footer.trailer, file.schema(columns)
        stored = _floats(kinds(file.footer, file.footer.columns(columns))) if as_stored else {}
        identity = f"{trailer.uuid.hex()}:{trailer.erase_epoch}"
        return Rows(file.footer.file, schema, identity, None, data, stored)


def _floats(stored: Mapping[str, Kind]) -> dict[str, Kind]:
    return {name: kind for name, kind in stored.items() if kind != "int8"}
