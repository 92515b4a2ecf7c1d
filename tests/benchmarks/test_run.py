"""A table from start to end: kept cells, budgets, the command line."""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import run as running
from benchmarks.case import Case, Profile, Table
from benchmarks.race import TIME_IS_UP
from benchmarks.results import Cell, CellFile, Cells
from tests.benchmarks.conftest import Faked


def table_of(*cases: Case) -> Table:
    return Table("fake", "Fakes against fakes", lambda profile: cases)


def measure(table: Table, profile: Profile, folder: Path, **options: Any) -> running.Measured:
    return running.run(table, profile, work=folder / "work", results=folder / "results", **options)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run goes on after it."""


def test_a_killed_full_run_goes_on_without_repeating(
    fake_case: Faked, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(fake_case("one", repetitions=3, a={}), fake_case("two", repetitions=2, a={}))
    write, written = Cells.write, []

    def write_then_die(self: Cells, cell: Cell) -> None:
        write(self, cell)
        written.append(cell)
        if len(written) == 8:
            raise Killed

    monkeypatch.setattr(Cells, "write", write_then_die)
    with pytest.raises(Killed):
        measure(table, Profile.FULL, tmp_path)
    first = notes.read_text().count(" run\n")
    assert first == 8  # all six of the first case, two of the second

    said: list[str] = []
    measured = measure(table, Profile.FULL, tmp_path, say=said.append)
    assert said[0].startswith("expected: 0.0 hours; 2 of 4 cells are kept")
    assert notes.read_text().count(" run\n") == 10
    assert [row.repetitions for row in measured.rows] == [{"ours": 3, "a": 3}] * 2 + [{"ours": 2, "a": 2}] * 2

    measured = measure(table, Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 10
    assert measured.rows[0].ours is not None
    assert not list((tmp_path / "work").glob("run-*"))


def test_quick_and_default_runs_keep_nothing(fake_case: Faked, tmp_path: Path, notes: Path) -> None:
    for profile in (Profile.QUICK, Profile.DEFAULT):
        measure(table_of(fake_case(repetitions=1)), profile, tmp_path)
    assert notes.read_text().count(" run\n") == 2
    assert not (tmp_path / "results").exists()


def test_failed_cells_are_kept_and_measured_again_on_request(
    fake_case: Faked, tmp_path: Path, notes: Path
) -> None:
    table = table_of(fake_case(repetitions=1, a={"raise_at": 1}))
    for runs, options in ((2, {}), (2, {}), (3, {"retry": True})):
        measured = measure(table, Profile.FULL, tmp_path, **options)
        assert measured.rows[0].failures == {"a": "ValueError: it broke on purpose"}
        assert notes.read_text().count(" run\n") == runs


def test_whatever_could_change_a_number_is_in_the_key(fake_case: Faked, tmp_path: Path, notes: Path) -> None:
    case = fake_case(repetitions=1)
    measure(table_of(case), Profile.FULL, tmp_path)
    changed = replace(case, args={"events": 5})
    measure(table_of(changed), Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 2
    key = json.loads(next(iter((tmp_path / "results" / "fake").glob("*.json"))).read_text())["key"]
    assert {"versions", "machine", "profile", "runner", "args", "case", "contestant", "table"} <= set(key)


def test_a_score_of_another_machine_counts_and_a_time_does_not(
    fake_case: Faked, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, scores = (
        fake_case("times", repetitions=1),
        replace(fake_case("scores", repetitions=1), clocked=False, args={"events": 4}),
    )
    measure(table_of(times, scores), Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 2

    here = running.describe()
    monkeypatch.setattr(running, "describe", lambda: replace(here, cpu="another processor"))
    measured = measure(table_of(times, scores), Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 3
    assert measured.elsewhere == {here.cpu: 1}
    assert f"1 of 2 cells are scores that another machine has kept: {here.cpu}" in command.text(measured)
    assert len(list((tmp_path / "results" / "fake").glob("scores--*.json"))) == 1

    measure(table_of(replace(scores, args={"events": 5})), Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 4  # what differs in more than the machine is another cell


def test_the_same_work_of_another_case_or_profile_counts_for_scores_and_not_for_times(
    fake_case: Faked, tmp_path: Path, notes: Path
) -> None:
    def cases(clocked: bool, *names: str) -> Table:
        return replace(
            table_of(*(replace(fake_case(name, repetitions=1), clocked=clocked) for name in names)),
            keeps=True,
        )

    first = measure(cases(False, "one", "two"), Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 1
    assert [cell.key["case"] for cell in first.cells] == ["one", "two"]
    assert first.cells[0].repetitions == first.cells[1].repetitions

    again = measure(cases(False, "three"), Profile.DEFAULT, tmp_path)
    assert notes.read_text().count(" run\n") == 1
    assert again.cells[0].repetitions == first.cells[0].repetitions
    assert again.cells[0].key["profile"] == "default"

    measure(cases(True, "three", "four"), Profile.DEFAULT, tmp_path)
    assert notes.read_text().count(" run\n") == 3


def test_a_failure_of_another_machine_is_tried_again(
    fake_case: Faked, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(replace(fake_case(repetitions=1, ours={"raise_at": 1}), clocked=False))
    measure(table, Profile.FULL, tmp_path)
    here = running.describe()
    monkeypatch.setattr(running, "describe", lambda: replace(here, cores=here.cores + 1))
    measure(table, Profile.FULL, tmp_path)
    assert notes.read_text().count(" run\n") == 2


def test_a_damaged_cell_is_refused(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    key = {"table": "t", "case": "a b/c", "contestant": "ours"}
    assert cells.read(key) == Cell(key)
    path = cells.path(key)
    assert path.parent == tmp_path / "t"
    path.parent.mkdir(parents=True)
    path.write_text('{"repetitions": [{}], "failure": null}')
    with pytest.raises(CellFile, match="remove it"):
        cells.read(key)


def test_a_budget_is_kept_and_shared(fake_case: Faked, tmp_path: Path) -> None:
    slow = fake_case("slow", repetitions=50, ours={"sleep_s": 0.5}, a={"sleep_s": 0.5})
    swift = fake_case("swift", repetitions=1, a={})
    began = time.monotonic()
    measured = measure(table_of(slow, swift), Profile.QUICK, tmp_path, budget_s=10.0)
    assert time.monotonic() - began < 10.0
    of_slow, of_swift = measured.rows[0], measured.rows[2]
    assert 1 <= of_slow.repetitions["ours"] < 50
    assert of_slow.repetitions["ours"] == of_slow.repetitions["a"]
    assert of_swift.repetitions == {"ours": 0, "a": 0} or of_swift.repetitions == {"ours": 1, "a": 1}


def test_nothing_measured_is_said(fake_case: Faked, tmp_path: Path) -> None:
    table = table_of(fake_case(repetitions=1, ours={"sleep_s": 60.0}))
    row = measure(table, Profile.QUICK, tmp_path, budget_s=1.0).rows[0]
    assert (row.ours, row.failures) == (None, {"ours": TIME_IS_UP})


def test_profiles_have_their_budgets() -> None:
    assert [profile.budget_s for profile in Profile] == [90.0, 1_800.0, None]


def test_ground_is_shared_by_all_contestants_and_left_at_the_end(fake_case: Faked, tmp_path: Path) -> None:
    events: list[str] = []

    @contextmanager
    def ground(cases: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Any]]:
        events.append(",".join(case.name for case in cases))
        yield {"raise_at": 1}
        events.append("left")

    table = replace(table_of(fake_case(repetitions=1, a={})), ground=ground)
    measured = measure(table, Profile.QUICK, tmp_path)
    assert events == ["fake", "left"]
    assert set(measured.rows[0].failures) == {"ours", "a"}


def test_the_document_has_header_rows_and_what_is_behind_them(fake_case: Faked, tmp_path: Path) -> None:
    measured = measure(table_of(fake_case(repetitions=2, a={})), Profile.QUICK, tmp_path)
    document = json.loads(json.dumps(measured.document()))
    assert document["header"]["verification"] == "on"
    assert document["header"]["profile"] == "quick"
    assert {"cpu", "cores", "memory_gib", "python", "jdk"} <= set(document["header"]["machine"])
    assert [row["case"] for row in document["rows"]] == ["[fake] seconds", "[fake] events"]
    repetition = document["cells"][0]["repetitions"][0]
    assert set(repetition) == {"wall_s", "cpu_s", "values", "parts", "load_before", "load_after"}


def test_the_command_writes_rows_and_prints_losses(
    fake_case: Faked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.SimpleNamespace(TABLE=table_of(fake_case(repetitions=1, ours={"sleep_s": 0.2}, a={})))
    monkeypatch.setattr(command, "TABLES", ("fake",))
    monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(command, "run", lambda *a, **k: running.run(*a, **k, work=tmp_path / "work"))
    file = tmp_path / "out" / "rows.json"
    assert command.main(["fake", "--quick", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "LOSES" in printed
    assert "load average" in printed
    assert "of 2 comparisons lost" in printed
    assert json.loads(file.read_text())["rows"][0]["better"] == "lower"


def test_wrong_usage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["no-such-table"])
    assert ended.value.code == 2
    assert "pipeline" in capsys.readouterr().err
