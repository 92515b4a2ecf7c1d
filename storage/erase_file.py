"""Erases persons from one file where it lies: finds their rows, blanks them in every page, and seals the footer again.

In the flow: the table's erase plans each file here and then has the new bytes written through ``redo``. What changes: pages
and dictionaries (``erase_page``), bounds in STATS, deletion bits, page hashes, the hash tree, the root, and the erase epoch,
by which readers notice. Before anything is written each new page is decoded, and what it says of other rows must be what it
said before. Only bytes that really change are written.

Rows keep their numbers. Which encodings and widths pages have is still that of the rows that went; ``canonical`` writes the
file anew without that. Source: in-place erasure with upkeep of a Merkle tree is the idea of Bullion's abstract (CIDR 2025);
the rules are our own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.storage import exact, redo
from headrace.storage.erasing import Erasing, FileErase, Mask, Nonces
from headrace.storage.errors import NoEraseKey
from headrace.storage.footer import Column
from headrace.storage.group_read import Group, joined
from headrace.storage.reader import File
from headrace.storage.writer import Written


def erase_key_of(file: File) -> Column:
    """The column that names a person.

    Raises:
        NoEraseKey: the file was written without one.
    """
    for column in file.footer.columns(None):
        if column.erase_key:
            return column
    raise NoEraseKey(
        f"{file.path}: was written without an erase key, so nothing says whose a row is; write it anew with erase_key="
    )


def keys_of(file: File, key: Column) -> Iterator[pa.Array]:
    """By row group, the erase key of every row, deleted or not, in the plain form of its type."""
    for number in range(file.footer.n_groups):
        group = Group(file, number, [key])  # pyright: ignore[reportArgumentType]
        yield exact.plain(joined(group.parts[0].rows(0, group.n_rows)), key.type.plain)


def rows_of(file: File, key: Column, subjects: pa.Array) -> list[Mask]:
    """By row group, bool[rows]: whether a row is one of these persons', deleted or not."""
    found, wanted = [], subjects.cast(key.type.plain)
    for keys in keys_of(file, key):
        mine = pc.fill_null(pc.is_in(keys, value_set=wanted), fill_value=False)
        found.append(np.asarray(mine.to_numpy(zero_copy_only=False), np.bool_))
    return found


def plan(path: Path, subjects: pa.Array, *, nonces: Nonces = os.urandom) -> FileErase | None:
    """Everything that erasing these persons changes in a file; None where it holds nothing of them.

    Args:
        path: a local file, not being erased by another process.
        subjects: values of the erase key, of its type.
        nonces: where new nonces come from.

    Raises:
        NoEraseKey: the file has none.
        CannotEraseInPlace: some page has no room; write the file anew.
        CorruptPage, CorruptFooter, BadFile: it is damaged; nothing was changed.
    """
    redo.finish(path)
    with File(path) as file:
        key = erase_key_of(file)
        masks = rows_of(file, key, subjects)
        erasing = Erasing(file, nonces)
        for number, mine in enumerate(masks):
            gone = file.footer.deleted(number)
            fresh = mine if gone is None else mine & ~gone
            if fresh.any():
                erasing.group(number, fresh, fresh if gone is None else fresh | gone)
        if not erasing.rows:
            return None
        erasing.file_dictionaries()
        return erasing.sealed()


def run(erase: FileErase) -> FileErase:
    """Write what was planned; after a crash the next opening of the file finishes it."""
    redo.write_over(erase.path, erase.images)
    return erase


def seal_deleted(path: Path, gone: Sequence[Mask], epoch: int) -> Written:
    """Mark rows of a file deleted that nobody reads yet, and give it an erase epoch; synced.

    Args:
        path: a file just written.
        gone: by row group, bool[rows].
        epoch: its new erase epoch.
    """
    with File(path) as file:
        erasing = Erasing(file, os.urandom)
        for number, mask in enumerate(gone):
            erasing.mark(number, mask)
        sealed = erasing.sealed(epoch)
        n_rows, size, uuid = file.n_rows, file.source.size, file.footer.header.uuid.hex()
    redo.apply(path, sealed.images)
    return Written(n_rows, size, uuid, sealed.epoch, sealed.root)
