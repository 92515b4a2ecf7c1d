"""What an erase changes in one file, worked out in memory: pages, dictionaries, bounds, deletion bits, and the seal over them.

Between ``erase_file``, which knows whose rows go, and ``erase_page``. Before anything is written each new page is decoded, and
what it says of other rows must be what it said before. Only bytes that really change are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import layout, leaves
from headrace.storage.cluster_order import ClusterOrder
from headrace.storage.erase_page import blank, child_rows, places_of
from headrace.storage.errors import CannotEraseInPlace
from headrace.storage.exact import alike
from headrace.storage.fetch import ChunkReader
from headrace.storage.footer import Chunk, Column, DictRow, deletion_extent
from headrace.storage.layout import hash16
from headrace.storage.logical import ColumnType
from headrace.storage.page import CODES, FILE_DICTIONARY, SEQ_MODE
from headrace.storage.page_streams import Page, Place
from headrace.storage.reader import File
from headrace.storage.redo import Image
from headrace.storage.runs import Runs
from headrace.storage.statistics import of_page
from headrace.storage.views import Piece, Views, is_sequence, left

DISK_BLOCK = 4096
GAP_BYTES = 128
"""Bytes between two changes that are written along with them, since a place in the journal and a write cost as much."""
_PAGE, _DICT = layout.PAGE_FIELDS, layout.DICT_FIELDS
_U4 = np.dtype("u4")
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Nonces = Callable[[int], bytes]
"""How many bytes are wanted; ``os.urandom``, or seeded in tests."""


@dataclass(frozen=True)
class FileErase:
    """What erasing some persons from a file would write, or has written."""

    path: Path
    rows: int
    """Rows that go; deleted ones of earlier are not counted."""
    epoch: int
    root: str
    """Of the file after it, hex."""
    pages: int
    """Pages and dictionaries that change."""
    data_blocks: int
    """Disk blocks of pages and dictionaries."""
    footer_blocks: int
    images: tuple[Image, ...] = field(repr=False)
    deleted: int = 0
    """Rows marked deleted after it."""

    @property
    def bytes_written(self) -> int:
        """Of the journal and of the file."""
        return 2 * sum(len(data) for _, data in self.images)


@dataclass
class _Coded:
    """Codes of a column's file-wide dictionary that erased rows had."""

    column: Column
    codes: set[int] = field(default_factory=set)


class Erasing:
    """One erase of one file, in memory."""

    def __init__(self, file: File, nonces: Nonces) -> None:
        self.file, self.footer, self._nonces = file, file.footer, nonces
        it = self.footer.trailer
        self._raw = bytearray(file.source.read(it.footer_off, it.footer_len))
        self._slots: dict[int, tuple[int, bytes]] = {}
        """By offset: length of the slot, and its new used bytes."""
        self._shared: dict[int, _Coded] = {}
        self.rows = 0

    # -- pages ---------------------------------------------------------------------------------------------------------

    def group(self, number: int, fresh: Mask, gone: Mask) -> None:
        """Blank the rows of one group that go now, in the pages that hold them; ``gone`` are all that have gone by then."""
        orders: dict[int, ClusterOrder] = {}
        for column in self.footer.columns(None):
            if column.cluster is not None and column.cluster not in orders:
                hidden = self.footer.column(column.cluster)
                orders[column.cluster] = ClusterOrder(self._reader(hidden, number)[0])
            places = None if column.cluster is None else orders[column.cluster].places()
            mine, all_ = (_stored(mask, places) for mask in (fresh, gone))
            parts = self.footer.parts(column) if column.parts else [column]
            self._column(column, parts, number, mine, all_)
        self.mark(number, fresh)
        self.rows += int(np.count_nonzero(fresh))

    def _reader(self, column: Column, number: int) -> tuple[ChunkReader, Chunk]:
        chunk = self.footer.chunk(column, number)
        reader = ChunkReader(
            self.file.source, column, chunk, self.file.file_entries(column), erased_rows=True
        )
        return reader, chunk

    def _column(self, column: Column, parts: Sequence[Column], number: int, mine: Rows, gone: Rows) -> None:
        """A column's pages that hold rows which go, and those of its parts."""
        readers = [self._reader(part, number) for part in parts]
        leader = (
            self._reader(self.footer.column(column.leader), number)[0] if column.leader is not None else None
        )
        removed: list[set[int]] = [set() for _ in parts]
        for at, row in enumerate(readers[0][1].pages):
            last = row.first_row + row.n_rows
            if not ((mine >= row.first_row) & (mine < last)).any():
                continue
            local = gone[(gone >= row.first_row) & (gone < last)] - row.first_row
            self._page(readers, parts, 0, at, local, leader, removed)
        for (reader, chunk), part, codes in zip(readers, parts, removed, strict=True):
            if codes and not part.type.is_ordered:
                self._forget_entries(reader, chunk, part, codes)

    def _page(
        self,
        readers: Sequence[tuple[ChunkReader, Chunk]],
        nodes: Sequence[Column],
        index: int,
        at: int,
        rows: Rows,
        leader: ChunkReader | None,
        removed: list[set[int]],
    ) -> int:
        """Page ``at`` of a node and of those below it; the number of the node that comes after them."""
        reader, chunk = readers[index]
        node = nodes[index]
        page = next(iter(reader.pages([at])))
        if node.type.is_nested:
            below = child_rows(page, rows, node.type)
            following = index + 1
            for _ in node.type.children:
                following = self._page(readers, nodes, following, at, below, None, removed)
            return following
        if len(rows):
            follows = leader is not None and is_sequence(page) and SEQ_MODE not in page.streams
            led = next(iter(leader.pages([at]))) if follows and leader is not None else None
            if CODES in page.streams:
                removed[index] |= _codes(page, rows, node.type, led)
            row = chunk.pages[at]
            new = blank(page, rows, node.type, self._nonces(layout.NONCE_BYTES), row.slot_len, led)
            self._slots[row.off] = row.slot_len, new
            self._set_page(chunk.first_page + at, new)
            self._check(reader, node, at, page, new, rows, leader if follows else None, chunk)
        return index + 1

    def _check(
        self,
        reader: ChunkReader,
        node: Column,
        at: int,
        page: Page,
        image: bytes,
        rows: Rows,
        leader: ChunkReader | None,
        chunk: Chunk,
    ) -> None:
        """Other rows must read as before; from them come the page's new bounds."""
        gone = np.zeros(page.n_rows, np.bool_)
        gone[rows] = True
        runs = Runs.without(gone)
        fresh = Page(image, page.n_rows, page.place, len(image))
        before, after = (
            _left(reader.decoded([one], at, reader.led_by([one], at, leader), runs), runs, node.type)
            for one in (page, fresh)
        )
        if not alike(before, after):
            raise CannotEraseInPlace(
                f"{page.place}: other rows would change; write the file anew, and report this"
            )
        first = self.footer.statistics_at(node, chunk)
        if first is not None:
            place = self.footer.extent(layout.STATS)[0] + first + layout.STATS_BYTES * at
            self._raw[place : place + layout.STATS_BYTES] = of_page(after, node.type)

    # -- dictionaries --------------------------------------------------------------------------------------------------

    def _forget_entries(self, reader: ChunkReader, chunk: Chunk, part: Column, codes: set[int]) -> None:
        """Entries of the chunk's dictionary that nobody else uses; those of the file's are looked at in the end."""
        unused, shared = set(codes), False
        for page in self._pages_now(reader, chunk):
            if CODES in page.streams:
                shared = shared or bool(page.streams[CODES][4] & FILE_DICTIONARY)
                unused = _unused(page, unused)
            if not unused:
                return
        if shared:
            self._shared.setdefault(part.id, _Coded(part)).codes |= unused
        elif chunk.dictionary is not None:
            self._blank_entries(part, chunk.dictionary, unused)

    def file_dictionaries(self) -> None:
        """Entries of file-wide dictionaries that no row of any group uses any more."""
        for coded in self._shared.values():
            unused, row = set(coded.codes), self.footer.file_dictionary(coded.column)
            readers = (self._reader(coded.column, number) for number in range(self.footer.n_groups))
            for page in (page for one in readers for page in self._pages_now(*one)):
                if CODES in page.streams and page.streams[CODES][4] & FILE_DICTIONARY:
                    unused = _unused(page, unused)
                if not unused:
                    break
            if unused and row is not None:
                self._blank_entries(coded.column, row, unused)

    def _pages_now(self, reader: ChunkReader, chunk: Chunk) -> Iterator[Page]:
        """A chunk's pages as they will be."""
        for at, row in enumerate(chunk.pages):
            new = self._slots.get(row.off)
            if new is None:
                yield next(iter(reader.pages([at])))
            else:
                yield Page(new[1], row.n_rows, reader.place(at), len(new[1]))

    def _blank_entries(self, column: Column, row: DictRow, codes: set[int]) -> None:
        place = Place(self.file.source.name, column.name, -1, row.off)
        data = self.file.source.read(row.off, row.used_len)
        if hash16(data) != row.hash:
            place.fail("hash", row.hash.hex(), hash16(data).hex())
        leaf = ColumnType(column.type.leaf, is_list=False, arrow=column.type.leaf.arrow)
        entries = np.array(sorted(codes), np.int64) - 1
        page = Page(data, row.n_entries, place)
        new = blank(page, entries, leaf, self._nonces(layout.NONCE_BYTES), row.slot_len)
        self._slots[row.off] = row.slot_len, new
        start, length = self.footer.extent(layout.DICT)
        for at in range(start, start + length, _DICT.size):
            found = DictRow(*_DICT.unpack_from(self._raw, at))
            if found.off == row.off:
                found = found._replace(used_len=len(new), hash=hash16(new))
                _DICT.pack_into(self._raw, at, *found)

    # -- footer --------------------------------------------------------------------------------------------------------

    def _set_page(self, number: int, image: bytes) -> None:
        at = self.footer.extent(layout.PAGE)[0] + _PAGE.size * number
        row = list(_PAGE.unpack_from(self._raw, at))
        row[2], row[8] = len(image), hash16(image)
        _PAGE.pack_into(self._raw, at, *row)

    def mark(self, number: int, fresh: Mask) -> None:
        """Set rows' deletion bits and count them."""
        start, group_rows = self.footer.extent(layout.DELETION)[0], self.footer.group_rows
        counts = start + 4 * number
        n = int.from_bytes(self._raw[counts : counts + 4], "little") + int(np.count_nonzero(fresh))
        self._raw[counts : counts + 4] = n.to_bytes(4, "little")
        bits = start + deletion_extent(self.footer.n_rows, group_rows)[0] + number * (group_rows // 8)
        packed = np.packbits(fresh, bitorder="little")
        held = np.frombuffer(self._raw, np.uint8)[bits : bits + len(packed)] | packed
        self._raw[bits : bits + len(packed)] = held.tobytes()

    def sealed(self, epoch: int | None = None) -> FileErase:
        """The hash tree, the root and both trailers over what has changed, as the parts of the file to write."""
        it, source = self.footer.trailer, self.file.source
        levels = leaves.build(bytes(self._raw), leaves.leaf_bytes(self.footer.header.required_features))
        header = source.read(0, layout.HEADER.size)
        unrooted = replace(it, erase_epoch=it.erase_epoch + 1 if epoch is None else epoch)
        trailer, slots = layout.sealed(header, unrooted, levels[-1])
        data = [(off, image.ljust(slot, b"\0")) for off, (slot, image) in sorted(self._slots.items())]
        end = source.size - 2 * layout.TRAILER_SLOT_BYTES
        footer = [(it.footer_off, bytes(self._raw)), (it.tree_off, b"".join(levels)), (end, slots)]
        changed = [*self._changed(data)]
        sealing = [*self._changed(footer)]
        deleted = np.frombuffer(
            self._raw, "<u4", self.footer.n_groups, self.footer.extent(layout.DELETION)[0]
        )
        return FileErase(
            path=self.file.path,
            rows=self.rows,
            epoch=trailer.erase_epoch,
            root=trailer.root.hex(),
            pages=len(self._slots),
            data_blocks=_blocks(changed),
            footer_blocks=_blocks(sealing),
            images=tuple(changed + sealing),
            deleted=int(deleted.sum()),
        )

    def _changed(self, images: Sequence[Image]) -> Iterator[Image]:
        """Of each image the stretches in which it differs from the file, those that lie close together as one."""
        for offset, new in images:
            old = np.frombuffer(self.file.source.read(offset, len(new)), np.uint8)
            at = np.flatnonzero(old != np.frombuffer(new, np.uint8))
            if len(at):
                cuts = np.flatnonzero(np.diff(at) > GAP_BYTES)
                for first, last in zip(
                    at[np.append(0, cuts + 1)].tolist(),
                    at[np.append(cuts, len(at) - 1)].tolist(),
                    strict=True,
                ):
                    yield offset + first, new[first : last + 1]


def _stored(mask: Mask, places: Rows | None) -> Rows:
    """Rows of a group, ascending, as a column stores them."""
    rows = np.flatnonzero(mask)
    return rows if places is None else np.sort(places[rows])


def _blocks(images: Sequence[Image]) -> int:
    found: set[int] = set()
    for offset, data in images:
        found.update(range(offset // DISK_BLOCK, (offset + len(data) - 1) // DISK_BLOCK + 1))
    return len(found)


def _codes(page: Page, rows: Rows, type_: ColumnType, leader: Page | None) -> set[int]:
    """Codes that some rows of a page have; 0 is an erased one's."""
    at = places_of(page, rows, type_, leader).get(CODES)
    if at is None or not len(at):
        return set()
    return set(np.unique(page.stream(CODES, _U4, page.count(CODES))[at]).tolist()) - {0}


def _unused(page: Page, codes: set[int]) -> set[int]:
    """Those of some codes, one at least, that no row of a page has; they are within the dictionary."""
    others = max(codes) + 1
    used = np.zeros(others + 1, np.bool_)
    used[np.minimum(page.stream(CODES, _U4, page.count(CODES)), others)] = True
    return {code for code in codes if not used[code]}


def _left(piece: Piece, runs: Runs, type_: ColumnType) -> pa.Array:
    rest = left(piece, runs)
    return rest.to_list(type_.leaf.arrow) if isinstance(rest, Views) else rest
