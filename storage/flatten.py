"""A chunk's Arrow array as flat streams without nulls, cut into pages: the first step of writing a column.

``chunk`` plans and encodes what comes out. Rows are their validity and, of lists, lengths; leaf values are numbers, words, or
lengths and bytes. Nothing is chosen here but how many rows a page has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, page
from headrace.storage.encodings.contract import Array
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.logical import ColumnType

PAGE_BYTES = 1 << 20  # of Arrow memory; wider rows get fewer blocks to a page

Cuts = NDArray[np.int64]
"""Where pages cut a stream: page k holds values ``cuts[k]`` up to ``cuts[k + 1]``."""


@dataclass(frozen=True)
class Flat:
    """One role's values over a whole chunk."""

    role: int
    values: Array
    cuts: Cuts
    kind: str = "values"
    flags: int = 0
    optional: bool = False
    """Whether pages without values have no such stream."""


@dataclass(frozen=True)
class Rows:
    """A chunk's pages before their values: rows, which of them are null, and where their leaf values are cut."""

    cuts: Cuts
    nulls: list[int]
    validity: Flat | None
    lengths: Flat | None = None
    item_validity: Flat | None = None
    leaf_cuts: Cuts = field(default_factory=lambda: np.zeros(0, np.int64))
    n_items: list[int] = field(default_factory=list)


def page_cuts(array: pa.Array, max_blocks: int, page_bytes: int = PAGE_BYTES) -> Cuts:
    """First row of each page and the end: whole blocks, fewer of them when rows are wide."""
    blocks = max_blocks
    while blocks > 1 and array.nbytes * blocks * BLOCK_ROWS > page_bytes * len(array):
        blocks //= 2
    return np.append(np.arange(0, len(array), blocks * BLOCK_ROWS), len(array)).astype(np.int64)


def valid_cuts(array: pa.Array, cuts: Cuts) -> Cuts:
    """Cuts counted in rows that are not null."""
    return _counts(arrays.validity(array))[cuts] if array.null_count else cuts


def split(array: pa.Array, type_: ColumnType, cuts: Cuts) -> tuple[Rows, pa.Array]:
    """A chunk's rows without their values, and its leaf values without nulls, in order."""
    valid = arrays.validity(array) if array.null_count else None
    nulls, validity = _masked(valid, cuts, page.VALIDITY)
    n_valid = cuts if valid is None else _counts(valid)[cuts]
    present = array.drop_null() if valid is not None else array
    if not type_.is_list:
        return Rows(cuts, nulls, validity, leaf_cuts=n_valid, n_items=[0] * len(nulls)), present
    lengths = arrays.list_lengths(present)
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    items = present.flatten()
    item_cuts = ends[n_valid]
    n_items = np.diff(item_cuts).tolist()
    item_valid = arrays.validity(items) if items.null_count else None
    item_validity = _masked(item_valid, item_cuts, page.ITEM_VALIDITY)[1] if item_valid is not None else None
    leaf_cuts = item_cuts if item_valid is None else _counts(item_valid)[item_cuts]
    leaves = items if item_valid is None else items.drop_null()
    flat = Flat(page.LENGTHS, lengths, n_valid) if type_.size is None else None
    return Rows(cuts, nulls, validity, flat, item_validity, leaf_cuts, n_items), leaves


def leaf_flats(values: Any, type_: ColumnType, cuts: Cuts, *, items: bool | None = None) -> list[Flat]:
    """The streams of leaf values without nulls, as they are: numbers, or lengths and bytes."""
    leaf = type_.leaf
    if leaf.dtype is not None:
        numbers = values if isinstance(values, np.ndarray) else arrays.numbers(values, leaf.dtype)
        return [Flat(page.VALUES, numbers, cuts)]
    if leaf.words:
        words = _fixed_bytes(values, 16).view("<u8")
        return [Flat(page.VALUES, words[::2], cuts), Flat(page.VALUES_HIGH, words[1::2].view("<i8"), cuts)]
    if leaf.fixed_bytes:
        return [Flat(page.BYTES, _fixed_bytes(values, leaf.width), cuts * leaf.width)]
    lengths, text = arrays.text(values)
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    role = page.ITEM_LENGTHS if (type_.is_list if items is None else items) else page.LENGTHS
    return [Flat(role, lengths, cuts), Flat(page.BYTES, text, ends[cuts], "text")]


def _fixed_bytes(values: pa.Array, width: int) -> NDArray[np.uint8]:
    """The bytes of values without nulls that are ``width`` bytes each."""
    buffer = values.buffers()[1]
    if buffer is None or not len(values) * width:
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8, count=len(values) * width, offset=values.offset * width)


def _masked(valid: NDArray[np.bool_] | None, cuts: Cuts, role: int) -> tuple[list[int], Flat | None]:
    """Nulls of each page, and the masks of the pages that have some."""
    if valid is None:
        return [0] * (len(cuts) - 1), None
    before = _counts(~valid)[cuts]
    nulls = np.diff(before)
    sizes = np.where((nulls > 0) & ((nulls < np.diff(cuts)) | (role == page.ITEM_VALIDITY)), np.diff(cuts), 0)
    kept = np.repeat(sizes > 0, np.diff(cuts))
    return nulls.tolist(), Flat(role, valid[kept], np.append(0, np.cumsum(sizes)), optional=True)


def _counts(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many are True before each position, and in all."""
    counts = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=counts[1:])
    return counts
