"""Table ``recommender``: quality at equal parameters and at equal bytes, a drifting stream, speed; ours beside what users would pick.

A cell is one model on one data set with one seed, trained until validation no longer improves, and kept. Two trainings: "BPR" is
torch with Adam, as the papers' programs; "softmax" is this project's kernel, which dense tables have too where the name says so:
what a table's form adds is read between those two, what the training adds between the dense ones. Each form has its own penalty,
the best of the same three tries by the validation part (cases "tuning"), on MovieLens 100K; see `CHOSEN` for the others.
"""

from __future__ import annotations

import os
from dataclasses import replace

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.grounds import datasets
from benchmarks.recommender_view import view

RUNNER = "benchmarks.runners.recommender"
LARGE = "benchmarks.runners.recommender_large"
JUDGES = 5_000
"""Users by whose validation part the epoch is chosen where the catalogue is large."""
_SPARSE = "headrace.streaming.learners.dynamic_sparse"
_MODULE = "headrace.streaming.learners.embedding.module"
KERNEL = (f"{_SPARSE}.kernels", "numba", "numpy")
OURSELVES = (f"{_SPARSE}.recommender", *KERNEL)
PUBLISHED = (f"{_SPARSE}.backbones", f"{_SPARSE}.published", "numpy", "torch")
PACKAGES = {
    "blocks": OURSELVES,
    "dense": KERNEL,
    "hashed": KERNEL,
    "bpr": PUBLISHED,
    "light": (
        f"{_SPARSE}.backbones",
        _MODULE,
        "numba",
        "numpy",
        "torch",
    ),
}
"""What each kind of cell is made of: those modules of ours with all that they import, and nothing else of ours."""
SHAPES = {"ml-100k": (942, 1_447), "ml-1m": (6_039, 3_628), "gowalla": (29_858, 40_981)}
SMALL = {50: 32, 20: 13, 10: 6}
"""The dense width of about so many per cent of 64."""
PER_ROW = {50: 4, 20: 2, 10: 1}
"""Blocks for each row of ours by share, best on validation, MovieLens 100K, the beginnings of the tries; rows for as many ids as that leaves."""
OPTIONS: dict[str, Json] = {"filter_newcomers": True}
"""Of ours: with data that is passed over again and again, to be new is no merit."""
SOFTMAX: dict[str, Json] = {"lr": 0.1, "reg": 0.03, "negatives": 8}
BPR: dict[str, dict[str, Json]] = {
    "ml-100k": {"lr": 0.005, "reg": 0.03},
    "ml-1m": {"lr": 0.002, "reg": 0.03},
    "gowalla": {"lr": 0.001, "reg": 0.002},
}
"""What the tries go out from. A training has one rate for all forms, the one that dense tables do well with on validation: less than
.005 for BPR is as good on MovieLens 100K and worth a tenth of Recall or more on the others."""
TRIES = {"as it is": 1.0, "half the penalty": 0.5, "twice the penalty": 2.0}
"""By what the penalty is multiplied."""
TUNED_ON = (100, 101, 102)
"""Beginnings of the tries, none of which is among those shown; on the larger sets the first alone."""
CHOSEN = {
    "ml-100k": {
        "dense 64, BPR": "half the penalty",
        "dense 64, softmax": "twice the penalty",
        "static random mask, BPR": "half the penalty",
        "SET, BPR": "twice the penalty",
        "magnitude pruning, BPR": "twice the penalty",
        "dense small, softmax": "twice the penalty",
        "blocks, softmax": "twice the penalty",
    },
    "ml-1m": {},
    "gowalla": {},
}
"""The try that each form does best with on validation, 20 %, the mean of its beginnings; else "as it is", as all do on
MovieLens 1M and Gowalla, whose tries are not whole yet."""
LIGHT: dict[str, Json] = {"lr": 0.01, "reg": 1e-4}
EPOCHS = {"ml-100k": (200, 4), "ml-1m": (200, 4), "gowalla": (120, 4)}
QUICK_EPOCHS = (8, 4)


def _who(name: str, kind: str, **args: Json) -> Contestant:
    return Contestant(name, RUNNER, packages=PACKAGES[kind], args={"kind": kind, **args})


def _tuned(dataset: str, form: str, tried: str | None = None) -> dict[str, Json]:
    """The training that ``form`` ends with, as it was tuned, or as it is ``tried``."""
    training = BPR[dataset] if form.endswith("BPR") else SOFTMAX
    times = TRIES[tried if tried is not None else CHOSEN[dataset].get(form, "as it is")]
    return {**training, "reg": training["reg"] * times}


def equal_parameters(dataset: str, share: int, tried: str | None = None) -> tuple[Contestant, ...]:
    """All fp32, all with ``share`` per cent of the weights of a dense 64, but for dense 64 itself."""
    n, width = sum(SHAPES[dataset]), SMALL[share]
    blocks, density = share * n * 8 // 100, share / 100

    def softmax(form: str) -> dict[str, Json]:
        return _tuned(dataset, f"{form}, softmax", tried)

    def bpr(form: str) -> dict[str, Json]:
        return _tuned(dataset, f"{form}, BPR", tried)

    def masked(form: str) -> dict[str, Json]:
        return {"width": 64, "density": density, **bpr(form)}

    return (
        _who(OURS, "blocks", blocks=blocks, per_row=PER_ROW[share], options=OPTIONS, **softmax("blocks")),
        _who(f"dense {width}, softmax", "dense", width=width, **softmax("dense small")),
        _who("dense 64, softmax", "dense", width=64, **softmax("dense 64")),
        _who("hashing trick, softmax", "hashed", width=64, rows=share * n // 100, **softmax("hashing trick")),
        _who(f"dense {width}, BPR", "bpr", width=width, **bpr("dense small")),
        _who("dense 64, BPR", "bpr", width=64, **bpr("dense 64")),
        _who("static random mask, BPR", "bpr", **masked("static random mask")),
        _who("SET, BPR", "bpr", grow="random", **masked("SET")),
        _who("magnitude pruning, BPR", "bpr", prune_at=40, **masked("magnitude pruning")),
        _who("DSL as published, BPR", "bpr", grow="gradient", **masked("DSL as published")),
    )


def equal_bytes(dataset: str, share: int) -> tuple[Contestant, ...]:
    """All within ``share`` per cent of what a dense 64 takes with Adam: weights, optimiser and, where there is one, index."""
    n = sum(SHAPES[dataset])
    budget = share * n * 64 * 12 // 100
    adagrad = budget // n - 4
    blocks = {"options": OPTIONS, **_tuned(dataset, "blocks, softmax")}
    hashed = _tuned(dataset, "hashing trick, softmax")

    def dense(width: int) -> dict[str, Json]:
        # The tuned width that is nearer to this one.
        form = "dense small" if width < 32 else "dense 64"
        return {"width": width, **_tuned(dataset, f"{form}, softmax")}

    return (
        _who(OURS, "blocks", budget_bytes=budget, code="int8", **blocks),
        _who("ours, bf16", "blocks", budget_bytes=budget, code="bf16", **blocks),
        _who("ours, fp32", "blocks", budget_bytes=budget, code="fp32", **blocks),
        _who(
            f"dense {SMALL[share]}, Adam, BPR",
            "bpr",
            width=SMALL[share],
            **_tuned(dataset, "dense small, BPR"),
        ),
        _who("dense fp32, softmax", "dense", **dense(min(64, adagrad // 4))),
        _who("dense int8, softmax", "dense", code="int8", **dense(min(64, adagrad - 4))),
        # Of no more rows than there are ids: more would be a dense table.
        _who("hashing trick, softmax", "hashed", width=64, rows=min(n, budget // 260), **hashed),
    )


def lightgcn(share: int) -> tuple[Contestant, ...]:
    """The published backbone at equal parameters, in its published training; what it learns is then packed, not trained packed."""
    width, density = SMALL[share], share / 100
    masked: dict[str, Json] = {"width": 64, "density": density, **LIGHT}
    n = sum(SHAPES["ml-100k"])
    return (
        _who(OURS, "light", blocks=share * n * 8 // 100, **LIGHT),
        _who(f"dense {width}", "bpr", width=width, **LIGHT),
        _who("dense 64", "bpr", width=64, **LIGHT),
        _who("static random mask", "bpr", **masked),
        _who("DSL as published", "bpr", grow="gradient", **masked),
    )


def _case(
    name: str, dataset: str, backbone: str, who: tuple[Contestant, ...], seed: int, profile: Profile
) -> Case:
    epochs, every = QUICK_EPOCHS if profile is Profile.QUICK else EPOCHS[dataset]
    case = Case(
        name=f"{name} {backbone} {dataset} {seed}",
        contestants=who,
        metrics=(_value(f"[{name}] {backbone} {dataset}, seed {seed}", "recall"),),
        repetitions=1,
        expected_s=20.0 if dataset == "ml-100k" else 200.0,
        timeout_s=3_600.0,
        clocked=False,
        skipped=None if os.environ.get("HEADRACE_DATASETS") else "HEADRACE_DATASETS is not set",
        args={
            "dataset": dataset,
            "backbone": backbone,
            "seed": seed,
            "epochs": epochs,
            "every": every,
            "batch": 1_024,
        },
    )
    return _large(case) if dataset == "gowalla" else case


def _large(case: Case) -> Case:
    """``case`` where ranking everything for everybody costs more than an epoch."""

    def there(who: Contestant) -> Contestant:
        # That runner can train LightGCN over blocks too. Nobody is asked to, so this is counted with the other blocks.
        more = (_MODULE,) if who.args["kind"] == "blocks" else ()
        return replace(who, runner=LARGE, packages=(*who.packages, *more))

    return replace(
        case,
        contestants=tuple(there(who) for who in case.contestants),
        timeout_s=7_200.0,
        expected_s=1_500.0,
        args={**case.args, "judges": JUDGES},
    )


def _value(name: str, key: str, unit: str = "score", lower: bool = False) -> Metric:
    def of(repetition: Repetition) -> float:
        return repetition.values[key]

    return Metric(name, unit, "lower" if lower else "higher", of)


def tuning(dataset: str, tried: str, seed: int) -> Case:
    """One try of every form, judged by the validation part; on Gowalla of all but masks, which cost an hour each."""
    who = equal_parameters(dataset, 20, tried)
    if dataset == "gowalla":
        who = tuple(one for one in who if "density" not in one.args)
    case = _case(f"tuning {tried}", dataset, "MF", who, seed, Profile.DEFAULT)
    name = f"[tuning] validation Recall@20, {dataset}, {tried}, seed {seed}"
    return replace(case, metrics=(_value(name, "valid"),))


STREAM: dict[str, Json] = {"budget_bytes": 1_200_000, "lr": 0.1, "reg": 0.005, "half_life": 400_000.0}


def stream(profile: Profile) -> Case:
    """5 M events (60,000 when quick) at equal bytes."""
    runner = "benchmarks.runners.recommender_stream"

    def who(name: str, kind: str, **args: Json) -> Contestant:
        return Contestant(name, runner, packages=OURSELVES, args={"kind": kind, **STREAM, **args})

    ours: dict[str, Json] = {"admit_after": 2, "start": 0.02}
    return Case(
        name="stream",
        contestants=(
            who(OURS, "ours", code="int8", **ours),
            who("ours, fp32", "ours", code="fp32", **ours),
            who("small dense, first come", "first", width=16),
            who("hashing trick", "hashed", width=8),
            who("hot and cold", "hotcold", width=64),
        ),
        metrics=(
            _value("[stream] Recall@20 of the next interaction", "recall"),
            _value("[stream] NDCG@20", "ndcg"),
            _value("[stream] most bytes over budget at any step", "over_budget", "bytes", lower=True),
            _value(
                "[stream] resident memory, per million events", "rss_percent_per_million", "%", lower=True
            ),
            _value("[stream] learnt", "rate", "1/CPU s"),
        ),
        repetitions=1,
        expected_s=90.0,
        timeout_s=3_600.0,
        args={"dataset": "made", "seed": 0, "events": 60_000 if profile is Profile.QUICK else 5_000_000},
    )


def after_a_break(seed: int, profile: Profile) -> Case:
    """[break]: everybody's taste and every item's popularity change at once, with alarms as they are set, early ones, and none."""
    events = 60_000 if profile is Profile.QUICK else 400_000
    ours: dict[str, Json] = {"kind": "ours", "admit_after": 2, "start": 0.02, "code": "int8"}
    forms: dict[str, Json] = {OURS: 3.0, "alarms at a third": 1.0, "no alarm": 1e9}
    return Case(
        name=f"break {seed}",
        contestants=tuple(
            Contestant(
                name,
                "benchmarks.runners.recommender_stream",
                packages=OURSELVES,
                args={**STREAM, **ours, "schedule": {"threshold": threshold}},
            )
            for name, threshold in forms.items()
        ),
        metrics=(
            _value(f"[break] Recall@20 in the 100,000 events after it, seed {seed}", "soon"),
            _value(f"[break] alarms, seed {seed}", "alarms", "alarms"),
        ),
        repetitions=1,
        expected_s=15.0,
        clocked=False,
        args={
            "dataset": "made",
            "seed": seed,
            "events": events,
            "broken": events // 2,
            "soon": events // 4,
            "ranked": 800,
        },
    )


def speed(profile: Profile) -> list[Case]:
    """[train time] at each budget, [score catalogue]."""
    runner = "benchmarks.runners.recommender_speed"
    found = []
    for share in (50, 20, 10) if profile is not Profile.QUICK else (20,):

        def ours(name: str, share: int = share, **args: Json) -> Contestant:
            chosen = {"kind": "ours", "share": share / 100, "code": "fp32", "negatives": 1, **args}
            return Contestant(name, runner, packages=OURSELVES, args=chosen)

        dense = [
            Contestant(
                f"dense 64, {name}", runner, packages=PUBLISHED, args={"kind": "dense", "optimiser": name}
            )
            for name in ("Adam", "SparseAdam")
        ]
        found.append(
            Case(
                name=f"train {share}",
                contestants=(
                    ours(OURS),
                    ours("ours, 8 negatives", negatives=8),
                    ours("ours, int8", code="int8"),
                    *dense,
                ),
                metrics=(_value(f"[train time] {share} %: learnt in batches of 4,096", "rate", "1/CPU s"),),
                repetitions=3,
                expected_s=6.0,
                args={"dataset": "made"},
            )
        )
    packed = (
        "headrace.streaming.learners.embedding.export",
        "headrace.streaming.learners.embedding.store",
        "numba",
        "numpy",
        "torch",
    )

    def scoring(name: str, what: str, **args: Json) -> Contestant:
        return Contestant(name, runner, packages=packed, args={"kind": "score", "what": what, **args})

    who = (
        scoring(OURS, "packed", share=0.2),
        scoring("ours, 50 %", "packed", share=0.5),
        scoring("dense 64, fp32", "dense"),
    )
    found.append(
        Case(
            name="score",
            contestants=who,
            metrics=(
                _value("[score catalogue] 64 users, 100,000 items, 20 %", "s", "s", lower=True),
                _value("[score catalogue] bytes", "bytes", "bytes", lower=True),
            ),
            repetitions=5,
            expected_s=3.0,
            args={"dataset": "made"},
        )
    )
    return found


def cases(profile: Profile) -> tuple[Case, ...]:
    """By default the tries, MovieLens 100K with three seeds, the stream and speed; ``--full`` adds MovieLens 1M and Gowalla."""
    quick = profile is Profile.QUICK
    found = [] if quick else [tuning("ml-100k", tried, seed) for tried in TRIES for seed in TUNED_ON]
    seeds = (0,) if quick else (0, 1, 2)
    for seed in seeds:
        for share in (20,) if quick else (20, 10, 50):
            for name, who in (("equal parameters", equal_parameters), ("equal bytes", equal_bytes)):
                found.append(
                    _case(f"{name} {share} %", "ml-100k", "MF", who("ml-100k", share), seed, profile)
                )
    for share in (20,) if quick else (20, 10, 50):
        for seed in seeds:
            found.append(
                _case(f"equal parameters {share} %", "ml-100k", "LightGCN", lightgcn(share), seed, profile)
            )
    found += [*speed(profile), stream(profile)]
    if not quick:
        found += [after_a_break(seed, profile) for seed in seeds]
    if profile is Profile.FULL:
        found += [tuning(name, tried, TUNED_ON[0]) for name in ("ml-1m", "gowalla") for tried in TRIES]
        for share in (20, 10, 50):
            for seed in seeds:
                for name, who in (("equal parameters", equal_parameters), ("equal bytes", equal_bytes)):
                    found.append(
                        _case(f"{name} {share} %", "ml-1m", "MF", who("ml-1m", share), seed, profile)
                    )
        for name, who in (("equal parameters", equal_parameters), ("equal bytes", equal_bytes)):
            found.append(_case(f"{name} 20 %", "gowalla", "MF", who("gowalla", 20), 0, profile))
    return tuple(found)


TABLE = Table(
    name="recommender",
    title="Recommenders inside a byte budget",
    cases=cases,
    ground=datasets,
    keeps=True,
    view=view,
    notes=(
        "MovieLens 100K: ratings of 4 and more, 70/10/20 at random. Epoch chosen on validation, full ranking without what was met before. "
        f"Scores are means over seeds, and their range. On Gowalla the validation part of {JUDGES:,} users chooses the epoch.",
        "bytes: of the arrays that a model holds while it learns; a mask over dense tables counts what stays dense.",
        "Where a name says softmax, the training is ours: row-wise Adagrad, eight negatives, one interaction after the other.",
    ),
)
