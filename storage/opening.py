"""Opens a table: at its newest version, at an earlier one, or as it was at some time.

In the flow: before everything else that is done with a table. Whatever version is shown, the newest one says whose rows are
hidden in all of them, and which versions an erasure has closed; where its manifest is damaged, the newest that can be read.
"""

from __future__ import annotations

from datetime import datetime

from headrace.storage.errors import CorruptManifest, NoSuchVersion, TableNotFound, UnsupportedFeature
from headrace.storage.log import Log
from headrace.storage.manifest import Standing
from headrace.storage.objects import Location, place
from headrace.storage.table import Table


def open(path: Location, version: int | None = None, *, at: datetime | None = None) -> Table:
    """A table at its newest version, or at an earlier one.

    Args:
        path: its folder; a path, a ``file://`` or ``s3://`` URL, or (store, name).
        version: which one; None is the newest.
        at: instead, the newest that its writer's clock had committed by then; a time with its zone.

    Raises:
        TableNotFound: the folder holds no table.
        NoSuchVersion: that version was never committed, has expired, or was closed by an erasure; or none is as old as ``at``.
        CorruptManifest: its manifest is damaged.
    """
    root = place(path)
    log = Log(root)
    newest = log.newest()
    if not newest:
        raise TableNotFound(f"{root}: expected a table here, found no manifest; create one")
    if at is not None:
        if version is not None or at.tzinfo is None:
            raise ValueError(f"expected a version or a time with its zone, got {version} and {at}")
        version = _version_at(Table(root, log.read(newest)[0]), at)
    if version is None or version == newest:
        return Table(root, log.read(newest)[0])
    standing = _standing(log, newest, version)
    if version < standing.closed_before:
        raise NoSuchVersion(
            f"{root}: version {version} was closed by an erasure, whose bytes it would show; the oldest that can be read "
            f"is {standing.closed_before}"
        )
    return Table(root, log.kept(version, newest), standing.suppression)


def _standing(log: Log, newest: int, oldest: int) -> Standing:
    """What stands in the newest manifest that can be read."""
    for version in range(newest, oldest, -1):
        try:
            return log.read(version)[0].standing
        except (CorruptManifest, UnsupportedFeature, NoSuchVersion):
            continue
    return Standing()


def _version_at(newest: Table, at: datetime) -> int:
    limit = round(at.timestamp() * 1000)
    for commit in newest.history():
        if commit.committed_at_ms <= limit:
            return commit.version
    raise NoSuchVersion(f"{newest.path}: no version that is kept was there at {at}; none is as old")
