"""The columns of a file, found by name without reading the others: a hash index, then a row, then the name itself.

Names are looked up together, so that the leaves they touch are read in one go. A pattern reads every name. What a
column's numbers mean is ``logical``'s to know; where its pages are, ``footer``'s.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from headrace.storage import layout, nested_columns
from headrace.storage.errors import NoSuchColumn, UnsupportedFeature
from headrace.storage.logical import ColumnType, from_description, from_ids

if TYPE_CHECKING:
    from headrace.storage.as_stored import StoredAs
    from headrace.storage.footer import Footer

_ROW = struct.Struct("<8xIHBBIIHHIQBBHIIIII")
_SLOT_BYTES = 16
_NO_PARTS = range(0)
_KEY, _PLACE = struct.Struct("<Q"), struct.Struct("<II")
SEARCHED_NAMES = 50_000  # beyond so many, a mistyped name gets no suggestion


class Column(NamedTuple):
    """One column as the footer describes it. Row numbers are None where there is no such row."""

    id: int
    name: str
    type: ColumnType
    nullable: bool
    personal: bool
    erase_key: bool
    flags: int = 0
    stats: int | None = None
    quantisation: int | None = None
    dictionary: int | None = None
    leader: int | None = None
    parts: range = _NO_PARTS
    """Ids of the flat columns that a nested one is cut into, beside itself."""
    cluster: int | None = None
    """Id of the column that says in which order the rows of a clustered one lie."""
    stored: StoredAs | None = None
    """How its values come out if they are not converted."""

    @property
    def hidden(self) -> bool:
        """Whether it is the file's own and not the table's."""
        return bool(self.flags & layout.HIDDEN)

    @property
    def follows(self) -> bool:
        """Whether its lists change as those of ``leader`` do."""
        return bool(self.flags & layout.FOLLOWS)


def name_hashes(name: str, seed: int) -> tuple[int, int]:
    """Keyed hash of a column name: 64 bits, by which it is found, and 32 more, never 0, that make it certain.

    The key keeps names from being chosen to collide.
    """
    digest = blake3(seed.to_bytes(8, "little") + name.encode()).digest(length=12)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little") or 1


def is_pattern(name: str) -> bool:
    """Whether a name that no column has is meant as a pattern: ``prefix*``, ``f_??``, ``cat_[ab]*``."""
    return any(sign in name for sign in "*?[")


class Columns:
    """Looks columns up in one footer."""

    def __init__(self, footer: Footer) -> None:
        self._footer = footer
        self._found: dict[str, Column] = {}

    def all(self) -> list[Column]:
        """Every column of the table, in order; hidden ones are left out."""
        n = self._footer.n_top
        return [column for column in self._read(range(n)) if not column.hidden]

    def named(self, names: Sequence[str]) -> list[Column]:
        """The columns asked for, in that order; a pattern stands for all it fits, in the file's order, once.

        Raises:
            NoSuchColumn: naming the first one missing and what comes nearest.
        """
        found = self._found
        if new := [name for name in names if name not in found]:
            self._find(new)
        known = [found[name] for name in names if name in found]
        if len(known) == len(names):
            return known
        taken: dict[str, Column] = {}
        for name in names:
            if name in found:
                taken[name] = found[name]
                continue
            fitting = self.matching(name) if is_pattern(name) else []
            if not fitting:
                raise self._missing(name)
            taken.update((column.name, column) for column in fitting if column.name not in taken)
        return list(taken.values())

    def matching(self, pattern: str) -> list[Column]:
        """Columns whose whole name fits a pattern of ``*``, ``?`` and ``[...]``, in the file's order."""
        return [column for column in self.all() if fnmatchcase(column.name, pattern)]

    def at(self, index: int) -> Column:
        """The column of one row of COLUMN."""
        return self._read([index])[0]

    def parts(self, column: Column) -> list[Column]:
        """The flat columns that a column is made of, itself first; their types come from its own."""
        if not column.parts:
            return [column]
        footer, size = self._footer, layout.COLUMN_ROW.itemsize
        first = column.parts.start
        raw = footer.section(layout.COLUMN, size * first, size * len(column.parts))
        found = [column]
        paths = [column.name]
        for index, row, type_, (name, _, parent) in zip(
            column.parts,
            _ROW.iter_unpack(raw),
            nested_columns.nodes(column.type)[1:],
            nested_columns.names(column.type)[1:],
            strict=True,
        ):
            paths.append(f"{paths[parent]}.{name}")
            if (type_.storage, type_.item_storage) != (row[3], row[11]):
                want = f"{type_.storage}/{type_.item_storage}"
                raise footer.wrong(
                    f"type of a part of {column.name!r}", layout.COLUMN, size * index, want, row[3]
                )
            found.append(Column(index, paths[-1], type_, True, column.personal, False, row[7]))
        return found

    def _find(self, names: Sequence[str]) -> None:
        footer, pack = self._footer, _KEY.pack
        seed, n_buckets, n_top = footer.header.hash_seed, footer.n_buckets, footer.n_top
        size = _SLOT_BYTES * footer.bucket_slots
        wanted = []
        for name in names:
            value, check = name_hashes(name, seed)
            wanted.append((name, pack(value), check, value % n_buckets * size))
        footer.load(layout.NAME_INDEX, [(one[3], size) for one in wanted])
        sure: dict[int, str] = {}
        unsure: list[int] = []
        for name, key, check, off in wanted:
            bucket = footer.section(layout.NAME_INDEX, off, size)
            at = bucket.find(key)
            while at >= 0:
                number, stored = _PLACE.unpack_from(bucket, at + 8)
                if not at % _SLOT_BYTES and 0 < number <= n_top:
                    if stored == check:
                        sure[number - 1] = name
                    elif not stored:
                        unsure.append(number - 1)  # format 1.0 has no more than the 64 bits
                at = bucket.find(key, at + 1)
        for column in self._read(list(sure), sure):
            if not column.hidden:
                self._found[column.name] = column
        for column in self._read(unsure) if unsure else ():
            if not column.hidden and column.name in names:
                self._found[column.name] = column

    def _read(self, indices: Sequence[int], known: dict[int, str] | None = None) -> list[Column]:
        """Columns by number; of those whose names are known, they are not read."""
        footer, size = self._footer, layout.COLUMN_ROW.itemsize
        if isinstance(indices, range):
            rows = list(_ROW.iter_unpack(footer.section(layout.COLUMN, 0, size * len(indices))))
        else:
            footer.load(layout.COLUMN, [(size * index, size) for index in indices])
            rows = [_ROW.unpack(footer.section(layout.COLUMN, size * index, size)) for index in indices]
        if known is None:
            footer.load(layout.NAMES, [(row[0], row[1] + row[12]) for row in rows])
            return [
                self._column(index, self._text(row[0], row[1]), row)
                for index, row in zip(indices, rows, strict=True)
            ]
        footer.load(layout.NAMES, [(row[13], row[12]) for row in rows if row[12]])
        return [self._column(index, known[index], row) for index, row in zip(indices, rows, strict=True)]

    def _text(self, off: int, length: int) -> str:
        if not length:
            return ""
        try:
            return self._footer.section(layout.NAMES, off, length).decode()
        except UnicodeDecodeError as error:
            raise self._footer.wrong("name", layout.NAMES, off, "UTF-8", error.reason) from error

    def _column(self, index: int, name: str, row: tuple[int, ...]) -> Column:
        _, _, logical, storage, _, child, n_children, flags, _, _, item, item_storage, more, more_off = row[
            :14
        ]
        if flags & layout.DESCRIBED:
            known = _described(self._footer.section(layout.NAMES, more_off, more))
        else:
            known = _numbered(logical, item, self._text(more_off, more))
        if known is None or known.numbers[:2] != (logical, item if known.type.is_list else 0):
            raise UnsupportedFeature(
                f"{self._footer.file}: column {name!r} has logical type {logical} of items {item}, which this reader "
                "lacks; read the other columns or update headrace"
            )
        if known.numbers[2:] != (storage, item_storage):
            raise UnsupportedFeature(
                f"{self._footer.file}: column {name!r} is stored as physical type {storage}/{item_storage}, which "
                "this reader lacks for it; read the other columns or update headrace"
            )
        clustered = flags & layout.CLUSTERED
        parts, cluster = _NO_PARTS, None
        if n_children != known.n_parts or (
            (n_children or clustered) and child + n_children + bool(clustered) > self._footer.n_columns
        ):
            what, got = f"parts of column {name!r}", f"{n_children} from {child} on"
            raise self._footer.wrong(
                what, layout.COLUMN, 0, f"{known.n_parts} of {self._footer.n_columns} columns", got
            )
        if n_children:
            parts = range(child, child + n_children)
        elif clustered:
            cluster = child
        none, (stats, quantisation, dictionary, leader) = layout.NO_ROW, row[14:]
        return Column(
            index,
            name,
            known.type,
            flags & layout.NULLABLE != 0,
            flags & layout.PERSONAL != 0,
            flags & layout.ERASE_KEY != 0,
            flags,
            None if stats == none else stats,
            None if quantisation == none else quantisation,
            None if dictionary == none else dictionary,
            leader if flags & layout.FOLLOWS and leader != none else None,  # format 1.0 has zero there
            parts,
            cluster,
        )

    def _missing(self, name: str) -> NoSuchColumn:
        footer = self._footer
        near: list[str] = []
        if footer.n_top <= SEARCHED_NAMES:
            near = get_close_matches(name, [column.name for column in self.all()], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ", listed by its schema"
        return NoSuchColumn(f"{footer.file}: has no column {name!r}; it has {footer.n_top}{hint}")


class _Known(NamedTuple):
    """A type, its logical and storage numbers as a COLUMN row has them, and how many parts it is cut into."""

    type: ColumnType
    numbers: tuple[int, int, int, int]
    n_parts: int


def _known(type_: ColumnType | None) -> _Known | None:
    if type_ is None:
        return None
    numbers = (type_.logical, type_.item_logical, type_.storage, type_.item_storage)
    return _Known(type_, numbers, len(nested_columns.nodes(type_)) - 1 if type_.is_nested else 0)


@lru_cache(maxsize=1024)
def _described(data: bytes) -> _Known | None:
    return _known(from_description(data))


@lru_cache(maxsize=1024)
def _numbered(logical: int, item: int, timezone: str) -> _Known | None:
    return _known(from_ids(logical, item, timezone))
