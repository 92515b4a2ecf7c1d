"""When and how much of the budget moves: a share that falls along a cosine (Wang et al., WSDM 2024, arXiv 2402.02855).

In the flow: `published` asks for the share of its weights, `explore` for that of its blocks.
"""

import math
from dataclasses import dataclass


def cosine(high: float, low: float, at: float) -> float:
    """The share that moves when `at`, 0…1, of the schedule is over: from `high` to `low`."""
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * at))


@dataclass(frozen=True)
class Schedule:
    """How much moves. every: interactions between explorations. start, least: share of the blocks beyond each row's first.

    horizon: explorations until `least` is reached. tolerance, threshold: of the alarm, in units of the loss.
    """

    every: int = 20_000
    start: float = 0.05
    least: float = 0.01
    horizon: int = 50
    look: int = 1_000
    tolerance: float = 0.005
    threshold: float = 3.0

    def __post_init__(self) -> None:
        if not (self.every >= 1 and 0 <= self.least <= self.start <= 1 and self.horizon >= 1):
            raise ValueError(
                f"expected every and horizon of at least 1 and 0 <= least <= start <= 1, came {self}; set them so"
            )
