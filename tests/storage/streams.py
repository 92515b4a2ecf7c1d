"""Streams to try encodings on: every dtype in every shape that some encoding cares about."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.storage.encodings import BY_ID, DTYPES, Encoding

Array = NDArray[Any]


def noise(dtype: np.dtype[Any], n: int) -> Array:
    raw = np.random.default_rng(n).integers(0, 256, n * dtype.itemsize, dtype=np.uint8)
    return raw > 127 if dtype.kind == "b" else raw.view(dtype)


def small(dtype: np.dtype[Any], n: int) -> Array:
    """Values within a range of 40, some of them negative."""
    values = np.random.default_rng(n).integers(0, 40, n) - 20
    return values.astype(dtype)


def runs(dtype: np.dtype[Any], n: int) -> Array:
    return np.repeat(noise(dtype, n), np.random.default_rng(n).integers(1, 40, n))[:n]


def extremes(dtype: np.dtype[Any], n: int) -> Array:
    """Both ends of the dtype's bit patterns and of its numbers, in turn."""
    if dtype.kind == "b":
        ends = np.array([False, True])
    elif dtype.kind == "f":
        ends = np.array(
            [-np.inf, np.finfo(dtype).max, -0.0, 0.0, np.nan, np.finfo(dtype).smallest_subnormal], dtype
        )
    else:
        ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    return np.resize(ends, n)


def odd_floats(dtype: np.dtype[Any], n: int) -> Array:
    """Signalling and quiet NaNs with payloads, of both signs, among zeros of both signs; integers: their patterns."""
    if dtype.kind == "b":
        return np.arange(n) % 3 == 0
    top = 8 * dtype.itemsize
    bits = [0, 1 << (top - 1), (1 << top) - 1, (1 << (top - 1)) - 3, 1]
    return np.resize(np.array(bits, f"u{dtype.itemsize}"), n).view(dtype)


SHAPES: dict[str, Callable[[np.dtype[Any]], Array]] = {
    "empty": lambda dtype: np.empty(0, dtype),
    "one": lambda dtype: extremes(dtype, 2)[1:],
    "noise 1023": lambda dtype: noise(dtype, 1023),
    "noise 1024": lambda dtype: noise(dtype, 1024),
    "noise 1025": lambda dtype: noise(dtype, 1025),
    "small 17": lambda dtype: small(dtype, 17),
    "small 2060": lambda dtype: small(dtype, 2060),
    "constant": lambda dtype: np.full(1500, extremes(dtype, 2)[1]),
    "a constant per block": lambda dtype: np.repeat(noise(dtype, 3), 1024)[:2500],
    "extremes": lambda dtype: extremes(dtype, 1100),
    "odd floats": lambda dtype: odd_floats(dtype, 1030),
    "sorted": lambda dtype: np.sort(noise(dtype, 1200)),
    "runs": lambda dtype: runs(dtype, 3000),
    "two runs": lambda dtype: np.repeat(extremes(dtype, 2), [1, 1999]),
    "mainly one": lambda dtype: np.where(
        np.random.default_rng(0).random(1500) < 0.95, noise(dtype, 1500)[0], noise(dtype, 1500)
    ),
    "few outliers": lambda dtype: np.where(
        np.random.default_rng(1).random(1500) < 0.98, small(dtype, 1500), noise(dtype, 1500)
    ),
    "strided": lambda dtype: noise(dtype, 90)[::3],
}

CASES = [
    pytest.param(dtype, shape, id=f"{dtype}-{shape}".replace(" ", "_"))
    for dtype in DTYPES
    for shape in SHAPES
]


def decoded(encoding: Encoding, payload: bytes, like: Array) -> Array:
    out = np.empty(len(like), like.dtype)
    encoding.decode(np.frombuffer(payload, np.uint8), out)
    return out


def header(payload: bytes, offset: int, value: int, size: int) -> bytes:
    """`payload` with one field of its header replaced."""
    return payload[:offset] + value.to_bytes(size, "little") + payload[offset + size :]


def describe(number: int, payload: NDArray[np.uint8], n: int, dtype: np.dtype[np.generic]) -> str:
    """The cascade of a written stream, read off its payload, in the words of `Plan`."""
    encoding = BY_ID[number]
    inner = [describe(child, part, m, kind) for _, child, part, m, kind in encoding.parts(payload, n, dtype)]
    return f"{encoding.name}({', '.join(inner)})" if inner else encoding.name
