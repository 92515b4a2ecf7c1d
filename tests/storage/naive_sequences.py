"""The oracle of sliding lists: edits applied item by item with Python's lists, and scripts that make lists slide.

Nothing is shared with the store but the meaning of the streams as its format states it.
"""

import random
from typing import Any

Rows = list[list[int]]


class Damaged(Exception):
    """The streams are not those of any lists."""


def applied(
    mode: list[int], new: list[int], skip: list[int], keep: list[int], literals: list[Any], cap: int
) -> list[list[Any]]:
    """The rows that the streams write, newest item first."""
    counts, skips, keeps, items = iter(new), iter(skip), iter(keep), iter(literals)
    rows: list[list[Any]] = []
    try:
        for number in mode:
            row: list[Any] = []
            if number == 0:
                row += [next(items) for _ in range(next(counts))]
            elif not rows:
                raise Damaged("the first row has none before it")
            at = 0
            for left in range(number - 1, -1, -1):
                row += [next(items) for _ in range(next(counts))]
                passed, kept = next(skips), next(keeps)
                at += passed
                rest = len(rows[-1]) - at
                if rest < 0 or len(row) > cap:
                    raise Damaged("beyond the row before, or too long")
                if left == 0:
                    kept = min(rest, cap - len(row)) - kept
                if not 0 <= kept <= rest:
                    raise Damaged("more than is left")
                row += rows[-1][at : at + kept]
                at += kept
            if len(row) > cap:
                raise Damaged("too long")
            rows.append(row)
    except StopIteration:
        raise Damaged("a stream is short") from None
    if any(next(stream, None) is not None for stream in (counts, skips, keeps, items)):
        raise Damaged("a stream is long")
    return rows


def history(rng: random.Random, n_rows: int, vocabulary: int, cap: int, noise: float) -> Rows:
    """Lists, newest item first, that mostly slide and sometimes do anything else."""
    rows: Rows = []
    row: list[int] = []

    def item() -> int:
        return rng.randrange(vocabulary)

    for _ in range(n_rows):
        if rng.random() < 0.05:
            row = [item() for _ in range(rng.randrange(cap + 1))]
        row = [item() for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))] + row
        if rng.random() < noise and len(row) > 1:
            at = rng.randrange(len(row) - 1)
            row[at], row[at + 1] = row[at + 1], row[at]
        if rng.random() < noise and row:
            row.pop(rng.randrange(len(row)))
        if rng.random() < noise:
            row.insert(rng.randrange(min(32, len(row)) + 1), item())
        if rng.random() < noise / 4:
            row = [item() for _ in range(rng.randrange(5, 120))] + row
        if rng.random() < noise / 4:
            del row[: rng.randrange(len(row) + 1)]
        if rng.random() < noise / 8:
            row = []
        row = row[:cap]
        rows.append(list(row))
    return rows
