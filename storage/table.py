"""A table: a folder of data files and the row of manifests that says which of them are rows of it.

Files are staged first (written, synced, seen by nobody) and committed later by one manifest, so that rows, and the
attachments that belong to them, appear together or not at all. Commits keyed by (query, batch) happen once, however
often they are tried. The order of syncs is in ``durable`` and ``FORMAT.md`` section 9. Compaction, erasure and removal
of files nobody lists are not done here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import committing
from headrace.storage import manifest as manifests
from headrace.storage.arrays import batches_of
from headrace.storage.columns import is_pattern
from headrace.storage.committing import Key, now_ms
from headrace.storage.errors import BadLocation, SchemaMismatch, no_such_column
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.listing import Listing
from headrace.storage.log import Log
from headrace.storage.manifest import Attachment, Commit, DataFile, Manifest
from headrace.storage.objects import Place
from headrace.storage.parting import PartitionBy, Retention
from headrace.storage.predicate import Filter, parse_filter, tuples_of
from headrace.storage.prefetch import MEMORY_BYTES
from headrace.storage.scan import Scan
from headrace.storage.storing import Storing

if TYPE_CHECKING:
    from headrace.storage.forgotten import Forgotten


class Table:
    """One table at one version; commits made through it move it on. Picklable, holds no open file."""

    def __init__(self, path: Place, manifest: Manifest, suppression: Attachment | None = None) -> None:
        self.path = path
        self._suppression = suppression  # of a newer version, which hides rows of this one too
        self._forgotten: tuple[Attachment, Forgotten] | None = None
        self._manifest = manifest
        self._log = Log(path)
        self._listed = Listing()
        self._schema: pa.Schema | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.path, self._manifest, self._suppression)

    def __repr__(self) -> str:
        return f"Table({str(self.path)!r}, version={self.version})"

    @property
    def folder(self) -> Path:
        """The table's folder on a mounted file system; BadLocation if it lies in a store."""
        if not isinstance(self.path, Path):
            raise BadLocation(
                f"{self.path}: expected a table on a mounted file system; copy it from its store"
            )
        return self.path

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        if self._schema is None:
            self._schema = self._log.schema(self._manifest)
        return self._schema

    @property
    def version(self) -> int:
        """The version this object shows, counting from 1."""
        return self._manifest.version

    @property
    def num_rows(self) -> int:
        """Rows of this version that a scan gives: neither deleted nor hidden ones count."""
        if self.forgotten() is None:
            return self._manifest.n_rows
        from headrace.storage.held import shown  # here: few tables have forgotten somebody

        return shown(self)  # pyright: ignore[reportArgumentType]

    @property
    def erase_key(self) -> str | None:
        """The column that names a person, if there is one."""
        return self._manifest.erase_key

    @property
    def personal(self) -> tuple[str, ...]:
        """Further columns that hold personal data."""
        return self._manifest.personal

    @property
    def partition_by(self) -> tuple[PartitionBy, ...]:
        """How rows are parted into files; empty if they are not."""
        return self._manifest.standing.partition_by

    @property
    def retention(self) -> Retention | None:
        """How long rows may be kept, if that was declared."""
        return self._manifest.standing.retention

    @property
    def _parted_by(self) -> tuple[PartitionBy, ...]:
        """As ``partition_by``, and by retention class."""
        by, kept = self.partition_by, self.retention
        return by if kept is None or PartitionBy(kept.column) in by else (*by, PartitionBy(kept.column))

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files of this version, oldest first."""
        return tuple(file for _, file in self._listing().files)

    def added(self, after: int) -> tuple[DataFile, ...]:
        """Files that versions after ``after`` added, up to this one, oldest first; 0 is before all.

        Raises:
            RowsReplaced: a version in between replaced all rows.
        """
        return self._log.added(self._manifest, after)

    def _listing(self) -> Listing:
        if self._listed.version != self.version:
            known = self._listed if self._listed.version < self.version else None
            self._listed = self._log.listing(self._manifest, known)
        return self._listed

    def refresh(self) -> Table:
        """Move on to the newest version."""
        newest = self._log.newest(self.version)
        if newest != self.version:
            self._show(self._log.read(newest)[0])
        return self

    def scan(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        *,
        rows: range | None = None,
        batch_rows: int = GROUP_ROWS,
        list_view: bool = False,
        as_stored: bool = False,
        threads: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Scan:
        """Rows to read.

        Args:
            columns: names, or patterns such as ``price_*``, in the order wanted; None is all.
            filter: an Arrow expression, (column, op, value) tuples, or lists of them; see ``predicate.parse_filter``.
            rows: which rows, counted over all files, deleted ones included; None is all.
            batch_rows: at most so many rows a batch.
            list_view: lists come as Arrow's ListView, whose rows share items where they did when written.
            as_stored: quantised columns come unconverted, as metadata of their fields says; see ``as_stored``.
            threads: at most so many; None is the number of processors, up to 8.
            memory_bytes: what is decoded ahead stays below.

        Raises:
            NoSuchColumn: naming the first one missing and what comes nearest.
        """
        files: Sequence[DataFile] = self.files
        if self._parted_by and rows is None:
            from headrace.storage.partition import may_hold

            asked = tuples_of(filter)
            files = [file for file in files if may_hold(file.partition, self._parted_by, asked)]
        return self._scan(
            files,
            columns,
            filter,
            batch_rows=batch_rows,
            list_view=list_view,
            threads=threads,
            memory_bytes=memory_bytes,
            rows=rows,
            as_stored=as_stored,
        )

    def _scan(
        self,
        files: Sequence[DataFile],
        columns: Sequence[str] | None = None,
        filter: Filter | None = None,
        **how: Any,
    ) -> Scan:
        """As ``scan``, of some of the table's files."""
        given = {
            "filter": parse_filter(filter),
            "conditions": tuples_of(filter),
            "hidden": self._hidden(),
            **how,
        }
        standing = self._manifest.standing
        if not standing.evolved_at:
            return Scan(self.path, tuple(files), self.schema, self._named(columns), **given)
        from headrace.storage.evolved import EvolvedScan  # here: few tables have changed their columns

        names = self._named(columns)
        return EvolvedScan(self.path, tuple(files), self.schema, names, **given, stored_as=standing.stored_as)

    def forgotten(self) -> Forgotten | None:
        """Who this table was told to forget; None if nobody."""
        entry = self._suppression or self._manifest.standing.suppression
        if entry is None:
            return None
        if self._forgotten is None or self._forgotten[0] != entry:
            from headrace.storage import forgotten  # here: few tables have forgotten somebody

            self._forgotten = entry, forgotten.read(self.path, entry)
        return self._forgotten[1]

    def _hidden(self) -> Mapping[str, bytes]:
        known = self.forgotten()
        return {} if known is None else known.rows

    def take(
        self,
        rows: Sequence[int] | NDArray[np.int64],
        columns: Sequence[str] | None = None,
        *,
        list_view: bool = False,
        as_stored: bool = False,
        threads: int | None = None,
    ) -> pa.Table:
        """Rows by number over all files, in any order, as often as they are named; errors as of ``scan`` and ``Scan.take``."""
        return self.scan(columns, list_view=list_view, as_stored=as_stored, threads=threads).take(rows)

    def _named(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        """Names with patterns replaced by what they match."""
        known = self.schema.names
        if columns is None:
            return tuple(known)
        present, found = set(known), list[str]()
        for name in columns:
            matched = [name] if name in present else fnmatch.filter(known, name) if is_pattern(name) else []
            if not matched:
                raise no_such_column(self.path, name, known)
            found += matched
        return tuple(dict.fromkeys(found))

    def to_table(self) -> pa.Table:
        """All rows in memory."""
        return self.scan().to_table()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule stream of all rows."""
        return self.scan().__arrow_c_stream__(requested_schema)

    def append(self, data: object, *, seed: int | None = None, **how: Unpack[Storing]) -> Commit:
        """Add rows in one commit; ``data`` as for ``write``.

        Raises:
            SchemaMismatch: listing the columns that differ.
        """
        _, batches = batches_of(data)
        return self.commit(self.stage_parts(batches, seed=seed, **how))

    def overwrite(self, data: object, *, seed: int | None = None, **how: Unpack[Storing]) -> Commit:
        """Replace all rows in one commit; earlier versions stay readable.

        Raises:
            SchemaMismatch: listing the columns that differ.
            CommitConflict: another writer committed since this object's version.
        """
        _, batches = batches_of(data)
        return self.commit(self.stage_parts(batches, seed=seed, **how), replace_all=True)

    def stage(
        self,
        batches: Iterable[pa.RecordBatch],
        *,
        seed: int | None = None,
        tags: Mapping[str, Any] | None = None,
        group_rows: int = GROUP_ROWS,
        **how: Unpack[Storing],
    ) -> DataFile:
        """Write and sync a file that no reader sees until it is committed; safe to call on any machine.

        Args:
            batches: rows that fit ``schema``.
            seed: for identical bytes and name; None draws them.
            tags: a small mapping of JSON values that comes back with the file; files that compaction makes of others have none.
            group_rows: rows of a row group; see ``Writer``.
            how: ``profile``, ``encodings``, ``quantise``, ``cluster_by``; see ``Storing``.

        Raises:
            SchemaMismatch: listing the columns that differ; nothing is left behind.
        """
        from headrace.storage.staging import stage  # half of what the store imports; readers need none of it

        if self._parted_by:
            raise SchemaMismatch(
                f"{self.path}: rows are parted by {[by.column for by in self._parted_by]}, so they may need several "
                "files; use stage_parts"
            )
        return stage(self, batches, seed=seed, tags=tags, group_rows=group_rows, **how)  # pyright: ignore[reportArgumentType]

    def stage_parts(self, batches: Iterable[pa.RecordBatch], **how: Any) -> tuple[DataFile, ...]:
        """As ``stage``, with the same arguments: one file, or of a partitioned table one for each part there are rows of.

        Raises:
            SchemaMismatch: listing the columns that differ; nothing is left behind.
            TooLarge: there are rows of more parts than can be written at once.
        """
        from headrace.storage.staging import stage_parts

        return stage_parts(self, batches, **how)  # pyright: ignore[reportArgumentType]

    def commit(
        self,
        files: Iterable[DataFile],
        *,
        key: Key | None = None,
        attachments: Mapping[str, bytes] | None = None,
        replace_all: bool = False,
        epoch: int | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> Commit:
        """Publish staged files and attachments as the next version.

        Args:
            files: what ``stage`` returned, here or elsewhere.
            key: (query id, batch id); if that key was committed before, that commit is returned, marked
                ``replayed``, and nothing is added.
            attachments: opaque bytes by name.
            replace_all: the new version holds these files and no other.
            epoch: what ``fence`` returned for the key's query, if it was called.
            clock_ms: what ``committed_at_ms`` is taken from.

        Raises:
            SchemaMismatch, CorruptManifest: a file does not belong here.
            CommitConflict: a file is already part of the table, or ``replace_all`` met another writer.
            CommitFenced: another driver has the key's query by now.
            StagedTooLongAgo: garbage collection may have removed a file since it was staged.
            CommitUnknown: published, but perhaps not durable; nothing was removed.
        """
        keyed = (str(key[0]), int(key[1])) if key is not None else None
        added, attached = tuple(files), attachments or {}
        return committing.append(self, added, keyed, attached, replace_all, epoch, clock_ms)  # pyright: ignore[reportArgumentType]

    def fence(self, query_id: str, holder: str = "", *, clock_ms: Callable[[], int] = now_ms) -> int:
        """Become the only driver of a query: draw its next epoch, which its commits must carry from now on.

        A driver that was taken for dead, and was not, has an older epoch and can commit no batch of the query any more.

        Args:
            query_id: the query.
            holder: how messages name this driver.

        Returns:
            the epoch, for ``commit``.
        """
        return committing.take_fence(self, query_id, holder, clock_ms)  # pyright: ignore[reportArgumentType]

    def _show(self, manifest: Manifest) -> None:
        """Be at another version."""
        self._manifest, self._schema, self._suppression = manifest, None, None

    def last_commit(self, query_id: str) -> Commit | None:
        """The newest commit of a query, by batch id, in the newest version; None if it never committed.

        Moves the table on to the newest version.
        """
        self.refresh()
        batches = [
            (batch, version) for (query, batch), version in self._listing().keys.items() if query == query_id
        ]
        if not batches:
            return None
        found, _ = self._log.read(max(batches)[1])
        return manifests.commit_of(found, self.path)

    def history(self) -> Iterator[Commit]:
        """Every commit up to this version, newest first; each manifest is checked against its successor."""
        for manifest in self._log.back(self._manifest, self._manifest.standing.horizon):
            yield manifests.commit_of(manifest, self.path)
