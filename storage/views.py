"""Lists as views: where each row starts in an array of items and how long it is, so that rows can share items.

What pages of sequences decode to, and what other lists become when rows are wanted in another order or as Arrow's
ListView: rows are picked, cut and joined without moving an item. The kernels are those of ``encodings.listviews``.
Between ``page_read`` and ``group_read``; layout of sequences: ``FORMAT.md`` section 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import CorruptStream, UnsupportedArray
from headrace.storage.encodings.listviews import gather_list, views
from headrace.storage.encodings.sequence import Edits, measure
from headrace.storage.exact import Fail, list_parts, restore
from headrace.storage.logical import ColumnType
from headrace.storage.page import (
    ALL_NULL,
    CODES,
    LENGTHS,
    OLDEST_FIRST,
    SEQ_KEEP,
    SEQ_LITERALS,
    SEQ_MODE,
    SEQ_NEW,
    SEQ_SKIP,
)
from headrace.storage.page_read import decode_pages
from headrace.storage.page_rows import Mask, page_rows
from headrace.storage.page_streams import Dictionaries, Page
from headrace.storage.runs import Runs, kept

_U32 = np.dtype("u4")
_MAX_ITEMS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Views:
    """Lists: row i is ``items[starts[i]:][: sizes[i]]``, null where ``valid`` is False."""

    items: pa.Array
    """In the plain type of the column's leaf."""
    starts: NDArray[np.int32]
    sizes: NDArray[np.int32]
    """Zero for null rows."""
    valid: Mask | None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return int(self.items.nbytes) + 9 * len(self.starts)

    def pick(self, rows: NDArray[Any] | slice) -> Views:
        """Some rows, in any order; no item is moved."""
        valid = None if self.valid is None else self.valid[rows]
        return Views(self.items, self.starts[rows], self.sizes[rows], valid)

    def to_list_view(self, type_: pa.DataType, fail: Fail, entries: pa.Array | None = None) -> pa.Array:
        """An Arrow ListView of the exact type, its items shared between rows; ``entries`` as for ``exact.restore``."""
        items = restore(self.items, type_.value_type, fail, entries)
        wide = np.int64 if pa.types.is_large_list_view(type_) else np.int32
        buffers = [arrays.bitmap(self.valid), _buffer(self.starts, wide), _buffer(self.sizes, wide)]
        return pa.Array.from_buffers(type_, len(self), buffers, children=[items])

    def to_list(self, leaf: pa.DataType) -> pa.Array:
        """A plain Arrow List: every row's items behind those of the row before."""
        n, total = len(self), int(self.sizes.sum(dtype=np.int64))
        if total > _MAX_ITEMS:
            raise OverflowError(f"{n} lists have {total} items, an Arrow list at most {_MAX_ITEMS}")
        ends = pa.allocate_buffer(4 * (n + 1))
        offsets = np.frombuffer(ends, np.int32)
        if n and total and self._is_gapless():
            offsets[:-1] = self.starts - self.starts[0]
            offsets[-1] = total
            items = self.items[int(self.starts[0]) : int(self.starts[0]) + total]
        elif self.items.null_count or not _is_number(leaf):
            offsets[0] = 0
            np.cumsum(self.sizes, out=offsets[1:])
            at = arrays.positions(self.starts.astype(np.int64), self.sizes.astype(np.int64))
            items = self.items.take(_int64(at))
        else:
            items = self._gathered(leaf, offsets, total)
        return pa.Array.from_buffers(pa.list_(leaf), n, [arrays.bitmap(self.valid), ends], children=[items])

    def _is_gapless(self) -> bool:
        ends = self.starts + self.sizes
        return bool((ends[:-1] == self.starts[1:]).all())

    def _gathered(self, leaf: pa.DataType, offsets: NDArray[np.int32], total: int) -> pa.Array:
        dtype = np.dtype(f"u{leaf.bit_width // 8}")
        child = arrays.numbers(self.items, dtype)
        data = pa.allocate_buffer(total * dtype.itemsize)
        values = np.frombuffer(data, dtype) if total else np.empty(0, dtype)
        gather_list(child, self.starts, self.sizes, None, offsets, values)
        return pa.Array.from_buffers(leaf, total, [None, data])


Piece: TypeAlias = "pa.Array | Views"
"""Some rows of a column, in plain form."""


def _is_number(leaf: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(leaf)) and leaf.bit_width >= 8


def _buffer(values: NDArray[np.int32], dtype: Any) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(values, dtype))


def _int64(at: NDArray[np.int64]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(at)])


def of_lists(array: pa.Array) -> Views:
    """A plain list array as views of its items."""
    valid, lengths, items = list_parts(array)
    sizes = lengths.astype(np.int32)
    return Views(items, np.cumsum(sizes, dtype=np.int32) - sizes, sizes, valid)


def cut(piece: Piece, first: int, last: int) -> Piece:
    """Rows ``first`` up to ``last``; memory is shared."""
    return piece.pick(slice(first, last)) if isinstance(piece, Views) else piece[first:last]


def pick(piece: Piece, rows: NDArray[np.int64]) -> Piece:
    """Rows by number, in any order, with memory of their own but for the items of views."""
    return piece.pick(rows) if isinstance(piece, Views) else piece.take(_int64(rows))


def left(piece: Piece, runs: Runs) -> Piece:
    """Rows that stay when some go, in the memory of all of them, which nobody else may hold."""
    if not isinstance(piece, Views):
        return kept(piece, runs)
    n = runs.keep(piece.starts)
    runs.keep(piece.sizes)
    if piece.valid is not None:
        runs.keep(piece.valid)
    return piece.pick(slice(n))


def join(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one column as one."""
    if len(pieces) == 1:
        return pieces[0]
    if not any(isinstance(piece, Views) for piece in pieces):
        return pa.concat_arrays(pieces)
    parts = [piece if isinstance(piece, Views) else of_lists(piece) for piece in pieces]
    starts, base, seen = [], 0, list[Views]()
    for part in parts:
        if seen and part.items is seen[-1]:
            starts.append(part.starts + np.int32(base - len(part.items)))
            continue
        starts.append(part.starts + np.int32(base))
        seen.append(part.items)
        base += len(part.items)
    valid = None
    if any(part.valid is not None for part in parts):
        valid = np.concatenate(
            [np.ones(len(part), np.bool_) if part.valid is None else part.valid for part in parts]
        )
    items = seen[0] if len(seen) == 1 else pa.concat_arrays(seen)
    return Views(items, np.concatenate(starts), np.concatenate([part.sizes for part in parts]), valid)


def finish(
    piece: Piece, type_: ColumnType, fail: Fail, *, as_views: bool = False, entries: pa.Array | None = None
) -> pa.Array:
    """Rows in the form they are handed out in.

    Args:
        piece: some rows.
        type_: the column's.
        fail: reports values that are not of that type; raises.
        as_views: whether lists come as ListView.
        entries: of an ordered dictionary, in their order.
    """
    target = view_type(type_) if as_views else type_.arrow
    is_view = pa.types.is_list_view(target) or pa.types.is_large_list_view(target)
    if is_view and (as_views or isinstance(piece, Views)) and type_.is_list:
        return (piece if isinstance(piece, Views) else of_lists(piece)).to_list_view(target, fail, entries)
    if isinstance(piece, Views):
        piece = piece.to_list(type_.leaf.arrow)
    if type_.is_exact:
        return piece
    return restore(piece, target, fail, entries)


def view_type(type_: ColumnType) -> pa.DataType:
    """The type of a column when lists are wanted as ListView: other types stay what they are."""
    arrow = type_.arrow
    if type_.is_list and pa.types.is_list(arrow):
        return pa.list_view(arrow.value_field)
    if type_.is_list and pa.types.is_large_list(arrow):
        return pa.large_list_view(arrow.value_field)
    return arrow


def is_sequence(page: Page) -> bool:
    """Whether a page of lists holds them as edits of each other."""
    return LENGTHS not in page.streams and page.validity != ALL_NULL


def decode_lists(
    pages: Sequence[Page], leaders: Sequence[Page] | None, type_: ColumnType, dictionaries: Dictionaries
) -> Piece:
    """Consecutive pages of lists of any lengths, sequences or not.

    Args:
        pages: theirs.
        leaders: of a list that follows, the leader's pages of the same rows.
        type_: the column's.
        dictionaries: what their codes refer to.
    """
    pieces: list[Piece] = []
    for sequences, run in groupby(range(len(pages)), lambda at: is_sequence(pages[at])):
        numbers = list(run)
        some = [pages[at] for at in numbers]
        if not sequences:
            pieces.append(decode_pages(some, type_, dictionaries))
            continue
        their = [leaders[at] for at in numbers] if leaders is not None else None
        pieces.append(_sequences(some, their, type_, dictionaries))
    return join(pieces)


def _sequences(
    pages: Sequence[Page], leaders: Sequence[Page] | None, type_: ColumnType, dictionaries: Dictionaries
) -> Views:
    leaf = type_.leaf
    parts, valid = page_rows(pages)
    n = parts[-1].last
    starts, sizes = np.zeros(n, np.int32), np.zeros(n, np.int32)
    if leaf.dtype is None:
        pages[0].place.fail("type of a sequence", "fixed-width items", leaf.arrow)
    found: list[tuple[Edits, NDArray[np.int32], int, Mask | None]] = []
    total = 0
    for at, part in enumerate(parts):
        page_ = part.page
        leader = page_ if SEQ_MODE in page_.streams else None if leaders is None else leaders[at]
        if leader is None:
            page_.place.fail("streams", "edits, or those of a list it follows", sorted(page_.streams))
        literals, erased = _literals(page_, leaf.dtype, dictionaries)
        edits = _edits(leader, part.n_valid, literals)
        page_.claim("items of sequences", page_.n_items * leaf.dtype.itemsize)
        own = np.empty(part.n_valid, np.int32)
        try:
            n_child = measure(edits, page_.n_items, own)
        except CorruptStream as error:
            page_.place.fail("sequence", "edits that agree with each other", error)
        found.append((edits, own, n_child, erased))
        total += n_child
        page_.done()
    if total > _MAX_ITEMS:
        pages[0].place.fail("items of sequences", f"at most {_MAX_ITEMS}", total)
    data = pa.allocate_buffer(total * leaf.dtype.itemsize)
    items = np.frombuffer(data, leaf.dtype) if total else np.empty(0, leaf.dtype)
    item_valid: Mask | None = None
    base = 0
    for part, (edits, own, n_child, erased) in zip(parts, found, strict=True):
        begins = np.empty(part.n_valid, np.int32)
        _fill(part.page, edits, own, items[base : base + n_child], begins, base)
        if erased is not None:
            if item_valid is None:
                item_valid = np.ones(total, np.bool_)
            marks = Edits(
                edits.mode,
                edits.new,
                edits.skip,
                edits.keep,
                erased.view(np.uint8),
                edits.cap,
                edits.oldest_first,
            )
            _fill(part.page, marks, own, item_valid[base : base + n_child].view(np.uint8), begins, base)
        if part.n_valid == part.last - part.first:
            starts[part.first : part.last], sizes[part.first : part.last] = begins, own
        else:
            assert valid is not None
            mask = valid[part.first : part.last]
            starts[part.first : part.last][mask], sizes[part.first : part.last][mask] = begins, own
        base += n_child
    array = pa.Array.from_buffers(leaf.arrow, total, [arrays.bitmap(item_valid), data])
    return Views(array, starts, sizes, valid)


def _fill(
    page: Page,
    edits: Edits,
    sizes: NDArray[np.int32],
    child: NDArray[Any],
    starts: NDArray[np.int32],
    base: int,
) -> None:
    try:
        views(edits, sizes, child, starts, base=base)
    except (CorruptStream, UnsupportedArray) as error:
        page.place.fail("sequence", "rows within its items", error)


def _edits(page: Page, n_rows: int, literals: NDArray[Any]) -> Edits:
    """A page's control streams; its own literals or those of a list that follows."""
    mode = page.stream(SEQ_MODE, _U32, n_rows)
    copies = int(mode.sum(dtype=np.uint64))
    n_new = copies + n_rows - int(np.count_nonzero(mode))
    page.claim("copies of sequences", 4 * n_new)
    return Edits(
        mode,
        page.stream(SEQ_NEW, _U32, n_new),
        page.stream(SEQ_SKIP, _U32, copies),
        page.stream(SEQ_KEEP, _U32, copies),
        literals,
        page.cap,
        bool(page.flags & OLDEST_FIRST),
    )


def _literals(
    page: Page, dtype: np.dtype[Any], dictionaries: Dictionaries
) -> tuple[NDArray[Any], Mask | None]:
    """A page's literals, and which of them were not erased if some were."""
    if CODES not in page.streams:
        return page.stream(SEQ_LITERALS, dtype, page.count(SEQ_LITERALS)), None
    n = page.count(CODES)
    page.claim("literals", n * dtype.itemsize)
    out = np.empty(n, dtype)
    codes = page.gather(dictionaries.of(page), out)
    erased = codes > 0 if codes is not None else None
    return out, erased


__all__ = ["Piece", "Views", "cut", "decode_lists", "finish", "join", "of_lists", "pick", "view_type"]
