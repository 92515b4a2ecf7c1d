"""The command line: exit codes, one-line errors, and JSON that parses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from headrace import storage


def headrace(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace.jobs.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "t"
    storage.write(path, pa.table({"user": [1, 2, 3], "tags": [["a"], [], None]}), erase_key="user")
    storage.open(path).append(pa.table({"user": [4], "tags": [["b"]]}))
    return path


def test_store_verbs_print_json(table: Path) -> None:
    schema = json.loads(headrace("schema", str(table), "--json").stdout)
    assert schema[0] == {"name": "user", "type": "int64", "mark": "erase key"}
    rows = json.loads(headrace("head", str(table), "--rows", "2", "--columns", "user", "--json").stdout)
    assert rows == [{"user": "1"}, {"user": "2"}]
    every = json.loads(headrace("head", str(table), "--columns", "user", "--json").stdout)
    assert [row["user"] for row in every] == ["1", "2", "3", "4"], "rows come from as many files as it takes"
    assert sum(file["rows"] for file in json.loads(headrace("ls", str(table), "--json").stdout)) == 4
    assert (
        sum(
            file["rows"] for file in json.loads(headrace("ls", str(table), "--version", "1", "--json").stdout)
        )
        == 3
    )
    versions = json.loads(headrace("history", str(table), "--json").stdout)
    assert [entry["version"] for entry in versions] == [2, 1]


def test_usage_errors_exit_1_and_name_the_option(table: Path) -> None:
    done = headrace("head", str(table), "--rows", "none")
    assert done.returncode == 1
    assert "rows" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert headrace("no-such-verb").returncode == 1


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    done = headrace("schema", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Traceback" in headrace("--debug", "schema", str(tmp_path / "nothing")).stderr


def test_corrupt_data_exits_2(table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "t"
    subprocess.run(["cp", "-r", str(table), str(copy)], check=True)
    victim = copy / storage.open(copy).files[0].path
    data = bytearray(victim.read_bytes())
    data[64] ^= 1  # the first byte of the first page
    victim.write_bytes(data)
    done = headrace("head", str(copy), "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    assert victim.name in done.stderr


def test_a_contract_is_drafted_checked_and_shown(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text("id,at,user_id,price\n1,2026-01-01T00:00:00Z,7,1.5\n2,2026-01-01T00:00:01Z,8,2.5\n")
    draft = tmp_path / "events.toml"
    assert headrace("contract", "init", "--from", str(events), "--out", str(draft)).returncode == 0
    checked = headrace("contract", "check", str(draft), "--data", str(events), "--json")
    assert checked.returncode == 0
    assert json.loads(checked.stdout)["rows"] == 2
    assert "price" in headrace("contract", "show", str(draft)).stdout
    assert headrace("contract", "check", str(tmp_path / "none.toml")).returncode == 1


def test_run_without_setup_says_what_to_do(tmp_path: Path) -> None:
    done = headrace("run", cwd=tmp_path)
    assert done.returncode == 1
    assert "headrace setup" in done.stderr


def test_what_a_verb_found_is_its_exit_code(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text("id,at,user_id,price\n1,2026-01-01T00:00:00Z,7,1.5\n2,2026-01-01T00:00:01Z,8,2.5\n")
    draft = tmp_path / "events.toml"
    headrace("contract", "init", "--from", str(events), "--out", str(draft))
    events.write_text(events.read_text() + "3,,9,1.0\n")
    rejected = headrace("contract", "check", str(draft), "--data", str(events), "--json")
    assert (rejected.returncode, json.loads(rejected.stdout)["rejected"]) == (1, 1)
    assert headrace("broker", "status", "--data", str(tmp_path / "no-broker")).returncode == 1
    assert headrace("produce", "--format", "xml").returncode == 1


def test_setup_copies_the_users_own_settings_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('# mine\n[kafka]\nbootstrap = "kafka-1:9092"\n[learner]\nwindow_events = 700\n')
    conf = tmp_path / "conf"
    assert headrace("setup", "--conf", str(conf), "--config", str(own)).returncode == 0
    assert (conf / "headrace.toml").read_text() == own.read_text()
    assert "spark.jars " in (conf / "spark-defaults.conf").read_text()


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    planned = json.loads(headrace("setup", "--conf", str(conf), "--dry-run", "--json").stdout)
    assert "spark-defaults.conf" in planned["files"]
    assert not conf.exists()
    nowhere = ("--bootstrap", "127.0.0.1:1", "--dry-run", "--json")
    assert json.loads(headrace("produce", "--events", "7", *nowhere).stdout)["messages"] == 7
    ratings = tmp_path / "u.data"
    ratings.write_text("1\t2\t3\t881250949\n4\t5\t1\t881250950\n")
    assert json.loads(headrace("replay", str(ratings), *nowhere).stdout)["rows"] == 2


def test_doctor_reports_each_check_as_json() -> None:
    done = headrace("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == (0 if all(check["ok"] for check in found) else 1)
    assert {"name", "ok", "found", "remedy"} <= set(found[0])


def test_help_lists_what_exists() -> None:
    text = headrace("--help").stdout
    for verb in (
        "setup",
        "doctor",
        "demo",
        "run",
        "broker",
        "produce",
        "replay",
        "contract",
        "dlq",
        "schema",
        "head",
    ):
        assert verb in text
    assert "soon" not in text
