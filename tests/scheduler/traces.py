"""Random traces of what Spark could tell a scheduler, one event a line; read by ``model.play`` and by ``Trace.java`` alike."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

USERS = ("ann", "bob", "cat", "dan", "eve")


@dataclass
class _TaskSet:
    tasks: int
    mean_us: int
    running: list[int] = field(default_factory=list)
    done: int = 0
    done_us: int = 0
    wasted_us: int = 0


def random_trace(seed: int, policy: str, clock: str, steps: int = 120) -> list[str]:
    """A trace of ``steps`` events: submissions, tasks that run, fail and end, weights and caps that change, orders."""
    rng = random.Random(seed)
    cores = rng.choice((1, 2, 8))
    lines = [f"begin {policy} {clock} {cores}"]
    live: dict[int, _TaskSet] = {}
    weights = {user: rng.choice((1.0, 1.0, 0.5, 2.0, 3.7)) for user in USERS}
    shares = {user: rng.choice((0, 0, 0, 1, 2)) for user in USERS}
    now, number, jobs = 0.0, 0, 0
    for _ in range(steps):
        now += rng.choice((0.0, rng.random() * 20, rng.random() * 400, rng.random() * 8_000))
        lines.append(f"now {now!r}")
        what = rng.random()
        if what < 0.35 or not live:
            jobs += rng.random() < 0.7
            job = rng.randint(max(0, jobs - 4), jobs)
            user = USERS[job % len(USERS)] if rng.random() < 0.8 else USERS[0]
            tasks = rng.choice((1, 1, 2, 5, 40))
            mean = int(rng.lognormvariate(12, 1.5)) + 1
            prior = int(tasks * mean * rng.choice((0.5, 1.0, 1.0, 2.0))) + 1
            barrier = "barrier" if rng.random() < 0.02 else "plain"
            hint = rng.choice((0, 0, prior, 3 * prior))
            stage = number
            lines.append(
                f"submit {number} {user} {weights[user]!r} {shares[user]} job{job} {job} {stage} {tasks} {barrier} "
                f"{prior} {hint}"
            )
            live[number] = _TaskSet(tasks, mean)
            number += 1
        elif what < 0.8:
            chosen = rng.choice(sorted(live))
            _work(rng, live[chosen], cores)
            t = live[chosen]
            lines.append(" ".join(map(str, ("observe", chosen, t.done, t.done_us, t.wasted_us, *t.running))))
            if t.done == t.tasks or rng.random() < 0.03:
                del live[chosen]
                lines.append(f"remove {chosen}")
        elif what < 0.85:
            lines.append(f"weight {rng.choice(USERS)} {rng.choice((0.25, 1.0, 2.0, 5.5))!r}")
        elif what < 0.9:
            lines.append(f"cap {rng.choice(USERS)} {rng.choice((0.1, 0.5, 1.0))!r}")
        lines.append("order")
    return [*lines, f"now {now + 60_000!r}", "count"]


def _work(rng: random.Random, t: _TaskSet, cores: int) -> None:
    """Let some tasks begin, run on, end or fail."""
    t.running = [elapsed + int(rng.random() * t.mean_us) for elapsed in t.running]
    for elapsed in list(t.running):
        if rng.random() < 0.4:
            t.running.remove(elapsed)
            if rng.random() < 0.9:
                t.done += 1
                t.done_us += elapsed
            else:
                t.wasted_us += elapsed
    while len(t.running) < cores and t.done + len(t.running) < t.tasks and rng.random() < 0.8:
        t.running.append(0)
