"""Table ``multilabel_drift``: what a known change does to each form of IHOMER, to one that stops learning, and to MLHAT.

Made streams, several seeds; see ``runners.multilabel_made`` for the changes and ``runners.multilabel_drift`` for what is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.multilabel import OURS_PACKAGES
from benchmarks.runners.multilabel_made import KINDS

FORMS: dict[str, dict[str, Json]] = {
    OURS: {},
    "no drift handling": {"drift": False},
    "alone": {"ensemble": False},
    "alone, no drift handling": {"ensemble": False, "drift": False},
    "alone, forgetting": {"ensemble": False, "decay": 0.999},
    "conditional": {"ensemble": False, "clusters_for": "conditional", "decay": 0.999},
    "conditional, one": {"ensemble": False, "clusters_for": "conditional", "partition": "one"},
    "tree": {"ensemble": False, "tree": True},
}
SEEDS = {Profile.QUICK: (1, 0), Profile.DEFAULT: (5, 2), Profile.FULL: (5, 5)}
"""Seeds of ours, and of MLHAT."""
CAP_S = {Profile.QUICK: 20.0, Profile.DEFAULT: 240.0, Profile.FULL: 900.0}
COLUMNS = {
    "before": "F1 before",
    "after": "after",
    "end": "end",
    "recovery": "recovery",
    "delay": "delay",
    "false": "false/1000",
    "clusters before": "groups bef.",
    "clusters end": "groups end",
}
SHARES = ("before", "after", "end", "clusters before", "clusters end")


def _metric(name: str, key: str, better: Any) -> Metric:
    def of(repetition: Repetition) -> float:
        return repetition.values[key]

    return Metric(name, "score", better, of)


def contestants(profile: Profile, seed: int) -> tuple[Contestant, ...]:
    """All forms, one that learns no more after the change, and MLHAT for the first seeds."""
    runner, cap = "benchmarks.runners.multilabel_drift_ours", {"cap_s": CAP_S[profile]}
    found = [
        Contestant(name, runner, packages=OURS_PACKAGES, args={"options": options, **cap})
        for name, options in FORMS.items()
    ]
    frozen = {"options": {}, "frozen": True, **cap}
    found.append(Contestant("frozen", runner, packages=OURS_PACKAGES, args=frozen))
    if os.environ.get("HEADRACE_MLHAT") and seed <= SEEDS[profile][1]:
        found.append(Contestant("MLHAT", "benchmarks.runners.multilabel_drift_mlhat", "mlhat", args=cap))
    return tuple(found)


def cases(profile: Profile) -> tuple[Case, ...]:
    """A case per kind of change and seed."""
    return tuple(
        Case(
            name=f"{kind} {seed}",
            contestants=contestants(profile, seed),
            metrics=(_metric(f"[drift {kind}] {seed}", "n", "higher"),),
            repetitions=1,
            expected_s=8.0,
            timeout_s=4 * CAP_S[profile] + 60.0,
            clocked=False,
            args={"kind": kind, "seed": seed},
        )
        for seed in range(1, SEEDS[profile][0] + 1)
        for kind in (KINDS[:1] if profile is Profile.QUICK else KINDS)
    )


def view(measured: Any, results: Path) -> list[str]:
    """Means over seeds by kind of change and form; a count where not every seed has a value."""
    runs: dict[str, dict[str, list[Mapping[str, float]]]] = {}
    for cell in measured.cells:
        if cell.repetitions:
            by = runs.setdefault(cell.key["args"]["kind"], {})
            by.setdefault(cell.key["contestant"], []).append(cell.repetitions[0].values)
    cached = False
    for path in sorted((results / measured.table.name).glob("*--MLHAT--*.json")):
        kept = json.loads(path.read_text())
        by = runs.get(kept["key"]["args"]["kind"], {})
        if kept["repetitions"] and by and "MLHAT" not in {c.key["contestant"] for c in measured.cells}:
            by.setdefault("MLHAT", []).append(kept["repetitions"][0]["values"])
            cached = True
    lines: list[str] = []
    for kind, by in runs.items():
        lines += [
            "",
            f"[drift {kind}]",
            f"{'':26} seeds " + " ".join(f"{name:>12}" for name in COLUMNS.values()),
        ]
        for name, values in by.items():
            cells = [_mean(values, key) for key in COLUMNS]
            lines.append(f"{name:26} {len(values):>5} " + " ".join(f"{cell:>12}" for cell in cells))
    return [*lines, "MLHAT: cached, not measured in this run"] if cached else lines


def _mean(runs: Sequence[Mapping[str, float]], key: str) -> str:
    found = [values[key] for values in runs if key in values]
    if not found:
        return "-"
    mean = sum(found) / len(found)
    text = f"{mean:.3f}" if key in SHARES else f"{mean:.2f}" if key == "false" else f"{mean:.0f}"
    return text if len(found) == len(runs) else f"{text} ({len(found)})"


TABLE = Table(
    name="multilabel_drift",
    title="Known drift: IHOMER's forms beside one that stops learning and MLHAT",
    cases=cases,
    keeps=True,
    view=view,
    notes=(
        "Micro-F1 of the 1,500 rows before the change, after it, and at the end; rows until 500 rows score 95 % of before; rows to "
        "the first alarm; alarms per 1,000 rows without a change. In (brackets): how many seeds have a value, where some never did.",
        "Groups: adjusted Rand index of the model's clusters and the true groups before the change and at the end, 1 the same, 0 chance.",
        'ours: the defaults, decision="f1" like all forms; alone: ensemble=False. An alarm of MLHAT is an alternate tree that it begins.',
    ),
)
