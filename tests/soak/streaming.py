"""Soak of the stream: decoding, gate, joins and duplicates against their slow twins, and the gate against its second opinion."""

from __future__ import annotations

from pathlib import Path

from headrace.streaming.contracts.expectations import Checker
from tests.streaming import test_expectations as expectations

from .item import Item, Room, Tried, properties


def two_engines_agree(seed: int, folder: Path, batches: int = 20) -> Tried:
    """Masks and great-expectations on batches made of values that break every rule; they share no code."""
    checker = Checker(expectations.CONTRACT)
    for number in range(batches):
        expectations.test_engines_agree_on_wild_rows(checker, seed + number)
    return Tried(batches)


ROOM = Room(
    (
        Item(
            "decoding and masks",
            properties("tests/streaming/test_decode.py", "tests/streaming/test_masks.py", examples=1500),
        ),
        Item(
            "joins, duplicates and restarts",
            properties(
                "tests/streaming/test_joins.py",
                "tests/streaming/test_dedupe.py",
                "tests/streaming/test_loop.py",
                examples=400,
            ),
        ),
        Item("properties of the stream", properties("tests/streaming", examples=150)),
        Item("two engines agree", two_engines_agree),
    )
)
