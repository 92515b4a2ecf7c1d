"""Pages of one column to one Arrow array: head and stream table checked, streams decoded into their place in it.

The reader hands in the bytes of pages whose hashes it has checked, in row order; what comes out is a single array whose
buffers were allocated once, from Arrow's pool, and filled page by page, so nothing is joined afterwards. Streams hold
no nulls: values are decoded where they belong if a page has none, else spread over its valid rows. What is checked here
is that streams agree with each other and claim no more memory than the bytes present can justify. Layout: ``FORMAT.md``
section 4. Lists that slide are decoded in ``views``; single rows in ``take``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import BY_ID, RESERVED_IDS, CorruptStream, Encoding
from headrace.storage.encodings import dictionary as dictionary_encoding
from headrace.storage.errors import CorruptPage, UnsupportedFeature
from headrace.storage.footer import PageRow
from headrace.storage.layout import NONCE_BYTES, STREAM_ALIGN_BYTES
from headrace.storage.logical import ColumnType, Leaf
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
    NO_NULLS,
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

KNOWN_ROLES = frozenset(
    {VALIDITY, LENGTHS, VALUES, BYTES, CODES, ITEM_VALIDITY, ITEM_LENGTHS}
    | {SEQ_MODE, SEQ_NEW, SEQ_KEEP, SEQ_SKIP, SEQ_LITERALS, VALUES_HIGH}
)
_FLAT_ROLES = frozenset({LENGTHS, VALUES, BYTES})  # no page of sequences has one
FIXED_BYTES, WORDS = 17, 20  # storage types

_FIXED_SIZE = NONCE_BYTES + HEAD.size
HEAD_BYTES = _FIXED_SIZE + MAX_STREAMS * STREAM.size
_U8, _U32, _U64, _BOOL = (np.dtype(name) for name in ("u1", "u4", "u8", "?"))
_MAX_OFFSET = 2**31 - 1
Mask = NDArray[np.bool_]
Fail = Callable[[str, object, object], NoReturn]


@dataclass(frozen=True, slots=True)
class Entries:
    """A dictionary: ``values`` for fixed-width leaves (numpy), or Arrow strings or binary."""

    values: Any
    stored_bytes: int = 0
    longest: int = 0
    """Bytes of the longest string."""

    def __len__(self) -> int:
        return len(self.values)


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
    """

    __slots__ = (
        "cap",
        "data",
        "flags",
        "limit",
        "n_items",
        "n_rows",
        "place",
        "streams",
        "unused",
        "validity",
    )

    def __init__(
        self, data: bytes | memoryview, n_rows: int, place: Place, dictionary_bytes: int = 0
    ) -> None:
        self.data, self.place = np.frombuffer(data, np.uint8), place
        size = len(data)
        if size < _FIXED_SIZE:
            place.fail("page head", f"at least {_FIXED_SIZE} bytes", size)
        self.n_rows, self.validity, self.flags, n_streams, self.n_items, self.cap = HEAD.unpack_from(
            data, NONCE_BYTES
        )
        if n_streams > MAX_STREAMS or _FIXED_SIZE + n_streams * STREAM.size > size:
            place.fail("stream count", f"at most {MAX_STREAMS} within {size} bytes", n_streams)
        self.limit = page_limit(size, dictionary_bytes)
        streams: dict[int, tuple[int, int, int, int, int]] = {}
        roles = 0
        table = data[_FIXED_SIZE : _FIXED_SIZE + n_streams * STREAM.size]
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
            return encoding.take(payload, n, at, out)
        except (CorruptStream, TypeError) as error:
            self.place.fail(f"stream {role}", "a decodable payload", error)

    def done(self) -> None:
        """Every stream must have had a meaning."""
        if self.unused:
            used = [role for role in sorted(self.streams) if not self.unused >> role & 1]
            self.place.fail("streams", used, sorted(self.streams))


class Part(NamedTuple):
    """A page's share of a flat array: slots ``first`` up to ``last``, of which ``n_valid`` have values."""

    page: Page
    first: int
    last: int
    n_valid: int


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


def decode_pages(pages: Sequence[Page], type_: ColumnType, dictionaries: Dictionaries) -> pa.Array:
    """Consecutive pages, none of which holds a sequence, as one array of ``type_``'s plain Arrow type."""
    parts, valid = page_rows(pages)
    if type_.is_list:
        array = _lists(parts, valid, type_, dictionaries)
    else:
        array = leaf_array(parts, valid, type_.leaf, dictionaries, LENGTHS)
    for page_ in pages:
        page_.done()
    return array


def page_rows(pages: Sequence[Page]) -> tuple[list[Part], Mask | None]:
    """The pages' rows, and which of them are not null if any is."""
    valid: Mask | None = None
    parts, at = [], 0
    for page_ in pages:
        n = n_valid = page_.n_rows
        if page_.validity:
            if valid is None:
                valid = np.ones(sum([one.n_rows for one in pages]), np.bool_)
            mask = valid[at : at + n]
            n_valid = row_validity(page_, mask)
        parts.append(Part(page_, at, at + n, n_valid))
        at += n
    return parts, valid


def row_validity(page_: Page, mask: Mask) -> int:
    """Fill a page's mask of rows that are not null; how many they are."""
    if page_.validity == NO_NULLS:
        mask[:] = True
        return len(mask)
    if page_.validity == ALL_NULL:
        mask[:] = False
        return 0
    page_.into(VALIDITY, mask)
    return int(np.count_nonzero(mask))


def has_values(part: Part) -> bool:
    """Whether the page has value streams at all: one whose rows are all null has none."""
    return int(part.page.validity) != ALL_NULL


def _lists(parts: list[Part], valid: Mask | None, type_: ColumnType, dictionaries: Dictionaries) -> pa.Array:
    n_all = parts[-1].last if parts else 0
    size = type_.size
    buffer = pa.allocate_buffer(4 * (n_all + 1))
    ends = np.frombuffer(buffer, np.int32)
    ends[0] = 0
    items, n_items = list[Part](), 0
    item_valid: Mask | None = None
    masks: list[tuple[int, Page]] = []
    for part in parts:
        page_, lengths = part.page, ends[part.first + 1 : part.last + 1]
        n = list_lengths(part, valid, lengths.view(np.uint32), size)
        if n_items + n > _MAX_OFFSET:
            page_.place.fail("items", f"at most {_MAX_OFFSET}", n_items + n)
        if ITEM_VALIDITY in page_.streams:
            page_.claim("items", n)
            masks.append((len(items), page_))
        items.append(Part(page_, n_items, n_items + n, n))
        n_items += n
    np.cumsum(ends, out=ends)
    if masks:
        item_valid = np.ones(n_items, np.bool_)
        for at, page_ in masks:
            first, last = items[at].first, items[at].last
            mask = item_valid[first:last]
            page_.into(ITEM_VALIDITY, mask)
            items[at] = Part(page_, first, last, int(np.count_nonzero(mask)))
    child = leaf_array(items, item_valid, type_.leaf, dictionaries, ITEM_LENGTHS)
    return pa.Array.from_buffers(type_.plain, n_all, [arrays.bitmap(valid), buffer], children=[child])


def list_lengths(part: Part, valid: Mask | None, out: NDArray[np.uint32], size: int | None) -> int:
    """Fill the lengths of a page's lists, zero for null ones; how many items they have together."""
    page_ = part.page
    if not has_values(part):
        out[:] = 0
        return 0
    if size is not None:
        dense = np.full(part.n_valid, size, np.uint32)
        n_items = size * part.n_valid
    elif part.n_valid == len(out):
        page_.into(LENGTHS, out)
        dense = out
        n_items = int(out.sum(dtype=np.uint64))
    else:
        dense = page_.stream(LENGTHS, _U32, part.n_valid)
        n_items = int(dense.sum(dtype=np.uint64))
    if n_items != page_.n_items or n_items > _MAX_OFFSET:
        page_.place.fail("items", page_.n_items, n_items)
    if dense is not out:
        spread(dense, valid, part, out)
    return n_items


def spread(dense: NDArray[Any], valid: Mask | None, part: Part, out: NDArray[Any]) -> None:
    """Place dense values where a page's slots are valid, zeros elsewhere."""
    if valid is None or len(dense) == len(out):
        out[:] = dense
        return
    out[:] = 0
    out[valid[part.first : part.last]] = dense


def leaf_array(
    parts: list[Part], valid: Mask | None, leaf: Leaf, dictionaries: Dictionaries, lengths_role: int
) -> pa.Array:
    """Flat values of consecutive pages: rows, or the items of lists."""
    n_all = parts[-1].last if parts else 0
    coded = [CODES in part.page.streams for part in parts]
    if any(coded):
        if leaf.dtype is None and not all(
            one or not has_values(part) for one, part in zip(coded, parts, strict=True)
        ):
            return _mixed(parts, valid, leaf, dictionaries, lengths_role)
        if leaf.dtype is None:
            return _coded_text(parts, valid, leaf, dictionaries, n_all)
    if leaf.dtype is not None:
        return _numbers(parts, valid, leaf, dictionaries, n_all)
    if leaf.storage == WORDS:
        return _words(parts, valid, leaf, n_all)
    if leaf.storage == FIXED_BYTES:
        return _fixed_bytes(parts, valid, leaf, n_all)
    return _text(parts, valid, leaf, n_all, lengths_role)


def _mixed(
    parts: list[Part], valid: Mask | None, leaf: Leaf, dictionaries: Dictionaries, lengths_role: int
) -> pa.Array:
    """Pages some of which hold codes and some text: decoded one by one and joined."""
    found = []
    for part in parts:
        one = Part(part.page, 0, part.last - part.first, part.n_valid)
        mask = None if valid is None else valid[part.first : part.last]
        found.append(leaf_array([one], mask, leaf, dictionaries, lengths_role))
    return pa.concat_arrays(found)


def _numbers(
    parts: list[Part], valid: Mask | None, leaf: Leaf, dictionaries: Dictionaries, n_all: int
) -> pa.Array:
    assert leaf.dtype is not None
    dtype = leaf.dtype
    for part in parts:
        part.page.claim("values", (part.last - part.first) * dtype.itemsize)
    is_bool = dtype == _BOOL
    buffer = pa.allocate_buffer(n_all * dtype.itemsize) if not is_bool else None
    out = np.frombuffer(buffer, dtype) if buffer is not None and n_all else np.empty(n_all, dtype)
    for part in parts:
        target = out[part.first : part.last]
        if CODES in part.page.streams:
            valid = _gather(part, valid, dictionaries, target, n_all)
        elif part.n_valid == len(target):
            if len(target) or VALUES in part.page.streams:
                part.page.into(VALUES, target)
        elif has_values(part):
            spread(part.page.stream(VALUES, dtype, part.n_valid), valid, part, target)
        else:
            target[:] = 0
    data = buffer if buffer is not None else pa.py_buffer(np.packbits(out, bitorder="little"))
    return pa.Array.from_buffers(leaf.arrow, n_all, [arrays.bitmap(valid), data])


def _gather(
    part: Part, valid: Mask | None, dictionaries: Dictionaries, out: NDArray[Any], n_all: int
) -> Mask | None:
    """Fill a page's numbers from its codes; the array's validity, in which erased values are null."""
    codes, valid = _codes(part, valid, dictionaries, n_all)
    entries = dictionaries.of(part.page)
    try:
        dictionary_encoding.gather(entries.values, codes, out)
    except CorruptStream as error:
        part.page.place.fail("dictionary code", f"at most {len(entries)}", error)
    return valid


def _codes(
    part: Part, valid: Mask | None, dictionaries: Dictionaries, n_all: int
) -> tuple[NDArray[np.uint32], Mask | None]:
    """A page's codes, zero in null slots, and the array's validity.

    Code 0 is an erased value: it comes back as null, never as somebody else's value.
    """
    page_, n = part.page, part.last - part.first
    codes = page_.stream(CODES, _U32, part.n_valid)
    entries = dictionaries.of(page_)
    top = int(codes.max(initial=0))
    if top > len(entries):
        page_.place.fail("dictionary code", f"at most {len(entries)}", top)
    erased = part.n_valid > 0 and not codes.min()
    if part.n_valid != n:
        wide = np.zeros(n, np.uint32)
        spread(codes, valid, part, wide)
        codes = wide
    if erased:
        if valid is None:
            valid = np.ones(n_all, np.bool_)
        valid[part.first : part.last] = codes > 0
    return codes, valid


def _coded_text(
    parts: list[Part], valid: Mask | None, leaf: Leaf, dictionaries: Dictionaries, n_all: int
) -> pa.Array:
    """Strings by code: all of one dictionary in one take, else page by page."""
    if not any(CODES in part.page.streams for part in parts):
        return pa.nulls(n_all, leaf.arrow)
    shared = {part.page.streams[CODES][4] for part in parts if CODES in part.page.streams}
    if len(shared) > 1:
        return _mixed(parts, valid, leaf, dictionaries, 0)
    rows = np.zeros(n_all, np.int32)
    entries = None
    for part in parts:
        if not has_values(part):
            continue
        codes, valid = _codes(part, valid, dictionaries, n_all)
        entries = dictionaries.of(part.page)
        if entries.longest * part.n_valid > part.page.limit:
            ends, _ = arrays.text(entries.values)
            part.page.claim("dictionary strings", int(ends[codes[codes > 0] - 1].sum(dtype=np.uint64)))
        np.subtract(codes.view(np.int32), np.int32(1), out=rows[part.first : part.last])
    assert entries is not None
    if valid is not None:
        rows[~valid] = 0
        if not len(entries):
            return pa.nulls(n_all, leaf.arrow)
    return entries.values.take(arrays.indices(rows, valid))


def _text(parts: list[Part], valid: Mask | None, leaf: Leaf, n_all: int, lengths_role: int) -> pa.Array:
    """Strings or binary from lengths and bytes; text that is not UTF-8 is damage."""
    offsets = pa.allocate_buffer(4 * (n_all + 1))
    ends = np.frombuffer(offsets, np.int32)
    ends[0] = 0
    sizes, total = [], 0
    for part in parts:
        out = ends[part.first + 1 : part.last + 1].view(np.uint32)
        n_bytes = 0
        if has_values(part):
            if part.n_valid == len(out):
                part.page.into(lengths_role, out)
            else:
                spread(part.page.stream(lengths_role, _U32, part.n_valid), valid, part, out)
            n_bytes = int(out.sum(dtype=np.uint64))
            part.page.claim("text", n_bytes)
            if part.page.count(BYTES) != n_bytes:
                part.page.place.fail("values in stream 4", n_bytes, part.page.count(BYTES))
        else:
            out[:] = 0
        if total + n_bytes > _MAX_OFFSET:
            part.page.place.fail("bytes of a page", "less than 2 GiB", total + n_bytes)
        sizes.append(n_bytes)
        total += n_bytes
    np.cumsum(ends, out=ends)
    data = pa.allocate_buffer(total)
    text = np.frombuffer(data, np.uint8) if total else np.empty(0, np.uint8)
    at = 0
    for part, n_bytes in zip(parts, sizes, strict=True):
        if has_values(part):
            part.page.into(BYTES, text[at : at + n_bytes])
        at += n_bytes
    array = pa.Array.from_buffers(leaf.arrow, n_all, [arrays.bitmap(valid), offsets, data])
    if pa.types.is_string(leaf.arrow):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            _blame(parts, ends, text, error)
    return array


def _blame(parts: list[Part], ends: NDArray[np.int32], text: NDArray[np.uint8], error: Exception) -> NoReturn:
    """Name the first page whose text is not UTF-8."""
    for part in parts:
        cut = np.ascontiguousarray(ends[part.first : part.last + 1])
        buffers = [None, pa.py_buffer(cut), pa.py_buffer(text)]
        try:
            pa.Array.from_buffers(pa.string(), part.last - part.first, buffers).validate(full=True)
        except pa.ArrowInvalid as found:
            part.page.place.fail("text", "UTF-8", found)
    parts[0].page.place.fail("text", "UTF-8", error)


def _fixed_bytes(parts: list[Part], valid: Mask | None, leaf: Leaf, n_all: int) -> pa.Array:
    width = leaf.width
    for part in parts:
        part.page.claim("values", (part.last - part.first) * width)
    buffer = pa.allocate_buffer(n_all * width)
    out = np.frombuffer(buffer, np.uint8) if n_all * width else np.empty(0, np.uint8)
    rows = out.reshape(n_all, width)
    for part in parts:
        target = rows[part.first : part.last]
        if not has_values(part):
            target[:] = 0
        elif part.n_valid == part.last - part.first:
            part.page.into(BYTES, out[part.first * width : part.last * width])
        else:
            dense = part.page.stream(BYTES, _U8, part.n_valid * width).reshape(part.n_valid, width)
            spread(dense, valid, part, target)
    return pa.Array.from_buffers(leaf.arrow, n_all, [arrays.bitmap(valid), buffer])


def _words(parts: list[Part], valid: Mask | None, leaf: Leaf, n_all: int) -> pa.Array:
    for part in parts:
        part.page.claim("values", (part.last - part.first) * 16)
    buffer = pa.allocate_buffer(n_all * 16)
    words = (np.frombuffer(buffer, np.uint64) if n_all else np.empty(0, np.uint64)).reshape(n_all, 2)
    for part in parts:
        target = words[part.first : part.last]
        if not has_values(part):
            target[:] = 0
            continue
        low = part.page.stream(VALUES, _U64, part.n_valid)
        high = part.page.stream(VALUES_HIGH, np.dtype("i8"), part.n_valid).view(np.uint64)
        spread(low, valid, part, target[:, 0])
        spread(high, valid, part, target[:, 1])
    return pa.Array.from_buffers(leaf.arrow, n_all, [arrays.bitmap(valid), buffer])


def decoded_bytes(head: bytes, row: PageRow, type_: ColumnType, dictionaries: Dictionaries) -> int:
    """Bytes of Arrow memory that a page will take at most; no claim of its head is believed beyond its limit.

    Args:
        head: the page's first `HEAD_BYTES`, not needed for numbers that are not in lists.
        row: what the footer says of it.
        type_: the column's.
        dictionaries: what its codes refer to, not needed for numbers.
    """
    leaf, n, fixed, text = type_.leaf, row.n_rows, 0, 0
    streams: dict[int, int] = {}
    if len(head) >= _FIXED_SIZE:
        _, _, _, n_streams, n_items, _ = HEAD.unpack_from(head, NONCE_BYTES)
        table = head[_FIXED_SIZE : _FIXED_SIZE + n_streams * STREAM.size]
        whole = len(table) // STREAM.size * STREAM.size
        streams = {one[0]: one[5] for one in STREAM.iter_unpack(table[:whole])}
        text = streams.get(BYTES, 0)
        if type_.is_list:
            fixed, n = 4 * n, n_items
    if leaf.dtype is not None:
        width = leaf.dtype.itemsize
    elif leaf.storage in (WORDS, FIXED_BYTES):
        width = 16 if leaf.storage == WORDS else leaf.width
    else:
        width = 4
        if CODES in streams:
            kept = (dictionaries.chunk, dictionaries.file)
            width += max([entries.longest for entries in kept if entries is not None], default=0)
    limit = page_limit(
        row.used_len, sum(one.stored_bytes for one in (dictionaries.chunk, dictionaries.file) if one)
    )
    return fixed + n // 8 + min(n * width, limit) + min(text, limit)


def page_limit(stored: int, dictionary_bytes: int) -> int:
    """What a page of so many stored bytes may decode to."""
    return max(FREE_BYTES, EXPANSION * (stored + dictionary_bytes))


def decode_entries(data: bytes, leaf: Leaf, n_entries: int, place: Place) -> Entries:
    """A dictionary, which is stored like a page whose rows are its entries, without nulls."""
    stored = Page(data, n_entries, place)
    if stored.validity != NO_NULLS:
        place.fail("dictionary head", "entries without nulls", f"validity kind {stored.validity}")
    if leaf.dtype is not None:
        entries = Entries(stored.stream(VALUES, leaf.dtype, n_entries), len(data))
    else:
        values = leaf_array([Part(stored, 0, n_entries, n_entries)], None, leaf, NO_DICTIONARIES, LENGTHS)
        longest = leaf.width or 16
        if leaf.storage not in (WORDS, FIXED_BYTES):
            longest = int(arrays.text(values)[0].max(initial=0))
        entries = Entries(values, len(data), longest)
    stored.done()
    return entries
