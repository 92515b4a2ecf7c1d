"""Table ``ctr``: clicks of many domains in a single pass, AdaptDHM beside what its users would pick, every cell kept.

A cell is one model on one world; each seed draws a new world and a new beginning, so differences between models on the same seed are what
to read. Every model has its best rate of 2e-3, 4e-3, (6e-3,) 8e-3 and 12e-3 on worlds 101 and 102, which are not among those shown. Rivals are
batched over domains.
"""

from __future__ import annotations

import os

from benchmarks.case import OURS, Case, Contestant, Metric, Profile, Repetition, Table
from benchmarks.ctr_view import WORLDS, view
from benchmarks.grounds import datasets

RUNNER = "benchmarks.runners.ctr"
DOMAINS_RUNNER = "benchmarks.runners.ctr_domains"
SPEED = "benchmarks.runners.ctr_speed"
FEED = "benchmarks.runners.ctr_feed"
SCORED = ("headrace.streaming.metrics", "numpy", "torch")
PACKAGES = ("headrace.streaming.learners.adapt_dhm.model", "numba", *SCORED)
"""What a cell is made of: the click model's module with all of ours that it imports (table, routing, network, kernels, the bounded table),
and what counts the scores. Rivals are in their runner and keep their cells when our learners change."""
FED = (
    "headrace.streaming.ad_feed",
    "headrace.streaming.learners.adapt_dhm.classifier",
    "headrace.streaming.learners.popularity",
    "numba",
    "pyarrow",
    *SCORED,
)
"""A cell of the demo's feed has the feed, the classifier with its joins and alarms, and the baseline in it."""
RATES = {
    "ours": 6e-3,
    "cross": 6e-3,
    "cross and gates": 6e-3,
    "k1": 8e-3,
    "k1 crossed": 8e-3,
    "wide k1": 8e-3,
    "gates": 8e-3,
    "dnn": 8e-3,
    "shared-bottom": 8e-3,
    "mmoe": 8e-3,
    "ple": 8e-3,
    "star": 8e-3,
    "reference": 8e-3,
    "oracle": 8e-3,
}
"""Each model's own best rate on worlds 101 and 102."""
NAMES = {
    "ours": OURS,
    "cross": "ours, a cross",
    "cross and gates": "ours, a cross and gates",
    "k1": "K=1",
    "k1 crossed": "K=1, crossed field too",
    "wide k1": "K=1, twice as wide",
    "gates": "field gates",
    "dnn": "DNN",
    "shared-bottom": "shared-bottom",
    "mmoe": "MMoE",
    "ple": "PLE",
    "star": "STAR",
    "reference": "reference routing",
    "oracle": "oracle",
}
OWN = ("ours", "cross", "cross and gates", "k1", "k1 crossed", "wide k1", "reference", "oracle")
ROWS, BATCH, DOMAINS = 400_000, 512, 12
QUICK_ROWS = 20_000


def _who(kind: str, runner: str = RUNNER) -> Contestant:
    ours = kind in OWN
    return Contestant(
        NAMES[kind], runner, packages=PACKAGES if ours else SCORED, args={"kind": kind, "lr": RATES[kind]}
    )


def _value(name: str, key: str, unit: str, better: str = "higher") -> Metric:
    def of(repetition: Repetition) -> float:
        return repetition.values[key]

    return Metric(name, unit, "lower" if better == "lower" else "higher", of)


def quality(world: str, seed: int, profile: Profile) -> Case:
    """One world, all models."""
    quick = profile is Profile.QUICK
    kinds = [kind for kind in NAMES if kind != "oracle" or world not in ("movielens", "null")]
    metrics = [_value(f"[{world}] AUC of the second half, seed {seed}", "auc", "AUC")]
    if world == "drift":
        metrics.append(
            _value(f"[{world}] AUC of the quarter after the change, seed {seed}", "third_auc", "AUC")
        )
    return Case(
        name=f"{world} {seed}",
        contestants=tuple(_who(kind) for kind in (kinds[:3] if quick else kinds)),
        metrics=tuple(metrics),
        repetitions=1,
        expected_s=2.0 if quick or world == "movielens" else 6.0,
        timeout_s=600.0,
        clocked=False,
        skipped=None
        if world != "movielens" or os.environ.get("HEADRACE_DATASETS")
        else "HEADRACE_DATASETS is not set",
        args={
            "dataset": "made" if world != "movielens" else world,
            "world": world,
            # MovieLens is one world: seeds are beginnings alone.
            "world_seed": seed,
            "seed": seed,
            "rows": QUICK_ROWS if quick else ROWS,
            "domains": DOMAINS,
            "batch": BATCH,
        },
    )


def speed(profile: Profile) -> Case:
    """[speed]: rows learnt a CPU second with so many domains."""
    kinds = ("ours", "cross", "k1", "dnn", "shared-bottom", "mmoe", "ple", "star", "reference")
    quick = profile is Profile.QUICK
    counts = (DOMAINS,) if quick else (3, DOMAINS, 100)
    return Case(
        name="speed",
        contestants=tuple(_who(kind, DOMAINS_RUNNER) for kind in kinds),
        metrics=tuple(
            _value(f"[speed] predicted and learnt, {count} domains", str(count), "rows/CPU s")
            for count in counts
        ),
        repetitions=1 if quick else 9,
        expected_s=3.0 * len(counts),
        args={
            "dataset": "made",
            "world": "base",
            "world_seed": 1,
            "seed": 1,
            "rows": QUICK_ROWS if quick else 100_000,
            "domains": counts,
            "batch": BATCH,
        },
    )


def throughput(profile: Profile) -> Case:
    """[throughput]: batches of 4,096 with 22 fields, and where the time goes."""
    parts = ("look-up", "forward", "backward", "update")
    who = [Contestant(OURS, SPEED, packages=PACKAGES, args={"routing": "lar"})]
    who += [
        Contestant(name, SPEED, packages=PACKAGES, args={"routing": kind})
        for name, kind in (("K=1", "none"), ("reference routing", "reference"))
    ]
    who.append(Contestant("DNN, dense Adam", SPEED, packages=PACKAGES, args={"routing": "dnn"}))
    return Case(
        name="throughput",
        contestants=tuple(who),
        metrics=(
            _value("[throughput] learnt", "learnt", "events/CPU s"),
            _value("[throughput] predicted", "predicted", "events/CPU s"),
            *(_value(f"[throughput] {part}, of a learnt batch", part, "ms", "lower") for part in parts),
        ),
        repetitions=1 if profile is Profile.QUICK else 3,
        expected_s=6.0,
        args={
            "dataset": "made",
            "batches": 10 if profile is Profile.QUICK else 60,
            "batch": 4_096,
            "fields": 22,
        },
    )


def demo(seed: int, permuted: bool, profile: Profile) -> Case:
    """[demo]: the feed that ``make demo`` sends, 200,000 events, tastes changed halfway; or with clicks that depend on nothing."""
    name, what = ("permuted", "permuted labels") if permuted else ("feed", "the demo's feed after the drift")
    metrics = [
        _value(f"[demo] AUC, {what}, seed {seed}", "auc", "AUC"),
        _value(f"[demo] AUC of the items' popularity, {what}, seed {seed}", "popularity_auc", "AUC"),
    ]
    return Case(
        name=f"{name} {seed}",
        contestants=tuple(
            Contestant(who, FEED, packages=FED, args={"routing": routing})
            for who, routing in ((OURS, "lar"), ("K=1", "none"))
        ),
        metrics=tuple(metrics[: 1 if permuted else 2]),
        repetitions=1,
        expected_s=30.0,
        clocked=False,
        args={
            "dataset": "made",
            "seed": seed,
            "permuted": permuted,
            "events": QUICK_ROWS if profile is Profile.QUICK else 200_000,
        },
    )


def cases(profile: Profile) -> tuple[Case, ...]:
    """Five seeds of each world, eight with ``--full``; seed by seed, so that a run that ends early has all worlds."""
    if profile is Profile.QUICK:
        return (speed(profile), throughput(profile), quality("base", 1, profile))
    seeds = range(1, 9 if profile is Profile.FULL else 6)
    found = [quality(world, seed, profile) for seed in seeds for world in WORLDS]
    found += [demo(seed, permuted=False, profile=profile) for seed in range(1, 6)]
    found += [demo(seed, permuted=True, profile=profile) for seed in range(1, 4)]
    return (*found, speed(profile), throughput(profile))


TABLE = Table(
    name="ctr",
    title="Clicks of many domains, learnt in one pass",
    cases=cases,
    ground=datasets,
    keeps=True,
    view=view,
    notes=(
        "Predicted from the forward pass that then learns; AUC over the second half. Base, drift, null, crossed and placebo are made worlds of 400,000 "
        "rows in batches of 512; the oracle is told the hidden state, and has whole factors.",
        'Ours routes by segment, hour, device and domain, "a cross" also by segment, hour and device taken together.',
        "Hidden layers 64-32, seven fields of 8. Intervals are 95 % of the paired difference to K=1 over seeds (Student's t).",
        "All models are timed from their 20th batch on, one thread. Ours looks ids up in the bounded table, rivals in a dense embedding.",
    ),
)
