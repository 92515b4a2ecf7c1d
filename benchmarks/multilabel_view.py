"""What is made of the cells of ``multilabel``: scores at common prefixes, ranks with Friedman's test and Nemenyi's distance, wins.

Ranks are over data sets and nothing else (a mean is no data set). Where a model was run on several shuffles, its mean counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import OURS

SCORES = ("micro", "macro", "subset")
LEAST_ROWS = 500
TRIVIAL = ("no-change", "majority labelset")
SUBSET = "ours, subset"
OWN = (OURS, SUBSET, "ours, alone")
GLOBAL = ("MLHAT", "powerset HAT", "iSOUP")
"""Rivals that learn all labels at once; the others learn one model per label."""
Q_05 = (0.0, 0.0, 1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164, 3.219, 3.268, 3.313, 3.354)
"""Studentised range over the root of 2, by the number of models (Demsar, JMLR 2006, table 5)."""

Values = Mapping[str, float]
Runs = dict[str, dict[str, list[Values]]]
"""By data set and model, one `Values` per run."""


def view(measured: Any, results: Path) -> list[str]:
    """The lines below the header."""
    orders: dict[str, Runs] = {"stored": {}, "shuffled": {}}
    for cell in measured.cells:
        if cell.repetitions:
            _add(orders, cell.key, cell.repetitions[0].values)
    cached = _cached(orders, results / measured.table.name)
    lines = []
    for order, runs in orders.items():
        if runs:
            lines += _order(order, runs)
    if cached:
        lines.append(f"cached, not measured in this run: {', '.join(sorted(cached))}")
    return lines


def _add(orders: dict[str, Runs], key: Mapping[str, Any], values: Values) -> None:
    order = "stored" if key["args"]["shuffle"] is None else "shuffled"
    runs = orders[order].setdefault(key["args"]["dataset"], {})
    runs.setdefault(key["contestant"], []).append(values)


def _cached(orders: dict[str, Runs], folder: Path) -> set[str]:
    """Add kept cells of MLHAT where this run has none; the names of the streams that were added."""
    added: set[str] = set()
    have = {
        (order, dataset) for order, runs in orders.items() for dataset, by in runs.items() if "MLHAT" in by
    }
    for path in sorted(folder.glob("*--MLHAT--*.json")):
        kept = json.loads(path.read_text())
        key = kept["key"]
        order = "stored" if key["args"]["shuffle"] is None else "shuffled"
        dataset = key["args"]["dataset"]
        if kept["repetitions"] and dataset in orders[order] and (order, dataset) not in have:
            _add(orders, key, kept["repetitions"][0]["values"])
            added.add(f"MLHAT on {key['case']}")
    return added


def at(values: Values, score: str, rows: int) -> float:
    """A score after `rows` rows, or at the last place kept before."""
    places = [int(name.partition("@")[2]) for name in values if name.startswith(f"{score}@")]
    reached = [place for place in places if place <= rows]
    return values[f"{score}@{max(reached)}"] if reached else values[score]


def _reached(runs: Sequence[Values]) -> int:
    return int(min(values["n"] for values in runs))


def _order(order: str, runs: Runs) -> list[str]:
    names = list(dict.fromkeys(name for by in runs.values() for name in by))
    runs = {
        dataset: by for dataset, by in runs.items() if OURS in by
    }  # one that has not been reached yet says nothing
    lines: list[str] = []
    for score in SCORES:
        table: dict[str, dict[str, float]] = {}
        lines += ["", f"[{score} {order}]", _row("data set", "rows", names)]
        for dataset, by in runs.items():
            total = int(next(iter(by.values()))[0]["rows"])
            enough = min(LEAST_ROWS, total)
            ranked = {name for name in by if _reached(by[name]) >= enough}
            prefix = min(_reached(by[name]) for name in ranked)
            cells, table[dataset] = [], {}
            for name in names:
                if name not in by:
                    cells.append("-")
                    continue
                mean = sum(at(values, score, prefix) for values in by[name]) / len(by[name])
                if name in ranked:
                    table[dataset][name] = mean
                cells.append(f"{mean:.3f}" if name in ranked else f"({mean:.3f})")
            lines.append(_row(dataset, f"{prefix}", cells))
        lines += _conclusions(score, order, table)
    return lines


def _row(name: str, rows: str, cells: Sequence[str]) -> str:
    return f"{name:14} {rows:>6} " + " ".join(f"{cell[:10]:>10}" for cell in cells)


def _conclusions(score: str, order: str, table: Mapping[str, Mapping[str, float]]) -> list[str]:
    mine = SUBSET if score == "subset" else OURS
    lines = []
    both = [dataset for dataset, by in table.items() if mine in by and "MLHAT" in by]
    if both:
        won = [dataset for dataset in both if table[dataset][mine] > table[dataset]["MLHAT"]]
        lost = sorted(set(both) - set(won))
        lines.append(
            f"{mine} better than MLHAT on {len(won)} of {len(both)}"
            + (f"; not on {', '.join(lost)}" if lost else "")
        )
    rivals = [name for by in table.values() for name in by if name not in (*OWN, *TRIVIAL)]
    entrants = [mine, *dict.fromkeys(rivals)]
    if len(entrants) > 2:
        best = [
            d
            for d, by in table.items()
            if by.get(mine, 0) >= max((by[n] for n in entrants if n in by), default=0)
        ]
        lines.append(f"{mine} best of all ranked on {len(best)} of {len(table)}")
        lines += [f"[rank {score} {order}] {line}" for line in ranks(entrants, table)]
        if score == "micro":
            lines += _ratios(entrants, table, order)
    return lines


def ranks(entrants: Sequence[str], table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Mean ranks over the data sets on which an entrant is ranked; Friedman and Nemenyi over those that have all of them."""
    sums: dict[str, list[float]] = {name: [] for name in entrants}
    for by in table.values():
        for name, rank in ranked({name: by[name] for name in entrants if name in by}).items():
            sums[name].append(rank)
    means = {name: sum(found) / len(found) for name, found in sums.items() if found}
    shown = ", ".join(
        f"{name} {mean:.2f} ({len(sums[name])})"
        for name, mean in sorted(means.items(), key=lambda item: item[1])
    )
    lines = [f"mean rank (data sets): {shown}"]
    whole = [by for by in table.values() if all(name in by for name in entrants)]
    k, n = len(entrants), len(whole)
    if n >= 3 and k < len(Q_05):
        columns = [ranked({name: by[name] for name in entrants}) for by in whole]
        squares = sum((sum(column[name] for column in columns) / n) ** 2 for name in entrants)
        statistic = 12 * n / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4)
        distance = Q_05[k] * math.sqrt(k * (k + 1) / (6 * n))
        lines.append(
            f"Friedman chi-squared {statistic:.1f} ({k - 1} degrees), Nemenyi critical distance {distance:.2f}, over {n} data sets"
        )
    return lines


def ranked(values: Mapping[str, float]) -> dict[str, float]:
    """1 for the highest; equals share the mean of their ranks."""
    return {
        name: 1
        + sum(other > value for other in values.values())
        + (sum(other == value for other in values.values()) - 1) / 2
        for name, value in values.items()
    }


def _ratios(entrants: Sequence[str], table: Mapping[str, Mapping[str, float]], order: str) -> list[str]:
    """Ratio of mean micro-F1 over the data sets on which both are ranked, against global and against local rivals."""
    lines = []
    for kind, names in (("global", GLOBAL), ("local", tuple(n for n in entrants[1:] if n not in GLOBAL))):
        ratios = {}
        for name in names:
            both = [by for by in table.values() if name in by and OURS in by]
            theirs = sum(by[name] for by in both)
            if theirs:
                ratios[name] = sum(by[OURS] for by in both) / theirs
        if ratios:
            each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            lines.append(
                f"mean micro-F1 {order}, ours over {kind} rivals: {sum(ratios.values()) / len(ratios):.2f} ({each})"
            )
    return lines
