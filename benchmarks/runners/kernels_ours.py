"""Our compiled kernels, each on half a MiB of output, which stays in a core's second-level cache with what it is made from.

The kernels are called as the encodings call them, past the checks that come before: a call is one page's work. Each kernel's
output is compared with the values that were encoded before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.runners.protocol import Args, Result, Runner, quickest, serve
from headrace.storage.encodings import _jit, bitpack, byte_split, cast, delta, dictionary, listviews, varint

Array = npt.NDArray[Any]

LIST = 64
"""Items of each list of the sequence kernels; a list slides by ``NEW`` items per row."""
NEW = 2


@dataclass(frozen=True)
class Kernel:
    """``call`` fills ``out``, which then holds ``expected``."""

    call: Callable[[], object]
    out: Array
    expected: Array


def unpack(rng: np.random.Generator, out_bytes: int, width: int) -> Kernel:
    """int64 from ``width`` bits, above a base per block."""
    values = rng.integers(0, 1 << width, out_bytes // 8).astype(np.uint64) + np.uint64(1_000)
    bases = np.full(len(values) // 1_024, 1_000, np.uint64)
    packed = _frozen(bitpack.pack_words(values, bases, width))
    out = np.empty_like(values)
    return Kernel(lambda: bitpack._unpack(packed, _frozen(bases), width, out), out, values)


def integrate(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 from differences along 16 lanes."""
    values = np.cumsum(rng.integers(0, 100, out_bytes // 8)).astype(np.uint64)
    rows = values.reshape(-1, 64, 16)
    bases, differences = rows[:, 0].ravel(), (rows[:, 1:] - rows[:, :-1]).ravel()
    out = np.empty_like(values)
    return Kernel(lambda: delta._integrate(bases, differences, out), out, values)


def join(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """float32 from four planes of bytes."""
    values = rng.standard_normal(out_bytes // 4).astype(np.float32).view(np.uint32)
    turned = (values << np.uint32(1)) | (values >> np.uint32(31))
    planes = [_frozen(turned.view(np.uint8)[place::4].copy()) for place in range(4)]
    out = np.empty_like(values)
    return Kernel(lambda: byte_split._JOIN[4](*planes, 1, out), out, values)


def widen_bf16(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """float32 from bfloat16."""
    codes = _frozen(rng.integers(0, 1 << 16, out_bytes // 4).astype(np.uint16))
    out = np.empty(len(codes), np.uint32)
    return Kernel(lambda: cast._widen_bf16(codes, out), out, codes.astype(np.uint32) << np.uint32(16))


def widen_fp16(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """float32 from half precision."""
    halves = rng.standard_normal(out_bytes // 4).astype(np.float16)
    codes = _frozen(halves.view(np.uint16))
    out = np.empty(len(codes), np.uint32)
    return Kernel(lambda: cast._widen_fp16(codes, out), out, halves.astype(np.float32).view(np.uint32))


def look_up(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 from codes of one byte and a table of 200 entries."""
    table = dictionary.table(rng.integers(0, 1 << 62, 200))
    codes = rng.integers(1, 201, out_bytes // 8).astype(np.uint8)
    out = np.empty(len(codes), np.uint64)
    return Kernel(lambda: dictionary._gather(table, codes, out), out, table[codes])


def unpack_and_look_up(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 from codes of eight bits, unpacked block by block."""
    table = dictionary.table(rng.integers(0, 1 << 62, 200))
    codes = rng.integers(1, 201, out_bytes // 8).astype(np.uint32)
    packed = _frozen(bitpack.pack_words(codes, np.zeros(len(codes) // 1_024, np.uint64), 8))
    scratch, found = np.empty(1_024, np.uint32), np.array([0, 2**32 - 1], np.uint32)
    out = np.empty(len(codes), np.uint64)
    return Kernel(lambda: dictionary._unpack_gather(packed, 8, table, scratch, found, out), out, table[codes])


def varints(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 from LEB128, most of them of one byte."""
    values = np.minimum(rng.zipf(1.3, out_bytes // 8), 1 << 20).astype(np.uint64)
    payload = _frozen(np.frombuffer(varint.Varint().encode(values), np.uint8))
    out = np.empty_like(values)
    return Kernel(lambda: varint._decode(payload, out), out, values)


def views(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 items of list views, out of the edits of lists that slide: every byte written is one of a new item."""
    rows = out_bytes // 8 // NEW
    mode = np.ones(rows, np.uint32)
    mode[0] = 0
    new = np.full(rows, NEW, np.uint32)
    skip = keep = np.zeros(rows - 1, np.uint32)
    literals = rng.integers(0, 1 << 40, rows * NEW).astype(np.uint64)
    sizes = np.minimum(np.arange(1, rows + 1) * NEW, LIST).astype(np.int32)
    child, starts = np.empty(rows * NEW, np.uint64), np.empty(rows, np.int32)
    expected = literals.reshape(rows, NEW)[::-1].ravel()
    return Kernel(
        lambda: listviews._views(mode, new, skip, keep, literals, 0, 0, sizes, child, starts), child, expected
    )


def gather(rng: np.random.Generator, out_bytes: int) -> Kernel:
    """int64 lists copied out of views that overlap."""
    rows = out_bytes // 8 // LIST
    child = rng.integers(0, 1 << 40, rows * NEW + LIST).astype(np.uint64)
    starts = (np.arange(rows, dtype=np.int32) * NEW)[::-1].copy()
    offsets = np.arange(0, rows * LIST + 1, LIST, dtype=np.int32)
    out = np.empty(rows * LIST, np.uint64)
    expected = np.concatenate([child[start : start + LIST] for start in starts])
    return Kernel(lambda: listviews._gather(child, starts, offsets, out), out, expected)


def kernels(out_bytes: int, seed: int) -> dict[str, Kernel]:
    """All of them, by the names that the table uses."""
    rng = np.random.default_rng(seed)
    return {
        **{f"unpack {width} bits": unpack(rng, out_bytes, width) for width in (4, 7, 12, 13, 20, 31)},
        "delta": integrate(rng, out_bytes),
        "byte split": join(rng, out_bytes),
        "bf16": widen_bf16(rng, out_bytes),
        "dictionary u8": look_up(rng, out_bytes),
        "fp16": widen_fp16(rng, out_bytes),
        "varint": varints(rng, out_bytes),
        "dictionary unpack": unpack_and_look_up(rng, out_bytes),
        "sequence views": views(rng, out_bytes),
        "sequence gather": gather(rng, out_bytes),
    }


def _frozen(array: Array) -> Array:
    """As the encodings hand payloads over: read-only, so that each kernel compiles for one layout."""
    view = array.view()
    view.flags.writeable = False
    return view


class Kernels(Runner):
    """Seconds of each kernel's quickest call."""

    def __init__(self, args: Args) -> None:
        _jit.prefer_kernels()
        self._calls = args["calls"]
        self._kernels = kernels(args["out_bytes"], args["seed"])
        for name, kernel in self._kernels.items():
            kernel.call()
            if not np.array_equal(kernel.out, kernel.expected):
                raise ValueError(f"the kernel {name!r} does not return what was encoded")

    def run(self) -> Result:
        return Result({name: quickest(kernel.call, self._calls) for name, kernel in self._kernels.items()})


if __name__ == "__main__":
    serve(Kernels)
