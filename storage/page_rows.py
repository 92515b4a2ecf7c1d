"""The rows of consecutive pages: whose share of an array which are, and which of them are null.

Below ``page_read`` and ``views``, which decode the values that belong there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import Array
from headrace.storage.page import ALL_NULL, NO_NULLS, VALIDITY
from headrace.storage.page_streams import Page

Mask = NDArray[np.bool_]
_WORD = 8


class Part(NamedTuple):
    """A page's share of a flat array: slots ``first`` up to ``last``, of which ``n_valid`` have values."""

    page: Page
    first: int
    last: int
    n_valid: int


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


def spread(dense: NDArray[Any], valid: Mask | None, part: Part, out: NDArray[Any]) -> None:
    """Place dense values where a page's slots are valid, zeros elsewhere."""
    if valid is None or len(dense) == len(out):
        out[:] = dense
        return
    mask = valid[part.first : part.last].view(np.uint8)
    if len(dense) and out.ndim == 1 and out.flags.c_contiguous and dense.itemsize == out.itemsize <= _WORD:
        word = f"u{out.itemsize}"
        pick(len(out), _spread_numpy, _spread)(dense.view(word), mask, out.view(word))
    else:
        _spread_numpy(dense, mask, out)


@kernel
def _spread(dense: Array, valid: Array, out: Array) -> None:
    """uint[k], k > 0, uint8[n] of k ones among zeros -> uint[n]: without a branch, since nobody can guess where nulls are."""
    at = np.uint64(0)
    last = np.uint64(len(dense) - 1)
    for i in range(np.uint64(len(out))):
        here = np.uint64(valid[i])
        out[i] = dense[min(at, last)] & (np.uint64(0) - here)
        at += here


def _spread_numpy(dense: Array, valid: Array, out: Array) -> None:
    """The numpy twin of ``_spread``, which takes rows of several words and strides too."""
    out[:] = 0
    out[valid.view(np.bool_)] = dense
