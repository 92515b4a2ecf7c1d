"""The sections of a footer, from what the writer has gathered: ``FORMAT.md`` section 5.

Called once, when a file is closed. Rows of PAGE and STATS lie column by column, so a column over all row groups is one
run of them; children of nested columns and the hidden column come behind the table's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from headrace.storage import layout
from headrace.storage.columns import name_hashes
from headrace.storage.errors import TooLarge
from headrace.storage.footer import deletion_extent
from headrace.storage.group import FlatColumn
from headrace.storage.layout import LEAF_BYTES
from headrace.storage.logical import column_type, description
from headrace.storage.quantise import Report, pack

Section = tuple[int, int, int, bytes]
"""Number, flags, rows and bytes."""
_CLUSTER = column_type(pa.uint32(), "")


@dataclass
class StoredColumn:
    """What the pages of a column written so far need the footer to say."""

    chunks: list[tuple[int, int, int, int, int] | None] = field(default_factory=list)
    """Per group offset, length, pages, dictionary (DICT row + 1) and nulls; None where the group has none of it."""
    pages: bytearray = field(default_factory=bytearray)
    statistics: bytearray = field(default_factory=bytearray)
    nulls: int = 0
    item_nulls: bool = False
    dictionary: int | None = None
    """DICT row of the file-wide dictionary."""
    report: Report | None = None
    """Errors of quantised storage."""


@dataclass(frozen=True)
class Contents:
    """All that a footer says."""

    n_rows: int
    group_rows: int
    n_top: int
    columns: Sequence[FlatColumn]
    stored: Sequence[StoredColumn]
    """One per column, and one more for the hidden one if the file has it."""
    dicts: bytes
    key_values: Mapping[str, str]
    erase_key: str | None
    personal: frozenset[str]
    clustered: frozenset[int]
    follows: Mapping[int, int]


def footer_sections(contents: Contents, hash_seed: int) -> list[Section]:
    """All sections, in file order."""
    n, n_groups = len(contents.stored), -(-contents.n_rows // contents.group_rows)
    names, columns = _columns(contents, hash_seed)
    tops = [column.name for column in contents.columns[: contents.n_top]]
    n_buckets, bucket_slots, index = name_index(tops, hash_seed)
    chunks = np.zeros((n, n_groups), layout.CHUNK_ROW)
    n_pages = 0
    for column, stored in enumerate(contents.stored):
        for group, chunk in enumerate(stored.chunks):
            if chunk is None:
                chunks[column, group]["first_page"] = n_pages
                continue
            off, length, pages, dictionary, nulls = chunk
            chunks[column, group] = (off, length, n_pages, pages, 0, dictionary, nulls)
            n_pages += pages
    meta = np.zeros(1, layout.META_ROW)
    n_dicts = len(contents.dicts) // layout.DICT_ROW.itemsize
    counts = (n_groups, contents.group_rows, n_buckets, bucket_slots, n_pages, n_dicts)
    meta[0] = (contents.n_rows, n, contents.n_top, *counts, b"")
    deletion = bytes(sum(deletion_extent(contents.n_rows, contents.group_rows)))
    need = layout.SECTION_REQUIRED
    sections: list[Section] = [
        (layout.META, need, 1, meta.tobytes()),
        (layout.NAME_INDEX, need, n_buckets * bucket_slots, index),
        (layout.COLUMN, need, n, columns),
        (layout.NAMES, need, 0, names),
        (layout.CHUNK, need, n * n_groups, chunks.tobytes()),
        (layout.PAGE, need, n_pages, b"".join(bytes(stored.pages) for stored in contents.stored)),
        (layout.DICT, need, n_dicts, contents.dicts),
        (layout.DELETION, need, n_groups, deletion),
    ]
    statistics = b"".join(bytes(stored.statistics) for stored in contents.stored)
    if statistics:
        sections.append((layout.STATS, 0, len(statistics) // layout.STATS_BYTES, statistics))
    reports = [pack(stored.report) for stored in contents.stored if stored.report is not None]
    if reports:
        sections.append((layout.QUANTISATION, 0, len(reports), b"".join(reports)))
    pairs = [(key.encode(), value.encode()) for key, value in contents.key_values.items()]
    packed = b"".join(
        len(key).to_bytes(4, "little") + len(value).to_bytes(4, "little") + key + value
        for key, value in pairs
    )
    sections.append((layout.KEY_VALUE, 0, len(pairs), packed))
    return sections


def _columns(contents: Contents, hash_seed: int) -> tuple[bytes, bytes]:
    names = bytearray()
    rows = np.zeros(len(contents.stored), layout.COLUMN_ROW)
    parts = _parts(contents)
    n_stats = n_reports = 0
    for index, stored in enumerate(contents.stored):
        row = rows[index]
        for unused in ("parent", "first_child", "stats", "quant", "dict", "leader"):
            row[unused] = layout.NO_ROW
        hidden = index == len(contents.columns)
        type_ = _CLUSTER if hidden else contents.columns[index].type
        flags = _flags(contents, index, stored) if not hidden else layout.HIDDEN
        name = "" if hidden else contents.columns[index].name
        text, described = name.encode(), description(type_) if not hidden and index < contents.n_top else b""
        if len(text) > 0xFFFF:
            raise TooLarge(f"a column name of {len(text)} bytes exceeds {0xFFFF}; shorten {name[:40]!r}...")
        more = described or type_.timezone.encode()
        flags |= layout.DESCRIBED * bool(described)
        row["name_hash"] = name_hashes(name, hash_seed)[0]
        row["name_off"], row["name_len"] = len(names), len(text)
        row["param_off"], row["param_len"] = len(names) + len(text), len(more)
        names += text + more
        row["logical"], row["storage"], row["flags"] = type_.logical, type_.storage, flags
        row["item_logical"], row["item_storage"] = type_.item_logical, type_.item_storage
        row["null_count"] = stored.nulls
        if stored.dictionary is not None:
            row["dict"] = stored.dictionary
        if stored.statistics:
            row["stats"] = n_stats
            n_stats += len(stored.statistics) // layout.STATS_BYTES
        if stored.report is not None:
            row["quant"] = n_reports
            n_reports += 1
        if hidden:
            continue
        if index >= contents.n_top:
            row["parent"] = contents.columns[index].top
        elif index in parts:
            row["first_child"], row["n_children"] = parts[index]
        if index in contents.clustered:
            row["first_child"] = len(contents.columns)
        if index in contents.follows:
            row["leader"] = contents.follows[index]
    return bytes(names), rows.tobytes()


def _flags(contents: Contents, index: int, stored: StoredColumn) -> int:
    column = contents.columns[index]
    top = index < contents.n_top
    owner = contents.columns[column.top].name
    return int(
        layout.NULLABLE * column.nullable
        | layout.PERSONAL * (owner in contents.personal)
        | layout.ERASE_KEY * (top and column.name == contents.erase_key)
        | layout.IS_LIST * column.type.is_list
        | layout.IS_FIXED_LIST * (column.type.size is not None)
        | layout.ITEM_NULLABLE * stored.item_nulls
        | layout.CLUSTERED * (index in contents.clustered)
        | layout.FOLLOWS * (index in contents.follows)
    )


def _parts(contents: Contents) -> dict[int, tuple[int, int]]:
    """Of each nested column, its first part's id and how many there are."""
    found: dict[int, tuple[int, int]] = {}
    for index in range(contents.n_top, len(contents.columns)):
        first, n = found.get(contents.columns[index].top, (index, 0))
        found[contents.columns[index].top] = first, n + 1
    return found


def name_index(names: Iterable[str], seed: int) -> tuple[int, int, bytes]:
    """The NAME_INDEX section: number of buckets, slots in each, bytes. Slots fill from the front, in hash order."""
    hashes = [name_hashes(name, seed) for name in names]
    slots = LEAF_BYTES // layout.NAME_SLOT.itemsize
    n_buckets = max(1, -(-2 * len(hashes) // slots))
    if n_buckets == 1:
        slots = max(1, len(hashes))
    while True:
        buckets: list[list[tuple[int, int, int]]] = [[] for _ in range(n_buckets)]
        for index, (value, check) in enumerate(hashes):
            buckets[value % n_buckets].append((value, index + 1, check))
        if max(len(bucket) for bucket in buckets) <= slots:
            break
        n_buckets *= 2
    table = np.zeros((n_buckets, slots), layout.NAME_SLOT)
    for number, bucket in enumerate(buckets):
        for slot, row in enumerate(sorted(bucket)):
            table[number, slot] = row
    return n_buckets, slots, table.tobytes()
