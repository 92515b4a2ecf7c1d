"""One row group: which of its rows are read in one step, and each column's share of a step.

A step is the whole group if that fits the memory granted, else as many rows as do. Pages of different columns end at
different rows, so a page that reaches beyond a step is kept decoded for the next one, or decoded again where so many
columns keep one that they would exceed the budget. A nested column is read as the flat ones it was cut into; a clustered
one is put back into the order in which its rows came.
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

from headrace.storage import arrays
from headrace.storage.fetch import ChunkReader, count_values
from headrace.storage.footer import Column
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.nested_columns import assemble
from headrace.storage.views import Piece, cut, finish, join, pick, view_type

if TYPE_CHECKING:
    from headrace.storage.reader import File

BATCH_BYTES = 1 << 30  # strings of a batch beyond this come as several batches, far below Arrow's 2 GiB
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """Rows ``first`` up to ``last`` of a group, decoded together."""

    group: Group
    first: int
    last: int
    n_bytes: int
    """Arrow memory it takes, about."""

    def kept(self) -> Rows | None:
        """Numbers within the step of the rows that are not deleted; None for all."""
        if self.group.deleted is None:
            return None
        gone = self.group.deleted[self.first : self.last]
        return np.flatnonzero(~gone) if gone.any() else None


class Group:
    """The wanted columns of one row group; their parts can be decoded by several threads."""

    def __init__(self, file: File, number: int, columns: Sequence[Column], *, as_views: bool = False) -> None:
        footer = file.footer
        self.number, self.columns = number, columns
        self.n_rows = footer.rows_in(number)
        self.deleted = footer.deleted(number)
        self.schema = arrow_schema(columns, as_views=as_views)
        flat = _flat(file, columns)
        readers = {
            column.id: ChunkReader(
                file.source, column, chunk, file.file_entries(column), erased_rows=self.deleted is not None
            )
            for column, chunk in zip(flat, footer.chunks(flat, number), strict=True)
        }
        orders: dict[int, ClusterOrder] = {}
        self.parts = []
        for column in columns:
            order = None
            if column.cluster is not None:
                order = orders.setdefault(column.cluster, ClusterOrder(readers[column.cluster]))
            leader = readers[column.leader] if column.leader is not None else None
            nodes = [readers[column.id], *[readers[part] for part in column.parts]]
            self.parts.append(ColumnRows(nodes, leader, order, as_views=as_views))

    def steps(self, first: int, last: int, batch_rows: int, memory_bytes: int) -> Iterator[Step]:
        """Cut rows into steps of at most a quarter of the memory: one is decoded while one is in use."""
        unit = min(memory_bytes // 4, BATCH_BYTES)
        whole = sum([part.n_bytes for part in self.parts])
        if whole <= unit:
            yield Step(self, first, last, whole * (last - first) // self.n_rows)
            return
        ends = self._ends()
        keep = sum(part.widest for part in self.parts) <= unit
        for part in self.parts:
            part.keep = keep
        while first < last:
            before = np.interp(first, ends[0], ends[1])
            end = int(np.interp(before + unit, ends[1], ends[0]))
            unit_rows = min(batch_rows, BLOCK_ROWS)
            end = min(last, max(first + unit_rows, first + (end - first) // unit_rows * unit_rows))
            if end - first > batch_rows and end < last:
                end -= (end - first) % batch_rows
            yield Step(self, first, end, int(np.interp(end, ends[0], ends[1]) - before))
            first = end

    def _ends(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows at which some page ends, and the Arrow memory of all columns up to there."""
        knots = np.unique(np.concatenate([[0, self.n_rows], *(part.ends for part in self.parts)]))
        total = np.zeros(len(knots))
        for part in self.parts:
            total += np.interp(knots, part.ends, part.sizes)
        return knots, total


def _flat(file: File, columns: Sequence[Column]) -> list[Column]:
    """Every flat column that is needed for these, once: parts of nested ones, leaders, the columns of clusters."""
    found: dict[int, Column] = {}
    for column in columns:
        for part in file.footer.parts(column) if column.parts else [column]:
            found[part.id] = part
        for other in (column.leader, column.cluster):
            if other is not None and other not in found:
                found[other] = file.footer.column(other)
    return list(found.values())


class ClusterOrder:
    """Where the rows of clustered columns of a group lie; safe to use from several threads."""

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._places: Rows | None = None

    def places(self) -> Rows:
        """int64[rows of the group]: where the row that came i-th is stored."""
        with self._lock:
            if self._places is None:
                reader = self._reader
                found = reader.piece(0, len(reader.chunk.pages))
                if not isinstance(found, pa.Array) or found.type != pa.uint32() or found.null_count:
                    reader.place(0).fail("numbers of clusters", "uint32 without nulls", "others")
                order = np.argsort(arrays.numbers(found, np.dtype("u4")), kind="stable")
                self._places = np.empty(len(order), np.int64)
                self._places[order] = np.arange(len(order))
            return self._places


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
        self._lock = threading.Lock()
        self._kept: tuple[int, Piece] | None = None

    def rows(self, first: int, last: int, some: Rows | None = None) -> list[pa.Array]:
        """Rows ``first`` up to ``last`` of the group, or some of them, as one array, or several if it is huge.

        ``some`` are numbers within these rows, in any order.
        """
        pieces = self._pieces(first, last)
        if len(pieces) > 1 and sum([piece.nbytes for piece in pieces]) < BATCH_BYTES:
            pieces = [join(pieces)]
        if some is not None:
            pieces = [pick(join(pieces), some)]
        type_, fail = self.reader.column.type, self.reader.place(0).fail
        if type_.is_exact and not self._as_views and all(isinstance(piece, pa.Array) for piece in pieces):
            return pieces
        return [finish(piece, type_, fail, as_views=self._as_views) for piece in pieces]

    def _pieces(self, first: int, last: int) -> list[Piece]:
        with self._lock:
            if self._order is None:
                lo, hi = bisect_right(self.ends, first) - 1, bisect_left(self.ends, last)
                return self._ordered(first, last, lo, hi)
            if self._kept is None:
                self._kept = (0, self._decode(0, len(self.ends) - 1))
            whole = self._kept[1]
            if last == self.ends[-1]:
                self._kept = None
        return [pick(whole, self._order.places()[first:last])]

    def _ordered(self, first: int, last: int, lo: int, hi: int) -> list[Piece]:
        """Rows that lie in the order in which they came."""
        parts: list[Piece] = []
        if self._kept is not None and self._kept[0] == lo:
            start, end = self.ends[lo], self.ends[lo + 1]
            parts.append(cut(self._kept[1], first - start, min(last, end) - start))
            first, lo = end, lo + 1
        if lo < hi:
            beyond = self.ends[hi] > last
            # A page that reaches beyond these rows is decoded by itself, so that it alone is kept.
            cuts = [(lo, hi)] if not beyond or hi - lo == 1 else [(lo, hi - 1), (hi - 1, hi)]
            for begin, end in cuts:
                piece = self._decode(begin, end)
                if end == hi:
                    self._kept = (hi - 1, piece) if beyond and self.keep else None
                start = self.ends[begin]
                if first > start or beyond:
                    piece = cut(piece, max(first - start, 0), last - start)
                # Without keeping it, a slice would hold on to the whole page.
                parts.append(piece if self.keep or not beyond else pick(piece, np.arange(len(piece))))
        elif self.ends[hi] <= last:
            self._kept = None
        return parts

    def _decode(self, lo: int, hi: int) -> Piece:
        count_values(self.ends[hi] - self.ends[lo])
        own = self.reader.piece(lo, hi, self._leader)
        if not self.reader.column.type.is_nested:
            return own
        flat = [own]
        for node in self._nodes[1:]:
            pages = node.chunk.pages
            if pages and len(pages) + 1 != len(self.ends):
                node.place(0).fail("pages of a nested column", len(self.ends) - 1, len(pages))
            found = node.piece(lo, hi) if pages else pa.nulls(0, node.column.type.plain)
            flat.append(finish(found, node.column.type, node.place(0).fail) if _is_view(found) else found)
        return assemble(flat, self.reader.column.type, self.reader.place(lo).fail)


def _is_view(piece: Piece) -> bool:
    return not isinstance(piece, pa.Array)


def batches_of(
    step: Step, parts: list[list[pa.Array]], n_rows: int, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """A step's rows as batches."""
    group = step.group
    if all(len(part) == 1 for part in parts):
        found = [record_batch([part[0] for part in parts], group.schema, n_rows)]
    else:
        chunked = [pa.chunked_array(part) for part in parts]
        found = pa.Table.from_arrays(chunked, schema=group.schema).to_batches()
    for whole in found:
        if whole.num_rows <= batch_rows:
            if whole.num_rows:
                yield whole
            continue
        for first in range(0, whole.num_rows, batch_rows):
            yield whole.slice(first, batch_rows)


def arrow_schema(columns: Sequence[Column], *, as_views: bool = False) -> pa.Schema:
    """The Arrow schema of footer columns."""
    fields = [
        pa.field(column.name, view_type(column.type) if as_views else column.type.arrow, column.nullable)
        for column in columns
    ]
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
