"""Table ``multilabel``: iHOMER beside what a user would otherwise run, on twelve public data sets, prequentially.

Each data set is a stream as stored and once more per shuffling seed. A cell is one model on one stream, kept with its versions
as soon as it is measured, so that a run that was ended goes on where it was; see ``multilabel_view`` for what is made of them.
MLHAT's published code is found through HEADRACE_MLHAT; without it, cells that were kept are shown, as cached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Table
from benchmarks.multilabel_view import SCORES, view

DATASETS = {
    "emotions": 593,
    "birds": 645,
    "medical": 978,
    "yeast": 2_417,
    "scene": 2_407,
    "stackex_chess": 1_675,
    "enron": 1_702,
    "slashdot": 3_782,
    "bibtex": 7_395,
    "20ng": 19_300,
    "tmc2007-500": 28_596,
    "delicious": 16_105,
}
"""Rows by name, in the order in which they are run: small ones first."""
NOT_FOR_MLHAT = "delicious"
"""Its 983 labels would take MLHAT days."""
CAP_S = {Profile.QUICK: (0.5, 0.5), Profile.DEFAULT: (10.0, 120.0), Profile.FULL: (300.0, 900.0)}
"""CPU seconds of predicting and learning that a rival may use, and that MLHAT may. Ours has the full cap: it ends before."""
SEEDS = {Profile.QUICK: (0, 0, 0), Profile.DEFAULT: (5, 2, 2), Profile.FULL: (5, 2, 2)}
"""Shuffles for ours and the trivial models, for rivals, and for MLHAT."""
OURS_PACKAGES = ("headrace.streaming.learners.ihomer.model", "numba", "numpy", "river")
RIVALS = (
    "BR logistic",
    "BR HAT",
    "BR kNN",
    "BR ADWIN bagging",
    "BR EFDT",
    "BR ARF",
    "chain logistic",
    "powerset HAT",
    "iSOUP",
)
QUICK = ("emotions", "yeast")


def _score(name: str, stream: str, order: str) -> Metric:
    return Metric(f"[{name} {order}] {stream}", "score", "higher", lambda repetition: repetition.values[name])


def contestants(profile: Profile, dataset: str, shuffle: int | None) -> tuple[Contestant, ...]:
    """Who runs on a stream: everybody as stored, fewer the higher the seed."""
    rival_s, mlhat_s = CAP_S[profile]
    _, rival_seeds, mlhat_seeds = SEEDS[profile]
    runner = "benchmarks.runners.multilabel_ours"
    free = {"cap_s": CAP_S[Profile.FULL][0]}
    found = [Contestant(OURS, runner, packages=OURS_PACKAGES, args=free)]
    for name, options in (("ours, subset", {"decision": "subset"}), ("ours, alone", {"ensemble": False})):
        found.append(Contestant(name, runner, packages=OURS_PACKAGES, args=free | {"options": options}))
    for name in ("no-change", "majority labelset"):
        found.append(Contestant(name, runner, packages=("numpy",), args=free | {"trivial": name}))
    at_hand = bool(os.environ.get("HEADRACE_MLHAT")) and dataset != NOT_FOR_MLHAT
    if at_hand and (shuffle is None or shuffle < mlhat_seeds):
        mlhat = "benchmarks.runners.multilabel_mlhat"
        found.append(Contestant("MLHAT", mlhat, "mlhat", args={"cap_s": mlhat_s}))
    if shuffle is None or shuffle < rival_seeds:
        river, packages = "benchmarks.runners.multilabel_river", ("numpy", "river")
        for name in RIVALS:
            args = {"cap_s": rival_s, "model": name}
            found.append(Contestant(name, river, packages=packages, args=args))
    return tuple(found)


def cases(profile: Profile) -> tuple[Case, ...]:
    """A case per stream: those as stored first, then one shuffle after the other."""
    folder = datasets_folder()
    orders: list[int | None] = [None, *range(SEEDS[profile][0])]
    names = QUICK if profile is Profile.QUICK else tuple(DATASETS)
    found = []
    for shuffle in orders:
        for name in names:
            who = contestants(profile, name, shuffle)
            order = "stored" if shuffle is None else "shuffled"
            stream = f"{name} {order}" if shuffle is None else f"{name} {order} {shuffle}"
            found.append(
                Case(
                    name=stream,
                    contestants=who,
                    metrics=tuple(_score(score, stream, order) for score in SCORES),
                    repetitions=1,
                    expected_s=min(DATASETS[name] * 0.002, CAP_S[profile][0]) + 2.0,
                    timeout_s=4 * CAP_S[profile][1] + 120.0,
                    clocked=False,
                    skipped=None if folder else "HEADRACE_DATASETS is not set",
                    args={"dataset": name, "shuffle": shuffle},
                )
            )
    return tuple(found)


def datasets_folder() -> Path | None:
    """Where the data sets are, by the environment variable HEADRACE_DATASETS."""
    named = os.environ.get("HEADRACE_DATASETS")
    return Path(named, "multilabel") if named else None


@contextmanager
def ground(cases: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Json]]:
    """Tells the runners where the data sets are; a path is no part of a kept cell."""
    yield {"folder": str(datasets_folder())}


TABLE = Table(
    name="multilabel",
    title="Many labels per row: iHOMER beside River's models and MLHAT",
    cases=cases,
    ground=ground,
    keeps=True,
    view=view,
    notes=(
        'Predict, score, learn, from the first row to the last; a label not predicted is not set. decision="f1" but for '
        '"ours, subset", which is decision="subset"; "ours, alone" is ensemble=False.',
        "A rival stops at its cap of CPU seconds: all are compared at the longest prefix that those with 500 rows or more have "
        "reached; numbers in (brackets) are of fewer rows and not ranked.",
        "River's models see scaled features and keep River's own defaults: a logistic regression learns at rate 0.01, and a user who "
        "tunes that gets a better rival than the one here. Trivial models are shown and not ranked.",
    ),
)
