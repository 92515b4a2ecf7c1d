"""What is made of the cells of ``scheduler``: a line for each arm of each scenario, and what we promise held against them.

A rival counts with its better arm, of the one whose jobs are cut to a length ("-P") and the one whose jobs are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.case import OURS
from benchmarks.crowd import SCENARIOS, dvr, ranked_dvr, users

Values = Mapping[str, float]
Arms = dict[str, list[Values]]
"""By contestant, a repetition's values for each seed."""

COUNTED = {
    "infrequent users": "small",
    "two sizes": "small",
    "all at once": "mean",
    "large only": "mean",
    "mix": "small",
}
"""Whose mean response a scenario is about."""
PROMISED = {
    "infrequent users": {"fair": 0.20, "ujf": 0.80},
    "two sizes": {"fair": 0.70, "ujf": 0.75},
    "all at once": {"fair": 0.95},
    "large only": {"ujf": 1.05},
    "mix": {"fair": 0.25, "ujf": 0.90},
}
WRONG = ("halved", "doubled", "noise")
HELD = (OURS, "cfq-P", "cfq", "ujf-P", "ujf")
"""Arms whose lateness is told."""
LATE_AGAINST = (
    (OURS, OURS, "ujf-P"),
    ("cfq-P", "cfq-P", "ujf-P"),
    ("cfq", "cfq", "ujf"),
    ("UJF against itself", "ujf", "ujf-P"),
)
"""What is said, of which arm, against which."""


def view(measured: Any, results: Path) -> list[str]:
    """The lines below the header."""
    cells: dict[str, Arms] = {}
    for cell in measured.cells:
        arms = cells.setdefault(cell.key["case"], {})
        for repetition in cell.repetitions:
            for arm, values in _by_arm(cell.key["contestant"], repetition.values).items():
                arms.setdefault(arm, []).append(values)
    lines = []
    for case, arms in cells.items():
        scenario = case.removesuffix(" local-cluster")
        if scenario in SCENARIOS and OURS in arms:
            lines += _scenario(case, scenario, arms)
    lines += _lateness({case: arms for case, arms in cells.items() if case in SCENARIOS})
    lines += _day(cells.get("mixed day", {}))
    lines += _costs(cells)
    failed = {(cell.key["case"], cell.key["contestant"]): cell.failure for cell in measured.cells}
    lines += [f"{case}: {name} failed: {why}" for (case, name), why in failed.items() if why is not None]
    return lines


def _by_arm(contestant: str, values: Values) -> dict[str, dict[str, float]]:
    """Values named ``arm|value`` by arm; others are the contestant's own."""
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        arm, bar, key = name.partition("|")
        found.setdefault(arm if bar else contestant, {})[key if bar else name] = value
    return found


def _mean(key: str) -> Callable[[Sequence[Values]], float]:
    return lambda runs: fmean(run[key] for run in runs)


def _median(key: str) -> Callable[[Sequence[Values]], float]:
    return lambda runs: median(run[key] for run in runs)


def better(arms: Arms, rival: str, of: Callable[[Sequence[Values]], float]) -> tuple[str, float] | None:
    """A rival's better arm and its value; ``None`` where neither was measured."""
    values = {name: of(arms[name]) for name in (f"{rival}-P", rival) if name in arms}
    return min(values.items(), key=lambda item: item[1]) if values else None


def _promise(what: str, value: float, most: float, *, least: float = 0.0, unit: str = "×") -> str:
    span = f"at most {most:g}" if not least else f"{least:g} to {most:g}"
    return f"  {'holds' if least <= value <= most else 'FAILS'}  {what}: {value:.3g} {unit}, promised {span}"


def _against(what: str, arms: Arms, rival: str, of: Callable[[Sequence[Values]], float], most: float) -> str:
    best = better(arms, rival, of)
    if best is None:
        return f"  open   {what}: {rival} is not measured"
    return _promise(f"{what} / {best[0]}", of(arms[OURS]) / best[1], most)


def _scenario(case: str, scenario: str, arms: Arms) -> list[str]:
    counted = COUNTED[scenario]
    references: dict[str, list[Values]] = {name: arms[name] for name in ("ujf-P", "ujf") if name in arms}
    lines = [
        "",
        f"[{case}] seconds; {'jobs counted: the small ones' if counted == 'small' else 'all jobs count'}",
        f"  {'arm':24}{'counted':>9}{'spread':>9}{'all':>9}{'slowest':>9}{'worst user':>12}{'makespan':>10}{'DVR':>7}{'user DVR':>10}{'n':>3}",
    ]
    for name, runs in arms.items():
        all_ = [run[counted] for run in runs]
        late, worst = _dvr(runs, _reference(name, references))
        lines.append(
            f"  {name:24}{fmean(all_):>9.3f}{(max(all_) - min(all_)) / min(all_):>9.0%}{_mean('mean')(runs):>9.3f}"
            f"{_mean('slowest')(runs):>9.3f}{_mean('worst_user')(runs):>12.3f}{_median('makespan')(runs):>10.2f}"
            f"{late:>7.2f}{worst:>10.2f}{len(runs):>3}"
        )
    for rival, most in PROMISED[scenario].items():
        lines.append(_against(f"[{case}] mean response", arms, rival, _mean(counted), most))
    for told in WRONG:
        if f"ours, {told}" in arms:
            wrong = _mean(counted)(arms[f"ours, {told}"]) / _mean(counted)(arms[OURS])
            lines.append(_promise(f"[{case}] [estimates {told}] ours / ours, exact", wrong, 1.6))
    lines.append(_against(f"[{case}] [makespan] median", arms, "fair", _median("makespan"), 1.05))
    lines.append(_against(f"[{case}] [slowest 5 %] mean", arms, "ujf", _mean("slowest"), 1.5))
    return lines


def _lateness(cells: Mapping[str, Arms]) -> list[str]:
    """Mean DVR over the scenarios where all of ours, CFQ and UJF were measured, by name and by rank.

    A user's jobs of a burst are alike, and which of them a thread submits first is chance: UJF is late against itself
    by half a response. By rank, a user's k-th job to end is held against the k-th, and that chance is gone. Spark's pools
    are not fair on few cores: of two users with nothing running, the name decides. So all are also held against users who
    share the cores as a fluid.
    """
    means: dict[str, dict[str, list[float]]] = {"by name": {}, "by rank": {}, "against an ideal machine": {}}
    for arms in cells.values():
        if set(HELD) <= set(arms):
            for said, arm, reference in LATE_AGAINST:
                pairs = list(zip(arms[arm], arms[reference], strict=False))
                for how, of in (("by name", dvr), ("by rank", ranked_dvr)):
                    means[how].setdefault(said, []).append(fmean(of(*pair) for pair in pairs))
            for arm in HELD:
                means["against an ideal machine"].setdefault(arm, []).append(_mean("unfair")(arms[arm]))
    lines = []
    for how, found in means.items():
        mean = {name: fmean(late) for name, late in found.items()}
        if not mean:
            continue
        values = ", ".join(f"{name} {late:.2f}" for name, late in mean.items())
        lines += ["", f"[DVR] {how}, mean over {len(found[OURS])} scenarios: {values}"]
        best = min(mean["cfq-P"], mean["cfq"])
        what = f"[DVR] {how}, ours / CFQ's better arm"
        lines.append(
            _promise(what, mean[OURS] / best, 1.1) if best else f"  open   {what}: CFQ was never late"
        )
    return lines


def _reference(name: str, references: Mapping[str, list[Values]]) -> list[Values]:
    """UJF with jobs cut as the arm's are."""
    cut = name.endswith("-P") or name.startswith(("ours", "paper's clock"))
    return references.get("ujf-P" if cut else "ujf", [])


def _dvr(runs: Sequence[Values], reference: Sequence[Values]) -> tuple[float, float]:
    """Mean over seeds of the deadline violation ratio, and the worst user's mean."""
    pairs = list(zip(runs, reference, strict=False))
    if not pairs:
        return 0.0, 0.0
    by_user = [fmean(dvr(run, other, user) for run, other in pairs) for user in users(pairs[0][0])]
    return fmean(dvr(run, other) for run, other in pairs), max(by_user)


def _day(arms: Arms) -> list[str]:
    if not arms:
        return []
    lines = [
        "",
        "[mixed day] seconds; a streaming query, two analysts, a backfill; nobody tells what anything costs",
        f"  {'arm':24}{'analysts':>9}{'slowest':>9}{'batch':>9}{'backfill':>9}{'n':>3}",
    ]
    for name, runs in arms.items():
        cells = "".join(f"{_mean(key)(runs):>9.3f}" for key in ("small", "slowest", "batch", "makespan"))
        lines.append(f"  {name:24}{cells}{len(runs):>3}")
    return lines


def _costs(cells: Mapping[str, Arms]) -> list[str]:
    lines: list[str] = [""]
    for runs in filter(None, cells.get("shares", {}).values()):
        worst = max((run["weights"] for run in runs), key=lambda ratio: abs(ratio - 2.0))
        lines.append(_promise("[weights] 2:1, worst of all runs", worst, 2.1, least=1.9))
        over = max(run["over_cap"] for run in runs)
        lines.append(
            _promise(
                "[cap] above a cap of 50 %, worst 10 s of all runs", over, 5.0, least=-100.0, unit="points"
            )
        )
    if runs := list(cells.get("ordering", {}).get(OURS, [])):
        for n in (100, 1_000):
            ratio = median(run[f"ours_us_{n}"] / run[f"fair_us_{n}"] for run in runs)
            lines.append(_promise(f"[ordering] ours / Spark's FAIR, {n:,} task sets", ratio, 1.5))
            lines.append(
                f"         {median(run[f'ours_us_{n}'] for run in runs):.0f} µs, FAIR {median(run[f'fair_us_{n}'] for run in runs):.0f} µs"
            )
        clocks = {n: median(run[f"clock_us_{n}"] for run in runs) for n in (100, 1_000, 10_000)}
        said = ", ".join(f"{us:.2f} µs at {n:,} users" for n, us in clocks.items())
        lines.append(f"         [clock] serve, place and ask: {said}")
        lines.append(
            _promise("[clock] 10,000 users / 100 users (a log would be 2)", clocks[10_000] / clocks[100], 4.0)
        )
    empty = [arms for case, arms in cells.items() if case.startswith("empty jobs")]
    if lost := [_lost(arms) for arms in empty if OURS in arms]:
        what = (
            f"[empty jobs] throughput lost, median of {sum(map(len, lost))} repetitions in {len(lost)} JVMs"
        )
        lines.append(_promise(what, median(chain(*lost)), 2.0, least=-100, unit="%"))
        lines.append("         JVM by JVM: " + ", ".join(f"{median(losses):+.1f} %" for losses in lost))
    return lines


def _lost(arms: Arms) -> list[float]:
    """Per cent of the empty jobs a second that a JVM runs fewer with us, for each repetition."""
    pairs = zip(arms[OURS], arms["without us"], strict=True)
    return [100 * (1 - ours["per_s"] / without["per_s"]) for ours, without in pairs]
