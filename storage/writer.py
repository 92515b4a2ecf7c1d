"""Arrow batches to one file: row groups are encoded as they fill, the footer is written when the file is closed.

At most one row group of rows is held in memory, and the pages of the one before it, which are hashed, written and synced
while the next is encoded. A file is created under a name that must not exist, and is synced
before ``close`` returns; its folder and its place in a table are the table's concern. The layout is ``FORMAT.md``'s;
with ``seed`` equal input gives equal bytes. What lies in pages is ``group``'s and ``chunk``'s part, sections are
``sections``'.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from blake3 import blake3

from headrace.storage import durable, layout, leaves, nested_columns
from headrace.storage.chunk import MAX_BLOCKS, ColumnRules, ColumnWriter, Encoded
from headrace.storage.entropy import Entropy
from headrace.storage.errors import SchemaMismatch, TooLarge, UnsupportedType
from headrace.storage.fit import fit
from headrace.storage.group import FlatColumn, GroupWriter, shredded
from headrace.storage.layout import GROUP_ROWS, LEAF_BYTES, Header, Trailer, aligned
from headrace.storage.logical import ColumnType, column_type, stored_schema
from headrace.storage.quantise import Quantisation, can_quantise, parse
from headrace.storage.sections import Contents, StoredColumn, footer_sections
from headrace.storage.select import PROFILES, Profile

SYNC_BYTES = 1 << 24  # less is synced when the file is closed
RESERVE, RESERVE_BYTES = 16, 128
"""Of a page that shall be erased in place, the part and the bytes by which its slot is larger: blanked, it may pack worse."""
_CLUSTER = column_type(pa.uint32(), "")


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
        page_blocks: int = MAX_BLOCKS,
        profile: str | Profile = "balanced",
        encodings: Mapping[str, str] | None = None,
        quantise: Mapping[str, str | Mapping[str, float]] | None = None,
        cluster_by: str | None = None,
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
            page_blocks: at most so many blocks of 1,024 rows in a page, 1..64; fewer are used where rows are wide.
            profile: what bytes and reading time are worth: "size", "balanced", "train" or "compliance"; see ``select``.
            encodings: by column, the name of the encoding that its values get whatever the profile says, or "dictionary",
                or "sequence".
            quantise: by column of floats, how it may lose precision: a name or an error bound, see ``quantise.parse``.
            cluster_by: the column whose equal values own a history; None is the erase key. Lists that slide are stored
                in its order within a row group, and never refer to a row of another value.

        Raises:
            UnsupportedType: a column's type cannot be held, or not quantised.
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
        quantised = {name: parse(spec) for name, spec in (quantise or {}).items()}
        self._profile = _profile(profile)
        self._columns = self._flat_columns(self._profile, dict(encodings or {}), quantised)
        cluster = cluster_by or erase_key
        if cluster is not None and cluster not in self.schema.names:
            raise SchemaMismatch(
                f"rows are clustered by {cluster!r}, which is no column of {self.schema.names[:20]}"
            )
        self._group = GroupWriter(
            self._columns, None if cluster is None else self.schema.names.index(cluster)
        )
        self._entropy = Entropy(seed)
        drawn = self._entropy.take(16)
        self._header = Header(uuid or drawn, int.from_bytes(self._entropy.take(8), "little"))
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._rows = 0
        self._hidden = ColumnWriter(_CLUSTER, ColumnRules(self._profile))
        self._stored = [StoredColumn() for _ in range(len(self._columns) + 1)]
        self._dicts = bytearray()
        self._file = self.path.open("xb")
        self._off = self._synced = 0
        self._behind = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
        self._put(self._header.pack())

    def _flat_columns(
        self, profile: Profile, encodings: dict[str, str], quantised: dict[str, Quantisation]
    ) -> list[FlatColumn]:
        """The table's columns in order, then the parts of nested ones."""
        named = {*encodings, *quantised}
        if not named <= set(self.schema.names):
            unknown = sorted(named - set(self.schema.names))
            raise SchemaMismatch(
                f"encodings or quantisation are given for {unknown}, which are no columns of {self.schema.names[:20]}"
            )
        tops, parts = [], []
        for index, (field, type_) in enumerate(zip(self.schema, self._types, strict=True)):
            guarded = field.name == self._erase_key or field.name in self._personal
            rules = ColumnRules(
                profile,
                in_place=profile.in_place,
                encoding=encodings.get(field.name),
                page_blocks=self._page_blocks,
                file_dictionary=profile.file_dictionaries and not guarded,
                statistics=not guarded,
                quantisation=quantised.get(field.name),
            )
            if rules.quantisation is not None and not can_quantise(type_):
                raise UnsupportedType(
                    f"column {field.name!r} is {field.type}, which cannot be quantised; float, double and lists of them can"
                )
            nodes = nested_columns.nodes(type_)
            described = nested_columns.names(type_)
            tops.append(FlatColumn(field.name, field.nullable, type_, rules, index))
            rules = replace(rules, statistics=False)
            for node, (name, nullable, _) in zip(nodes[1:], described[1:], strict=True):
                parts.append(FlatColumn(name, nullable, node, rules, index))
        return tops + parts

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
            self._group.keep_orders(batch)
            while fitted.num_rows:
                take = min(fitted.num_rows, self._group_rows - self._pending_rows)
                self._pending.append(fitted[:take])
                self._pending_rows += take
                fitted = fitted[take:]
                if self._pending_rows == self._group_rows:
                    self._write_group()

    def _write_group(self, *, last: bool = False) -> None:
        tops = []
        for index, field in enumerate(self.schema):
            parts = [batch.column(index) for batch in self._pending]
            try:
                tops.append(parts[0] if len(parts) == 1 else pa.concat_arrays(parts))
            except pa.ArrowInvalid as error:
                raise TooLarge(
                    f"column {field.name!r}: {self._pending_rows} rows together exceed 2 GiB ({error}); "
                    "write with a smaller group_rows"
                ) from error
        flat, cuts = shredded(tops, self._types, self._page_blocks)
        chunks, hidden = self._group.write(flat, cuts, self._pending_rows)
        self._settle()
        if last:  # there is nothing to encode meanwhile
            self._write_chunks(chunks, hidden)
        else:
            self._written = self._behind.submit(self._write_chunks, chunks, hidden)
        self._rows += self._pending_rows
        self._pending, self._pending_rows = [], 0

    def _settle(self) -> None:
        """Wait until the last row group is written; raises what kept it from being so."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _write_chunks(self, chunks: list[Encoded], hidden: pa.Array | None) -> None:
        for index, encoded in enumerate(chunks):
            self._write_chunk(index, encoded)
        if hidden is not None:
            self._write_chunk(len(self._columns), self._hidden.write(hidden))
        else:
            self._stored[-1].chunks.append(None)
        if self._off - self._synced >= SYNC_BYTES:
            # What is on disk by then need not be waited for when the file is closed.
            self._file.flush()
            file = self._file.fileno()
            durable.sync_file(file)
            self._synced = self._off

    def _write_chunk(self, index: int, encoded: Encoded) -> None:
        self._pad(layout.ALIGN_BYTES)
        start, dictionary = self._off, 0
        stored = self._stored[index]
        if encoded.entries is not None:
            dictionary = self._put_entries(index, *encoded.entries)
        first_row = 0
        for part in encoded.pages:
            off, slot, used, digest = self._put_slot(part.body)
            blocks = -(-part.n_rows // layout.BLOCK_ROWS)
            stored.pages += layout.PAGE_FIELDS.pack(
                off, slot, used, first_row, part.n_rows, blocks, 0, part.null_count, digest
            )
            if part.statistics is not None:
                stored.statistics += part.statistics
            first_row += part.n_rows
        stored.chunks.append((start, self._off - start, len(encoded.pages), dictionary, encoded.null_count))
        stored.nulls += encoded.null_count
        stored.item_nulls |= encoded.item_nulls
        if encoded.report is not None:
            stored.report = encoded.report if stored.report is None else stored.report + encoded.report

    def _put_entries(self, index: int, body: bytes, n_entries: int, flags: int = 0) -> int:
        """Write a dictionary; the number of its DICT row, counting from 1."""
        off, slot, used, digest = self._put_slot(body)
        self._dicts += layout.DICT_FIELDS.pack(off, slot, used, n_entries, index, flags, 0, digest)
        return len(self._dicts) // layout.DICT_FIELDS.size

    def _put_slot(self, body: bytes) -> tuple[int, int, int, bytes]:
        """Write nonce and body into a slot of whole alignment units: offset, slot and used length, hash.

        The rest of the slot is zero.
        """
        used = layout.NONCE_BYTES + len(body)
        if used >= 2**32 - layout.ALIGN_BYTES:
            raise TooLarge(
                f"{self.path}: a page of {used} bytes exceeds 4 GiB; split its rows into smaller values"
            )
        nonce = self._entropy.take(layout.NONCE_BYTES)
        self._pad(layout.ALIGN_BYTES)
        off, slot = (
            self._off,
            aligned(used + (RESERVE_BYTES + used // RESERVE if self._profile.in_place else 0)),
        )
        digest = blake3(nonce).update(body).digest(length=layout.HASH_BYTES)
        self._put(nonce)
        self._put(body)
        self._put(bytes(slot - used))
        return off, slot, used, digest

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._behind.shutdown()
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> Written:
        """Write the rest and the footer, and sync the file."""
        if self._pending_rows:
            self._write_group(last=True)
        self._settle()
        self._behind.shutdown()
        self._write_file_entries()
        self._header = replace(self._header, required_features=self._features())
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
        trailer, slots = layout.sealed(self._header.pack(), unrooted, levels[-1])
        self._put(footer)
        self._pad(layout.ALIGN_BYTES)
        self._put(tree)
        self._pad(slot)
        self._put(slots)
        # What a reader must know of the file is known only now; until here its header promises less than it holds, but
        # without a trailer it is no file.
        self._file.seek(0)
        self._file.write(self._header.pack())
        self._file.flush()
        durable.sync_file(self._file.fileno())
        self._file.close()
        return Written(self._rows, self._off, self._header.uuid.hex(), 0, trailer.root.hex())

    def _features(self) -> int:
        """What a reader must know to read the file."""
        return (
            layout.SMALL_LEAVES
            | layout.FILE_DICTIONARIES * any(stored.dictionary is not None for stored in self._stored)
            | layout.NESTED * (len(self._columns) > len(self._types))
            | layout.QUANTISED * any(stored.report is not None for stored in self._stored)
            | layout.FOLLOWING * bool(self._group.follows)
            | layout.CLUSTERED_LISTS * bool(self._group.clustered)
        )

    def _write_file_entries(self) -> None:
        """The dictionaries that columns have for the whole file, known only now."""
        for index, column in enumerate(self._group.writers):
            if column.file_entries is not None and column.file_entries.n_entries:
                entries = column.file_entries.entries()
                row = self._put_entries(index, column.entries_body(entries), len(entries), flags=1)
                self._stored[index].dictionary = row - 1

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
        group = self._group
        contents = Contents(
            self._rows,
            self._group_rows,
            len(self._types),
            self._columns,
            self._stored if group.clustered else self._stored[:-1],
            bytes(self._dicts),
            {"profile": self._profile.name},
            self._erase_key,
            frozenset(self._personal),
            group.clustered or frozenset(),
            group.follows,
        )
        return footer_sections(contents, self._header.hash_seed)


def _profile(given: str | Profile) -> Profile:
    if isinstance(given, Profile):
        return given
    if given not in PROFILES:
        raise ValueError(f"expected a profile of {', '.join(PROFILES)}, got {given!r}")
    return PROFILES[given]
