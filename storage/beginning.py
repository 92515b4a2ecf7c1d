"""Makes tables: empty ones, and ones whose version 1 already holds rows.

In the flow: once in a table's life. A planned table can be staged into, but no reader finds it before its first manifest
is published; a crash in between leaves a folder that the next attempt may use. The order of syncs is that of a commit,
see ``FORMAT.md`` section 9.2. Schemas are never changed here, and folders and files of dead writers are not removed.
"""

from __future__ import annotations

import dataclasses
import uuid as uuids
from collections.abc import Callable, Collection, Sequence
from typing import Unpack

import pyarrow as pa

from headrace.storage import committing, durable
from headrace.storage import manifest as manifests
from headrace.storage.arrays import batches_of
from headrace.storage.committing import now_ms
from headrace.storage.errors import SchemaMismatch, TableExists
from headrace.storage.log import Log
from headrace.storage.logical import stored_schema
from headrace.storage.manifest import DATA, FOLDER, DataFile, Manifest, Standing
from headrace.storage.objects import Location, Place, place
from headrace.storage.parting import PartitionBy, Retention
from headrace.storage.partition import checked, parse
from headrace.storage.paths import inside
from headrace.storage.storing import Storing
from headrace.storage.table import Table


def create(
    path: Location,
    schema: pa.Schema,
    *,
    erase_key: str | None = None,
    personal: Collection[str] = (),
    partition_by: Sequence[str | PartitionBy] = (),
    retention: Retention | None = None,
    clock_ms: Callable[[], int] = now_ms,
) -> Table:
    """Make an empty table, version 1; arguments as for ``write``.

    Raises:
        TableExists: there is one.
        UnsupportedType: the store cannot hold a column.
        SchemaMismatch: ``erase_key`` or ``personal`` names no column.
    """
    return _publish_first(_planned(path, schema, erase_key, personal, partition_by, retention), (), clock_ms)


def _planned(
    path: Location,
    schema: pa.Schema,
    erase_key: str | None,
    personal: Collection[str],
    partition_by: Sequence[str | PartitionBy],
    retention: Retention | None,
) -> Table:
    """A table that can be staged into, but that no reader finds before its first manifest is published.

    Its folders and its schema are durable, whoever made them.
    """
    root = place(path)
    stored = stored_schema(schema)
    lacking = sorted({*personal, *([erase_key] if erase_key else [])} - set(stored.names))
    if lacking:
        raise SchemaMismatch(f"erase key and personal columns must be columns, {lacking} are not")
    of_persons = {*personal, *([erase_key] if erase_key else [])}
    by = checked([parse(part) for part in partition_by], stored, of_persons)
    if retention is not None:
        from headrace.storage.retention import checked as kept  # here: few tables declare any

        kept(retention, stored, of_persons)
    log = Log(root)
    for folder in (root / DATA, root / FOLDER):
        durable.make_dir(folder)
    if log.path(1).exists():
        raise _exists(root)
    first = Manifest(
        format=manifests.FORMAT,
        required_features=(),
        version=1,
        parent_blake3="",
        since=0,
        since_blake3="",
        operation="create",
        transaction=uuids.uuid4().hex,
        key=None,
        schema_blake3=log.write_schema(stored),
        erase_key=erase_key,
        personal=tuple(personal),
        added=(),
        removed=(),
        attachments=(),
        n_files=0,
        n_rows=0,
        committed_at_ms=0,
        root=manifests.files_root("", (), ()),
        standing=Standing(partition_by=by, retention=retention),
    )
    return Table(root, dataclasses.replace(first, required_features=manifests.features(first)))


def _publish_first(planned: Table, files: tuple[DataFile, ...], clock_ms: Callable[[], int]) -> Table:
    """Publish version 1 of a planned table, with its first files, which were staged here and so are synced."""
    committing.validate(planned, files)
    first = dataclasses.replace(
        planned._manifest,
        added=files,
        n_files=len(files),
        n_rows=sum(file.rows for file in files),
        committed_at_ms=clock_ms(),
        root=manifests.files_root("", files, ()),
    )
    if not Log(planned.path).publish(first):
        raise _exists(planned.path)
    return Table(planned.path, first)


def _exists(root: Place) -> TableExists:
    return TableExists(f"{root}: holds a table already; open it and append, or choose another folder")


def write(
    path: Location,
    data: object,
    *,
    erase_key: str | None = None,
    personal: Collection[str] = (),
    partition_by: Sequence[str | PartitionBy] = (),
    retention: Retention | None = None,
    seed: int | None = None,
    **how: Unpack[Storing],
) -> Table:
    """Make a table whose version 1 is ``data``: anything with an Arrow stream, a ``RecordBatch``, or an iterable of them.

    Rows and table appear together or not at all.

    Args:
        data: its schema becomes the table's.
        erase_key: the column that names a person.
        personal: further columns that hold personal data.
        partition_by: columns, or ``bucket(column, n)``, whose values or hashes part rows into files; see ``partition``.
        retention: how long rows of which class may be kept; see ``retention``.
        seed: for identical bytes and file name; None draws them.
        how: ``profile``, ``encodings``, ``quantise``, ``cluster_by``; see ``storing.Storing``. They hold for these rows;
            what is appended later is told anew.

    Raises:
        TableExists: there is one, or another writer was faster; open it and append.
        FileExistsError: an attempt with this ``seed`` left its file here; remove the folder, or take another seed.
        UnsupportedType: the store cannot hold a column.
        SchemaMismatch: ``erase_key`` or ``personal`` names no column, or batches differ.
        ValueError: ``retention`` has no class, or periods that are none.
        CommitUnknown: published, but perhaps not durable; nothing was removed.

    >>> import pyarrow, tempfile
    >>> table = write(tempfile.mkdtemp() + "/clicks", pyarrow.table({"user": [1, 2, 1]}))
    >>> table.scan(filter=[("user", "==", 1)]).to_table().num_rows
    2
    >>> table.version
    1
    """
    schema, batches = batches_of(data)
    planned = _planned(path, schema, erase_key, personal, partition_by, retention)
    staged = planned.stage_parts(batches, seed=seed, **how)
    try:
        return _publish_first(planned, staged, now_ms)
    except TableExists:
        # Nobody else knows of these files, and in the other writer's table they would stay for good.
        for file in staged:
            inside(planned.path, file.path, DATA).unlink()
        raise
