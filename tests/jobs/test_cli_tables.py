"""The verbs that look after a table, in this process: dry runs write nothing, JSON says what text says, codes tell scripts."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from rich.console import Console

from headrace import storage
from headrace.jobs import cli_tables
from headrace.jobs.cli_tables import register
from headrace.jobs.terminal import run


@pytest.fixture
def table(tmp_path: Path) -> storage.Table:
    found = storage.create(
        tmp_path / "t", pa.schema([("user", pa.int64()), ("q", pa.float64())]), erase_key="user"
    )
    for number in range(4):
        found.append(pa.table({"user": [number, 7], "q": [number / 10, 0.9]}))
    return found


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    app = typer.Typer()
    register(app)
    monkeypatch.setattr("sys.argv", ["headrace", *words])
    with pytest.raises(SystemExit) as ended:
        run(app)
    said = capsys.readouterr()
    return int(str(ended.value.code)), said.out, said.err


def test_every_writing_verb_says_first_and_then_does(
    table: storage.Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(table.path)

    def done(*words: str) -> Any:
        before = storage.open(path).version
        code, out, _ = call(monkeypatch, capsys, *words, "--dry-run", "--json")
        assert code == 0
        json.loads(out)
        assert storage.open(path).version == before, "a dry run writes nothing"
        code, out, _ = call(monkeypatch, capsys, *words, "--json")
        assert code == 0
        return json.loads(out)

    assert done("compact", path, "--cluster-by", "user", "--target", "64M")["files_after"] == 1
    evolved = done("evolve", path, "--rename", "q:quality", "--add", "note:string")
    assert [column["name"] for column in evolved["columns"]] == ["user", "quality", "note"]
    collected = done("gc", path, "--keep", "1")
    assert (collected["oldest_kept"], len(collected["expired"])) == (7, 4)
    (table.folder / table.refresh().files[0].path).unlink()
    code, out, _ = call(monkeypatch, capsys, "verify", path, "--json")
    assert code == 2
    assert "missing" in json.loads(out)["findings"][0]["what"]
    assert sum(lost["rows"] for lost in done("repair", path)["lost"]) == 8
    code, out, _ = call(monkeypatch, capsys, "verify", path)
    assert code == 0
    assert "0 findings" in out


def test_pack_says_what_it_would_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "pack", str(tmp_path / "env.tar.gz"), "--dry-run", "--json")
    assert code == 0
    assert {"headrace", "pyarrow", "numba"} <= {name.partition("==")[0] for name in json.loads(out)}
    assert not list(tmp_path.iterdir())


def test_a_bar_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(as_json: bool) -> str:
        said = io.StringIO()
        monkeypatch.setattr(cli_tables, "err", Console(file=said, force_terminal=True, width=120))
        with cli_tables.progress("compacting", "rows", as_json) as tell:
            for done in range(1, 6):
                tell(1_000 * done, 1_000_000)
                time.sleep(0.12)  # a bar is drawn ten times a second
        return said.getvalue()

    text = shown(as_json=False)
    assert "compacting" in text
    assert "rows/s" in text
    assert "left" in text
    assert "0:0" in text.rpartition("left")[2], "hours, minutes and seconds"
    assert not shown(as_json=True), "nothing but the answer"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["gc", "TABLE", "--older-than", "soon"], "expected an age such as"),
        (["compact", "TABLE", "--target", "big"], "expected a size such as"),
        (["compact", "TABLE", "--cluster-by", "nope"], "has no column 'nope'"),
        (["evolve", "TABLE"], "expected --add, --drop"),
        (["evolve", "TABLE", "--add", "x:what"], "expected an Arrow type"),
        (["evolve", "TABLE", "--rename", "x"], "expected OLD:NEW"),
        (["evolve", "TABLE", "--drop", "user"], "erase key"),
        (["verify", "TABLE", "--expect", "5"], "expected VERSION:HASH"),
        (["verify", "TABLE/none"], "expected a table here"),
    ],
)
def test_misuse_is_one_line_and_code_one(
    words: list[str],
    match: str,
    table: storage.Table,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("TABLE", str(table.path)) for word in words]
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 1
    assert match in " ".join(err.split()).replace("│ ", "")
    assert "Traceback" not in err
