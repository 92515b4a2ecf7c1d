"""Table ``multilabel_ablation``: what each part of IHOMER is worth, one argument at a time, on the same rows of the same streams.

In mini-batches of 10 rows, as stored. Clusters that learn are compared with random ones of the same sizes, with one cluster of all
labels and with a cluster per label; the parts of the recipe are added one by one, then left out one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.multilabel import OURS_PACKAGES, datasets_folder, ground

RUNNER = "benchmarks.runners.multilabel_parts"
ALONE: dict[str, Json] = {"ensemble": False}
FORMS: dict[str, dict[str, Json]] = {
    OURS: {},
    "one-vs-all, cut at 0.5": ALONE | {"decision": "hamming", "without": ["persistence"]},
    "+ thresholds": ALONE | {"without": ["persistence"]},
    "+ persistence (alone)": ALONE,
    "alone, unscaled": ALONE | {"without": ["scaling"]},
    "alone, no drift handling": ALONE | {"drift": False},
    "ours without persistence": {"without": ["persistence"]},
    "ours without replay": {"without": ["replay"]},
    "ours without near rows": {"without": ["near"]},
    "ours without the stacker": {"without": ["stacker"]},
    "ours without joint decoding": {"without": ["joint"]},
    "ours, decision hamming": {"decision": "hamming"},
    "ours, decision subset": {"decision": "subset"},
    "conditional": ALONE | {"clusters_for": "conditional"},
    "conditional, random": ALONE | {"clusters_for": "conditional", "partition": "random"},
    "conditional, one": ALONE | {"clusters_for": "conditional", "partition": "one"},
    "conditional, singletons": ALONE | {"clusters_for": "conditional", "partition": "singletons"},
    "chain": ALONE | {"clusters_for": "chain"},
    "chain, random": ALONE | {"clusters_for": "chain", "partition": "random"},
    "chain, one": ALONE | {"clusters_for": "chain", "partition": "one"},
    "meta": ALONE | {"clusters_for": "meta"},
    "tree": ALONE | {"tree": True},
    "tree, conditional": ALONE | {"tree": True, "clusters_for": "conditional"},
}
ABLATED = ("emotions", "birds", "yeast", "scene", "slashdot", "bibtex", "tmc2007-500")
MOST_ROWS = 8_000
SCORES = ("micro", "macro", "subset")


def _score(score: str, dataset: str) -> Metric:
    def of(repetition: Repetition) -> float:
        return repetition.values[score]

    return Metric(f"[ablation {score}] {dataset}", "score", "higher", of)


def cases(profile: Profile) -> tuple[Case, ...]:
    """A case per data set; ``quick`` has two."""
    names = ABLATED[:2] if profile is Profile.QUICK else ABLATED
    return tuple(
        Case(
            name=f"ablation {name}",
            contestants=tuple(
                Contestant(form, RUNNER, packages=OURS_PACKAGES, args={"options": options})
                for form, options in FORMS.items()
            ),
            metrics=tuple(_score(score, name) for score in SCORES),
            repetitions=1,
            expected_s=4.0,
            timeout_s=400.0,
            skipped=None if datasets_folder() else "HEADRACE_DATASETS is not set",
            args={
                "what": "ablation",
                "dataset": name,
                "batch": 10,
                "cap_s": 300.0,
                "shuffle": None,
                "max_rows": MOST_ROWS,
            },
        )
        for name in names
    )


def view(measured: Any, results: Path) -> list[str]:
    """Forms below each other, data sets beside each other, and their mean where a form has all."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    names: list[str] = []
    for cell in measured.cells:
        dataset = cell.key["args"]["dataset"]
        names += [dataset] * (dataset not in names)
        if cell.repetitions:
            found.setdefault(cell.key["contestant"], {})[dataset] = cell.repetitions[0].values
    lines: list[str] = []
    for score in SCORES:
        head = " ".join(f"{name[:9]:>9}" for name in (*names, "mean", "rows/s"))
        lines += ["", f"[ablation {score}]", f"{'':28}{head}"]
        for form, by in found.items():
            cells = [f"{by[name][score]:.3f}" if name in by else "-" for name in names]
            whole = len(by) == len(names)
            rate = sum(v["n"] for v in by.values()) / max(sum(v["cpu_s"] for v in by.values()), 1e-9)
            mean = f"{sum(v[score] for v in by.values()) / len(names):.3f}" if whole else "-"
            cells += [mean, f"{rate:,.0f}" if whole else "-"]
            lines.append(f"{form:28}" + " ".join(f"{cell:>9}" for cell in cells))
    return lines


TABLE = Table(
    name="multilabel_ablation",
    title="The parts of IHOMER, one by one",
    cases=cases,
    ground=ground,
    keeps=True,
    view=view,
    notes=(
        f"The first {MOST_ROWS:,} rows of each stream as stored; rows/s by CPU seconds over all data sets, in mini-batches of 10.",
        'ours: the defaults, decision="f1" unless a form says otherwise. alone: ensemble=False. conditional, chain, meta: what clusters are used for, all alone.',
    ),
)
