"""Ids of any type and length as 128-bit keys that no two ids share, column by column.

In the flow: the first step of every look-up. A whole number is its own key, so it can be read back from it; anything else is the
first 119 bits of the blake3 of its type and bytes, behind a set top bit, so that it meets no whole number. There is no
modulo anywhere: two ids share a row only where blake3 collides. Ids that Python holds equal (`1`, `1.0`, `True`) are one id.

Absent on purpose: the text of an id. A key cannot be turned back into a name; `store` keeps the names of fields that ask for it.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from headrace.streaming.learners.errors import BadId

U64 = npt.NDArray[np.uint64]
ABSENT: Final = np.uint64(255)
"""The field of a key that stands for no id, where a learner wants one."""


def keys_of(ids: Any, field: int) -> U64:
    """The keys of `ids`, a sequence, numpy array, pandas Series or Arrow array, as `uint64[n, 2]`.

    field: 0…255, which kind of id these are; the same id in two fields has two keys. A repeated text in an Arrow
    dictionary is hashed once.

    Raises BadId for None, NaN and types that are no id, saying where.

    >>> keys_of([7, "seven", 7.0], field=1).shape, bool((keys_of([7], 1) == keys_of([7.0], 1)).all())
    ((3, 2), True)
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if isinstance(ids, pa.Array):
        return _of_arrow(ids, field)
    array = np.asarray(ids) if hasattr(ids, "dtype") else None
    if array is not None and array.dtype.kind in "iub":
        return _of_integers(array, field)
    keys = np.empty((len(ids), 2), np.uint64)
    known: dict[Any, Any] = {}
    for at, value in enumerate(ids):
        if type(value) is int and -(2**63) <= value < 2**63:
            keys[at, 0], keys[at, 1] = value & (2**64 - 1), field
            continue
        try:
            if value not in known:
                known[value] = key_of(value, field)
        except (TypeError, BadId):
            raise BadId(
                f"id {at}: expected a number, a text, bytes or a finite float, came {value!r:.60} of type "
                f"{type(value).__name__}; leave the event out, or give it an id"
            ) from None
        keys[at] = known[value]
    return keys


def key_of(value: Any, field: int) -> tuple[int, int]:
    """The key of one id. Raises BadId."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if isinstance(value, int | np.integer | np.bool_):
        whole = int(value)
        if -(2**63) <= whole < 2**63:
            return whole & (2**64 - 1), field
        payload = b"i%d" % whole
    elif isinstance(value, str):
        payload = b"s" + value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        payload = b"b" + value
    elif isinstance(value, float | np.floating) and np.isfinite(value):
        payload = b"f" + float(value).hex().encode()
    else:
        raise BadId(f"expected a number, a text, bytes or a finite float, came {value!r:.60}")
    digest = blake3(bytes([field]) + payload).digest()
    high = int.from_bytes(digest[8:16], "little") & ~0xFF
    return int.from_bytes(digest[:8], "little"), high | 1 << 63 | field


def is_whole_number(keys: U64, field: int) -> Any:
    """Whether the id of each of `keys: uint64[..., 2]` is a whole number: `key[0].view(int64)` is then the id."""
    return keys[..., 1] == field


def _of_integers(array: npt.NDArray[Any], field: int) -> U64:
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63:
        return keys_of(array.tolist(), field)
    keys = np.empty((len(array), 2), np.uint64)
    keys[:, 0] = array.astype(np.int64).view(np.uint64)
    keys[:, 1] = field
    return keys


def _of_arrow(array: pa.Array, field: int) -> U64:
    if array.null_count:
        at = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise BadId(f"id {at}: expected an id, came null; leave the event out, or give it an id")
    if pa.types.is_dictionary(array.type):
        codes = array.indices.to_numpy(zero_copy_only=False)
        used = np.unique(codes)
        place = np.zeros(len(array.dictionary), np.int64)
        place[used] = np.arange(len(used))
        entries: U64 = keys_of(array.dictionary.take(pa.array(used)), field)
        expanded: U64 = entries[place[codes]]
        return expanded
    if pa.types.is_integer(array.type):
        return _of_integers(array.to_numpy(zero_copy_only=False), field)
    values: Sequence[Any] = array.to_pylist()
    return keys_of(values, field)


def fields_of(keys: U64) -> npt.NDArray[np.uint8]:
    """The field of each of `keys: uint64[n, 2]`."""
    fields: npt.NDArray[np.uint8] = (keys[:, 1] & np.uint64(0xFF)).astype(np.uint8)
    return fields
