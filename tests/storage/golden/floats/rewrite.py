"""The values behind the golden payloads beside this file, and the only way to write those anew.

    python -m tests.storage.golden.floats.rewrite --the-format-has-changed

A changed golden file means that files written before cannot be read any more.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import Encoding
from headrace.storage.encodings.alp import ALP
from headrace.storage.encodings.byte_split import ByteSplit
from headrace.storage.encodings.cast import Cast
from headrace.storage.encodings.fsst import FSST
from headrace.storage.encodings.int8 import Int8
from headrace.storage.encodings.zstd import Zstd

Array = NDArray[Any]
Child: TypeAlias = Callable[[Array], tuple[int, bytes]]

FOLDER = Path(__file__).parent
NUMBERS = np.array([0.25, -1.5, np.inf, 12.75, -0.0, np.nan, 3.0, 1e-7, 1000.0], np.float32)


def plain(values: Array) -> tuple[int, bytes]:
    return 1, values.tobytes()


CASES: dict[str, tuple[Array, Encoding, Child | None]] = {
    "byte_split": (NUMBERS, ByteSplit(), plain),
    "alp": (NUMBERS.astype(np.float64), ALP(), plain),
    "alp_packed": (np.arange(40) / 4, ALP(), None),
    "zstd": (np.arange(99) % 5, Zstd(), None),
    "fsst": (np.frombuffer(b"http://a.example/x http://b.example/y \xff\xfe", np.uint8), FSST(), plain),
    "cast_fp16": (NUMBERS, Cast("fp16"), plain),
    "cast_bf16": (NUMBERS, Cast("bf16"), plain),
    "cast_fp8_e4m3": (NUMBERS, Cast("fp8_e4m3"), plain),
    "cast_fp8_e5m2": (NUMBERS, Cast("fp8_e5m2"), plain),
    "int8": (NUMBERS, Int8(writes=True), plain),
}
"""Values, who writes them, and how their children are written."""

# What lossy formats make of NUMBERS, by their bits.
LOSSY: dict[str, list[float]] = {
    "cast_fp16": [0.25, -1.5, np.inf, 12.75, -0.0, np.nan, 3.0, 2.0**-24 * 2, 1000.0],
    "cast_bf16": [0.25, -1.5, np.inf, 12.75, -0.0, np.nan, 3.0, 215 / 2**31, 1000.0],
    "cast_fp8_e4m3": [0.25, -1.5, 448.0, 13.0, -0.0, np.nan, 3.0, 0.0, 448.0],
    "cast_fp8_e5m2": [0.25, -1.5, np.inf, 12.0, -0.0, np.nan, 3.0, 0.0, 1024.0],
}


def expected(name: str) -> Array:
    """What must come back."""
    values, _, _ = CASES[name]
    if name == "int8":
        scale = float(np.float32(1001.5 / 252))
        codes = np.array([0, 0, 254, 4, 0, 255, 1, 0, 252])
        numbers = -1.5 + scale * codes
        return np.where(codes == 254, np.inf, np.where(codes == 255, np.nan, numbers)).astype(np.float32)
    if name not in LOSSY:
        return values
    back = np.array(LOSSY[name], np.float32)
    if name == "cast_fp8_e4m3":
        back.view(np.uint32)[5] = 0x7FF00000
    if name == "cast_fp8_e5m2":
        back.view(np.uint32)[5] = 0x7FE00000
    return back


def main(arguments: list[str]) -> int:
    if arguments != ["--the-format-has-changed"]:
        print(__doc__)
        return 1
    for name, (values, encoding, child) in CASES.items():
        (FOLDER / f"{name}.bin").write_bytes(encoding.encode(values, child))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
