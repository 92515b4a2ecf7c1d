"""Salvages what is readable of a damaged table into a new version, and lists what is lost.

In the flow: by hand, after ``verify`` and when there is no copy to restore from. Nothing is removed: damaged files and
manifests stay where they are, out of the new version's sight, until garbage collection. Of a damaged file, rows whose
every page is sound are written to a new one, down to stretches of 1,024. If manifests are damaged, the newest sound one
is what is gone on from, with the files of later ones that can still be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.storage import committing, staging
from headrace.storage import manifest as manifests
from headrace.storage.errors import CommitConflict, CorruptManifest, StorageError, TableNotFound
from headrace.storage.listing import Listing, keyed
from headrace.storage.log import BRINGS_ROWS, Log
from headrace.storage.manifest import DATA, FILE_NAME, FOLDER, Commit, DataFile, Manifest, Span
from headrace.storage.objects import Location, place
from headrace.storage.table import Table
from headrace.storage.verify import _with_families, chain, verify_file

if TYPE_CHECKING:
    from headrace.storage.scan import Scan

STRETCH = 1024


@dataclass(frozen=True)
class Lost:
    """Rows that could not be saved: of which file, which and how many, and why."""

    path: str
    rows: int
    why: str


@dataclass(frozen=True)
class Repaired:
    """What a repair did, or would.

    Attributes:
        base: the version it went on from.
        commit: the new version, None if nothing was wrong or nothing was to be written.
        salvaged: rows of damaged files that were saved.
        lost: what was not.
        damaged: files replaced or left out, and manifests that could not be read.
    """

    base: int
    commit: Commit | None
    salvaged: int
    lost: tuple[Lost, ...]
    damaged: tuple[str, ...]


def repair(
    location: Location,
    *,
    dry_run: bool = False,
    clock_ms: Callable[[], int] = committing.now_ms,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Repaired:
    """Publish a version of everything that can still be read.

    Args:
        location: the table.
        dry_run: say what would be saved and lost, and write nothing but the files that are looked through.
        clock_ms: what ``committed_at_ms`` is taken from.
        on_progress: is told how many files of how many are looked through.

    Raises:
        TableNotFound: there is no manifest at all.
        CorruptManifest: none of them can be read.
        CommitConflict: another writer was faster; repair again.
    """
    log = Log(place(location))
    newest = log.newest()
    base, listing, unread = _newest_sound(log, newest)
    table = Table(log.table, base)
    files, lost, damaged = [], list[Lost](), list(unread)
    salvaged, saved_rows = list[DataFile](), 0
    for done, (version, file) in enumerate(listing.files):
        on_progress(done, len(listing.files))
        findings = [found for part in _with_families(file) for found in verify_file(table, part)]
        if not findings:
            files.append((version, file))
            continue
        damaged.append(file.path)
        rows, saved = _saved(table, file, lost, dry_run=dry_run)
        saved_rows += rows
        if saved is not None:
            salvaged.append(saved)
    problems, sound = chain(log, base)
    broken = {found.path for found in problems if found.path.startswith(FOLDER)}
    damaged += sorted(broken - set(damaged))
    if not damaged or dry_run:
        return Repaired(base.version, None, saved_rows, tuple(lost), tuple(damaged))
    horizon = newest + 1
    if base.version == newest and not broken:
        horizon = sound[-1].version
    following = _following(log, base, newest, listing, files, salvaged, horizon, clock_ms())
    if not log.publish(following):
        raise CommitConflict(f"{log.table}: another writer was faster than this repair; repair again")
    commit = manifests.commit_of(following, log.table)
    return Repaired(base.version, commit, saved_rows, tuple(lost), tuple(damaged))


def _newest_sound(log: Log, newest: int) -> tuple[Manifest, Listing, list[str]]:
    """The newest version whose files can be listed, those files with what later manifests bring, and which are unread."""
    if not newest:
        raise TableNotFound(f"{log.table}: expected a table here, found no manifest; create one")
    numbers = sorted(
        (int(match[1]) for name in log.store.names(FOLDER) if (match := FILE_NAME.fullmatch(name))),
        reverse=True,
    )
    unread, later = list[str](), list[Manifest]()
    for version in numbers:
        try:
            manifest, _ = log.read(version)
        except StorageError:
            unread.append(log.name(version))
            continue
        try:
            listing = log.listing(manifest)
            log.schema(manifest)
        except StorageError:
            unread.append(log.name(version))
            later.append(manifest)
            continue
        return manifest, _with_later(listing, later), unread
    raise CorruptManifest(
        f"{log.table}: none of {len(numbers)} manifests can be read; restore the table from a copy"
    )


def _with_later(listing: Listing, later: list[Manifest]) -> Listing:
    """A listing with what manifests after a damaged one say of themselves."""
    files, keys = list(listing.files), dict(listing.keys)
    for manifest in reversed(later):
        if manifest.replaces_all:
            files.clear()
        gone = set(manifest.removed)
        files = [entry for entry in files if entry[1].path not in gone]
        if manifest.operation in BRINGS_ROWS or manifest.removed or manifest.replaces_all:
            files += [(manifest.version, file) for file in manifest.added]
        if manifest.key is not None:
            keys[manifest.key] = manifest.version
    return dataclasses.replace(listing, files=tuple(files), keys=keys)


def _saved(table: Table, file: DataFile, lost: list[Lost], *, dry_run: bool) -> tuple[int, DataFile | None]:
    """How many rows of a damaged file are sound, and a new file of them; None if there are none or it is a dry run."""
    scan = table._scan((file,))
    saved, why = 0, ""
    with ExitStack() as stack:
        into = None
        for found in _sound(scan, range(file.rows)):
            if isinstance(found, StorageError):
                why = why or str(found)
                continue
            saved += found.num_rows
            if dry_run:
                continue
            if into is None:
                into = staging.begin(table, stack, tags=file.tags, partition=file.partition)
            into.write(found)
        gone = file.rows - file.deleted - saved
        if gone:
            lost.append(Lost(file.path, gone, why))
        if into is None:
            return saved, None
        result = staging.finish(into)
    table._log.store.sync(DATA)
    return saved, result


def _sound(scan: Scan, rows: range) -> Iterator[pa.RecordBatch | StorageError]:
    """The batches of some rows, and an error for each stretch in which some page is damaged."""
    try:
        batches = list(dataclasses.replace(scan, rows=rows))
    except (StorageError, OSError) as error:
        if len(rows) <= STRETCH or isinstance(error, CorruptManifest):
            yield error if isinstance(error, StorageError) else CorruptManifest(str(error))
            return
        middle = rows.start + max(STRETCH, len(rows) // 2 // STRETCH * STRETCH)
        yield from _sound(scan, range(rows.start, middle))
        yield from _sound(scan, range(middle, rows.stop))
    else:
        yield from batches


def _following(
    log: Log,
    base: Manifest,
    newest: int,
    listing: Listing,
    files: list[tuple[int, DataFile]],
    salvaged: list[DataFile],
    horizon: int,
    committed_at_ms: int,
) -> Manifest:
    """A version that lists everything itself and leans on no damaged one."""
    version = newest + 1
    whole = (*(file for _, file in files), *salvaged)
    following = dataclasses.replace(
        base,
        version=version,
        parent_blake3=manifests.digest(log.store.get(log.name(newest))),
        since=0,
        since_blake3="",
        operation="repair",
        transaction=committing.transaction(),
        key=None,
        added=tuple(salvaged),
        removed=(),
        attachments=(),
        n_files=len(whole),
        n_rows=sum(file.rows - file.deleted for file in whole),
        committed_at_ms=committed_at_ms,
        root=manifests.files_root("", whole, ()),
        span=Span(tuple(files), (), (*listing.expired, *keyed(listing.keys))),
        standing=dataclasses.replace(base.standing, checkpoint=version, horizon=horizon),
    )
    return dataclasses.replace(following, required_features=manifests.features(following))
