"""One page's head and stream table, checked, and its streams, decoded one by one when asked for.

``page_read`` makes arrays of them. What is checked here is that streams lie within the page and claim no more memory than
the bytes present can justify, and to which dictionary codes refer; that streams agree with each other is checked by whoever decodes them. Layout: ``FORMAT.md`` section 4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import BY_ID, RESERVED_IDS, CorruptStream, Encoding
from headrace.storage.encodings.dictionary import Dictionary, decode_values, look_up
from headrace.storage.errors import CorruptPage, TooLarge, UnsupportedFeature
from headrace.storage.footer import PageRow
from headrace.storage.layout import NONCE_BYTES, STREAM_ALIGN_BYTES
from headrace.storage.logical import ColumnType
from headrace.storage.page import (
    ALL_NULL,
    BYTES,
    CODES,
    EXPANSION,
    FILE_DICTIONARY,
    FREE_BYTES,
    HEAD,
    ITEM_LENGTHS,
    ITEM_VALIDITY,
    LENGTHS,
    MAX_STREAMS,
    OLDEST_FIRST,
    SEQ_KEEP,
    SEQ_LITERALS,
    SEQ_MODE,
    SEQ_NEW,
    SEQ_SKIP,
    STREAM,
    VALIDITY,
    VALUES,
    VALUES_HIGH,
)

if TYPE_CHECKING:
    from headrace.storage.as_stored import StoredAs

KNOWN_ROLES = frozenset(
    {VALIDITY, LENGTHS, VALUES, BYTES, CODES, ITEM_VALIDITY, ITEM_LENGTHS}
    | {SEQ_MODE, SEQ_NEW, SEQ_KEEP, SEQ_SKIP, SEQ_LITERALS, VALUES_HIGH}
)
_FLAT_ROLES = frozenset({LENGTHS, VALUES, BYTES})  # no page of sequences has one
_NUMBERS = frozenset({VALUES, SEQ_LITERALS})
_FEW_BYTES = 1 << 18
"""Of text, which numpy gathers with 16 bytes of scratch for each while nobody has imported ``pyarrow.compute``: Arrow's ``take``
would, and that is a third of all that Arrow imports."""
_TEXT = (pa.string(), pa.binary())
FIXED_HEAD_BYTES = NONCE_BYTES + HEAD.size
HEAD_BYTES = FIXED_HEAD_BYTES + MAX_STREAMS * STREAM.size
Fail = Callable[[str, object, object], NoReturn]


def page_limit(stored: int, dictionary_bytes: int) -> int:
    """What a page of so many stored bytes may decode to."""
    return max(FREE_BYTES, EXPANSION * (stored + dictionary_bytes))


def justified(n_bytes: int, memory_bytes: int, stored: Sequence[int]) -> int:
    """``n_bytes``, if rows that must be decoded together may take so much memory.

    Raises:
        TooLarge: they take more than was granted, and their columns' stored bytes do not justify it.
    """
    if n_bytes > memory_bytes and n_bytes > EXPANSION * sum(stored):
        raise TooLarge(
            f"{sum(stored)} stored bytes of {len(stored)} columns become {n_bytes} in memory, expected at most {EXPANSION} "
            f"times as many, or memory_bytes={memory_bytes}; read fewer columns at once, or grant more if you trust the file"
        )
    return n_bytes


class Place(NamedTuple):
    """Where a page lies, for errors; page -1 is a dictionary."""

    file: str
    column: str
    page: int
    offset: int

    def fail(self, what: str, expected: object, got: object) -> NoReturn:
        """Raise what a damaged page is reported with."""
        raise CorruptPage(
            self.file, self.column, self.page, what, offset=self.offset, expected=expected, got=got
        )

    def __str__(self) -> str:
        return f"{self.file}: page {self.page} of column {self.column!r}"


class Page:
    """One page's head and stream table, checked against its bytes; streams are decoded when asked for.

    Args:
        data: the page's used bytes, nonce included, whose hash was checked.
        n_rows: how many rows (or entries) the footer says it has.
        place: for errors.
        dictionary_bytes: stored bytes of the dictionary that its codes refer to.
        stored_as: how values come out unconverted, if they do.
    """

    __slots__ = (
        "cap",
        "data",
        "flags",
        "limit",
        "n_items",
        "n_rows",
        "place",
        "stored_as",
        "streams",
        "unused",
        "validity",
    )

    def __init__(
        self,
        data: bytes | memoryview,
        n_rows: int,
        place: Place,
        dictionary_bytes: int = 0,
        stored_as: StoredAs | None = None,
    ) -> None:
        self.data, self.place, self.stored_as = np.frombuffer(data, np.uint8), place, stored_as
        size = len(data)
        if size < FIXED_HEAD_BYTES:
            place.fail("page head", f"at least {FIXED_HEAD_BYTES} bytes", size)
        self.n_rows, self.validity, self.flags, n_streams, self.n_items, self.cap = HEAD.unpack_from(
            data, NONCE_BYTES
        )
        if n_streams > MAX_STREAMS or FIXED_HEAD_BYTES + n_streams * STREAM.size > size:
            place.fail("stream count", f"at most {MAX_STREAMS} within {size} bytes", n_streams)
        self.limit = page_limit(size, dictionary_bytes)
        streams: dict[int, tuple[int, int, int, int, int]] = {}
        roles = 0
        table = data[FIXED_HEAD_BYTES : FIXED_HEAD_BYTES + n_streams * STREAM.size]
        for role, more, encoding, off, length, count in STREAM.iter_unpack(table):
            if role not in KNOWN_ROLES or more & ~(role == CODES):
                raise UnsupportedFeature(
                    f"{place}: stream role {role}/{more} needs a newer reader; update headrace"
                )
            if role in streams or off % STREAM_ALIGN_BYTES or off + length > size:
                place.fail(
                    f"extent of stream {role}", f"once, aligned, within {size} bytes", f"{off} + {length}"
                )
            streams[role] = (encoding, off, length, count, more)
            roles |= 1 << role
        self.streams, self.unused = streams, roles
        if (self.flags or self.cap) and (
            self.flags & ~OLDEST_FIRST or not streams.keys().isdisjoint(_FLAT_ROLES)
        ):
            raise UnsupportedFeature(
                f"{place}: page flags {self.flags}/{self.cap} need a newer reader; update headrace"
            )
        self.claim("rows", n_rows)
        if self.n_rows != n_rows or self.validity > ALL_NULL:
            place.fail("page head", f"{n_rows} rows", f"{self.n_rows}, validity kind {self.validity}")

    def claim(self, what: str, n_bytes: int) -> None:
        """Refuse before memory is taken that the page's bytes cannot justify."""
        if n_bytes > self.limit:
            self.place.fail(what, f"at most {self.limit} bytes", n_bytes)

    def count(self, role: int) -> int:
        """Values that a stream claims to have; 0 if there is none."""
        found = self.streams.get(role)
        return found[3] if found is not None else 0

    def _payload(self, role: int, n: int, itemsize: int) -> tuple[Encoding, NDArray[np.uint8]]:
        found = self.streams.get(role)
        if found is None:
            self.place.fail("streams", f"one of role {role}", sorted(self.streams))
        number, off, length, count, _ = found
        if count != n:
            self.place.fail(f"values in stream {role}", n, count)
        encoding = BY_ID.get(number)
        if encoding is None:
            name = RESERVED_IDS.get(number, "not known to this reader")
            raise UnsupportedFeature(f"{self.place}: needs encoding {number} ({name}); update headrace")
        if n * itemsize > self.limit:
            self.claim(f"size of stream {role}", n * itemsize)
        self.unused &= ~(1 << role)
        return encoding, self.data[off : off + length]

    def into(self, role: int, out: NDArray[Any]) -> None:
        """Decode the stream of one role into ``out``, which has as many values as it must."""
        self._decode(role, *self._payload(role, len(out), out.itemsize), out)

    def _decode(self, role: int, encoding: Encoding, payload: NDArray[np.uint8], out: NDArray[Any]) -> None:
        try:
            if self.stored_as is not None and role in _NUMBERS:
                self.claim("values", len(out) * self.stored_as.dtype.itemsize)
                self.stored_as.decode(encoding, payload, out)
            else:
                encoding.decode(payload, out)
        except (CorruptStream, TypeError) as error:
            self.place.fail(f"stream {role}", "a decodable payload", error)

    def stream(self, role: int, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
        """Decode the stream of one role into n values of dtype."""
        encoding, payload = self._payload(role, n, dtype.itemsize)
        out = np.empty(n, dtype)
        self._decode(role, encoding, payload, out)
        return out

    def take(self, role: int, n: int, at: NDArray[np.int64], out: NDArray[Any]) -> int:
        """Decode the values at some positions of a stream of n values; returns the blocks that were decoded."""
        encoding, payload = self._payload(role, n, out.itemsize)
        try:
            if self.stored_as is not None and role in _NUMBERS:
                self.claim("values", n * self.stored_as.dtype.itemsize)
                return self.stored_as.take(encoding, payload, n, at, out)
            return encoding.take(payload, n, at, out)
        except (CorruptStream, TypeError) as error:
            self.place.fail(f"stream {role}", "a decodable payload", error)

    def gather(self, entries: Entries, out: NDArray[Any]) -> NDArray[np.uint32] | None:
        """Fill ``out`` with the numbers that a page's codes name; its codes if some of them are 0, erased."""
        encoding, payload = self._payload(CODES, len(out), 4)
        try:
            if encoding.id == Dictionary.id and not decode_values(payload, entries.table, out):
                return None
            codes = np.empty(len(out), np.uint32)
            encoding.decode(payload, codes)
            look_up(entries.table, codes, out)
        except (CorruptStream, TypeError) as error:
            self.place.fail("dictionary codes", f"decodable ones up to {len(entries)}", error)
        return None if not len(codes) or codes.min() else codes

    def done(self) -> None:
        """Every stream must have had a meaning."""
        if self.unused:
            used = [role for role in sorted(self.streams) if not self.unused >> role & 1]
            self.place.fail("streams", used, sorted(self.streams))


@dataclass(frozen=True, slots=True)
class Entries:
    """A dictionary: ``values`` for fixed-width leaves (numpy), or Arrow strings or binary."""

    values: Any
    stored_bytes: int = 0
    longest: int = 0
    """Bytes of the longest string."""
    table: Any = None
    """Of numbers: their bits behind a zero, so that codes are indices."""

    def __len__(self) -> int:
        return len(self.values)

    def text_at(self, rows: NDArray[np.int32], valid: NDArray[np.bool_] | None) -> pa.Array:
        """The strings, or what else is no number, at ``rows`` as an Arrow array, null where ``valid`` is False."""
        few = 0 < self.longest * len(rows) <= _FEW_BYTES  # an empty dictionary has nothing to gather from
        if few and "pyarrow.compute" not in sys.modules and self.values.type in _TEXT:
            return arrays.few_texts(self.values, rows, valid)
        return self.values.take(arrays.indices(rows, valid))


@dataclass(frozen=True, slots=True)
class Dictionaries:
    """What codes may refer to: the chunk's entries, and the file's for the whole column."""

    chunk: Entries | None = None
    file: Entries | None = None

    def of(self, page: Page) -> Entries:
        """Those that a page's codes refer to."""
        shared = page.streams[CODES][4] & FILE_DICTIONARY
        entries = self.file if shared else self.chunk
        if entries is None:
            page.place.fail("codes", "a dictionary of the " + ("file" if shared else "chunk"), "none")
        return entries


NO_DICTIONARIES = Dictionaries()


def decoded_bytes(head: bytes, row: PageRow, type_: ColumnType, dictionaries: Dictionaries) -> int:
    """Bytes of Arrow memory that a page will take at most; no claim of its head is believed beyond its limit.

    Args:
        head: the page's first `HEAD_BYTES`, not needed for numbers that are not in lists.
        row: what the footer says of it.
        type_: the column's.
        dictionaries: what its codes refer to, not needed for numbers.
    """
    leaf, n, fixed, text = type_.leaf, row.n_rows, 0, 0
    if type_.size is not None:  # of which nulls take as much room as others
        return n // 8 + n * type_.null_bytes
    streams: dict[int, int] = {}
    if len(head) >= FIXED_HEAD_BYTES:
        _, _, _, n_streams, n_items, _ = HEAD.unpack_from(head, NONCE_BYTES)
        table = head[FIXED_HEAD_BYTES : FIXED_HEAD_BYTES + n_streams * STREAM.size]
        whole = len(table) // STREAM.size * STREAM.size
        streams = {one[0]: one[5] for one in STREAM.iter_unpack(table[:whole])}
        text = streams.get(BYTES, 0)
        if type_.is_list:
            fixed, n = 4 * n, n_items
    if leaf.dtype is not None:
        width = leaf.dtype.itemsize
    elif leaf.words or leaf.fixed_bytes:
        width = 16 if leaf.words else leaf.width
    else:
        width = 4
        if CODES in streams:
            kept = (dictionaries.chunk, dictionaries.file)
            width += max([entries.longest for entries in kept if entries is not None], default=0)
    limit = page_limit(
        row.used_len, sum(one.stored_bytes for one in (dictionaries.chunk, dictionaries.file) if one)
    )
    return fixed + n // 8 + min(n * width, limit) + min(text, limit)
