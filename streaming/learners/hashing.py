"""Arrow columns to 64-bit hashes: the one function that says which bits a value has, for ever.

Stored predictions, checkpoints and label joins all rest on these bits, so they depend on nothing but the value: not
on the process, the platform's byte order, Python's hash seed, or how the column was chunked or dictionary-encoded.
An integer is its own two's complement widened to 64 bits; a string or binary value is folded eight bytes at a time
through the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, in Stafford's variant 13). This is mixing, not cryptography: whoever may choose the values can find
collisions, so code that must not confuse two ids compares the ids after their hashes (see `headrace.streaming.ids`).
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.streaming.learners.errors import WrongFeatures

U64 = npt.NDArray[np.uint64]

# Fractional bits of the golden ratio, the square roots of 3 and of 5: constants with nothing up their sleeve.
GOLDEN = 0x9E3779B97F4A7C15
NULL = 0xBB67AE8584CAA73B  # the hash of a null: its own bucket in every field
_TEXT = 0x3C6EF372FE94F82B  # keeps "" away from 0
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_TAIL = np.array([(1 << (8 * n)) - 1 for n in range(8)] + [2**64 - 1], dtype=np.uint64)


def mix(h: U64) -> U64:
    """SplitMix64's finaliser, a bijection on 64 bits, over `h: uint64[n]` in place; returns `h`."""
    h ^= h >> np.uint64(30)
    h *= np.uint64(_M1)
    h ^= h >> np.uint64(27)
    h *= np.uint64(_M2)
    h ^= h >> np.uint64(31)
    return h


@functools.lru_cache(maxsize=4096)  # a batch asks for the same few fields again and again
def salt(name: str, seed: int) -> np.uint64:
    """The 64 bits that keep the field `name` apart from other fields, under `seed` (any int)."""
    hashed = hash_values(pa.array([name.encode()], type=pa.binary()))
    hashed ^= mix(np.array([(seed ^ GOLDEN) & (2**64 - 1)], dtype=np.uint64))
    return np.uint64(mix(hashed)[0])


def hash_values(array: pa.Array) -> U64:
    """Hash each value of `array: [n]` to `uint64[n]`; nulls become `NULL`.

    Takes integers, booleans, dates and timestamps (the stored integer), strings, binaries, and dictionaries of
    these; equal values hash alike whatever their width (int8 or int64) or encoding (plain or dictionary).
    Raises WrongFeatures for floats, which have no stable identity, and for nested types.

    >>> [hex(h) for h in hash_values(pa.array(["ski", None, ""]))]
    ['0xf2892a9d69020e2d', '0xbb67ae8584caa73b', '0xbeeb8da1658eec67']
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _by_code(hash_values(array.dictionary), array.indices)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        whole = array.cast(pa.uint64() if pa.types.is_uint64(kind) else pa.int64())
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        whole = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _hash_bytes(array.cast(pa.large_string()).cast(pa.large_binary()))
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _hash_bytes(array.cast(pa.large_binary()))
    else:
        raise WrongFeatures(
            f"cannot hash a column of type {kind}: expected integers, strings or dictionaries of them; "
            "list floats under the dense features, lists under the histories"
        )
    filled = whole.fill_null(0) if whole.null_count else whole
    hashed: U64 = filled.to_numpy(zero_copy_only=False).astype(np.uint64)  # a copy: callers mix in place
    return _with_nulls(hashed, array)


def _by_code(hashes: U64, codes: pa.Array) -> U64:
    if not len(hashes):
        return np.full(len(codes), NULL, dtype=np.uint64)
    filled = codes.fill_null(0) if codes.null_count else codes
    return _with_nulls(hashes[filled.to_numpy(zero_copy_only=False)], codes)


def _with_nulls(hashed: U64, array: pa.Array) -> U64:
    if array.null_count:
        hashed[array.is_null().to_numpy(zero_copy_only=False)] = np.uint64(NULL)
    return hashed


def _hash_bytes(array: pa.Array) -> U64:
    """Fold `large_binary[n]` word by word; the loop runs over word positions, never over rows."""
    n = len(array)
    buffers: list[Any] = array.buffers()
    starts = np.frombuffer(buffers[1], dtype=np.int64, count=n + 1, offset=8 * array.offset)
    lengths = np.diff(starts)
    first, last = (int(starts[0]), int(starts[-1])) if n else (0, 0)
    # Eight spare bytes, so that the last value's final word can be loaded whole and masked.
    data = bytes(memoryview(buffers[2])[first:last]) + bytes(8) if buffers[2] is not None else bytes(8)
    words = np.ndarray(shape=(len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    h = lengths.astype(np.uint64)
    h ^= np.uint64(_TEXT)
    rows = np.arange(n)
    for position in range(0, int(lengths.max(initial=0)), 8):
        rows = rows[lengths[rows] > position]
        word = words[starts[rows] - first + position]
        word &= _TAIL[np.minimum(lengths[rows] - position, 8)]
        h[rows] = mix(h[rows] ^ word)
    return _with_nulls(mix(h), array)
