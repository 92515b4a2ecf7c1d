"""What the table ``scheduler`` makes of its cells: each rival's better arm, promises held and broken, and who was late."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.case import Profile, Repetition
from benchmarks.crowd import SCENARIOS, Work, dvr, estimates, fluid, ranked_dvr, summary
from benchmarks.results import Cell
from benchmarks.scheduler import TABLE
from benchmarks.scheduler_view import PROMISED, better, view

JOBS = [Work("a0", "a", 1.0, 0.0, small=False), Work("b0", "b", 0.1, 0.5, small=True)]


def _played(a: float, b: float) -> dict[str, float]:
    return summary(JOBS, {"a0": 0.0, "b0": 0.5}, {"a0": a, "b0": 0.5 + b})


@dataclass
class _Measured:
    cells: list[Any] = field(default_factory=list)

    def add(self, contestant: str, *seeds: dict[str, dict[str, float]], case: str = "mix") -> None:
        repetitions = [
            Repetition(
                1.0, 1.0, {f"{arm}|{key}": v for arm, run in seed.items() for key, v in run.items()}, {}, 0, 0
            )
            for seed in seeds
        ]
        self.cells.append(Cell({"case": case, "contestant": contestant}, repetitions))


def test_a_late_job_is_late_by_its_response_under_the_reference() -> None:
    reference = _played(a=2.0, b=0.5)
    assert dvr(_played(a=3.0, b=0.4), reference) == pytest.approx(0.5), (
        "b was not late, and does not make up for a"
    )
    assert dvr(_played(a=3.0, b=0.4), reference, "b") == 0.0
    assert dvr(reference, reference) == 0.0


def test_by_rank_it_does_not_matter_which_of_a_users_jobs_came_first() -> None:
    jobs = [Work(f"a{n}", "a", 1.0, 0.0, small=False) for n in range(2)]
    starts = {"a0": 0.0, "a1": 0.0}
    first = summary(jobs, starts, {"a0": 1.0, "a1": 2.0})
    second = summary(jobs, starts, {"a0": 2.0, "a1": 1.0})
    assert dvr(second, first) == pytest.approx(1.0)
    assert ranked_dvr(second, first) == 0.0
    assert ranked_dvr(summary(jobs, starts, {"a0": 3.0, "a1": 1.0}), first) == pytest.approx(0.5)


def test_on_an_ideal_machine_users_share_the_cores_and_jobs_their_users_share() -> None:
    jobs = [
        Work("a0", "a", 1.0, 0.0, small=False),
        Work("a1", "a", 1.0, 0.0, small=False),
        Work("b0", "b", 0.5, 1.0, small=True),
    ]
    began = {"a0": 0.0, "a1": 0.0, "b0": 0.5}
    # Two cores are a's until 0.5 s; then b has one of them for as long, and a's two jobs half a core each.
    ended = fluid(jobs, began)
    assert ended == pytest.approx({"a0": 1.25, "a1": 1.25, "b0": 1.0})
    assert summary(jobs, began, ended)["unfair"] == 0.0
    late = summary(jobs, began, ended | {"b0": 1.25})
    assert late["unfair"] == pytest.approx(0.5), "b waited half as long again as it should have"


def test_a_rival_counts_with_its_better_arm() -> None:
    def mean(runs: Any) -> float:
        return float(runs[0]["small"])

    arms: Any = {"fair-P": [_played(2.0, 0.6)], "fair": [_played(2.0, 0.5)]}
    assert better(arms, "fair", mean) == ("fair", pytest.approx(0.5))
    assert better(arms, "ujf", mean) is None


def test_what_is_promised_is_held_against_what_was_measured() -> None:
    measured = _Measured()
    measured.add(
        "ours", {"ours": _played(2.0, 0.1), "ours, noise": _played(2.0, 0.2)}, {"ours": _played(2.0, 0.1)}
    )
    measured.add("fair", {"fair-P": _played(2.0, 1.0), "fair": _played(2.0, 2.0)})
    measured.add("ujf", {"ujf-P": _played(2.0, 0.1), "ujf": _played(2.0, 0.3)})
    lines = view(measured, Path())
    said = {
        line.split(":")[0].strip(): line
        for line in lines
        if line.startswith("  holds") or line.startswith("  FAILS")
    }
    assert "holds  [mix] mean response / fair-P" in said
    assert "FAILS  [mix] mean response / ujf-P" in said
    assert "FAILS  [mix] [estimates noise] ours / ours, exact" in said
    assert "0.1 ×, promised at most 0.25" in said["holds  [mix] mean response / fair-P"]


def test_lateness_and_lost_jobs_are_told_for_every_arm() -> None:
    measured = _Measured()
    late, early = _played(2.0, 0.3), _played(2.0, 0.1)
    measured.add("ours", {"ours": early, "uwfq": late})
    measured.add("cfq", {"cfq-P": late, "cfq": late})
    measured.add("ujf", {"ujf-P": early, "ujf": early})
    for jvm, runs in enumerate((((98.5, 100.0), (97.0, 100.0)), ((95.0, 100.0),))):
        for ours, without in runs:
            measured.add(
                "ours", {"ours": {"per_s": ours}, "without us": {"per_s": without}}, case=f"empty jobs {jvm}"
            )
    said = "\n".join(view(measured, Path()))
    assert "by rank, mean over 1 scenarios: ours 0.00, cfq-P 2.00, cfq 2.00, UJF against itself 0.00" in said
    assert "holds  [DVR] against an ideal machine, ours / CFQ's better arm" in said
    assert "FAILS  [empty jobs] throughput lost, median of 3 repetitions in 2 JVMs: 3 %" in said
    assert "JVM by JVM: +2.3 %, +5.0 %" in said


def test_every_promise_has_its_case_and_every_arm_its_place() -> None:
    cases = {case.name: case for case in TABLE.cases(Profile.DEFAULT)}
    assert set(PROMISED) == set(SCENARIOS)
    for scenario in SCENARIOS:
        arms = [arm for contestant in cases[scenario].contestants for arm in contestant.args["arms"]]
        assert {"ours", "uwfq", "fair-P", "fair", "ujf-P", "ujf", "cfq-P", "cfq", "ours, noise"} <= set(arms)
        assert len(arms) == len(set(arms))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_its_seed_s_alone_and_estimates_are_what_they_are_called(scenario: str) -> None:
    jobs, again, other = (SCENARIOS[scenario](random.Random(seed)) for seed in (1, 1, 2))
    assert jobs == again != other
    names = {job.name for job in jobs}
    assert len(names) == len(jobs)
    assert all(job.follows is None or job.follows in names for job in jobs)
    halved = estimates(jobs, "halved", random.Random(3))
    assert all(halved[job.name] == job.core_s / 2 for job in jobs)
    assert estimates(jobs, "noise", random.Random(3)) == estimates(jobs, "noise", random.Random(3)) != halved
