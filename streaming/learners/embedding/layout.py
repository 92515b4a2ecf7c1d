"""What each byte of the table is for: rows, blocks, index and doorkeeper, counted before anything is allocated.

In the flow: `Layout.within` turns a budget in bytes into numbers of rows and blocks; `store` allocates exactly these arrays
once, and never another. A row costs the same whatever it learns; what moves between rows is blocks.

Deliberately absent: growth of any array. A table that doubles needs three times its bytes while it does.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.errors import BudgetTooSmall

WIDTH: Final = 8
"""Weights in a block: half a cache line of fp32, one word of int8."""
ROW_BYTES: Final = 256
"""What a row takes with its index and blocks where nobody says how many rows there are to be: five blocks of fp32, eight of bf16 or int8."""
Code = Literal["fp32", "bf16", "int8"]
Optimiser = Literal["adagrad", "adam"]
CODES: Final = {"fp32": 0, "bf16": 1, "int8": 2}
_WEIGHT: Final = {"fp32": np.float32, "bf16": np.uint16, "int8": np.int8}
NONE: Final = 0xFFFFFFFF
"""No row, no block: the end of a chain."""
FREE_ROW, FREE_BLOCK, LIVE_ROWS, LIVE_BLOCKS, DRAWS, EVICTED, ADMITTED, REFUSED = range(8)
"""Places of `Arrays.free`: the first free row and block, counters, and how often random numbers were drawn."""


class Arrays(NamedTuple):
    """Everything a table holds. R rows, B blocks; arrays that a layout does not need have length 0."""

    table: npt.NDArray[np.uint32]  # [power of two] row of a key, 0 where empty
    door: npt.NDArray[np.uint32]  # [power of two] fingerprints of ids without a row
    keys: npt.NDArray[np.uint64]  # [R, 2]
    blocks: npt.NDArray[np.uint8]  # [R] blocks of a row; 0: the row is free
    head: npt.NDArray[np.uint32]  # [R] first block, or the next free row
    generation: npt.NDArray[np.uint32]  # [R] how often the row was given up
    seen: npt.NDArray[np.float64]  # [R] event time of the last touch, in the caller's unit
    touches: npt.NDArray[np.float32]  # [R] touches, halved every half-life
    gain: npt.NDArray[np.float32]  # [R] gradient that the next block would have had, averaged
    young: npt.NDArray[np.uint8]  # [R] whether the last block was grown since the last exploration
    square: npt.NDArray[np.float32]  # [R] Adagrad: sum of mean squared gradients; Adam: steps
    chain: npt.NDArray[np.uint32]  # [B] the row's next block, or the next free one
    fp32: npt.NDArray[np.float32]  # [B or 0, 8]
    bf16: npt.NDArray[np.uint16]  # [B or 0, 8]
    int8: npt.NDArray[np.int8]  # [B or 0, 8]
    scale: npt.NDArray[np.float32]  # [B or 0] of an int8 block
    first: npt.NDArray[np.float32]  # [B or 0, 8] Adam's first moment
    second: npt.NDArray[np.float32]  # [B or 0, 8] Adam's second moment
    free: npt.NDArray[np.int64]  # [8] FREE_ROW to REFUSED
    knocks: npt.NDArray[np.float32]  # [door or 0] touches that an id without a row would have
    bar: npt.NDArray[np.float64]  # [2 or 0] when knocks were last aged; touches of the last row that was lost


@dataclass(frozen=True)
class Layout:
    """How many of what. rows: row 0 of each table is shared by ids without a row. max_blocks: of one row, 1…31.

    door: places of the doorkeeper, a power of two. counted: whether it counts, so that newcomers must be met more often than whom they replace.
    """

    rows: int
    n_blocks: int
    max_blocks: int = 8
    code: Code = "fp32"
    optimiser: Optimiser = "adagrad"
    door: int = 1024
    counted: bool = False

    def __post_init__(self) -> None:
        least = 2 <= self.rows < NONE and self.rows <= self.n_blocks < NONE
        if not least or not 1 <= self.max_blocks <= 31 or self.code not in CODES:
            raise BudgetTooSmall(
                f"expected at least 2 rows, a block for each and 1 to 31 blocks a row, came {self.rows} rows, {self.n_blocks} blocks "
                f"and {self.max_blocks} of {self.code!r}; grant more bytes or ask for fewer rows"
            )

    @classmethod
    def within(
        cls,
        budget_bytes: int,
        rows: int | None = None,
        *,
        max_blocks: int = 8,
        code: Code = "fp32",
        optimiser: Optimiser = "adagrad",
        door: int | None = None,
        counted: bool = False,
    ) -> "Layout":
        """The layout with the most blocks that `budget_bytes` holds, with `rows` rows or so many that each can have `ROW_BYTES` with its blocks.

        Raises BudgetTooSmall, naming the bytes that would do.

        >>> layout = Layout.within(100_000, rows=500)
        >>> layout.n_blocks, layout.nbytes <= 100_000
        (1994, True)
        """

        def made(rows: int, each: int) -> "Layout":
            places = _power(rows // 2) if door is None else door
            return cls(rows, each * rows, max_blocks, code, optimiser, places, counted)

        row = made(1_024, 1).nbytes // 1_024
        per_block = made(1_024, 2).nbytes // 1_024 - row
        if rows is None:
            each = min(max_blocks, max(2, 1 + (ROW_BYTES - row) // per_block))
            most = min(budget_bytes // WIDTH, NONE // max_blocks)
            # The last of 2, 3, … rows that fit.
            rows = 1 + bisect_right(range(2, most), budget_bytes, key=lambda n: made(n, each).nbytes)
        rows = max(2, rows)
        small = made(rows, 1)
        spare = (budget_bytes - small.nbytes) // per_block
        if spare < 0:
            raise BudgetTooSmall(
                f"expected at least {small.nbytes} bytes for {rows} rows of one {code} block with their index and {optimiser}'s state, "
                f"came {budget_bytes}; grant more bytes or ask for fewer rows"
            )
        # No row can hold more than max_blocks, so more of them would never be used.
        blocks = min(rows + spare, rows * max_blocks)
        return replace(small, n_blocks=blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        total = 0
        for dtype, shape in self.arrays().values():
            total += int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return total

    def arrays(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Dtype and shape of each array, by name."""
        r, b = self.rows, self.n_blocks
        moments = b if self.optimiser == "adam" else 0
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "table": (np.uint32, (_power(r * 3 // 2),)),
            "door": (np.uint32, (self.door,)),
            "keys": (np.uint64, (r, 2)),
            "blocks": (np.uint8, (r,)),
            "head": (np.uint32, (r,)),
            "generation": (np.uint32, (r,)),
            "seen": (np.float64, (r,)),
            "touches": (np.float32, (r,)),
            "gain": (np.float32, (r,)),
            "young": (np.uint8, (r,)),
            "square": (np.float32, (r,)),
            "chain": (np.uint32, (b,)),
        }
        for code, dtype in _WEIGHT.items():
            shapes[code] = (dtype, (b if code == self.code else 0, WIDTH))
        shapes["scale"] = (np.float32, (b if self.code == "int8" else 0,))
        shapes["first"] = shapes["second"] = (np.float32, (moments, WIDTH))
        shapes["free"] = (np.int64, (8,))
        shapes["knocks"] = (np.float32, (self.door if self.counted else 0,))
        shapes["bar"] = (np.float64, (2 if self.counted else 0,))
        return shapes

    def allocate(self) -> Arrays:
        """The arrays, all zero."""
        made: dict[str, Any] = {
            name: np.zeros(shape, dtype) for name, (dtype, shape) in self.arrays().items()
        }
        return Arrays(**made)


def _power(least: int) -> int:
    """The least power of two that is not below `least`, and at least 2."""
    return 1 << max(1, (least - 1).bit_length())
