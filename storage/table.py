"""A table: a folder of data files and the row of manifests that says which of them are rows of it.

Files are staged first (written, synced, seen by nobody) and committed later by one manifest, so that rows, and the
attachments that belong to them, appear together or not at all. Commits keyed by (query, batch) happen once, however
often they are tried. The order of syncs is in ``durable`` and ``FORMAT.md`` section 9. Compaction, erasure and removal
of files nobody lists are not done here.
"""

from __future__ import annotations

import fnmatch
import time
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import durable
from headrace.storage import manifest as manifests
from headrace.storage.arrays import batches_of
from headrace.storage.columns import is_pattern
from headrace.storage.entropy import Entropy
from headrace.storage.errors import BadLocation, CommitConflict, SchemaMismatch, TableNotFound, no_such_column
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.log import Change, Listing, Log
from headrace.storage.manifest import ATTACHMENTS, DATA, Attachment, Commit, DataFile, Manifest
from headrace.storage.objects import Location, Place, place
from headrace.storage.paths import inside
from headrace.storage.predicate import Filter, parse_filter, tuples_of
from headrace.storage.prefetch import MEMORY_BYTES
from headrace.storage.scan import Scan, checked_file
from headrace.storage.storing import Storing

Key = tuple[str, int]


def now_ms() -> int:
    """The wall clock; only ever written down, nothing is ordered by it."""
    return time.time_ns() // 1_000_000


class Table:
    """One table at one version; commits made through it move it on. Picklable, holds no open file."""

    def __init__(self, path: Place, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest
        self._log = Log(path)
        self._listed = Listing()
        self._schema: pa.Schema | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.path, self._manifest)

    def __repr__(self) -> str:
        return f"Table({str(self.path)!r}, version={self.version}, rows={self.num_rows})"

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
        """Rows of this version, without deleted ones."""
        return self._manifest.n_rows

    @property
    def erase_key(self) -> str | None:
        """The column that names a person, if there is one."""
        return self._manifest.erase_key

    @property
    def personal(self) -> tuple[str, ...]:
        """Further columns that hold personal data."""
        return self._manifest.personal

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
            self._manifest, _ = self._log.read(newest)
            self._schema = None
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
        return Scan(
            self.path,
            self.files,
            self.schema,
            self._named(columns),
            parse_filter(filter),
            batch_rows,
            tuples_of(filter),
            list_view,
            threads,
            memory_bytes,
            rows,
            as_stored,
        )

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
        return self.commit([self.stage(batches, seed=seed, **how)])

    def overwrite(self, data: object, *, seed: int | None = None, **how: Unpack[Storing]) -> Commit:
        """Replace all rows in one commit; earlier versions stay readable.

        Raises:
            SchemaMismatch: listing the columns that differ.
            CommitConflict: another writer committed since this object's version.
        """
        _, batches = batches_of(data)
        return self.commit([self.stage(batches, seed=seed, **how)], replace_all=True)

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
            tags: a small mapping of JSON values that comes back with the file.
            group_rows: rows of a row group; see ``Writer``.
            how: ``profile``, ``encodings``, ``quantise``, ``cluster_by``; see ``Storing``.

        Raises:
            SchemaMismatch: listing the columns that differ; nothing is left behind.
        """
        from headrace.storage.writer import (
            Writer,
        )  # half of what the store imports, and readers need none of it

        noted = msgspec.json.decode(msgspec.json.encode(dict(tags or {})))
        identity = Entropy(seed).take(16)
        name = f"{DATA}/{identity.hex()}.hrc"
        path = self.path / name
        with (
            durable.staged(path) as file,
            Writer(
                file,
                self.schema,
                erase_key=self.erase_key,
                personal=self.personal,
                seed=seed,
                uuid=identity,
                group_rows=group_rows,
                **how,
            ) as writer,
        ):
            for batch in batches:
                writer.write(batch)
            written = writer.close()
        durable.sync_dir(self.path / DATA)
        return DataFile(
            name, written.rows, written.bytes, written.uuid, written.erase_epoch, written.root, tags=noted
        )

    def commit(
        self,
        files: Iterable[DataFile],
        *,
        key: Key | None = None,
        attachments: Mapping[str, bytes] | None = None,
        replace_all: bool = False,
        clock_ms: Callable[[], int] = now_ms,
    ) -> Commit:
        """Publish staged files and attachments as the next version.

        Args:
            files: what ``stage`` returned, here or elsewhere.
            key: (query id, batch id); if that key was committed before, that commit is returned, marked
                ``replayed``, and nothing is added.
            attachments: opaque bytes by name.
            replace_all: the new version holds these files and no other.
            clock_ms: what ``committed_at_ms`` is taken from.

        Raises:
            SchemaMismatch, CorruptManifest: a file does not belong here.
            CommitConflict: a file is already part of the table, or ``replace_all`` met another writer.
            CommitUnknown: published, but perhaps not durable; nothing was removed.
        """
        added = tuple(files)
        key = (str(key[0]), int(key[1])) if key is not None else None
        transaction = uuids.uuid4().hex
        base = self.version
        self.refresh()
        if (done := self._committed(key)) is not None:
            return done
        self._validate(added)
        durable.sync_dir(self.path / DATA)
        attached = self._attach(transaction, attachments or {})
        while True:
            if (done := self._committed(key)) is not None:
                return done
            if replace_all and self.version != base:
                raise CommitConflict(
                    f"{self.path}: replacing all rows of version {base} met version {self.version} of another writer; "
                    "look at what it added, then replace again"
                )
            self._refuse_listed(added)
            change = Change(added, attached, transaction, key, replace_all, clock_ms())
            following = self._log.following(self._manifest, change)
            if self._log.publish(following):
                self._manifest = following
                return manifests.commit_of(following, self.path)
            self.refresh()

    def _committed(self, key: Key | None) -> Commit | None:
        if key is None or (version := self._listing().keys.get(key)) is None:
            return None
        found, _ = self._log.read(version)
        return manifests.commit_of(found, self.path, replayed=True)

    def _refuse_listed(self, added: tuple[DataFile, ...]) -> None:
        listed = {file.path for _, file in self._listing().files}
        twice = sorted(file.path for file in added if file.path in listed)
        if twice or len({file.path for file in added}) != len(added):
            raise CommitConflict(
                f"{self.path}: files may be committed once, these were before: {twice or added}"
            )

    def _validate(self, added: tuple[DataFile, ...]) -> None:
        for entry in added:
            path = inside(self.path, entry.path, DATA)
            with checked_file(self.path, entry, self.schema, None) as file:
                if file.footer.size != entry.bytes:
                    raise SchemaMismatch(
                        f"{path}: expected {entry.bytes} bytes, got {file.footer.size}; stage it again"
                    )

    def _attach(self, transaction: str, attachments: Mapping[str, bytes]) -> tuple[Attachment, ...]:
        if not attachments:
            return ()
        folder = self.path / ATTACHMENTS / transaction
        durable.make_dir(folder)
        entries = []
        for number, (name, data) in enumerate(sorted(attachments.items())):
            relative = f"{ATTACHMENTS}/{transaction}/{number}.bin"
            durable.write_file_synced(self.path / relative, data)
            entries.append(Attachment(name, relative, len(data), manifests.digest(data)))
        durable.sync_dir(folder)
        return tuple(entries)

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
        manifest = self._manifest
        while True:
            yield manifests.commit_of(manifest, self.path)
            if manifest.version == 1:
                return
            manifest, _ = self._log.read(manifest.version - 1, manifest.parent_blake3)


def open(path: Location, version: int | None = None) -> Table:
    """A table at its newest version, or at an earlier one.

    Args:
        path: its folder; a path, a ``file://`` or ``s3://`` URL, or (store, name).
        version: which one; None is the newest.

    Raises:
        TableNotFound: the folder holds no table.
        NoSuchVersion: that version was never committed.
        CorruptManifest: its manifest is damaged.
    """
    root = place(path)
    log = Log(root)
    newest = log.newest()
    if not newest:
        raise TableNotFound(f"{root}: expected a table here, found no manifest; create one")
    manifest, _ = log.read(newest if version is None else version)
    return Table(root, manifest)
