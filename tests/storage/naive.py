"""The oracle of the encodings: each layout written value by value with Python's integers, slow and obvious.

Nothing here is shared with the encodings but the layouts in their docstrings.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def patterns(values: Array) -> list[int]:
    """Each value's bits as an unsigned integer."""
    size = values.itemsize
    raw = values.tobytes()
    return [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]


def ordered(values: Array) -> list[int]:
    """Each value as the integer by which blocks find their smallest."""
    return [int(value) for value in values] if values.dtype.kind == "i" else patterns(values)


def from_patterns(bits: list[int], dtype: np.dtype[Any]) -> Array:
    raw = b"".join(pattern.to_bytes(dtype.itemsize, "little") for pattern in bits)
    return np.frombuffer(raw, dtype)


def constant(values: Array) -> bytes:
    (bits,) = set(patterns(values))
    return struct.pack("<IIQ", len(values), 0, bits)


def plain(values: Array) -> bytes:
    return b"".join(pattern.to_bytes(values.itemsize, "little") for pattern in patterns(values))


def bitpack(values: Array) -> bytes:
    blocks = [ordered(values)[i : i + 1024] for i in range(0, len(values), 1024)]
    width = max(((max(block) - min(block)).bit_length() for block in blocks), default=0)
    return _packed(blocks, [min(block) for block in blocks], width, values.itemsize)


def dictionary(codes: Array) -> bytes:
    blocks = [patterns(codes)[i : i + 1024] for i in range(0, len(codes), 1024)]
    width = max((max(block).bit_length() for block in blocks), default=0)
    return _packed(blocks, [0] * len(blocks), width, 4)


def rle(values: Array) -> bytes:
    bits = patterns(values)
    starts = [i for i in range(len(bits)) if i == 0 or bits[i] != bits[i - 1]]
    ends = bitpack(np.array([*starts[1:], len(bits)] if starts else [], np.uint32))
    return struct.pack("<IIQ", len(bits), len(starts), len(ends)) + ends + bitpack(values[starts])


def decode_constant(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, _, bits = struct.unpack("<IIQ", payload)
    return from_patterns([bits] * n, dtype)


def decode_plain(payload: bytes, dtype: np.dtype[Any]) -> Array:
    return np.frombuffer(payload, dtype)


def decode_bitpack(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, width = struct.unpack_from("<IB", payload)
    n_blocks = (n + 1023) // 1024
    words = struct.unpack_from(f"<{(len(payload) - 8) // 8}Q", payload, 8)
    bases, words = words[:n_blocks], words[n_blocks:]
    bits = []
    for i in range(n):
        block, row, lane = i // 1024, i % 1024 // 16, i % 16
        lane_words = words[block * width * 16 + lane : (block + 1) * width * 16 : 16]
        whole = sum(word << (64 * k) for k, word in enumerate(lane_words))
        offset = (whole >> (row * width)) % 2**width
        bits.append((bases[block] + offset) % 2 ** (8 * dtype.itemsize))
    return from_patterns(bits, dtype)


def decode_rle(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, _, ends_bytes = struct.unpack_from("<IIQ", payload)
    ends = decode_bitpack(payload[16 : 16 + ends_bytes], np.dtype("uint32"))
    firsts = patterns(decode_bitpack(payload[16 + ends_bytes :], dtype))
    return from_patterns([firsts[sum(int(end) <= i for end in ends)] for i in range(n)], dtype)


ENCODE = {"constant": constant, "plain": plain, "bitpack": bitpack, "dictionary": dictionary, "rle": rle}
DECODE = {
    "constant": decode_constant,
    "plain": decode_plain,
    "bitpack": decode_bitpack,
    "dictionary": decode_bitpack,
    "rle": decode_rle,
}


def _packed(blocks: list[list[int]], bases: list[int], width: int, itemsize: int) -> bytes:
    n = sum(len(block) for block in blocks)
    payload = struct.pack("<IBBH", n, width, itemsize, 0)
    payload += b"".join(struct.pack("<Q", base % 2 ** (8 * itemsize)) for base in bases)
    for block, base in zip(blocks, bases, strict=True):
        lanes = [0] * 16
        for i, value in enumerate(block):
            lanes[i % 16] |= (value - base) << (i // 16 * width)
        rows = (len(block) + 15) // 16
        for k in range((rows * width + 63) // 64):
            payload += b"".join(struct.pack("<Q", lane >> (64 * k) & (2**64 - 1)) for lane in lanes)
    return payload
