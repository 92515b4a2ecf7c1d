"""``python -m benchmarks NAME [--quick | --full] [--json FILE]``: measure one table and print it."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.case import Case, Profile, Table
from benchmarks.report import table_text
from benchmarks.run import RESULTS, Measured, run

TABLES = (
    "pipeline",
    "scheduler",
    "store",
    "seq",
    "wide",
    "take",
    "kernels",
    "tables",
    "erase",
    "multilabel",
    "multilabel_ablation",
    "multilabel_parts",
    "multilabel_drift",
    "recommender",
    "ctr",
)
"""Modules of this package that offer a ``TABLE``."""


def main(argv: Sequence[str] | None = None) -> int:
    """0: every cell of ours has a number, be it a loss; 1: one has none; 2: wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=TABLES, metavar="NAME", help=f"one of: {', '.join(TABLES)}")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="at most 90 seconds, less data; says little")
    extent.add_argument(
        "--full",
        action="store_true",
        help="hours; keeps every repetition, so a killed run goes on where it was",
    )
    parser.add_argument("--retry", action="store_true", help="with --full: measure failed cells again")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="end after so long; a table that keeps its cells goes on there the next time",
    )
    parser.add_argument(
        "--only",
        metavar="WORD",
        help="only cases whose names begin so; speed can then be measured when nothing else runs",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments = parser.parse_args(argv)
    profile = Profile.QUICK if arguments.quick else Profile.FULL if arguments.full else Profile.DEFAULT
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the contestants on the way out
    table: Table = importlib.import_module(f"benchmarks.{arguments.name}").TABLE
    if arguments.only is not None:
        table = narrowed(table, arguments.only)
    try:
        measured = run(
            table,
            profile,
            budget_s=arguments.budget,
            retry=arguments.retry,
            say=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted" + ("; run it again to go on" if profile is Profile.FULL else ""), file=sys.stderr)
        return 130
    print(text(measured))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(measured.document(), indent=1) + "\n")
    return 1 if any(row.ours is None for row in measured.rows) else 0


def narrowed(table: Table, word: str) -> Table:
    """``table`` with those of its cases alone whose names begin with ``word``."""

    def cases(profile: Profile) -> tuple[Case, ...]:
        every = table.cases(profile)
        found = tuple(case for case in every if case.name.startswith(word))
        if not found:
            names = ", ".join(case.name for case in every)
            raise SystemExit(f"expected the beginning of a case's name, got {word!r}; there are: {names}")
        return found

    return replace(table, cases=cases)


def text(measured: Measured) -> str:
    """Header, table and notes."""
    machine, header = measured.machine, measured.document()["header"]
    repetitions = [repetition for cell in measured.cells for repetition in cell.repetitions]
    loads = [load for repetition in repetitions for load in (repetition.load_before, repetition.load_after)]
    busy = f"; around repetitions {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    lines = [
        "",
        f"{measured.table.title} ({measured.profile.value}, verification {header['verification']})",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}; "
        f"Python {machine.python}, JDK {machine.jdk}",
        *(
            f"{count} of {len(measured.cells)} cells are scores that another machine has kept: {cpu}; their CPU seconds are its own"
            for cpu, count in measured.elsewhere.items()
        ),
        ", ".join(f"{name} {version}" for name, version in sorted(measured.versions.items())),
        f"load average {measured.load[0]:.1f} at the start, {measured.load[1]:.1f} at the end{busy}; "
        f"took {measured.wall_s:.0f} s",
        "best of n counted repetitions; spread = (max - min) / min",
        "",
        *(
            [table_text(measured.rows)]
            if measured.table.view is None
            else measured.table.view(measured, RESULTS)
        ),
        *(f"{name}: skipped: {reason}" for name, reason in measured.skipped.items()),
        "",
        *measured.table.notes,
    ]
    if measured.table.view is not None:
        return "\n".join(lines)
    lost = sum(row.loses for row in measured.rows if row.peers)
    return "\n".join([*lines, f"{lost} of {sum(bool(row.peers) for row in measured.rows)} comparisons lost"])


if __name__ == "__main__":
    sys.exit(main())
