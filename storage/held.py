"""What a table still holds of persons: the files that some kept version names, and which of their rows are whose.

In the flow: below ``erase``, which takes persons out, and beside ``subjects``, which finds them by digest; here, too, a version's rows
are counted as a scan gives them. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from pyroaring import BitMap

from headrace.storage import erase_file
from headrace.storage.erasing import Mask
from headrace.storage.errors import NoEraseKey
from headrace.storage.manifest import DATA, Attachment, DataFile, Family
from headrace.storage.reader import File
from headrace.storage.scan import checked_file

if TYPE_CHECKING:
    from headrace.storage.table import Table

_Named = TypeVar("_Named", Attachment, Family)


def kept_files(table: Table) -> list[DataFile]:
    """Every file that a version which has not expired names, each once, as the newest of them knows it, with the families and media of all.

    Of versions that an erasure closed these are the files that are still there: nobody reads them, but they may hold persons.
    """
    standing, found = table._manifest.standing, dict[str, DataFile]()
    listed, known = {entry.path: entry for entry in table.files}, table.forgotten()
    for entry in (*listed.values(), *table._log.spoken_of(table._manifest, standing.horizon)):
        newest = found.setdefault(entry.path, entry)
        families = _lacking(newest.families, entry.families)
        media = _lacking(newest.media, entry.media)
        if families or media:
            found[entry.path] = replace(
                newest, families=(*newest.families, *families), media=(*newest.media, *media)
            )
    if known is not None:
        for path, (epoch, root) in known.epochs.items():
            if path in found and path not in listed:
                found[path] = replace(found[path], erase_epoch=epoch, root=root)
    if standing.closed_before <= standing.horizon:
        return list(found.values())
    there = {f"{DATA}/{name}" for name in table._log.store.names(DATA)}
    return [entry for path, entry in found.items() if path in listed or path in there]


def waiting(table: Table) -> int:
    """How many files lie with a table's data and are none of those that some version names."""
    named = {
        path
        for entry in kept_files(table)
        for path in (entry.path, *(family.path for family in entry.families))
    }
    return sum(
        f"{DATA}/{name}" not in named for name in table._log.store.names(DATA) if name.endswith(".hrc")
    )


def _lacking(known: Sequence[_Named], told: Sequence[_Named]) -> tuple[_Named, ...]:
    """Of the files that an entry tells of beside its own, those that are not known yet."""
    names = {one.path for one in known}
    return tuple(one for one in told if one.path not in names)


def key_type(table: Table) -> pa.DataType:
    """The type of what names a person, of a dictionary that of its entries.

    Raises:
        NoEraseKey: nothing does.
    """
    if table.erase_key is None:
        raise NoEraseKey(
            f"{table.path}: was made without an erase key, so nothing says whose a row is; make it with erase_key="
        )
    type_ = table.schema.field(table.erase_key).type
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def keys_of(table: Table, subjects: Iterable[object]) -> pa.Array:
    type_ = key_type(table)
    try:
        return pa.array(list(dict.fromkeys(subjects)), type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise NoEraseKey(
            f"{table.path}: the erase key is {type_}, and a subject is not ({type(error).__name__}); nothing was done"
        ) from None


def rows_of(file: File, keys: pa.Array) -> BitMap:
    """Rows of a file, deleted ones left out."""
    return _numbers(file, erase_file.rows_of(file, erase_file.erase_key_of(file), keys)) - deleted(file)


def deleted(file: File) -> BitMap:
    return _numbers(file, [file.footer.deleted(number) for number in range(file.footer.n_groups)])


def _numbers(file: File, masks: Sequence[Mask | None]) -> BitMap:
    """Numbers of the rows that are marked, group by group."""
    found = BitMap()
    for number, mask in enumerate(masks):
        if mask is not None:
            found |= BitMap((np.flatnonzero(mask) + number * file.footer.group_rows).astype(np.uint32))
    return found


def shown(table: Table) -> int:
    """Rows of a table's version that a scan gives: neither deleted nor hidden."""
    known = table.forgotten()
    hidden = {} if known is None else known.rows
    n = 0
    for entry in table.files:
        mine = BitMap.deserialize(hidden[entry.path]) if entry.path in hidden else BitMap()
        if table._suppression is None:  # what its manifest says of deleted rows is the newest there is to say
            n += entry.rows - entry.deleted - len(mine)
        elif entry.rows:
            with checked_file(table.path, entry, table.schema, []) as file:
                n += entry.rows - len(deleted(file) | mine)
    return n
