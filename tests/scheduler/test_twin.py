"""The plugin's queue and its Python twin order every trace alike, and the plugin's does not grow with what is over."""

from __future__ import annotations

from headrace.scheduler import model

from . import jvm
from .traces import random_trace

TRACES = 200
POLICIES = ("uwfq", "ujf", "uwfq", "cfq", "fifo")
CLOCKS = ("self", "self", "wall")


def test_java_and_python_order_200_random_traces_alike() -> None:
    traces = [random_trace(n, POLICIES[n % 5], CLOCKS[n % 3]) for n in range(TRACES)]
    expected = [(n, order) for n, trace in enumerate(traces) for order in model.play(trace)]
    got = jvm.play(line for trace in traces for line in trace)
    assert len(got) == len(expected) > 100 * TRACES
    differing = [(n, ours, theirs) for (n, ours), theirs in zip(expected, got, strict=True) if ours != theirs]
    assert differing[:3] == []


def test_traces_are_worth_playing() -> None:
    """Policies and clocks must matter to them, or equal orders would mean little."""
    orders = {
        (policy, clock): model.play(random_trace(7, policy, clock))
        for policy in model.POLICIES
        for clock in ("self", "wall")
    }
    assert orders["uwfq", "self"] != orders["uwfq", "wall"]
    assert len({tuple(orders[policy, "self"]) for policy in model.POLICIES}) == len(model.POLICIES)


def test_memory_is_flat_over_100_000_jobs() -> None:
    """Jobs of a thousand users come and go; some were thought to be ten times what they were."""
    lines = ["begin uwfq self 4"]
    for n in range(100_000):
        prior = 50_000 if n % 7 == 0 else 5_000
        lines += [
            f"now {n * 2.0}",
            f"submit t user{n % 1_000} 1.0 0 job{n} {n} {n} 1 plain {prior} {prior * (n % 3)}",
            "observe t 1 5000 0",
            "remove t",
        ]
        if n % 10_000 == 9_999:
            lines.append("count")
    counts = [[int(word) for word in line.split()] for line in jvm.play([*lines, "now 300000.0", "count"])]
    users, jobs, flows, entries = zip(*counts, strict=True)
    assert max(users) == 1_000
    assert (
        max(jobs) < 4_000
    )  # five seconds of them, at one every two milliseconds, and what is not yet virtually done
    assert max(jobs[4:]) <= max(jobs[:4]) * 1.1
    assert (jobs[-1], flows[-1], set(entries)) == (0, 0, {0})


def test_a_thousand_one_time_users_of_cfq_leave_nothing() -> None:
    lines = ["begin cfq self 2"]
    for n in range(1_000):
        lines += [
            f"now {n * 10.0}",
            f"submit t user{n} 1.0 0 job{n} {n} {n} 1 plain 5000 0",
            "observe t 1 5000 0",
            "remove t",
        ]
    assert jvm.play([*lines, "now 30000.0", "count"])[-1].split()[1:] == ["0", "0", "0"]
