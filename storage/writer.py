"""Arrow batches to one file: row groups are encoded as they fill, the footer is written when the file is closed.

At most one row group of rows is held in memory. A file is created under a name that must not exist, and is synced
before ``close`` returns; its folder and its place in a table are the table's concern. The layout is ``FORMAT.md``'s;
with ``seed`` equal input gives equal bytes. Statistics, sorting and quantisation have sections but no writer.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from headrace.storage import arrays, chunk, durable, layout, leaves, page
from headrace.storage.entropy import Entropy
from headrace.storage.errors import SchemaMismatch, TooLarge
from headrace.storage.footer import deletion_extent, name_hash
from headrace.storage.layout import GROUP_ROWS, LEAF_BYTES, PAGE_BLOCKS, Header, Trailer, aligned, hash16
from headrace.storage.logical import ColumnType, column_type, stored_schema

_PAGE = struct.Struct("<QIIIIHHI16s")
_DICT = struct.Struct("<QIIIIII16s")


@dataclass(frozen=True)
class Written:
    """What a closed file is known by."""

    rows: int
    bytes: int
    uuid: str
    erase_epoch: int
    root: str


class Writer:
    """Writes one file. Use as a context manager: leaving it by an error removes the unfinished file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: pa.Schema,
        *,
        erase_key: str | None = None,
        personal: Collection[str] = (),
        seed: int | None = None,
        uuid: bytes | None = None,
        group_rows: int = GROUP_ROWS,
        page_blocks: int = PAGE_BLOCKS,
    ) -> None:
        """Create the file.

        Args:
            path: must not exist.
            schema: what rows are expected; see ``logical`` for the types that can be held.
            erase_key: the column that names a person, if any.
            personal: further columns that hold personal data.
            seed: for identical bytes; None draws uuid and nonces from the operating system.
            uuid: 16 bytes to know the file by, instead of drawn ones.
            group_rows: rows of a row group, a multiple of 1,024 up to 65,536.
            page_blocks: blocks of 1,024 rows in a page, 1..64; fewer are used where rows are wide.

        Raises:
            UnsupportedType: a column's type cannot be held.
            SchemaMismatch: ``erase_key`` or ``personal`` names no column.
        """
        self.path = Path(path)
        self.schema = stored_schema(schema)
        flagged = {*personal, *([erase_key] if erase_key else [])}
        if not flagged <= set(self.schema.names):
            lacking = sorted(flagged - set(self.schema.names))
            raise SchemaMismatch(f"erase key and personal columns must be columns, {lacking} are not")
        if group_rows % layout.BLOCK_ROWS or not 0 < group_rows <= GROUP_ROWS or not 1 <= page_blocks <= 64:
            raise ValueError(
                f"expected group_rows a multiple of 1024 up to {GROUP_ROWS} and page_blocks 1..64, "
                f"got {group_rows} and {page_blocks}"
            )
        self._erase_key, self._personal = erase_key, set(personal)
        self._types: list[ColumnType] = [column_type(field.type, field.name) for field in self.schema]
        self._group_rows, self._page_blocks = group_rows, page_blocks
        self._entropy = Entropy(seed)
        drawn = self._entropy.take(16)
        self._header = Header(uuid or drawn, int.from_bytes(self._entropy.take(8), "little"))
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._rows = 0
        n = len(self._types)
        self._chunks: list[list[tuple[int, int, int, int, int]]] = [[] for _ in range(n)]
        self._pages = [bytearray() for _ in range(n)]
        self._dicts = bytearray()
        self._nulls = [0] * n
        self._item_nulls = [False] * n
        self._file = self.path.open("xb")
        self._off = 0
        self._put(self._header.pack())

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._off += len(data)

    def _pad(self, to: int) -> None:
        self._put(bytes(aligned(self._off, to) - self._off))

    def write(self, data: pa.RecordBatch | pa.Table) -> None:
        """Add rows; columns are matched by name, in any order.

        Raises:
            SchemaMismatch: a column is missing, unknown, of another type, or null where the schema forbids it.
        """
        for batch in data.to_batches() if isinstance(data, pa.Table) else [data]:
            fitted = fit(batch, self.schema)
            while fitted.num_rows:
                take = min(fitted.num_rows, self._group_rows - self._pending_rows)
                self._pending.append(fitted[:take])
                self._pending_rows += take
                fitted = fitted[take:]
                if self._pending_rows == self._group_rows:
                    self._write_group()

    def _write_group(self) -> None:
        for index, (field, type_) in enumerate(zip(self.schema, self._types, strict=True)):
            parts = [batch.column(index) for batch in self._pending]
            try:
                array = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
            except pa.ArrowInvalid as error:
                raise TooLarge(
                    f"column {field.name!r}: {self._pending_rows} rows together exceed 2 GiB ({error}); "
                    "write with a smaller group_rows"
                ) from error
            self._write_chunk(index, type_, array)
        self._rows += self._pending_rows
        self._pending, self._pending_rows = [], 0

    def _write_chunk(self, index: int, type_: ColumnType, array: pa.Array) -> None:
        values = chunk.leaves(array, type_)
        coded = chunk.code(values, type_.leaf)
        self._pad(layout.ALIGN_BYTES)
        start, dictionary = self._off, 0
        if coded is not None:
            data = page.encode_entries(coded.entries, type_.leaf, self._entropy.take(layout.NONCE_BYTES))
            off, slot = self._put_slot(data)
            n = len(coded.entries)
            self._dicts += _DICT.pack(off, slot, len(data), n, index, 0, 0, hash16(data))
            dictionary = len(self._dicts) // _DICT.size
        first_row = n_pages = 0
        for rows, codes in chunk.pages(array, type_, coded, self._page_blocks):
            data = page.encode(rows, type_, codes, self._entropy.take(layout.NONCE_BYTES))
            off, slot = self._put_slot(data)
            blocks = -(-len(rows) // layout.BLOCK_ROWS)
            self._pages[index] += _PAGE.pack(
                off, slot, len(data), first_row, len(rows), blocks, 0, rows.null_count, hash16(data)
            )
            first_row += len(rows)
            n_pages += 1
        self._chunks[index].append((start, self._off - start, n_pages, dictionary, array.null_count))
        self._nulls[index] += array.null_count
        if type_.is_list:
            self._item_nulls[index] |= array.flatten().null_count > 0

    def _put_slot(self, data: bytes) -> tuple[int, int]:
        """Write a page into a slot of whole alignment units; the rest of the slot is zero."""
        if len(data) >= 2**32 - layout.ALIGN_BYTES:
            raise TooLarge(
                f"{self.path}: a page of {len(data)} bytes exceeds 4 GiB; split its rows into smaller values"
            )
        self._pad(layout.ALIGN_BYTES)
        off, slot = self._off, aligned(len(data))
        self._put(data)
        self._put(bytes(slot - len(data)))
        return off, slot

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> Written:
        """Write the rest and the footer, and sync the file."""
        if self._pending_rows:
            self._write_group()
        self._pad(layout.ALIGN_BYTES)
        footer_off = self._off
        footer, n_sections = self._footer(footer_off)
        levels = leaves.build(footer)
        tree_off = aligned(footer_off + len(footer))
        tree = b"".join(levels)
        slot = layout.TRAILER_SLOT_BYTES
        end = aligned(tree_off + len(tree), slot)
        unrooted = Trailer(
            self._header.uuid,
            end + 2 * slot,
            footer_off,
            len(footer),
            n_sections,
            tree_off,
            0,
            self._rows,
            bytes(32),
        )
        trailer = replace(unrooted, root=layout.root_hash(self._header.pack(), unrooted, levels[-1]))
        self._put(footer)
        self._pad(layout.ALIGN_BYTES)
        self._put(tree)
        self._pad(slot)
        copy = trailer.pack()
        self._put((copy + bytes(slot - len(copy))) * 2)
        self._file.flush()
        durable.sync_file(self._file.fileno())
        self._file.close()
        return Written(self._rows, self._off, self._header.uuid.hex(), 0, trailer.root.hex())

    def _footer(self, footer_off: int) -> tuple[bytes, int]:
        """All sections behind their directory; ``FORMAT.md`` section 5."""
        sections = self._sections()
        directory = np.zeros(len(sections), layout.SECTION)
        body = bytearray(directory.nbytes)
        for row, (number, flags, n_rows, data) in enumerate(sections):
            # Sections larger than a leaf start on one, so that a bucket or a bitmap never straddles two.
            to = LEAF_BYTES if len(data) > LEAF_BYTES else layout.ALIGN_BYTES
            body += bytes(aligned(len(body), to) - len(body))
            directory[row] = (number, flags, footer_off + len(body), len(data), n_rows)
            body += data
        body[: directory.nbytes] = directory.tobytes()
        return bytes(body), len(sections)

    def _sections(self) -> list[tuple[int, int, int, bytes]]:
        """Number, flags, rows and bytes of each section, in file order."""
        n, n_groups = len(self._types), -(-self._rows // self._group_rows)
        names, columns = self._columns()
        n_buckets, bucket_slots, index = name_index(self.schema.names, self._header.hash_seed)
        chunks = np.zeros((n, n_groups), layout.CHUNK_ROW)
        n_pages = 0
        for column, rows in enumerate(self._chunks):
            for group, (off, length, pages, dictionary, nulls) in enumerate(rows):
                chunks[column, group] = (off, length, n_pages, pages, 0, dictionary, nulls)
                n_pages += pages
        meta = np.zeros(1, layout.META_ROW)
        n_dicts = len(self._dicts) // _DICT.size
        meta[0] = (
            self._rows,
            n,
            n,
            n_groups,
            self._group_rows,
            n_buckets,
            bucket_slots,
            n_pages,
            n_dicts,
            b"",
        )
        deletion = bytes(sum(deletion_extent(self._rows, self._group_rows)))
        need = layout.SECTION_REQUIRED
        return [
            (layout.META, need, 1, meta.tobytes()),
            (layout.NAME_INDEX, need, n_buckets * bucket_slots, index),
            (layout.COLUMN, need, n, columns),
            (layout.NAMES, need, 0, names),
            (layout.CHUNK, need, n * n_groups, chunks.tobytes()),
            (layout.PAGE, need, n_pages, b"".join(self._pages)),
            (layout.DICT, need, n_dicts, bytes(self._dicts)),
            (layout.DELETION, need, n_groups, deletion),
        ]

    def _columns(self) -> tuple[bytes, bytes]:
        names = bytearray()
        rows = np.zeros(len(self._types), layout.COLUMN_ROW)
        for index, (field, type_) in enumerate(zip(self.schema, self._types, strict=True)):
            text, zone = field.name.encode(), type_.timezone.encode()
            if len(text) > 0xFFFF:
                raise TooLarge(
                    f"a column name of {len(text)} bytes exceeds {0xFFFF}; shorten {field.name[:40]!r}..."
                )
            flags = layout.NULLABLE * field.nullable | layout.PERSONAL * (field.name in self._personal)
            flags |= layout.ERASE_KEY * (field.name == self._erase_key) | layout.IS_LIST * type_.is_list
            flags |= layout.ITEM_NULLABLE * self._item_nulls[index]
            row = rows[index]
            row["name_hash"] = name_hash(field.name, self._header.hash_seed)
            row["name_off"], row["name_len"] = len(names), len(text)
            row["param_off"], row["param_len"] = len(names) + len(text), len(zone)
            names += text + zone
            row["logical"], row["storage"], row["flags"] = type_.logical, type_.storage, flags
            if type_.is_list:
                row["item_logical"], row["item_storage"] = type_.leaf.logical, type_.leaf.storage
            row["null_count"] = self._nulls[index]
            for unused in ("parent", "first_child", "stats", "quant", "dict"):
                row[unused] = layout.NO_ROW
        return bytes(names), rows.tobytes()


def name_index(names: Iterable[str], seed: int) -> tuple[int, int, bytes]:
    """The NAME_INDEX section: number of buckets, slots in each, bytes. Slots fill from the front, in hash order."""
    hashes = [name_hash(name, seed) for name in names]
    slots = LEAF_BYTES // layout.NAME_SLOT.itemsize
    n_buckets = max(1, -(-2 * len(hashes) // slots))
    if n_buckets == 1:
        slots = max(1, len(hashes))
    while True:
        buckets: list[list[tuple[int, int, int]]] = [[] for _ in range(n_buckets)]
        for index, value in enumerate(hashes):
            buckets[value % n_buckets].append((value, index + 1, 0))
        if max(len(bucket) for bucket in buckets) <= slots:
            break
        n_buckets *= 2
    table = np.zeros((n_buckets, slots), layout.NAME_SLOT)
    for number, bucket in enumerate(buckets):
        for slot, row in enumerate(sorted(bucket)):
            table[number, slot] = row
    return n_buckets, slots, table.tobytes()


def fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` with exactly the columns of ``schema``, in its order and plain types.

    Raises:
        SchemaMismatch: listing every column that is missing, unknown, of another type, or null against the schema.
        UnsupportedType: a column's type cannot be held.
    """
    came = {field.name: (at, field.type) for at, field in enumerate(stored_schema(batch.schema))}
    expected = set(schema.names)
    wrong = [f"{name!r} is missing" for name in schema.names if name not in came]
    wrong += [f"{name!r} is not expected" for name in came if name not in expected]
    columns = []
    for field in schema:
        if field.name not in came:
            continue
        at, got = came[field.name]
        if got != field.type:
            wrong.append(f"{field.name!r} has type {got}, expected {field.type}")
            continue
        column = arrays.plain(batch.column(at), field.type)
        if not field.nullable and column.null_count:
            wrong.append(f"{field.name!r} has {column.null_count} nulls, expected none")
        columns.append(column)
    if wrong:
        raise SchemaMismatch(
            f"rows do not fit the schema: {'; '.join(wrong)}; cast, rename or drop these columns"
        )
    for field, column in zip(schema, columns, strict=True):
        leaf = column.flatten() if pa.types.is_list(field.type) else column
        if pa.types.is_string(leaf.type):
            try:
                leaf.validate(full=True)
            except pa.ArrowInvalid as error:
                raise SchemaMismatch(
                    f"column {field.name!r} holds text that is not UTF-8: {error}; use binary"
                ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema) if columns else batch.select([])
