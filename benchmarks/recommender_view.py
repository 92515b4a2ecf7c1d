"""What is made of the cells of ``recommender``: the tries, then a block of lines per case, contestants best first, means over seeds.

Behind each mean stands the interval of ours minus it: 95 %, paired over seeds (Student's t).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.case import OURS
from benchmarks.report import interval_text, table_text

Values = Mapping[str, float]
TUNING = "tuning "


def view(measured: Any, results: Path) -> list[str]:
    """The lines below the header."""
    tables: dict[str, dict[str, dict[str, Values]]] = {}
    tries: dict[str, dict[str, dict[str, list[float]]]] = {}
    failed: list[str] = []
    for cell in measured.cells:
        key = cell.key
        if "epochs" not in key["args"]:
            continue
        name, _, seed = key["case"].rpartition(" ")
        if cell.failure is not None:
            failed.append(f"{key['contestant']} in {key['case']}: {cell.failure}")
        elif name.startswith(TUNING) and cell.repetitions:
            *tried, _, dataset = name.removeprefix(TUNING).split()
            found = tries.setdefault(dataset, {}).setdefault(key["contestant"], {})
            found.setdefault(" ".join(tried), []).append(cell.repetitions[0].values["valid"])
        elif cell.repetitions:
            tables.setdefault(name, {}).setdefault(key["contestant"], {})[seed] = cell.repetitions[0].values
    others = [row for row in measured.rows if not row.case.startswith(("[equal", "[tuning]"))]
    lines = [table_text(others)] if others else []
    for dataset, by_form in tries.items():
        lines += _tries(dataset, by_form)
    for name, runs in tables.items():
        lines += _block(name, runs)
    return [*lines, *failed]


def _tries(dataset: str, tries: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    """Each form's validation score by try, the mean of the seeds it was tried with, its best one marked."""
    heads = list(dict.fromkeys(tried for found in tries.values() for tried in found))
    lines = ["", f"{f'[tuning] {dataset}, validation':29}" + "".join(f"{head:>19}" for head in heads)]
    for who, found in tries.items():
        means = {tried: mean(scores) for tried, scores in found.items()}
        best = max(means.values())
        marked = (
            f"{means[head]:.4f}{'*' if means[head] == best else ' '}" if head in means else ""
            for head in heads
        )
        lines.append(f"{who:29}" + "".join(f"{mark:>19}" for mark in marked))
    return lines


def _block(name: str, runs: Mapping[str, Mapping[str, Values]]) -> list[str]:
    """A case's lines; runs: values by contestant and seed."""
    words, ours = name.split(), runs.get(OURS, {})
    title = f"[{' '.join(words[:-2])}] {' '.join(words[-2:])}"
    head = f"{'Recall@20':>9} {'ours -':>8} {'95 %':>16} {'NDCG@20':>8} {'seeds':>5} {'weights':>9} {'bytes':>10} {'CPU s':>7} {'epoch':>5}"
    lines = ["", f"{title:40} {head}"]

    def average(values: Mapping[str, Values], key: str) -> float:
        return mean(value[key] for value in values.values())

    for who, values in sorted(runs.items(), key=lambda pair: -average(pair[1], "recall")):
        apart = [ours[seed]["recall"] - value["recall"] for seed, value in values.items() if seed in ours]
        paired = f"{mean(apart):+8.4f} {interval_text(apart):>16}" if who != OURS and apart else " " * 25
        mark = " *" if who.startswith(OURS) else ""
        lines.append(
            f"{who + mark:40} {average(values, 'recall'):9.4f} {paired} {average(values, 'ndcg'):8.4f} {len(values):5d} "
            f"{average(values, 'parameters'):9,.0f} {average(values, 'bytes'):10,.0f} {average(values, 'cpu_s'):7.1f} "
            f"{average(values, 'epoch'):5.0f}"
        )
    return lines
