"""What the tests of single encodings share: plain children, decoding into a fresh array, and damaged payloads."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.storage.encodings import CorruptStream, Encoding

Array = NDArray[Any]


def plain(values: Array) -> tuple[int, bytes]:
    """A child that is left as it is."""
    return 1, values.tobytes()


def decoded(encoding: Encoding, payload: bytes, like: Array) -> Array:
    out = np.empty(len(like), like.dtype)
    encoding.decode(np.frombuffer(payload, np.uint8), out)
    return out


def taken(encoding: Encoding, payload: bytes, n: int, at: Array, dtype: np.dtype[Any]) -> Array:
    out = np.empty(len(at), dtype)
    blocks = encoding.take(np.frombuffer(payload, np.uint8), n, at, out)
    assert 0 <= blocks <= -(-n // 1024)
    return out


def damaged(payload: bytes, seed: int, flips: int) -> Iterator[bytes]:
    """Every truncation of a short payload (some of a long one), a byte too many, and random flips of bits and bytes."""
    rng = np.random.default_rng(seed)
    for end in range(0, len(payload), 1 + len(payload) // 200):
        yield payload[:end]
    yield payload + b"\0"
    for _ in range(flips):
        broken = bytearray(payload)
        for at in rng.integers(0, len(payload), rng.integers(1, 4)):
            broken[at] = (
                rng.integers(0, 256) if rng.random() < 0.5 else broken[at] ^ 1 << int(rng.integers(0, 8))
            )
        yield bytes(broken)


def holds_out(encoding: Encoding, payload: bytes, like: Array, *, seed: int = 0, flips: int = 300) -> int:
    """Assert that no damage does more than raise `CorruptStream` or give other values; how often it raised.

    What lies around the array to be filled must not change.
    """
    raised = 0
    for broken in damaged(payload, seed, flips):
        around = np.full(like.nbytes + 128, 0xA5, np.uint8)
        out = around[64 : 64 + like.nbytes].view(like.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                encoding.decode(np.frombuffer(broken, np.uint8), out)
            except CorruptStream:
                raised += 1
        assert (around[:64] == 0xA5).all()
        assert (around[64 + like.nbytes :] == 0xA5).all()
    return raised


def refused(encoding: Encoding, payload: bytes, like: Array, message: str) -> None:
    with pytest.raises(CorruptStream, match=message):
        decoded(encoding, payload, like)


def header(payload: bytes, offset: int, value: int, size: int) -> bytes:
    """The payload with one number replaced."""
    return payload[:offset] + value.to_bytes(size, "little") + payload[offset + size :]
