"""Whether every erasure of a table is accounted for: a file's root may change where its erase epoch does, and somebody has to say so.

In the flow: part of ``verify``, which without this would take whatever has a later epoch than its manifest knows for an erase in progress,
as readers must. A version says it first: its entry of a file names epoch and root, and for files that only older versions list the
newest one's list of who is forgotten does (``forgotten``). A signed receipt says it again (``receipts``): given those, each change of a
file's root from version to version has to be one that was signed. So an erase is not taken for tampering, nor tampering for an erase.

Whether the receipts themselves hold is the register's to check, before they are handed in here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.storage.errors import StorageError
from headrace.storage.manifest import DATA, DataFile, Manifest
from headrace.storage.paths import inside
from headrace.storage.reader import File

if TYPE_CHECKING:
    from headrace.storage.receipts import Receipt
    from headrace.storage.table import Table

Wrong = tuple[str, str]
"""(file of the table, what is wrong with it)."""


def told(table: Table) -> Mapping[str, tuple[int, str]]:
    """Erase epoch and root, or hash, by file, of files that only older versions list; empty where that cannot be read."""
    try:
        known = table.forgotten()
    except StorageError:
        return {}
    return {} if known is None else known.epochs


def as_told(file: DataFile, later: Mapping[str, tuple[int, str]]) -> DataFile:
    """A file's entry as the newest version knows it, given what that tells of files which it does not list."""
    if file.path not in later or file.erase_epoch > later[file.path][0]:
        return file
    epoch, root = later[file.path]
    return replace(file, erase_epoch=epoch, root=root)


def unsaid(table: Table, entries: Iterable[DataFile]) -> Iterator[Wrong]:
    """Files whose erase epoch is later than any version says, or whose root is another in the same epoch."""
    for entry in entries:
        try:
            with File(inside(table.path, entry.path, DATA)) as file:
                epoch, root = file.footer.trailer.erase_epoch, file.footer.trailer.root.hex()
        except (StorageError, OSError):
            continue  # said by whoever looks at its pages
        if epoch > entry.erase_epoch:
            yield (
                entry.path,
                f"has erase epoch {epoch} and root {root}, but no version speaks of a later one than {entry.erase_epoch}: an erase "
                "that is at work or was killed, which the next erase of the same persons makes good, or tampering",
            )
        elif (epoch, root) != (entry.erase_epoch, entry.root):
            yield (
                entry.path,
                f"expected root {entry.root} of erase epoch {entry.erase_epoch}, got {root} of {epoch}",
            )


def unsigned(
    table: Table,
    manifests: Sequence[Manifest],
    receipts: Sequence[Receipt],
    later: Mapping[str, tuple[int, str]],
) -> Iterator[Wrong]:
    """Where versions and signed receipts do not say the same.

    Args:
        table: at its newest version.
        manifests: those that are kept and could be read, newest first.
        receipts: all of a register, in order, of this table and of others.
        later: what ``told`` returned.
    """
    mine = [receipt for receipt in receipts if receipt.table == table.path.name]
    by_version = {manifest.version: manifest for manifest in manifests}
    for receipt in mine:
        found = by_version.get(receipt.version_after)
        if receipt.version_after > table.version:
            yield (
                "_manifest",
                f"ends at version {table.version}, but receipt {receipt.sequence} speaks of version {receipt.version_after}: rolled back",
            )
        elif found is not None and found.root != receipt.root_after:
            yield (
                f"_manifest/{found.version:020d}.json",
                f"root of its files: receipt {receipt.sequence} says {receipt.root_after}, it says {found.root}",
            )
    last = max((receipt.version_after for receipt in mine), default=0)
    for manifest in manifests:
        if manifest.operation == "erase" and manifest.version > last:
            yield (
                f"_manifest/{manifest.version:020d}.json",
                "an erasure that no signed receipt speaks of: headrace erase run finishes one that was killed, else it was not asked for",
            )
    yield from _roots(manifests, mine, later)


def _roots(
    manifests: Sequence[Manifest], receipts: Sequence[Receipt], later: Mapping[str, tuple[int, str]]
) -> Iterator[Wrong]:
    """Files whose root changed from one version to a later one by no step that was signed."""
    steps, made = defaultdict[str, set[tuple[str, str]]](set), set[str]()
    for receipt in receipts:
        for touched in receipt.files:
            steps[touched.path].add((touched.root_before, touched.root_after))
            made.add(touched.root_after)
    roots: dict[str, str] = {}
    for manifest in reversed(manifests):
        for file in (*(file for _, file in manifest.span.files), *manifest.added):
            fresh = file.path not in roots
            for path, root in ((file.path, file.root), *((side.path, side.blake3) for side in file.media)):
                if not _leads(steps[path], roots.setdefault(path, root), root):
                    yield path, _no_step(manifest.version, roots[path], root)
                roots[path] = root
            if fresh and manifest.operation == "erase" and file in manifest.added and file.root not in made:
                yield file.path, _no_step(manifest.version, "another file", file.root)
    for path, (_, root) in later.items():
        if path in roots and not _leads(steps[path], roots[path], root):
            yield path, _no_step(manifests[0].version, roots[path], root)


def _leads(steps: Iterable[tuple[str, str]], before: str, after: str) -> bool:
    """Whether signed steps lead from one root to another."""
    reached, waiting = {before}, [before]
    while waiting and after not in reached:
        at = waiting.pop()
        fresh = {to for start, to in steps if start == at} - reached
        reached |= fresh
        waiting += fresh
    return after in reached


def _no_step(version: int, before: str, after: str) -> str:
    return f"no signed receipt leads from root {before} to {after}, which version {version} says it has"
