"""The demo as a person meets it: it ends, it can be interrupted, and nothing outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace import storage
from headrace.jobs.progress import PROGRESS, last_commit, read_progress

pytestmark = [pytest.mark.spark, pytest.mark.broker]


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """A demo that hears Ctrl-C, even where these tests are a shell's job in the background, which would not."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.jobs.cli", "demo", "--root", str(root), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.1)
    return False


def processes_of(root: Path) -> list[int]:
    """Every live process whose command line names the demo's folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        names_it = any(str(root) in part for part in process.info["cmdline"] or ())
        if names_it and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process.pid)
    return found


def test_the_demo_ends_by_itself_and_its_summary_is_true(demo) -> None:  # type: ignore[no-untyped-def]
    table = storage.open(demo.root / "tables" / "ad_feed")
    commit = last_commit(table)
    assert commit is not None
    total = read_progress(commit.attachment(PROGRESS)).total
    assert total.balance == 0
    sums = re.search(
        r"([\d,]+) events produced = ([\d,]+) stored \+ ([\d,]+) dead \+ ([\d,]+) late \+ ([\d,]+) dup",
        demo.output,
    )
    assert sums is not None, demo.output
    produced, stored, dead, late, duplicates = (int(text.replace(",", "")) for text in sums.groups())
    assert produced == stored + dead + late + duplicates
    assert (stored, dead, late, duplicates) == (total.stored, total.dead, total.late, total.duplicates)
    assert stored == table.num_rows
    for name, count in total.reasons.items():
        assert f"{name} {count}" in demo.output
    compared = r"^AUC since the start.*: model 0\.\d+, popularity 0\.\d+, AdaptDHM 0\.\d+, K=1 0\.\d+$"
    assert re.search(compared, demo.output, re.MULTILINE), demo.output
    assert not processes_of(demo.root)


def test_the_demos_last_table_says_who_shared_the_application(demo) -> None:  # type: ignore[no-untyped-def]
    table = demo.output[demo.output.index("who shared the application (policy uwfq)") :]
    rows = {line.split()[0]: line.split() for line in table.splitlines()[2:] if line.strip()}
    assert {"pipeline", "quality", "ann", "bob"} == set(rows)
    assert all(int(row[1]) >= 1 for row in rows.values())
    assert sum(float(row[-1].rstrip("%")) for row in rows.values()) == pytest.approx(100, abs=3)
    assert "headrace scheduler" not in (demo.root / "spark.log").read_text(), "it stepped back"


def test_the_five_lines_that_the_demo_prints_run(demo) -> None:  # type: ignore[no-untyped-def]
    code = [line.removeprefix("    ") for line in demo.output.splitlines() if line.startswith("    ")]
    assert len(code) == 5
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    table = storage.open(demo.root / "tables" / "ad_feed")
    assert ran.stdout.startswith(f"{table.num_rows} rows in {len(table.files)} files")
    assert "'prediction': 0." in ran.stdout


def test_ctrl_c_ends_it_with_a_summary_and_without_a_traceback(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with start(root, "--events", "150000") as process:
        table = root / "tables" / "ad_feed" / "_manifest"
        assert wait_for(lambda: table.exists() and len(list(table.glob("*.json"))) >= 2, 400)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "events produced =" in output
    assert wait_for(lambda: not processes_of(root), 20), processes_of(root)


def test_after_kill_9_nothing_it_started_lives_on_and_it_starts_again(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with start(root, "--events", "1000000") as process:
        assert wait_for(lambda: (root / "job.log").exists() and len(processes_of(root)) >= 3, 120)
        process.kill()
        process.wait()
    assert wait_for(lambda: not processes_of(root), 60), processes_of(root)


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with start(tmp_path, "--events", "1000") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no earlier demo made it" in output
    assert (tmp_path / "mine.txt").read_text() == "keep"
