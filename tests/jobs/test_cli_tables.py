"""The verbs that look after a table, in this process: dry runs write nothing, JSON says what text says, codes tell scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer

from headrace import storage
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
