"""A file's footer, opened without parsing it: sections are looked up, checked and viewed one touched leaf at a time.

``Footer`` answers "where are the pages of these columns" from a handful of 4-KiB leaves, whatever the number of
columns, because names are found by hash. Every leaf is checked against the hash tree before a number in it is used,
and every number against the bytes present before anything is read or allocated by it. The idea of flat, directly
addressed footers is Bullion's (CIDR 2025, abstract); the layout is our own (``FORMAT.md`` section 5).
Decoding pages is not done here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headrace.storage import layout
from headrace.storage.errors import BadFile, CorruptFooter, NoSuchColumn, UnsupportedFeature
from headrace.storage.layout import LEAF_BYTES, Header, Trailer, hash16
from headrace.storage.leaves import Tree, tree_bytes
from headrace.storage.logical import ColumnType, from_ids

CACHED_LEAVES = 4096  # 16 MiB of footer; more is read again when needed


@dataclass(frozen=True)
class Column:
    """One column as the footer describes it."""

    id: int
    name: str
    type: ColumnType
    nullable: bool
    personal: bool
    erase_key: bool


@dataclass(frozen=True)
class Chunk:
    """One column's part of one row group: its PAGE rows, and its DICT row if it has a dictionary."""

    pages: NDArray[Any]
    first_page: int
    dictionary: Any | None


def name_hash(name: str, seed: int) -> int:
    """Keyed 64-bit hash of a column name; the key keeps names from being chosen to collide."""
    return int.from_bytes(blake3(seed.to_bytes(8, "little") + name.encode()).digest(length=8), "little")


class Footer:
    """The checked view of one open file's footer. ``read(offset, length)`` must return exactly that many bytes."""

    def __init__(self, fd: int, file: str) -> None:
        self.file = file
        self._fd = fd
        self.bytes_read = 0
        self.size = os.fstat(fd).st_size
        smallest = layout.HEADER.size + 2 * layout.TRAILER_SLOT_BYTES
        if self.size < smallest:
            raise BadFile(
                f"{file}: expected at least {smallest} bytes, got {self.size}; cut short or not headrace's"
            )
        raw_header = self.read(0, layout.HEADER.size)
        self.header: Header = layout.parse_header(raw_header, file)
        self.trailer: Trailer = self._best_trailer()
        self._check_extent()
        self._leaves: dict[int, bytes] = {}
        self._tree = Tree(file, self.trailer.footer_len, self.trailer.tree_off, self.read)
        root = layout.root_hash(raw_header, self.trailer, self._tree.top)
        if root != self.trailer.root:
            want, off = self.trailer.root.hex(), self.trailer.tree_off
            raise CorruptFooter(file, "root", offset=off, expected=want, got=root.hex())
        self._sections = self._open_sections()
        self._open_meta()

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the file.

        Raises:
            BadFile: the file ends before.
        """
        self.bytes_read += length
        parts: list[bytes] = []
        while length:
            part = os.pread(self._fd, length, offset)
            if not part:
                raise BadFile(
                    f"{self.file}: expected {length} more bytes at {offset}, got none; the file was cut short"
                )
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def current_epoch(self) -> int:
        """The erase epoch in the trailer now; higher than ``trailer.erase_epoch`` after an erase in place."""
        return self._best_trailer().erase_epoch

    def _best_trailer(self) -> Trailer:
        slot = layout.TRAILER_SLOT_BYTES
        copies = []
        for at in (self.size - 2 * slot, self.size - slot):
            copy = layout.parse_trailer(self.read(at, layout.TRAILER.size))
            if copy is not None and copy.uuid == self.header.uuid and copy.file_len == self.size:
                copies.append(copy)
        if not copies:
            raise BadFile(
                f"{self.file}: expected a trailer copy for {self.size} bytes at {self.size - 2 * slot} or "
                f"{self.size - slot}, got none that is sound; the file was cut short, grown or damaged"
            )
        return max(copies, key=lambda copy: copy.erase_epoch)

    def _check_extent(self) -> None:
        it, data_end = self.trailer, self.size - 2 * layout.TRAILER_SLOT_BYTES
        footer_end = it.footer_off + it.footer_len
        sound = (
            layout.HEADER.size <= it.footer_off
            and it.footer_len >= layout.SECTION.itemsize
            and footer_end <= it.tree_off <= data_end
        )
        if not sound or it.tree_off + tree_bytes(it.footer_len) > data_end:
            raise BadFile(
                f"{self.file}: trailer claims a footer of {it.footer_len} bytes at {it.footer_off} and hashes at "
                f"{it.tree_off}, but {data_end} bytes are present; the file is not what its writer wrote"
            )

    def _wrong(self, what: str, offset: int, expected: object, got: object) -> CorruptFooter:
        return CorruptFooter(self.file, what, offset=offset, expected=expected, got=got)

    def checked(self, offset: int, length: int) -> bytes:
        """``length`` bytes at file offset ``offset``, which lies in the footer, after checking their leaves."""
        if not length:
            return b""
        start = offset - self.trailer.footer_off
        first, last = start // LEAF_BYTES, (start + length - 1) // LEAF_BYTES
        missing = [leaf for leaf in range(first, last + 1) if leaf not in self._leaves]
        if missing:
            self._load(missing[0], missing[-1])
        if first == last:
            at = start - first * LEAF_BYTES
            return self._leaves[first][at : at + length]
        data = b"".join(self._leaves[leaf] for leaf in range(first, last + 1))
        at = start - first * LEAF_BYTES
        return data[at : at + length]

    def _load(self, first: int, last: int) -> None:
        if len(self._leaves) > CACHED_LEAVES:
            self._leaves.clear()
        start = first * LEAF_BYTES
        end = min((last + 1) * LEAF_BYTES, self.trailer.footer_len)
        data = self.read(self.trailer.footer_off + start, end - start)
        for leaf in range(first, last + 1):
            at = (leaf - first) * LEAF_BYTES
            part = data[at : at + LEAF_BYTES]
            expected, got = self._tree.expected(leaf), hash16(part)
            if got != expected:
                offset = self.trailer.footer_off + start + at
                raise self._wrong(f"leaf {leaf}", offset, expected.hex(), got.hex())
            self._leaves[leaf] = part

    def _open_sections(self) -> dict[int, Any]:
        off, end = self.trailer.footer_off, self.trailer.footer_off + self.trailer.footer_len
        n = self.trailer.n_sections
        if n * layout.SECTION.itemsize > self.trailer.footer_len:
            raise self._wrong("section count", off, f"at most {self.trailer.footer_len} bytes", n)
        rows = np.frombuffer(self.checked(off, n * layout.SECTION.itemsize), layout.SECTION)
        known = {layout.NAME_INDEX, layout.COLUMN, layout.NAMES, layout.CHUNK, layout.PAGE, layout.DELETION}
        known |= {layout.DICT, layout.META}
        sections: dict[int, Any] = {}
        for row in rows:
            number, start, length = int(row["id"]), int(row["off"]), int(row["len"])
            name = layout.SECTION_NAMES.get(number, f"section {number}")
            if number not in known:
                if int(row["flags"]) & layout.SECTION_REQUIRED:
                    raise UnsupportedFeature(
                        f"{self.file}: needs {name}, which this reader lacks; update headrace"
                    )
                continue
            if start < off or start + length > end or number in sections:
                raise self._wrong(
                    f"extent of {name}", off, f"once within {off}..{end}", f"{start} + {length}"
                )
            sections[number] = (start, length)
        lacking = sorted(known - sections.keys())
        if lacking:
            names = [layout.SECTION_NAMES[number] for number in lacking]
            raise self._wrong("section directory", off, names, "none")
        return sections

    def _open_meta(self) -> None:
        off, length = self._sections[layout.META]
        if length != layout.META_ROW.itemsize:
            raise self._wrong("META length", off, layout.META_ROW.itemsize, length)
        meta = np.frombuffer(self.checked(off, length), layout.META_ROW)[0]
        self.n_rows = int(meta["n_rows"])
        self.n_columns = int(meta["n_columns"])
        self.n_top = int(meta["n_top"])
        self.n_groups = int(meta["n_groups"])
        self.group_rows = int(meta["group_rows"])
        self.n_buckets, self.bucket_slots = int(meta["n_buckets"]), int(meta["bucket_slots"])
        self.n_pages, self.n_dicts = int(meta["n_pages"]), int(meta["n_dicts"])
        groups_ok = 0 < self.group_rows <= layout.GROUP_ROWS and self.group_rows % layout.BLOCK_ROWS == 0
        if (
            not groups_ok
            or self.n_groups != -(-self.n_rows // self.group_rows)
            or self.n_rows != self.trailer.n_rows
        ):
            got = f"{self.n_rows} rows in {self.n_groups} groups of {self.group_rows}"
            raise self._wrong(
                "row counts", off, f"{self.trailer.n_rows} rows, in groups that cover them", got
            )
        popcounts, bits = deletion_extent(self.n_rows, self.group_rows)
        lengths = {
            layout.NAME_INDEX: layout.NAME_SLOT.itemsize * self.n_buckets * self.bucket_slots,
            layout.COLUMN: layout.COLUMN_ROW.itemsize * self.n_columns,
            layout.CHUNK: layout.CHUNK_ROW.itemsize * self.n_columns * self.n_groups,
            layout.PAGE: layout.PAGE_ROW.itemsize * self.n_pages,
            layout.DICT: layout.DICT_ROW.itemsize * self.n_dicts,
            layout.DELETION: popcounts + bits,
        }
        for number, expected in lengths.items():
            start, got = self._sections[number]
            if got != expected:
                raise self._wrong(f"{layout.SECTION_NAMES[number]} length", start, expected, got)
        if not self.n_buckets or self.n_top > self.n_columns:
            raise self._wrong(
                "META counts", off, "at least one bucket, no more top columns than columns", meta
            )

    def _rows(self, section: int, dtype: np.dtype[Any], first: int, n: int) -> NDArray[Any]:
        start, _ = self._sections[section]
        return np.frombuffer(self.checked(start + first * dtype.itemsize, n * dtype.itemsize), dtype)

    def rows_in(self, group: int) -> int:
        """Rows of one row group; only the last may be short."""
        return min(self.group_rows, self.n_rows - group * self.group_rows)

    def columns(self, names: Sequence[str] | None = None) -> list[Column]:
        """The columns asked for, in that order, or all top-level ones.

        Raises:
            NoSuchColumn: naming the first one missing.
        """
        if names is None:
            rows = self._rows(layout.COLUMN, layout.COLUMN_ROW, 0, self.n_top)
            return [self._column(index, rows[index]) for index in range(self.n_top)]
        return [self._find(name) for name in names]

    def _find(self, name: str) -> Column:
        wanted = name_hash(name, self.header.hash_seed)
        first = (wanted % self.n_buckets) * self.bucket_slots
        slots = self._rows(layout.NAME_INDEX, layout.NAME_SLOT, first, self.bucket_slots)
        for slot in np.flatnonzero((slots["hash"] == wanted) & (slots["column"] > 0)):
            index = int(slots["column"][slot]) - 1
            if index < self.n_top:
                column = self._column(index, self._rows(layout.COLUMN, layout.COLUMN_ROW, index, 1)[0])
                if column.name == name:
                    return column
        raise NoSuchColumn(f"{self.file}: has no column {name!r}; it has {self.n_top}, listed by its schema")

    def _text(self, off: int, length: int) -> str:
        start, size = self._sections[layout.NAMES]
        if off + length > size:
            raise self._wrong("name", start, f"within {size} bytes", f"{off} + {length}")
        try:
            return self.checked(start + off, length).decode()
        except UnicodeDecodeError as error:
            raise self._wrong("name", start + off, "UTF-8", error.reason) from error

    def _column(self, index: int, row: Any) -> Column:
        name = self._text(int(row["name_off"]), int(row["name_len"]))
        flags, logical, item = int(row["flags"]), int(row["logical"]), int(row["item_logical"])
        zone = self._text(int(row["param_off"]), int(row["param_len"]))
        type_ = from_ids(logical, item, zone)
        if type_ is None or int(row["n_children"]):
            raise UnsupportedFeature(
                f"{self.file}: column {name!r} has logical type {logical} of items {item}, which this reader lacks; "
                "read the other columns or update headrace"
            )
        if (type_.storage, type_.leaf.storage if type_.is_list else 0) != (
            row["storage"],
            row["item_storage"],
        ):
            raise UnsupportedFeature(
                f"{self.file}: column {name!r} is stored as physical type {row['storage']}/{row['item_storage']}, which "
                "this reader lacks for it; read the other columns or update headrace"
            )
        nullable, personal, key = (
            bool(flags & bit) for bit in (layout.NULLABLE, layout.PERSONAL, layout.ERASE_KEY)
        )
        return Column(index, name, type_, nullable, personal, key)

    def chunk(self, column: Column, group: int) -> Chunk:
        """Where one column's part of one row group is; checked to cover the group's rows without a gap."""
        at = column.id * self.n_groups + group
        row = self._rows(layout.CHUNK, layout.CHUNK_ROW, at, 1)[0]
        first, n = int(row["first_page"]), int(row["n_pages"])
        offset = self._sections[layout.CHUNK][0] + at * layout.CHUNK_ROW.itemsize
        if first + n > self.n_pages:
            raise self._wrong(
                f"pages of column {column.name!r}", offset, f"at most {self.n_pages}", first + n
            )
        pages = self._rows(layout.PAGE, layout.PAGE_ROW, first, n)
        counts, starts = pages["n_rows"].astype(np.int64), pages["first_row"].astype(np.int64)
        ends = np.cumsum(counts)
        if not n or ends[-1] != self.rows_in(group) or (counts == 0).any() or (starts != ends - counts).any():
            rows = self.rows_in(group)
            raise self._wrong(f"page rows of column {column.name!r}", offset, f"{rows} without a gap", counts)
        for page in pages:
            self._check_slot(column, page)
        dictionary = None
        if row["dict"]:
            if int(row["dict"]) > self.n_dicts:
                raise self._wrong(
                    f"dictionary of column {column.name!r}", offset, f"<= {self.n_dicts}", row["dict"]
                )
            dictionary = self._rows(layout.DICT, layout.DICT_ROW, int(row["dict"]) - 1, 1)[0]
            self._check_slot(column, dictionary)
        return Chunk(pages, first, dictionary)

    def _check_slot(self, column: Column, row: Any) -> None:
        off, slot, used = int(row["off"]), int(row["slot_len"]), int(row["used_len"])
        end = self.trailer.footer_off
        if off < layout.HEADER.size or off + slot > end or used > slot or off % layout.ALIGN_BYTES:
            what, want = (
                f"slot of a page of column {column.name!r}",
                f"aligned and within {end}, used <= slot",
            )
            raise self._wrong(what, off, want, f"{off} + {used} of {slot}")

    def deleted(self, group: int) -> NDArray[np.bool_] | None:
        """bool[rows of the group], True where a row was deleted, or None when none was."""
        start, _ = self._sections[layout.DELETION]
        count = int(np.frombuffer(self.checked(start + 4 * group, 4), "<u4")[0])
        if not count:
            return None
        n = self.rows_in(group)
        popcounts, _ = deletion_extent(self.n_rows, self.group_rows)
        off = start + popcounts + group * (self.group_rows // 8)
        bits = np.frombuffer(self.checked(off, -(-n // 8)), np.uint8)
        mask = np.unpackbits(bits, count=n, bitorder="little").view(np.bool_)
        if np.count_nonzero(mask) != count:
            raise self._wrong(f"deletion bits of group {group}", off, count, np.count_nonzero(mask))
        return mask

    def n_deleted(self) -> int:
        """Rows marked deleted in the whole file."""
        start, _ = self._sections[layout.DELETION]
        counts = np.frombuffer(self.checked(start, 4 * self.n_groups), "<u4")
        return int(counts.sum(dtype=np.int64))


def deletion_extent(n_rows: int, group_rows: int) -> tuple[int, int]:
    """Bytes of the DELETION section's popcounts and of its bitmaps: fixed when written, so that no bit ever moves."""
    groups = -(-n_rows // group_rows)
    return layout.aligned(4 * groups), layout.aligned(-(-n_rows // 8))
