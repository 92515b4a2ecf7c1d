"""A file's footer, opened without parsing it: sections are looked up, checked and read one touched leaf at a time.

``Footer`` answers "where are the pages of these columns" from a handful of leaves, whatever the number of columns,
because names are found by hash; what is asked for many columns is read in one go. Every leaf is checked against the
hash tree before a number in it is used (``leaves``), and every number against the bytes present before anything is read
or allocated by it. The idea of flat, directly addressed footers is Bullion's (CIDR 2025, abstract); the layout is our
own (``FORMAT.md`` section 5). Decoding pages is not done here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.storage import layout
from headrace.storage.columns import Column, Columns
from headrace.storage.errors import BadFile, CorruptFooter, UnsupportedFeature
from headrace.storage.layout import Header, Trailer
from headrace.storage.leaves import Leaves, leaf_bytes, tree_bytes
from headrace.storage.source import Range, Source

if TYPE_CHECKING:
    from headrace.storage.quantise import Report

_SECTION = struct.Struct("<IIQQQ")
_META = struct.Struct("<QIIIIIIII24x")
_CHUNK = struct.Struct("<QQIHHII")
_PAGE, _DICT = layout.PAGE_FIELDS, layout.DICT_FIELDS

_NEEDED = frozenset(
    {layout.NAME_INDEX, layout.COLUMN, layout.NAMES, layout.CHUNK, layout.PAGE}
    | {layout.DELETION, layout.DICT, layout.META}
)
_KNOWN = _NEEDED | {layout.STATS, layout.QUANTISATION, layout.KEY_VALUE}

KEPT_BYTES = 64 << 20  # of a remote footer; a longer one is read leaf by leaf


class PageRow(NamedTuple):
    """One row of PAGE."""

    off: int
    slot_len: int
    used_len: int
    first_row: int
    n_rows: int
    n_blocks: int
    enc_tree: int
    null_count: int
    hash: bytes


class DictRow(NamedTuple):
    """One row of DICT."""

    off: int
    slot_len: int
    used_len: int
    n_entries: int
    column: int
    flags: int
    reserved: int
    hash: bytes


class Chunk(NamedTuple):
    """One column's part of one row group: its PAGE rows, and its DICT row if it has a dictionary."""

    pages: list[PageRow]
    first_page: int
    dictionary: DictRow | None


class Footer:
    """The checked view of one open file's footer; to be used from one thread at a time.

    Attributes:
        bytes_read: of header, trailers, hash tree and footer, so far.
    """

    def __init__(self, source: Source) -> None:
        self.file, self.size = source.name, source.size
        self._source = source
        self._own_bytes = 0
        smallest = layout.HEADER.size + 2 * layout.TRAILER_SLOT_BYTES
        if self.size < smallest:
            raise BadFile(
                f"{self.file}: expected at least {smallest} bytes, got {self.size}; cut short or not headrace's"
            )
        slots = self._slots()
        raw_header = self._raw_header(slots)
        self.header: Header = layout.parse_header(raw_header, self.file)
        self.trailer: Trailer = self._best_trailer(slots)
        self._leaf = leaf_bytes(self.header.required_features)
        self._check_extent()
        it = self.trailer
        if source.remote and it.footer_len <= KEPT_BYTES:
            source.keep(it.footer_off, self.size - it.footer_off)  # what the first read left out, in one more
        self._leaves = Leaves(source, it.footer_off, it.footer_len, it.tree_off, self._leaf)
        root = layout.root_hash(raw_header, it, self._leaves.top)
        if root != it.root:
            raise CorruptFooter(self.file, "root", offset=it.tree_off, expected=it.root.hex(), got=root.hex())
        self._sections: dict[int, Range] = {}
        self._open_sections()
        self._open_meta()
        self._columns = Columns(self)  # pyright: ignore[reportArgumentType]

    @property
    def bytes_read(self) -> int:
        """Bytes of everything but pages and dictionaries that were read so far."""
        return self._own_bytes + self._leaves.bytes_read

    def _read(self, offset: int, length: int) -> bytes:
        self._own_bytes += length
        return self._source.read(offset, length)

    def _slots(self) -> list[tuple[int, bytes]]:
        slot, wanted = layout.TRAILER_SLOT_BYTES, layout.TRAILER.size
        if self._source.remote:
            wanted = layout.HEADER_COPY_AT + layout.HEADER.size
        return [(at, self._read(at, wanted)) for at in (self.size - 2 * slot, self.size - slot)]

    def _raw_header(self, slots: list[tuple[int, bytes]]) -> bytes:
        """The header, or far away its copy at the file's end, which the root covers just as well."""
        if self._source.remote:
            for _, raw in slots:
                copy = raw[layout.HEADER_COPY_AT :]
                if copy[:4] == layout.MAGIC:
                    return copy
        return self._read(0, layout.HEADER.size)

    def current_epoch(self) -> int:
        """The erase epoch in the trailer now; higher than ``trailer.erase_epoch`` after an erase in place."""
        return self._best_trailer(self._slots()).erase_epoch

    def _best_trailer(self, slots: list[tuple[int, bytes]]) -> Trailer:
        best: Trailer | None = None
        for at, (_, raw) in enumerate(slots):
            if at and best is not None and raw == slots[0][1]:
                break  # the two are alike unless one was torn
            copy = layout.parse_trailer(raw[: layout.TRAILER.size])
            if copy is None or copy.uuid != self.header.uuid or copy.file_len != self.size:
                continue
            if best is None or copy.erase_epoch > best.erase_epoch:
                best = copy
        if best is None:
            first, second = (at for at, _ in slots)
            raise BadFile(
                f"{self.file}: expected a trailer copy for {self.size} bytes at {first} or {second}, got none that is "
                "sound; the file was cut short, grown or damaged"
            )
        return best

    def _check_extent(self) -> None:
        it, data_end = self.trailer, self.size - 2 * layout.TRAILER_SLOT_BYTES
        footer_end = it.footer_off + it.footer_len
        sound = (
            layout.HEADER.size <= it.footer_off
            and it.footer_len >= _SECTION.size
            and footer_end <= it.tree_off <= data_end
        )
        if not sound or it.tree_off + tree_bytes(it.footer_len, self._leaf) > data_end:
            raise BadFile(
                f"{self.file}: trailer claims a footer of {it.footer_len} bytes at {it.footer_off} and hashes at "
                f"{it.tree_off}, but {data_end} bytes are present; the file is not what its writer wrote"
            )

    def wrong(self, what: str, section: int, at: int, expected: object, got: object) -> CorruptFooter:
        """The error for a number at byte ``at`` of a section that contradicts others; section 0 is the directory."""
        start = self._sections[section][0] if section else 0
        offset = self.trailer.footer_off + start + at
        return CorruptFooter(self.file, what, offset=offset, expected=expected, got=got)

    def section(self, number: int, at: int, length: int) -> bytes:
        """``length`` bytes at byte ``at`` of a section, after checking their leaves.

        Raises:
            CorruptFooter: they do not lie within the section, or a leaf does not match its hash.
        """
        start, size = self._sections[number]
        if at + length > size:
            what = f"place in {layout.SECTION_NAMES[number]}"
            raise self.wrong(what, number, at, f"within {size} bytes", f"{at} + {length}")
        return self._leaves.get(start + at, length) if length else b""

    def extent(self, number: int) -> Range:
        """Where a section lies in the footer: (offset, length); (0, 0) of one that the file lacks."""
        return self._sections.get(number, (0, 0))

    def load(self, number: int, ranges: Iterable[Range]) -> None:
        """Read and check (at, length) ranges of a section together; those that leave it are left for ``section``."""
        start, size = self._sections[number]
        self._leaves.load([(start + at, length) for at, length in ranges if 0 < length <= size - at])

    def _open_sections(self) -> None:
        it, n = self.trailer, self.trailer.n_sections
        if n * _SECTION.size > it.footer_len:
            raise self.wrong("section count", 0, 0, f"at most {it.footer_len} bytes", n)
        seen: set[int] = set()
        for number, flags, start, length, _ in _SECTION.iter_unpack(self._leaves.get(0, n * _SECTION.size)):
            name = layout.SECTION_NAMES.get(number, f"section {number}")
            if number not in _KNOWN:
                if flags & layout.SECTION_REQUIRED:
                    raise UnsupportedFeature(
                        f"{self.file}: needs {name}, which this reader lacks; update headrace"
                    )
                continue
            start -= it.footer_off
            if start < 0 or start + length > it.footer_len or number in seen:
                want = f"once within {it.footer_len} bytes"
                raise self.wrong(f"extent of {name}", 0, 0, want, f"{start} + {length}")
            seen.add(number)
            self._sections[number] = (start, length)
        lacking = sorted(_NEEDED - seen)
        if lacking:
            names = [layout.SECTION_NAMES[number] for number in lacking]
            raise self.wrong("section directory", 0, 0, names, "none")

    def _open_meta(self) -> None:
        length = self._sections[layout.META][1]
        if length != _META.size:
            raise self.wrong("META length", layout.META, 0, _META.size, length)
        meta = _META.unpack(self.section(layout.META, 0, length))
        self.n_rows, self.n_columns, self.n_top, self.n_groups, self.group_rows = meta[:5]
        self.n_buckets, self.bucket_slots, self.n_pages, self.n_dicts = meta[5:]
        groups_ok = 0 < self.group_rows <= layout.GROUP_ROWS and self.group_rows % layout.BLOCK_ROWS == 0
        if (
            not groups_ok
            or self.n_groups != -(-self.n_rows // self.group_rows)
            or self.n_rows != self.trailer.n_rows
        ):
            got = f"{self.n_rows} rows in {self.n_groups} groups of {self.group_rows}"
            want = f"{self.trailer.n_rows} rows, in groups that cover them"
            raise self.wrong("row counts", layout.META, 0, want, got)
        lengths = {
            layout.NAME_INDEX: layout.NAME_SLOT.itemsize * self.n_buckets * self.bucket_slots,
            layout.COLUMN: layout.COLUMN_ROW.itemsize * self.n_columns,
            layout.CHUNK: _CHUNK.size * self.n_columns * self.n_groups,
            layout.PAGE: _PAGE.size * self.n_pages,
            layout.DICT: _DICT.size * self.n_dicts,
            layout.DELETION: sum(deletion_extent(self.n_rows, self.group_rows)),
        }
        for number, expected in lengths.items():
            got_bytes = self._sections[number][1]
            if got_bytes != expected:
                raise self.wrong(f"{layout.SECTION_NAMES[number]} length", number, 0, expected, got_bytes)
        if not self.n_buckets or self.n_top > self.n_columns:
            want = "at least one bucket, no more top columns than columns"
            raise self.wrong("META counts", layout.META, 0, want, meta)

    def rows_in(self, group: int) -> int:
        """Rows of one row group; only the last may be short."""
        return int(min(self.group_rows, self.n_rows - group * self.group_rows))

    def columns(self, names: Sequence[str] | None = None) -> list[Column]:
        """The columns asked for, in that order, or all of the table's; see ``Columns.named`` for patterns.

        Raises:
            NoSuchColumn: naming the first one missing and what comes nearest.
        """
        return self._columns.all() if names is None else self._columns.named(names)

    def column(self, index: int) -> Column:
        """The column of one row of COLUMN, hidden ones included.

        Raises:
            CorruptFooter: there is no such row.
        """
        if index >= self.n_columns:
            raise self.wrong("column number", layout.COLUMN, 0, f"below {self.n_columns}", index)
        return self._columns.at(index)

    def parts(self, column: Column) -> list[Column]:
        """The flat columns that a column is made of, itself first."""
        return self._columns.parts(column)

    def chunks(self, columns: Sequence[Column], group: int) -> list[Chunk]:
        """Where these columns' parts of one row group are.

        Each is checked to cover the group's rows without a gap; a part of a nested column has rows of its own number.
        """
        places = [(_CHUNK.size * (column.id * self.n_groups + group), _CHUNK.size) for column in columns]
        self.load(layout.CHUNK, places)
        rows = [_CHUNK.unpack(self.section(layout.CHUNK, *place)) for place in places]
        self.load(layout.PAGE, [(_PAGE.size * row[2], _PAGE.size * row[3]) for row in rows])
        coded = [row[5] for row in rows if row[5]]
        if coded:
            self.load(layout.DICT, [(_DICT.size * (number - 1), _DICT.size) for number in coded])
        n_rows = self.rows_in(group)
        return [
            self._chunk(column, n_rows, row, place[0])
            for column, row, place in zip(columns, rows, places, strict=True)
        ]

    def chunk(self, column: Column, group: int) -> Chunk:
        """As ``chunks``, of one column."""
        return self.chunks([column], group)[0]

    def _chunk(self, column: Column, n_rows: int, row: tuple[int, ...], at: int) -> Chunk:
        _, _, first, n, _, coded, _ = row
        if first + n > self.n_pages:
            what = f"pages of column {column.name!r}"
            raise self.wrong(what, layout.CHUNK, at, f"at most {self.n_pages}", first + n)
        raw = self.section(layout.PAGE, _PAGE.size * first, _PAGE.size * n)
        pages = list(map(PageRow._make, _PAGE.iter_unpack(raw)))
        is_part = column.id >= self.n_top and not column.hidden
        row_at = 0
        for page in pages:
            self._check_slot(column, page)
            if page.first_row != row_at or not (page.n_rows or is_part):
                row_at = -1
                break
            row_at += page.n_rows
        if row_at != n_rows and (row_at < 0 or not is_part):
            what, counts = f"page rows of column {column.name!r}", [page.n_rows for page in pages]
            raise self.wrong(what, layout.CHUNK, at, f"{n_rows} without a gap", counts)
        dictionary = self._dictionary(column, coded - 1) if coded else None
        return Chunk(pages, first, dictionary)

    def _dictionary(self, column: Column, number: int) -> DictRow:
        if number >= self.n_dicts:
            what = f"dictionary of column {column.name!r}"
            raise self.wrong(what, layout.DICT, 0, f"below {self.n_dicts}", number)
        row = DictRow(*_DICT.unpack(self.section(layout.DICT, _DICT.size * number, _DICT.size)))
        self._check_slot(column, row)
        return row

    def file_dictionary(self, column: Column) -> DictRow | None:
        """The dictionary that serves all of a column's chunks, if there is one."""
        return None if column.dictionary is None else self._dictionary(column, column.dictionary)

    def _check_slot(self, column: Column, row: PageRow | DictRow) -> None:
        off, slot, used = row[:3]
        end = self.trailer.footer_off
        if off < layout.HEADER.size or off + slot > end or used > slot or off % layout.ALIGN_BYTES:
            what = f"slot of a page of column {column.name!r}"
            want = f"aligned and within {end}, used <= slot"
            raise self.wrong(what, layout.PAGE, 0, want, f"{off} + {used} of {slot}")

    def statistics(self, column: Column, chunk: Chunk) -> bytes | None:
        """The STATS rows of a chunk's pages, or None where the column has none."""
        at = self.statistics_at(column, chunk)
        return None if at is None else self.section(layout.STATS, at, layout.STATS_BYTES * len(chunk.pages))

    def statistics_at(self, column: Column, chunk: Chunk) -> int | None:
        """Where in STATS the row of a chunk's first page is, or None where the column has none."""
        if column.stats is None or layout.STATS not in self._sections:
            return None
        raw = self.section(layout.CHUNK, _CHUNK.size * column.id * self.n_groups, _CHUNK.size)
        first = _CHUNK.unpack(raw)[2]  # rows of PAGE and STATS lie column by column
        at: int = layout.STATS_BYTES * (column.stats + chunk.first_page - first)
        if at < 0:
            what = f"pages of column {column.name!r}"
            raise self.wrong(what, layout.CHUNK, 0, f"from {first} on", chunk.first_page)
        return at

    def report(self, column: Column) -> Report | None:
        """What storing a column with less precision has cost; None if it is exact."""
        from headrace.storage import quantise  # here: who converts, or filters, needs no report

        if column.quantisation is None:
            return None
        size, start = quantise.ROW_BYTES, quantise.ROW_BYTES * column.quantisation
        if layout.QUANTISATION not in self._sections:
            what = f"report of column {column.name!r}"
            raise self.wrong(what, layout.COLUMN, 0, "a QUANTISATION section", "none")
        return quantise.unpack(self.section(layout.QUANTISATION, start, size), self.file, start)

    def deleted(self, group: int) -> NDArray[np.bool_] | None:
        """bool[rows of the group], True where a row was deleted, or None when none was."""
        count = int.from_bytes(self.section(layout.DELETION, 4 * group, 4), "little")
        if not count:
            return None
        n = self.rows_in(group)
        popcounts, _ = deletion_extent(self.n_rows, self.group_rows)
        off = popcounts + group * (self.group_rows // 8)
        bits = np.frombuffer(self.section(layout.DELETION, off, -(-n // 8)), np.uint8)
        mask = np.unpackbits(bits, count=n, bitorder="little").view(np.bool_)
        if np.count_nonzero(mask) != count:
            what = f"deletion bits of group {group}"
            raise self.wrong(what, layout.DELETION, off, count, np.count_nonzero(mask))
        return mask

    def n_deleted(self) -> int:
        """Rows marked deleted in the whole file."""
        counts = np.frombuffer(self.section(layout.DELETION, 0, 4 * self.n_groups), "<u4")
        return int(counts.sum(dtype=np.int64))


def deletion_extent(n_rows: int, group_rows: int) -> tuple[int, int]:
    """Bytes of the DELETION section's popcounts and of its bitmaps: fixed when written, so that no bit ever moves."""
    groups = -(-n_rows // group_rows)
    return layout.aligned(4 * groups), layout.aligned(-(-n_rows // 8))


__all__ = ["Chunk", "Column", "DictRow", "Footer", "PageRow", "deletion_extent"]
