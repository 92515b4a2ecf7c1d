"""Table ``multilabel_parts``: what IHOMER costs: rows per second with and without the ensemble, memory, and many labels."""

from __future__ import annotations

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.multilabel import OURS_PACKAGES, datasets_folder, ground

RUNNER = "benchmarks.runners.multilabel_parts"
SPEEDS = {"yeast": None, "tmc2007-500": None, "bibtex": None, "delicious": 6_000}
MANY = (100, 1_000, 10_000)


def _metric(name: str, key: str, unit: str = "score", lower: bool = False) -> Metric:
    def of(repetition: Repetition) -> float:
        return repetition.values[key]

    return Metric(name, unit, "lower" if lower else "higher", of)


def _case(
    name: str,
    forms: dict[str, dict[str, Json]],
    metrics: tuple[Metric, ...],
    args: dict[str, Json],
    needs_data: bool = True,
) -> Case:
    return Case(
        name=name,
        contestants=tuple(
            Contestant(form, RUNNER, packages=OURS_PACKAGES, args={"options": options})
            for form, options in forms.items()
        ),
        metrics=metrics,
        repetitions=1,
        expected_s=6.0,
        timeout_s=400.0,
        skipped=None if datasets_folder() or not needs_data else "HEADRACE_DATASETS is not set",
        args={"cap_s": 300.0, "shuffle": None, **args},
    )


def cases(profile: Profile) -> tuple[Case, ...]:
    """``quick`` has one of each kind."""
    quick = profile is Profile.QUICK
    found: list[Case] = []
    for name, rows in list(SPEEDS.items())[: 1 if quick else None]:
        for batch, words in ((1, "row by row"), (200, "200 rows at once")):
            metrics: tuple[Metric, ...] = (
                _metric(f"[rows/s {name}] {words}", "rate", "rows/CPU s"),
                _metric(f"[rows/s {name}] {words}: micro-F1", "micro"),
                _metric(f"[rows/s {name}] {words}: peak memory of the process", "mb", "MB", lower=True),
            )
            forms: dict[str, dict[str, Json]] = {OURS: {"ensemble": False}, "ensemble": {"ensemble": True}}
            args: dict[str, Json] = {"what": "rate", "dataset": name, "batch": batch, "max_rows": rows}
            found.append(_case(f"speed {name} {batch}", forms, metrics, args))
    metrics = tuple(
        _metric(f"[MB delicious] {words}", key, "MB", lower=True)
        for key, words in (
            ("model", "the model alone, as its checkpoint"),
            ("imported", "the process after its imports"),
            ("learnt", "the process after the last row"),
            ("peak", "the process at its peak"),
        )
    )
    if not quick:
        args = {"what": "memory", "dataset": "delicious", "max_rows": None}
        found.append(_case("memory delicious", {OURS: {}}, metrics, args))
    for labels in MANY[: 1 if quick else None]:
        plain: dict[str, Json] = {"ensemble": False, "drift": False, "partition": "none"}
        pruned: dict[str, Json] = {"ensemble": False, "drift": False, "topics": True, "clusters_for": "prune"}
        metrics = (
            _metric(f"[labels {labels}]", "rate", "rows/CPU s"),
            _metric(f"[labels {labels}] micro-F1", "micro"),
        )
        args = {"what": "rate", "dataset": "made", "labels": labels, "batch": 200, "max_rows": None}
        found.append(
            _case(f"labels {labels}", {OURS: pruned, "all labels": plain}, metrics, args, needs_data=False)
        )
    return tuple(found)


TABLE = Table(
    name="multilabel_parts",
    title="What IHOMER costs: speed, memory, many labels",
    cases=cases,
    ground=ground,
    keeps=True,
    notes=(
        'ours: the defaults, but for rows/s (ensemble=False) and labels (clusters known, clusters_for="prune").',
        "Memory: a process that learns rows as dicts by itself, its kernels from a warm cache, the data set in a file.",
    ),
)
