"""The reference pages name what exists, all of it, and nothing else; commands and settings shown anywhere are accepted."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from headrace import storage
from headrace.jobs import cli
from headrace.jobs.progress import GATE, LEARNER, PROGRESS, Counters, Progress
from headrace.jobs.settings import Settings
from headrace.storage import errors
from headrace.streaming.contracts import gate, load
from headrace.streaming.contracts.expectations import GateResult
from headrace.streaming.contracts.init import infer, read_events
from headrace.streaming.loop import Loop, task_of

from .tree import ROOT, files

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
TUTORIAL = DOCS / "tutorial/first-stream.md"
PAGES = [path for path in files() if path.suffix == ".md"]
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CELL = re.compile(r"(?<!\\)\|")


def _section(path: Path, heading: str) -> str:
    """The text below a heading, up to the next one."""
    text = path.read_text(encoding="utf-8")
    starts = [(match[1], match.end()) for match in HEADING.finditer(text)]
    [(begin, index)] = [(end, i) for i, (title, end) in enumerate(starts) if title == heading]
    following = text.find("\n#", begin) if index + 1 < len(starts) else -1
    return text[begin : following if following >= 0 else None]


def _rows(path: Path, heading: str) -> dict[str, list[str]]:
    """A section's table: the name in backticks that begins each row, and the other cells."""
    lines = [line for line in _section(path, heading).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines]
    names = [first.strip("`") for first, *_ in cells]
    assert len(names) == len(set(names)), f"{path}, {heading}: a name stands twice"
    return {name: rest for name, (_, *rest) in zip(names, cells, strict=True)}


def _blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, click.Command]:
    """Every verb of the command line by its words, as `headrace` itself puts it together."""
    made: list[typer.Typer] = []
    monkeypatch.setattr(cli, "run", made.append)
    cli.main()
    return dict(_verbs(typer.main.get_command(made[0])))


def _verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):  # typer may carry its own click, so its classes are not asked for
        for name, below in command.commands.items():
            yield from _verbs(below, (*words, name))
    else:
        yield " ".join(words), command


def _options(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in parameter.opts
    } - {"--help"}


def test_the_command_line_page_has_every_verb_and_option(commands: dict[str, Any]) -> None:
    described = _rows(REFERENCE / "command-line.md", "Command line")
    assert {name: set(options.replace("`", "").split()) for name, (_, options) in described.items()} == {
        name: _options(command) for name, command in commands.items()
    }
    assert [name for name, (meaning, _) in described.items() if not meaning.endswith(".")] == []


def test_commands_shown_in_documents_are_accepted(commands: dict[str, Any]) -> None:
    seen = 0
    for page in PAGES:
        for block in _blocks(ROOT / page, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] != ["headrace"]:
                    continue
                seen += 1
                verb = " ".join(words[1:3]) if " ".join(words[1:3]) in commands else words[1]
                assert verb in commands, f"{page}: {line}"
                used = {word for word in words if word.startswith("--")}
                assert used <= _options(commands[verb]), f"{page}: {line}"
    assert seen > 10


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            assert default is not PydanticUndefined
            yield prefix + name, default


def _toml(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case str() | Path():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"


def test_the_settings_page_has_every_setting_with_its_default() -> None:
    described = {name: default for name, (default, _) in _rows(REFERENCE / "settings.md", "Settings").items()}
    assert described == {name: _toml(default) for name, default in _fields(Settings)}


def test_settings_shown_in_documents_are_accepted() -> None:
    sections = {name.partition(".")[0] for name, _ in _fields(Settings)}
    seen = 0
    for page in PAGES:
        for block in _blocks(ROOT / page, "toml"):
            shown = tomllib.loads(block)
            if set(shown) <= sections:
                seen += 1
                Settings(**shown)
    assert seen >= 5


def _struct(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def test_the_attachments_page_has_every_field() -> None:
    page = REFERENCE / "commit-attachments.md"
    metrics = Loop(task_of(load("ad_feed"), bits=8)).finish_batch().metrics
    assert set(_rows(page, "`progress`: JSON")) == _struct(Progress)
    assert set(_rows(page, "Counters")) == _struct(Counters)
    assert set(_rows(page, "Metrics")) == set(metrics)
    assert set(_rows(page, "Scores")) == set(metrics["model"])
    assert set(_rows(page, "`gate`: JSON")) == {field.name for field in dataclasses.fields(GateResult)}
    text = page.read_text(encoding="utf-8")
    assert [name for name in (PROGRESS, GATE, LEARNER) if f"## `{name}`: " not in text] == []


def test_the_attachments_page_has_every_part_of_a_batch_that_is_timed(demo: Any) -> None:
    newest = next(storage.open(demo.root / "tables/ad_feed").history())
    seconds = msgspec.json.decode(newest.attachment(PROGRESS))["seconds"]
    assert set(_rows(REFERENCE / "commit-attachments.md", "Seconds")) == set(seconds)


def test_the_store_page_has_every_public_name() -> None:
    page = (REFERENCE / "store.md").read_text(encoding="utf-8")
    public = [name for name in vars(storage.Table) if not name.startswith("_")]
    missing = [name for name in (*storage.__all__, *public) if not re.search(rf"\b{name}\b", page)]
    assert missing == []


def test_the_store_page_has_every_error() -> None:
    described = {name: builtin for name, (builtin, _) in _rows(REFERENCE / "store.md", "Errors").items()}
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.StorageError
    ]
    assert described == {kind.__name__: f"`{kind.__bases__[1].__name__}`" for kind in kinds}


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {
        (DOCS / target).resolve()
        for target in re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8"))
    }
    assert [path for path in sorted(DOCS.rglob("*.md")) if path != index and path not in linked] == []


def test_the_tutorial_makes_the_contract_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [make, *_] = _blocks(TUTORIAL, "python")
    subprocess.run([sys.executable, "-W", "error", "-c", make], check=True, timeout=60)
    column, features, *_ = _blocks(TUTORIAL, "toml")
    draft = infer("visits.csv")
    drafted = re.compile(r'\[\[columns\]\]\nname = "basket_eur"\n.*?\n(?=\n)', re.DOTALL)
    assert len(drafted.findall(draft)) == 1
    text = drafted.sub(lambda _: column, draft)
    text = text[: text.index("[features]")] + features
    Path("visits.toml").write_text(text)
    contract = load("visits.toml")
    verdict = gate(read_events(Path("visits.csv"), contract), contract)
    assert verdict.failures == {"between:basket_eur": 60}
    printed = "topic visits, version 1, rows 6000, rejected 60, reasons {'between:basket_eur': 60}"
    assert printed in TUTORIAL.read_text(encoding="utf-8")
