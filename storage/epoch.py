"""The order in which a training epoch reads rows: a pure function of the seed and the epoch's number.

Rows are cut into stretches, the stretches put in an order drawn from (seed, epoch), some of them in a row make a
window, and the rows of a window are shuffled. The result is one stream of batches. Ranks and workers get neighbouring
batches of it, so what a batch holds never depends on how many there are, each batch is handed out once, and going on
in mid-epoch is counting. Shuffling by storage unit and then within a buffer is common practice (WebDataset,
MosaicML's streaming). Nothing is read here and torch is not known: ``storage.torch`` reads what this plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stretch:
    """Rows ``first`` up to ``last`` of one file, ``rows`` of which are not deleted."""

    file: int
    first: int
    last: int
    rows: int


class Epoch:
    """One epoch's stream of batches.

    Attributes:
        n_rows: rows in the stream.
        n_batches: batches they make; all hold ``batch_rows`` rows but the last one, which ``drop_last`` leaves out.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        *,
        seed: int,
        number: int,
        shuffle: bool,
        window: int,
        batch_rows: int,
        drop_last: bool = False,
    ) -> None:
        """Plan an epoch.

        Args:
            stretches: all rows, in file order.
            seed, number: of the run and of the epoch; the same ones plan the same stream.
            shuffle: False keeps file order.
            window: stretches whose rows are shuffled together.
            batch_rows: rows of a batch.
            drop_last: leave out a last batch that is not full.
        """
        self._seed, self._number, self._shuffle, self._batch_rows = seed, number, shuffle, batch_rows
        kept = [stretch for stretch in stretches if stretch.rows]
        order = self._random(0).permutation(len(kept)) if shuffle else np.arange(len(kept))
        ordered = [kept[at] for at in order]
        self.windows = [tuple(ordered[at : at + window]) for at in range(0, len(ordered), window)]
        sizes = [sum(stretch.rows for stretch in members) for members in self.windows]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.n_rows = int(self._starts[-1])
        self.n_batches = self.n_rows // batch_rows if drop_last else -(-self.n_rows // batch_rows)

    def _random(self, *what: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, self._number, *what])))

    def rows_of(self, batches: range) -> tuple[int, int]:
        """First row and row after the last one of some neighbouring batches, counted in the stream."""
        return (
            min(batches.start * self._batch_rows, self.n_rows),
            min(batches.stop * self._batch_rows, self.n_rows),
        )

    def windows_of(self, first: int, last: int) -> range:
        """The windows that rows ``first`` up to ``last`` of the stream come from."""
        if first >= last:
            return range(0)
        lo = int(np.searchsorted(self._starts, first, side="right")) - 1
        return range(lo, int(np.searchsorted(self._starts, last, side="left")))

    def start(self, window: int) -> int:
        """The row of the stream with which a window begins."""
        return int(self._starts[window])

    def permutation(self, window: int) -> NDArray[np.int64] | None:
        """Which row of a window, in file order, comes at each place of the stream; None is as they are."""
        if not self._shuffle:
            return None
        rows = int(self._starts[window + 1] - self._starts[window])
        return self._random(1, window).permutation(rows)


def share(batches: range, part: int, parts: int, *, even: bool = False) -> range:
    """One of ``parts`` neighbouring shares of ``batches``; the first ones hold one more where they cannot be equal.

    Args:
        batches: what is shared.
        part: which share, from 0.
        parts: how many there are.
        even: leave out the last few batches instead, so that all shares are equal.

    >>> [share(range(8), part, 3) for part in range(3)]
    [range(0, 3), range(3, 6), range(6, 8)]
    """
    if not 0 <= part < parts:
        raise ValueError(f"expected a share from 0 to {parts - 1}, got {part}")
    each, more = divmod(len(batches), parts)
    if even:
        more = 0
    start = batches.start + part * each + min(part, more)
    return range(start, start + each + (part < more))


def handed_out(batches: int, worker: int, workers: int) -> int:
    """How many of the first ``batches`` that a loader handed out in turns came from one of its workers.

    >>> [handed_out(8, worker, 3) for worker in range(3)]
    [3, 3, 2]
    """
    return len(range(worker, batches, workers))
