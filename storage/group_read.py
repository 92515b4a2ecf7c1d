"""One row group: which of its rows are read in one step, and each column's share of a step.

A step is the whole group if that fits the memory granted, else as many rows as do. Pages of different columns end at
different rows, so a page that reaches beyond a step is kept decoded for the next one; the widest of them are decoded again
where all would exceed the budget. A nested column is read as the flat ones it was cut into; a clustered one is put back
into the order in which its rows came.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, exact
from headrace.storage.cluster_order import ClusterOrder
from headrace.storage.fetch import DECODED, ChunkReader
from headrace.storage.footer import Column
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.matching import matching, ranges
from headrace.storage.nested_columns import assemble
from headrace.storage.page_streams import justified
from headrace.storage.predicate import Predicate
from headrace.storage.runs import Runs
from headrace.storage.take import Counter, take_rows
from headrace.storage.views import Piece, cut, finish, join, pick, view_type

if TYPE_CHECKING:
    from headrace.storage.as_stored import StoredAs
    from headrace.storage.reader import File

BATCH_BYTES = 1 << 30  # strings of a batch beyond this come as several batches, far below Arrow's 2 GiB
FEW = 16
"""Of so many rows at most one is kept by a filter: its other columns are taken by position."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Selected:
    """Some columns' rows of a step, and how many rows those are."""

    columns: list[list[pa.Array]]
    n_rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """Rows ``first`` up to ``last`` of a group, decoded together."""

    group: Group
    first: int
    last: int
    n_bytes: int
    """Arrow memory it takes, about."""

    def bundles(self, bundle_bytes: int) -> list[tuple[int, int]]:
        """(first, last) of neighbouring columns that are worth a task together."""
        if self.group.predicate is not None:
            return [(0, len(self.group.parts))]
        found, first, held = [], 0, 0
        for at, part in enumerate(self.group.parts):
            held += part.n_bytes
            if held >= bundle_bytes:
                found.append((first, at + 1))
                first, held = at + 1, 0
        if first < len(self.group.parts):
            found.append((first, len(self.group.parts)))
        return found

    def decode(self, first: int, last: int) -> Selected:
        """Columns ``first`` up to ``last``: rows that are neither deleted nor left out by the filter."""
        group = self.group
        if group.predicate is not None:
            return group.filtered(self.first, self.last, group.predicate)
        left, n = group.left, self.last - self.first
        if left is not None:
            n = left.before(self.last) - left.before(self.first)
        return Selected([part.rows(self.first, self.last, left=left) for part in group.parts[first:last]], n)


class Group:
    """The wanted columns of one row group; their parts can be decoded by several threads."""

    def __init__(
        self,
        file: File,
        number: int,
        columns: Sequence[Column],
        *,
        as_views: bool = False,
        predicate: Predicate | None = None,
    ) -> None:
        footer = file.footer
        self.number, self.columns, self.predicate = number, columns, predicate
        self.n_rows = footer.rows_in(number)
        self.deleted = file.gone(number)
        self.left = None if self.deleted is None or predicate is not None else Runs.without(self.deleted)
        """The rows that are neither deleted nor hidden, if some are and no filter is to say which are read."""
        self.schema = arrow_schema(columns, as_views=as_views)
        asked = footer.columns(predicate.columns) if predicate is not None else []
        flat = _flat(file, [*columns, *asked])
        readers = {
            (column.id, column.stored): ChunkReader(
                file.source, column, chunk, file.file_entries(column), erased_rows=self.deleted is not None
            )
            for column, chunk in zip(flat, footer.chunks(flat, number), strict=True)
        }
        orders: dict[int, ClusterOrder] = {}

        def part_of(column: Column) -> ColumnRows:
            order = None
            if column.cluster is not None:
                order = orders.setdefault(column.cluster, ClusterOrder(readers[column.cluster, None]))
            leader = readers[column.leader, None] if column.leader is not None else None
            nodes = [readers[column.id, column.stored], *[readers[part, None] for part in column.parts]]
            return ColumnRows(nodes, leader, order, as_views=as_views)

        self.parts = [part_of(column) for column in columns]
        self._asked = {column.name: part_of(column) for column in asked}
        self._chunks = {column.name: (column, readers[column.id, None].chunk) for column in asked}
        self._footer = footer

    def ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """The rows among these that statistics cannot rule out, in order."""
        if self.predicate is None:
            return [(first, last)]
        return ranges(self._footer, self._chunks, self.predicate.any_of, first, last)

    def filtered(self, first: int, last: int, predicate: Predicate) -> Selected:
        """Rows that the filter keeps: its columns are decoded first, the others only as far as rows are left."""
        found = {name: joined(part.rows(first, last)) for name, part in self._asked.items()}
        batch = pa.RecordBatch.from_arrays(list(found.values()), names=list(found))
        gone = None if self.deleted is None else self.deleted[first:last]
        rows = matching(batch, predicate, gone)
        if not len(rows):
            return Selected([], 0)
        whole, few = len(rows) == last - first, len(rows) * FEW <= last - first
        columns = []
        for column, part in zip(self.columns, self.parts, strict=True):
            if column.name in found and not column.type.is_list and column.stored is None:
                columns.append(
                    [found[column.name] if whole else exact.take(found[column.name], _indices(rows))]
                )
            elif few:
                columns.append([part.take(rows + first)])
            else:
                columns.append(part.rows(first, last, None if whole else rows))
        return Selected(columns, len(rows))

    def steps(self, first: int, last: int, batch_rows: int, memory_bytes: int) -> Iterator[Step]:
        """Cut rows into steps of at most a quarter of the memory: one is decoded while one is in use."""
        unit = min(memory_bytes // 4, BATCH_BYTES)
        parts = [*self.parts, *self._asked.values()]
        whole = sum([part.n_bytes for part in parts])
        if whole <= unit:
            yield Step(self, first, last, whole * (last - first) // self.n_rows)
            return
        ends, stored = self._ends(parts), [part.stored_bytes for part in parts]
        room = unit
        for part in sorted(parts, key=lambda part: part.widest):  # so that most are decoded once
            part.keep = part.widest <= room
            room -= part.widest if part.keep else 0
        while first < last:
            before = np.interp(first, ends[0], ends[1])
            end = int(np.interp(before + unit, ends[1], ends[0]))
            unit_rows = min(batch_rows, BLOCK_ROWS)
            end = min(last, max(first + unit_rows, first + (end - first) // unit_rows * unit_rows))
            if end - first > batch_rows and end < last:
                end -= (end - first) % batch_rows
            n_bytes = int(np.interp(end, ends[0], ends[1]) - before)
            yield Step(self, first, end, justified(n_bytes, memory_bytes, stored))
            first = end

    def _ends(self, parts: Sequence[ColumnRows]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows at which some page ends, and the Arrow memory of all columns up to there."""
        knots = np.unique(np.concatenate([[0, self.n_rows], *(part.ends for part in parts)]))
        total = np.zeros(len(knots))
        for part in parts:
            total += np.interp(knots, part.ends, part.sizes)
        return knots, total


def _flat(file: File, columns: Sequence[Column]) -> list[Column]:
    """Every flat column that is needed for these, once: parts of nested ones, leaders, the columns of clusters."""
    found: dict[tuple[int, StoredAs | None], Column] = {}
    for column in columns:
        for part in file.footer.parts(column) if column.parts else [column]:
            found[part.id, part.stored] = part
        for other in (column.leader, column.cluster):
            if other is not None and (other, None) not in found:
                found[other, None] = file.footer.column(other)
    return list(found.values())


class ColumnRows:
    """A column's rows in one group, by row number; safe to use from several threads."""

    def __init__(
        self,
        nodes: Sequence[ChunkReader],
        leader: ChunkReader | None = None,
        order: ClusterOrder | None = None,
        *,
        as_views: bool = False,
    ) -> None:
        self.reader, self._nodes, self._leader, self._order = nodes[0], nodes, leader, order
        self._as_views = as_views
        self.keep = True
        pages = nodes[0].chunk.pages
        sizes = nodes[0].decoded_bytes()
        for node in nodes[1:]:
            if node.chunk.pages:
                sizes = [a + b for a, b in zip(sizes, node.decoded_bytes(), strict=False)]
        self.ends = [0, *[page.first_row + page.n_rows for page in pages]]
        self.sizes = [0, *accumulate(sizes)]
        self.n_bytes, self.widest = self.sizes[-1], max(sizes)
        self.stored_bytes = sum([page.used_len for page in pages])
        self._lock = threading.Lock()
        self._kept: tuple[int, Piece] | None = None

    def rows(
        self, first: int, last: int, some: Rows | None = None, left: Runs | None = None
    ) -> list[pa.Array]:
        """Rows ``first`` up to ``last`` of the group, or some of them, as one array, or several if it is huge.

        Args:
            first, last: which.
            some: numbers within these rows, in any order.
            left: instead, the rows of the group that are to be had at all; the same in every call.
        """
        pieces = self._pieces(first, last, left)
        if some is None and len(pieces) == 1:
            return [self.finish(pieces[0])]
        if len(pieces) > 1 and sum([piece.nbytes for piece in pieces]) < BATCH_BYTES:
            pieces = [join(pieces)]
        if some is not None:
            pieces = [pick(join(pieces), some)]
        return [self.finish(piece) for piece in pieces]

    def take(self, rows: Rows, counter: Counter | None = None) -> pa.Array:
        """Rows of the group by number, ascending and distinct, decoding no more than must be."""
        return self.finish(self.take_piece(rows, counter or Counter()))

    def take_piece(self, rows: Rows, counter: Counter) -> Piece:
        """As ``take``, in plain form."""
        if self.reader.column.type.is_nested:
            first, last = int(rows[0]), int(rows[-1]) + 1
            counter.add(sum(node.chunk.pages[-1].first_row for node in self._nodes if node.chunk.pages))
            return pick(join(self._pieces(first, last)), rows - first)
        if self._order is None:
            return take_rows(self.reader, rows, counter, self._leader)
        places = self._order.places()
        counter.add(len(places))
        stored = places[rows]
        order = np.argsort(stored)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pick(take_rows(self.reader, stored[order], counter, self._leader), back)

    def finish(self, piece: Piece) -> pa.Array:
        """Rows in plain form as they are handed out."""
        column = self.reader.column
        if isinstance(piece, pa.Array) and not self._as_views and column.type.is_exact:
            found = piece
        else:
            order, fail = self.reader.order(), self.reader.place(0).fail
            found = finish(piece, column.type, fail, as_views=self._as_views, entries=order)
        return found if column.stored is None else column.stored.finish(found)

    def _pieces(self, first: int, last: int, left: Runs | None = None) -> list[Piece]:
        with self._lock:
            if self._order is None:
                lo, hi = bisect_right(self.ends, first) - 1, bisect_left(self.ends, last)
                return self._ordered(first, last, lo, hi, left)
            if self._kept is None:
                self._kept = (0, self._decode(0, len(self.ends) - 1))
            whole = self._kept[1]
            if last == self.ends[-1]:
                self._kept = None
        places = self._order.places()[first:last]
        return [pick(whole, places if left is None else places[left.cut(first, last).rows])]

    def _ordered(self, first: int, last: int, lo: int, hi: int, left: Runs | None) -> list[Piece]:
        """Rows that lie in the order in which they came."""

        def part(piece: Piece, start: int, end: int) -> Piece:
            """Of a piece that begins at row ``start``: rows ``first`` up to ``end``."""
            if left is None:
                return cut(piece, max(first - start, 0), end - start)
            begin = left.before(start)
            return cut(piece, left.before(max(first, start)) - begin, left.before(end) - begin)

        parts: list[Piece] = []
        if self._kept is not None and self._kept[0] == lo:
            start, end = self.ends[lo], self.ends[lo + 1]
            parts.append(part(self._kept[1], start, min(last, end)))
            first, lo = end, lo + 1
        if lo < hi:
            beyond = self.ends[hi] > last
            # A page that reaches beyond these rows is decoded by itself, so that it alone is kept.
            cuts = [(lo, hi)] if not beyond or hi - lo == 1 else [(lo, hi - 1), (hi - 1, hi)]
            for begin, end in cuts:
                piece = self._decode(begin, end, left)
                if end == hi:
                    self._kept = (hi - 1, piece) if beyond and self.keep else None
                start = self.ends[begin]
                if first > start or beyond:
                    piece = part(piece, start, last)
                # Without keeping it, a slice would hold on to the whole page.
                parts.append(piece if self.keep or not beyond else pick(piece, np.arange(len(piece))))
        elif self.ends[hi] <= last:
            self._kept = None
        return parts

    def _decode(self, lo: int, hi: int, left: Runs | None = None) -> Piece:
        """All rows of some pages; of these the ones ``left``."""
        DECODED.add(self.ends[hi] - self.ends[lo])
        runs = None if left is None else left.cut(self.ends[lo], self.ends[hi])
        if not self.reader.column.type.is_nested:
            return self.reader.piece(lo, hi, self._leader, runs)
        own = self.reader.piece(lo, hi, self._leader)
        flat = [own]
        for node in self._nodes[1:]:
            pages = node.chunk.pages
            if pages and len(pages) + 1 != len(self.ends):
                node.place(0).fail("pages of a nested column", len(self.ends) - 1, len(pages))
            found = node.piece(lo, hi) if pages else pa.nulls(0, node.column.type.plain)
            flat.append(finish(found, node.column.type, node.place(0).fail) if _is_view(found) else found)
        found = assemble(flat, self.reader.column.type, self.reader.place(lo).fail)
        return found if runs is None else pick(found, runs.rows)


def _is_view(piece: Piece) -> bool:
    return not isinstance(piece, pa.Array)


def joined(parts: list[pa.Array]) -> pa.Array:
    """A column's arrays as one."""
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)


def _indices(rows: Rows) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


def batches_of(step: Step, found: Selected, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """A step's rows as batches."""
    schema = step.group.schema
    if not found.n_rows:
        return
    if all(len(part) == 1 for part in found.columns):
        whole = [record_batch([part[0] for part in found.columns], schema, found.n_rows)]
    else:
        chunked = [pa.chunked_array(part) for part in found.columns]
        whole = pa.Table.from_arrays(chunked, schema=schema).to_batches()
    for one in whole:
        if one.num_rows <= batch_rows:
            if one.num_rows:
                yield one
            continue
        for first in range(0, one.num_rows, batch_rows):
            yield one.slice(first, batch_rows)


def arrow_schema(columns: Sequence[Column], *, as_views: bool = False) -> pa.Schema:
    """The Arrow schema of footer columns."""
    fields = []
    for column in columns:
        type_ = view_type(column.type) if as_views else column.type.arrow
        make = pa.field if column.stored is None else column.stored.field
        fields.append(make(column.name, type_, column.nullable))
    return pa.schema(fields)


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
