"""One file to Arrow batches: only the asked columns' pages are read, each checked before a row of it is returned.

The unit of work is one column of one row group, or of as many of its rows as fit the memory that was granted
(``group_read``); with much to decode, several threads share the columns and the next rows are decoded while the caller
works with these (``prefetch``). Rows whose deletion bit is set never come out. Which rows match a filter is decided
above (``scan``); which files belong to a table in ``table``. Files are never mapped: what is handed out is a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import redo
from headrace.storage.errors import BadFile, CorruptFooter, CorruptPage
from headrace.storage.fetch import FileEntries
from headrace.storage.footer import Column, Footer
from headrace.storage.group_read import (
    ColumnRows,
    Group,
    Step,
    arrow_schema,
    batches_of,
    record_batch,
    take_mask,
)
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.objects import Location
from headrace.storage.predicate import Predicate
from headrace.storage.prefetch import MEMORY_BYTES, ahead, default_threads, pool
from headrace.storage.source import Source, open_source
from headrace.storage.take import Counter
from headrace.storage.views import Piece, join, pick

AsStored: TypeAlias = bool | Collection[str]


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
            self.footer = self._footer()
        except BaseException:
            self.source.close()
            raise
        self._file_entries: dict[int, FileEntries] = {}
        self._hidden: NDArray[np.int64] | None = None
        self.blocks_taken = 0

    def _footer(self) -> Footer:
        try:
            return Footer(self.source)
        except (BadFile, CorruptFooter):
            if self.source.remote or not redo.finish(self.path):
                raise
            return Footer(self.source)  # an erase had begun since the file was opened

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
        return int(self.footer.n_rows)

    def schema(self, columns: Sequence[str] | None = None, *, as_stored: AsStored = False) -> pa.Schema:
        """The Arrow schema of these columns, in the order asked for, or of all; ``as_stored`` as for ``batches``.

        Raises:
            NoSuchColumn: naming the first one missing.
        """
        return arrow_schema(self.columns(columns, as_stored))

    def columns(self, names: Sequence[str] | None, as_stored: AsStored = False) -> list[Column]:
        """What the footer says of these columns, those marked that are handed out as they are stored."""
        found = self.footer.columns(names)
        if not as_stored:
            return found
        from headrace.storage.as_stored import marked  # here: few readers need it

        return marked(self.footer, found, as_stored)

    def file_entries(self, column: Column) -> FileEntries | None:
        """The dictionary that serves a column in the whole file, if it has one."""
        found = self._file_entries.get(column.id)
        if found is None:
            row = self.footer.file_dictionary(column)
            if row is None:
                return None
            found = self._file_entries[column.id] = FileEntries(self.source, column, row)
        return found

    def hide(self, rows: bytes) -> None:
        """Leave out some rows as if they were deleted.

        Args:
            rows: their numbers, as a serialised roaring bitmap.
        """
        from pyroaring import BitMap  # here: few files have rows that are hidden

        self._hidden = np.array(BitMap.deserialize(rows), np.int64)

    def gone(self, group: int) -> NDArray[np.bool_] | None:
        """bool[rows of the group], True where a row is deleted or hidden, or None where none is."""
        deleted = self.footer.deleted(group)
        if self._hidden is None:
            return deleted
        first = group * self.footer.group_rows
        mask = np.zeros(self.footer.rows_in(group), np.bool_) if deleted is None else deleted.copy()
        mask[self._hidden[(self._hidden >= first) & (self._hidden < first + len(mask))] - first] = True
        return mask if mask.any() else None

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
        as_stored: AsStored = False,
        filter: Predicate | None = None,
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
            as_stored: quantised columns, all or those named, come unconverted: see ``as_stored.StoredAs``.
            filter: which rows; pages that statistics rule out are not read, and of ``columns`` only what is left.

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
        steps = _Steps(self, names, numbers, rows, batch_rows, memory_bytes, list_view, as_stored, filter)
        for step, found in ahead(steps, threads):
            yield from batches_of(step, found, batch_rows)

    def take(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        columns: Sequence[str] | None = None,
        *,
        list_view: bool = False,
        as_stored: AsStored = False,
        threads: int | None = None,
    ) -> pa.RecordBatch:
        """Rows by number, in any order, as often as they are named.

        Decodes the blocks of 1,024 values that hold them and, of lists and strings, the lengths of the touched pages;
        ``blocks_taken`` counts them.

        Args:
            rows: 0 .. n_rows - 1, counting deleted rows.
            columns: names, in the order wanted, or patterns; None is all.
            list_view: lists come as Arrow's ListView; else as List.
            as_stored: as for ``batches``.
            threads: at most so many, for a remote file; None is the number of processors, up to 8.

        Raises:
            IndexError: a row that is deleted, or that the file never had.
            CorruptPage, CorruptFooter, NoSuchColumn: as ``batches``.
        """
        at = row_numbers(rows, self.n_rows, self.path)
        names = None if columns is None else list(columns)
        threads = default_threads() if threads is None else max(1, threads)
        try:
            return self._take(at, names, list_view, as_stored, threads)
        except (CorruptPage, CorruptFooter):
            if not self.is_stale():
                raise
            return self._take(at, names, list_view, as_stored, threads)

    def _take(
        self,
        at: NDArray[np.int64],
        names: list[str] | None,
        list_view: bool,
        as_stored: AsStored,
        threads: int,
    ) -> pa.RecordBatch:
        found = self.columns(names, as_stored)
        schema = arrow_schema(found, as_views=list_view)
        if not len(at) or not found:
            return record_batch([pa.nulls(0, field.type) for field in schema], schema, len(at))
        distinct, back = np.unique(at, return_inverse=True)
        size = self.footer.group_rows
        numbers, firsts = np.unique(distinct // size, return_index=True)
        bounds = [*firsts.tolist(), len(distinct)]
        wanted = []
        for place, number in enumerate(numbers.tolist()):
            group = Group(self, number, found, as_views=list_view)  # pyright: ignore[reportArgumentType]
            local = distinct[bounds[place] : bounds[place + 1]] - number * size
            if group.deleted is not None and group.deleted[local].any():
                gone = int(local[group.deleted[local]][0]) + number * size
                raise IndexError(f"{self.path}: row {gone} was deleted; ask for rows that a scan returns")
            wanted.append((group, local))
        tasks = [(part, local, Counter()) for group, local in wanted for part in group.parts]
        pieces = _taken(tasks, threads if self.source.remote else 1)
        self.blocks_taken += sum([counter.blocks for _, _, counter in tasks])
        order = None if len(back) == len(distinct) and (np.diff(at) > 0).all() else back
        columns = []
        for index, part in enumerate(wanted[0][0].parts):
            whole = join(pieces[index :: len(found)])
            columns.append(part.finish(whole if order is None else pick(whole, order)))
        return record_batch(columns, schema, len(at))

    def is_stale(self) -> bool:
        """Whether an erase in place passed by since the footer was read; if so, the footer is read again."""
        if not self.source.remote:
            redo.finish(self.path)  # which waits for an eraser that is at work
        if self.footer.current_epoch() <= self.footer.trailer.erase_epoch:
            return False
        self.footer = Footer(self.source)
        self._file_entries.clear()
        return True


def row_numbers(
    rows: Sequence[int] | NDArray[np.integer[Any]], n_rows: int, where: object
) -> NDArray[np.int64]:
    """`rows` as ``int64[n]``. Raises IndexError for one that `where`, of `n_rows` rows, never had."""
    at = np.asarray(rows, np.int64).reshape(-1)
    if len(at) and (at.min() < 0 or at.max() >= n_rows):
        expected = f"rows 0..{n_rows - 1}" if n_rows else "no rows, since there are none"
        raise IndexError(f"{where}: expected {expected}, got {at.min()}..{at.max()}")
    return at


_TakeTask = tuple[ColumnRows, "NDArray[np.int64]", Counter]


def _taken(tasks: Sequence[_TakeTask], threads: int) -> list[Piece]:
    """Each task's rows; several threads wait for a network, but would only wait for each other where there is none."""
    if threads < 2 or len(tasks) < 2:
        return [part.take_piece(rows, counter) for part, rows, counter in tasks]
    return list(pool(threads).map(lambda task: task[0].take_piece(*task[1:]), tasks))


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
        as_stored: AsStored,
        filter: Predicate | None,
    ) -> None:
        self.file, self.names, self.groups, self.rows = file, names, groups, rows
        self.as_views, self.as_stored, self.filter = as_views, as_stored, filter
        self.batch_rows, self.memory_bytes = batch_rows, memory_bytes
        self.columns = file.columns(names, as_stored)

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
        group = Group(self.file, number, self.columns, as_views=self.as_views, predicate=self.filter)  # pyright: ignore[reportArgumentType]
        for begin, end in group.ranges(first, last):
            yield from group.steps(begin, end, self.batch_rows, self.memory_bytes)

    def after(self, step: Step) -> Iterator[Step]:
        """This step and all that follow, planned with the footer of now."""
        at = self.groups.index(step.group.number)
        yield from self._of(step.group.number, step.first)
        for number in self.groups[at + 1 :]:
            yield from self._of(number, 0)

    def is_stale(self) -> bool:
        """Whether an erase passed by since the footer was read; if so, it is read again."""
        if not self.file.is_stale():
            return False
        self.columns = self.file.columns(self.names, self.as_stored)
        return True


def read_file(
    path: Location,
    columns: Sequence[str] | None = None,
    batch_rows: int = GROUP_ROWS,
    *,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Read one file, staged or committed, from front to back.

    Args:
        path: the file.
        columns: names, in the order wanted; None is all.
        batch_rows: at most so many rows a batch.
        threads: at most so many; None is the number of processors, up to 8.
        memory_bytes: what is decoded and not yet taken by the caller stays below, as in ``File.batches``.

    Raises:
        BadFile, CorruptFooter, CorruptPage: the file or a touched part of it is damaged.
        NoSuchColumn: naming the first one missing.
    """
    with File(path) as file:
        yield from file.batches(columns, batch_rows=batch_rows, threads=threads, memory_bytes=memory_bytes)


__all__ = ["BadFile", "CorruptFooter", "CorruptPage", "File", "read_file", "record_batch", "take_mask"]
