"""Retention classes: how long rows of each may be kept, declared when a table is made, so that whole files expire together.

In the flow: ``staging`` parts rows by class and by the day on which they must be gone, compaction never mixes them, and
``expire`` then drops whole files and reads none of them. The day follows from the declaration alone: the time a row carries plus
the period of its class, rounded up so that it is never early. A row without a time, or of no declared class, lies in arrival
order in files of its own, which never expire by themselves; ``standing`` counts them. Persons are ``erase``'s part.

Source: a physical split by declared class, with deletion times no finer than they are known, is what keeps the space that
outlives its deadline small (Lethe, SIGMOD 2020; predicted updates with a backstop, Liu and Srinivas, COLT 2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.storage import committing, forgotten, held
from headrace.storage.collecting import IDLE, names_of
from headrace.storage.errors import (
    ClockDoubtful,
    PlanOutdated,
    SchemaMismatch,
    UnsupportedType,
    no_such_column,
)
from headrace.storage.log import Change
from headrace.storage.manifest import Commit, DataFile
from headrace.storage.parting import EXPIRES, Retention

if TYPE_CHECKING:
    from headrace.storage.table import Table

_DAY_US = 86_400_000_000
_TRIES = 8
MAX_DAYS = 36_500


@dataclass(frozen=True)
class Expired:
    """What an expiry removed, or would: whole files of all kept versions and their bytes, and the version that says so, 0 if none does."""

    files: tuple[str, ...]
    rows: int
    """Of the newest version."""
    bytes: int
    version: int
    closed_before: int
    """Versions before it can no longer be read; 0 if all can."""


@dataclass(frozen=True)
class Holding:
    """What a table's newest version holds of one class."""

    name: str | None
    """None is rows of no declared class, or without a time: they stay until somebody removes them."""
    days: int | None
    files: int
    rows: int
    bytes: int
    due_rows: int
    next_on: str | None
    """The next day, as a date, on which files go."""


def checked(retention: Retention, schema: pa.Schema, personal: Collection[str]) -> Retention:
    """Make sure that rows of a schema can be kept so.

    Raises:
        NoSuchColumn: of a class or a time that is no column.
        UnsupportedType: the class is no string, or the time neither timestamp nor date.
        SchemaMismatch: the class tells of a person, so that it would stand in every manifest.
        ValueError: no class, or a period that is no number of days from 1 to 36,500, or a grouping longer than the shortest period.
    """
    for name in (retention.column, retention.since):
        if name not in schema.names:
            raise no_such_column("retention", name, schema.names)
    type_, time = schema.field(retention.column).type, schema.field(retention.since).type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        raise UnsupportedType(
            f"a retention class is a string, {retention.column!r} is {type_}; add such a column"
        )
    if not (pa.types.is_timestamp(time) or pa.types.is_date(time)):
        raise UnsupportedType(
            f"a retention period begins at a timestamp or a date, {retention.since!r} is {time}; add such a column"
        )
    if retention.column in personal:
        raise SchemaMismatch(
            f"{retention.column!r} tells of a person, and classes stand in every manifest; declare retention by another column"
        )
    wrong = {name: days for name, days in retention.days.items() if not _is_period(days)}
    if wrong or not retention.days:
        raise ValueError(
            f"expected whole days from 1 to {MAX_DAYS} for each retention class, got {wrong or 'no class'}; a class without a "
            "limit is left out"
        )
    if not _is_period(retention.every_days) or retention.every_days > min(retention.days.values()):
        raise ValueError(
            f"expected every_days from 1 to the shortest period, {min(retention.days.values())}, got {retention.every_days}"
        )
    return retention


def _is_period(days: object) -> bool:
    return isinstance(days, int) and not isinstance(days, bool) and 1 <= days <= MAX_DAYS


def deadlines(batch: pa.RecordBatch, retention: Retention) -> pa.Array:
    """int64[rows]: the first day on which a row may not be there; null if its class or its time says none."""
    classes = batch.column(retention.column).cast(pa.string())
    places = pc.index_in(classes, value_set=pa.array(list(retention.days), pa.string()))
    periods = pa.array(list(retention.days.values()), pa.int64()).take(places)
    since = batch.column(retention.since).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    there = np.asarray(pc.and_(periods.is_valid(), since.is_valid()))
    begun = -(-np.asarray(since.fill_null(0)) // _DAY_US)  # never early: a day that has begun counts whole
    last = begun + np.asarray(periods.fill_null(0))
    rounded = -(-last // retention.every_days) * retention.every_days
    return pa.array(rounded, mask=~there)


def due(file: DataFile, now_ms: int) -> bool:
    """Whether none of a file's rows may be there any more."""
    day = file.partition.get(EXPIRES)
    return isinstance(day, int) and now_ms >= day * _DAY_US // 1000


def expire(
    table: Table, *, dry_run: bool = False, clock_ms: Callable[[], int] = committing.now_ms
) -> Expired:
    """Remove every file, of every kept version, whose rows have all outlived the period of their class.

    No page is read. Versions that named such a file are closed to time travel, as after an erasure.

    Args:
        table: moved on to the newest version.
        dry_run: say what would go, and write nothing.
        clock_ms: what the days are measured by.

    Raises:
        SchemaMismatch: the table declares no retention.
        ClockDoubtful: this machine's clock cannot be right; nothing was removed.
        PlanOutdated: other writers kept changing files; nothing was removed.
    """
    for _ in range(_TRIES):
        base = table.refresh()._manifest
        if base.standing.retention is None:
            raise SchemaMismatch(
                f"{table.path}: declares no retention, so no row of it expires; make a table with retention=Retention(...)"
            )
        now = clock_ms()
        if now - base.committed_at_ms > IDLE / timedelta(milliseconds=1):
            raise ClockDoubtful(
                f"{table.path}: this machine's clock is {(now - base.committed_at_ms) / _DAY_US * 1000:.0f} days past the newest "
                "commit; set it, or append something first if it is right; nothing was removed"
            )
        kept = held.kept_files(table)
        gone, left = [file for file in kept if due(file, now)], [file for file in kept if not due(file, now)]
        paths = tuple(sorted(file.path for file in gone))
        rows = sum(file.rows - file.deleted for file in table.files if file.path in paths)
        found = Expired(paths, rows, sum(file.bytes for file in gone), 0, 0)
        if dry_run or not gone:
            return found
        names = _names(gone) - _names(left)
        try:
            commit = _commit(table, base.version, names, clock_ms)
        except PlanOutdated:
            continue
        table._log.store.delete_all(names)
        return replace(found, version=commit.version, closed_before=table._manifest.standing.closed_before)
    raise PlanOutdated(
        f"{table.path}: files kept changing while some were to expire; nothing was removed; try again"
    )


def _names(files: Iterable[DataFile]) -> set[str]:
    return {name for file in files for name in names_of(file)}


def _commit(table: Table, version: int, gone: Collection[str], clock_ms: Callable[[], int]) -> Commit:
    mine, attached = committing.transaction(), table._manifest.standing.suppression
    if attached is not None:  # what was hidden of these files went with them
        after = forgotten.of(table).without(gone)
        (attached,) = committing.attach(table, mine, {forgotten.NAME: forgotten.pack(after)})

    def attempt() -> Change:
        if table.version != version:
            raise PlanOutdated(f"{table.path}: version {table.version} came between")
        removed = tuple(file for file in table.files if file.path in gone)
        standing = replace(table._manifest.standing, closed_before=table.version + 1, suppression=attached)
        return Change(
            (), (), mine, None, False, clock_ms(), operation="expire", removed=removed, standing=standing
        )

    return committing.publish(table, attempt)


def standing(table: Table, *, clock_ms: Callable[[], int] = committing.now_ms) -> list[Holding]:
    """What the newest version holds of each declared class, and of none; nothing if no retention is declared."""
    retention, now = table.retention, clock_ms()
    if retention is None:
        return []
    files: dict[str | None, list[DataFile]] = defaultdict(list)
    for file in table.files:
        has_day = isinstance(file.partition.get(EXPIRES), int)
        files[file.partition.get(retention.column) if has_day else None].append(file)
    found = []
    for name in (*retention.days, None):
        mine = files[name]
        days = [file.partition[EXPIRES] for file in mine if name is not None]
        found.append(
            Holding(
                name,
                retention.days.get(name) if name is not None else None,
                len(mine),
                sum(file.rows - file.deleted for file in mine),
                sum(file.bytes for file in mine),
                sum(file.rows - file.deleted for file in mine if due(file, now)),
                _date(min(days)) if days else None,
            )
        )
    return found


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
