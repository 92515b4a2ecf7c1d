"""What is made of the cells of ``recommender``: one block of lines per case, contestants best first, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.case import OURS
from benchmarks.report import table_text

Values = Mapping[str, float]


def view(measured: Any, results: Path) -> list[str]:
    """The lines below the header."""
    tables: dict[str, dict[str, list[Values]]] = {}
    failed: list[str] = []
    for cell in measured.cells:
        key = cell.key
        if "epochs" not in key["args"]:
            continue
        name = key["case"].rpartition(" ")[0]
        if cell.failure is not None:
            failed.append(f"{key['contestant']} in {key['case']}: {cell.failure}")
        elif cell.repetitions:
            tables.setdefault(name, {}).setdefault(key["contestant"], []).append(cell.repetitions[0].values)
    others = [row for row in measured.rows if not row.case.startswith("[equal")]
    lines = [table_text(others)] if others else []
    for name, runs in tables.items():
        lines += _block(name, runs)
    return [*lines, *failed]


def _block(name: str, runs: Mapping[str, list[Values]]) -> list[str]:
    words = name.split()
    lines = ["", f"[{' '.join(words[:-2])}] {' '.join(words[-2:])}"]
    head = ("", "Recall@20", "range", "NDCG@20", "seeds", "weights", "bytes", "CPU s", "epoch")
    lines.append(
        f"{head[0]:28} {head[1]:>9} {head[2]:>13} {head[3]:>8} {head[4]:>5} {head[5]:>9} {head[6]:>10} {head[7]:>7} {head[8]:>5}"
    )

    def mean(values: list[Values], key: str) -> float:
        return sum(value[key] for value in values) / len(values)

    for who, values in sorted(runs.items(), key=lambda pair: -mean(pair[1], "recall")):
        recalls = [value["recall"] for value in values]
        mark = " *" if who.startswith(OURS) else ""
        lines.append(
            f"{who + mark:28} {mean(values, 'recall'):9.4f} {min(recalls):.3f}-{max(recalls):.3f}   {mean(values, 'ndcg'):8.4f} "
            f"{len(values):5d} {mean(values, 'parameters'):9,.0f} {mean(values, 'bytes'):10,.0f} {mean(values, 'cpu_s'):7.1f} "
            f"{mean(values, 'epoch'):5.0f}"
        )
    return lines
