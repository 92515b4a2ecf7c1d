"""What decoding costs, as the cascade weighs it against bytes: our own measurements (``python -m benchmarks kernels``).

Used by ``select`` for streams and by ``chunk`` for dictionaries. They are those of one machine; what counts is how they
compare with each other.
"""

from __future__ import annotations

from typing import Final

from headrace.storage.encodings.contract import Array

# Nanoseconds to decode one value, children not counted, and one byte of output: what costs by the value, such as a
# branch, and what costs by the byte, such as a copy.
DECODE_NS: Final = {
    "constant": (0.0, 0.02),
    "plain": (0.0, 0.03),
    "bitpack": (0.25, 0.03),
    "pfor": (0.3, 0.03),
    "dictionary": (0.35, 0.03),
    "rle": (0.1, 0.05),
    "delta": (0.2, 0.05),
    "zigzag": (0.1, 0.03),
    "varint": (2.0, 0.0),
    "byte_split": (0.1, 0.05),
    "alp": (0.3, 0.05),
    "bitmap": (0.1, 0.05),
    "sparse_bool": (0.05, 0.03),
    "mainly_constant": (0.2, 0.05),
    "fsst": (0.0, 0.6),
    "zstd": (0.0, 0.9),
}

CHILD_NS: Final = 5_000.0
"""To find a child in its parent's payload and call its decoder, however few its values are."""

LEAST_CHILDREN: Final = {
    "delta": 2,
    "zigzag": 1,
    "byte_split": 2,
    "alp": 1,
    "sparse_bool": 1,
    "mainly_constant": 2,
    "fsst": 1,
    "zstd": 1,
}
"""Encodings made of others, and of how many at least; splitting bytes makes one for each of them."""

GATHER_NS: Final = 0.5
"""To fetch one value of a dictionary, when its code is decoded."""


def own_ns(name: str, values: Array) -> float:
    """Nanoseconds to decode a stream by one encoding, its children not counted."""
    per_value, per_byte = DECODE_NS[name]
    return per_value * len(values) + per_byte * values.nbytes


def least_ns(name: str, values: Array, *, found: bool) -> float:
    """Nanoseconds that an encoding takes at least.

    To find children takes longer than a few values cost as they are, so that hardly anything need be tried for those.

    Args:
        name: the encoding.
        values: what it would write.
        found: whether finding its children counts too, as it does for what lies in no other.
    """
    children = values.itemsize if name == "byte_split" else LEAST_CHILDREN.get(name, 0)
    return own_ns(name, values) + CHILD_NS * children * found
