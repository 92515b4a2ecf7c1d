"""Says everything that is wrong with a table: its row of manifests, its attachments, and every byte of its files.

In the flow: ``headrace verify``, beside readers and writers, and the first step of ``repair``. A file's pages are hashed
in the order they lie in, with large reads; its footer against the hash tree; its root against the manifest; each
manifest against the one after it. All of it hangs from the hash of the newest manifest: who notes that hash elsewhere
(``expect``) will see a table that was rolled back, which by itself looks like a sound older one. What an erasure changed since a
manifest was written is accounted for in ``epochs``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from headrace.storage import epochs, layout, leaves
from headrace.storage.errors import CorruptFooter, CorruptManifest, NoSuchVersion, StorageError
from headrace.storage.evolved import refuse_unreadable
from headrace.storage.fetch import LOCAL_SPAN_BYTES, SPAN_BYTES
from headrace.storage.log import Log
from headrace.storage.manifest import (
    ATTACHMENTS,
    DATA,
    FILE_NAME,
    FOLDER,
    MEDIA,
    Attachment,
    DataFile,
    Manifest,
    digest,
    files_root,
)
from headrace.storage.paths import inside
from headrace.storage.reader import File
from headrace.storage.scan import checked_file

if TYPE_CHECKING:
    from headrace.storage.receipts import Receipt
    from headrace.storage.table import Table

SLOT = ["off", "slot_len", "used_len", "hash"]  # what rows of PAGE and DICT have in common
_NUMBERED = re.compile(r"0*(\d+)\D.*", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which file of the table, and what."""

    path: str
    what: str


@dataclass(frozen=True)
class Verified:
    """What was looked at and found.

    Attributes:
        version: the newest that could be read.
        head: the hash of its manifest, from which everything hangs; keep it elsewhere and give it to the next run.
        versions, files, bytes: how many were looked at.
        findings: what is wrong; none if the table is sound.
        unlisted: files that no kept version has: of writers at work, or left over for garbage collection.
    """

    version: int
    head: str
    versions: int
    files: int
    bytes: int
    findings: tuple[Finding, ...]
    unlisted: int


def verify(
    table: Table,
    *,
    expect: tuple[int, str] | None = None,
    every_version: bool = False,
    receipts: Sequence[Receipt] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verified:
    """Look at everything.

    Args:
        table: moved on to the newest version.
        expect: a version and the hash that an earlier run found it to have.
        every_version: look at files of all kept versions, not of the newest alone.
        receipts: of a register whose log holds; every erasure must be one that was signed there.
        on_progress: is told how many bytes of how many are read.
    """
    table.refresh()
    newest, _ = table._log.read(table.version)  # as it lies there now
    table._show(newest)
    findings, manifests = chain(table._log, newest)
    if expect is not None:
        findings += _rolled_back(table._log, table.version, *expect)
    files = {file.path: file for file in table.files}
    listed_now = set(files)
    if every_version:
        for manifest in manifests[1:]:
            if manifest.version < table._manifest.standing.closed_before:
                break  # newest first: an erase has replaced files of these
            try:
                listed = [file for _, file in table._log.listing(manifest).files]
            except StorageError:
                continue  # said above
            files = {file.path: file for file in listed} | files
    later = epochs.told(table)
    files = {
        path: file if path in listed_now else epochs.as_told(file, later) for path, file in files.items()
    }
    findings += _attachments(table, manifests)
    as_files = [as_file for file in files.values() for as_file in _with_families(file)]
    findings += [Finding(*wrong) for wrong in epochs.unsaid(table, as_files)]
    if receipts is not None:
        findings += [Finding(*wrong) for wrong in epochs.unsigned(table, manifests, receipts, later)]
    total, done = sum(size for file in files.values() for size in _sizes(file)), 0
    for file in files.values():
        for as_file in _with_families(file):
            findings += verify_file(table, as_file, is_family=as_file is not file)
            done += as_file.bytes
            on_progress(done, total)
    for side in _sides(table, files.values(), later):
        findings += _side(table, side, MEDIA)
    names = {f"{DATA}/{name}" for name in table._log.store.names(DATA)}
    listed_names = {as_file.path for file in files.values() for as_file in _with_families(file)}
    head = digest(table._log.store.get(table._log.name(table.version)))
    return Verified(
        table.version, head, len(manifests), len(files), total, tuple(findings), len(names - listed_names)
    )


def _sides(
    table: Table, files: Iterable[DataFile], later: Mapping[str, tuple[int, str]]
) -> Iterator[Attachment]:
    """Side files of some files, each once, as the newest version knows it: an erasure writes zeros into them."""
    found: dict[str, Attachment] = {}
    for file in (*table.files, *files):
        for side in file.media:
            found.setdefault(side.path, side)
    listed = {side.path for file in table.files for side in file.media}
    for path, side in found.items():
        yield replace(side, blake3=later[path][1]) if path in later and path not in listed else side


def _sizes(file: DataFile) -> Iterator[int]:
    yield file.bytes
    yield from (family.bytes for family in file.families)


def _with_families(file: DataFile) -> Iterator[DataFile]:
    yield file
    for family in file.families:
        yield DataFile(family.path, file.rows, family.bytes, family.uuid, family.erase_epoch, family.root)


def chain(log: Log, newest: Manifest) -> tuple[list[Finding], list[Manifest]]:
    """What is wrong with a table's manifests, and those that could be read, newest first."""
    findings, found = [], [newest]
    numbers: dict[int, str] = {}
    for name in sorted(log.store.names(FOLDER)):
        match = FILE_NAME.fullmatch(name)
        other = None if match or name.startswith((".", "schema-")) else _NUMBERED.fullmatch(name)
        if match:
            numbers[int(match[1])] = name
        elif other is not None:
            findings.append(
                Finding(f"{FOLDER}/{name}", f"a second manifest of version {int(other[1])}, or a copy")
            )
        elif not name.startswith((".", "schema-")):
            findings.append(Finding(f"{FOLDER}/{name}", "not a name that headrace gives"))
    boundary = log.boundary()
    if boundary > newest.version:
        findings.append(
            Finding(
                FOLDER, f"ends at version {newest.version}, but version {boundary} was collected: rolled back"
            )
        )
    findings += [
        Finding(f"{FOLDER}/{numbers[version]}", f"a manifest after the newest sound one, {newest.version}")
        for version in numbers
        if version > newest.version
    ]
    findings += _manifest(log, newest)
    expected, version = newest.parent_blake3, newest.version - 1
    while version >= newest.standing.horizon and version > 0:
        try:
            manifest, got = log.read(version)
        except NoSuchVersion:
            findings.append(Finding(log.name(version), "missing"))
            expected = ""
        except StorageError as error:
            findings.append(Finding(log.name(version), str(error)))
            expected = ""
        else:
            if expected and got != expected:
                findings.append(
                    Finding(
                        log.name(version),
                        f"not the manifest that version {version + 1} follows: expected hash {expected}, got {got}",
                    )
                )
            findings += _manifest(log, manifest)
            expected = manifest.parent_blake3
            found.append(manifest)
        version -= 1
    return findings, found


def _manifest(log: Log, manifest: Manifest) -> list[Finding]:
    """What is wrong with one manifest in itself and against the one it leads to."""
    name = log.name(manifest.version)
    try:
        log.schema(manifest)
        below = ""
        if manifest.since:
            below = log.read(manifest.since, manifest.since_blake3)[0].root
        listing = log.listing(manifest)
    except StorageError as error:
        return [Finding(name, str(error))]
    fresh = manifest.replaces_all or manifest.span.cleared_at > 0
    listed = (*(file for _, file in manifest.span.files), *manifest.added)
    root = files_root("" if fresh else below, listed, (*manifest.span.removed, *manifest.removed))
    wrong = []
    if root != manifest.root:
        wrong.append(Finding(name, f"root of its files: expected {manifest.root}, got {root}"))
    held = (len(listing.files), sum(file.rows - file.deleted for _, file in listing.files))
    if held != (manifest.n_files, manifest.n_rows):
        told = (manifest.n_files, manifest.n_rows)
        wrong.append(Finding(name, f"files and rows: it says {told}, it lists {held}"))
    return wrong


def _rolled_back(log: Log, newest: int, version: int, head: str) -> list[Finding]:
    if version > newest:
        return [Finding(FOLDER, f"ends at version {newest}, but version {version} was there: rolled back")]
    try:
        got = digest(log.store.get(log.name(version)))
    except FileNotFoundError:
        if log.boundary() > version:
            return []
        return [Finding(log.name(version), "missing, though it was there and no garbage collection took it")]
    if got != head:
        return [Finding(log.name(version), f"another one than was there: expected hash {head}, got {got}")]
    return []


def _attachments(table: Table, manifests: list[Manifest]) -> Iterator[Finding]:
    for manifest in manifests:
        for entry in manifest.attachments:
            yield from _side(table, entry, ATTACHMENTS)
        if manifest.standing.suppression is not None and manifest is manifests[0]:
            entry = manifest.standing.suppression
            yield from _side(table, entry, entry.path.split("/", 1)[0])


def _side(table: Table, entry: Attachment, folder: str) -> Iterator[Finding]:
    try:
        data = inside(table.path, entry.path, folder).read_bytes()
    except FileNotFoundError:
        yield Finding(entry.path, f"missing: {entry.name!r}, {entry.bytes} bytes")
        return
    except (StorageError, OSError) as error:
        yield Finding(entry.path, str(error))
        return
    if (len(data), digest(data)) != (entry.bytes, entry.blake3):
        yield Finding(
            entry.path,
            f"expected {entry.bytes} bytes of hash {entry.blake3}, got {len(data)} of {digest(data)}",
        )


def verify_file(table: Table, entry: DataFile, *, is_family: bool = False) -> list[Finding]:
    """What is wrong with one file of a table."""
    try:
        with checked_file(table.path, entry, table.schema, []) as file:
            findings = list(_of_file(file, entry.path))
            if entry.bytes != file.footer.size and entry.erase_epoch == file.footer.trailer.erase_epoch:
                findings.append(Finding(entry.path, f"expected {entry.bytes} bytes, got {file.footer.size}"))
            if not is_family and not findings and not entry.families:
                evolved = table._manifest.standing.stored_as
                try:
                    refuse_unreadable(file.schema(), table.schema, evolved, entry.path)
                except StorageError as error:
                    findings.append(Finding(entry.path, str(error)))
            return findings
    except (StorageError, OSError) as error:
        return [Finding(entry.path, str(error))]


def _of_file(file: File, path: str) -> Iterator[Finding]:
    footer, source = file.footer, file.source
    it = footer.trailer
    raw = source.read(it.footer_off, it.footer_len)
    leaf = leaves.leaf_bytes(footer.header.required_features)
    levels = leaves.build(raw, leaf)
    told = source.read(it.tree_off, sum(len(level) for level in levels))
    bad = False
    for number in range(0, len(levels[0]), layout.HASH_BYTES):
        if levels[0][number : number + layout.HASH_BYTES] != told[number : number + layout.HASH_BYTES]:
            at = it.footer_off + number // layout.HASH_BYTES * leaf
            yield Finding(
                path, f"footer, leaf {number // layout.HASH_BYTES} at byte {at} does not match its hash"
            )
            bad = True
    if not bad and b"".join(levels) != told:
        yield Finding(path, f"hash tree at byte {it.tree_off}: inner nodes do not match what is below them")
        bad = True
    slots = [source.read(source.size - k * layout.TRAILER_SLOT_BYTES, layout.TRAILER.size) for k in (2, 1)]
    if slots[0] != slots[1]:
        yield Finding(path, "its two trailers differ: one was torn, or an erase has not been finished")
    if bad:
        yield Finding(path, "pages were not looked at, since what says where they are is damaged")
        return
    yield from _pages(file, path)


def _pages(file: File, path: str) -> Iterator[Finding]:
    footer = file.footer
    kinds = ((layout.PAGE, layout.PAGE_ROW, footer.n_pages), (layout.DICT, layout.DICT_ROW, footer.n_dicts))
    rows = np.concatenate(
        [np.frombuffer(footer.section(number, 0, n * row.itemsize), row)[SLOT] for number, row, n in kinds]
    )
    order = np.argsort(rows["off"], kind="stable")
    offs, slots, used = (rows[name][order].astype(np.int64) for name in SLOT[:3])
    hashes = rows["hash"][order].tobytes()
    end = footer.trailer.footer_off
    inside_file = (offs >= layout.HEADER.size) & (slots >= used) & (offs + slots <= end)
    overlap = offs[1:] < offs[:-1] + slots[:-1]
    if not inside_file.all() or overlap.any():
        yield Finding(path, "slots of pages overlap or leave the file")
        return
    ends = (offs + slots).tolist()
    starts, lengths = offs.tolist(), used.tolist()
    span_bytes = SPAN_BYTES if file.source.remote else LOCAL_SPAN_BYTES
    longest = min(end, max(span_bytes, int(slots.max(initial=0))))
    room = memoryview(bytearray(0 if file.source.remote else longest))
    first, n = 0, len(starts)
    while first < n:
        last = first + 1
        while last < n and ends[last] - starts[first] <= span_bytes:
            last += 1
        base = starts[first]
        data = memoryview(file.source.read_into(room, base, ends[last - 1] - base))
        for at in range(first, last):
            begin = starts[at] - base
            stop = begin + lengths[at]
            if blake3(data[begin:stop]).digest(16) != hashes[16 * at : 16 * at + 16]:
                yield Finding(
                    path, f"{_place(file, int(order[at]))} at byte {starts[at]} does not match its hash"
                )
            elif bytes(data[stop : ends[at] - base]).strip(b"\0"):
                yield Finding(
                    path, f"{_place(file, int(order[at]))} at byte {starts[at]}: bytes behind it are not zero"
                )
        first = last


def _place(file: File, row: int) -> str:
    """Which page of which column a row of PAGE, or of DICT behind it, is."""
    footer = file.footer
    if row >= footer.n_pages:
        return f"dictionary {row - footer.n_pages}"
    try:
        for column in range(footer.n_columns):
            found = footer.column(column)
            for group in range(footer.n_groups):
                chunk = footer.chunk(found, group)
                if chunk.first_page <= row < chunk.first_page + len(chunk.pages):
                    return f"page {row - chunk.first_page} of column {found.name!r} in row group {group}"
    except (CorruptFooter, CorruptManifest):
        pass
    return f"page {row}"
