"""`Watch`: drift alarms, one detector a domain on its log loss, and how much faster to learn after one.

In the flow: told of each resolved batch's losses by `classifier`, which asks it for `faster` before each step. ADWIN (Bifet and Gavalda,
SDM 2007) is fed means of `GROUP` losses, clipped to [0, 1] after division by `MOST`: it is made for bounded values, and one value a
group keeps it cheap. A rising mean raises the rates; it falls back to 1 over the next `FADE` rows. A falling mean is progress, not drift.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.ihomer.adwin import DELTA, Adwins, new_adwins, watch

DOMAINS: Final = 64
"""Domains that have a detector of their own; later ones share the last."""
GROUP: Final = 32
MOST: Final = 3.0
"""Nats: a loss above says no more than this."""
RAISED: Final = 1.5
FADE: Final = 20_000


class Watch:
    """Attributes: alarms, int64[DOMAINS] by domain; last_alarm, rows seen when the last one was raised, -1 before it."""

    def __init__(self) -> None:
        self.adwins: Adwins = new_adwins(DOMAINS)
        self.open = np.zeros((DOMAINS, 2))  # sum and number of losses of the group that is not full yet
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
            mine = np.concatenate([self.open[place, :1], clipped[places == place]])
            had = int(self.open[place, 1])
            n = had + len(mine) - 1
            full = n // GROUP
            ends = np.cumsum(mine)
            stops = GROUP * np.arange(1, full + 1) - had
            sums = np.diff(ends[stops], prepend=0.0)
            self.open[place] = ends[-1] - (ends[stops[-1]] if full else 0.0), n - GROUP * full
            if full:
                rising = np.zeros(DOMAINS, np.int64)
                values = np.full((full, DOMAINS), np.nan)
                values[:, place] = sums / GROUP
                watch(self.adwins, values, DELTA, rising)
                if rising[place] > 0:
                    raised.append(place)
        for place in raised:
            self.alarms[place] += 1
            self.last_alarm = self.rows
        return raised
