"""One row group: which of its lists slide, in which order their rows are stored, and every column's chunk.

Sits between the writer, which fills row groups and knows files, and ``chunk``, which encodes one column. Rows of a table
that arrive by time belong to many users, and a user's history repeats from row to row of that user; so where rows of
one key are scattered, lists that slide are stored in the order of their keys within the group, and a hidden column says
which row belongs to which key (FORMAT.md, section 6.1). All other columns stay as they came. Lists of the same lengths
that are edited alike, such as the times and scores of one history, share the edits of the first of them. Where edits are
found and how they lie in streams is ``sequences``' and ``encodings.sequence``'s part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, nested_columns, sequences
from headrace.storage.chunk import ColumnRules, ColumnWriter, Encoded, Slides
from headrace.storage.encodings import Workload, prefer_kernels
from headrace.storage.flatten import Cuts, page_cuts, valid_cuts
from headrace.storage.logical import ColumnType, column_type

SEQUENCE = "sequence"
SEQUENCE_PAGE_BYTES = 16 << 20  # each page repeats the history it starts with
SEQUENCE_BLOCKS = 8
PARALLEL_VALUES = 1 << 18  # fewer are encoded before threads have started
MANY_BYTES = 1 << 26  # of Arrow memory in one file: to write so much takes longer than to load a compiler
ENCODED = Workload(1_000)
"""Chunks that a process encodes without numba, however small. From then on loading it, or compiling where no kernel is cached
yet, half a second to two and a half, is repaid within as many again: by planning alone, nearly all there is to do for few rows."""
Order: TypeAlias = "NDArray[np.int64] | None"


@dataclass(frozen=True)
class FlatColumn:
    """A column as pages hold it: a table's own, a part of a nested one, or the hidden one of clusters."""

    name: str
    nullable: bool
    type: ColumnType
    rules: ColumnRules
    top: int
    """The table's column that it belongs to."""


@dataclass(frozen=True)
class _Keys:
    """Which rows of a group belong together."""

    numbers: NDArray[np.uint32]
    scattered: bool
    """Whether rows of one key are apart."""


class GroupWriter:
    """Encodes the row groups of one file, one after the other."""

    def __init__(self, columns: Sequence[FlatColumn], cluster_by: int | None) -> None:
        """
        Args:
            columns: all of the file's, without the hidden one.
            cluster_by: the column that tells whose a row is; lists never refer to rows of another.
        """
        self.columns = columns
        self.clustered: frozenset[int] | None = None
        """The columns stored in the order of clusters, decided by the first group; None before it."""
        self.follows: dict[int, int] = {}
        """Columns of which some page has no edits of its own, and the column that has them."""
        self.writers = [ColumnWriter(column.type, column.rules) for column in columns]
        self._cluster_by = cluster_by
        self._n_bytes = 0
        # Parts of nested columns have rows of their own number, of which nothing says whose they are.
        self._sliding = [
            index
            for index, column in enumerate(columns)
            if _may_slide(column) and (cluster_by is None or column.top == index)
        ]

    def keep_orders(self, batch: pa.RecordBatch) -> None:
        """Note the entries of ordered dictionaries, in the form in which rows came.

        Raises:
            SchemaMismatch: their order contradicts that of earlier rows.
        """
        for column, writer in zip(self.columns, self.writers, strict=True):
            if column.type.is_ordered:
                writer.keep_order(batch.column(column.name), column.name)

    def write(
        self, flat: Sequence[pa.Array], cuts: Sequence[Cuts | None], n_rows: int
    ) -> tuple[list[Encoded], pa.Array | None]:
        """All chunks of a group.

        Args:
            flat: one array per column.
            cuts: where the pages of parts of nested columns end; None elsewhere.
            n_rows: of the group.

        Returns:
            The chunks, and the values of the hidden column if clusters have been made in this file.
        """
        self._n_bytes += sum(one.nbytes for one in flat)
        ENCODED.add(len(flat))
        if self._n_bytes >= MANY_BYTES:
            prefer_kernels()
        keys = self._keys(flat) if self._sliding else None
        order = sequences.clustered_order(keys.numbers) if keys is not None and keys.scattered else None
        if self.clustered is None:
            self.clustered = self._decide(flat, keys, order)
        tasks = self._tasks(flat)
        if sum(len(one) for one in flat) < PARALLEL_VALUES:
            done = [self._task(task, flat, cuts, keys, order) for task in tasks]
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                futures = [pool.submit(self._task, task, flat, cuts, keys, order) for task in tasks]
                done = [future.result() for future in futures]
        chunks: dict[int, Encoded] = {}
        for task, encoded in zip(tasks, done, strict=True):
            chunks.update(zip(task, encoded, strict=True))
        hidden = None
        if self.clustered:
            numbers = keys.numbers if keys is not None and order is not None else np.zeros(n_rows, np.uint32)
            hidden = pa.Array.from_buffers(pa.uint32(), n_rows, [None, pa.py_buffer(numbers)])
        return [chunks[index] for index in range(len(self.columns))], hidden

    def _keys(self, flat: Sequence[pa.Array]) -> _Keys | None:
        if self._cluster_by is None:
            return None
        numbers = sequences.cluster_numbers(flat[self._cluster_by])
        runs = 1 + int(np.count_nonzero(numbers[1:] != numbers[:-1])) if len(numbers) else 0
        return _Keys(numbers, runs > int(numbers.max(initial=0)) + 1)

    def _decide(self, flat: Sequence[pa.Array], keys: _Keys | None, order: Order) -> frozenset[int]:
        """The lists that slide from row to row of a key, if its rows are scattered; else none."""
        if keys is None or order is None:
            return frozenset()
        found = []
        for index in self._sliding:
            array = flat[index]
            offsets, items = _lists(array)
            numbers = keys.numbers[arrays.validity(array)] if array.null_count else keys.numbers
            layout = sequences.worth_it(offsets, items, numbers, sequences.clustered_order(numbers))
            if layout is not None and layout.clustered:
                found.append(index)
        return frozenset(found)

    def _tasks(self, flat: Sequence[pa.Array]) -> list[list[int]]:
        """Columns that may share edits, lists of the same lengths, belong to one task; all others are their own."""
        alike: dict[bytes, list[int]] = {}
        tasks = []
        for index, array in enumerate(flat):
            if index not in self._sliding or not len(array):
                tasks.append([index])
                continue
            lengths = (
                arrays.list_lengths(array.drop_null()) if array.null_count else arrays.list_lengths(array)
            )
            valid = arrays.validity(array).tobytes() if array.null_count else b""
            same = alike.setdefault(lengths.tobytes() + valid, [])
            if not same:
                tasks.append(same)
            same.append(index)
        # Long lists first: they take longest, and the rest fills the gaps.
        return sorted(tasks, key=lambda task: -sum(flat[index].nbytes for index in task))

    def _task(
        self,
        task: list[int],
        flat: Sequence[pa.Array],
        cuts: Sequence[Cuts | None],
        keys: _Keys | None,
        order: Order,
    ) -> list[Encoded]:
        done: list[Encoded] = []
        leader: tuple[int, Slides] | None = None
        for index in task:
            writer, array = self.writers[index], flat[index]
            if index not in self._sliding:
                done.append(writer.write(array, cuts[index]))
                continue
            numbers = None if keys is None else keys.numbers
            if order is not None and index in (self.clustered or ()):
                array, numbers = take(array, order), None if numbers is None else numbers[order]
            slides = None
            # Only lists in the same order of rows can have the same edits.
            if leader is not None and (leader[0] in (self.clustered or ())) == (
                index in (self.clustered or ())
            ):
                slides = _following(array, leader[1])
                if slides is not None:
                    self.follows[index] = leader[0]
            if slides is None:
                slides = self._slides(index, array, numbers)
                leader = leader if slides is None else (index, slides)
            done.append(writer.write(array) if slides is None else writer.write_sequence(array, slides))
        return done

    def _slides(self, index: int, array: pa.Array, numbers: NDArray[np.uint32] | None) -> Slides | None:
        """The edits of a chunk's lists, or None if they do not slide."""
        if array.null_count == len(array) or array.flatten().null_count:
            return None
        rules = self.columns[index].rules
        offsets, items = _lists(array)
        if array.null_count and numbers is not None:
            numbers = numbers[arrays.validity(array)]
        layout = sequences.worth_it(offsets, items, numbers, None, seed=rules.seed)
        if layout is None and rules.encoding != SEQUENCE:
            return None
        cuts = page_cuts(array, min(SEQUENCE_BLOCKS, rules.page_blocks), SEQUENCE_PAGE_BYTES)
        restart = np.zeros(len(offsets) - 1, np.bool_) if numbers is None else sequences.restarts(numbers)
        oldest_first = layout is not None and layout.oldest_first
        edits = sequences.slide_pages(
            offsets, items, valid_cuts(array, cuts), restart, oldest_first=oldest_first
        )
        return Slides(edits, cuts)


def shredded(
    tops: Sequence[pa.Array], types: Sequence[ColumnType], page_blocks: int
) -> tuple[list[pa.Array], list[Cuts | None]]:
    """One array per flat column, and where the pages of nested columns and their parts end."""
    flat: list[pa.Array] = []
    cuts: list[Cuts | None] = []
    parts: list[pa.Array] = []
    part_cuts: list[Cuts | None] = []
    for array, type_ in zip(tops, types, strict=True):
        if not type_.is_nested:
            flat.append(array)
            cuts.append(None)
            continue
        arrays_of = nested_columns.shred(array, type_)
        ends = nested_columns.boundaries(arrays_of, type_, page_cuts(array, page_blocks))
        flat.append(arrays_of[0])
        cuts.append(ends[0])
        parts += arrays_of[1:]
        part_cuts += ends[1:]
    return flat + parts, cuts + part_cuts


def take(lists: pa.Array, order: NDArray[np.int64]) -> pa.Array:
    """Lists in another order: as Arrow's own, but for rows of any number of items and without its detours."""
    if lists.null_count or lists.flatten().null_count:
        return lists.take(pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)]))
    offsets, items = sequences.ordered(*_lists(lists), order)
    child = pa.Array.from_buffers(lists.type.value_type, len(items), [None, pa.py_buffer(items)])
    return pa.Array.from_buffers(lists.type, len(lists), [None, pa.py_buffer(offsets)], children=[child])


def _lists(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Offsets and items of the rows that are not null; items that are null themselves are no sequence's."""
    offsets, items = sequences.flat(array)
    if items.null_count:
        return offsets, np.zeros(int(offsets[-1]), np.uint8)
    leaf = column_type(items.type, "").leaf
    return offsets, arrays.numbers(items, leaf.dtype or np.dtype(np.uint8))


def _may_slide(column: FlatColumn) -> bool:
    leaf = column.type.leaf
    fits = (
        column.type.is_list and column.type.size is None and leaf.dtype is not None and leaf.dtype.kind != "b"
    )
    return fits and column.rules.encoding in (None, SEQUENCE)


def _following(array: pa.Array, leader: Slides) -> Slides | None:
    """What a list must write that is edited like its leader, or None if it is not."""
    if array.flatten().null_count:
        return None
    offsets, items = _lists(array)
    edits = sequences.follow_pages(leader.edits, offsets, items, valid_cuts(array, leader.cuts))
    return None if edits is None else Slides(edits, leader.cuts, follows=True)
