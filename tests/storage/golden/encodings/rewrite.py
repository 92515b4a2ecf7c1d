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
}


def main(arguments: list[str]) -> int:
    if arguments != ["--the-format-has-changed"]:
        print(__doc__)
        return 1
    for encoding in ALL:
        (FOLDER / f"{encoding.name}.bin").write_bytes(encoding.encode(VALUES[encoding.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
