"""Rows of forgotten persons in files that were staged before somebody asked to forget them: erased before they are published.

In the flow: ``committing`` comes here on every attempt to publish. Staging leaves out whom the table has forgotten by then
(``staging``), but a file may wait a long time for its commit, and a person be forgotten meanwhile; without this the commit would
bring that person back. Nobody reads the file yet, so its rows are erased where they lie and the new root goes into the
manifest. Where that cannot be done the commit is refused, and its rows have to be staged again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.storage.errors import CannotEraseInPlace, StagedTooLongAgo
from headrace.storage.manifest import DATA, DataFile
from headrace.storage.paths import inside

if TYPE_CHECKING:
    from headrace.storage.forgotten import Forgotten
    from headrace.storage.reader import File
    from headrace.storage.table import Table

_log = logging.getLogger(__name__)


class LateRows:
    """The files of one commit, cleared of whoever was forgotten since they were staged."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self._files = {file.path: file for file in files}
        self._cleared = {file.path: file.staged_at for file in files}

    def cleared(self, table: Table) -> tuple[DataFile, ...]:
        """The files as they may be published on top of the table as it is.

        Raises:
            StagedTooLongAgo: a file has rows of forgotten persons that cannot be erased from it; nothing was committed.
        """
        known = table.forgotten()
        if known is not None:
            for path, file in self._files.items():
                if self._cleared[path] < known.changed_at:
                    self._files[path] = _cleared(table, file, known)
                    self._cleared[path] = known.changed_at
        return tuple(self._files.values())


def _cleared(table: Table, entry: DataFile, known: Forgotten) -> DataFile:
    from headrace.storage import (  # here: only tables that have forgotten somebody need it
        erase_file,
        erase_media,
    )
    from headrace.storage.reader import File

    path = inside(table.path, entry.path, DATA)
    with File(path) as file:
        persons = _persons(file, known)
        trailer, deleted = file.footer.trailer, file.footer.n_deleted()
    if not len(persons):  # of a file that was part of the table before, an erase may have taken them out
        return replace(entry, erase_epoch=trailer.erase_epoch, root=trailer.root.hex(), deleted=deleted)
    try:
        plan = erase_file.plan(path, persons) if isinstance(path, Path) else None
    except CannotEraseInPlace:
        plan = None
    if plan is None:
        raise StagedTooLongAgo(
            f"{path}: {len(persons)} persons of it were forgotten since it was staged; nothing was committed; stage its rows again, "
            "which leaves them out"
        )
    refer = erase_media.referred_to(table, entry, persons)
    _refuse_shared(table, path, {name for sides in refer.values() for name in sides})
    erase_file.run(plan)
    entry = erase_media.clear_staged(table, entry, refer, persons)
    _log.warning("%s: %d late rows of forgotten persons were erased before it was committed", path, plan.rows)
    return replace(entry, erase_epoch=plan.epoch, root=plan.root, deleted=plan.deleted)


def _refuse_shared(table: Table, path: object, sides: Collection[str]) -> None:
    """What rows of the table refer to as well is not this commit's to change."""
    shared = sorted(side.path for file in table.files for side in file.media if side.path in sides)
    if shared:
        raise StagedTooLongAgo(
            f"{path}: persons of it were forgotten since it was staged, and their media lie in {shared[0]}, which the table has "
            "already; nothing was committed; stage its rows again, with media in a side file of their own"
        )


def _persons(file: File, known: Forgotten) -> pa.Array:
    """The forgotten among the keys of a file."""
    from headrace.storage.erase_file import erase_key_of, keys_of

    found = [keys.filter(pa.array(known.returning(keys))) for keys in keys_of(file, erase_key_of(file))]
    return pa.chunked_array(found).unique() if found else pa.array([])
