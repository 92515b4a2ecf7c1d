"""Forgetting persons in a table, at three levels: suppressed, erased, canonical.

In the flow: ``headrace erase`` and ``jobs/erase.py`` come here, beside readers, writers and compaction. *Suppressed*: one
commit hides the rows in every version, at once. *Erased*: their bytes are overwritten in every file of every kept version, where
they lie (``erase_file``), or the file is written anew (``canonical``) where a page has no room or the level asks for it; a
file that was replaced so is removed, and versions that named it are closed. What their rows
refer to in side files becomes zeros (``erase_media``). Then one commit says which files have which root by now. An erase that was killed is finished by the next one, or by whoever opens the file (``redo``).

What is planned meets what others commit meanwhile in ``conflicts``: an erase plans again until nothing came between, and
everybody else gives way to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyroaring import BitMap

from headrace.storage import committing, erase_media, forgotten, held
from headrace.storage.compaction import compact
from headrace.storage.entropy import Entropy
from headrace.storage.erase_work import Work
from headrace.storage.erased import HIDDEN, LEVELS, Erased, FileErased, Level
from headrace.storage.errors import PlanOutdated
from headrace.storage.forgotten import Forgotten
from headrace.storage.log import Change
from headrace.storage.manifest import DATA, Commit, DataFile, Manifest
from headrace.storage.paths import inside
from headrace.storage.reader import File

if TYPE_CHECKING:
    from headrace.storage.table import Table

_TRIES = 8


def suppress(
    table: Table, subjects: Iterable[object], *, clock_ms: Callable[[], int] = committing.now_ms
) -> Erased:
    """Hide persons' rows in every version, and refuse rows of theirs that come later.

    Args:
        table: moved on to the newest version.
        subjects: values of the erase key.
        clock_ms: what ``committed_at_ms`` is taken from.

    Raises:
        NoEraseKey: the table has none.
        PlanOutdated: other writers kept adding rows; nothing was committed.
    """
    began, keys = time.monotonic(), held.keys_of(table, subjects)
    for _ in range(_TRIES):
        base = table.refresh()._manifest
        known = forgotten.of(table)
        rows = dict[str, BitMap]()
        for entry in held.kept_files(table):
            with File(inside(table.path, entry.path, DATA)) as file:
                mine = held.rows_of(file, keys)
            if len(mine):
                rows[entry.path] = mine
                known = known.owing(erase_media.referred_to(table, entry, keys))
        after = known.with_persons(keys.to_pylist(), base.version + 1).hiding(rows)
        try:
            commit = _commit(table, base, (), (), after, clock_ms)
        except PlanOutdated:
            continue
        found = tuple(FileErased(path, len(mine), HIDDEN, 0, 0, 0, "", "", 0) for path, mine in rows.items())
        n, roots = sum(file.rows for file in found), (base.root, table._manifest.root)
        return Erased("suppressed", len(keys), n, found, commit.version, *roots, 0, time.monotonic() - began)
    raise PlanOutdated(
        f"{table.path}: rows kept coming while these were hidden; nothing was committed; try again"
    )


def erase(
    table: Table,
    subjects: Iterable[object],
    *,
    level: Level = "erased",
    dry_run: bool = False,
    seed: int | None = None,
    clock_ms: Callable[[], int] = committing.now_ms,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Erased:
    """Erase persons from every byte of every kept version.

    Args:
        table: on a mounted file system; moved on to the newest version.
        subjects: values of the erase key; persons without a row are no error.
        level: one of ``LEVELS``.
        dry_run: say what would be written, and write nothing; the same table and persons get the same answer.
        seed: of nonces and new files, for tests; None draws them.
        clock_ms: what ``committed_at_ms`` is taken from.
        on_progress: is told how many files of how many are done.

    Raises:
        NoEraseKey: the table has none.
        BadLocation: the table lies in a store, whose objects cannot be written over.
        PlanOutdated: other writers kept changing files; what was erased stays erased, the next erase says so in a version.
        ValueError: an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"expected a level of {', '.join(LEVELS)}, got {level!r}")
    began, keys = time.monotonic(), held.keys_of(table, subjects)
    if level == "suppressed" and not dry_run:
        return suppress(table, keys.to_pylist(), clock_ms=clock_ms)
    if not dry_run:
        suppress(table, keys.to_pylist(), clock_ms=clock_ms)
        if any(file.families for file in table.files):
            compact(table, clock_ms=clock_ms)  # which joins them, without the rows that are hidden
    work = Work(table, keys, level, dry_run, Entropy(seed))
    for _ in range(_TRIES):
        base = table.refresh()._manifest
        work.over(on_progress)
        files = tuple(work.done.values())
        rows = sum(file.rows for file in files)
        if dry_run:
            seconds, waiting = time.monotonic() - began, held.waiting(table)
            return Erased(level, len(keys), rows, files, 0, base.root, base.root, 0, seconds, waiting)
        added, removed = work.entries()
        try:
            commit = _commit(table, base, added, removed, work.forgotten(), clock_ms, closes=work.closes)
        except PlanOutdated:
            continue
        work.remove()
        roots, closed = (base.root, table._manifest.root), table._manifest.standing.closed_before
        seconds, waiting = time.monotonic() - began, held.waiting(table)
        return Erased(level, len(keys), rows, files, commit.version, *roots, closed, seconds, waiting)
    raise PlanOutdated(
        f"{table.path}: files kept changing while persons were erased; erase again to have it said in a version"
    )


def _commit(
    table: Table,
    base: Manifest,
    added: Sequence[DataFile],
    removed: Sequence[DataFile],
    after: Forgotten,
    clock_ms: Callable[[], int],
    *,
    closes: bool = False,
) -> Commit:
    """One version that says who is hidden and which files have which root."""
    mine = committing.transaction()
    (entry,) = committing.attach(table, mine, {forgotten.NAME: forgotten.pack(after)})

    def attempt() -> Change:
        if table.version != base.version:
            raise PlanOutdated(f"{table.path}: version {table.version} came between")
        standing = table._manifest.standing
        standing = replace(
            standing,
            suppression=entry,
            erase_epoch=standing.erase_epoch + 1,
            closed_before=table.version + 1 if closes else standing.closed_before,
        )
        return Change(
            tuple(added),
            (),
            mine,
            None,
            False,
            clock_ms(),
            operation="erase",
            removed=tuple(removed),
            standing=standing,
        )

    return committing.publish(table, attempt)


__all__ = ["LEVELS", "Erased", "FileErased", "Level", "erase", "suppress"]
