"""Many small files become few good ones: of a target size, clustered by key, or in the order of a quality.

In the flow: run beside readers and writers. What is compacted is planned at one version; rows are read, put in order and
staged as new files, and one commit swaps them for the old ones if none of these has changed meanwhile, else it is all
planned again (``conflicts``). Clustered by its key, one person's history lies together: sequences compress across it,
and erasing it touches few pages. In order of quality, the best part of a table is one sequential read (``quality``).

Rows are put in order without a spill: the key column alone is read first, cut into ranges whose rows fit the memory that
was granted, and each range is read, sorted and written in turn. Nothing personal is left in temporary files.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.storage import committing
from headrace.storage.errors import PlanOutdated, SchemaMismatch, no_such_column
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.log import Change
from headrace.storage.manifest import DATA, Commit, DataFile, Order
from headrace.storage.storing import Storing

if TYPE_CHECKING:
    from headrace.storage.table import Table

TARGET_BYTES = 256 << 20
MEMORY_BYTES = 1 << 30
_TRIES = 8
_MAX = sys.float_info.max


@dataclass(frozen=True)
class Plan:
    """What a compaction would do to one part of a table.

    Attributes:
        files: that are read and replaced.
        rows, bytes: of them.
    """

    files: tuple[DataFile, ...]
    rows: int
    bytes: int


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: files and bytes before and after, and the commit, None if there was nothing to do."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int
    commit: Commit | None


def plan(
    table: Table,
    *,
    target_bytes: int = TARGET_BYTES,
    cluster_by: str | None = None,
    quality: str | None = None,
    everything: bool = False,
) -> list[Plan]:
    """What ``compact`` would read, part by part; arguments as there."""
    order = _order(table, cluster_by, quality)
    by_part: dict[tuple[tuple[str, object], ...], list[DataFile]] = defaultdict(list)
    for file in table.files:
        by_part[tuple(sorted(file.partition.items()))].append(file)
    plans = []
    for files in by_part.values():
        chosen = [
            file
            for file in files
            if everything
            or file.bytes < target_bytes // 2
            or file.families
            or (order is not None and not _is_in(file, order))
        ]
        worth = len(chosen) > 1 or any(
            file.families or (order is not None and not _is_in(file, order)) for file in chosen
        )
        if worth or (everything and chosen):
            plans.append(
                Plan(tuple(chosen), sum(f.rows - f.deleted for f in chosen), sum(f.bytes for f in chosen))
            )
    return plans


def _is_in(file: DataFile, order: Order) -> bool:
    return file.order is not None and (file.order.column, file.order.descending) == (
        order.column,
        order.descending,
    )


def _order(table: Table, cluster_by: str | None, quality: str | None) -> Order | None:
    if cluster_by is not None and quality is not None:
        raise ValueError("expected cluster_by or quality, got both: rows lie in one order")
    column = cluster_by if quality is None else quality
    if column is None:
        return None
    if column not in table.schema.names:
        raise no_such_column(table.path, column, table.schema.names)
    type_ = table.schema.field(column).type
    if pa.types.is_nested(type_):
        raise SchemaMismatch(f"{table.path}: rows cannot be put in the order of {column!r}, which is {type_}")
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    if quality is not None and not numeric:
        raise SchemaMismatch(f"{table.path}: a quality is a number, {column!r} is {type_}; add such a column")
    return Order(table._manifest.standing.stored_as.get(column, column), quality is not None)


def compact(
    table: Table,
    *,
    target_bytes: int = TARGET_BYTES,
    cluster_by: str | None = None,
    quality: str | None = None,
    everything: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    clock_ms: Callable[[], int] = committing.now_ms,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
    storing: Storing | None = None,
) -> Compacted:
    """Replace small or unordered files by good ones, in one commit.

    Args:
        table: moved on to the newest version.
        target_bytes: about how long files become; those at least half as long are left alone.
        cluster_by: the column whose equal values lie together afterwards; files that are so already are left alone.
        quality: the column by which the best rows come first; nulls and NaN last.
        everything: leave no file alone.
        memory_bytes: about how much of the rows is held at once.
        clock_ms: what ``committed_at_ms`` is taken from.
        on_progress: is told how many rows of how many are written.
        storing: how rows are stored, as for ``write``.

    Raises:
        PlanOutdated: other writers kept changing the files; nothing was committed.
    """
    for _ in range(_TRIES):
        plans = plan(
            table.refresh(),
            target_bytes=target_bytes,
            cluster_by=cluster_by,
            quality=quality,
            everything=everything,
        )
        inputs = tuple(file for part in plans for file in part.files)
        rows = sum(part.rows for part in plans)
        if not inputs:
            return Compacted(0, 0, 0, 0, 0, None)
        order = _order(table, cluster_by, quality)
        base, outputs, written = table._manifest, list[DataFile](), 0

        def tell(n: int, rows: int = rows) -> None:
            nonlocal written
            written += n
            on_progress(written, rows)

        column = cluster_by if quality is None else quality
        try:
            for part in plans:
                outputs += _rewritten(
                    table, part, column, order, target_bytes, memory_bytes, tell, storing or {}
                )
            commit = _swap(table, base, inputs, outputs, clock_ms)
        except PlanOutdated:
            for file in outputs:  # never listed by anybody
                with suppress(OSError):
                    table._log.store.delete(file.path)
            continue
        return Compacted(
            len(inputs),
            len(outputs),
            sum(file.bytes for file in inputs),
            sum(file.bytes for file in outputs),
            rows,
            commit,
        )
    raise PlanOutdated(
        f"{table.path}: other writers changed the files {_TRIES} times while they were compacted; nothing was committed; "
        "try again later, or with a smaller target"
    )


def _swap(
    table: Table,
    base: object,
    inputs: tuple[DataFile, ...],
    outputs: Sequence[DataFile],
    clock_ms: Callable[[], int],
) -> Commit:
    mine = committing.transaction()

    def attempt() -> Change:
        committing.unchanged(table, "compact", base, inputs)  # type: ignore[arg-type]
        committing.refuse_old(table, outputs)
        return Change(tuple(outputs), (), mine, None, False, clock_ms(), operation="compact", removed=inputs)

    return committing.publish(table, attempt)


def _rewritten(
    table: Table,
    part: Plan,
    column: str | None,
    order: Order | None,
    target_bytes: int,
    memory_bytes: int,
    tell: Callable[[int], None],
    how: Storing,
) -> list[DataFile]:
    from headrace.storage import staging

    per_row = max(sum(file.bytes for file in part.files) / max(part.rows, 1), 1e-9)
    rows_each = max(GROUP_ROWS, round(target_bytes / per_row / GROUP_ROWS) * GROUP_ROWS)
    if order is not None and not order.descending and "cluster_by" not in how:
        how = {**how, "cluster_by": column}
    done: list[DataFile] = []
    batches = (
        iter(table._scan(part.files))
        if order is None
        else _ordered(table, part, str(column), order, memory_bytes)
    )
    told = order is not None and order.descending and column not in (table.erase_key, *table.personal)
    with ExitStack() as stack:
        current, rows, values, last = None, 0, list[float | None](), None
        for batch in _ahead(batches):
            at = 0
            while at < batch.num_rows:
                if current is None:
                    current = staging.begin(table, stack, partition=part.files[0].partition, **how)
                    rows, values = 0, []
                taken = batch.slice(at, min(batch.num_rows - at, rows_each - rows))
                if told:
                    values += _marks(taken.column(column), rows, rows_each)
                current.write(taken)
                at, rows = at + taken.num_rows, rows + taken.num_rows
                tell(taken.num_rows)
                if told:
                    last = _number(taken.column(column)[-1])
                if rows == rows_each:
                    done.append(_closed(current, order, (*values, last) if told else ()))
                    current = None
        if current is not None:
            done.append(_closed(current, order, (*values, last) if told else ()))
    table._log.store.sync(DATA)
    media = tuple(dict.fromkeys(side for file in part.files for side in file.media))
    return [dataclasses.replace(file, media=media) for file in done] if media else done


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """``batches``, a row group of which is read while the one before is written."""

    def group() -> list[pa.RecordBatch]:
        found, rows = list[pa.RecordBatch](), 0
        while rows < GROUP_ROWS and (batch := next(batches, None)) is not None:
            found.append(batch)
            rows += batch.num_rows
        return found

    with ThreadPoolExecutor(1, "headrace-compact") as reader:
        following = reader.submit(group)
        while found := following.result():
            following = reader.submit(group)
            yield from found


def _closed(staged: object, order: Order | None, values: tuple[float | None, ...]) -> DataFile:
    from headrace.storage import staging

    found = staging.finish(staged)  # type: ignore[arg-type]
    return (
        found
        if order is None
        else dataclasses.replace(found, order=dataclasses.replace(order, values=values))
    )


def _marks(column: pa.Array, first: int, rows_each: int) -> list[float | None]:
    """The values at row-group boundaries among rows ``first`` on of a file."""
    start = -(-first // GROUP_ROWS) * GROUP_ROWS
    return [_number(column[row - first]) for row in range(start, first + len(column), GROUP_ROWS)]


def _number(value: pa.Scalar) -> float | None:
    """A quality as JSON can hold it."""
    found = value.as_py()
    return None if found is None or found != found else min(max(float(found), -_MAX), _MAX)


def _ordered(
    table: Table, part: Plan, column: str, order: Order, memory_bytes: int
) -> Iterator[pa.RecordBatch]:
    """All rows of a part in the order of a column, those of equal values as they came."""
    held = _bytes_per_row(table, part) * part.rows
    if held <= memory_bytes:
        whole = table._scan(part.files).to_table().combine_chunks()
        yield from _taken(whole, _places(whole.column(column), order))
        return
    keys = table._scan(part.files, [column]).to_table().column(column)
    rank = np.empty(len(keys), np.int64)
    rank[np.asarray(_places(keys, order))] = np.arange(len(keys))
    pieces = max(1, -(-held // memory_bytes))
    each = -(-len(keys) // pieces)
    del keys
    for piece in range(pieces):
        wanted = (rank >= piece * each) & (rank < (piece + 1) * each)
        yield from _piece(table, part, rank, wanted)


def _places(keys: pa.ChunkedArray, order: Order) -> pa.Array:
    """Which row comes first, which next, and so on; nulls and NaN last, and rows of equal keys as they came."""
    if order.descending and pa.types.is_floating(keys.type):
        keys = pc.if_else(pc.is_nan(keys), None, keys)
    direction = "descending" if order.descending else "ascending"
    # In one chunk, for which Arrow has quicker ways; they are stable, as all of its sorting is.
    return pc.sort_indices(keys.combine_chunks(), sort_keys=[("", direction)])


def _taken(whole: pa.Table, places: pa.Array) -> Iterator[pa.RecordBatch]:
    """Rows in another order, a row group of them at a time."""
    for start in range(0, len(places), GROUP_ROWS):
        yield from whole.take(places.slice(start, GROUP_ROWS)).combine_chunks().to_batches()


def _piece(
    table: Table, part: Plan, rank: NDArray[np.int64], wanted: NDArray[np.bool_]
) -> Iterator[pa.RecordBatch]:
    found: list[pa.RecordBatch] = []
    at = 0
    for batch in table._scan(part.files):
        mine = wanted[at : at + batch.num_rows]
        at += batch.num_rows
        if mine.any():
            found.append(batch if mine.all() else batch.filter(pa.array(mine)))
    if not found:
        return
    yield from _taken(pa.Table.from_batches(found), pa.array(np.argsort(rank[wanted])))


def _bytes_per_row(table: Table, part: Plan) -> int:
    """Of rows in memory, judged by some of them."""
    largest = max(part.files, key=lambda file: file.rows)
    for batch in table._scan((largest,)):
        rows, held = int(batch.num_rows), int(batch.nbytes)
        return int(2 * held // max(rows, 1)) + 1  # once as read, once in order
    return 1
