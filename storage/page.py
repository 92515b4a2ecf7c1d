"""One page: up to a few blocks of 1,024 rows of one column as a nonce, a stream table and encoded streams.

The writer hands in Arrow arrays, the reader gets Arrow arrays; between them lie flat streams without nulls that the
encodings know. Nulls are a validity stream plus values of the valid rows only, lists are lengths plus items, strings
are lengths plus bytes or codes into the chunk's dictionary, which is itself stored like a page. Layout: ``FORMAT.md``
section 4. Hashes are checked by the reader before it calls ``decode``; what is checked here is that streams agree with
each other and claim no more memory than the bytes present can justify.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import BY_ID, RESERVED_IDS, CorruptStream, Encoding
from headrace.storage.encodings import dictionary as dictionary_encoding
from headrace.storage.errors import UnsupportedFeature
from headrace.storage.layout import NONCE_BYTES, STREAM_ALIGN_BYTES, aligned
from headrace.storage.logical import ColumnType, Leaf

VALIDITY, LENGTHS, VALUES, BYTES, CODES, ITEM_VALIDITY, ITEM_LENGTHS = 1, 2, 3, 4, 5, 6, 7
SEQ_MODE, SEQ_NEW, SEQ_KEEP, SEQ_SKIP, SEQ_LITERALS, VALUES_HIGH = 8, 9, 10, 11, 12, 15
FILE_DICTIONARY = 1  # of a stream
OLDEST_FIRST = 1  # of a page of sequences
NO_NULLS, BITMAP, ALL_NULL = 0, 1, 2

HEAD = struct.Struct("<IBBHII")
STREAM = struct.Struct("<BBHIII")
MAX_STREAMS = 16
# A page may decode to this much whatever its size, and beyond that to so many times its stored bytes: more is taken
# for an attempt to exhaust memory. The writer splits pages, or stores them plain, so that it never comes near.
FREE_BYTES = 16 << 20
EXPANSION = 1024

_Array = NDArray[Any]


@dataclass(frozen=True)
class Entries:
    """A chunk's dictionary: ``values`` for fixed-width leaves (numpy), or Arrow strings or binary."""

    values: Any
    stored_bytes: int = 0


@dataclass(frozen=True)
class Stream:
    """One stream of a page, encoded. ``flags``: `FILE_DICTIONARY` for codes of the column's file-wide dictionary."""

    role: int
    encoding: int
    n_values: int
    payload: bytes
    flags: int = 0


def assemble(
    n_rows: int, validity: int, n_items: int, streams: Sequence[Stream], *, flags: int = 0, cap: int = 0
) -> bytes:
    """Head, stream table and payloads, each payload aligned: a page without the nonce that comes before it."""
    off = NONCE_BYTES + HEAD.size + STREAM.size * len(streams)
    table, body = [], []
    for stream in streams:
        start = aligned(off, STREAM_ALIGN_BYTES)
        table.append(
            STREAM.pack(
                stream.role, stream.flags, stream.encoding, start, len(stream.payload), stream.n_values
            )
        )
        body += [bytes(start - off), stream.payload]
        off = start + len(stream.payload)
    return b"".join([HEAD.pack(n_rows, validity, flags, len(streams), n_items, cap), *table, *body])


class _Decoder:
    """Decodes one page's streams; ``fail(what, expected, got)`` raises with the page's place in the file."""

    def __init__(
        self,
        data: bytes,
        entries: Entries | None,
        fail: Callable[[str, object, object], NoReturn],
        where: str,
    ) -> None:
        self.data, self.entries, self.fail, self.where = np.frombuffer(data, np.uint8), entries, fail, where
        fixed = NONCE_BYTES + HEAD.size
        if len(data) < fixed:
            fail("page head", f"at least {fixed} bytes", len(data))
        self.n_rows, self.validity, flags, n_streams, self.n_items, reserved = HEAD.unpack_from(
            data, NONCE_BYTES
        )
        if flags or reserved:
            raise UnsupportedFeature(
                f"{where}: page flags {flags}/{reserved} need a newer reader; update headrace"
            )
        if n_streams > MAX_STREAMS or fixed + n_streams * STREAM.size > len(data):
            fail("stream count", f"at most {MAX_STREAMS} within {len(data)} bytes", n_streams)
        self.limit = max(FREE_BYTES, EXPANSION * (len(data) + (entries.stored_bytes if entries else 0)))
        self.streams: dict[int, tuple[int, int, int, int]] = {}
        for index in range(n_streams):
            role, more, encoding, off, length, count = STREAM.unpack_from(data, fixed + index * STREAM.size)
            if more or not VALIDITY <= role <= ITEM_LENGTHS:
                raise UnsupportedFeature(
                    f"{where}: stream role {role}/{more} needs a newer reader; update headrace"
                )
            if role in self.streams or off % STREAM_ALIGN_BYTES or off + length > len(data):
                fail(
                    f"extent of stream {role}",
                    f"once, aligned, within {len(data)} bytes",
                    f"{off} + {length}",
                )
            self.streams[role] = (encoding, off, length, count)
        self.used: set[int] = set()

    def claim(self, what: str, n_bytes: int) -> None:
        """Refuse before memory is taken that the page's bytes cannot justify."""
        if n_bytes > self.limit:
            self.fail(what, f"at most {self.limit} bytes", n_bytes)

    def stream(self, role: int, dtype: np.dtype[Any], n: int) -> _Array:
        """Decode the stream of one role into n values of dtype."""
        if role not in self.streams:
            self.fail("streams", f"one of role {role}", sorted(self.streams))
        self.used.add(role)
        number, off, length, count = self.streams[role]
        if count != n:
            self.fail(f"values in stream {role}", n, count)
        encoding: Encoding | None = BY_ID.get(number)
        if encoding is None:
            name = RESERVED_IDS.get(number, "not known to this reader")
            raise UnsupportedFeature(f"{self.where}: needs encoding {number} ({name}); update headrace")
        self.claim(f"size of stream {role}", n * dtype.itemsize)
        out = np.empty(n, dtype)
        try:
            encoding.decode(self.data[off : off + length], out)
        except (CorruptStream, TypeError) as error:
            self.fail(f"stream {role}", "a decodable payload", error)
        return out

    def mask(self, role: int, n: int) -> NDArray[np.bool_]:
        """A validity stream: bool[n], True where there is a value."""
        return self.stream(role, np.dtype(np.bool_), n)

    def leaf(
        self, leaf: Leaf, n: int, valid: NDArray[np.bool_] | None, n_all: int, *, items: bool
    ) -> pa.Array:
        """n leaf values spread over ``n_all`` slots, null where ``valid`` is False."""
        if CODES in self.streams:
            return self._coded(leaf, n, valid, n_all)
        if leaf.dtype is not None:
            return arrays.fixed(self.stream(VALUES, leaf.dtype, n), valid, n_all, leaf)
        lengths = self.stream(ITEM_LENGTHS if items else LENGTHS, np.dtype(np.uint32), n)
        total = int(lengths.sum(dtype=np.uint64))
        text = self.stream(BYTES, np.dtype(np.uint8), total)
        return self.text_array(lengths, text, valid, n_all, leaf)

    def _coded(self, leaf: Leaf, n: int, valid: NDArray[np.bool_] | None, n_all: int) -> pa.Array:
        codes = self.stream(CODES, np.dtype(np.uint32), n)
        if self.entries is None:
            self.fail("codes", "a dictionary in the chunk", "none")
        top = int(codes.max(initial=0))
        if top > len(self.entries.values):
            self.fail("dictionary code", f"at most {len(self.entries.values)}", top)
        if n and not codes.min():
            # Code 0 is an erased value: it comes back as null, never as somebody else's value.
            kept = codes > 0
            if valid is None:
                valid = kept
            else:
                valid[np.flatnonzero(valid)[~kept]] = False
            codes = codes[kept]
        if leaf.dtype is not None:
            out = np.empty(len(codes), leaf.dtype)
            dictionary_encoding.gather(self.entries.values, codes, out)
            return arrays.fixed(out, valid, n_all, leaf)
        lengths, _ = arrays.text(self.entries.values)
        self.claim("dictionary strings", int(lengths[codes - 1].sum(dtype=np.uint64)))
        rows = codes.astype(np.int32) - np.int32(1)
        if valid is not None:
            rows = arrays.spread(rows, valid, n_all)
        return self.entries.values.take(arrays.indices(rows, valid))

    def text_array(
        self, lengths: _Array, text: _Array, valid: NDArray[np.bool_] | None, n_all: int, leaf: Leaf
    ) -> pa.Array:
        """Strings or binary from lengths and bytes; text that is not UTF-8 is damage."""
        if len(text) > 2**31 - 1:
            self.fail("bytes of a page", "less than 2 GiB", len(text))
        buffers = [arrays.bitmap(valid), arrays.offsets(lengths, valid, n_all), pa.py_buffer(text)]
        array = pa.Array.from_buffers(leaf.arrow, n_all, buffers)
        if pa.types.is_string(leaf.arrow):
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                self.fail("text", "UTF-8", error)
        return array

    def done(self) -> None:
        """Every stream must have had a meaning."""
        if self.used != self.streams.keys():
            self.fail("streams", sorted(self.used), sorted(self.streams))


def decode(
    data: bytes,
    type_: ColumnType,
    n_rows: int,
    entries: Entries | None,
    fail: Callable[[str, object, object], NoReturn],
    where: str,
) -> pa.Array:
    """The page's rows as an Arrow array of ``type_.arrow``.

    Args:
        data: the page's used bytes, nonce included, whose hash was checked.
        n_rows: how many rows the footer says it has.
        entries: the chunk's dictionary, if it has one.
        fail: called with (what, expected, got) when streams contradict each other; raises ``CorruptPage``.
        where: the page's place, for the error about a feature this reader lacks.
    """
    page = _Decoder(data, entries, fail, where)
    if page.n_rows != n_rows or page.validity > ALL_NULL:
        fail("page head", f"{n_rows} rows", f"{page.n_rows}, validity kind {page.validity}")
    if page.validity == ALL_NULL:
        page.done()
        return pa.nulls(n_rows, type_.arrow)
    valid = page.mask(VALIDITY, n_rows) if page.validity == BITMAP else None
    n_valid = n_rows if valid is None else int(np.count_nonzero(valid))
    if not type_.is_list:
        array = page.leaf(type_.leaf, n_valid, valid, n_rows, items=False)
        page.done()
        return array
    lengths = page.stream(LENGTHS, np.dtype(np.uint32), n_valid)
    n_items = int(lengths.sum(dtype=np.uint64))
    if n_items != page.n_items or n_items > 2**31 - 1:
        fail("items", page.n_items, n_items)
    item_valid = page.mask(ITEM_VALIDITY, n_items) if ITEM_VALIDITY in page.streams else None
    n_present = n_items if item_valid is None else int(np.count_nonzero(item_valid))
    items = page.leaf(type_.leaf, n_present, item_valid, n_items, items=True)
    page.done()
    buffers = [arrays.bitmap(valid), arrays.offsets(lengths, valid, n_rows)]
    return pa.Array.from_buffers(type_.arrow, n_rows, buffers, children=[items])


def decode_entries(
    data: bytes, leaf: Leaf, n_entries: int, fail: Callable[[str, object, object], NoReturn], where: str
) -> Entries:
    """The reverse of ``encode_entries``."""
    page = _Decoder(data, None, fail, where)
    if page.n_rows != n_entries or page.validity != NO_NULLS:
        fail("dictionary head", f"{n_entries} entries", page.n_rows)
    if leaf.dtype is not None:
        values: Any = page.stream(VALUES, leaf.dtype, n_entries)
    else:
        values = page.leaf(leaf, n_entries, None, n_entries, items=False)
    page.done()
    return Entries(values, len(data))
