"""The multi-label tables: what is scored and where, what is ranked, and that kept cells of an absent rival are told as cached."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.case import OURS
from benchmarks.multilabel_view import at, ranked, ranks, view
from benchmarks.runners import multilabel_memory
from benchmarks.runners.multilabel_drift import Drift, agreement
from benchmarks.runners.multilabel_made import CHANGE_AT, KINDS, drifting, groups_of, many
from benchmarks.runners.multilabel_stream import Stream, Tally, prequential
from headrace.streaming.learners.ihomer.model import IHOMER


class Echo:
    """Says the labels of the row before, and remembers in which order it was asked."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.asked = stream, []
        self.last = np.zeros((1, stream.y.shape[1]), np.uint8)

    def take(self, rows: range) -> None:
        self.asked.append(("take", rows.start))

    def predict(self, rows: range) -> Any:
        self.asked.append(("predict", rows.start))
        return np.repeat(self.last, len(rows), 0)

    def learn(self, rows: range) -> None:
        self.asked.append(("learn", rows.start))
        self.last = self.stream.y[rows.stop - 1 : rows.stop]


def stream(n: int = 300) -> Stream:
    y = (np.random.default_rng(1).random((n, 4)) < 0.3).astype(np.uint8)
    return Stream(np.zeros((n, 2)), y, ["a", "b"], list("wxyz"))


def test_every_row_is_predicted_before_it_is_learnt_and_none_is_skipped() -> None:
    data = stream()
    model = Echo(data)
    found = prequential(model, data, cap_s=60.0)
    assert model.asked == [(what, row) for row in range(300) for what in ("take", "predict", "learn")]
    said = np.concatenate([np.zeros((1, 4), np.uint8), data.y[:-1]])
    both, total = (said & data.y).sum(), said.sum() + data.y.sum()
    assert found["micro"] == pytest.approx(2 * both / total)
    assert found["subset"] == pytest.approx((said == data.y).all(1).mean())
    assert found["hamming"] == pytest.approx((said != data.y).mean())
    assert found["n"] == found["rows"] == 300
    part = said[:100] & data.y[:100]
    assert at(found, "micro", 100) == pytest.approx(2 * part.sum() / (said[:100].sum() + data.y[:100].sum()))


def test_a_model_that_has_used_its_cap_stops_and_says_where() -> None:
    found = prequential(Echo(stream()), stream(), cap_s=-1.0)
    assert found["n"] == 1
    assert found["rows"] == 300


def test_nobody_and_nothing_counts_as_right_where_both_are_empty() -> None:
    tally = Tally(2)
    tally.add(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.uint8))
    assert tally.scores() == {"subset": 1.0, "hamming": 0.0, "example": 1.0, "micro": 0.0, "macro": 0.0}


def test_ranks_are_shared_by_equals_and_tested_over_data_sets() -> None:
    assert ranked({"a": 0.3, "b": 0.5, "c": 0.3}) == {"a": 2.5, "b": 1.0, "c": 2.5}
    table = {f"set {k}": {"ours": 0.9, "a": 0.5 + k / 100, "b": 0.4} for k in range(5)}
    lines = ranks(["ours", "a", "b"], table)
    assert "ours 1.00 (5), a 2.00 (5), b 3.00 (5)" in lines[0]
    assert lines[1] == (
        "all: Friedman chi-squared 10.0 (2 degrees), Nemenyi critical distance 1.48, over 5 data sets; apart from ours: b"
    )
    table |= {f"large {k}": {"ours": 0.9, "a": 0.5} for k in range(9)}
    assert len(ranks(["ours", "a", "b"], table)) == 2, "two models are not tested"


def values(n: int, rows: int, micro: float) -> dict[str, float]:
    scores = dict.fromkeys(("micro", "macro", "subset"), micro)
    return {"n": float(n), "rows": float(rows)} | scores | {f"{name}@{n}": micro for name in scores}


def cell(dataset: str, name: str, found: dict[str, float]) -> Any:
    key = {"args": {"dataset": dataset, "shuffle": None}, "contestant": name, "case": f"{dataset} stored"}
    return SimpleNamespace(key=key, repetitions=[SimpleNamespace(values=found)])


def test_short_runs_are_shown_in_brackets_and_an_absent_rival_from_its_kept_cells(tmp_path: Path) -> None:
    folder = tmp_path / "multilabel"
    folder.mkdir()
    kept = cell("yeast", "MLHAT", values(2417, 2417, 0.6))
    (folder / "yeast-stored--MLHAT--1.json").write_text(
        json.dumps({"key": kept.key, "repetitions": [{"values": kept.repetitions[0].values}]})
    )
    cells = [cell("yeast", OURS, values(2417, 2417, 0.64)), cell("yeast", "BR ARF", values(120, 2417, 0.9))]
    lines = view(SimpleNamespace(cells=cells, table=SimpleNamespace(name="multilabel")), tmp_path)
    text = "\n".join(lines)
    assert "(0.900)" in text
    assert "[wins micro stored] ours better than MLHAT, at the rows that it reached, on 1 of 1" in text
    assert "cached, not measured in this run: MLHAT on yeast stored" in text


def test_streams_with_drift_change_where_they_say() -> None:
    for kind in KINDS:
        found = drifting(kind, 1)
        before, after = found.y[:CHANGE_AT], found.y[CHANGE_AT:]
        near, far = (
            [float((part[:, 0] & part[:, other]).mean()) for part in (before, after)] for other in (1, 12)
        )
        assert near[0] > far[0] + 0.03
        if kind == "correlation":
            assert far[1] > far[0] + 0.03
        if kind == "labels":
            assert not after[:, :6].any()
            assert not before[:, 18:].any()
            assert after[:, 18:].any()
    assert many(100, 0, 50).y.shape == (50, 100)


class Learner:
    """Predicts the majority of each label since it was last told to forget, and tells of a change at given rows."""

    def __init__(self, alarms: list[int], forgets: bool) -> None:
        self.rows, self.at, self.forgets = 0, alarms, forgets
        self.on = np.zeros(24)
        self.seen = 0

    def predict(self, x: Any) -> Any:
        return np.repeat((self.on > 0.2 * max(self.seen, 1)).astype(np.uint8)[None], len(x), 0)

    def learn(self, x: Any, y: Any) -> None:
        if self.forgets and self.rows == CHANGE_AT + 100:
            self.on, self.seen = np.zeros(24), 0
        self.on, self.seen, self.rows = self.on + y.sum(0), self.seen + len(y), self.rows + len(y)

    def alarms(self) -> int:
        return sum(row < self.rows for row in self.at)

    def clusters(self) -> list[list[int]]:
        return [list(range(k, k + 6)) for k in range(0, 24, 6)]


def test_drift_is_measured_where_it_was_made() -> None:
    alarms = [500, 2_003, 2_004, CHANGE_AT + 42, CHANGE_AT + 60]
    found = Drift(
        {"kind": "labels", "seed": 1, "cap_s": 60.0}, lambda stream, args: Learner(alarms, True)
    ).run()
    kept = found.values
    assert kept["delay"] == 50.0, "alarms are read after every ten rows"
    assert kept["false"] == pytest.approx(2 / 5), "the one of the first thousand rows is none"
    assert kept["before"] > 0.2
    assert kept["recovery"] >= 500
    assert kept["clusters before"] == kept["clusters end"] == 1.0
    slow = Drift({"kind": "labels", "seed": 1, "cap_s": 60.0}, lambda stream, args: Learner([], False)).run()
    assert "delay" not in slow.values
    assert slow.values["end"] < kept["end"]
    frozen = Drift(
        {"kind": "labels", "seed": 1, "cap_s": 60.0, "frozen": True},
        lambda stream, args: Learner(alarms, True),
    ).run()
    assert "recovery" not in frozen.values


def test_groups_agree_by_the_adjusted_rand_index() -> None:
    true = groups_of("correlation")[1]
    assert agreement([list(np.flatnonzero(true == k)) for k in range(4)], true) == pytest.approx(1.0)
    assert agreement([list(range(24))], true) == pytest.approx(0.0)
    rng = np.random.default_rng(1)
    by_chance = [agreement(np.array_split(rng.permutation(24), 4), true) for _ in range(200)]
    assert abs(float(np.mean(by_chance))) < 0.02


def test_clusters_that_learn_win_where_groups_are_switched_as_one() -> None:
    made = drifting("none", 1, 4_000)
    micro = {}
    for use in ("inspection", "conditional"):
        model, tally = IHOMER(sparse=False, ensemble=False, clusters_for=use), Tally(24)  # type: ignore[arg-type]
        for row in range(0, 4_000, 10):
            x, y = made.x[row : row + 10], made.y[row : row + 10]
            if row >= 2_000:
                tally.add(model.predict_many(x).to_numpy().astype(np.uint8), y)
            model.learn_many(x, y)
        micro[use] = tally.scores()["micro"]
        assert agreement([list(members) for members in model.clusters], groups_of("none")[0]) == 1.0
    assert micro["conditional"] > micro["inspection"] + 0.01


def test_memory_is_told_in_four_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "x.npy", rng.random((120, 8)).astype(np.float32))
    np.save(tmp_path / "y.npy", (rng.random((120, 5)) < 0.3).astype(np.uint8))
    multilabel_memory.main(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    imported, learnt, peak, model = map(float, capsys.readouterr().out.split())
    assert 0.0 < imported <= learnt <= peak
    assert 0.0 < model < 5.0
