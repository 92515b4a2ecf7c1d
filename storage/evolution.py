"""Columns that come, go, change their name or grow, without touching a byte of the files that are there.

In the flow: ``Table.evolve`` publishes a version with another schema; ``evolved`` reads older files under it. A file
holds a column under the name it was first given. A renamed column keeps that name in files, a dropped one retires it, so
a new column of the same name gets another one there. Values of an added column go into files of their own, one beside
each data file, joined by row position (a column family). What no file could be read under is refused, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from headrace.storage import committing
from headrace.storage.entropy import Entropy
from headrace.storage.errors import PlanOutdated, SchemaMismatch, no_such_column
from headrace.storage.evolved import widens
from headrace.storage.log import Change
from headrace.storage.logical import stored_schema
from headrace.storage.manifest import DATA, Commit, DataFile, Family, Standing

if TYPE_CHECKING:
    from headrace.storage.table import Table

Fill: TypeAlias = Callable[[pa.RecordBatch], "pa.Array"]
_TRIES = 8


@dataclass(frozen=True)
class Shape:
    """What evolution changes: the columns, how files call them, and who is in them."""

    schema: pa.Schema
    erase_key: str | None
    personal: tuple[str, ...]
    standing: Standing

    def stored(self, name: str) -> str:
        """A column's name in files."""
        return self.standing.stored_as.get(name, name)

    def field(self, name: str, where: object) -> pa.Field:
        """A column.

        Raises:
            NoSuchColumn: there is none of that name.
        """
        if name not in self.schema.names:
            raise no_such_column(where, name, self.schema.names)
        return self.schema.field(name)


@dataclass(frozen=True)
class Add:
    """A new column; null in rows that are there, or what ``fill`` makes of their batches, read by ``reads``."""

    name: str
    type: pa.DataType
    fill: Fill | None = None
    reads: tuple[str, ...] | None = None
    personal: bool = False

    def of(self, shape: Shape, where: object) -> Shape:
        if self.name in shape.schema.names:
            raise SchemaMismatch(
                f"{where}: expected a new name, there is a column {self.name!r}; drop or rename it"
            )
        used = {shape.stored(name) for name in shape.schema.names} | set(shape.standing.retired)
        stored, number = self.name, 2
        while stored in used:
            stored, number = f"{self.name}~{number}", number + 1
        mapped = dict(shape.standing.stored_as) | ({self.name: stored} if stored != self.name else {})
        return dataclasses.replace(
            shape,
            schema=stored_schema(shape.schema.append(pa.field(self.name, self.type))),
            personal=(*shape.personal, self.name) if self.personal else shape.personal,
            standing=dataclasses.replace(shape.standing, stored_as=mapped),
        )


@dataclass(frozen=True)
class Drop:
    """A column less. Its bytes stay in files until these are compacted and the versions before have expired."""

    name: str

    def of(self, shape: Shape, where: object) -> Shape:
        shape.field(self.name, where)
        if self.name == shape.erase_key:
            raise SchemaMismatch(
                f"{where}: {self.name!r} is the erase key; without it nobody's rows could be found, keep it"
            )
        if self.name in {by.column for by in shape.standing.partition_by}:
            raise SchemaMismatch(f"{where}: files are parted by {self.name!r}; write the rows to a new table")
        kept = shape.standing.retention
        if kept is not None and self.name in (kept.column, kept.since):
            raise SchemaMismatch(
                f"{where}: retention is declared by {self.name!r}; write the rows to a new table"
            )
        if len(shape.schema) == 1:
            raise SchemaMismatch(f"{where}: {self.name!r} is the only column, a table has at least one")
        mapped = {k: v for k, v in shape.standing.stored_as.items() if k != self.name}
        retired = tuple(sorted({*shape.standing.retired, shape.stored(self.name)}))
        return dataclasses.replace(
            shape,
            schema=shape.schema.remove(shape.schema.get_field_index(self.name)),
            personal=tuple(name for name in shape.personal if name != self.name),
            standing=dataclasses.replace(shape.standing, stored_as=mapped, retired=retired),
        )


@dataclass(frozen=True)
class Rename:
    """Another name for a column."""

    name: str
    to: str

    def of(self, shape: Shape, where: object) -> Shape:
        field = shape.field(self.name, where)
        if self.to in shape.schema.names:
            raise SchemaMismatch(f"{where}: expected a new name, there is a column {self.to!r}")
        at = shape.schema.get_field_index(self.name)
        mapped = {k: v for k, v in shape.standing.stored_as.items() if k != self.name}
        stored = shape.stored(self.name)
        if stored != self.to:
            mapped[self.to] = stored
        by = tuple(
            dataclasses.replace(part, column=self.to) if part.column == self.name else part
            for part in shape.standing.partition_by
        )
        kept = shape.standing.retention
        if kept is not None and self.name in (kept.column, kept.since):
            raise SchemaMismatch(
                f"{where}: retention is declared by {self.name!r}, and files say so by that name; write the rows to a new table"
            )
        return Shape(
            shape.schema.set(at, field.with_name(self.to)),
            self.to if shape.erase_key == self.name else shape.erase_key,
            tuple(self.to if name == self.name else name for name in shape.personal),
            dataclasses.replace(shape.standing, stored_as=mapped, partition_by=by),
        )


@dataclass(frozen=True)
class Widen:
    """A type that holds every value the old one did."""

    name: str
    type: pa.DataType

    def of(self, shape: Shape, where: object) -> Shape:
        field = shape.field(self.name, where)
        if field.type == self.type:
            raise SchemaMismatch(f"{where}: {self.name!r} is {self.type} already")
        if not widens(field.type, self.type):
            raise SchemaMismatch(
                f"{where}: {self.name!r} is {field.type}, and not all its values are {self.type} exactly; integers grow "
                "into integers, float into double, decimals in digits, string into large_string; add a column instead"
            )
        at = shape.schema.get_field_index(self.name)
        return dataclasses.replace(
            shape, schema=stored_schema(shape.schema.set(at, field.with_type(self.type)))
        )


Edit: TypeAlias = Add | Drop | Rename | Widen


def shape_of(table: Table) -> Shape:
    """A table's shape at its version."""
    manifest = table._manifest
    return Shape(table.schema, manifest.erase_key, manifest.personal, manifest.standing)


def planned(table: Table, edits: Sequence[Edit]) -> pa.Schema:
    """The schema that ``evolve`` would give the newest version; errors as there."""
    return _shaped(table.refresh(), edits).schema


def evolve(
    table: Table,
    edits: Sequence[Edit],
    *,
    clock_ms: Callable[[], int] = committing.now_ms,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Commit:
    """Change a table's columns in one commit; rows and older versions stay as they are.

    Args:
        table: moved on to the newest version.
        edits: one after the other.
        clock_ms: what ``committed_at_ms`` is taken from.
        on_progress: is told for how many files of how many new columns were made.

    Raises:
        SchemaMismatch: a change that no file could be read under, with the reason.
        NoSuchColumn: there is no such column.
        PlanOutdated: other writers kept changing files for as long as new columns were being made.
    """
    if not edits:
        raise ValueError("expected at least one change of columns, got none")
    made: dict[str, tuple[Family, ...]] = {}
    mine = committing.transaction()
    filled = [edit for edit in edits if isinstance(edit, Add) and edit.fill is not None]

    def attempt() -> Change:
        shape = _shaped(table, edits)
        standing = dataclasses.replace(shape.standing, evolved_at=table.version + 1)
        files = table.files if filled else ()
        todo = [file for file in files if _known(file) not in made]
        for done, file in enumerate(todo):
            on_progress(done, len(todo))
            made[_known(file)] = _families(table, shape, filled, file)
        joined = tuple(
            dataclasses.replace(file, families=(*file.families, *made[_known(file)])) for file in files
        )
        return Change(
            joined,
            (),
            mine,
            None,
            False,
            clock_ms(),
            operation="evolve",
            removed=files,
            standing=standing,
            schema_blake3=table._log.write_schema(shape.schema),
            erase_key=shape.erase_key,
            personal=shape.personal,
        )

    for _ in range(_TRIES):
        try:
            return committing.publish(table, attempt)
        except PlanOutdated:  # a file was replaced while its family was made
            made.clear()
    raise PlanOutdated(f"{table.path}: files kept changing while columns were added; try again later")


def _known(file: DataFile) -> str:
    return f"{file.path} {file.root} {[family.root for family in file.families]}"


def _shaped(table: Table, edits: Sequence[Edit]) -> Shape:
    shape = shape_of(table)
    for edit in edits:
        shape = edit.of(shape, table.path)
    return shape


def _families(table: Table, shape: Shape, adds: Sequence[Add], entry: DataFile) -> tuple[Family, ...]:
    """New columns of one file, as a file of as many rows; rows that are deleted or hidden there are null here."""
    from headrace.storage.writer import Writer

    schema = pa.schema([pa.field(shape.stored(add.name), add.type) for add in adds])
    with table._scan((entry,), [])._open(entry, []) as base:
        size, n_groups = base.footer.group_rows, base.footer.n_groups
        deleted = [base.gone(group) for group in range(n_groups)]
    reads = None
    if all(add.reads is not None for add in adds):
        reads = list(dict.fromkeys(name for add in adds for name in add.reads or ()))
    source = iter(table._scan((entry,), reads).rows_from(0, None))
    identity = Entropy(None).take(16)
    name = f"{DATA}/{identity.hex()}.hrc"
    personal = {shape.stored(add.name) for add in adds if add.personal}
    with (
        table._log.store.staged(name) as path,
        Writer(path, schema, personal=personal, uuid=identity, group_rows=size) as writer,
    ):
        columns: list[list[pa.Array]] = [[] for _ in adds]
        for batch in source:
            for add, parts in zip(adds, columns, strict=True):
                assert add.fill is not None
                values = add.fill(batch)
                if len(values) != batch.num_rows:
                    raise SchemaMismatch(
                        f"{add.name!r}: expected {batch.num_rows} values for as many rows, got {len(values)}"
                    )
                parts.append(values.cast(add.type))
        whole = [pa.chunked_array(parts, add.type) for add, parts in zip(adds, columns, strict=True)]
        at = _places(deleted, size, entry.rows)
        writer.write(pa.table([column.take(at) if at is not None else column for column in whole], schema))
        written = writer.close()
    table._log.store.sync(DATA)
    return (
        Family(name, written.bytes, written.uuid, written.erase_epoch, written.root, tuple(schema.names)),
    )


def _places(deleted: Sequence[np.ndarray | None], size: int, rows: int) -> pa.Array | None:
    """For each row of a file, which of its live rows it is, null for deleted ones; None if none was deleted."""
    if all(mask is None for mask in deleted):
        return None
    live = np.ones(rows, np.bool_)
    for group, mask in enumerate(deleted):
        if mask is not None:
            live[group * size : group * size + len(mask)] = ~mask
    return pa.array(np.cumsum(live) - 1, mask=~live)
