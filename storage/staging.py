"""Writes files that no reader sees until they are committed: one of all rows, or one for each part of a partitioned table.

In the flow: on any machine, before ``committing``. A file is synced, and its name too, before anybody is told of it. Its
columns have the names that files of this table use (``evolution``). A file that could not be finished is removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import msgspec
import pyarrow as pa

from headrace.storage.entropy import Entropy
from headrace.storage.errors import TooLarge
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.manifest import DATA, DataFile
from headrace.storage.parting import EXPIRES, Retention
from headrace.storage.partition import Value, parts_of
from headrace.storage.storing import Storing
from headrace.storage.writer import Writer

if TYPE_CHECKING:
    from headrace.storage.forgotten import Forgotten
    from headrace.storage.table import Table

_log = logging.getLogger(__name__)
MAX_PARTS = 256  # written at once; each holds a row group in memory


@dataclass
class Staging:
    """One file as it is written."""

    entry: DataFile
    writer: Writer
    schema: pa.Schema
    stored: list[str] | None

    forgotten: Forgotten | None = None
    key: str | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows that fit the table's schema; those of persons that the table has forgotten are left out."""
        if self.forgotten is not None and self.key in batch.schema.names:
            late = self.forgotten.returning(batch.column(self.key))
            if late.any():
                _log.warning("%d late rows of erased persons were left out", int(late.sum()))
                batch = batch.filter(pa.array(~late))
        if self.stored is not None:
            from headrace.storage.fit import fit  # here: few tables have columns of other names

            fit(batch, self.schema)  # which says what is wrong by the table's names
            batch = batch.select(self.schema.names).rename_columns(self.stored)
        self.writer.write(batch)


def begin(
    table: Table,
    stack: ExitStack,
    *,
    seed: int | None = None,
    tags: Mapping[str, Any] | None = None,
    partition: Mapping[str, Any] | None = None,
    group_rows: int = GROUP_ROWS,
    **how: Unpack[Storing],
) -> Staging:
    """Start a file of the table; leaving ``stack`` by an error removes it."""
    identity = Entropy(seed).take(16)
    name = f"{DATA}/{identity.hex()}.hrc"
    stored_as = table._manifest.standing.stored_as
    schema = table.schema
    stored = [stored_as.get(column, column) for column in schema.names] if stored_as else None
    if stored is not None:
        schema = pa.schema([field.with_name(name) for field, name in zip(schema, stored, strict=True)])
        how = _renamed(how, stored_as)
    path = stack.enter_context(table._log.store.staged(name))
    writer = stack.enter_context(
        Writer(
            path,
            schema,
            erase_key=table.erase_key and stored_as.get(table.erase_key, table.erase_key),
            personal=[stored_as.get(column, column) for column in table.personal],
            seed=seed,
            uuid=identity,
            group_rows=group_rows,
            **how,
        )
    )
    noted = msgspec.json.decode(msgspec.json.encode(dict(tags or {})))
    entry = DataFile(
        name,
        0,
        0,
        identity.hex(),
        0,
        "",
        tags=noted,
        staged_at=table.version,
        partition=dict(partition or {}),
    )
    known = table.forgotten()
    return Staging(
        entry,
        writer,
        table.schema,
        stored,
        known if known is not None and len(known) else None,
        table.erase_key,
    )


def _renamed(how: Storing, stored_as: Mapping[str, str]) -> Storing:
    """How columns are stored, by the names that files have for them."""

    def named(name: str) -> str:
        return stored_as.get(name, name)

    found = how.copy()
    if encodings := how.get("encodings"):
        found["encodings"] = {named(name): value for name, value in encodings.items()}
    if quantise := how.get("quantise"):
        found["quantise"] = {named(name): value for name, value in quantise.items()}
    if cluster := how.get("cluster_by"):
        found["cluster_by"] = named(cluster)
    return found


def finish(staging: Staging) -> DataFile:
    """Close and sync a file; its folder is not."""
    written = staging.writer.close()
    return replace(
        staging.entry,
        rows=written.rows,
        bytes=written.bytes,
        uuid=written.uuid,
        erase_epoch=written.erase_epoch,
        root=written.root,
    )


def stage(table: Table, batches: Iterable[pa.RecordBatch], **how: Any) -> DataFile:
    """All rows in one file; see ``Table.stage``."""
    with ExitStack() as stack:
        staging = begin(table, stack, **how)
        for batch in batches:
            staging.write(batch)
        found = finish(staging)
    table._log.store.sync(DATA)
    return found


def _days(batch: pa.RecordBatch, kept: Retention | None) -> list[pa.Array]:
    if kept is None:
        return []
    from headrace.storage.retention import deadlines  # here: few tables declare any

    return [deadlines(batch, kept)]


def stage_parts(table: Table, batches: Iterable[pa.RecordBatch], **how: Any) -> tuple[DataFile, ...]:
    """One file for each part that rows fall into; see ``Table.stage_parts``.

    Raises:
        TooLarge: rows fall into more parts than can be written at once.
    """
    by, kept = table._parted_by, table.retention
    if not by:
        return (stage(table, batches, **how),)
    names = [*[part.column for part in by], *([EXPIRES] if kept is not None else [])]
    begun: dict[tuple[Value, ...], Staging] = {}
    with ExitStack() as stack:
        for batch in batches:
            for values, rows in parts_of(batch, by, _days(batch, kept)):
                staging = begun.get(values)
                if staging is None:
                    if len(begun) == MAX_PARTS:
                        raise TooLarge(
                            f"{table.path}: rows fall into more than {MAX_PARTS} parts by "
                            f"{names}; write fewer at a time, or part by a bucket"
                        )
                    named = dict(zip(names, values, strict=True))
                    seed = how.get("seed")
                    one = {**how, "seed": None if seed is None else seed + len(begun)}
                    staging = begun[values] = begin(table, stack, partition=named, **one)
                staging.write(rows)
        found = tuple(finish(staging) for staging in begun.values())
    table._log.store.sync(DATA)
    return found
