"""Table ``scheduler``: how long users of one Spark application wait, under our scheduler and under Spark's own pools.

Each policy is an application with two cores; each is there with jobs cut for its cores alone and cut to a target's length ("-P"),
because partitioning helps every policy and must not be counted as ours. Estimates given to our arm and to CFQ are exact unless
an arm says otherwise. A case holds one scenario, its repetitions are seeds; ``scheduler_view`` holds the cells against what we
promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition, Table
from benchmarks.crowd import SCENARIOS
from benchmarks.scheduler_view import view

SEED = 50
SEEDS = 5
JVMS = 4
"""That run empty jobs."""
WITH_US, WITHOUT_US = ("headrace.scheduler", "pyspark"), ("pyspark",)
PLAYS = "benchmarks.runners.scheduler"
DAY = "benchmarks.runners.scheduler_day"
SHARES = "benchmarks.runners.scheduler_shares"
COST = "benchmarks.runners.scheduler_cost"
EMPTY = "benchmarks.runners.scheduler_empty"
LOCAL, CLUSTER = "local[2]", "local-cluster[2,1,700]"
SECONDS = {"infrequent users": 6.0, "two sizes": 6.5, "all at once": 4.0, "large only": 6.0, "mix": 6.0}
WHOSE = {
    "infrequent users": "infrequent users' jobs",
    "two sizes": "small jobs",
    "all at once": "all jobs",
    "large only": "all jobs",
    "mix": "small jobs",
}


INSTALLED: dict[str, Any] = {"policy": "uwfq", "clock": "self"}
"""What an application is told that has us as we come."""
TRUE: Mapping[str, Json] = {"partitioned": True, "estimates": "exact"}
WHOLE: Mapping[str, Json] = {"partitioned": False, "estimates": "exact"}
WRONG = ("halved", "doubled", "noise")


def _wrong(name: str, kinds: tuple[str, ...]) -> dict[str, Json]:
    return {f"{name}, {told}": {"partitioned": True, "estimates": told} for told in kinds}


def _policy(name: str, policy: str, clock: str, arms: Mapping[str, Json], runner: str = PLAYS) -> Contestant:
    packages = WITHOUT_US if policy in ("fair", "ujf", "fifo") else WITH_US
    if runner == DAY:
        packages = (*packages, "headrace.storage")  # all arms ask the store
    args: Mapping[str, Any] = {"policy": policy, "clock": clock, "arms": arms}
    return Contestant(name, runner, packages=packages, args=args)


def _both(name: str, policy: str, clock: str = "self", runner: str = PLAYS) -> Contestant:
    return _policy(name, policy, clock, {f"{name}-P": TRUE, name: WHOLE}, runner)


OUR_ARMS = {OURS: TRUE, "uwfq": WHOLE}
PEERS = (_both("fair", "fair"), _both("ujf", "ujf"), _both("cfq", "cfq", "wall"))
ARMS = (_policy(OURS, "uwfq", "self", OUR_ARMS), *PEERS)
TOLD = (_policy(OURS, "uwfq", "self", OUR_ARMS | _wrong(OURS, WRONG)), *PEERS)
"""Ours is also told what is wrong."""
PAPER = _policy("paper's clock", "uwfq", "wall", _wrong("paper's clock", ("exact", "halved", "noise")))
FIFO = _both("fifo", "fifo")


def _value(name: str) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.values[name]


def _first(key: str) -> Callable[[Repetition], float]:
    """A value of a contestant's first arm, the one that is cut to a length."""
    return lambda repetition: next(
        value for name, value in repetition.values.items() if name.endswith(f"|{key}")
    )


def _case(scenario: str, contestants: tuple[Contestant, ...], repetitions: int, master: str = LOCAL) -> Case:
    key = "small" if WHOSE[scenario] != "all jobs" else "mean"
    where = "" if master == LOCAL else " local-cluster"
    title = f"[{scenario}]{where}"
    plays = sum(len(contestant.args["arms"]) for contestant in contestants)
    return Case(
        name=f"{scenario}{where}",
        contestants=contestants,
        metrics=(
            Metric(f"{title} mean response, {WHOSE[scenario]}", "s", "lower", _first(key)),
            Metric(f"{title} slowest 5 % of all jobs", "s", "lower", _first("slowest")),
            Metric(f"{title} worst user's mean", "s", "lower", _first("worst_user")),
            Metric(f"{title} makespan", "s", "lower", _first("makespan")),
        ),
        repetitions=repetitions,
        discard=1,
        expected_s=SECONDS[scenario] * plays / len(contestants),
        args={"scenario": scenario, "seed": SEED, "master": master},
    )


def _day(repetitions: int) -> Case:
    return Case(
        name="mixed day",
        contestants=tuple(
            _policy(name, policy, clock, {name: TRUE if cut else WHOLE}, DAY)
            for name, policy, clock, cut in (
                (OURS, "uwfq", "self", True),
                ("fair-P", "fair", "self", True),
                ("fair", "fair", "self", False),
                ("ujf-P", "ujf", "self", True),
                ("ujf", "ujf", "self", False),
                ("cfq-P", "cfq", "wall", True),
            )
        ),
        metrics=(
            Metric("[mixed day] mean response, analysts' SQL over the store", "s", "lower", _value("small")),
            Metric("[mixed day] mean micro-batch", "s", "lower", _value("batch")),
            Metric("[mixed day] makespan of the backfill", "s", "lower", _value("makespan")),
        ),
        repetitions=repetitions,
        discard=1,
        expected_s=10.0,
        args={"master": LOCAL},
    )


def _shares(repetitions: int) -> Case:
    return Case(
        name="shares",
        contestants=(Contestant(OURS, SHARES, packages=WITH_US, args=INSTALLED),),
        metrics=(
            Metric("[weights] 2:1, service of the heavier by the lighter", "×", "lower", _value("weights")),
            Metric("[cap] points above a cap of 50 %, worst 10 s", "points", "lower", _value("over_cap")),
        ),
        repetitions=repetitions,
        expected_s=33.0,
        args={"master": LOCAL},
    )


def _ratio(above: str, below: str) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.values[above] / repetition.values[below]


def _cost_cases() -> tuple[Case, ...]:
    """What we cost: an order beside Spark's FAIR, and in jobs a second with and without us, each within one JVM."""
    sizes = (100, 1_000)
    within = Case(
        name="ordering",
        contestants=(
            Contestant(
                OURS,
                COST,
                packages=WITH_US,
                args=INSTALLED | {"task_sets": list(sizes)},
            ),
        ),
        metrics=(
            *(
                Metric(
                    f"[ordering] ours / Spark's FAIR, {n:,} task sets",
                    "×",
                    "lower",
                    _ratio(f"ours_us_{n}", f"fair_us_{n}"),
                )
                for n in sizes
            ),
            *(
                Metric(f"[ordering] one order, {n:,} task sets", "µs", "lower", _value(f"ours_us_{n}"))
                for n in sizes
            ),
            *(
                Metric(
                    f"[clock] serve, place and ask, {n:,} users of 5 jobs",
                    "µs",
                    "lower",
                    _value(f"clock_us_{n}"),
                )
                for n in (100, 1_000, 10_000)
            ),
        ),
        repetitions=1,
        expected_s=40.0,
        args={"master": LOCAL},
    )
    empty = (
        Case(
            name=f"empty jobs {number}",
            contestants=(Contestant(OURS, EMPTY, packages=WITH_US, args=INSTALLED),),
            metrics=(
                Metric(
                    f"[empty jobs] a second with us / without, JVM {number}",
                    "×",
                    "higher",
                    _ratio("ours|per_s", "without us|per_s"),
                ),
            ),
            repetitions=6,
            expected_s=16.0,
            args={"master": LOCAL},
        )
        for number in range(JVMS)
    )
    return within, *empty


def cases(profile: Profile) -> tuple[Case, ...]:
    """Quick plays the mix once; the default is all that is promised; full has twice the seeds and FIFO."""
    if profile is Profile.QUICK:
        return (_case("mix", ARMS[:3], repetitions=1),)
    full = profile is Profile.FULL
    seeds = 2 * SEEDS if full else SEEDS
    more = {"mix": (PAPER,)}
    return (
        *_cost_cases(),
        *(
            _case(scenario, (*TOLD, *more.get(scenario, ()), *((FIFO,) if full else ())), seeds)
            for scenario in SCENARIOS
        ),
        _day(SEEDS),
        _shares(3),
        *(_case(scenario, ARMS[:3], SEEDS, CLUSTER) for scenario in ("mix", "two sizes")),
    )


TABLE = Table(
    name="scheduler",
    title="Users of one Spark application with two cores: how long they wait",
    cases=cases,
    keeps=True,
    view=view,
    notes=(
        "fair: Spark's FAIR mode as it comes; ujf: a FAIR pool for each user, written by hand; cfq: fair queuing of jobs on the",
        "paper's clock (our pool, since Spark has none). -P: tasks cut to a tenth of a second; without it, one task a core. Tasks loop in the JVM.",
        "The first seed of each process is thrown away. Seconds are means over seeds, makespans medians. DVR: by how much jobs end later than under the user's fair pools, of their",
        "response there; cells are kept one by one, so that a run that was ended goes on with the next seed.",
    ),
)
