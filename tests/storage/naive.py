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


def pfor(values: Array) -> bytes:
    blocks = [ordered(values)[i : i + 1024] for i in range(0, len(values), 1024)]
    above = [value - min(block) for block in blocks for value in block]
    widest = max((difference.bit_length() for difference in above), default=0)

    def cost(width: int) -> int:
        exceptions = sum(difference >> width > 0 for difference in above)
        position_width = max(0, len(above) - 1).bit_length()
        return _n_words(len(above), width) + sum(
            _n_words(exceptions, bits) for bits in (position_width, widest - width)
        )

    width = min(range(widest, -1, -1), key=cost)
    return _pfor(values, blocks, above, width, widest - width)


def delta(values: Array) -> bytes:
    bits = patterns(values)
    first = [i for i in range(len(bits)) if i % 1024 < 16]
    rest = [i for i in range(len(bits)) if i % 1024 >= 16]
    modulus = 2 ** (8 * values.itemsize)
    bases = from_patterns([bits[i] for i in first], np.dtype(f"{_sign(values)}{values.itemsize}"))
    differences = [(bits[i] - bits[i - 16]) % modulus for i in rest]
    return (
        struct.pack("<II", len(bits), 0)
        + child(bases)
        + child(from_patterns(differences, np.dtype(f"i{values.itemsize}")))
    )


def varint(values: Array) -> bytes:
    payload = bytearray()
    for pattern in patterns(values):
        while pattern >= 128:
            payload.append(128 + pattern % 128)
            pattern //= 128
        payload.append(pattern)
    return bytes(payload)


def zigzag(values: Array) -> bytes:
    folded = [2 * int(value) if value >= 0 else -2 * int(value) - 1 for value in values]
    return child(np.array(folded, f"u{values.itemsize}"))


def bitmap(values: Array) -> bytes:
    payload = bytearray(-(-len(values) // 8))
    for i, value in enumerate(values.tolist()):
        payload[i // 8] += value << (i % 8)
    return struct.pack("<II", len(values), 0) + payload


def sparse_bool(values: Array) -> bytes:
    rarer = 1 if 2 * values.tolist().count(True) <= len(values) else 0
    gaps, gap = [], 0
    for value in values.tolist():
        if value == rarer:
            gaps.append(gap)
        gap = 0 if value == rarer else gap + 1
    return struct.pack("<IBBHII", len(values), rarer, 0, 0, len(gaps), 0) + child(np.array(gaps, np.uint32))


def mainly_constant(values: Array) -> bytes:
    bits = patterns(values)
    sample = bits[:: (len(bits) + 1023) // 1024]
    frequent = min(set(sample), key=lambda pattern: (-sample.count(pattern), pattern))
    others = [pattern != frequent for pattern in bits]
    header = struct.pack("<IIQ", len(bits), sum(others), frequent)
    return header + child(np.array(others, bool)) + child(values[others])


def child(values: Array) -> bytes:
    """A stream within another, as it is written when nobody chooses otherwise: bit-packed."""
    payload = bitpack(values)
    return struct.pack("<BBHI", 2, 0, 0, len(payload)) + payload + bytes(-len(payload) % 8)


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
    offsets = _unpacked(words, n, width)
    return from_patterns(
        [(bases[i // 1024] + offsets[i]) % 2 ** (8 * dtype.itemsize) for i in range(n)], dtype
    )


def decode_rle(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, _, ends_bytes = struct.unpack_from("<IIQ", payload)
    ends = decode_bitpack(payload[16 : 16 + ends_bytes], np.dtype("uint32"))
    firsts = patterns(decode_bitpack(payload[16 + ends_bytes :], dtype))
    return from_patterns([firsts[sum(int(end) <= i for end in ends)] for i in range(n)], dtype)


def decode_pfor(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, width, _, high_width, _, n_exceptions, n_slots = struct.unpack_from("<IBBBBII", payload)
    words = struct.unpack_from(f"<{len(payload) // 8 - 2}Q", payload, 16)
    bases, words = words[: -(-n // 1024)], words[-(-n // 1024) :]
    sizes = [(n, width), (n_slots, max(0, n - 1).bit_length()), (n_slots, high_width)]
    parts = []
    for count, bits in sizes:
        used = _n_words(count, bits)
        parts.append(_unpacked(words[:used], count, bits))
        words = words[used:]
    low, positions, highs = parts
    for position, high in zip(positions[:n_exceptions], highs[:n_exceptions], strict=True):
        low[position] += high << width
    return from_patterns([(bases[i // 1024] + low[i]) % 2 ** (8 * dtype.itemsize) for i in range(n)], dtype)


def decode_delta(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, _ = struct.unpack_from("<II", payload)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    first, end = decode_child(payload, 8, unsigned)
    rest, _ = decode_child(payload, end, unsigned)
    bases, differences = iter(patterns(first)), iter(patterns(rest))
    bits: list[int] = []
    for i in range(n):
        bits.append(
            next(bases) if i % 1024 < 16 else (bits[i - 16] + next(differences)) % 2 ** (8 * dtype.itemsize)
        )
    return from_patterns(bits, dtype)


def decode_varint(payload: bytes, dtype: np.dtype[Any]) -> Array:
    bits, value, shift = [], 0, 0
    for byte in payload:
        value += (byte % 128) << shift
        shift += 7
        if byte < 128:
            bits.append(value)
            value = shift = 0
    return from_patterns(bits, dtype)


def decode_zigzag(payload: bytes, dtype: np.dtype[Any]) -> Array:
    folded = patterns(decode_child(payload, 0, np.dtype(f"u{dtype.itemsize}"))[0])
    return np.array([value // 2 if value % 2 == 0 else -(value // 2) - 1 for value in folded], dtype)


def decode_bitmap(payload: bytes, dtype: np.dtype[Any]) -> Array:
    (n,) = struct.unpack_from("<I", payload)
    return np.array([payload[8 + i // 8] >> (i % 8) & 1 for i in range(n)], dtype)


def decode_sparse_bool(payload: bytes, dtype: np.dtype[Any]) -> Array:
    n, rarer = struct.unpack_from("<IB", payload)
    values, at = [1 - rarer] * n, -1
    for gap in patterns(decode_child(payload, 16, np.dtype(np.uint32))[0]):
        at += gap + 1
        values[at] = rarer
    return np.array(values, dtype)


def decode_mainly_constant(payload: bytes, dtype: np.dtype[Any]) -> Array:
    _, _, frequent = struct.unpack_from("<IIQ", payload)
    which, end = decode_child(payload, 16, np.dtype(bool))
    others = iter(patterns(decode_child(payload, end, dtype)[0]))
    return from_patterns([next(others) if other else frequent for other in which.tolist()], dtype)


def decode_child(payload: bytes, at: int, dtype: np.dtype[Any]) -> tuple[Array, int]:
    """A child and where the next one starts."""
    number, _, _, n_bytes = struct.unpack_from("<BBHI", payload, at)
    assert number == 2
    start = at + 8
    return decode_bitpack(payload[start : start + n_bytes], dtype), start + n_bytes + -n_bytes % 8


ENCODE = {
    "constant": constant,
    "plain": plain,
    "bitpack": bitpack,
    "pfor": pfor,
    "dictionary": dictionary,
    "rle": rle,
    "delta": delta,
    "varint": varint,
    "zigzag": zigzag,
    "bitmap": bitmap,
    "sparse_bool": sparse_bool,
    "mainly_constant": mainly_constant,
}
DECODE = {
    "constant": decode_constant,
    "plain": decode_plain,
    "bitpack": decode_bitpack,
    "pfor": decode_pfor,
    "dictionary": decode_bitpack,
    "rle": decode_rle,
    "delta": decode_delta,
    "varint": decode_varint,
    "zigzag": decode_zigzag,
    "bitmap": decode_bitmap,
    "sparse_bool": decode_sparse_bool,
    "mainly_constant": decode_mainly_constant,
}


def _sign(values: Array) -> str:
    return "i" if values.dtype.kind == "i" else "u"


def _pfor(values: Array, blocks: list[list[int]], above: list[int], width: int, high_width: int) -> bytes:
    exceptions = [i for i, difference in enumerate(above) if difference >> width]
    n, k = len(above), len(exceptions)
    payload = struct.pack("<IBBBBII", n, width, values.itemsize, high_width, 0, k, k)
    payload += b"".join(struct.pack("<Q", min(block) % 2 ** (8 * values.itemsize)) for block in blocks)
    payload += _words([difference % 2**width for difference in above], width)
    payload += _words(exceptions, max(0, n - 1).bit_length())
    return payload + _words([above[i] >> width for i in exceptions], high_width)


def _packed(blocks: list[list[int]], bases: list[int], width: int, itemsize: int) -> bytes:
    n = sum(len(block) for block in blocks)
    payload = struct.pack("<IBBH", n, width, itemsize, 0)
    payload += b"".join(struct.pack("<Q", base % 2 ** (8 * itemsize)) for base in bases)
    above = [value - base for block, base in zip(blocks, bases, strict=True) for value in block]
    return payload + _words(above, width)


def _words(numbers: list[int], width: int) -> bytes:
    payload = b""
    for start, rows in zip(range(0, len(numbers), 1024), _rows(len(numbers)), strict=True):
        lanes = [0] * 16
        for i, number in enumerate(numbers[start : start + 1024]):
            lanes[i % 16] |= number << (i // 16 * width)
        for k in range((rows * width + 63) // 64):
            payload += b"".join(struct.pack("<Q", lane >> (64 * k) & (2**64 - 1)) for lane in lanes)
    return payload


def _unpacked(words: tuple[int, ...], n: int, width: int) -> list[int]:
    numbers = []
    for i in range(n):
        block, row, lane = i // 1024, i % 1024 // 16, i % 16
        lane_words = words[block * width * 16 + lane : (block + 1) * width * 16 : 16]
        whole = sum(word << (64 * k) for k, word in enumerate(lane_words))
        numbers.append((whole >> (row * width)) % 2**width)
    return numbers


def _n_words(n: int, width: int) -> int:
    return sum(16 * -(-rows * width // 64) for rows in _rows(n))


def _rows(n: int) -> list[int]:
    """How many rows of 16 each block has."""
    return [(min(1024, n - start) + 15) // 16 for start in range(0, n, 1024)]
