"""The row of manifests on disk: finding the newest, walking back, publishing the next.

Nothing here knows Arrow batches or data files' contents. Publishing is exclusive creation of the next number, so
versions have no gaps and no two writers share one; whatever fails after that attempt is decided by reading back whose
transaction the number holds, never by guessing, and nothing is deleted on an unknown outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from uuid import uuid4

import pyarrow as pa

from headrace.storage import stores
from headrace.storage.errors import (
    CommitUnknown,
    CorruptManifest,
    NoSuchVersion,
    RowsReplaced,
    TableNotFound,
    UnsupportedFeature,
    UnsupportedType,
)
from headrace.storage.listing import Listing, keyed, ranges, sum_up
from headrace.storage.logical import stored_schema
from headrace.storage.manifest import (
    FILE_NAME,
    FOLDER,
    MARKERS,
    Attachment,
    DataFile,
    Manifest,
    Span,
    Standing,
    decode,
    digest,
    encode,
    features,
    files_root,
    since,
)
from headrace.storage.objects import ObjectPath, Place

BRINGS_ROWS = frozenset({"create", "append"})
"""Operations whose files hold rows that no earlier version had; others move, hide or drop rows."""

NEAR = 64  # versions that are read one by one to go on from what is known; more are faster listed anew


@lru_cache(maxsize=16)
def _parsed(data: bytes) -> pa.Schema:
    """The schema that a file's bytes describe; a table is opened more often than its schema changes."""
    return stored_schema(pa.ipc.read_schema(pa.py_buffer(data)))


@dataclass(frozen=True)
class Change:
    """What one commit wants to do to whatever version is the newest when it gets through.

    ``removed`` are files of that version that go, or are replaced by one of ``added`` at the same path. ``standing``,
    ``schema_blake3``, ``erase_key`` and ``personal`` stay as they are unless given; ``checkpoint`` makes a version that
    lists everything itself, so that those before it can be removed.
    """

    added: tuple[DataFile, ...]
    attachments: tuple[Attachment, ...]
    transaction: str
    key: tuple[str, int] | None
    replace_all: bool
    committed_at_ms: int
    operation: str = "append"
    removed: tuple[DataFile, ...] = ()
    standing: Standing | None = None
    schema_blake3: str | None = None
    erase_key: str | None = None
    personal: tuple[str, ...] | None = None
    checkpoint: bool = False


class Log:
    """The ``_manifest`` folder of one table."""

    def __init__(self, table: Place) -> None:
        self.table = table
        self.folder = table / FOLDER
        self.store = stores.store_of(table)

    @staticmethod
    def name(version: int) -> str:
        """The name of a version's manifest in the table."""
        return f"{FOLDER}/{version:020d}.json"

    def path(self, version: int) -> Place:
        """Where a version's manifest is."""
        return self.table / self.name(version)

    def newest(self, known: int = 0) -> int:
        """The highest version, given one that was there; 0 when there is none.

        Raises:
            TableNotFound: there is no manifest folder.
        """
        # If it is gone it was collected, and so may be those after it.
        if known and self.store.exists(self.name(known)):
            while self.store.exists(self.name(known + 1)):
                known += 1
            return known
        try:
            names = self.store.names(FOLDER)
        except NotADirectoryError as error:
            raise TableNotFound(
                f"{self.table}: expected a table's folder, got a file; open it with read_file, or name its table"
            ) from error
        if not names:
            raise TableNotFound(f"{self.table}: expected a table here, found no {FOLDER} folder; create one")
        return max((int(match[1]) for name in names if (match := FILE_NAME.fullmatch(name))), default=0)

    def boundary(self) -> int:
        """Manifests of versions below this one may have been collected, so that their numbers mean nothing any more."""
        names = self.store.names(MARKERS)
        return max((int(match[1]) for name in names if (match := FILE_NAME.fullmatch(name))), default=0)

    def read(self, version: int, expected: str | None = None) -> tuple[Manifest, str]:
        """One manifest and its hash, which must be ``expected`` if given.

        Raises:
            NoSuchVersion, CorruptManifest, UnsupportedFeature.
        """
        path = self.path(version)
        try:
            data = self.store.get(self.name(version))
        except FileNotFoundError as error:
            raise NoSuchVersion(f"{self.table}: there is no version {version}") from error
        got = digest(data)
        if expected is not None and got != expected:
            raise CorruptManifest(f"{path}: expected hash {expected}, got {got}; restore it from a copy")
        return decode(data, version, str(path)), got

    def kept(self, version: int, newest: int) -> Manifest:
        """The manifest of one version that has not expired; a damaged newest one is no reason not to look at it.

        Raises:
            NoSuchVersion, CorruptManifest, UnsupportedFeature.
        """
        try:
            horizon = self.read(newest)[0].standing.horizon
        except (CorruptManifest, UnsupportedFeature):
            horizon = 1
        if version < horizon:
            raise NoSuchVersion(
                f"{self.table}: version {version} has expired, the oldest that is kept is {horizon}"
            )
        return self.read(version)[0]

    def write_schema(self, schema: pa.Schema) -> str:
        """Keep a schema in a file named by its hash, once, so that manifests of wide tables stay small."""
        data = schema.serialize().to_pybytes()
        name = digest(data)
        path = f"{FOLDER}/schema-{name}.arrow"
        if self.store.exists(path):
            self.store.sync(FOLDER)  # one found here may be that of a writer that died before it did so
        else:
            self.store.keep(path, data, f"schema-{uuid4().hex}")
        return name

    def schema(self, manifest: Manifest) -> pa.Schema:
        """The Arrow schema of a version.

        Raises:
            CorruptManifest: its file is missing or not what was written.
        """
        path = self.table / FOLDER / f"schema-{manifest.schema_blake3}.arrow"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            data = b""
        if (got := digest(data)) != manifest.schema_blake3:
            raise CorruptManifest(f"{path}: expected hash {manifest.schema_blake3}, got {got}; restore it")
        try:
            return _parsed(data)
        except (pa.ArrowException, OSError, UnsupportedType) as error:
            raise CorruptManifest(f"{path}: not a schema the store can hold: {error}") from error

    def back(self, manifest: Manifest, oldest: int) -> Iterator[Manifest]:
        """``manifest`` and every version before it down to ``oldest``, each checked against its successor."""
        yield manifest
        while manifest.version > oldest:
            manifest, _ = self.read(manifest.version - 1, manifest.parent_blake3)
            yield manifest

    def spoken_of(self, manifest: Manifest, oldest: int) -> Iterator[DataFile]:
        """Every entry of a file in ``manifest`` and the versions down to ``oldest``, newest first, some paths several times."""
        last = manifest
        for last in self.back(manifest, oldest):
            yield from last.added
        yield from (file for _, file in self.listing(last).files)

    def walk(self, manifest: Manifest, stop: int = 0) -> Iterator[Manifest]:
        """``manifest`` and those it leads to, newest first, until they cover everything after ``stop``."""
        while True:
            yield manifest
            if manifest.since <= stop:
                return
            manifest, _ = self.read(manifest.since, manifest.since_blake3)

    def listing(self, manifest: Manifest, known: Listing | None = None) -> Listing:
        """Files and keys at a version; ``known``, of an earlier one, saves reading what is in it."""
        if known is not None and known.version and 0 <= manifest.version - known.version <= NEAR:
            steps = self._since(manifest, known.version)
            if steps is not None:
                for step in steps:
                    known = known.then(step)
                return known
        found = sum_up(self.walk(manifest), 0)
        return Listing(manifest.version, found.files, found.keys, found.expired)

    def _since(self, manifest: Manifest, after: int) -> list[Manifest] | None:
        """The manifests of versions after ``after``, oldest first; None if one of them is not what came upon the other."""
        steps: list[Manifest] = []
        horizon = manifest.standing.horizon  # as of now: versions in between knew an earlier one
        while manifest.version > after:
            if manifest.operation == "repair" or manifest.version <= horizon:
                return None
            steps.append(manifest)
            if manifest.version - 1 > after:
                manifest, _ = self.read(manifest.version - 1, manifest.parent_blake3)
            else:
                break
        return steps[::-1]

    def added(self, manifest: Manifest, after: int) -> tuple[DataFile, ...]:
        """Files whose rows versions after ``after`` brought, up to and with ``manifest``, oldest first.

        From 0 on these are the files of ``manifest``. Else they are those that appends brought, even if a compaction has
        replaced them since, whose own files hold no new rows.

        Raises:
            RowsReplaced: one of the versions replaced all rows, or some have expired, so that additions alone do not
                tell what happened.
        """
        if not after:
            return tuple(file for _, file in self.listing(manifest).files)
        found: list[DataFile] = []
        horizon = manifest.standing.horizon
        while manifest.version > after:
            if manifest.replaces_all or manifest.version <= horizon:
                what = "replaced all rows" if manifest.replaces_all else "is the oldest still kept"
                raise RowsReplaced(
                    f"{self.table}: version {manifest.version} {what} after version {after}; rows added since cannot be "
                    "followed across that, start again from an empty position"
                )
            if manifest.operation in BRINGS_ROWS:
                found[:0] = manifest.added
            manifest, _ = self.read(manifest.version - 1, manifest.parent_blake3)
        return tuple(found)

    def span(self, parent: Manifest | None, version: int) -> Span:
        """What the manifest of ``version`` repeats: versions after those it leads to, its own not included."""
        if parent is None or parent.version <= (start := self._start(parent, version)):
            return Span()
        found = sum_up(self.walk(parent, start), start)
        gone = () if found.cleared_at else tuple(sorted(found.removed))
        return Span(found.files, gone, keyed(found.keys), found.cleared_at)

    @staticmethod
    def _start(parent: Manifest, version: int) -> int:
        return max(since(version), parent.standing.checkpoint)

    def following(self, parent: Manifest, change: Change) -> Manifest:
        """The manifest that comes after ``parent``."""
        _, parent_hash = self.read(parent.version)
        version = parent.version + 1
        standing = change.standing or parent.standing
        span, start, below, below_hash = Span(), 0, "", ""
        if change.checkpoint:
            standing = replace(standing, checkpoint=version)
            span = self._everything(parent, {file.path for file in change.removed}, standing.horizon)
        else:
            span, start = self.span(parent, version), self._start(parent, version)
            if start:
                earlier, below_hash = (parent, parent_hash) if start == parent.version else self.read(start)
                below = earlier.root
        if change.replace_all:
            span = Span(keys=span.keys)
        fresh = change.replace_all or span.cleared_at > 0
        gone = tuple(sorted(file.path for file in change.removed))
        listed = (*(file for _, file in span.files), *change.added)
        held = (0, 0)
        if not change.replace_all:
            held = (
                parent.n_files - len(gone),
                parent.n_rows - sum(file.rows - file.deleted for file in change.removed),
            )
        following = replace(
            parent,
            version=version,
            parent_blake3=parent_hash,
            since=start,
            since_blake3=below_hash,
            operation="overwrite" if change.replace_all else change.operation,
            transaction=change.transaction,
            key=change.key,
            schema_blake3=change.schema_blake3 or parent.schema_blake3,
            erase_key=change.erase_key or parent.erase_key,
            personal=parent.personal if change.personal is None else change.personal,
            added=change.added,
            removed=gone,
            attachments=change.attachments,
            n_files=held[0] + len(change.added),
            n_rows=held[1] + sum(file.rows - file.deleted for file in change.added),
            committed_at_ms=change.committed_at_ms,
            root=files_root("" if fresh else below, listed, (*span.removed, *gone)),
            span=span,
            standing=standing,
        )
        return replace(following, required_features=features(following))

    def _everything(self, parent: Manifest, removed: set[str], horizon: int) -> Span:
        """All files and keys of ``parent``, keys of versions before ``horizon`` as ranges."""
        listing = self.listing(parent)
        files = tuple(entry for entry in listing.files if entry[1].path not in removed)
        kept = {key: version for key, version in listing.keys.items() if version >= horizon}
        gone = {key: version for key, version in listing.keys.items() if version < horizon}
        return Span(files, (), (*ranges(gone, listing.expired), *keyed(kept)))

    def publish(self, manifest: Manifest) -> bool:
        """Make ``manifest`` the next version. False if another writer took that number, or it has long expired.

        Raises:
            CommitUnknown: whether it is published, or durable, could not be established; nothing was removed.
            OSError: it was not published.
        """
        name, data = self.name(manifest.version), encode(manifest)
        final = self.path(manifest.version)
        # What nobody could read must not become a version.
        decode(data, manifest.version, f"{final} (not yet written)")
        try:
            self.store.create(name, data, f"{manifest.transaction}-{manifest.version}")
        except OSError as error:
            # Whatever it was, even "exists": the number may hold our own manifest. Its transaction decides.
            if not self._is_ours(manifest, error):
                if isinstance(error, FileExistsError):
                    return False
                if not isinstance(self.table, ObjectPath):
                    raise
                raise CommitUnknown(
                    f"{final}: the store did not say whether transaction {manifest.transaction} was published ({error}); it "
                    "was not yet to be seen; open the table again and look for it before writing more; nothing was removed"
                ) from error
            try:
                self.store.sync(FOLDER)
            except OSError as again:
                raise CommitUnknown(
                    f"{final}: published as transaction {manifest.transaction}, but the folder could not be synced "
                    f"({again}); open the table again and look for that transaction before writing more"
                ) from again
        try:
            return self._still_follows(manifest)
        except OSError as error:
            raise CommitUnknown(
                f"{final}: published as transaction {manifest.transaction}, but its parent could not be read back ({error}); open "
                "the table again and look for that transaction before writing more"
            ) from error

    def _still_follows(self, manifest: Manifest) -> bool:
        """Whether the parent is still there: garbage collection goes upwards, so that this number was never collected.

        A stale writer may otherwise find a number free again that another manifest had, long expired.
        """
        if manifest.version > 1:
            try:
                if digest(self.store.get(self.name(manifest.version - 1))) == manifest.parent_blake3:
                    return True
            except FileNotFoundError:
                pass
        found = self.boundary() <= (manifest.version if manifest.version > 1 else 0)
        if found and manifest.version > 1:
            raise CorruptManifest(
                f"{self.path(manifest.version - 1)}: was there when version {manifest.version} was made and is gone, or another "
                "one, now, though no garbage collection took it; run headrace verify"
            )
        if not found:
            self.store.delete(self.name(manifest.version))
        return found

    def _is_ours(self, manifest: Manifest, cause: OSError) -> bool:
        try:
            found, _ = self.read(manifest.version)
        except NoSuchVersion:
            return False
        except OSError as error:
            raise CommitUnknown(
                f"{self.path(manifest.version)}: publishing transaction {manifest.transaction} failed ({cause}) and reading "
                f"back too ({error}); open the table again and look for that transaction; nothing was removed"
            ) from error
        return found.transaction == manifest.transaction
