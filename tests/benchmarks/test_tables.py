"""Every table declares cases that can be told apart, sent to their runners, and skipped with a reason."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import __main__ as command
from benchmarks.case import Case, Profile, Table
from benchmarks.data.ground import ground
from benchmarks.environments import RIVALS
from benchmarks.machine import runner_digest
from benchmarks.process import ROOT
from benchmarks.run import run
from tests.benchmarks.conftest import Faked

WORDS = {
    "store": {
        *("size total", "size without emb", "read full list", "read full listview", "projection", "filter"),
        *("write", "first read", "import"),
    },
    "seq": {
        *("size sequences", "size sequences noise", "size movielens by user", "size movielens by arrival"),
        "read sequence",
    },
    "take": {"take", "take wide"},
    "erase": {
        *("seconds", "remains", "reads", "suppressed"),
        *(f"{what} {how}" for what in ("pages", "bytes") for how in ("random", "clustered")),
    },
    "wide": {"open 10 of 1000", "open 10 of 20000"},
}


WITHOUT_DATA = {"kernels", "scheduler", "multilabel_drift", "tables"}  # they make their own work


def table(name: str) -> Table:
    found: Table = importlib.import_module(f"benchmarks.{name}").TABLE
    return found


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("name", [name for name in command.TABLES if name != "pipeline"])
def test_cases_are_well_formed(name: str, profile: Profile) -> None:
    cases = table(name).cases(profile)
    assert len({case.name for case in cases}) == len(cases)
    metrics = [metric.name for case in cases for metric in case.metrics]
    assert len(set(metrics)) == len(metrics)
    for case in cases:
        json.dumps(dict(case.args))
        assert name in WITHOUT_DATA or {"dataset", "datasets"} & set(case.args)
        for contestant in case.contestants:
            assert (ROOT / Path(*contestant.runner.split("."))).with_suffix(".py").is_file()
            assert contestant.rival is None or (RIVALS / contestant.rival).is_dir()


@pytest.mark.parametrize("name", WORDS)
def test_every_word_has_its_cell(name: str) -> None:
    metrics = [metric.name for case in table(name).cases(Profile.DEFAULT) for metric in case.metrics]
    for word in WORDS[name]:
        assert any(metric.startswith(f"[{word}]") for metric in metrics), word


def test_a_data_set_that_is_absent_skips_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_DATASETS", raising=False)
    skipped = {case.name: case.skipped for case in table("seq").cases(Profile.QUICK) if case.skipped}
    assert set(skipped) == {"size-movielens-by-user", "size-movielens-by-arrival"}
    assert all("HEADRACE_DATASETS is not set" in reason for reason in skipped.values())


def test_what_is_skipped_is_told_and_not_run(
    fake_case: Faked, tmp_path: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    absent: Case = replace(fake_case("absent"), skipped="no data")
    both = Table("fake", "Fakes", lambda profile: (fake_case("one", repetitions=1), absent))
    measured = run(both, Profile.QUICK, work=tmp_path / "work")
    assert notes.read_text().count(" run\n") == 1
    assert measured.skipped == {"[fake] seconds": "no data", "[fake] events": "no data"}
    assert measured.document()["skipped"] == measured.skipped
    assert "[fake] seconds: skipped: no data" in command.text(measured)


def test_the_ground_makes_each_data_set_once(tmp_path: Path) -> None:
    cases = table("wide").cases(Profile.QUICK)
    small = [
        type(case)(**{**vars(case), "args": {"datasets": ["wide-30", "noisy"], "rows_of_data": 50}})
        for case in cases
    ]
    with ground([*small, *small], tmp_path) as shared:
        found = {name: pa.ipc.open_file(made["path"]).read_all() for name, made in shared["data"].items()}
    assert found["wide-30"].num_columns == 30
    assert found["noisy"].column_names == ["user_id", "seq_a", "seq_b", "seq_c"]
    assert {data.num_rows for data in found.values()} == {50}


def test_a_runner_s_fingerprint_covers_what_it_imports_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import machine

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "one.py").write_text("from benchmarks.two import x\n")
    (tmp_path / "benchmarks" / "two.py").write_text("from benchmarks.one import y\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    before = runner_digest("benchmarks.one")
    (tmp_path / "benchmarks" / "two.py").write_text("from benchmarks.one import z\n")
    assert runner_digest("benchmarks.one") != before


def test_a_runner_s_fingerprint_covers_the_java_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import machine

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "one.py").write_text('JOBS = Path(__file__).with_name("Jobs.java")\n')
    (tmp_path / "benchmarks" / "Jobs.java").write_text("class Jobs {}\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    before = runner_digest("benchmarks.one")
    (tmp_path / "benchmarks" / "Jobs.java").write_text("class Jobs { int n; }\n")
    assert runner_digest("benchmarks.one") != before


def test_a_module_of_ours_counts_with_all_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import machine

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "jobs").mkdir()
    files = {
        "__init__": "",
        "one": "def f():\n    from headrace.jobs import two\n",
        "two": "import headrace.jobs.three\n",
        "three": "from headrace.jobs.one import f\n",
        "other": "",
    }
    for name, text in files.items():
        (tmp_path / "jobs" / f"{name}.py").write_text(text)

    def found() -> dict[str, str]:
        return machine.package_versions(["headrace.jobs.one", "headrace.jobs"])

    before = found()
    (tmp_path / "jobs" / "other.py").write_text("x = 1\n")
    assert found()["headrace.jobs.one"] == before["headrace.jobs.one"]
    assert found()["headrace.jobs"] != before["headrace.jobs"]
    for name in ("three", "two", "one", "__init__"):
        before = found()
        (tmp_path / "jobs" / f"{name}.py").write_text(files[name] + "y = 1\n")
        assert found()["headrace.jobs.one"] != before["headrace.jobs.one"], name


@pytest.mark.parametrize("name", ["ctr", "recommender"])
def test_cells_count_all_of_ours_that_their_runner_imports(name: str) -> None:
    from benchmarks import machine

    table: Table = importlib.import_module(f"benchmarks.{name}").TABLE
    counted: dict[str, set[Path]] = {}
    for case in table.cases(Profile.FULL):
        for who in case.contestants:
            ours = [package for package in who.packages if package.startswith("headrace.")]
            counted.setdefault(who.runner, set()).update(
                machine.imported(path for package in ours for path in machine.behind(package))
            )
    for runner, files in counted.items():
        imported = machine.imported(machine.runner_sources(runner))
        ours = {path for path in imported if path.relative_to(machine.ROOT).parts[0] != "benchmarks"}
        assert ours, runner
        assert ours <= files, runner
