"""A learner's state as bytes and back: typed plain data, checked before a single value is believed.

Layout (all integers little-endian):

    "HRLC" | header length: uint32 | blake3 of the header: 32 bytes | header: msgpack | arrays, back to back

The header (`Header`) names the learner, its version and hyper-parameters, and lists each array's name, dtype, shape,
offset (from the end of the header) and blake3. Nothing is executed on load: no pickle, no class names, five dtypes.
Every length is checked against the bytes present before anything is allocated, and no byte may be left over.
The checksums find damage, not malice: whoever can write a checkpoint can write a consistent one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from headrace.streaming.learners.errors import BadCheckpoint

Param = int | float | str | bool
FORMAT = 1
_MAGIC = b"HRLC"
_PREAMBLE = len(_MAGIC) + 4 + 32
_DTYPES = ("<f4", "<f8", "<u4", "<i8", "|u1")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: `arrays` by name, of dtype float32, float64, uint32, int64 or uint8."""

    learner: str
    version: int
    n_learned: int
    params: Mapping[str, Param] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class ArrayEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    dtype: str
    shape: list[int]
    offset: int
    blake3: bytes


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    learner: str
    version: int
    n_learned: int
    params: dict[str, Param]
    arrays: list[ArrayEntry]


_HEADER = msgspec.msgpack.Decoder(Header)


def dump(state: State) -> bytes:
    """Write `state` as bytes; equal states give equal bytes. Raises TypeError for an array of another dtype."""
    entries, bodies, offset = [], [], 0
    for name, array in state.arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in _DTYPES:
            raise TypeError(f"array {name!r} of {state.learner!r}: expected one of {_DTYPES}, came {dtype}")
        body = np.ascontiguousarray(array, dtype=dtype).tobytes()
        entries.append(ArrayEntry(name, dtype, list(array.shape), offset, blake3(body).digest()))
        bodies.append(body)
        offset += len(body)
    header = msgspec.msgpack.encode(
        Header(FORMAT, state.learner, state.version, state.n_learned, dict(state.params), entries)
    )
    return b"".join(
        (_MAGIC, len(header).to_bytes(4, "little"), blake3(header).digest(), header, *bodies),
    )


def load(data: bytes, learner: str) -> State:
    """Read the bytes of a `learner`'s state; the arrays are fresh and writable.

    Raises BadCheckpoint, and returns nothing, for bytes that are cut short, altered, too long, of another format
    version or of another learner.
    """
    view = memoryview(data)
    if len(view) < _PREAMBLE or bytes(view[:4]) != _MAGIC:
        raise BadCheckpoint(
            f"expected a checkpoint of at least {_PREAMBLE} bytes that begins {_MAGIC!r}, {_came(view)}"
        )
    length = int.from_bytes(view[4:8], "little")
    if length > len(view) - _PREAMBLE:
        raise BadCheckpoint(f"the header claims {length} bytes, {len(view) - _PREAMBLE} are there: cut short")
    raw, body = bytes(view[_PREAMBLE : _PREAMBLE + length]), view[_PREAMBLE + length :]
    _check("the header", raw, bytes(view[8:_PREAMBLE]))
    try:
        header = _HEADER.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadCheckpoint(f"the header is not one this release writes: {error}") from error
    if header.format != FORMAT:
        raise BadCheckpoint(
            f"expected format {FORMAT}, came {header.format}: read it with the release that wrote it"
        )
    if header.learner != learner:
        raise BadCheckpoint(f"expected the state of learner {learner!r}, came that of {header.learner!r}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    end = 0
    for entry in header.arrays:
        arrays[entry.name] = _array(entry, body, end)
        end += arrays[entry.name].nbytes
    if end != len(body) or len(arrays) != len(header.arrays):
        raise BadCheckpoint(
            f"expected {end} bytes of distinct arrays, came {len(body)} in {len(header.arrays)}"
        )
    return State(header.learner, header.version, header.n_learned, header.params, arrays)


def _array(entry: ArrayEntry, body: memoryview, start: int) -> npt.NDArray[Any]:
    possible = len(entry.shape) <= 2 and all(0 <= length <= len(body) for length in entry.shape)
    if entry.dtype not in _DTYPES or not possible or entry.offset != start:
        raise BadCheckpoint(
            f"array {entry.name!r}: impossible {entry.dtype}{entry.shape} at byte {entry.offset}"
        )
    size = math.prod(entry.shape) * np.dtype(entry.dtype).itemsize
    if size > len(body) - start:
        raise BadCheckpoint(
            f"array {entry.name!r} claims {size} bytes, {len(body) - start} are there: cut short"
        )
    raw = bytes(body[start : start + size])
    _check(f"array {entry.name!r}", raw, entry.blake3)
    native = np.dtype(entry.dtype).newbyteorder("=")
    return (
        np.frombuffer(raw, dtype=entry.dtype).reshape(entry.shape).astype(native)
    )  # astype copies: writable


def _check(what: str, raw: bytes, expected: bytes) -> None:
    computed = blake3(raw).digest()
    if computed != expected:
        raise BadCheckpoint(
            f"{what} is damaged: stored blake3 {expected.hex()[:16]}…, computed {computed.hex()[:16]}…; "
            "go back to the checkpoint of an earlier version"
        )


def _came(view: memoryview) -> str:
    return f"came {len(view)} bytes that begin {bytes(view[:4])!r}"
