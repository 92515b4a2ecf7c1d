"""The row of manifests on disk: finding the newest, walking back, publishing the next.

Nothing here knows Arrow batches or data files' contents. Publishing is exclusive creation of the next number, so
versions have no gaps and no two writers share one; whatever fails after that attempt is decided by reading back whose
transaction the number holds, never by guessing, and nothing is deleted on an unknown outcome.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from uuid import uuid4

import pyarrow as pa

from headrace.storage import durable
from headrace.storage.errors import (
    CommitUnknown,
    CorruptManifest,
    NoSuchVersion,
    RowsReplaced,
    TableNotFound,
    UnsupportedType,
)
from headrace.storage.logical import stored_schema
from headrace.storage.manifest import (
    FILE_NAME,
    FOLDER,
    Attachment,
    DataFile,
    Keyed,
    Manifest,
    Span,
    decode,
    digest,
    encode,
    files_root,
    since,
)
from headrace.storage.objects import ObjectPath, Place


@lru_cache(maxsize=16)
def _parsed(data: bytes) -> pa.Schema:
    """The schema that a file's bytes describe; a table is opened more often than its schema changes."""
    return stored_schema(pa.ipc.read_schema(pa.py_buffer(data)))


@dataclass(frozen=True)
class Listing:
    """What a table holds at one version: live files with the version that added them, and every keyed commit."""

    version: int = 0
    files: tuple[tuple[int, DataFile], ...] = ()
    keys: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What one commit wants to do to whatever version is the newest when it gets through."""

    added: tuple[DataFile, ...]
    attachments: tuple[Attachment, ...]
    transaction: str
    key: tuple[str, int] | None
    replace_all: bool
    committed_at_ms: int


class Log:
    """The ``_manifest`` folder of one table."""

    def __init__(self, table: Place) -> None:
        self.table = table
        self.folder = table / FOLDER

    def path(self, version: int) -> Place:
        """Where a version's manifest is."""
        return self.folder / f"{version:020d}.json"

    def newest(self, known: int = 0) -> int:
        """The highest version, given one that exists; 0 when there is none.

        Raises:
            TableNotFound: there is no manifest folder.
        """
        if known:
            while self.path(known + 1).exists():
                known += 1
            return known
        try:
            names = self._names()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TableNotFound(
                f"{self.table}: expected a table here, found no {FOLDER} folder; create one"
            ) from error
        return max((int(match[1]) for name in names if (match := FILE_NAME.fullmatch(name))), default=0)

    def _names(self) -> list[str]:
        if isinstance(self.folder, ObjectPath):
            return self.folder.names()
        with os.scandir(self.folder) as entries:
            return [entry.name for entry in entries]

    def read(self, version: int, expected: str | None = None) -> tuple[Manifest, str]:
        """One manifest and its hash, which must be ``expected`` if given.

        Raises:
            NoSuchVersion, CorruptManifest, UnsupportedFeature.
        """
        path = self.path(version)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NoSuchVersion(f"{self.table}: there is no version {version}") from error
        got = digest(data)
        if expected is not None and got != expected:
            raise CorruptManifest(f"{path}: expected hash {expected}, got {got}; restore it from a copy")
        return decode(data, version, str(path)), got

    def write_schema(self, schema: pa.Schema) -> str:
        """Keep a schema in a file named by its hash, once, so that manifests of wide tables stay small."""
        data = schema.serialize().to_pybytes()
        name = digest(data)
        path = self.folder / f"schema-{name}.arrow"
        if isinstance(path, ObjectPath):
            with suppress(FileExistsError):  # of the same bytes, whoever put it
                path.create(data)
            return name
        if not path.exists():
            temporary = path.parent / f".schema-{uuid4().hex}.tmp"
            durable.write_file_synced(temporary, data)
            temporary.replace(path)
        durable.sync_dir(path.parent)  # one found here may be that of a writer that died before it did so
        return name

    def schema(self, manifest: Manifest) -> pa.Schema:
        """The Arrow schema of a version.

        Raises:
            CorruptManifest: its file is missing or not what was written.
        """
        path = self.folder / f"schema-{manifest.schema_blake3}.arrow"
        data = path.read_bytes() if path.is_file() else b""
        if digest(data) != manifest.schema_blake3:
            raise CorruptManifest(
                f"{path}: expected hash {manifest.schema_blake3}, got {digest(data)}; restore it"
            )
        try:
            return _parsed(data)
        except (pa.ArrowException, OSError, UnsupportedType) as error:
            raise CorruptManifest(f"{path}: not a schema the store can hold: {error}") from error

    def walk(self, manifest: Manifest, stop: int = 0) -> Iterator[Manifest]:
        """``manifest`` and those it leads to, newest first, until they cover everything after ``stop``."""
        while True:
            yield manifest
            if manifest.since <= stop:
                return
            manifest, _ = self.read(manifest.since, manifest.since_blake3)

    def listing(self, manifest: Manifest, known: Listing | None = None) -> Listing:
        """Files and keys at a version; ``known``, of an earlier one, saves reading what is in it."""
        known = known or Listing()
        files, removed, keys, cleared_at = self._gather(manifest, known.version)
        kept = () if cleared_at else tuple(entry for entry in known.files if entry[1].path not in removed)
        return Listing(manifest.version, kept + files, {**known.keys, **keys})

    def _gather(
        self, manifest: Manifest, stop: int
    ) -> tuple[tuple[tuple[int, DataFile], ...], set[str], dict[tuple[str, int], int], int]:
        """What versions (stop, manifest.version] add up to: files, removals, keys, and where all was replaced."""
        files: list[tuple[int, DataFile]] = []
        removed: set[str] = set()
        keys: dict[tuple[str, int], int] = {}
        cleared_at = 0
        for step in self.walk(manifest, stop):
            span = step.span
            for entry in span.keys:
                if entry.version > stop:
                    keys[entry.query_id, entry.batch_id] = entry.version
            if step.key is not None:
                keys[step.key] = step.version
            if cleared_at:
                continue
            removed.update(step.removed)
            mine = [(step.version, file) for file in step.added]
            if step.replaces_all:
                cleared_at = step.version
            else:
                removed.update(span.removed)
                mine = [*((version, file) for version, file in span.files if version > stop), *mine]
                cleared_at = span.cleared_at if span.cleared_at > stop else 0
            files[:0] = [(version, file) for version, file in mine if file.path not in removed]
        return tuple(files), removed, keys, cleared_at

    def added(self, manifest: Manifest, after: int) -> tuple[DataFile, ...]:
        """Files that versions after ``after`` added, up to and with ``manifest``, oldest first.

        Raises:
            RowsReplaced: one of them replaced all rows, so that additions alone do not tell what happened.
        """
        files, _, _, cleared_at = self._gather(manifest, after)
        if cleared_at and after:
            raise RowsReplaced(
                f"{self.table}: version {cleared_at} replaced all rows after version {after}; rows added since cannot be "
                "followed across that, start again from an empty position"
            )
        return tuple(file for _, file in files)

    def span(self, parent: Manifest | None, version: int) -> Span:
        """What the manifest of ``version`` repeats: versions after ``since(version)``, its own not included."""
        start = since(version)
        if parent is None or parent.version <= start:
            return Span()
        files, removed, keys, cleared_at = self._gather(parent, start)
        gone = () if cleared_at else tuple(sorted(removed))
        keyed = tuple(
            Keyed(query, batch, at) for (query, batch), at in sorted(keys.items(), key=lambda k: k[1])
        )
        return Span(files, gone, keyed, cleared_at)

    def following(self, parent: Manifest, change: Change) -> Manifest:
        """The manifest that comes after ``parent``."""
        _, parent_hash = self.read(parent.version)
        version, start = parent.version + 1, since(parent.version + 1)
        span = self.span(parent, version)
        below, below_hash = "", ""
        if start:
            earlier, below_hash = (parent, parent_hash) if start == parent.version else self.read(start)
            below = earlier.root
        if change.replace_all:
            span = Span(keys=span.keys)
        fresh = change.replace_all or span.cleared_at > 0
        listed = (*(file for _, file in span.files), *change.added)
        before = (0, 0) if change.replace_all else (parent.n_files, parent.n_rows)
        return replace(
            parent,
            version=version,
            parent_blake3=parent_hash,
            since=start,
            since_blake3=below_hash,
            operation="overwrite" if change.replace_all else "append",
            transaction=change.transaction,
            key=change.key,
            added=change.added,
            removed=(),
            attachments=change.attachments,
            n_files=before[0] + len(change.added),
            n_rows=before[1] + sum(file.rows - file.deleted for file in change.added),
            committed_at_ms=change.committed_at_ms,
            root=files_root("" if fresh else below, listed, span.removed),
            span=span,
        )

    def publish(self, manifest: Manifest) -> bool:
        """Make ``manifest`` the next version. False if another writer took that number.

        Raises:
            CommitUnknown: it is visible, but whether it is durable could not be established.
            OSError: it was not published.
        """
        final = self.path(manifest.version)
        if isinstance(final, ObjectPath):
            return self._put(final, manifest)
        temporary = final.parent / f".{manifest.transaction}-{manifest.version}.tmp"
        durable.write_file_synced(temporary, encode(manifest))
        try:
            durable.publish_exclusive(temporary, final)
            durable.sync_dir(final.parent)
        except OSError as error:
            # Whatever it was, even "exists": the number may hold our own manifest. Its transaction decides.
            if not self._is_ours(final, manifest, error):
                if isinstance(error, FileExistsError):
                    temporary.unlink()
                    return False
                raise
            try:
                durable.sync_dir(final.parent)
            except OSError as again:
                raise CommitUnknown(
                    f"{final}: published as transaction {manifest.transaction}, but the folder could not be synced "
                    f"({again}); open the table again and look for that transaction before writing more"
                ) from again
        temporary.unlink()
        return True

    def _put(self, final: ObjectPath, manifest: Manifest) -> bool:
        try:
            final.create(encode(manifest))
        except OSError as error:
            # A request that was sent twice may meet what it did itself the first time. Its transaction decides.
            if self._is_ours(final, manifest, error):
                return True
            if isinstance(error, FileExistsError):
                return False
            raise CommitUnknown(
                f"{final}: the store did not say whether transaction {manifest.transaction} was published ({error}); it "
                "was not yet to be seen; open the table again and look for it before writing more; nothing was removed"
            ) from error
        return True

    def _is_ours(self, final: Place, manifest: Manifest, cause: OSError) -> bool:
        try:
            found, _ = self.read(manifest.version)
        except NoSuchVersion:
            return False
        except OSError as error:
            raise CommitUnknown(
                f"{final}: publishing transaction {manifest.transaction} failed ({cause}) and reading back too "
                f"({error}); open the table again and look for that transaction; nothing was removed"
            ) from error
        return found.transaction == manifest.transaction
