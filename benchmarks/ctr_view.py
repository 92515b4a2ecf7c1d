"""What is made of the cells of ``ctr``: a block per world, models best first, with paired differences to K=1; then speeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.case import OURS
from benchmarks.report import interval_text, table_text

CONTROL = "K=1"
WORLDS = ("base", "drift", "null", "crossed", "placebo", "movielens")


def view(measured: Any, results: Path) -> list[str]:
    """The lines below the header."""
    worlds: dict[str, dict[str, dict[str, Mapping[str, float]]]] = {}
    failed: list[str] = []
    for cell in measured.cells:
        key = cell.key
        world, _, seed = key["case"].rpartition(" ")
        if world not in WORLDS:
            continue
        if cell.failure is not None:
            failed.append(f"{key['contestant']} in {key['case']}: {cell.failure}")
        elif cell.repetitions:
            worlds.setdefault(world, {}).setdefault(key["contestant"], {})[seed] = cell.repetitions[0].values
    others = [row for row in measured.rows if row.case.startswith(("[demo]", "[speed]", "[throughput]"))]
    lines = [table_text(others)] if others else []
    for world, runs in worlds.items():
        lines += block(world, runs)
    return [*lines, *failed]


def block(world: str, runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """A world's lines; runs: values by model and seed."""
    control = runs.get(CONTROL, {})
    head = f"{'AUC':>7} {'third q.':>8} {'- K=1':>8} {'95 %':>16} {'worst':>8} {'seeds':>5} {'log loss':>8} {'CPU s':>6} {'weights':>8}"
    lines = ["", f"{f'[{world}]':28} {head}"]

    def average(values: Mapping[str, Mapping[str, float]], key: str) -> float:
        return mean(value[key] for value in values.values())

    for who, values in sorted(runs.items(), key=lambda pair: -average(pair[1], "auc")):
        apart = [value["auc"] - control[seed]["auc"] for seed, value in values.items() if seed in control]
        paired = f"{'':>34}"
        if who != CONTROL and apart:
            paired = f"{mean(apart):+8.4f} {interval_text(apart):>16} {min(apart):+8.4f}"
        mark = " *" if who.startswith(OURS) else ""
        lines.append(
            f"{who + mark:28} {average(values, 'auc'):7.4f} {average(values, 'third_auc'):8.4f} {paired} {len(values):5d} "
            f"{average(values, 'log_loss'):8.4f} {average(values, 'cpu_s'):6.1f} {average(values, 'weights'):8,.0f}"
        )
    return lines
