"""Minimum, spread, ratios, and the rows' public form."""

from __future__ import annotations

import json

import pytest

from benchmarks.case import Case, Contestant, Metric, Parts, Profile, Repetition
from benchmarks.process import ContestantFailed
from benchmarks.report import best, ratio_to_best, rows_of, spread, table_text
from benchmarks.results import Cell

METRICS = (
    Metric("[x] seconds", "s", "lower", lambda r: r.wall_s),
    Metric("[x] events per CPU second", "events/s", "higher", lambda r: r.values["events"] / r.cpu_s),
)
PARTS = Parts("[x] seconds per 100 events", "s", "events", 100.0, cpu=("parse", "gate"), wall=("commit",))


def repetition(wall_s: float, cpu_s: float = 1.0, **parts: float) -> Repetition:
    return Repetition(wall_s, cpu_s, {"events": 50.0}, parts, 0.1, 0.2)


def cell(*walls_s: float, failure: str | None = None) -> Cell:
    return Cell({"versions": {"x": "1"}}, [repetition(wall_s) for wall_s in walls_s], failure)


def case(parts: Parts | None = None) -> Case:
    contestants = tuple(Contestant(name, "benchmarks.runners.protocol") for name in ("ours", "a", "b"))
    return Case("x", contestants, METRICS, repetitions=2, expected_s=1.0, parts=parts)


def test_best_and_spread() -> None:
    assert best([3.0, 2.0, 2.5], "lower") == 2.0
    assert best([3.0, 2.0, 2.5], "higher") == 3.0
    assert spread([3.0, 2.0, 2.5]) == pytest.approx(0.5)
    assert spread([2.0]) is None
    assert spread([0.0, 1.0]) is None


@pytest.mark.parametrize(
    ("better", "expected"),
    [("lower", 10.0 / 5.0), ("higher", 10.0 / 20.0)],
)
def test_ratio_is_ours_over_the_best_peer_in_its_direction(better: str, expected: float) -> None:
    assert ratio_to_best(10.0, [20.0, None, 5.0], better) == pytest.approx(expected)  # type: ignore[arg-type]


def test_no_ratio_without_both_sides() -> None:
    assert ratio_to_best(None, [1.0], "lower") is None
    assert ratio_to_best(1.0, [None], "lower") is None
    assert ratio_to_best(1.0, [], "lower") is None
    assert ratio_to_best(1.0, [0.0], "lower") is None


def test_rows_are_public_json() -> None:
    cells = {"ours": cell(2.0, 3.0), "a": cell(1.0, 1.5), "b": cell(4.0, failure="no answer within 5 s")}
    seconds, events = (json.loads(json.dumps(row.as_json())) for row in rows_of(case(), cells, Profile.QUICK))
    assert seconds == {
        "case": "[x] seconds",
        "ours": 2.0,
        "peers": {"a": 1.0, "b": None},
        "unit": "s",
        "better": "lower",
        "ratio_to_best_peer": 2.0,
        "spread": {"ours": 0.5, "a": 0.5, "b": None},
        "repetitions": {"ours": 2, "a": 2, "b": 0},
        "failures": {"b": "no answer within 5 s"},
        "verification": "on",
        "profile": "quick",
        "versions": {"ours": {"x": "1"}, "a": {"x": "1"}, "b": {"x": "1"}},
    }
    assert (events["ours"], events["better"], events["ratio_to_best_peer"]) == (50.0, "higher", 1.0)


def test_losses_and_failures_are_printed() -> None:
    cells = {"ours": cell(2.0, 3.0), "a": cell(1.0, 1.5), "b": cell(failure="no answer within 5 s")}
    rows = rows_of(case(), cells, Profile.QUICK)
    text = table_text(rows)
    assert "2.00 LOSES" in text
    assert "1.00 wins" in text
    assert "[x] seconds: b failed: no answer within 5 s" in text
    assert [row.loses for row in rows] == [True, False]


def test_a_failed_cell_of_ours_counts_as_lost() -> None:
    cells = {"ours": cell(1.0, failure="it broke"), "a": cell(1.0), "b": cell(1.0)}
    row = rows_of(case(PARTS), cells, Profile.QUICK)[0]
    assert row.ours is None
    assert row.loses
    assert "ours failed: it broke" in table_text([row])


def test_parts_are_those_of_the_cheapest_repetition_and_add_up() -> None:
    dear = repetition(1.0, cpu_s=9.0, parse=5.0, gate=1.0, commit=0.5)
    cheap = repetition(2.0, cpu_s=4.0, parse=2.0, gate=0.5, commit=0.25)
    cells = {"ours": Cell({}, [dear, cheap]), "a": cell(1.0), "b": cell(1.0)}
    parts = {row.case: row for row in rows_of(case(PARTS), cells, Profile.DEFAULT)[2:]}
    assert {name: row.ours for name, row in parts.items()} == {
        "[x] seconds per 100 events: parse": 4.0,
        "[x] seconds per 100 events: gate": 1.0,
        "[x] seconds per 100 events: everything else": 3.0,
        "[x] seconds per 100 events: commit (wall)": 0.5,
    }
    assert all(row.peers == {} and row.ratio_to_best_peer is None for row in parts.values())


def test_a_case_names_ours_first_and_everyone_once() -> None:
    rival = Contestant("a", "benchmarks.runners.protocol")
    with pytest.raises(ValueError, match="expected 'ours' first"):
        Case("x", (rival, rival), METRICS, repetitions=1, expected_s=1.0)


def test_a_failure_is_told_once_for_all_its_rows() -> None:
    cells = {"ours": cell(1.0), "a": cell(failure="KeyError: 'price'"), "b": cell(1.0)}
    text = table_text(rows_of(case(), cells, Profile.QUICK))
    assert text.splitlines()[-1] == "[x] seconds: a failed: KeyError: 'price'"
    assert text.count("KeyError") == 1


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("ValueError: wrong\nby one", "ValueError: wrong"),
        (
            "Trouble: in a worker:\nTraceback (most recent call last):\n  File …\nKeyError: 'price'",
            "KeyError: 'price'",
        ),
        ("", "no reason given"),
        ("x" * 500, "x" * 159 + "…"),
    ],
)
def test_a_reason_is_told_in_one_line(reason: str, told: str) -> None:
    assert ContestantFailed(reason).line == told
