"""Forgetting persons in a table, at three levels: suppressed, erased, canonical.

In the flow: ``headrace erase`` and ``jobs/erase.py`` come here, beside readers, writers and compaction. *Suppressed*: one
commit hides the rows in every version, at once. *Erased*: their bytes are overwritten in every file of every kept version, where
they lie (``erase_file``), or the file is written anew (``canonical``) where a page has no room or the level asks for it; a
file that was replaced so is removed, and versions that named it are closed. Then one commit says which files have which
root by now. An erase that was killed is finished by the next one, or by whoever opens the file (``redo``).

What is planned meets what others commit meanwhile in ``conflicts``: an erase plans again until nothing came between, and
everybody else gives way to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress as ignoring
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pyroaring import BitMap

from headrace.storage import canonical, committing, erase_file, forgotten, held
from headrace.storage.compaction import compact
from headrace.storage.entropy import Entropy
from headrace.storage.erasing import DISK_BLOCK
from headrace.storage.errors import CannotEraseInPlace, PlanOutdated
from headrace.storage.forgotten import Forgotten
from headrace.storage.log import Change
from headrace.storage.manifest import DATA, Commit, DataFile, Manifest
from headrace.storage.paths import inside
from headrace.storage.reader import File

if TYPE_CHECKING:
    from headrace.storage.table import Table

Level = Literal["suppressed", "erased", "canonical"]
LEVELS: tuple[Level, ...] = ("suppressed", "erased", "canonical")
IN_PLACE, ANEW = "in place", "anew"
_TRIES = 8


@dataclass(frozen=True)
class FileErased:
    """What became of one file, or would."""

    path: str
    rows: int
    how: str
    """``in place`` or ``anew``."""
    data_blocks: int
    """Disk blocks of 4,096 bytes with rows that change."""
    bytes_written: int
    """Journal and footer included."""
    bytes_total: int
    root_before: str
    root_after: str
    epoch: int


@dataclass(frozen=True)
class Erased:
    """What an erase did, or would."""

    level: Level
    subjects: int
    rows: int
    files: tuple[FileErased, ...]
    version: int
    """That says so; 0 of a dry run."""
    root_before: str
    root_after: str
    closed_before: int
    """Versions before it can no longer be read; 0 if all can."""
    seconds: float

    @property
    def bytes_written(self) -> int:
        """Over all files."""
        return sum(file.bytes_written for file in self.files)


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
        rows: dict[str, BitMap] = {}
        for entry in held.kept_files(table):
            with File(inside(table.path, entry.path, DATA)) as file:
                mine = held.rows_of(file, keys)
            if len(mine):
                rows[entry.path] = mine
        after = known.with_persons(keys.to_pylist(), base.version + 1).hiding(rows)
        try:
            commit = _commit(table, base, (), (), after, clock_ms)
        except PlanOutdated:
            continue
        found = tuple(
            FileErased(path, len(mine), "hidden", 0, 0, 0, "", "", 0) for path, mine in rows.items()
        )
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
        CannotEraseInPlace: rows refer to media in side files; nothing was done.
        BadLocation: the table lies in a store, whose objects cannot be written over.
        PlanOutdated: other writers kept changing files; what was erased stays erased, the next erase says so in a version.
        ValueError: an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"expected a level of {', '.join(LEVELS)}, got {level!r}")
    began, keys = time.monotonic(), held.keys_of(table, subjects)
    if level == "suppressed" and not dry_run:
        return suppress(table, keys.to_pylist(), clock_ms=clock_ms)
    _refuse_media(table)
    if not dry_run:
        suppress(table, keys.to_pylist(), clock_ms=clock_ms)
        if any(file.families for file in table.files):
            compact(table, clock_ms=clock_ms)  # which joins them, without the rows that are hidden
    done: dict[str, FileErased] = {}
    replaced: dict[str, DataFile] = {}
    entropy = Entropy(seed)
    for _ in range(_TRIES):
        base = table.refresh()._manifest
        entries = held.kept_files(table)
        # Those of the newest version were compacted above.
        joined = [] if dry_run else [entry for entry in entries if entry.families]
        for at, entry in enumerate(entries):
            if entry.path not in replaced and entry not in joined:
                # Bytes that happen to stay as they were are not written, so how many those are depends on the nonces: a dry
                # run keeps none, and draws them from the root of what it looks at, to answer the same each time.
                drawn = Entropy(int(entry.root[:30], 16)) if dry_run else entropy
                one, new = _file(table, entry, keys, level, dry_run, drawn)
                if one is not None:
                    done[entry.path] = one
                if new is not None:
                    replaced[entry.path] = new
            on_progress(at + 1, len(entries))
        files = tuple(done.values())
        rows = sum(file.rows for file in files)
        if dry_run:
            return Erased(level, len(keys), rows, files, 0, base.root, base.root, 0, time.monotonic() - began)
        live = {file.path: file for file in table.files}
        old = tuple(live[path] for path in replaced if path in live and live[path] != replaced[path])
        new_entries = tuple(replaced[file.path] for file in old)
        anew = [path for path, entry in replaced.items() if entry.path != path]
        after = forgotten.of(table)
        for path, entry in replaced.items():
            with File(inside(table.path, entry.path, DATA)) as file:
                after = after.erased(path, entry.path, held.deleted(file))
        try:
            commit = _commit(table, base, new_entries, old, after, clock_ms, closes=bool(anew or joined))
        except PlanOutdated:
            continue
        anew += [
            name for entry in joined for name in (entry.path, *(family.path for family in entry.families))
        ]
        for path in anew:
            with ignoring(FileNotFoundError):
                table._log.store.delete(path)
        if anew:
            table._log.store.sync(DATA)
        roots, closed = (base.root, table._manifest.root), table._manifest.standing.closed_before
        seconds = time.monotonic() - began
        return Erased(level, len(keys), rows, files, commit.version, *roots, closed, seconds)
    raise PlanOutdated(
        f"{table.path}: files kept changing while persons were erased; erase again to have it said in a version"
    )


def _refuse_media(table: Table) -> None:
    for entry in held.kept_files(table):
        if entry.media:
            raise CannotEraseInPlace(
                f"{table.path}: rows of {entry.path} refer to media in side files, which are not erased by person yet; write "
                "the media into columns first; nothing was done"
            )


def _file(
    table: Table, entry: DataFile, keys: pa.Array, level: Level, dry_run: bool, entropy: Entropy
) -> tuple[FileErased | None, DataFile | None]:
    """Erase from one file; what was done, and its new entry if its bytes are others by now."""
    path = Path(str(inside(table.folder, entry.path, DATA)))
    with File(path) as file:
        trailer, deleted = file.footer.trailer, file.footer.n_deleted()
    now = replace(entry, erase_epoch=trailer.erase_epoch, root=trailer.root.hex(), deleted=deleted)
    moved = now if now != entry else None  # an earlier erase was killed before it could say so
    if level != "canonical":
        with ignoring(CannotEraseInPlace):
            return _in_place(path, now, keys, dry_run, entropy) or (None, moved)
    with File(path) as file:
        rows = len(held.rows_of(file, keys))
    if not rows and not deleted:
        return None, moved
    return _anew(table, path, now, keys, rows, dry_run, entropy)


def _in_place(
    path: Path, now: DataFile, keys: pa.Array, dry_run: bool, entropy: Entropy
) -> tuple[FileErased, DataFile] | None:
    plan = erase_file.plan(path, keys, nonces=entropy.take)
    if plan is None:
        return None
    if not dry_run:
        erase_file.run(plan)
    one = FileErased(
        now.path,
        plan.rows,
        IN_PLACE,
        plan.data_blocks,
        plan.bytes_written,
        now.bytes,
        now.root,
        plan.root,
        plan.epoch,
    )
    return one, replace(now, erase_epoch=plan.epoch, root=plan.root, deleted=plan.deleted)


def _anew(
    table: Table, path: Path, now: DataFile, keys: pa.Array, rows: int, dry_run: bool, entropy: Entropy
) -> tuple[FileErased, DataFile | None]:
    one = FileErased(
        now.path,
        rows,
        ANEW,
        -(-now.bytes // DISK_BLOCK),
        now.bytes,
        now.bytes,
        now.root,
        "",
        now.erase_epoch + 1,
    )
    if dry_run:
        return one, None
    identity = entropy.take(16)
    name = f"{DATA}/{identity.hex()}.hrc"
    written = canonical.rewrite(
        path, table.folder / name, keys, seed=int.from_bytes(entropy.take(8)), uuid=identity
    )
    table._log.store.sync(DATA)
    new = replace(
        now,
        path=name,
        bytes=written.bytes,
        uuid=written.uuid,
        erase_epoch=written.erase_epoch,
        root=written.root,
        deleted=now.deleted + rows,
        staged_at=table.version,
    )
    blocks = -(-written.bytes // DISK_BLOCK)
    one = replace(
        one,
        data_blocks=blocks,
        bytes_written=written.bytes,
        root_after=written.root,
        epoch=written.erase_epoch,
    )
    return one, new


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
