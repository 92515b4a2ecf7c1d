"""Small files, every hash right, whose numbers claim far more rows, bytes, copies or depth than their bytes justify.

Each family yields files that a reader must refuse before it takes the memory or the time that is claimed. ``bombing``
reads them under a limit. What is claimed is drawn from a seed, so that a soak tries others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headrace.storage import layout, page, typecode
from headrace.storage.chunk import Encoded, PageBody
from headrace.storage.encodings import ALL, BY_ID
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.page import (
    ALL_NULL,
    BITMAP,
    BYTES,
    CODES,
    ITEM_LENGTHS,
    ITEM_VALIDITY,
    LENGTHS,
    NO_NULLS,
    SEQ_KEEP,
    SEQ_LITERALS,
    SEQ_MODE,
    SEQ_NEW,
    SEQ_SKIP,
    VALIDITY,
    VALUES,
    VALUES_HIGH,
    Stream,
)
from headrace.storage.writer import Writer

from .forge import Forged

ROWS = 100
CONST, PLAIN, BITPACK, PFOR, DICTIONARY, RLE, DELTA, ZIGZAG, MAINLY, FSST, ZSTD = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    14,
    15,
    30,
)


class Bomb(NamedTuple):
    """What the file claims, and the file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class _Page:
    """A page as a hostile writer lays it out."""

    streams: Sequence[Stream] = ()
    n_items: int = 0
    validity: int = NO_NULLS
    n_rows: int = ROWS
    cap: int = 0


class _Planted:
    """Stands where a column's writer does and hands out pages of its own."""

    file_entries = None

    def __init__(self, honest: Any, pages: Sequence[_Page], entries: tuple[bytes, int] | None) -> None:
        self.type, self.rules = honest.type, honest.rules
        self._pages, self._entries = pages, entries

    def write(self, array: pa.Array, cuts: Any = None) -> Encoded:
        del array, cuts
        bodies = [
            PageBody(
                page.assemble(one.n_rows, one.validity, one.n_items, one.streams, cap=one.cap),
                min(one.n_rows, ROWS),
                0,
            )
            for one in self._pages
        ]
        return Encoded(bodies, 0, self._entries)

    def write_sequence(self, array: pa.Array, slides: Any) -> Encoded:
        del slides
        return self.write(array)


class Maker:
    """Makes files in one folder; ``claims`` are the numbers that they lie with."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._numbers = folder, count()
        rng = np.random.default_rng(seed)
        self.claims = [int(2**bits) + int(rng.integers(0, 2**bits // 3)) for bits in (25, 28)]
        self.claims += [2**31 - 1 - int(rng.integers(0, 9)), 2**32 - 1 - int(rng.integers(0, 9))]
        self.rng = rng

    def path(self) -> Path:
        """A name for a file that is not there yet."""
        return self._folder / f"{next(self._numbers)}"

    def file(
        self,
        type_: pa.DataType,
        pages: dict[int, Sequence[_Page]],
        entries: dict[int, tuple[bytes, int]] | None = None,
    ) -> bytes:
        """A file of `ROWS` empty rows of a type, with other pages in some of the columns that it is cut into."""
        path = self.path()
        with Writer(path, pa.schema([("x", type_)]), seed=1, group_rows=65_536) as writer:
            for index in {*pages, *(entries or {})}:
                honest = writer._group.writers[index]
                writer._group.writers[index] = _Planted(
                    honest, pages.get(index, ()), (entries or {}).get(index)
                )  # type: ignore[call-overload]
            writer.write(pa.record_batch([pa.array([None] * ROWS, type_)], names=["x"]))
            writer.close()
        forged = Forged(path.read_bytes())
        path.unlink()
        rows = forged.rows(layout.PAGE)
        for chunk in forged.rows(layout.CHUNK):
            first = int(chunk["first_page"])
            at = 0
            for row in rows[first : first + int(chunk["n_pages"])]:
                head = int(row["off"]) + layout.NONCE_BYTES
                row["first_row"] = at % 2**32
                row["n_rows"] = int.from_bytes(forged.raw[head : head + 4], "little")  # what the page says
                at += int(row["n_rows"])
        return forged.bytes()

    def one(self, type_: pa.DataType, *streams: Stream, **head: int) -> bytes:
        """A file whose only page has these streams."""
        return self.file(type_, {0: [_Page(streams, **head)]})


def const(role: int, n: int, value: int = 0) -> Stream:
    """A stream of n equal values, in 16 bytes."""
    return Stream(role, CONST, n % 2**32, struct.pack("<IIQ", n % 2**32, 0, value % 2**64))


def payloads() -> dict[str, tuple[int, bytes]]:
    """An honest payload of 100 values of each encoding that says how many they are."""
    floats, flags = np.arange(ROWS) / 4, np.arange(ROWS) % 7 == 0
    values = {"alp": floats, "bitmap": flags, "sparse_bool": flags, "fsst": np.arange(ROWS, dtype=np.uint8)}
    found = {}
    for encoding in ALL:
        stream = values.get(encoding.name, np.arange(ROWS, dtype=np.int64) // 3)
        if encoding.name in ("cast", "int8", "plain", "varint", "zigzag"):
            continue
        if encoding.name in ("constant", "mainly_constant"):
            stream = np.zeros(ROWS, np.int64)
        if encoding.name == "dictionary":
            stream = np.ones(ROWS, np.uint32)
        if encoding.name == "byte_split":
            stream = floats
        found[encoding.name] = (encoding.id, encoding.encode(stream))
    return found


def counts_of_streams(make: Maker) -> Iterator[Bomb]:
    """Streams that claim more values than the page has rows."""
    for name, (number, payload) in payloads().items():
        for claim in make.claims[1:3]:
            for stated in (payload, claim.to_bytes(4, "little") + payload[4:]):
                yield Bomb(
                    f"{name}: a stream of {claim}",
                    make.one(pa.int64(), Stream(VALUES, number, claim, stated)),
                )


_COUNTS = {"pfor": 16, "rle": 16, "byte_split": 8, "alp": 16, "sparse_bool": 16, "mainly_constant": 8}
_COUNTS |= {"fsst": 8, "zstd": 16, "delta": 16}
"""Bytes of a payload's head that hold counts and lengths."""


def counts_in_payloads(make: Maker) -> Iterator[Bomb]:
    """Payloads whose every number in turn claims more; the page is honest, or has as many items as it may."""
    for name, (number, payload) in payloads().items():
        type_ = {"bitmap": pa.bool_(), "sparse_bool": pa.bool_(), "fsst": pa.string(), "alp": pa.float64()}
        arrow = type_.get(name, pa.float64() if name == "byte_split" else pa.int64())
        for at in range(0, _COUNTS.get(name, 4), 4):
            claim = make.claims[at // 4 % 4]
            stated = payload[:at] + claim.to_bytes(4, "little") + payload[at + 4 :]
            streams = [Stream(VALUES, number, ROWS, stated)]
            if arrow == pa.string():
                streams = [const(LENGTHS, ROWS, 1), Stream(BYTES, number, ROWS, stated)]
            yield Bomb(f"{name}: {claim} at byte {at}", make.one(arrow, *streams))


def items(make: Maker) -> Iterator[Bomb]:
    """Lists of more items than sixteen mebibytes hold, in a few bytes."""
    each = [claim // ROWS for claim in make.claims]
    for size in each:
        n = ROWS * size
        yield Bomb(
            f"{n} items",
            make.one(pa.list_(pa.int64()), const(LENGTHS, ROWS, size), const(VALUES, n), n_items=n % 2**32),
        )
        yield Bomb(
            f"{n} items that are null",
            make.one(
                pa.list_(pa.int64()),
                const(LENGTHS, ROWS, size),
                const(ITEM_VALIDITY, n),
                Stream(VALUES, PLAIN, 0, b""),
                n_items=n % 2**32,
            ),
        )
        yield Bomb(
            f"{n} bit-packed items of no bits",
            make.one(
                pa.list_(pa.int32()),
                const(LENGTHS, ROWS, size),
                Stream(VALUES, BITPACK, n, struct.pack("<IBBH", n, 0, 4, 0)),
                n_items=n,
            ),
        )
        runs = BY_ID[RLE].encode(np.zeros(4, np.int64))
        yield Bomb(
            f"a run of {n} items",
            make.one(
                pa.list_(pa.int64()),
                const(LENGTHS, ROWS, size),
                Stream(VALUES, RLE, n, n.to_bytes(4, "little") + runs[4:]),
                n_items=n,
            ),
        )
        yield Bomb(
            f"{n} codes of no bits",
            make.file(
                pa.list_(pa.int64()),
                {
                    0: [
                        _Page(
                            [
                                const(LENGTHS, ROWS, size),
                                Stream(CODES, DICTIONARY, n, struct.pack("<IBBH", n, 0, 4, 0)),
                            ],
                            n,
                        )
                    ]
                },
                {0: (page.assemble(1, NO_NULLS, 0, [const(VALUES, 1)]), 1)},
            ),
        )
    for lengths in (2**32 - 1, 2**31, 2**25):
        yield Bomb(
            f"lengths of {lengths} each",
            make.one(pa.list_(pa.int8()), const(LENGTHS, ROWS, lengths), const(VALUES, 0)),
        )


def text(make: Maker) -> Iterator[Bomb]:
    """Strings of more bytes than are there, one by one, within lists, and by code."""
    for claim in make.claims:
        size = claim // ROWS
        n = ROWS * size
        yield Bomb(
            f"{n} bytes of text", make.one(pa.string(), const(LENGTHS, ROWS, size), const(BYTES, n, 97))
        )
        yield Bomb(
            f"{n} bytes of text in lists",
            make.one(
                pa.list_(pa.string()),
                const(LENGTHS, ROWS, 1),
                const(ITEM_LENGTHS, ROWS, size),
                const(BYTES, n, 97),
                n_items=ROWS,
            ),
        )
        entry = page.assemble(1, NO_NULLS, 0, [const(LENGTHS, 1, claim), const(BYTES, claim, 97)])
        codes = [Stream(CODES, DICTIONARY, ROWS, BY_ID[DICTIONARY].encode(np.ones(ROWS, np.uint32)))]
        yield Bomb(f"an entry of {claim} bytes", make.file(pa.string(), {0: [_Page(codes)]}, {0: (entry, 1)}))
        few = page.assemble(1, NO_NULLS, 0, [const(LENGTHS, 1, 2**23), const(BYTES, 2**23, 97)])
        yield Bomb(
            f"an entry of {2**23} bytes, {ROWS} times",
            make.file(pa.string(), {0: [_Page(codes)]}, {0: (few, 1)}),
        )
        many = page.assemble(claim, NO_NULLS, 0, [const(VALUES, claim)])
        yield Bomb(f"{claim} entries", make.file(pa.int64(), {0: [_Page(codes)]}, {0: (many, claim)}))
        none = page.assemble(claim, NO_NULLS, 0, [const(LENGTHS, claim), const(BYTES, 0)])
        yield Bomb(f"{claim} empty entries", make.file(pa.string(), {0: [_Page(codes)]}, {0: (none, claim)}))
        symbol = struct.pack("<IIB", n, ROWS, 1) + b"\x08aaaaaaaa"
        child = struct.pack("<BBHI", CONST, 0, 0, 16) + const(0, ROWS).payload
        fsst = symbol + bytes(-len(symbol) % 8) + child
        yield Bomb(
            f"symbols for {n} bytes",
            make.one(pa.string(), const(LENGTHS, ROWS, size), Stream(BYTES, FSST, n, fsst)),
        )


def frame(stated: int, content: bytes, window_log: int | None = None) -> bytes:
    """A zstd frame that states any content size; with a window, not of a single segment."""
    body = content[content.index(b"\x28\xb5\x2f\xfd") + 4 :]
    descriptor = body[0]
    skipped = (
        1
        + (not descriptor >> 5 & 1)
        + (1, 2, 4, 8)[descriptor >> 6] * bool(descriptor >> 5 & 1 or descriptor >> 6)
    )
    if window_log is None:
        return b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", stated) + body[skipped:]
    return (
        b"\x28\xb5\x2f\xfd"
        + bytes([0b11000000, (window_log - 10) << 3])
        + struct.pack("<Q", stated)
        + body[skipped:]
    )


def frames(make: Maker) -> Iterator[Bomb]:
    """Compressed payloads that claim to hold, or do hold, far more than the stream's values."""
    zeros = pa.Codec("zstd").compress(bytes(1 << 26), asbytes=True)
    small = pa.Codec("zstd").compress(bytes(800), asbytes=True)
    for claim in make.claims:
        head = struct.pack("<BBHI", PLAIN, 0, 0, claim)
        for stated in (claim, 800):
            payload = head + frame(stated, small)
            yield Bomb(
                f"a frame of {stated} for {claim}", make.one(pa.int64(), Stream(VALUES, ZSTD, ROWS, payload))
            )
        within = struct.pack("<BBHI", ZSTD, 0, 0, claim) + frame(claim, small)
        outer = struct.pack("<BBHI", ZSTD, 0, 0, len(within)) + pa.Codec("zstd").compress(
            within, asbytes=True
        )
        yield Bomb(f"a frame in a frame, of {claim}", make.one(pa.int64(), Stream(VALUES, ZSTD, ROWS, outer)))
    for stated in (800, 1 << 26):
        payload = struct.pack("<BBHI", PLAIN, 0, 0, 800) + frame(stated, zeros)
        yield Bomb(
            f"64 MiB in a frame of {stated}", make.one(pa.int64(), Stream(VALUES, ZSTD, ROWS, payload))
        )
    for log in (27, 31, 41):
        payload = struct.pack("<BBHI", PLAIN, 0, 0, 800) + frame(801, small, log)
        yield Bomb(f"a window of 2^{log} bytes", make.one(pa.int64(), Stream(VALUES, ZSTD, ROWS, payload)))


def sequences(make: Maker) -> Iterator[Bomb]:
    """Histories that multiply: long copies of one item, more copies than items, copies that take nothing."""
    lists = pa.list_(pa.int64())

    def page_of(
        mode: int, new: int, skip: int, keep: int, literals: int, n_items: int, cap: int, rows: int = ROWS
    ) -> bytes:
        first = np.full(rows, mode, np.uint32)
        first[0] = 0
        modes = Stream(SEQ_MODE, MAINLY, rows, BY_ID[MAINLY].encode(first))
        copies = mode * (rows - 1)
        streams = [
            modes,
            const(SEQ_NEW, copies + 1 + (rows - 1 if not mode else 0), new),
            const(SEQ_SKIP, copies, skip),
            const(SEQ_KEEP, copies, keep),
            const(SEQ_LITERALS, literals) if literals else Stream(SEQ_LITERALS, PLAIN, 0, b""),
        ]
        return make.one(lists, *streams, n_items=n_items % 2**32, cap=cap % 2**32)

    for claim in make.claims:
        size = claim // ROWS
        yield Bomb(f"{size} items kept by each row", page_of(1, size, 0, 0, ROWS * size, ROWS * size, size))
        yield Bomb(f"{claim} new items", page_of(1, claim, 0, 0, claim, claim, claim))
        yield Bomb(f"{claim} skipped", page_of(1, 1, claim, 0, ROWS, ROWS, 1))
        yield Bomb(f"{claim} kept of one", page_of(2, 1, 0, claim, ROWS, claim, claim))
        yield Bomb(f"rows of {claim} copies", page_of(claim, 0, 0, 0, 0, 0, 0))
        yield Bomb(
            f"{claim // ROWS} copies a row that do nothing",
            page_of(min(claim // ROWS, 40_000), 0, 0, 0, 0, 0, 0),
        )
        yield Bomb(f"a longest row of {claim}", page_of(1, 1, 0, 0, 2 * ROWS, claim, claim))
    for new in (1, 3000):
        n = sum(min(new * row, 2**20) for row in range(1, ROWS + 1))
        yield Bomb(
            f"{ROWS} rows of up to {new * ROWS} items, and one too many",
            page_of(1, new, 0, 0, new * ROWS, n + 1, 2**20),
        )


def nested(make: Maker) -> Iterator[Bomb]:
    """Parts of nested columns that claim rows of their own, and encodings and types too deep in each other."""
    lists = pa.list_(pa.list_(pa.int64()))
    outer = [_Page([const(VALUES, ROWS, 1)])]
    for claim in make.claims:
        size = claim // ROWS
        many = [_Page([const(VALUES, ROWS, size)])]
        yield Bomb(
            f"{claim} inner rows, all null", make.file(lists, {0: many, 1: [_Page([], 0, ALL_NULL, claim)]})
        )
        inner = _Page([const(VALIDITY, claim, 1), const(LENGTHS, claim)], 0, BITMAP, claim)
        yield Bomb(f"{claim} empty inner rows", make.file(lists, {0: many, 1: [inner]}))
        yield Bomb(
            f"{claim} inner rows of nobody", make.file(lists, {0: outer, 1: [_Page([], 0, ALL_NULL, claim)]})
        )
        rows = [_Page([const(LENGTHS, size)], 0, NO_NULLS, size)] * ROWS
        yield Bomb(f"{ROWS} pages for one", make.file(lists, {0: outer, 1: rows}))
        struct_ = pa.list_(pa.struct([("a", pa.int8()), ("b", pa.string())]))
        parts = {0: many, 1: [_Page([const(VALUES, claim)], n_rows=claim)]}
        yield Bomb(f"{claim} structs", make.file(struct_, parts))
    for depth in (3, 4, 30, 1000):
        payload = np.zeros(ROWS, np.uint64).tobytes()
        number = PLAIN
        for _ in range(depth):
            payload = struct.pack("<BBHI", number, 0, 0, len(payload)) + payload + bytes(-len(payload) % 8)
            number = ZIGZAG
        yield Bomb(f"{depth + 1} encodings", make.one(pa.int64(), Stream(VALUES, ZIGZAG, ROWS, payload)))


def widths(make: Maker) -> Iterator[Bomb]:
    """Types whose parameters make a null cost memory: described by a few bytes of the footer."""
    for claim in (2**31 - 1, 2**28, 2**24):
        for type_ in (pa.list_(pa.int64(), 7777), pa.binary(7777), pa.list_(pa.string(), 7777)):
            raw = make.one(type_, validity=ALL_NULL)
            some = make.one(
                type_, const(VALIDITY, ROWS, 1), const(VALUES, 0), const(BYTES, 0), validity=BITMAP
            )
            for name, data in (("nulls", raw), ("values", some)):
                yield Bomb(f"{name} of {type_} as wide as {claim}", _widened(data, 7777, claim))
    wide = pa.list_(pa.list_(pa.int64(), 7777), 3)
    yield Bomb(
        "nulls of lists of wide lists",
        _widened(make.file(wide, {0: [_Page([], 0, ALL_NULL)]}), 7777, 2**31 - 1),
    )
    yield Bomb(
        "decimals of no bytes",
        make.one(pa.decimal128(38), const(VALUES, 2**30), const(VALUES_HIGH, 2**30)),
    )


def _widened(raw: bytes, old: int, new: int) -> bytes:
    forged = Forged(raw)
    start, length = forged.sections[layout.NAMES]
    at = bytes(forged.raw[start : start + length]).index(old.to_bytes(4, "little"))
    forged.patch(start + at, new.to_bytes(4, "little"))
    return forged.bytes()


def descriptions(make: Maker) -> Iterator[Bomb]:
    """Types that claim fields, names or depth that their description has no room for."""
    fields = pa.struct([("a", pa.int8()), ("bb", pa.list_(pa.decimal128(9, 2)))])
    raw = make.file(fields, {})
    described = typecode.write(fields)
    forged = Forged(raw)
    start, length = forged.sections[layout.NAMES]
    at = start + bytes(forged.raw[start : start + length]).index(described)
    for claim in make.claims:
        for off in (1, 6):
            forged = Forged(raw)
            forged.patch(at + off, claim.to_bytes(4, "little"))
            yield Bomb(f"a type with {claim} at byte {off}", forged.bytes())
    for nested_ in (40, 41, 42, 60):
        deep = Forged(raw)
        # A list of a list of ... as far as the description goes, and beyond.
        lists = bytes([typecode.LIST, 1]) * ((len(described) - nested_ % 3) // 2)
        deep.patch(at, (lists + described)[: len(described)])
        yield Bomb(f"a type of {len(lists) // 2} lists, {nested_}", deep.bytes())


def footers(make: Maker) -> Iterator[Bomb]:
    """Every count, offset and length of the footer and of the trailer."""
    raw = make.one(pa.int64(), const(VALUES, ROWS))
    text_ = make.file(pa.string(), {}, None)
    for section, dtype in (
        (layout.META, layout.META_ROW),
        (layout.PAGE, layout.PAGE_ROW),
        (layout.CHUNK, layout.CHUNK_ROW),
        (layout.COLUMN, layout.COLUMN_ROW),
    ):
        for name in dtype.names or ():
            width = dtype[name].itemsize
            if dtype[name].kind != "u" or width < 4 or name in _UNREAD[section]:
                continue
            for claim in (
                make.claims[2:] if width == 4 else [*make.claims[2:], 2**40 + make.claims[0], 2**63 + 64]
            ):
                forged = Forged(raw)
                row, claimed = forged.rows(section)[0], claim % 2 ** (8 * width)
                if row[name] == claimed:
                    continue  # as "no dictionary" is, for one: that file is honest
                row[name] = claimed
                yield Bomb(f"{name} of {layout.SECTION_NAMES[section]} is {claim}", forged.bytes())
    for field in ("footer_off", "footer_len", "n_sections", "tree_off", "n_rows", "file_len"):
        for claim in (make.claims[3], 2**40, 2**62):
            forged = Forged(raw)
            if field == "n_sections" and claim > 2**32 - 1:
                continue
            it = replace(forged.trailer, **{field: claim - claim % 64})
            yield Bomb(f"{field} of the trailer is {claim}", _with_trailer(forged, it))
    forged = Forged(raw)
    forged.trailer = replace(forged.trailer, n_rows=2**40)
    forged.rows(layout.META)[0]["n_rows"] = 2**40
    forged.rows(layout.META)[0]["n_groups"] = 2**24
    yield Bomb("a million million rows in groups", forged.bytes())
    del text_


_UNREAD = {
    layout.META: (),
    layout.PAGE: ("null_count",),
    layout.CHUNK: ("off", "len", "null_count"),
    layout.COLUMN: (
        "name_hash",
        "parent",
        "first_child",
        "type_param",
        "null_count",
        "param_off",
        "stats",
        "quant",
        "leader",
    ),
}
"""Of what the honest file has no use for, or what is there for other readers."""


def _with_trailer(forged: Forged, it: layout.Trailer) -> bytes:
    """The trailer with its own hash right; that the root does not match is found later than what it claims."""
    data = bytearray(forged.bytes())
    for at in (2, 1):
        off = len(data) - at * layout.TRAILER_SLOT_BYTES
        packed = it.pack()
        data[off : off + len(packed)] = packed
    return bytes(data)


def crowds(make: Maker) -> Iterator[Bomb]:
    """Many columns, each with as much in its one page as a page may decode to for nothing."""
    for n in (80, 300):
        size = 2**21 // ROWS - 1
        streams = [const(LENGTHS, ROWS, size), const(VALUES, ROWS * size)]
        crowd = _Page(streams, ROWS * size)
        lists = pa.list_(pa.int64())
        path = make.path()
        with Writer(path, pa.schema([(f"c{at}", lists) for at in range(n)]), seed=1) as writer:
            for at in range(n):
                writer._group.writers[at] = _Planted(writer._group.writers[at], [crowd], None)  # type: ignore[call-overload]
            column = pa.array([None] * ROWS, lists)
            writer.write(pa.record_batch([column] * n, names=[f"c{at}" for at in range(n)]))
            writer.close()
        yield Bomb(f"{n} columns of 16 MiB", path.read_bytes())


FAMILIES: tuple[Callable[[Maker], Iterator[Bomb]], ...] = (
    counts_of_streams,
    counts_in_payloads,
    items,
    text,
    frames,
    sequences,
    nested,
    widths,
    descriptions,
    crowds,
    footers,
)


def bombs(folder: Path, seed: int) -> Iterator[Bomb]:
    """All families' files."""
    make = Maker(folder, seed)
    for family in FAMILIES:
        yield from family(make)


__all__ = ["BLOCK_ROWS", "Bomb", "bombs"]
