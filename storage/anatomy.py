"""What a file is made of: sections, columns, pages, streams and the encodings within encodings, each with its bytes.

For people and tools that ask where the bytes are; nothing that reads rows comes through here. Numbers come from the
checked footer and from pages whose hash was checked, no value is decoded. Why an encoding was chosen is ``explain``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.storage import layout, page
from headrace.storage.encodings import BY_ID, RESERVED_IDS
from headrace.storage.fetch import checked
from headrace.storage.footer import Column, DictRow, PageRow
from headrace.storage.page_streams import Page, Place
from headrace.storage.reader import File

ROLES = {
    page.VALIDITY: "validity",
    page.LENGTHS: "lengths",
    page.VALUES: "values",
    page.BYTES: "bytes",
    page.CODES: "codes",
    page.ITEM_VALIDITY: "item validity",
    page.ITEM_LENGTHS: "item lengths",
    page.SEQ_MODE: "copies per row",
    page.SEQ_NEW: "new items",
    page.SEQ_KEEP: "kept items",
    page.SEQ_SKIP: "skipped items",
    page.SEQ_LITERALS: "items",
    page.VALUES_HIGH: "high words",
}
_DTYPES = {page.VALIDITY: "?", page.ITEM_VALIDITY: "?", page.BYTES: "u1", page.VALUES_HIGH: "i8"}


@dataclass(frozen=True)
class Stream:
    """One stream of a page, or one within another; ``bytes`` are those of its payload, what lies within included."""

    role: str
    encoding: str
    n_values: int
    bytes: int
    within: tuple[Stream, ...] = ()

    @property
    def cascade(self) -> str:
        """The encodings in one line, such as ``rle(bitpack, delta(bitpack))``."""
        inner = ", ".join(stream.cascade for stream in self.within)
        return f"{self.encoding}({inner})" if inner else self.encoding


@dataclass(frozen=True)
class PagePart:
    """A page, or a dictionary, which has number -1; ``bytes`` are those of its slot, ``n_items`` those of its lists."""

    number: int
    group: int
    n_rows: int
    n_nulls: int
    bytes: int
    used_bytes: int
    n_items: int
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class ColumnPart:
    """A flat column of the file: a table's column, a part of a nested one, or one of the file's own."""

    name: str
    type: str
    mark: str
    """``erase key``, ``personal``, ``hidden``, or the empty string."""
    pages: tuple[PagePart, ...]

    @property
    def bytes(self) -> int:
        """Of all its slots, dictionaries included."""
        return sum(one.bytes for one in self.pages)


@dataclass(frozen=True)
class FileParts:
    """A file's outline."""

    file: str
    bytes: int
    n_rows: int
    n_deleted: int
    n_groups: int
    n_columns: int
    n_pages: int
    sections: dict[str, int]


def outline(file: File) -> FileParts:
    """Sizes of a file's parts; reads no column."""
    footer = file.footer
    sections = {layout.SECTION_NAMES[number]: length for number, (_, length) in footer._sections.items()}
    return FileParts(
        footer.file,
        footer.size,
        footer.n_rows,
        footer.n_deleted(),
        footer.n_groups,
        footer.n_top,
        footer.n_pages,
        dict(sorted(sections.items())),
    )


def key_values(file: File) -> dict[str, str]:
    """What the writer noted, such as the ``profile``.

    Raises:
        CorruptFooter: the pairs do not fill their section.
    """
    footer = file.footer
    if layout.KEY_VALUE not in footer._sections:
        return {}
    data = footer.section(layout.KEY_VALUE, 0, footer._sections[layout.KEY_VALUE][1])
    found, at = {}, 0
    while at < len(data):
        lengths = [int.from_bytes(data[at + half : at + half + 4], "little") for half in (0, 4)]
        end = at + 8 + sum(lengths)
        if end > len(data):
            raise footer.wrong("pair", layout.KEY_VALUE, at, f"within {len(data)} bytes", f"one of {lengths}")
        pair = data[at + 8 : end]
        found[pair[: lengths[0]].decode(errors="replace")] = pair[lengths[0] :].decode(errors="replace")
        at = end
    return found


def columns(file: File, names: Sequence[str] | None = None) -> Iterator[ColumnPart]:
    """The parts of some columns, or of all and the file's own, one flat column at a time.

    Raises:
        NoSuchColumn: naming the first one missing.
        CorruptPage: a page does not match its hash.
    """
    footer = file.footer
    for whole in footer.columns(names):
        for part in footer.parts(whole):
            yield column(file, part)
    if names is None:
        for index in range(footer.n_top, footer.n_columns):
            if (own := footer.column(index)).hidden:
                yield column(file, own)


def column(file: File, column: Column) -> ColumnPart:
    """The parts of one flat column."""
    footer = file.footer
    pages: list[PagePart] = []
    shared = footer.file_dictionary(column)
    if shared is not None:
        pages.append(_dictionary(file, column, shared, -1))
    for group in range(footer.n_groups):
        chunk = footer.chunk(column, group)
        if chunk.dictionary is not None:
            pages.append(_dictionary(file, column, chunk.dictionary, group))
        pages += [
            _page(file, column, row, chunk.first_page + number, group)
            for number, row in enumerate(chunk.pages)
        ]
    mark = "erase key" if column.erase_key else "personal" if column.personal else ""
    return ColumnPart(column.name, str(column.type.arrow), "hidden" if column.hidden else mark, tuple(pages))


def _dictionary(file: File, column: Column, row: DictRow, group: int) -> PagePart:
    as_page = PageRow(row.off, row.slot_len, row.used_len, 0, row.n_entries, 0, 0, 0, row.hash)
    return _page(file, column, as_page, -1, group)


def _page(file: File, column: Column, row: PageRow, number: int, group: int) -> PagePart:
    place = Place(file.footer.file, column.name, number, row.off)
    data = checked(file.source.read(row.off, row.used_len), row.hash, place)
    found = Page(data, row.n_rows, place)
    streams = []
    for role, (encoding, off, length, count, _) in found.streams.items():
        payload = np.frombuffer(data, np.uint8, length, off)
        dtype = np.dtype(_DTYPES.get(role, "u4"))
        if role in (page.VALUES, page.SEQ_LITERALS):
            leaf = column.type.leaf.dtype
            dtype = np.dtype("u8") if leaf is None else leaf
        streams.append(_stream(ROLES.get(role, f"role {role}"), encoding, payload, count, dtype))
    return PagePart(
        number, group, row.n_rows, row.null_count, row.slot_len, row.used_len, found.n_items, tuple(streams)
    )


def _stream(role: str, number: int, payload: Any, count: int, dtype: np.dtype[Any]) -> Stream:
    encoding = BY_ID.get(number)
    if encoding is None:
        return Stream(
            role, RESERVED_IDS.get(number, f"encoding {number}").partition(":")[0], count, len(payload)
        )
    within = tuple(
        _stream(what, child, part, n, part_dtype)
        for what, child, part, n, part_dtype in encoding.parts(payload, count, dtype)
    )
    return Stream(role, encoding.name, count, len(payload), within)


@dataclass(frozen=True)
class Size:
    """A table's column in one file: nulls, bytes as Arrow lists and strings, and bytes of its slots in the file."""

    n_nulls: int
    raw_bytes: int
    stored_bytes: int


def measured(file: File, column: Column) -> Size:
    """How large a column is. Lists, strings and nested ones are decoded to be measured, numbers are not."""
    footer = file.footer
    nulls = stored = 0
    for part in footer.parts(column):
        shared = footer.file_dictionary(part)
        stored += 0 if shared is None else shared.slot_len
        for group in range(footer.n_groups):
            chunk = footer.chunk(part, group)
            stored += 0 if chunk.dictionary is None else chunk.dictionary.slot_len
            stored += sum(row.slot_len for row in chunk.pages)
            nulls += sum(row.null_count for row in chunk.pages) if part.id == column.id else 0
    if column.type.children or column.type.is_list or column.type.leaf.dtype is None:
        return Size(nulls, sum(batch.nbytes for batch in file.batches([column.name])), stored)
    bits = column.type.leaf.arrow.bit_width * footer.n_rows + (footer.n_rows if nulls else 0)
    return Size(nulls, -(-bits // 8), stored)
