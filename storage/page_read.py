"""Pages of one column to one Arrow array: head and stream table checked, streams decoded into their place in it.

The reader hands in the bytes of pages whose hashes it has checked, in row order; what comes out is a single array whose
buffers were allocated once, from Arrow's pool, and filled page by page, so nothing is joined afterwards. Streams hold
no nulls: values are decoded where they belong if a page has none, else spread over its valid rows. What is checked here
is that streams agree with each other and claim no more memory than the bytes present can justify. Layout: ``FORMAT.md``
section 4. Lists that slide are decoded in ``views``; single rows in ``take``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.logical import ColumnType, Leaf
from headrace.storage.number_read import page_of_numbers
from headrace.storage.page import (
    BYTES,
    CODES,
    ITEM_LENGTHS,
    ITEM_VALIDITY,
    LENGTHS,
    VALUES,
    VALUES_HIGH,
)
from headrace.storage.page_rows import Mask, Part, has_values, page_rows, spread
from headrace.storage.page_streams import Dictionaries, Page
from headrace.storage.runs import Runs

_U8, _U32, _U64, _BOOL = (np.dtype(name) for name in ("u1", "u4", "u8", "?"))
_MAX_OFFSET = 2**31 - 1


def decode_pages(
    pages: Sequence[Page], type_: ColumnType, dictionaries: Dictionaries, runs: Runs | None = None
) -> pa.Array:
    """Consecutive pages, none of which holds a sequence, as one array of ``type_``'s plain Arrow type.

    Of text by code only the rows of ``runs``, if there are any, so that others need not be looked up.
    """
    if len(pages) == 1 and not type_.is_list:
        plain = page_of_numbers(pages[0], type_.leaf)
        if plain is not None:
            return plain
    parts, valid = page_rows(pages)
    if type_.is_list:
        array = _lists(parts, valid, type_, dictionaries)
    else:
        array = leaf_array(parts, valid, type_.leaf, dictionaries, LENGTHS, runs)
    for page_ in pages:
        page_.done()
    return array


def _lists(parts: list[Part], valid: Mask | None, type_: ColumnType, dictionaries: Dictionaries) -> pa.Array:
    n_all = parts[-1].last if parts else 0
    size = type_.size
    _claim_offsets(parts)
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


def _claim_offsets(parts: list[Part]) -> None:
    for part in parts:
        part.page.claim("offsets", 4 * (part.last - part.first))


def leaf_array(
    parts: list[Part],
    valid: Mask | None,
    leaf: Leaf,
    dictionaries: Dictionaries,
    lengths_role: int,
    runs: Runs | None = None,
) -> pa.Array:
    """Flat values of consecutive pages: rows, or the items of lists; ``runs`` as for ``decode_pages``."""
    n_all = parts[-1].last if parts else 0
    coded = [CODES in part.page.streams for part in parts]
    if any(coded):
        if leaf.dtype is None and not all(
            one or not has_values(part) for one, part in zip(coded, parts, strict=True)
        ):
            return _mixed(parts, valid, leaf, dictionaries, lengths_role)
        if leaf.dtype is None:
            return _coded_text(parts, valid, leaf, dictionaries, n_all, runs)
    if leaf.dtype is not None:
        return _numbers(parts, valid, leaf, dictionaries, n_all)
    if leaf.words:
        return _words(parts, valid, leaf, n_all)
    if leaf.fixed_bytes:
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
    page_ = part.page
    dense = out if part.n_valid == len(out) else np.empty(part.n_valid, out.dtype)
    page_.claim("values", dense.nbytes)
    codes = page_.gather(dictionaries.of(page_), dense)
    if dense is not out:
        spread(dense, valid, part, out)
    if codes is not None:
        if valid is None:
            valid = np.ones(n_all, np.bool_)
        mask = valid[part.first : part.last]
        mask[mask] = codes > 0
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
    parts: list[Part],
    valid: Mask | None,
    leaf: Leaf,
    dictionaries: Dictionaries,
    n_all: int,
    runs: Runs | None,
) -> pa.Array:
    """Strings by code: all of one dictionary in one take, else page by page."""
    if not any(CODES in part.page.streams for part in parts):
        return pa.nulls(n_all, leaf.arrow)
    shared = {part.page.streams[CODES][4] for part in parts if CODES in part.page.streams}
    if len(shared) > 1:
        return _mixed(parts, valid, leaf, dictionaries, 0)
    _claim_offsets(parts)
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
    if entries is None:  # codes only in pages whose rows are all null, where they have no meaning
        return pa.nulls(n_all, leaf.arrow)
    if runs is not None:
        rows = rows[: runs.keep(rows)]
        if valid is not None:
            valid = valid[: runs.keep(valid)]
            valid = None if valid.all() else valid
    if valid is not None:
        rows[~valid] = 0
        if not len(entries):
            return pa.nulls(len(rows), leaf.arrow)
    return entries.text_at(rows, valid)


def _text(parts: list[Part], valid: Mask | None, leaf: Leaf, n_all: int, lengths_role: int) -> pa.Array:
    """Strings or binary from lengths and bytes; text that is not UTF-8 is damage."""
    _claim_offsets(parts)
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
