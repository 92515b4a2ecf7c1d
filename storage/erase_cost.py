"""What forgetting will cost a table in a year, by layout and by how often requests are carried out together.

In the flow: ``headrace erase advise``. What the table costs as it lies is measured, by dry runs for persons drawn at random; what it
would cost with a person's rows scattered or side by side is expected, from the bytes of each column: k places thrown at random into
N disk blocks touch N (1 - (1 - 1/N)^k) of them. A rewrite costs every file that holds one of the persons, and most do.

*Side by side* takes a person's values to lie together in the bytes, which the profile ``compliance`` sees to. Planes of bytes do not grant
it, nor does what must be encoded again as a whole: there it is a lower bound.

It counts disk blocks of data; journal and footer come on top of those in place. What it does not know: caches, and what a file system does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from headrace.storage.erase import erase
from headrace.storage.erasing import DISK_BLOCK
from headrace.storage.errors import NoEraseKey
from headrace.storage.held import kept_files, key_type
from headrace.storage.manifest import DATA
from headrace.storage.paths import inside
from headrace.storage.reader import File
from headrace.storage.subjects import present

if TYPE_CHECKING:
    from headrace.storage.table import Table

CADENCES = (365, 52, 13)
"""Runs a year: daily, weekly, every four weeks."""
Layout = Literal["as it lies", "scattered", "side by side", "rewrite"]


@dataclass(frozen=True)
class Cost:
    """One layout and cadence.

    Attributes:
        runs: a year.
        persons: of a run.
        blocks: disk blocks of data of a run, measured or expected.
        bytes_a_year: of all runs.
        times: how often all data is written in a year.
    """

    layout: Layout
    measured: bool
    runs: int
    persons: int
    blocks: float
    bytes_a_year: float
    times: float


def touched(places: float, blocks: float) -> float:
    """Disk blocks that are touched by some places at random.

    >>> round(touched(1000, 1000))
    632
    """
    return blocks * -np.expm1(places * np.log1p(-1 / blocks)) if blocks > 1 else min(places, blocks)


def advise(table: Table, share: float, cadences: Sequence[int] = CADENCES, *, seed: int = 0) -> list[Cost]:
    """Costs of each layout and cadence, the cheapest first.

    Args:
        table: with an erase key.
        share: of all persons, who ask in a year; above 0, at most 1.
        cadences: runs a year.
        seed: of who is drawn.

    Raises:
        NoEraseKey: nothing says whose a row is, or there is nobody.
        ValueError: a share or a cadence that is none.
    """
    if not 0 < share <= 1 or any(runs < 1 for runs in cadences):
        raise ValueError(
            f"expected a share above 0 and up to 1 and runs of 1 or more, got {share} and {list(cadences)}"
        )
    key_type(table)
    everyone = present(table)
    if not len(everyone):
        raise NoEraseKey(f"{table.path}: holds nobody's rows; look again when it does")
    columns, n_rows, size = _columns(table)
    rows_each = n_rows / len(everyone)
    found = []
    for runs in cadences:
        n = max(1, round(share * len(everyone) / runs))
        rng = np.random.default_rng(seed)
        some = everyone.take(pa.array(rng.choice(len(everyone), n, replace=False)))
        lies = erase(table, some.to_pylist(), dry_run=True)
        scattered = sum(touched(n * rows_each, max(1.0, column / DISK_BLOCK)) for column in columns)
        together = sum(
            touched(n * (1 + rows_each * column / n_rows / DISK_BLOCK), max(1.0, column / DISK_BLOCK))
            for column in columns
        )
        by_layout: list[tuple[Layout, bool, float]] = [
            ("as it lies", True, float(sum(file.data_blocks for file in lies.files))),
            ("scattered", False, scattered),
            ("side by side", False, together),
            ("rewrite", True, sum(file.bytes_total for file in lies.files) / DISK_BLOCK),
        ]
        for layout, measured, blocks in by_layout:
            year = blocks * DISK_BLOCK * runs
            found.append(Cost(layout, measured, runs, n, blocks, year, year / size))
    return sorted(found, key=lambda cost: cost.bytes_a_year)


def _columns(table: Table) -> tuple[list[float], int, int]:
    """Bytes of each column's pages over all kept files, their rows, and the files' bytes."""
    bytes_of: dict[str, float] = {}
    n_rows = size = 0
    for entry in kept_files(table):
        with File(inside(table.path, entry.path, DATA)) as file:
            n_rows, size = n_rows + file.n_rows - file.footer.n_deleted(), size + entry.bytes
            for column in file.footer.columns(None):
                parts = file.footer.parts(column) if column.parts else [column]
                for part in parts:
                    pages = [
                        row
                        for group in range(file.footer.n_groups)
                        for row in file.footer.chunk(part, group).pages
                    ]
                    name = f"{column.name}/{part.id}"
                    bytes_of[name] = bytes_of.get(name, 0) + sum(row.used_len for row in pages)
    return list(bytes_of.values()), max(1, n_rows), max(1, size)
