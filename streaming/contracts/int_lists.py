"""The integer lists of many messages, read at once from their JSON text.

Under `decode`: histories are half of an event's values, and making each of them a Python integer first costs more
than all the rest of the event. The parser leaves such a list as raw text, already known to be JSON; here the texts of
a chunk are joined, cut at the commas and read by Arrow. Whatever is not plainly `[1,2,3]` is left to the caller, who
knows how to say what is wrong.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_COMMA, _OPEN, _CLOSE = b",[]"


def read_int_lists(texts: Sequence[msgspec.Raw | None], type_: pa.DataType) -> pa.ListArray | None:
    """The lists as one array, or None where at least one text is not a list of integers within range.

    Args:
        texts: JSON values; None or the text `null` for a missing list.
        type_: the lists' type, of integers.
    """
    present = [text for text in texts if text is not None and (len(text) != 4 or bytes(text) != b"null")]
    joined = b",".join(present)
    if any(space in joined for space in (b" ", b"\n", b"\t", b"\r")):
        # Between tokens only: texts in quotes are refused below, with or without their spaces.
        joined = joined.translate(None, b" \t\r\n")
    content = np.frombuffer(joined, np.uint8)
    opens, closes = np.flatnonzero(content == _OPEN), np.flatnonzero(content == _CLOSE)
    lists = len(present)
    if not _is_flat(opens, closes, lists, len(joined)):
        return None
    commas = np.flatnonzero(content == _COMMA)
    between = content[commas - 1] == _CLOSE
    # Without brackets and commas the numbers stand side by side; each begins as far before its place in `joined` as
    # commas and brackets came before it.
    brackets = 2 * (np.cumsum(between) - between) + 1 + between
    starts = np.concatenate([[0], commas + 1 - np.arange(1, len(commas) + 1) - brackets])
    digits = joined.translate(None, b",[]")
    counts = (
        np.diff(np.concatenate([[-1], np.flatnonzero(between), [len(commas)]]))
        if lists
        else np.zeros(0, np.int64)
    )
    empty = closes - opens == 1
    if empty.any():
        # An empty list has no number between its brackets, but a place was counted for it.
        starts = np.delete(starts, (np.cumsum(counts) - counts)[empty])
        counts = counts - empty
    ends = np.append(starts, len(digits)) if lists else np.zeros(1)
    numbers = pa.StringArray.from_buffers(
        len(ends) - 1, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(digits)
    )
    try:
        values = numbers.cast(type_.value_type)
    except pa.ArrowInvalid:
        return None
    mask = None
    if lists < len(texts):
        missing = np.array([text is None or bytes(text) == b"null" for text in texts])
        counts, present_counts = np.zeros(len(texts), np.int64), counts
        counts[~missing] = present_counts
        mask = pa.array(missing)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=type_, mask=mask)


def _is_flat(opens: NDArray[np.int64], closes: NDArray[np.int64], lists: int, size: int) -> bool:
    """Whether the joined texts are that many lists without lists inside them."""
    if len(opens) != lists or len(closes) != lists:
        return False
    if lists == 0:
        return True
    return bool(opens[0] == 0 and closes[-1] == size - 1 and np.all(opens[1:] == closes[:-1] + 2))
