"""One page: up to a few blocks of 1,024 rows of one column as a nonce, a stream table and encoded streams.

The writer hands in Arrow arrays, the reader gets Arrow arrays; between them lie flat streams without nulls that the
encodings know. Nulls are a validity stream plus values of the valid rows only, lists are lengths plus items, strings
are lengths plus bytes or codes into the chunk's dictionary, which is itself stored like a page. Layout: ``FORMAT.md``
section 4. Hashes are checked by the reader before it calls ``decode``; what is checked here is that streams agree with
each other and claim no more memory than the bytes present can justify.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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
from headrace.storage.select import choose

VALIDITY, LENGTHS, VALUES, BYTES, CODES, ITEM_VALIDITY, ITEM_LENGTHS = 1, 2, 3, 4, 5, 6, 7
NO_NULLS, BITMAP, ALL_NULL = 0, 1, 2

HEAD = struct.Struct("<IBBHII")
STREAM = struct.Struct("<BBHIII")
MAX_STREAMS = 16
# A page may decode to this much whatever its size, and beyond that to so many times its stored bytes: more is taken
# for an attempt to exhaust memory. The writer splits pages, or stores them plain, so that it never comes near.
FREE_BYTES = 16 << 20
EXPANSION = 1024

_PLAIN, _CODES = BY_ID[1], BY_ID[dictionary_encoding.Dictionary.id]
_Array = NDArray[Any]


@dataclass(frozen=True)
class Entries:
    """A chunk's dictionary: ``values`` for fixed-width leaves (numpy), or Arrow strings or binary."""

    values: Any
    stored_bytes: int = 0


@dataclass(frozen=True)
class Stream:
    """One stream of a page, encoded."""

    role: int
    encoding: int
    n_values: int
    payload: bytes


def _flat(role: int, values: _Array, plain: bool = False) -> Stream:
    encoding = _PLAIN if plain else choose(values)
    return Stream(role, encoding.id, len(values), encoding.encode(values))


def _code_stream(codes: NDArray[np.uint32]) -> Stream:
    # A frame of reference above zero would leave code 0, "erased", without a representation.
    best = choose(codes)
    encoding = best if best.name in ("constant", "rle") else _CODES
    return Stream(CODES, encoding.id, len(codes), encoding.encode(codes))


def leaf_streams(
    array: pa.Array, leaf: Leaf, codes: NDArray[np.uint32] | None, *, items: bool, plain: bool = False
) -> list[Stream]:
    """The streams of leaf values without nulls: codes if the chunk has a dictionary, else values or lengths and bytes."""
    if codes is not None:
        return [_code_stream(codes)]
    if leaf.dtype is not None:
        return [_flat(VALUES, arrays.numbers(array, leaf.dtype), plain)]
    lengths, text = arrays.text(array)
    # Text is stored as it is: bit-packing saves an eighth of ASCII and would cost a decoder on every read.
    return [_flat(ITEM_LENGTHS if items else LENGTHS, lengths), _flat(BYTES, text, plain=True)]


def assemble(nonce: bytes, n_rows: int, validity: int, n_items: int, streams: list[Stream]) -> bytes:
    """Nonce, head, stream table and payloads, each payload aligned."""
    off = NONCE_BYTES + HEAD.size + STREAM.size * len(streams)
    table, body = [], []
    for stream in streams:
        start = aligned(off, STREAM_ALIGN_BYTES)
        table.append(
            STREAM.pack(stream.role, 0, stream.encoding, start, len(stream.payload), stream.n_values)
        )
        body += [bytes(start - off), stream.payload]
        off = start + len(stream.payload)
    return b"".join([nonce, HEAD.pack(n_rows, validity, 0, len(streams), n_items, 0), *table, *body])


def encode(array: pa.Array, type_: ColumnType, codes: NDArray[np.uint32] | None, nonce: bytes) -> bytes:
    """One page.

    Args:
        array: the page's rows, of ``type_.arrow``; slices are fine.
        codes: uint32, dictionary codes of the page's valid leaf values in order, or None without a dictionary.
        nonce: 16 bytes that salt the page's hash.
    """
    page = _encode(array, type_, codes, nonce, plain=False)
    if array.nbytes > FREE_BYTES and array.nbytes > len(page) * EXPANSION:
        return _encode(array, type_, None, nonce, plain=True)
    return page


def _encode(
    array: pa.Array, type_: ColumnType, codes: NDArray[np.uint32] | None, nonce: bytes, *, plain: bool
) -> bytes:
    n, nulls = len(array), array.null_count
    validity = NO_NULLS if not nulls else ALL_NULL if nulls == n else BITMAP
    streams: list[Stream] = []
    if validity == BITMAP:
        streams.append(_flat(VALIDITY, arrays.validity(array)))
    if validity == ALL_NULL:
        return assemble(nonce, n, validity, 0, streams)
    valid = array.drop_null() if nulls else array
    if not type_.is_list:
        streams += leaf_streams(valid, type_.leaf, codes, items=False, plain=plain)
        return assemble(nonce, n, validity, 0, streams)
    streams.append(_flat(LENGTHS, arrays.list_lengths(valid)))
    items = valid.flatten()
    n_items = len(items)
    if items.null_count:
        streams.append(_flat(ITEM_VALIDITY, arrays.validity(items)))
        items = items.drop_null()
    streams += leaf_streams(items, type_.leaf, codes, items=True, plain=plain)
    return assemble(nonce, n, validity, n_items, streams)


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


def encode_entries(values: pa.Array | _Array, leaf: Leaf, nonce: bytes) -> bytes:
    """A dictionary's entries as a page: one row per entry, codes counting from 1."""
    streams = (
        [_flat(VALUES, np.asarray(values))]
        if leaf.dtype is not None
        else leaf_streams(values, leaf, None, items=False)
    )
    return assemble(nonce, len(values), NO_NULLS, 0, streams)


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
