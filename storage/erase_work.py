"""An erase at work on a table's files: which of them are erased in place, written anew or removed, and what a version then says.

Between ``erase``, which plans again whenever somebody else committed, and ``erase_file`` and ``canonical``, which do one file. A file that
the newest version lists keeps its rows, where they lie or in a file written anew. One that only older versions name is erased in place
if that can be done; else it is removed, and those versions are closed: nobody needs a second copy of rows that were replaced.
So are families of columns that older versions alone have, since nothing says any more how they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.storage import canonical, erase_file, erase_media, forgotten, held
from headrace.storage.entropy import Entropy
from headrace.storage.erased import ANEW, IN_PLACE, REMOVED, FileErased, Level
from headrace.storage.erasing import DISK_BLOCK
from headrace.storage.errors import CannotEraseInPlace
from headrace.storage.forgotten import Forgotten
from headrace.storage.manifest import DATA, Attachment, DataFile
from headrace.storage.paths import inside
from headrace.storage.reader import File

if TYPE_CHECKING:
    from headrace.storage.table import Table


@dataclass
class Work:
    """One erase, over all its tries.

    Attributes:
        done: by path, what became of a file, or would.
        replaced: by the path that it had, the new entry of a file whose bytes are others by now.
        gone: names that are removed once a version says so.
        sides: side files of media, of which some bytes are zeros by now.
    """

    table: Table
    keys: pa.Array
    level: Level
    dry_run: bool
    entropy: Entropy
    done: dict[str, FileErased] = field(default_factory=dict)
    replaced: dict[str, DataFile] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    sides: dict[str, Attachment] = field(default_factory=dict)

    def over(self, on_progress: Callable[[int, int], None]) -> None:
        """Erase from every file that no try has done yet."""
        entries = held.kept_files(self.table)
        listed = {file.path: file for file in self.table.files}
        for path in [path for path, new in self.replaced.items() if new.path != path and path not in listed]:
            self.table._log.store.delete(self.replaced.pop(path).path)  # compacted meanwhile: nobody lists it
            self._remove(path)
        for at, entry in enumerate(entries):
            if entry.path not in self.replaced and entry.path not in self.gone:
                self._file(entry, listed.get(entry.path))
            on_progress(at + 1, len(entries))
        left = {side.path for entry in entries if entry.path not in self.gone for side in entry.media}
        self.gone |= {side.path for entry in entries for side in entry.media} - left
        self._media([entry for entry in entries if entry.path not in self.gone])

    def _media(self, entries: Sequence[DataFile]) -> None:
        persons, known = self.keys.to_pylist(), forgotten.of(self.table)
        if self.dry_run:  # nobody has hidden their rows yet, and noted what those refer to
            for entry in entries:
                known = known.owing(erase_media.referred_to(self.table, entry, self.keys))
        before = {side.path: side.blake3 for entry in entries for side in entry.media}
        wanted = known.owed(persons)
        for side, blocks, n in erase_media.zero(self.table, wanted, self.keys, entries, dry_run=self.dry_run):
            self.sides[side.path] = side
            root = before.get(side.path, "")
            self.done[side.path] = FileErased(
                side.path, 0, IN_PLACE, blocks, n, side.bytes, root, side.blake3, 0
            )

    def _file(self, known: DataFile, listed: DataFile | None) -> None:
        """Erase from one file.

        Args:
            known: what all kept versions together say of it.
            listed: what the newest version says, if it lists it.
        """
        path = Path(str(inside(self.table.folder, known.path, DATA)))
        entry = listed or known
        with File(path) as file:
            trailer, deleted = file.footer.trailer, file.footer.n_deleted()
        now = replace(entry, erase_epoch=trailer.erase_epoch, root=trailer.root.hex(), deleted=deleted)
        if now.erase_epoch != entry.erase_epoch:  # an earlier erase was killed before it could say so
            self.replaced[known.path] = now
            self.done[known.path] = _one(now, 0, IN_PLACE, root=entry.root)
        old = {family.path for family in known.families} if listed is None or not listed.families else set()
        rows = self._rows(path) if self.level == "canonical" or old else 0
        if listed is not None and rows:
            self.gone |= old
        anew = self.level == "canonical" and bool(rows or deleted)
        if listed is None and (anew or (rows and old)):
            self._removed(now, rows, old)
            return
        if self.level != "canonical":
            try:
                self._in_place(path, now)
            except CannotEraseInPlace:
                anew, rows = True, rows or self._rows(path)
        if anew and listed is None:
            self._removed(now, rows, old)
        elif anew:
            self._anew(path, now, rows)

    def _rows(self, path: Path) -> int:
        with File(path) as file:
            return len(held.rows_of(file, self.keys))

    def _entropy(self, root: str) -> Entropy:
        # Bytes that happen to stay as they were are not written, so how many those are depends on the nonces: a dry run
        # keeps none, and draws them from the root of what it looks at, to answer the same each time.
        return Entropy(int(root[:30], 16)) if self.dry_run else self.entropy

    def _in_place(self, path: Path, now: DataFile) -> None:
        plan = erase_file.plan(path, self.keys, nonces=self._entropy(now.root).take)
        if plan is None:
            return
        if not self.dry_run:
            erase_file.run(plan)
        new = replace(now, erase_epoch=plan.epoch, root=plan.root, deleted=plan.deleted)
        self._did(
            replace(
                _one(new, plan.rows, IN_PLACE, root=now.root),
                data_blocks=plan.data_blocks,
                bytes_written=plan.bytes_written,
            )
        )
        self.replaced[now.path] = new

    def _anew(self, path: Path, now: DataFile, rows: int) -> None:
        if self.dry_run:
            one = _one(replace(now, root="", erase_epoch=now.erase_epoch + 1), rows, ANEW, root=now.root)
            self._did(replace(one, data_blocks=-(-now.bytes // DISK_BLOCK), bytes_written=now.bytes))
            return
        identity = self.entropy.take(16)
        name = f"{DATA}/{identity.hex()}.hrc"
        written = canonical.rewrite(
            path,
            self.table.folder / name,
            self.keys,
            seed=int.from_bytes(self.entropy.take(8)),
            uuid=identity,
        )
        self.table._log.store.sync(DATA)
        new = replace(
            now,
            path=name,
            bytes=written.bytes,
            uuid=written.uuid,
            erase_epoch=written.erase_epoch,
            root=written.root,
            deleted=now.deleted + rows,
            staged_at=self.table.version,
        )
        one = replace(_one(new, rows, ANEW, root=now.root), path=now.path, bytes_total=now.bytes)
        self._did(replace(one, data_blocks=-(-written.bytes // DISK_BLOCK), bytes_written=written.bytes))
        self.replaced[now.path] = new

    def _did(self, one: FileErased) -> None:
        """Note what became of a file, on top of what an erase before had done without saying so."""
        before = self.done.get(one.path)
        self.done[one.path] = one if before is None else replace(one, root_before=before.root_before)

    def _removed(self, now: DataFile, rows: int, families: set[str]) -> None:
        self._did(_one(replace(now, root=""), rows, REMOVED, root=now.root))
        self._remove(now.path)
        self.gone |= families

    def _remove(self, path: str) -> None:
        self.replaced.pop(path, None)
        self.gone.add(path)

    @property
    def closes(self) -> bool:
        """Whether versions of before can no longer be read."""
        return bool(self.gone) or any(new.path != path for path, new in self.replaced.items())

    def entries(self) -> tuple[tuple[DataFile, ...], tuple[DataFile, ...]]:
        """Of files that the newest version lists: the new entries, and those they stand for."""
        added, old = list[DataFile](), list[DataFile]()
        for file in self.table.files:
            media = tuple(self.sides.get(side.path, side) for side in file.media)
            # Columns may have been joined since it was erased; rows are where they were.
            new = replace(self.replaced.get(file.path, file), families=file.families, media=media)
            if new != file:
                added.append(new)
                old.append(file)
        return tuple(added), tuple(old)

    def forgotten(self) -> Forgotten:
        """Who is hidden by then: rows that are deleted need not be."""
        after = forgotten.of(self.table)
        for path, new in self.replaced.items():
            with File(inside(self.table.path, new.path, DATA)) as file:
                after = after.erased(path, new.path, held.deleted(file))
        listed = {file.path for file in self.table.files}
        listed |= {side.path for file in self.table.files for side in file.media}
        now = {path: (new.erase_epoch, new.root) for path, new in self.replaced.items()}
        now |= {path: (0, side.blake3) for path, side in self.sides.items()}
        older = {path: what for path, what in now.items() if path not in listed}
        return after.at_epochs(older).without(self.gone).paid(self.keys.to_pylist())

    def remove(self) -> None:
        """Remove what no version lists any more."""
        moved = {path for path, new in self.replaced.items() if new.path != path}
        self.table._log.store.delete_all(self.gone | moved)


def _one(file: DataFile, rows: int, how: str, *, root: str) -> FileErased:
    """What became of a file whose entry is this by now and whose root was another."""
    return FileErased(file.path, rows, how, 0, 0, file.bytes, root, file.root, file.erase_epoch)
