"""One file to Arrow batches: only the asked columns' pages are read, each checked before a row of it is returned.

The unit of work is one column of one row group, or of as many of its rows as fit the memory that was granted
(``group_read``); with much to decode, several threads share the columns and the next rows are decoded while the caller
works with these (``prefetch``). Rows whose deletion bit is set never come out. Which rows match a filter is decided
above (``scan``); which files belong to a table in ``table``. Files are never mapped: what is handed out is a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from headrace.storage.errors import BadFile, CorruptFooter, CorruptPage
from headrace.storage.fetch import FileEntries
from headrace.storage.footer import Column, Footer
from headrace.storage.group_read import Group, Step, arrow_schema, batches_of, record_batch, take_mask
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.prefetch import MEMORY_BYTES, ahead, default_threads
from headrace.storage.source import Location, Source, open_source


class File:
    """An open file. Opening checks header, trailer and the root of the footer's hash tree, nothing more.

    Not to be used from several threads at once, but the iterators it returns use several themselves.
    """

    def __init__(self, location: Location) -> None:
        """Open a file.

        Args:
            location: a path, or anything ``source.open_source`` takes.

        Raises:
            BadFile, CorruptFooter: it is not a headrace file, or its footer's root is damaged.
            UnsupportedFeature: it needs a newer reader.
        """
        self.source: Source = open_source(location)
        self.path = Path(self.source.name)
        try:
            self.footer = Footer(self.source)
        except BaseException:
            self.source.close()
            raise
        self._file_entries: dict[int, FileEntries] = {}

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; batches already returned stay valid."""
        self.source.close()

    @property
    def n_rows(self) -> int:
        """Rows in the file, deleted ones included."""
        return self.footer.n_rows

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """The Arrow schema of these columns, in the order asked for, or of all.

        Raises:
            NoSuchColumn: naming the first one missing.
        """
        return arrow_schema(self.footer.columns(columns))

    def file_entries(self, column: Column) -> FileEntries | None:
        """The dictionary that serves a column in the whole file, if it has one."""
        found = self._file_entries.get(column.id)
        if found is None:
            row = self.footer.file_dictionary(column)
            if row is None:
                return None
            found = self._file_entries[column.id] = FileEntries(self.source, column, row)
        return found

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_rows: int = GROUP_ROWS,
        groups: range | None = None,
        rows: range | None = None,
        threads: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        list_view: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Rows in file order, in batches that never cross a row group.

        Args:
            columns: names, in the order wanted, or patterns such as ``price_*``; None is all.
            batch_rows: at most so many rows a batch.
            groups: which row groups to read; None is all.
            rows: which rows of the file, counting deleted ones; None is all.
            threads: at most so many; None is the number of processors, up to 8.
            memory_bytes: what is decoded and not yet taken by the caller stays below, unless one page of each column
                is more.
            list_view: lists come as Arrow's ListView, in which rows share items; else as List.

        Raises:
            CorruptPage, CorruptFooter, BadFile: before any row of the batch is returned.
            NoSuchColumn: naming the first one missing.
        """
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        if rows is not None and (rows.step != 1 or rows.start < 0):
            raise ValueError(f"rows must be a range of step 1 from 0 on, got {rows}")
        threads = default_threads() if threads is None else max(1, threads)
        names = None if columns is None else list(columns)
        numbers = range(self.footer.n_groups) if groups is None else groups
        steps = _Steps(self, names, numbers, rows, batch_rows, memory_bytes, list_view)
        for step, arrays in ahead(steps, threads, memory_bytes):
            some = step.kept()
            n_rows = step.last - step.first if some is None else len(some)
            if n_rows:
                yield from batches_of(step, arrays, n_rows, batch_rows)


class _Steps:
    """Plans what is read next, and plans again with a new footer after an erase in place passed by."""

    def __init__(
        self,
        file: File,
        names: list[str] | None,
        groups: range,
        rows: range | None,
        batch_rows: int,
        memory_bytes: int,
        as_views: bool,
    ) -> None:
        self.file, self.names, self.groups, self.rows = file, names, groups, rows
        self.as_views = as_views
        self.batch_rows, self.memory_bytes = batch_rows, memory_bytes
        self.columns = file.footer.columns(names)

    def __iter__(self) -> Iterator[Step]:
        for number in self.groups:
            yield from self._of(number, 0)

    def _of(self, number: int, first: int) -> Iterator[Step]:
        """The steps of one group from one of its rows on."""
        footer = self.file.footer
        start, n = number * footer.group_rows, footer.rows_in(number)
        last = n
        if self.rows is not None:
            first, last = max(first, self.rows.start - start), min(n, self.rows.stop - start)
        if first >= last:
            return
        group = Group(self.file, number, self.columns, as_views=self.as_views)
        yield from group.steps(first, last, self.batch_rows, self.memory_bytes)

    def after(self, step: Step) -> Iterator[Step]:
        """This step and all that follow, planned with the footer of now."""
        at = self.groups.index(step.group.number)
        yield from self._of(step.group.number, step.first)
        for number in self.groups[at + 1 :]:
            yield from self._of(number, 0)

    def is_stale(self) -> bool:
        """Whether an erase passed by since the footer was read; if so, it is read again."""
        file = self.file
        if file.footer.current_epoch() <= file.footer.trailer.erase_epoch:
            return False
        file.footer = Footer(file.source)
        file._file_entries.clear()
        self.columns = file.footer.columns(self.names)
        return True


def read_file(
    path: Location, columns: Sequence[str] | None = None, batch_rows: int = GROUP_ROWS
) -> Iterator[pa.RecordBatch]:
    """Read one file, staged or committed, from front to back.

    Args:
        path: the file.
        columns: names, in the order wanted; None is all.
        batch_rows: at most so many rows a batch.

    Raises:
        BadFile, CorruptFooter, CorruptPage: the file or a touched part of it is damaged.
        NoSuchColumn: naming the first one missing.
    """
    with File(path) as file:
        yield from file.batches(columns, batch_rows=batch_rows)


__all__ = ["BadFile", "CorruptFooter", "CorruptPage", "File", "read_file", "record_batch", "take_mask"]
