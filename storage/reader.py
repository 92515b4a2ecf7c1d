"""One file to Arrow batches: only the asked columns' pages are read, each checked before a row of it is returned.

Memory is bounded by one batch and the pages it touches, whatever the size of the file. Rows whose deletion bit is set
never come out. Which rows match a filter is decided above (``scan``); which files belong to a table in ``table``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from headrace.storage import arrays, page
from headrace.storage.errors import BadFile, CorruptFooter, CorruptPage
from headrace.storage.footer import Chunk, Column, Footer
from headrace.storage.layout import GROUP_ROWS, hash16

BATCH_BYTES = 1 << 30  # strings of a batch beyond this come as several batches, far below Arrow's 2 GiB


class File:
    """An open file. Opening checks header, trailer and the root of the footer's hash tree, nothing more."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDONLY)
        try:
            self.footer = Footer(self._fd, str(self.path))
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; batches already returned stay valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_rows: int = GROUP_ROWS,
        groups: range | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Rows in file order, in batches that never cross a row group.

        Args:
            columns: names, in the order wanted; None is all.
            batch_rows: at most so many rows a batch.
            groups: which row groups to read; None is all.

        Raises:
            CorruptPage, CorruptFooter, BadFile: before any row of the batch is returned.
        """
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        wanted = self.footer.columns(columns)
        for group in range(self.footer.n_groups) if groups is None else groups:
            n = self.footer.rows_in(group)
            cursor = _Group(self, group, wanted)
            for first in range(0, n, batch_rows):
                last = min(first + batch_rows, n)
                try:
                    found = cursor.rows(first, last)
                except (CorruptPage, CorruptFooter):
                    # An erase in place may have passed by since the footer was read: then, and only then, look again.
                    if self.footer.current_epoch() <= self.footer.trailer.erase_epoch:
                        raise
                    self.footer = Footer(self._fd, str(self.path))
                    wanted = self.footer.columns(columns)
                    cursor = _Group(self, group, wanted)
                    found = cursor.rows(first, last)
                yield from found


class _Group:
    """Reads one row group's columns from front to back, keeping each column's last page for the next batch."""

    def __init__(self, file: File, group: int, columns: list[Column]) -> None:
        self.file, self.footer, self.group = str(file.path), file.footer, group
        self.columns = columns
        self.schema = arrow_schema(columns)
        self.deleted = file.footer.deleted(group)
        self.chunks: dict[int, Chunk] = {}
        self.entries: dict[int, page.Entries] = {}
        self.last: dict[int, tuple[int, pa.Array]] = {}

    def rows(self, first: int, last: int) -> list[pa.RecordBatch]:
        """Rows first..last of the group, without deleted ones, as one batch or several if they are very wide."""
        parts = [self._column(column, first, last) for column in self.columns]
        if all(len(part) == 1 for part in parts):
            found = [record_batch([part[0] for part in parts], self.schema, last - first)]
            if self.deleted is None:
                return found
        elif all(sum(array.nbytes for array in part) < BATCH_BYTES for part in parts):
            found = [record_batch([pa.concat_arrays(part) for part in parts], self.schema, last - first)]
        else:
            chunked = [pa.chunked_array(part) for part in parts]
            found = pa.Table.from_arrays(chunked, schema=self.schema).to_batches()
        if self.deleted is None:
            return found
        kept, at = [], first
        for batch in found:
            gone = self.deleted[at : at + batch.num_rows]
            at += batch.num_rows
            if not gone.any():
                kept.append(batch)
            elif not gone.all():
                kept.append(take_mask(batch, ~gone))
        return kept

    def _column(self, column: Column, first: int, last: int) -> list[pa.Array]:
        chunk = self.chunks.get(column.id)
        if chunk is None:
            chunk = self.chunks[column.id] = self.footer.chunk(column, self.group)
        starts = chunk.pages["first_row"]
        lo = int(np.searchsorted(starts, first, side="right")) - 1
        hi = int(np.searchsorted(starts, last, side="left"))
        parts = []
        for number in range(lo, hi):
            start = int(starts[number])
            array = self._page(column, chunk, number)
            parts.append(array[max(first - start, 0) : last - start])
        return parts

    def _page(self, column: Column, chunk: Chunk, number: int) -> pa.Array:
        kept = self.last.get(column.id)
        if kept is not None and kept[0] == number:
            return kept[1]
        row = chunk.pages[number]
        entries = self._entries(column, chunk)
        fail, where = self._failing(column, chunk.first_page + number, int(row["off"]))
        data = self._checked(row, fail)
        array = page.decode(data, column.type, int(row["n_rows"]), entries, fail, where)
        if array.null_count and not column.nullable and self.deleted is None:
            fail("nulls", "none", array.null_count)
        self.last[column.id] = (number, array)
        return array

    def _entries(self, column: Column, chunk: Chunk) -> page.Entries | None:
        if chunk.dictionary is None:
            return None
        entries = self.entries.get(column.id)
        if entries is None:
            row = chunk.dictionary
            fail, where = self._failing(column, -1, int(row["off"]))
            data = self._checked(row, fail)
            entries = page.decode_entries(data, column.type.leaf, int(row["n_entries"]), fail, where)
            self.entries[column.id] = entries
        return entries

    def _checked(self, row: Any, fail: Callable[[str, object, object], NoReturn]) -> bytes:
        data = self.footer.read(int(row["off"]), int(row["used_len"]))
        expected, got = row["hash"].tobytes(), hash16(data)
        if got != expected:
            fail("hash", expected.hex(), got.hex())
        return data

    def _failing(
        self, column: Column, number: int, offset: int
    ) -> tuple[Callable[[str, object, object], NoReturn], str]:
        def fail(what: str, expected: object, got: object) -> NoReturn:
            raise CorruptPage(self.file, column.name, number, what, offset=offset, expected=expected, got=got)

        return fail, f"{self.file}: page {number} of column {column.name!r}"


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of footer columns."""
    return pa.schema([pa.field(column.name, column.type.arrow, column.nullable) for column in columns])


def record_batch(columns: list[pa.Array], schema: pa.Schema, n_rows: int) -> pa.RecordBatch:
    """A batch that keeps its row count even without columns."""
    if columns:
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    return arrays.rows_without_columns(n_rows)


def take_mask(batch: pa.RecordBatch, keep: Any) -> pa.RecordBatch:
    """The rows where ``keep`` is True; works without columns too."""
    if batch.num_columns:
        return batch.filter(arrays.mask_array(keep))
    return record_batch([], batch.schema, int(np.count_nonzero(keep)))


def read_file(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, batch_rows: int = GROUP_ROWS
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


__all__ = ["BadFile", "File", "read_file"]
