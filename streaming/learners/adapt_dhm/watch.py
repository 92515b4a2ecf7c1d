"""`Watch`: drift alarms, one detector a domain on its log loss, and how much faster to learn after one.

In the flow: told of each resolved batch's losses by `classifier`, which asks it for `faster` before each step. ADWIN (Bifet and Gavalda,
SDM 2007) is fed each loss, cut off at `MOST` and scaled to [0, 1]: it is made for bounded values. A rising mean raises the rates; it falls back to 1 over the next `FADE` rows. A falling mean is progress, not drift.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.ihomer.adwin import DELTA, Adwins, new_adwins, watch

DOMAINS: Final = 64
"""Domains that have a detector of their own; later ones share the last."""
MOST: Final = 3.0
"""Nats: a loss above says no more than this."""
RAISED: Final = 1.5
FADE: Final = 20_000


class Watch:
    """Attributes: alarms, int64[DOMAINS] by domain; last_alarm, rows seen when the last one was raised, -1 before it."""

    def __init__(self) -> None:
        self.adwins: Adwins = new_adwins(DOMAINS)
        self.alarms = np.zeros(DOMAINS, np.int64)
        self.rows = 0
        self.last_alarm = -1

    @property
    def faster(self) -> float:
        """What the rates are multiplied by now, 1…1.5."""
        if self.last_alarm < 0:
            return 1.0
        return 1.0 + (RAISED - 1.0) * max(0.0, 1.0 - (self.rows - self.last_alarm) / FADE)

    def feed(self, losses: npt.NDArray[np.float64], domains: npt.NDArray[np.int64]) -> list[int]:
        """Note the losses of resolved rows, in order, `float64[n]`, with their domains, `int64[n]`; the domains that raise an alarm."""
        self.rows += len(losses)
        raised: list[int] = []
        clipped = np.minimum(losses, MOST) / MOST
        places = np.minimum(domains, DOMAINS - 1)
        for place in np.unique(places).tolist():
            rising = np.zeros(1, np.int64)
            mine = Adwins(*(array[place : place + 1] for array in self.adwins))
            watch(mine, clipped[places == place][:, None], DELTA, rising)
            if rising[0] > 0:
                raised.append(place)
        for place in raised:
            self.alarms[place] += 1
            self.last_alarm = self.rows
        return raised
