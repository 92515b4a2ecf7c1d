"""Crowds of users for the table ``scheduler``: who submits what and when, seeded; and what is read off how it went.

The scenarios are those of the paper's evaluation (arXiv 2510.15485), scaled from 32 cores to two and in time, and a mix of one
heavy user and three light ones. A job is so many core-seconds of looping, cut into tasks by the arm that runs it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

SMALL_S = 0.16
LARGE_S = 1.2
CORES = 2
TARGET_S = 0.1
"""Task length that partitioning aims at; the paper's 0.5 s, scaled as the jobs are."""


@dataclass(frozen=True)
class Work:
    """One job: ``core_s`` of work for ``user``, ``at`` seconds after the start, or after the one it follows has ended."""

    name: str
    user: str
    core_s: float
    at: float
    small: bool
    follows: str | None = None


def infrequent_users(rng: random.Random) -> list[Work]:
    """2_power_2_small: two users submit bursts, two submit now and then."""
    jobs = [
        Work(
            f"power{user}-{burst}-{n}",
            f"power{user}",
            SMALL_S,
            2.5 * burst + rng.uniform(0, 0.05),
            small=False,
        )
        for user in range(2)
        for burst in range(2)
        for n in range(14)
    ]
    for user in range(2):
        at = 0.0
        for n in range(6):
            at += min(rng.expovariate(1 / 0.8), 1.0)
            jobs.append(Work(f"small{user}-{n}", f"small{user}", SMALL_S, at, small=True))
    return jobs


def two_sizes(rng: random.Random) -> list[Work]:
    """2_large_2_small: two users run large jobs one after the other, two submit small ones."""
    jobs = []
    for user in range(2):
        for n in range(4):
            before = f"large{user}-{n - 1}" if n else None
            jobs.append(
                Work(f"large{user}-{n}", f"large{user}", LARGE_S, rng.uniform(0, 0.05), False, before)
            )
        at = 0.3
        for n in range(6):
            at += min(rng.expovariate(1 / 0.7), 0.9)
            jobs.append(Work(f"small{user}-{n}", f"small{user}", SMALL_S, at, small=True))
    return jobs


def all_at_once(rng: random.Random) -> list[Work]:
    """4_super_small: four users submit all they have in the same moment."""
    return [
        Work(f"user{user}-{n}", f"user{user}", 0.1, 0.01 * user + rng.uniform(0, 0.01), small=True)
        for user in range(4)
        for n in range(12)
    ]


def large_only(rng: random.Random) -> list[Work]:
    """4_large: four users with large jobs, and nothing else."""
    return [
        Work(f"user{user}-{n}", f"user{user}", 1.2, rng.uniform(0, 0.2), small=False)
        for user in range(4)
        for n in range(2)
    ]


def mix(rng: random.Random) -> list[Work]:
    """A backfill of three jobs, and three users who ask, think and ask again."""
    jobs = [Work(f"heavy-{n}", "heavy", 2.5, rng.uniform(0, 0.05), small=False) for n in range(3)]
    for user, start in zip("abc", (0.4, 0.7, 1.0), strict=True):
        for n in range(4):
            before = f"{user}-{n - 1}" if n else None
            at = rng.uniform(0.3, 0.7) if n else start
            jobs.append(Work(f"{user}-{n}", user, SMALL_S, at, True, before))
    return jobs


SCENARIOS: Mapping[str, Callable[[random.Random], list[Work]]] = {
    "infrequent users": infrequent_users,
    "two sizes": two_sizes,
    "all at once": all_at_once,
    "large only": large_only,
    "mix": mix,
}


def estimates(jobs: Sequence[Work], kind: str, rng: random.Random) -> dict[str, float]:
    """What the scheduler is told each job will cost, in core-seconds: ``exact``, ``halved``, ``doubled`` or ``noise``."""
    factor = {"exact": 1.0, "halved": 0.5, "doubled": 2.0, "noise": 1.0}[kind]
    return {
        job.name: job.core_s * factor * (rng.lognormvariate(0.0, 1.0) if kind == "noise" else 1.0)
        for job in jobs
    }


def summary(jobs: Sequence[Work], began: Mapping[str, float], ended: Mapping[str, float]) -> dict[str, float]:
    """Response times of one run, in seconds; ``end:user/job`` and ``response:user/job`` are there to compare arms job by job.

    ``unfair`` is the deadline violation ratio by rank, against users who share the cores as a fluid.
    """
    responses = {job.name: ended[job.name] - began[job.name] for job in jobs}
    by_user: dict[str, list[float]] = {}
    for job in jobs:
        by_user.setdefault(job.user, []).append(responses[job.name])
    ordered = sorted(responses.values())
    slowest = ordered[-max(1, round(0.05 * len(ordered))) :]
    small = [responses[job.name] for job in jobs if job.small]
    of_jobs = _of_jobs(jobs, began, ended)
    return {
        "unfair": ranked_dvr(of_jobs, _of_jobs(jobs, began, fluid(jobs, began))),
        "mean": sum(ordered) / len(ordered),
        "small": sum(small) / len(small) if small else 0.0,
        "slowest": sum(slowest) / len(slowest),
        "worst_user": max(sum(all_) / len(all_) for all_ in by_user.values()),
        "makespan": max(ended.values()),
        **of_jobs,
    }


def _of_jobs(
    jobs: Sequence[Work], began: Mapping[str, float], ended: Mapping[str, float]
) -> dict[str, float]:
    return {
        **{f"end:{job.user}/{job.name}": round(ended[job.name], 3) for job in jobs},
        **{f"response:{job.user}/{job.name}": round(ended[job.name] - began[job.name], 3) for job in jobs},
    }


def fluid(jobs: Sequence[Work], began: Mapping[str, float]) -> dict[str, float]:
    """When each job would end if users shared the cores equally at every moment, and a user's jobs the user's share.

    Nothing is lost to launching tasks, and a job may use all cores: no real scheduler is as fair.
    """
    to_come = sorted(jobs, key=lambda job: began[job.name])
    left: dict[Work, float] = {}
    ended: dict[str, float] = {}
    now = 0.0
    while to_come or left:
        if not left:
            now = max(now, began[to_come[0].name])
        while to_come and began[to_come[0].name] <= now:
            job = to_come.pop(0)
            left[job] = job.core_s
        users_now = [job.user for job in left]
        share = CORES / len(set(users_now))
        rates = {job: share / users_now.count(job.user) for job in left}
        passes = min(left[job] / rates[job] for job in left)
        if to_come:
            passes = min(passes, began[to_come[0].name] - now)
        now += passes
        for job, rate in rates.items():
            left[job] -= rate * passes
            if left[job] < 1e-9:
                ended[job.name] = now
                del left[job]
    return ended


def dvr(run: Mapping[str, float], reference: Mapping[str, float], user: str = "") -> float:
    """Deadline violation ratio: by how much, of its response under the reference (UJF), a late job was later; 0 for none.

    Over the late jobs of all users, or of the one that is named.
    """
    late = [
        (run[key] - reference[key]) / reference[f"response:{key.removeprefix('end:')}"]
        for key in reference
        if key.startswith(f"end:{user}/" if user else "end:") and run[key] > reference[key]
    ]
    return sum(late) / len(late) if late else 0.0


def ranked_dvr(run: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """As ``dvr``, but each user's k-th job to end against that user's k-th under the reference."""
    late = []
    for user in users(run):
        ends = sorted(value for key, value in run.items() if key.startswith(f"end:{user}/"))
        theirs = sorted(
            (value, reference[f"response:{key.removeprefix('end:')}"])
            for key, value in reference.items()
            if key.startswith(f"end:{user}/")
        )
        for end, (other, response) in zip(ends, theirs, strict=True):
            if end > other:
                late.append((end - other) / response)
    return fmean(late) if late else 0.0


def users(run: Mapping[str, float]) -> set[str]:
    """Who took part."""
    return {key.removeprefix("end:").partition("/")[0] for key in run if key.startswith("end:")}
