"""The verbs of the store, in this process: what they print, what they convert, and how they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import typer

from headrace import storage
from headrace.jobs import cli_convert
from headrace.jobs.cli_store import register
from headrace.jobs.terminal import run
from headrace.storage.objects import place

ROWS = pa.table(
    {
        "user": np.arange(3_000) // 7,
        "items": [[i, i + 1] for i in range(3_000)],
        "word": ["a", None, "bb"] * 1_000,
        "price": np.round(np.linspace(0, 9, 3_000), 2),
    }
)


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Verb = Callable[..., Said]


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Calls one verb as the shell would, without a new process."""

    def call(*arguments: object) -> Said:
        app = typer.Typer(add_completion=False)
        register(app)
        monkeypatch.setattr("sys.argv", ["headrace", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(app)
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> storage.Table:
    made = storage.write(tmp_path_factory.mktemp("cli") / "t", ROWS, erase_key="user", personal=["word"])
    made.append(ROWS.slice(0, 10))
    return made


@pytest.fixture(scope="module")
def file(table: storage.Table) -> Path:
    path = place(table.path / table.files[0].path)
    assert isinstance(path, Path)
    return path


def test_schema_and_head_take_tables_files_and_urls(headrace: Verb, table: storage.Table, file: Path) -> None:
    for where in (table.path, file, file.as_uri(), file.parents[1].as_uri()):
        found = headrace("schema", where, "--json").json
        assert [(c["name"], c["type"], c["mark"]) for c in found] == [
            ("user", "int64", "erase key"),
            ("items", "list<item: int64>", None),
            ("word", "string", "personal"),
            ("price", "double", None),
        ]
        rows = headrace("head", where, "-n", 2, "--columns", "items,word", "--json").json
        assert rows == [{"items": "[0, 1]", "word": "a"}, {"items": "[1, 2]", "word": "None"}]
    assert "erase key" in headrace("schema", file).out
    assert "user: 0" in headrace("head", file).out


def test_tree_shows_where_the_bytes_are(headrace: Verb, table: storage.Table, file: Path) -> None:
    [one] = headrace("tree", file, "--json").json
    assert one["file"]["n_rows"] == 3_000
    assert one["file"]["sections"]["PAGE"] > 0
    columns = {column["name"]: column for column in one["columns"]}
    assert list(columns)[:4] == ROWS.column_names
    for column in columns.values():
        for page in column["pages"]:
            assert sum(stream["bytes"] for stream in page["streams"]) <= page["used_bytes"] <= page["bytes"]
    assert sum(sum(page["bytes"] for page in c["pages"]) for c in columns.values()) < one["file"]["bytes"]
    text = headrace("tree", table.path, "--columns", "price").out
    assert text.count(str(file.parent)) == 2, "every file of the table"
    assert "price double" in text
    assert "values: " in text
    assert "user int64" not in text


def test_explain_shows_what_there_was_to_choose_from(
    headrace: Verb, table: storage.Table, file: Path
) -> None:
    [one] = headrace("explain", file, "--columns", "price,user", "--json").json
    price, user = one["columns"]
    assert (price["name"], user["mark"]) == ("price", "erase key")
    assert price["raw_bytes"] == 24_000
    plans = [plan for stream in user["streams"] for plan in stream["candidates"]]
    assert [plan["chosen"] for plan in plans].count(True) == 1
    assert any(plan["plan"].startswith("rle") for plan in plans)
    text = headrace("explain", table.path).out
    assert text.count("* ") >= 4
    assert "items list<item: int64>" in text


def test_stats_add_up_over_files(headrace: Verb, table: storage.Table, file: Path) -> None:
    found = {row["name"]: row for row in headrace("stats", table.path, "--json").json}
    assert set(found) == set(ROWS.column_names)
    assert found["user"]["rows"] == 3_010
    assert found["user"]["raw"] == 3_010 * 8
    assert found["word"]["nulls"] == 1_003
    assert found["items"]["raw"] >= 3_010 * 20
    for row in found.values():
        assert row["ratio"] == pytest.approx(row["raw"] / row["stored"], abs=0.01)
    assert (found["price"]["min"], found["price"]["max"]) == (0, 9)
    assert found["user"]["min"] is found["word"]["min"] is found["items"]["max"] is None, (
        "none of persons or lists"
    )
    assert "all" in headrace("stats", file).out


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather", "ipc-stream", "hrc", "table"])
def test_what_is_converted_there_and_back_is_the_same(headrace: Verb, tmp_path: Path, form: str) -> None:
    source = tmp_path / {"ipc-stream": "x.ipc", "table": "made"}.get(form, f"x.{form}")
    if form == "parquet":
        pq.write_table(ROWS, source, row_group_size=1_000)
    elif form == "feather":
        feather.write_feather(ROWS, source, compression="zstd")
    elif form == "ipc-stream":
        with pa.ipc.new_stream(source, ROWS.schema) as stream:
            stream.write_table(ROWS, 1_000)
    elif form == "arrow":
        with pa.ipc.new_file(source, ROWS.schema) as stream:
            stream.write_table(ROWS, 1_000)
    else:
        pq.write_table(ROWS, tmp_path / "first.parquet")
        assert headrace("convert", tmp_path / "first.parquet", source).code == 0
    done = headrace(
        "convert", source, tmp_path / "t", "--erase-key", "user", "--profile", "size", "--json"
    ).json
    assert (done["rows"], done["columns"], done["as"]) == (3_000, 4, "table")
    table = storage.open(tmp_path / "t")
    assert table.erase_key == "user"
    assert table.to_table().equals(ROWS)
    for back in ("b.parquet", "b.arrow", "b.hrc"):
        assert headrace("convert", tmp_path / "t", tmp_path / back, "--json").json["bytes"] > 0
    assert pq.read_table(tmp_path / "b.parquet").equals(ROWS)
    assert feather.read_table(tmp_path / "b.arrow").equals(ROWS)
    assert pa.Table.from_batches(storage.read_file(tmp_path / "b.hrc")).equals(ROWS)


def test_convert_can_take_some_columns_and_can_only_say_what_it_would(headrace: Verb, tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "x.parquet")
    plan = headrace("convert", tmp_path / "x.parquet", tmp_path / "t", "--dry-run", "--json").json
    assert (plan["rows"], plan["as"]) == (3_000, "table")
    assert (
        "would write 3000 rows"
        in headrace("convert", tmp_path / "x.parquet", tmp_path / "t", "--dry-run").out
    )
    assert not (tmp_path / "t").exists()
    for source in ("x.parquet", "y.arrow"):
        if source == "y.arrow":
            feather.write_feather(ROWS, tmp_path / source)
        to = tmp_path / f"{source}.hrc"
        assert headrace("convert", tmp_path / source, to, "--columns", "price,user").code == 0
        assert pa.Table.from_batches(storage.read_file(to)).equals(ROWS.select(["price", "user"]))


def test_convert_refuses_in_one_line(headrace: Verb, tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "x.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1 no more")
    x, t = tmp_path / "x.parquet", tmp_path / "t"
    for arguments, said in [
        ((x, x), "found something there"),
        ((x, tmp_path / "x.orc"), "got .orc"),
        ((x, "s3://shop/x.parquet"), "on this machine"),
        (("s3://shop/x.parquet", t), "on this machine"),
        (("gs://shop/t", t), "got gs://"),
        ((x, tmp_path / "y.arrow", "--erase-key", "user"), "cannot mark columns"),
        ((x, t, "--columns", "pirce"), "did you mean 'price'?"),
        ((x, t, "--erase-key", "usr"), "usr"),
        ((tmp_path / "broken.parquet", t), "not a readable parquet"),
        ((tmp_path / "broken.arrow", t), "not a readable arrow"),
        ((tmp_path / "none.parquet", t), "none.parquet"),
        ((tmp_path / "none", t), "found nothing"),
    ]:
        done = headrace("convert", *arguments)
        assert done.code == 1, (arguments, done)
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert not t.exists() or not any(t.rglob("*.hrc")), arguments
    assert headrace("convert", x, t, "--profile", "smallest").code == 1
    assert sorted(path.name for path in tmp_path.glob("y*")) == []


def test_a_mistyped_column_suggests_the_nearest(headrace: Verb, table: storage.Table, file: Path) -> None:
    for verb in ("head", "tree", "stats", "explain"):
        for where in (table.path, file):
            done = headrace(verb, where, "--columns", "pirce")
            assert done.code == 1
            assert "did you mean 'price'?" in done.err, (verb, where)


def test_a_damaged_file_exits_2(headrace: Verb, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[80] ^= 1
    (tmp_path / "bad.hrc").write_bytes(data)
    for verb in ("head", "tree"):
        done = headrace(verb, tmp_path / "bad.hrc")
        assert done.code == 2, done.err
        assert "bad.hrc" in done.err
    (tmp_path / "cut.hrc").write_bytes(data[:100])
    assert headrace("schema", tmp_path / "cut.hrc").code == 2
    assert headrace("stats", tmp_path / "none.hrc").code == 1


def test_a_bar_is_drawn_on_a_terminal_once_it_takes_long(
    headrace: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    pq.write_table(ROWS, tmp_path / "x.parquet")
    with (tmp_path / "err").open("w") as err:
        monkeypatch.setattr(cli_convert, "err", Console(file=err, force_terminal=True, width=200))
        assert headrace("convert", tmp_path / "x.parquet", tmp_path / "quick").code == 0
        err.flush()
        assert (tmp_path / "err").read_text() == ""
        monkeypatch.setattr(cli_convert, "SHOWN_AFTER_S", -1.0)
        assert headrace("convert", tmp_path / "x.parquet", tmp_path / "slow", "--json").json["rows"] == 3_000
    assert "slow" in (tmp_path / "err").read_text()
