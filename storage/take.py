"""Single rows of a chunk: of each touched page only the blocks that hold them are decoded, where encodings allow it.

Between the reader, which sorts row numbers into groups, and ``page_read``. A page's bytes are read and checked as a whole,
then its values are taken by position (``Encoding.take``): nulls are passed over by rank, lists by their lengths, which are
decoded whole, codes before their entries are looked up. Pages of sequences are decoded and rows picked from their views,
and so is a page of which many rows are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings.dictionary import look_up
from headrace.storage.fetch import DECODED, ChunkReader
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.logical import Leaf
from headrace.storage.page import (
    ALL_NULL,
    BYTES,
    CODES,
    ITEM_LENGTHS,
    ITEM_VALIDITY,
    LENGTHS,
    SEQ_KEEP,
    SEQ_MODE,
    SEQ_NEW,
    SEQ_SKIP,
    VALUES,
)
from headrace.storage.page_rows import Mask, row_validity
from headrace.storage.page_streams import Entries, Page
from headrace.storage.views import Piece, Views, is_sequence, join, pick

DENSE = 4
"""Of a page of which a row in so many is wanted, all are decoded: that is faster than to pick values out of blocks."""
_CONTROLS = frozenset({SEQ_MODE, SEQ_NEW, SEQ_SKIP, SEQ_KEEP})
_U32, _U8 = np.dtype("u4"), np.dtype("u1")
Rows = NDArray[np.int64]


class Counter:
    """Blocks of 1,024 values that were decoded to answer a ``take``."""

    def __init__(self) -> None:
        self.blocks = 0

    def add(self, n_values: int) -> None:
        """A whole stream was decoded."""
        self.blocks += -(-n_values // BLOCK_ROWS)

    def add_streams(self, page: Page, roles: Iterable[int]) -> None:
        """Whole streams of a page were decoded."""
        for role in roles:
            self.add(page.count(role))


def take_rows(reader: ChunkReader, rows: Rows, counter: Counter, leader: ChunkReader | None = None) -> Piece:
    """Rows of a chunk in its own order, in the column's plain form.

    Args:
        reader: the chunk's.
        rows: int64[k], k > 0, ascending and distinct, as the chunk stores them.
        counter: what was decoded is added to it.
        leader: has the pages whose edits these follow, if they do.
    """
    pages = reader.chunk.pages
    if len(pages) == 1:
        numbers, bounds = [0], [0, len(rows)]
    else:
        ends = np.fromiter((page.first_row + page.n_rows for page in pages), np.int64, len(pages))
        touched, firsts = np.unique(np.searchsorted(ends, rows, side="right"), return_index=True)
        numbers, bounds = touched.tolist(), [*firsts.tolist(), len(rows)]
    found = reader.pages(numbers, lasting=False)
    pieces: list[Piece] = []
    for at, (number, page) in enumerate(zip(numbers, found, strict=True)):
        local = rows[bounds[at] : bounds[at + 1]] - pages[number].first_row
        piece = _sparse(reader, page, local, counter)
        if piece is None:
            leaders = reader.led_by([page], number, leader)
            counter.add_streams(page, page.streams)
            for led in leaders or ():
                counter.add_streams(led, _CONTROLS & led.streams.keys())
            DECODED.add(page.n_rows)
            piece = pick(reader.decoded([page], number, leaders), local)
            if isinstance(piece, Views) and len(local) * DENSE <= page.n_rows:
                piece = piece.to_list(reader.column.type.leaf.arrow)  # so that few items are joined below
        pieces.append(piece)
    joined = join(pieces)
    if not reader.nulls_expected:
        nulls = (
            joined.null_count
            if isinstance(joined, pa.Array)
            else joined.valid is not None and not joined.valid.all()
        )
        if nulls:
            reader.place(numbers[0]).fail("nulls", "none", nulls)
    return joined


def _sparse(reader: ChunkReader, page: Page, rows: Rows, counter: Counter) -> Piece | None:
    """Rows of one page without decoding all of it, or None where it has to be."""
    type_, n = reader.column.type, page.n_rows
    leaf = type_.leaf
    if len(rows) * DENSE > n or page.validity == ALL_NULL or type_.is_nested:
        return None
    lengths_role = ITEM_LENGTHS if type_.is_list else LENGTHS
    if leaf.dtype is None and CODES not in page.streams and lengths_role not in page.streams:
        return None  # bytes of one width, or words
    if type_.is_list and ITEM_VALIDITY in page.streams:
        return None
    if type_.is_list and type_.size is None and is_sequence(page):
        return None
    at, n_valid, valid = rows, n, None
    if page.validity:
        mask = np.empty(n, np.bool_)
        n_valid = row_validity(page, mask)
        counter.add(n)
        valid = mask[rows]
        at = (np.cumsum(mask) - 1)[rows[valid]]
    if not type_.is_list:
        array = _Wanted(page, n_valid, at, valid, len(rows), counter).values(reader, LENGTHS)
        page.done()
        return array
    if type_.size is not None:
        lengths = np.full(n_valid, type_.size, np.uint32)
    else:
        lengths = page.stream(LENGTHS, _U32, n_valid)
        counter.add(n_valid)
    ends = np.zeros(n_valid + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    if ends[-1] != page.n_items:
        page.place.fail("items", page.n_items, int(ends[-1]))
    sizes = lengths[at].astype(np.int64)
    items = arrays.positions(ends[at], sizes)
    if len(items) * DENSE > page.n_items:
        return None
    child = _Wanted(page, page.n_items, items, None, len(items), counter).values(reader, ITEM_LENGTHS)
    page.done()
    if valid is None:
        spread = sizes
    else:
        spread = np.zeros(len(rows), np.int64)
        spread[valid] = sizes
    narrow = spread.astype(np.int32)
    return Views(child, np.cumsum(narrow, dtype=np.int32) - narrow, narrow, valid)


class _Wanted(NamedTuple):
    """Flat values of a page, some of its ``n``, that will lie in ``n_all`` slots of an array, where ``valid``."""

    page: Page
    n: int
    at: Rows
    valid: Mask | None
    n_all: int
    counter: Counter

    def values(self, reader: ChunkReader, lengths_role: int) -> pa.Array:
        """Those values, however the page holds them."""
        leaf = reader.column.type.leaf
        if CODES in self.page.streams:
            return self._coded(reader.dictionaries.of(self.page), leaf)
        if leaf.dtype is None:
            return self._text(leaf, lengths_role)
        self.page.claim("values", self.n_all * leaf.dtype.itemsize)
        out = np.empty(len(self.at), leaf.dtype)
        self._take(VALUES, self.n, self.at, out)
        return arrays.fixed(out, self.valid, self.n_all, leaf)

    def _take(self, role: int, n: int, at: Rows, out: NDArray[Any]) -> None:
        self.counter.blocks += self.page.take(role, n, at, out)

    def _coded(self, entries: Entries, leaf: Leaf) -> pa.Array:
        codes, valid = np.empty(len(self.at), np.uint32), self.valid
        self._take(CODES, self.n, self.at, codes)
        top = int(codes.max(initial=0))
        if top > len(entries):
            self.page.place.fail("dictionary code", f"at most {len(entries)}", top)
        kept = codes > 0  # 0 is an erased value, which reads as null
        if not kept.all():
            if valid is None:
                valid = kept
            else:
                valid[np.flatnonzero(valid)[~kept]] = False
            codes = codes[kept]
        if leaf.dtype is not None:
            out = np.empty(len(codes), leaf.dtype)
            look_up(entries.table, codes, out)
            return arrays.fixed(out, valid, self.n_all, leaf)
        self.page.claim("dictionary strings", entries.longest * len(codes))
        rows = codes.astype(np.int32) - np.int32(1)
        if valid is not None:
            rows = arrays.spread(rows, valid, self.n_all)
        return entries.text_at(rows, valid)

    def _text(self, leaf: Leaf, lengths_role: int) -> pa.Array:
        lengths = self.page.stream(lengths_role, _U32, self.n)
        self.counter.add(self.n)
        ends = np.zeros(self.n + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        total = int(ends[-1])
        if self.page.count(BYTES) != total:
            self.page.place.fail("values in stream 4", total, self.page.count(BYTES))
        sizes = lengths[self.at].astype(np.int64)
        places = arrays.positions(ends[self.at], sizes)
        if len(places) * DENSE > total:
            text: NDArray[Any] = self.page.stream(BYTES, _U8, total)[places]
            self.counter.add(total)
        else:
            text = np.empty(len(places), np.uint8)
            self._take(BYTES, total, places, text)
        offsets = arrays.offsets(lengths[self.at], self.valid, self.n_all)
        buffers = [arrays.bitmap(self.valid), offsets, pa.py_buffer(text)]
        array = pa.Array.from_buffers(leaf.arrow, self.n_all, buffers)
        if pa.types.is_string(leaf.arrow):
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                self.page.place.fail("text", "UTF-8", error)
        return array
