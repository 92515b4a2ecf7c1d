"""The best rows of a table: by a threshold, or by the share wanted.

In the flow: after ``compact(quality=…)`` has put rows in the order of their quality. In a file in that order the rows at
or above a threshold are its first ones; manifests keep the quality of each row group's first row, so only the group in
which the threshold falls is looked at, and what is read is one sequential prefix (Bullion's quality-aware order, CIDR
2025). Files that came later are filtered, so the answer never depends on what was compacted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.storage.layout import GROUP_ROWS
from headrace.storage.manifest import DataFile
from headrace.storage.scan import Scan

if TYPE_CHECKING:
    from headrace.storage.table import Table


@dataclass(frozen=True)
class Best:
    """Rows whose quality is at least ``threshold``; iterate it for ``RecordBatch``es, best files first.

    Attributes:
        prefixes: of files in order, how many of their first rows; and of others, None: they are filtered.
    """

    table: Table
    column: str
    threshold: float
    columns: tuple[str, ...] | None
    prefixes: tuple[tuple[DataFile, int | None], ...]
    batch_rows: int = GROUP_ROWS

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        return self.table._scan((), self.columns).schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for file, rows in self.prefixes:
            if rows == 0:
                continue
            scan = self.table._scan((file,), self.columns, batch_rows=self.batch_rows)
            if rows is None:
                asked = pc.field(self.column) >= self.threshold
                scan = self.table._scan((file,), self.columns, asked, batch_rows=self.batch_rows)
            elif rows < file.rows:
                scan = replace(scan, rows=range(rows))
            yield from scan

    def to_table(self) -> pa.Table:
        """All of them in memory."""
        return pa.Table.from_batches(list(self), schema=self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule stream of these rows."""
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(self))
        return reader.__arrow_c_stream__(requested_schema)


def above(table: Table, column: str, threshold: float, columns: Sequence[str] | None = None) -> Best:
    """Rows whose quality is at least ``threshold``; nulls and NaN are only at ``-inf``, which asks for every row."""
    whole = threshold == float("-inf")
    prefixes = tuple(
        (file, file.rows if whole else _prefix(table, file, column, threshold))
        for file in _best_first(table, column)
    )
    named = None if columns is None else tuple(columns)
    return Best(table, column, threshold, named, prefixes)


def best(table: Table, column: str, share: float, columns: Sequence[str] | None = None) -> Best:
    """The best ``share`` of all rows: those at least as good as the row that share ends with, its equals included.

    Args:
        table: at the version it shows.
        column: the quality.
        share: of rows, more than 0 up to 1.
        columns: those wanted; None is all.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share above 0 up to 1, got {share}")
    wanted = int(np.ceil(share * table.num_rows))
    return above(table, column, _quantile(table, column, wanted), columns)


def _quantile(table: Table, column: str, wanted: int) -> float:
    """The quality of the ``wanted``-th best row; reads it from one row group where files follow each other in order."""
    files = _best_first(table, column)
    bounds = [(_values(file)[0], _values(file)[-1]) for file in files if _is_ordered(table, file, column)]
    follow = len(bounds) == len(files) and all(earlier[1] >= later[0] for earlier, later in pairwise(bounds))
    if follow and not any(file.deleted for file in files):
        left = wanted
        for file in files:
            if left <= file.rows:
                found = table._scan((file,), [column]).take([left - 1]).column(0)[0].as_py()
                return float("-inf") if found is None else float(found)
            left -= file.rows
    values = pc.fill_null(table.scan([column]).to_table().column(column).cast(pa.float64()), float("-inf"))
    numbers = np.nan_to_num(values.to_numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return float(np.partition(numbers, len(numbers) - wanted)[len(numbers) - wanted]) if len(numbers) else 0.0


def _values(file: DataFile) -> list[float]:
    """The qualities that the manifest keeps of a file, those of nulls and NaN below all others."""
    return [float("-inf") if value is None else value for value in (file.order.values if file.order else ())]


def _is_ordered(table: Table, file: DataFile, column: str) -> bool:
    stored = table._manifest.standing.stored_as.get(column, column)
    order = file.order
    return order is not None and order.descending and order.column == stored and bool(order.values)


def _best_first(table: Table, column: str) -> list[DataFile]:
    """Files in order by their best row, then the others as they came."""
    ordered = [file for file in table.files if _is_ordered(table, file, column)]
    ordered.sort(key=lambda file: -_values(file)[0])
    return ordered + [file for file in table.files if not _is_ordered(table, file, column)]


def _prefix(table: Table, file: DataFile, column: str, threshold: float) -> int | None:
    """How many first rows of a file are at least as good, or None if it must be filtered."""
    if not _is_ordered(table, file, column):
        return None
    starts = np.asarray(_values(file)[:-1])
    groups = int(np.count_nonzero(starts >= threshold))
    if not groups:
        return 0
    if _values(file)[-1] >= threshold:
        return file.rows
    first = (groups - 1) * GROUP_ROWS
    last = min(groups * GROUP_ROWS, file.rows)
    scan = table._scan((file,), [column])
    if file.deleted:
        return None
    values = _column(replace(scan, rows=range(first, last)))
    return first + int(np.count_nonzero(values >= threshold))


def _column(scan: Scan) -> np.ndarray:
    values = scan.to_table().column(0).cast(pa.float64())
    return np.asarray(pc.fill_null(values, float("nan")).to_numpy())
