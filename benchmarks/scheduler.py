"""Table ``scheduler``: how long users of one Spark application wait, under our scheduler and under Spark's own pools.

Each arm is an application with two cores; each is there with jobs cut for its cores alone and cut to a target's length ("-P"),
because partitioning helps every policy and must not be counted as ours. Estimates given to our arm and to CFQ are exact unless
a row says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.case import OURS, Case, Contestant, Metric, Profile, Repetition, Table
from benchmarks.crowd import SCENARIOS

SEED = 50
PACKAGES = ("headrace", "pyspark")
RUNNER = "benchmarks.runners.scheduler"
SECONDS = {"infrequent users": 9.0, "two sizes": 11.0, "all at once": 4.0, "large only": 8.0, "mix": 9.0}


def _arm(
    name: str, policy: str, *, partitioned: bool, clock: str = "self", told: str = "exact"
) -> Contestant:
    args: Mapping[str, Any] = {
        "policy": policy,
        "clock": clock,
        "partitioned": partitioned,
        "estimates": told,
    }
    return Contestant(name, RUNNER, packages=PACKAGES, args=args)


ARMS = (
    _arm(OURS, "uwfq", partitioned=True),
    _arm("uwfq", "uwfq", partitioned=False),
    _arm("fair-P", "fair", partitioned=True),
    _arm("fair", "fair", partitioned=False),
    _arm("ujf-P", "ujf", partitioned=True),
    _arm("ujf", "ujf", partitioned=False),
    _arm("cfq-P", "cfq", partitioned=True, clock="wall"),
    _arm("cfq", "cfq", partitioned=False, clock="wall"),
)
FIFO = (_arm("fifo-P", "fifo", partitioned=True), _arm("fifo", "fifo", partitioned=False))
WRONG = (
    _arm(OURS, "uwfq", partitioned=True),
    *(_arm(f"ours, {told}", "uwfq", partitioned=True, told=told) for told in ("halved", "doubled", "noise")),
    *(
        _arm(f"paper's clock, {told}", "uwfq", partitioned=True, clock="wall", told=told)
        for told in ("exact", "halved", "noise")
    ),
)


def _value(name: str) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.values[name]


def _case(
    scenario: str,
    contestants: tuple[Contestant, ...],
    repetitions: int,
    *,
    prefix: str = "",
    master: str = "local[2]",
) -> Case:
    small = {"infrequent users": "small", "two sizes": "small", "mix": "small"}.get(scenario, "mean")
    whose = {"infrequent users": "infrequent users' jobs", "small": "small jobs"}.get(
        scenario if scenario == "infrequent users" else small, "all jobs"
    )
    where = "" if master.startswith("local[") else " local-cluster"
    title = f"[{scenario}]{prefix}{where}"
    return Case(
        name=f"{scenario}{prefix}{where}",
        contestants=contestants,
        metrics=(
            Metric(f"{title} mean response, {whose}", "s", "lower", _value(small)),
            Metric(f"{title} slowest 5 % of all jobs", "s", "lower", _value("slowest")),
            Metric(f"{title} worst user's mean", "s", "lower", _value("worst_user")),
            Metric(f"{title} makespan", "s", "lower", _value("makespan")),
        ),
        repetitions=repetitions,
        discard=1,
        expected_s=SECONDS[scenario],
        args={"scenario": scenario, "seed": SEED, "master": master},
    )


def _ratio(above: str, below: str) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.values[above] / repetition.values[below]


def _cost_cases(repetitions: int) -> tuple[Case, ...]:
    """What we cost: within one JVM beside Spark's FAIR, and in jobs a second with and without us."""
    sizes = (100, 1_000)
    within = Case(
        name="ordering",
        contestants=(
            Contestant(
                OURS,
                "benchmarks.runners.scheduler_cost",
                packages=PACKAGES,
                args={"installed": True, "task_sets": list(sizes)},
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
    )
    empty = Case(
        name="empty jobs",
        contestants=tuple(
            Contestant(
                name,
                "benchmarks.runners.scheduler_cost",
                packages=PACKAGES,
                args={"installed": installed, "task_sets": []},
            )
            for name, installed in ((OURS, True), ("without us", False))
        ),
        metrics=(Metric("[empty jobs] a second", "1/s", "higher", _value("empty_jobs_per_s")),),
        repetitions=repetitions,
        discard=1,
        expected_s=5.0,
    )
    return within, empty


def cases(profile: Profile) -> tuple[Case, ...]:
    """Quick plays the mix once for the arms people would compare; the default every scenario; full also local-cluster and FIFO."""
    if profile is Profile.QUICK:
        return (_case("mix", (ARMS[0], ARMS[2], ARMS[4]), repetitions=1),)
    repetitions = 5
    played = tuple(_case(scenario, ARMS, repetitions) for scenario in SCENARIOS)
    wrong = tuple(
        _case(scenario, WRONG, repetitions, prefix=" [estimates]") for scenario in ("mix", "two sizes")
    )
    if profile is Profile.DEFAULT:
        return (*_cost_cases(repetitions), *played, *wrong)
    cluster = _case("mix", (*ARMS, *FIFO), repetitions, master="local-cluster[2,1,700]")
    return (*_cost_cases(repetitions), *played, *wrong, cluster)


TABLE = Table(
    name="scheduler",
    title="Users of one Spark application with two cores: how long they wait",
    cases=cases,
    notes=(
        "fair: Spark's FAIR mode as it comes; ujf: a FAIR pool for each user, written by hand; cfq: fair queuing of jobs on the",
        "paper's clock (our pool, since Spark has none). -P: tasks cut to a tenth of a second; without it, one task a core.",
        "The first repetition of each arm is thrown away; each further one is the next seed.",
    ),
)
