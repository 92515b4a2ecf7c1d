"""Garbage collection: old versions expire, and files that no kept version can need are removed.

In the flow: run by hand or by a timer beside any number of readers and writers. First a version is published whose
manifest lists everything itself and says what has expired; only then are bytes removed, so a crash leaves too much and
never too little. What keeps a late writer from bringing back what was collected:

- a file, or an attachment, that was put in place before ``staged_since`` is refused by every later commit, since that
  limit stands in the manifest the commit goes on top of;
- files that no manifest speaks of may belong to a writer that is still at work: they are noted (``<version>.seen.json``)
  and removed by a later run whose limit has passed that version;
- manifests are removed upwards from the oldest, after a marker that is created once under their upper bound, so that a
  number which is free again is known to be a used one (``Log.publish``).

Versions are counted, not timed; an age is turned into a version by the noted times, every doubt in favour of keeping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from headrace.storage import committing
from headrace.storage.errors import ClockDoubtful
from headrace.storage.log import Change
from headrace.storage.manifest import (
    ATTACHMENTS,
    DATA,
    FOLDER,
    MARKERS,
    MEDIA,
    DataFile,
    Manifest,
)

if TYPE_CHECKING:
    from headrace.storage.table import Table

SKEW = timedelta(hours=26)  # by which clocks of writers may differ: a wrong time zone and a little more
IDLE = timedelta(days=400)  # a table that nobody wrote to for longer, or a clock that is, or was, wrong
_SEEN = ".seen.json"


@dataclass(frozen=True)
class Collected:
    """What a run removes, or would.

    Attributes:
        version: the version it publishes, or was planned at.
        horizon: the oldest version that is kept.
        held_back_by: a query whose newest commit is the reason why more is kept than was asked for.
        expired: files that only expired versions had.
        orphans: files that no version has, noted by an earlier run.
        noted: how many such files are noted for a later run.
        manifests: versions whose manifests go.
        bytes: of expired files and orphans.
    """

    version: int
    horizon: int
    held_back_by: str | None
    expired: tuple[str, ...]
    orphans: tuple[str, ...]
    noted: int
    manifests: range
    bytes: int


def collect(
    table: Table,
    *,
    keep_versions: int | None = None,
    older_than: timedelta | None = None,
    forget: Collection[str] = (),
    dry_run: bool = False,
    clock_ms: Callable[[], int] = committing.now_ms,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Collected:
    """Let old versions expire and remove what only they needed.

    Args:
        table: moved on to the newest version.
        keep_versions: so many of the newest versions stay.
        older_than: versions that were replaced longer ago than this expire; with ``keep_versions`` both must hold.
        forget: queries whose newest commits need not be kept; that of any other query holds the horizon back, because
            its attachments are what it goes on from.
        dry_run: say what would go, and write nothing.
        clock_ms: what age is measured by.
        on_progress: is told how many files of how many are removed.

    Raises:
        ClockDoubtful: an age was given, but this machine's clock cannot be right.
        ValueError: neither limit was given.
    """
    if keep_versions is None and older_than is None:
        raise ValueError("expected keep_versions or older_than, got neither: nothing would ever expire")
    if keep_versions is not None and keep_versions < 1:
        raise ValueError(f"expected to keep at least 1 version, got {keep_versions}")
    table.refresh()
    before = table._manifest
    horizon, held = _horizon(table, keep_versions, older_than, set(forget), clock_ms)
    if not dry_run and horizon == before.standing.horizon:
        plan, seen = _plan(table, before, horizon, held)
        if not (plan.expired or plan.orphans or plan.manifests or plan.noted):
            return plan  # nothing to publish a version for
    if not dry_run:
        mine = committing.transaction()

        def attempt() -> Change:
            standing = table._manifest.standing
            wanted = max(horizon, standing.horizon)
            after = dataclasses.replace(
                standing, horizon=wanted, staged_since=max(wanted, standing.staged_since)
            )
            return Change(
                (), (), mine, None, False, clock_ms(), operation="gc", standing=after, checkpoint=True
            )

        committing.publish(table, attempt)
    plan, seen = _plan(table, before, horizon, held)
    if not dry_run:
        _sweep(table, plan, seen, on_progress)
    return plan


def _horizon(
    table: Table,
    keep_versions: int | None,
    older_than: timedelta | None,
    forget: set[str],
    clock_ms: Callable[[], int],
) -> tuple[int, str | None]:
    wanted = table.version
    if keep_versions is not None:
        wanted = min(wanted, table.version - keep_versions + 1)
    if older_than is not None:
        wanted = min(wanted, _by_age(table, older_than, clock_ms()))
    newest: dict[str, int] = {}
    for (query, _), version in table._listing().keys.items():
        newest[query] = max(version, newest.get(query, 0))
    held = min(((v, q) for q, v in newest.items() if q not in forget and v < wanted), default=None)
    if held is not None:
        return max(held[0], table._manifest.standing.horizon), held[1]
    return max(wanted, table._manifest.standing.horizon), None


def _by_age(table: Table, older_than: timedelta, now: int) -> int:
    """The newest version that was there ``older_than`` ago, or an older one if clocks leave a doubt."""
    kept = list(table._log.back(table._manifest, table._manifest.standing.horizon))  # newest first
    latest = max((found.committed_at_ms for found in kept if found.committed_at_ms <= now), default=None)
    if latest is None:
        return kept[-1].version  # our clock is behind all writers'
    idle = IDLE / timedelta(milliseconds=1)
    if now - latest > idle:
        raise _doubtful(table, "this machine's clock is", now - latest, "the newest commit")
    limit = now - (older_than + SKEW) / timedelta(milliseconds=1)
    since, horizon = 0, kept[-1].version
    for found in reversed(kept):  # from the oldest on; no version counts as older than the one before it
        _, put = table._log.store.stat(table._log.name(found.version))
        noted = max(found.committed_at_ms, put or 0)
        if noted > now:
            break  # from a clock that is ahead of ours, or ours went back: from here on nothing is certain
        if since and noted - since > idle:
            # Whoever wrote it may have had the wrong clock that this machine has.
            raise _doubtful(table, f"version {found.version} is", noted - since, "those before it")
        since = max(since, noted)
        if since > limit:
            break
        horizon = found.version
    return horizon


def _doubtful(table: Table, what: str, ms: float, since: str) -> ClockDoubtful:
    return ClockDoubtful(
        f"{table.path}: {what} {ms / 86_400_000:.0f} days past {since}; if that is right, say how many versions to keep "
        "instead of an age; else set the clock; nothing was removed"
    )


def names_of(file: DataFile) -> Iterator[str]:
    """All names in the table's folder that a file's entry speaks of."""
    yield file.path
    yield from (family.path for family in file.families)
    yield from (side.path for side in file.media)


def _needed(table: Table, newest: Manifest, oldest: int) -> set[str]:
    """All names that versions ``oldest`` up to ``newest`` speak of."""
    found = {name for file in table._log.spoken_of(newest, oldest) for name in names_of(file)}
    for manifest in table._log.back(newest, oldest):
        found.update(entry.path for entry in manifest.attachments)
        if manifest.standing.suppression is not None:
            found.add(manifest.standing.suppression.path)
    return found


def _plan(
    table: Table, before: Manifest, horizon: int, held: str | None
) -> tuple[Collected, dict[int, list[str]]]:
    """What goes, given that ``horizon`` is, or will be, the oldest version kept; and notes of earlier runs used up."""
    log, store = table._log, table._log.store
    kept = _needed(table, table._manifest, horizon)
    gone = _needed(table, before, before.standing.horizon) - kept
    present = set(_present(table))
    expired = sorted(gone & present)
    notes = {at: names for at, names in _notes(table).items() if at < horizon}
    noted = {name for names in notes.values() for name in names}
    orphans = sorted((noted & present) - kept - gone)
    unknown = present - kept - gone - noted
    bottom, _ = log.read(horizon)
    top = bottom.standing.checkpoint
    first = min((version for version in _versions(table)), default=top)
    size = sum(store.stat(name)[0] for name in (*expired, *orphans))
    manifests = range(first, max(first, top))
    found = Collected(
        table.version, horizon, held, tuple(expired), tuple(orphans), len(unknown), manifests, size
    )
    notes[-table.version] = sorted(unknown)  # negative: to be written
    return found, notes


def _present(table: Table) -> Iterator[str]:
    """Names in the folders that hold rows, attachments and media, and what writers left beside manifests."""
    store = table._log.store
    for folder in (DATA, MEDIA):
        yield from (f"{folder}/{name}" for name in store.names(folder))
    for transaction in store.names(ATTACHMENTS):
        yield from (
            f"{ATTACHMENTS}/{transaction}/{name}" for name in store.names(f"{ATTACHMENTS}/{transaction}")
        )
    yield from (f"{FOLDER}/{name}" for name in store.names(FOLDER) if name.endswith(".tmp"))


def _versions(table: Table) -> Iterator[int]:
    for name in table._log.store.names(FOLDER):
        if name[:20].isdigit() and name.endswith(".json"):
            yield int(name[:20])


def _notes(table: Table) -> dict[int, list[str]]:
    store = table._log.store
    found = {}
    for name in store.names(MARKERS):
        if name.endswith(_SEEN):
            names = msgspec.json.decode(store.get(f"{MARKERS}/{name}"), type=list[str])
            found[int(name.removesuffix(_SEEN))] = names
    return found


def _sweep(
    table: Table,
    plan: Collected,
    notes: dict[int, list[str]],
    on_progress: Callable[[int, int], None],
) -> None:
    store, log = table._log.store, table._log
    store.make(MARKERS)
    unknown = notes.pop(-table.version)
    if unknown:
        note = f"{MARKERS}/{table.version:020d}{_SEEN}"
        store.keep(note, msgspec.json.encode(unknown), committing.transaction())
    going = (*plan.expired, *plan.orphans)
    total = len(going) + len(plan.manifests)
    for done, name in enumerate(going, 1):
        store.delete(name)
        on_progress(done, total)
    for folder in {name.rsplit("/", 1)[0] for name in going}:
        store.sync(folder)
        if folder.startswith(f"{ATTACHMENTS}/"):
            store.prune(folder)
    if plan.manifests:
        marker = f"{MARKERS}/{plan.manifests.stop:020d}.json"
        if not store.exists(marker):
            store.keep(marker, b"{}\n", committing.transaction())
    for done, version in enumerate(plan.manifests, len(going) + 1):
        store.delete(log.name(version))
        on_progress(done, total)
    if plan.manifests:
        store.sync(FOLDER)
    for at in notes:
        store.delete(f"{MARKERS}/{at:020d}{_SEEN}")
