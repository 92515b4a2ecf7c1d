"""The values behind the golden payloads beside this file, and the only way to write those anew.

    python tests/storage/golden/encodings/rewrite.py --the-format-has-changed

A changed golden file means that files written before cannot be read any more.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings import ALL

FOLDER = Path(__file__).parent

# Values of every width that the encoding cares about; codes, not values, for the dictionary.
VALUES: dict[str, NDArray[Any]] = {
    "constant": np.full(3, -2, np.int16),
    "plain": np.array([-0.0, np.inf, 1.5, 2.0**-149], np.float32),
    "bitpack": np.array([-3, 5, 0, 4, -1, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 5, -3], np.int64),
    "dictionary": np.array([1, 2, 3, 4, 3, 2, 1], np.uint32),
    "rle": np.repeat(np.array([9, 200, 9], np.uint8), [4, 1, 7]),
    # Enough of them that exceptions pay, on both sides of a block's end.
    "pfor": np.append(np.arange(1100) % 13 - 6, [-(2**50), 2**62]),
    "delta": np.arange(40, dtype=np.uint32)[::-1] * 3,
    "varint": np.array([0, 127, 128, 2**32, 2**64 - 1], np.uint64),
    "zigzag": np.array([0, -1, 1, -2, 127, -128], np.int8),
    "bitmap": np.arange(11) % 3 == 0,
    "sparse_bool": np.arange(300) % 90 != 7,
    "mainly_constant": np.where(np.arange(40) % 9 == 0, -0.0, 0.5),
}


def main(arguments: list[str]) -> int:
    if arguments != ["--the-format-has-changed"]:
        print(__doc__)
        return 1
    for encoding in ALL:
        if encoding.name in VALUES:
            (FOLDER / f"{encoding.name}.bin").write_bytes(encoding.encode(VALUES[encoding.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
