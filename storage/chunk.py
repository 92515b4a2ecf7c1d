"""One column's part of one row group, from Arrow to encoded pages: dictionary or not, and where pages are cut.

Sits between the writer, which knows files, and ``page``, which knows one page. A chunk gets a dictionary when that is
predicted to be smaller than the values themselves; the encodings of single streams are chosen page by page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.encodings import dictionary
from headrace.storage.layout import BLOCK_ROWS
from headrace.storage.logical import ColumnType, Leaf
from headrace.storage.select import choose

PAGE_BYTES = 8 << 20  # of Arrow memory; wider rows get fewer blocks to a page
DICTIONARY_SAMPLE = 4096


@dataclass(frozen=True)
class Coded:
    """A chunk's dictionary and the code of each of its valid leaf values, in order."""

    entries: Any
    codes: NDArray[np.uint32]


def leaves(array: pa.Array, type_: ColumnType) -> pa.Array:
    """The valid leaf values of a chunk: rows, or items of lists, without nulls."""
    valid = array.drop_null() if array.null_count else array
    if not type_.is_list:
        return valid
    items = valid.flatten()
    return items.drop_null() if items.null_count else items


def code(values: pa.Array, leaf: Leaf) -> Coded | None:
    """A dictionary of these values if it pays, else None."""
    if len(values) < 2:
        return None
    sample = values[:DICTIONARY_SAMPLE]
    if len(sample.unique()) * 2 > len(sample):
        return None
    if leaf.dtype is not None:
        numbers = arrays.numbers(values, leaf.dtype)
        if choose(numbers, dictionary=True).name != dictionary.Dictionary.name:
            return None
        entries, codes = dictionary.build(numbers)
        return Coded(entries, codes)
    lengths, text = arrays.text(values)
    encoded = values.dictionary_encode()
    entry_lengths, entry_text = arrays.text(encoded.dictionary)
    code_bits = len(entry_lengths).bit_length()
    coded_bytes = len(entry_text) + 4 * len(entry_lengths) + len(values) * code_bits // 8
    length_bits = int(lengths.max(initial=0)).bit_length()
    if coded_bytes * 1.1 > len(text) + len(values) * length_bits // 8:
        return None
    return Coded(
        encoded.dictionary,
        arrays.numbers(encoded.indices, np.dtype(np.int32)).astype(np.uint32) + np.uint32(1),
    )


def page_rows(array: pa.Array, page_blocks: int) -> int:
    """Rows of each page but the last: whole blocks, fewer of them when rows are wide."""
    if not len(array):
        return BLOCK_ROWS
    blocks = page_blocks
    while blocks > 1 and array.nbytes * blocks * BLOCK_ROWS > PAGE_BYTES * len(array):
        blocks //= 2
    return blocks * BLOCK_ROWS


def pages(
    array: pa.Array, type_: ColumnType, coded: Coded | None, page_blocks: int
) -> Iterator[tuple[pa.Array, NDArray[np.uint32] | None]]:
    """Cut a chunk into pages: their rows, and their share of the codes."""
    step, at = page_rows(array, page_blocks), 0
    for first in range(0, len(array), step):
        rows = array[first : first + step]
        if coded is None:
            yield rows, None
            continue
        n = len(leaves(rows, type_))
        yield rows, coded.codes[at : at + n]
        at += n
