"""One column's part of a row group, from file to Arrow: bytes read in one piece, hashes checked, pages decoded together.

Between the reader, which decides what rows are wanted and by which thread, and ``page_read``, which knows pages. Bytes
are copied out of the file before anything points into them, so what is handed out never changes under an erase.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from headrace.storage import arrays
from headrace.storage.encodings import Workload
from headrace.storage.encodings.dictionary import table
from headrace.storage.footer import Chunk, Column, DictRow, PageRow
from headrace.storage.logical import Leaf
from headrace.storage.number_read import pages_of_numbers
from headrace.storage.page import LENGTHS, NO_NULLS, NULL_ROW_BYTES, SEQ_MODE, VALUES
from headrace.storage.page_read import decode_pages, leaf_array
from headrace.storage.page_rows import Part
from headrace.storage.page_streams import (
    HEAD_BYTES,
    NO_DICTIONARIES,
    Dictionaries,
    Entries,
    Page,
    Place,
    decoded_bytes,
)
from headrace.storage.runs import Runs
from headrace.storage.source import Source
from headrace.storage.views import Piece, Views, decode_lists, is_sequence, left

SPAN_BYTES = 32 << 20  # read at once at most
LOCAL_SPAN_BYTES = 512 << 10
"""Read at once of a local file: what is hashed and decoded while a processor's cache still holds it."""
GAP_BYTES = 16 << 10  # between pages that are still read in one piece

DECODED = Workload(8_000_000)
"""Values that a process decodes without numba. From then on its import and the loading of kernels, about a second, are
repaid within as many values again."""


class FileEntries:
    """A dictionary that serves a column in the whole file, decoded when first needed, by whichever thread."""

    def __init__(self, source: Source, column: Column, row: DictRow) -> None:
        self._source, self._column, self._row = source, column, row
        self._lock = threading.Lock()
        self._entries: Entries | None = None

    def get(self) -> Entries:
        """The entries."""
        with self._lock:
            if self._entries is None:
                self._entries = read_entries(self._source, self._column, self._row)
            return self._entries


def read_entries(source: Source, column: Column, row: DictRow) -> Entries:
    """A dictionary's entries, checked."""
    place = Place(source.name, column.name, -1, row.off)
    data = checked(source.read(row.off, row.used_len), row.hash, place)
    return decode_entries(data, column.type.leaf, row.n_entries, place)


def decode_entries(data: bytes, leaf: Leaf, n_entries: int, place: Place) -> Entries:
    """A dictionary, which is stored like a page whose rows are its entries, without nulls."""
    stored = Page(data, n_entries, place)
    if stored.validity != NO_NULLS:
        place.fail("dictionary head", "entries without nulls", f"validity kind {stored.validity}")
    if leaf.dtype is not None:
        values = stored.stream(VALUES, leaf.dtype, n_entries)
        entries = Entries(values, len(data), table=table(values))
    else:
        values = leaf_array([Part(stored, 0, n_entries, n_entries)], None, leaf, NO_DICTIONARIES, LENGTHS)
        longest = leaf.width or 16
        if not (leaf.words or leaf.fixed_bytes):
            longest = int(arrays.text(values)[0].max(initial=0))
        entries = Entries(values, len(data), longest)
    stored.done()
    return entries


def checked(data: Any, expected: bytes, place: Place) -> Any:
    """``data`` if it has the hash it must have.

    Raises:
        CorruptPage: it has another one.
    """
    got = blake3(data).digest(16)
    if got != expected:
        place.fail("hash", expected.hex(), got.hex())
    return data


class ChunkReader:
    """Reads pages of one column and row group; safe to use from one thread at a time."""

    def __init__(
        self,
        source: Source,
        column: Column,
        chunk: Chunk,
        file_entries: FileEntries | None = None,
        *,
        erased_rows: bool = False,
    ) -> None:
        self.source, self.column, self.chunk = source, column, chunk
        self.nulls_expected = column.nullable or erased_rows
        self._file_entries = file_entries
        self._dictionaries: Dictionaries | None = None

    @property
    def dictionaries(self) -> Dictionaries:
        """What the pages' codes refer to, read when first needed."""
        if self._dictionaries is None:
            row = self.chunk.dictionary
            own = read_entries(self.source, self.column, row) if row is not None else None
            shared = self._file_entries.get() if self._file_entries is not None else None
            self._dictionaries = Dictionaries(own, shared)
        return self._dictionaries

    def order(self) -> pa.Array | None:
        """The entries of an ordered dictionary as its writer had them; None of other columns."""
        if not self.column.type.is_ordered or self._file_entries is None:
            return None
        values = self._file_entries.get().values
        if isinstance(values, pa.Array):
            return values
        return arrays.fixed(values, None, len(values), self.column.type.leaf)

    def place(self, number: int) -> Place:
        """Where one of the pages lies."""
        chunk = self.chunk
        return Place(self.source.name, self.column.name, chunk.first_page + number, chunk.pages[number].off)

    def pages(self, numbers: Sequence[int], *, lasting: bool = True) -> Iterator[Page]:
        """Some pages in turn, read and checked, their streams not yet decoded.

        Args:
            numbers: ascending, counted within the chunk.
            lasting: whether pages are used after the next one was asked for; else they share memory.
        """
        room = self.column.type.null_bytes
        for page in self._pages(numbers, lasting):
            if room > NULL_ROW_BYTES and page.validity != NO_NULLS:
                page.claim("room of nulls", page.n_rows * room)
            yield page

    def _pages(self, numbers: Sequence[int], lasting: bool) -> Iterator[Page]:
        rows, source, stored = self.chunk.pages, self.source, 0
        if self.chunk.dictionary is not None or self._file_entries is not None:
            for entries in (self.dictionaries.chunk, self.dictionaries.file):
                stored += entries.stored_bytes if entries is not None else 0
        if len(numbers) == 1:
            row, place = rows[numbers[0]], self.place(numbers[0])
            data = checked(source.read(row.off, row.used_len), row.hash, place)
            yield Page(data, row.n_rows, place, stored, self.column.stored)
            return
        spans = []
        for first, last in _spans(rows, numbers, SPAN_BYTES if source.remote else LOCAL_SPAN_BYTES):
            start, end = rows[numbers[first]].off, rows[numbers[last - 1]]
            spans.append((first, last, start, end.off + end.used_len - start))
        buffer = memoryview(bytearray(0 if lasting else max([span[3] for span in spans], default=0)))
        for first, last, start, length in spans:
            read = source.read(start, length) if lasting else source.read_into(buffer, start, length)
            data = memoryview(read)
            for number in numbers[first:last]:
                row, place = rows[number], self.place(number)
                part = data[row.off - start : row.off - start + row.used_len]
                yield Page(checked(part, row.hash, place), row.n_rows, place, stored, self.column.stored)

    def piece(
        self, first: int, last: int, leader: ChunkReader | None = None, runs: Runs | None = None
    ) -> Piece:
        """The rows of pages ``first`` up to ``last``, in the column's plain form.

        Args:
            first, last: which pages.
            leader: has the pages whose edits these follow, if they do.
            runs: the rows that stay, of all these pages'; None is all.
        """
        type_ = self.column.type
        if last - first > 1 and not type_.is_nested and not self.source.remote:
            # Rows without nulls, whose place in the array is known before their pages are read. Pages that turn out to be
            # others are read again below, which a network would feel and a local file's cache does not.
            pages = self.pages(range(first, last), lasting=False)
            numbers = pages_of_numbers(pages, self.chunk.pages[first:last], type_)
            if numbers is not None:
                return numbers if runs is None else left(numbers, runs)
        found = list(self.pages(range(first, last)))
        piece = self.decoded(found, first, self.led_by(found, first, leader), runs)
        return piece if runs is None else left(piece, runs)

    def led_by(self, pages: Sequence[Page], first: int, leader: ChunkReader | None) -> list[Page] | None:
        """The leader's pages whose edits these follow, from page ``first`` on; None if they have their own."""
        if leader is None or not any(is_sequence(page) and SEQ_MODE not in page.streams for page in pages):
            return None
        last = first + len(pages)
        theirs, mine = leader.chunk.pages[first:last], self.chunk.pages[first:last]
        if [page.n_rows for page in theirs] != [page.n_rows for page in mine]:
            self.place(first).fail("rows of the list it follows", mine, theirs)
        return list(leader.pages(range(first, last)))

    def decoded(
        self,
        pages: Sequence[Page],
        first: int,
        leaders: Sequence[Page] | None = None,
        runs: Runs | None = None,
    ) -> Piece:
        """The rows of consecutive pages that were read already, from page ``first`` on.

        Of ``runs`` only these, if that saves looking up others; else all.
        """
        type_ = self.column.type
        if not type_.is_list or type_.size is not None or not any(is_sequence(page) for page in pages):
            array = decode_pages(pages, type_, self.dictionaries, runs)
            if not self.nulls_expected and array.null_count:
                self._refuse_nulls(first, array)
            return array
        found = decode_lists(pages, leaders, type_, self.dictionaries)
        valid = found.valid if isinstance(found, Views) else None
        if not self.nulls_expected and valid is not None and not valid.all():
            self.place(first).fail("nulls", "none", int(np.count_nonzero(~valid)))
        return found

    def _refuse_nulls(self, number: int, array: pa.Array) -> None:
        at = int(np.flatnonzero(~arrays.validity(array))[0])
        while at >= self.chunk.pages[number].n_rows:
            at -= self.chunk.pages[number].n_rows
            number += 1
        self.place(number).fail("nulls", "none", array.null_count)

    def decoded_bytes(self) -> list[int]:
        """Arrow memory that each page will take at most.

        For lists and strings it is read from the heads of the pages. What they say is checked when the pages are, and
        believed no further than their limits until then.
        """
        sizes, stored = self._decoded_bytes(), self.column.stored
        return sizes if stored is None else [n * stored.memory_factor for n in sizes]

    def _decoded_bytes(self) -> list[int]:
        type_, found = self.column.type, []
        if type_.leaf.dtype is not None and not type_.is_list:
            return [row.n_rows * type_.leaf.dtype.itemsize + row.n_rows // 8 for row in self.chunk.pages]
        dictionaries = self.dictionaries if type_.leaf.dtype is None else NO_DICTIONARIES
        for row in self.chunk.pages:
            head = b""
            if type_.is_list or type_.leaf.dtype is None:
                head = self.source.read(row.off, min(row.used_len, HEAD_BYTES))
            found.append(decoded_bytes(head, row, type_, dictionaries))
        return found


def _spans(rows: Sequence[PageRow], numbers: Sequence[int], span_bytes: int) -> list[tuple[int, int]]:
    """Which of the pages are read in one piece: (first, last) positions in ``numbers``."""
    spans = []
    first = 0
    for at in range(1, len(numbers)):
        before, row = rows[numbers[at - 1]], rows[numbers[at]]
        gap = row.off - before.off - before.used_len
        if not 0 <= gap <= GAP_BYTES or row.off + row.used_len - rows[numbers[first]].off > span_bytes:
            spans.append((first, at))
            first = at
    spans.append((first, len(numbers)))
    return spans
