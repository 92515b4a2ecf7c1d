"""One multi-label model on a stream with a known change: scores around it, recovery, and when it said that something had changed.

Ten rows are predicted, then learnt, and so on from the first to the last. Alarms after the first 1,000 rows and before the change
are false ones, and so are all of a stream without a change; the first one after the change is its detection. A model has recovered
at the first 500 rows after the change that score 95 % of its own 1,500 rows before it.

Runs in the rivals' environments: the standard library, numpy and pyarrow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.runners.multilabel_made import CHANGE_AT, DRIFT_ROWS, drifting, groups_of
from benchmarks.runners.multilabel_stream import Stream, Tally
from benchmarks.runners.protocol import Args, Result, Runner

BATCH = 10
WARM_ROWS = 1_000
BESIDE = 1_500
"""Rows before and after the change that are scored for themselves."""
WINDOW = 500
BACK_AT = 0.95


class Watched(Protocol):
    """A contestant: ten rows at a time, predict says uint8[m, L] of float64[m, D]; alarms is how often it has noticed a change so far
    (what it has let go may be missing), clusters which labels it holds together, if it says so."""

    def predict(self, x: Any) -> Any: ...
    def learn(self, x: Any, y: Any) -> None: ...
    def alarms(self) -> int: ...
    def clusters(self) -> list[list[int]] | None: ...


def agreement(clusters: Sequence[Sequence[int]], groups: Any) -> float:
    """The adjusted Rand index of a partition and the true groups: 1 the same, 0 by chance (Hubert and Arabie, 1985)."""
    counts = np.array(
        [np.bincount(groups[list(members)], minlength=4) for members in clusters if len(members)]
    )

    def pairs(n: Any) -> float:
        return float((n * (n - 1) / 2).sum())

    both, mine, true = pairs(counts), pairs(counts.sum(1)), pairs(counts.sum(0))
    chance = mine * true / pairs(counts.sum())
    most = (mine + true) / 2
    return (both - chance) / (most - chance) if most != chance else 1.0


class Drift(Runner):
    """``make(stream, args)`` gives the contestant; ``frozen`` in the arguments ends its learning at the change."""

    def __init__(self, args: Args, make: Any) -> None:
        self._args, self._make = args, make
        self._stream: Stream = drifting(args["kind"], args["seed"])

    def run(self) -> Result:
        stream, frozen = self._stream, bool(self._args.get("frozen"))
        model: Watched = self._make(stream, self._args)
        tallies = {name: Tally(len(stream.labels)) for name in ("before", "after", "end")}
        windows = [Tally(len(stream.labels)) for _ in range(0, DRIFT_ROWS, WINDOW)]
        noticed: list[int] = []
        told = rows = 0
        values: dict[str, float] = {}
        groups_before, groups_after = groups_of(self._args["kind"])
        began = time.process_time()
        for at in range(0, DRIFT_ROWS, BATCH):
            x, y = stream.x[at : at + BATCH], stream.y[at : at + BATCH]
            if at == CHANGE_AT and model.clusters() is not None:
                values["clusters before"] = agreement(model.clusters() or [], groups_before)
            said = model.predict(x)
            for name, first in (
                ("before", CHANGE_AT - BESIDE),
                ("after", CHANGE_AT),
                ("end", DRIFT_ROWS - BESIDE),
            ):
                if first <= at < first + BESIDE:
                    tallies[name].add(said, y)
            windows[at // WINDOW].add(said, y)
            if not (frozen and at >= CHANGE_AT):
                model.learn(x, y)
            told, last = model.alarms(), told
            noticed += [at + BATCH] * (told - last)
            rows = at + BATCH
            if time.process_time() - began > self._args["cap_s"]:
                break
        values |= {"n": float(rows), "cpu_s": time.process_time() - began}
        if rows == DRIFT_ROWS and model.clusters() is not None:
            values["clusters end"] = agreement(model.clusters() or [], groups_after)
        for name, tally in tallies.items():
            if tally.n == BESIDE:
                values[name] = tally.scores()["micro"]
        late = [row - CHANGE_AT for row in noticed if row > CHANGE_AT]
        early = [row for row in noticed if WARM_ROWS < row <= CHANGE_AT]
        if late:
            values["delay"] = float(late[0])
        seen = min(rows, CHANGE_AT) - WARM_ROWS
        values["false"] = 1_000.0 * len(early) / max(seen, 1)
        if "before" in values:
            back = [
                number * WINDOW - CHANGE_AT + WINDOW
                for number, window in enumerate(windows)
                if number * WINDOW >= CHANGE_AT
                and window.n == WINDOW
                and window.scores()["micro"] >= BACK_AT * values["before"]
            ]
            if back:
                values["recovery"] = float(back[0])
        return Result(values)
