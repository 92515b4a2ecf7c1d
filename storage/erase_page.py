"""One page without some rows' values: stream by stream, over the same bytes where the encoding allows it.

Between ``erase_file``, which knows which rows must go, and the encodings' ``erase``. Values, codes, text and the new items of
sequences are blanked; how many values there are (nulls, lengths, the shapes of edits) is kept, since other rows' places
depend on it. A stream whose encoding has no place for a single value is decoded, blanked and encoded again, and the page is
assembled anew; where that needs more than its slot, the page cannot be erased in place (``CannotEraseInPlace``).

What a page still tells after this, beside those counts: which encodings and widths it was given when the rows were there.
``canonical`` leaves not even that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, select
from headrace.storage.encodings import BY_ID
from headrace.storage.encodings.bitpack import BitPack
from headrace.storage.encodings.cast import Cast
from headrace.storage.encodings.contract import Array, Encoding
from headrace.storage.encodings.errors import CannotErase
from headrace.storage.encodings.int8 import Int8
from headrace.storage.encodings.pfor import PFOR
from headrace.storage.errors import CannotEraseInPlace
from headrace.storage.layout import NONCE_BYTES
from headrace.storage.logical import ColumnType, Leaf
from headrace.storage.page import (
    ALL_NULL,
    BYTES,
    CODES,
    ITEM_LENGTHS,
    ITEM_VALIDITY,
    LENGTHS,
    SEQ_LITERALS,
    SEQ_MODE,
    SEQ_NEW,
    VALUES,
    VALUES_HIGH,
    Stream,
    assemble,
)
from headrace.storage.page_rows import row_validity
from headrace.storage.page_streams import Page
from headrace.storage.views import is_sequence

Rows = NDArray[np.int64]
_U4, _U8 = np.dtype("u4"), np.dtype("u1")
_SMALL = tuple(replace(select.PROFILES[name], ns_per_byte=10_000.0) for name in ("balanced", "size"))
"""What is encoded again must fit where it was."""
_WHOLE_IDS = frozenset(
    number for number, one in BY_ID.items() if one.name in ("plain", "bitmap", "dictionary")
)
"""Encodings in which an erased value leaves nothing, neither where it lay nor in what its neighbours are stored by."""
_OF_PARTS = ("byte_split", "alp", "zigzag")
"""Encodings of which a value has its place in each part, if all parts are as long as the stream."""


def blank(
    page: Page,
    rows: Rows,
    type_: ColumnType,
    nonce: bytes,
    slot_len: int,
    leader: Page | None = None,
) -> bytes:
    """The page's used bytes, nonce included, without the values of some of its rows.

    Args:
        page: read and checked; it may be a dictionary's.
        rows: int64[k], ascending, as the page stores them; rows erased before may be among them.
        type_: the column's, or a node's of a nested one, whose counts stay.
        nonce: 16 new bytes.
        slot_len: bytes there are.
        leader: the page whose edits this one follows, if it does.

    Raises:
        CannotEraseInPlace: it does not fit.
        CorruptPage: the page's streams contradict each other.
    """
    places = places_of(page, rows, type_, leader)
    streams = []
    for role, (number, off, length, count, more) in page.streams.items():
        payload = page.data[off : off + length].copy()
        at = places.get(role)
        if at is not None and len(at):
            encoding = BY_ID[number]
            dtype = _dtype(role, type_.leaf)
            if not _erase_there(encoding, payload, count, dtype, at):
                number, again = _encoded_again(page, role, encoding, payload, count, dtype, at)
                payload = np.frombuffer(again, np.uint8)
        streams.append(Stream(role, number, count, payload.tobytes(), more))
    body = assemble(page.n_rows, page.validity, page.n_items, streams, flags=page.flags, cap=page.cap)
    # Zeros behind the streams stand for the room of nulls (FORMAT.md, section 4).
    body += bytes(max(0, len(page.data) - NONCE_BYTES - len(body)))
    if NONCE_BYTES + len(body) > slot_len:
        raise CannotEraseInPlace(
            f"{page.place}: needs {NONCE_BYTES + len(body)} bytes without the erased values, has {slot_len}; write the file anew"
        )
    return nonce + body


def _erase_there(encoding: Encoding, payload: Array, n: int, dtype: np.dtype[Any], at: Rows) -> bool:
    """Overwrite values where they lie; False where the encoding, or what it rests on, would still tell of them."""
    if not _leaves_nothing(encoding, payload, n, dtype):
        return False
    if encoding.name in _OF_PARTS:
        for _, number, part, count, kind in encoding.parts(payload, n, dtype):
            _erase_there(BY_ID[number], part, count, kind, at)
        return True
    try:
        encoding.erase(payload, n, dtype, at)
    except CannotErase:
        return False
    if isinstance(encoding, BitPack | PFOR):
        encoding.rebase(payload, n, dtype, at)
    return True


def _leaves_nothing(encoding: Encoding, payload: Array, n: int, dtype: np.dtype[Any]) -> bool:
    if encoding.name in _OF_PARTS:
        parts = encoding.parts(payload, n, dtype)
        return all(
            count == n and (number in _WHOLE_IDS or isinstance(BY_ID[number], BitPack | PFOR))
            for _, number, _, count, _ in parts
        )
    return encoding.id in _WHOLE_IDS or isinstance(encoding, BitPack | PFOR | Int8 | Cast)


def _encoded_again(
    page: Page,
    role: int,
    encoding: Encoding,
    payload: Array,
    n: int,
    dtype: np.dtype[Any],
    at: Rows,
) -> tuple[int, bytes]:
    if isinstance(encoding, Int8 | Cast):
        return encoding.id, _codes_again(page, encoding, payload, n, dtype, at)
    values = np.empty(n, dtype)
    encoding.decode(payload, values)
    kept = np.ones(n, np.bool_)
    kept[at] = False
    if encoding.name == "constant" and kept.any():
        return encoding.id, payload.tobytes()  # it is what all others have
    values = _filled(values, at, kept, text=role == BYTES)
    kind = {CODES: "codes", BYTES: "text"}.get(role, "values")
    plan = select.choose(values, _SMALL[0], kind=kind, only=encoding.name)
    alike = select.encode(plan, values)  # it fitted before, and is found sooner than the smallest of all
    return alike if len(alike[1]) <= len(payload) else _smallest(values, kind=kind)


def _codes_again(
    page: Page, encoding: Int8 | Cast, payload: Array, n: int, dtype: np.dtype[Any], at: Rows
) -> bytes:
    """Quantised values: what they are stored as is blanked, so that nobody else's is rounded a second time."""
    codes = np.array(encoding.stored(payload, n, dtype)[0 if isinstance(encoding, Int8) else 1])
    kept = np.ones(n, np.bool_)
    kept[at] = False
    try:
        return encoding.with_codes(payload, dtype, _filled(codes, at, kept, text=False), at, _child)
    except CannotErase as error:
        raise CannotEraseInPlace(f"{page.place}: {error}; write the file anew") from error


def _child(inner: Array) -> tuple[int, bytes]:
    return _smallest(inner, nested=True)


def _smallest(values: Array, *, kind: str = "values", nested: bool = False) -> tuple[int, bytes]:
    tried = [
        select.encode(select.choose(values, small, kind=kind, nested=nested), values) for small in _SMALL
    ]
    return min(tried, key=lambda one: len(one[1]))


def _filled(values: Array, at: Rows, kept: NDArray[np.bool_], *, text: bool) -> Array:
    """The stream with what its neighbours hold in the blanked places, so that it packs as well as before.

    A value that is copied so is one of the page's other rows; when those go, all places blanked before are blanked anew.
    """
    if not kept.any():
        values[:] = 0
    elif text and values[kept].max() < 128:
        edges = np.flatnonzero(np.diff(np.concatenate(([False], ~kept, [False])).astype(np.int8)))
        for first, last in edges.reshape(-1, 2).tolist():
            beside = values[:first] if first else values[last:]
            values[first:last] = np.resize(
                beside[max(0, 2 * first - last) :] if first else beside, last - first
            )
    elif text:  # a letter, since a byte of a longer character would be no text
        letters = np.bincount(values[kept], minlength=256)[:128]
        values[at] = letters.argmax() if letters.any() else 0
    else:
        known = np.flatnonzero(kept)
        values[at] = values[known[np.maximum(np.searchsorted(known, at) - 1, 0)]]
    return values


def _dtype(role: int, leaf: Leaf) -> np.dtype[Any]:
    if role == CODES:
        return _U4
    if role == BYTES:
        return _U8
    if role == VALUES_HIGH:
        return np.dtype("i8")
    return np.dtype("u8") if leaf.words else leaf.dtype or _U8


def places_of(page: Page, rows: Rows, type_: ColumnType, leader: Page | None) -> Mapping[int, Rows]:
    """By role, the positions of what belongs to these rows; roles that only count are left out."""
    if page.validity == ALL_NULL or not len(rows):
        return {}
    mask = np.empty(page.n_rows, np.bool_)
    n_valid = row_validity(page, mask)
    at = (np.cumsum(mask) - 1)[rows[mask[rows]]]
    if type_.is_nested:
        return {}
    if not type_.is_list:
        return _leaves(page, n_valid, at, type_.leaf, LENGTHS)
    if type_.size is None and is_sequence(page):
        items = _literals(page if SEQ_MODE in page.streams else leader or page, at)
        return {role: items for role in (SEQ_LITERALS, CODES) if role in page.streams}
    if type_.size is not None:
        lengths = np.full(n_valid, type_.size, np.uint32)
    else:
        lengths = page.stream(LENGTHS, _U4, n_valid)
    items = runs(lengths, at)
    n_items = page.n_items
    if ITEM_VALIDITY in page.streams:
        present = page.stream(ITEM_VALIDITY, np.dtype("?"), n_items)
        items = (np.cumsum(present) - 1)[items[present[items]]]
        n_items = int(np.count_nonzero(present))
    return _leaves(page, n_items, items, type_.leaf, ITEM_LENGTHS)


def _leaves(page: Page, n: int, at: Rows, leaf: Leaf, lengths_role: int) -> Mapping[int, Rows]:
    if CODES in page.streams:
        return {CODES: at}
    if leaf.dtype is not None or leaf.words:
        return {VALUES: at, VALUES_HIGH: at}
    if leaf.fixed_bytes:
        return {BYTES: runs(np.full(n, leaf.width, np.uint32), at)}
    return {BYTES: runs(page.stream(lengths_role, _U4, n), at)}


def _literals(control: Page, at: Rows) -> Rows:
    """Positions of the items that rows bring; of a chain that goes, no other row refers to them."""
    n_valid = control.count(SEQ_MODE)
    mode = control.stream(SEQ_MODE, _U4, n_valid)
    copies = np.maximum(mode, 1).astype(np.int64)
    new = control.stream(SEQ_NEW, _U4, int(copies.sum()))
    ends = np.cumsum(new, dtype=np.int64)
    last = np.cumsum(copies) - 1
    per_row = np.diff(np.concatenate(([0], ends[last]))) if n_valid else np.zeros(0, np.int64)
    return runs(per_row.astype(np.uint32), at)


def runs(lengths: NDArray[np.uint32], at: Rows) -> Rows:
    """Every position of the items of some of many runs that lie one behind the other.

    >>> runs(np.array([2, 0, 3], np.uint32), np.array([0, 2])).tolist()
    [0, 1, 2, 3, 4]
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    sizes = lengths[at].astype(np.int64)
    return arrays.positions(ends[at] - sizes, sizes)


def child_rows(page: Page, rows: Rows, type_: ColumnType) -> Rows:
    """Of a page of a nested node: the rows of its children's pages that belong to some of its rows."""
    mask = np.zeros(page.n_rows, np.bool_)
    n_valid = row_validity(page, mask)
    at = (np.cumsum(mask) - 1)[rows[mask[rows]]]
    if pa.types.is_struct(type_.arrow):
        return at
    if type_.size is not None:
        return runs(np.full(n_valid, type_.size, np.uint32), at)
    return runs(page.stream(VALUES, _U4, n_valid), at) if n_valid else at
