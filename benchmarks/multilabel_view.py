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
        lines += _against_mlhat(score, order, runs) + _conclusions(score, order, table)
    return lines


def _row(name: str, rows: str, cells: Sequence[str]) -> str:
    return f"{name:14} {rows:>6} " + " ".join(f"{cell[:10]:>10}" for cell in cells)


def _against_mlhat(score: str, order: str, runs: Runs) -> list[str]:
    """Wins and losses where MLHAT stopped, on every data set that it was run on; those of fewer rows than are ranked by name."""
    mine = SUBSET if score == "subset" else OURS
    won: list[str] = []
    lost: list[str] = []
    short: list[str] = []
    for dataset, by in runs.items():
        if mine in by and "MLHAT" in by:
            rows = _reached(by["MLHAT"])
            means = [sum(at(v, score, rows) for v in by[name]) / len(by[name]) for name in (mine, "MLHAT")]
            (won if means[0] > means[1] else lost).append(dataset)
            if rows < min(LEAST_ROWS, int(by[mine][0]["rows"])):
                short.append(f"{dataset} {rows}")
    if not won and not lost:
        return []
    return [
        f"[wins {score} {order}] {mine} better than MLHAT, at the rows that it reached, on {len(won)} of {len(won) + len(lost)}"
        + (f"; not on {', '.join(lost)}" if lost else "")
        + (f" (few rows: {', '.join(short)})" if short else "")
    ]


def _conclusions(score: str, order: str, table: Mapping[str, Mapping[str, float]]) -> list[str]:
    mine = SUBSET if score == "subset" else OURS
    lines = []
    rivals = [name for by in table.values() for name in by if name not in (*OWN, *TRIVIAL)]
    entrants = [mine, *dict.fromkeys(rivals)]
    if len(entrants) > 2:
        raced = {d: [by[n] for n in entrants[1:] if n in by] for d, by in table.items() if mine in by}
        best = [d for d, others in raced.items() if others and table[d][mine] >= max(others)]
        beside = sum(bool(others) for others in raced.values())
        lines.append(f"{mine} best of all ranked on {len(best)} of {beside} with a rival that is ranked")
        lines += [f"[rank {score} {order}] {line}" for line in ranks(entrants, table)]
        if score == "micro":
            lines += _ratios(entrants, table, order)
    return lines


def ranks(entrants: Sequence[str], table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Mean ranks over the data sets on which an entrant is ranked; Friedman and Nemenyi over those that have all of them."""
    sums: dict[str, list[float]] = {name: [] for name in entrants}
    for by in table.values():
        entered = {name: by[name] for name in entrants if name in by}
        for name, rank in ranked(entered).items() if len(entered) > 1 else ():  # alone, everybody is first
            sums[name].append(rank)
    means = {name: sum(found) / len(found) for name, found in sums.items() if found}
    shown = ", ".join(
        f"{name} {mean:.2f} ({len(sums[name])})"
        for name, mean in sorted(means.items(), key=lambda item: item[1])
    )
    lines = [f"mean rank (data sets): {shown}"]
    half = [name for name in entrants if 2 * len(sums[name]) >= len(table)]
    lines += _friedman(entrants, table, "all")
    if half != list(entrants):
        lines += _friedman(half, table, f"of {', '.join(half)}")
    return lines


def _friedman(entrants: Sequence[str], table: Mapping[str, Mapping[str, float]], who: str) -> list[str]:
    """Friedman's test and Nemenyi's distance on the data sets where every entrant is ranked; none where those are too few."""
    whole = [by for by in table.values() if all(name in by for name in entrants)]
    k, n = len(entrants), len(whole)
    if n < 3 or not 2 < k < len(Q_05):
        return []
    columns = [ranked({name: by[name] for name in entrants}) for by in whole]
    means = {name: sum(column[name] for column in columns) / n for name in entrants}
    squares = sum(mean**2 for mean in means.values())
    statistic = 12 * n / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4)
    distance = Q_05[k] * math.sqrt(k * (k + 1) / (6 * n))
    first = means[entrants[0]]
    apart = [name for name in entrants[1:] if means[name] - first > distance]
    return [
        f"{who}: Friedman chi-squared {statistic:.1f} ({k - 1} degrees), Nemenyi critical distance {distance:.2f}, over {n} data sets; "
        f"apart from {entrants[0]}: {', '.join(apart) or 'none'}"
    ]


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
    local = tuple(n for n in entrants[1:] if n not in GLOBAL)
    for kind, names, wanted in (("global", GLOBAL, 1.23), ("local", local, 1.32)):
        ratios = {}
        for name in names:
            both = [by for by in table.values() if name in by and OURS in by]
            theirs = sum(by[name] for by in both)
            if theirs:
                ratios[name] = sum(by[OURS] for by in both) / theirs
        if ratios:
            each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            lines.append(
                f"mean micro-F1 {order}, ours over {kind} rivals: {sum(ratios.values()) / len(ratios):.2f}, wanted {wanted:.2f} ({each})"
            )
    return lines
