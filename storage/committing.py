"""How a version comes about: validate, attach, publish; again on top of whoever was faster, or not at all.

One loop serves every operation. Each attempt sees the newest version, asks the conflict table about what came in
between, lets the operation say what it wants to change there, and tries to take the next number (``log``). Whatever a
query's fence, its key, or garbage collection forbid is looked at on every attempt. Nothing is deleted here: files of an
operation that was refused stay until garbage collection, unless their owner knows that nobody else may list them.
"""

from __future__ import annotations

import dataclasses
import random
import time
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from headrace.storage import manifest as manifests
from headrace.storage.conflicts import Verdict, verdict
from headrace.storage.errors import (
    CommitConflict,
    CommitFenced,
    NoSuchVersion,
    PlanOutdated,
    SchemaMismatch,
    StagedTooLongAgo,
)
from headrace.storage.evolved import refuse_unreadable
from headrace.storage.late_rows import LateRows
from headrace.storage.log import Change
from headrace.storage.manifest import ATTACHMENTS, DATA, FOLDER, Attachment, Commit, DataFile, Fence, Manifest
from headrace.storage.paths import inside
from headrace.storage.scan import checked_file

if TYPE_CHECKING:
    from headrace.storage.table import Table

Key = tuple[str, int]
_PATIENCE = 3  # attempts before a writer steps back for a moment


def now_ms() -> int:
    """The wall clock; only ever written down, nothing is ordered by it."""
    return time.time_ns() // 1_000_000


def transaction() -> str:
    """What a writer knows its own manifest by."""
    return uuids.uuid4().hex


def publish(table: Table, attempt: Callable[[], Change | Commit]) -> Commit:
    """Try until a version is published, or ``attempt`` has another answer.

    Who was beaten to a number waits for its turn among those that were, where the store has turns: each of them would
    sync a manifest in vain as often as the others succeed. Who comes anew does not wait and may be faster still.

    Args:
        table: is moved on to the newest version before each attempt, and to the published one.
        attempt: says what to change in the table as it is then, or raises.
    """
    tries = 0
    with ExitStack() as beaten:
        while True:
            table.refresh()
            change = attempt()
            if isinstance(change, Commit):
                return change
            following = table._log.following(table._manifest, change)
            if table._log.publish(following):
                table._show(following)
                return manifests.commit_of(following, table.path)
            tries += 1
            if tries == 1:
                beaten.enter_context(table._log.store.turn(FOLDER))
            if tries > _PATIENCE:
                time.sleep(random.uniform(0, 0.002 * min(tries, 50)))


def append(
    table: Table,
    files: Sequence[DataFile],
    key: Key | None,
    attachments: Mapping[str, bytes],
    replace_all: bool,
    epoch: int | None,
    clock_ms: Callable[[], int],
) -> Commit:
    """Publish staged files and attachments; see ``Table.commit``."""
    added, mine, base = tuple(files), transaction(), table._manifest
    table.refresh()
    if (done := committed(table, key)) is not None:
        return done
    refuse_old(table, added)  # a file that was collected is missing, and not damaged
    validate(table, added)
    table._log.store.sync(DATA)
    attached, attached_at = attach(table, mine, attachments), table.version
    late = LateRows(added)

    def attempt() -> Change | Commit:
        if (done := committed(table, key)) is not None:
            return done
        _fenced(table, key, epoch)
        if replace_all and table.version != base.version:
            unchanged(table, "overwrite", base)
        _refuse_listed(table, added)
        refuse_old(table, added, attached_at if attached else None)
        return Change(late.cleared(table), attached, mine, key, replace_all, clock_ms())

    return publish(table, attempt)


def unchanged(table: Table, mine: str, base: Manifest, read: Sequence[DataFile] = ()) -> None:
    """Ask the conflict table whether an operation that was planned at ``base`` may go on top of the table as it is.

    Args:
        table: at the newest version.
        mine: the operation.
        base: the version it was planned at.
        read: the files it was planned with.

    Raises:
        PlanOutdated: plan again.
        CommitConflict: the caller decides.
    """
    worst, who = verdict(mine, _between(table, base))
    if worst is Verdict.CHECK:
        listed = {file.path: file for file in table.files}
        gone = [file.path for file in read if listed.get(file.path) != file]
        worst = Verdict.REPLAN if gone else Verdict.PASS
    if worst is Verdict.REPLAN:
        raise PlanOutdated(f"{table.path}: {mine} planned at version {base.version} met {who}; plan again")
    if worst is Verdict.REFUSE:
        what = "replacing all rows" if mine == "overwrite" else mine
        raise CommitConflict(
            f"{table.path}: {what} of version {base.version} met version {table.version} of another writer ({who}); "
            "look at what it wrote, then do it again"
        )


def _between(table: Table, base: Manifest) -> list[str]:
    """The operations of versions after ``base``, newest first; one that has expired counts as the worst there is."""
    found, manifest = [], table._manifest
    while manifest.version > base.version:
        found.append(manifest.operation)
        try:
            manifest, _ = table._log.read(manifest.version - 1, manifest.parent_blake3)
        except NoSuchVersion:
            return [*found, "erase"]
    return found


def committed(table: Table, key: Key | None) -> Commit | None:
    """The commit of a key, marked as replayed; None if there is none in the table's version."""
    if key is None or not (version := table._listing().committed(key)):
        return None
    try:
        found, _ = table._log.read(version)
    except NoSuchVersion:
        return Commit(version, "expired", "", key, (), (), 0, table.path, replayed=True)
    return manifests.commit_of(found, table.path, replayed=True)


def _fenced(table: Table, key: Key | None, epoch: int | None) -> None:
    fence = None if key is None else table._manifest.standing.fence(key[0])
    if key is None or (fence is None and epoch is None):
        return
    if fence is None or fence.epoch != epoch:
        holder = f"driver {fence.holder!r} of epoch {fence.epoch}" if fence else "no driver"
        raise CommitFenced(
            f"{table.path}: batch {key[1]} of query {key[0]!r} comes from epoch {epoch}, but {holder} has that query now; "
            "nothing was committed; end this driver"
        )


def take_fence(table: Table, query_id: str, holder: str, clock_ms: Callable[[], int]) -> int:
    """Draw the next epoch of a query; see ``Table.fence``."""
    mine = transaction()

    def attempt() -> Change:
        standing = table._manifest.standing
        held = standing.fence(query_id)
        drawn = Fence(query_id, held.epoch + 1 if held else 1, holder)
        others = tuple(fence for fence in standing.fences if fence.query_id != query_id)
        after = dataclasses.replace(standing, fences=(*others, drawn))
        return Change((), (), mine, None, False, clock_ms(), operation="fence", standing=after)

    publish(table, attempt)
    fence = table._manifest.standing.fence(query_id)
    assert fence is not None
    return fence.epoch


def _refuse_listed(table: Table, added: tuple[DataFile, ...]) -> None:
    listed = {file.path for file in table.files}
    twice = sorted(file.path for file in added if file.path in listed)
    if twice or len({file.path for file in added}) != len(added):
        raise CommitConflict(
            f"{table.path}: files may be committed once, these were before: {twice or added}"
        )


def refuse_old(table: Table, added: Sequence[DataFile], attached_at: int | None = None) -> None:
    """Refuse what garbage collection may have removed since it was put in place."""
    limit = table._manifest.standing.staged_since
    old = [file.path for file in added if file.staged_at < limit]
    if attached_at is not None and attached_at < limit:
        old.append("an attachment")
    if old:
        raise StagedTooLongAgo(
            f"{table.path}: {old[0]} was staged before version {limit}, and garbage collection may have removed it since; "
            "nothing was committed; stage its rows again"
        )


def validate(table: Table, added: Sequence[DataFile]) -> None:
    """Make sure that staged files are there, are those they are said to be, and fit the table."""
    standing = table._manifest.standing
    for entry in added:
        path = inside(table.path, entry.path, DATA)
        with checked_file(table.path, entry, table.schema, [] if standing.evolved_at else None) as file:
            if standing.evolved_at:
                refuse_unreadable(file.schema(), table.schema, standing.stored_as, path)
            if file.footer.size != entry.bytes:
                raise SchemaMismatch(
                    f"{path}: expected {entry.bytes} bytes, got {file.footer.size}; stage it again"
                )


def attach(table: Table, mine: str, attachments: Mapping[str, bytes]) -> tuple[Attachment, ...]:
    """Write a transaction's attachments, durably, under names of their own."""
    if not attachments:
        return ()
    store, folder = table._log.store, f"{ATTACHMENTS}/{mine}"
    store.make(folder)
    entries = []
    for number, (name, data) in enumerate(sorted(attachments.items())):
        relative = f"{folder}/{number}.bin"
        store.write(relative, data)
        entries.append(Attachment(name, relative, len(data), manifests.digest(data)))
    store.sync(folder)
    return tuple(entries)
