"""The scheduler for longer: more and longer random traces through the plugin's queue and its twin."""

from __future__ import annotations

from pathlib import Path

from headrace.scheduler import model
from tests.scheduler import jvm
from tests.scheduler.test_twin import CLOCKS, POLICIES
from tests.scheduler.traces import random_trace

from .item import Item, Room, Tried

TRACES = 300


def traces(seed: int, folder: Path) -> Tried:
    """300 traces of 400 events each; both must order all of them alike."""
    played = [
        random_trace(seed * TRACES + n, POLICIES[n % 5], CLOCKS[n % 3], steps=400) for n in range(TRACES)
    ]
    expected = [order for trace in played for order in model.play(trace)]
    got = jvm.play(line for trace in played for line in trace)
    assert got == expected, next(
        n for n, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1]
    )
    return Tried(TRACES)


ROOM = Room((Item("traces", traces),))
