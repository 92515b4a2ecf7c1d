"""The rules of the house that a machine can check: sizes, names, docstrings, examples that run, and words to avoid."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .tree import ROOMS, ROOT, files, import_name, modules, parsed

MAX_LINES = 400
BARRED_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
MEASURED = modules(*ROOMS, "benchmarks", ".ci")
EVERY = [path for path in files() if path.suffix == ".py"]
TEXT = [
    path
    for path in files()
    if path.suffix
    in {".py", ".md", ".toml", ".txt", ".json", ".xml", ".in", ".yml", ".yaml", ".ipynb", ".cfg", ""}
    and path.name != "LICENSE"
    and b"\0" not in (ROOT / path).read_bytes()[:1024]
]
DOCUMENTS = [path for path in files() if path.suffix == ".md"]

# Written in pieces, so that this file does not hold what it looks for.
UNFINISHED = re.compile(
    "|".join((r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b", r"\bHA" + r"CK\b", "coming " + "soon"))
)
ADDRESSES = {
    "a path of one machine": re.compile(
        r"(?<![\w.~}*-])/(?:tm" + r"p|wor" + r"k|roo" + r"t|Users|mnt|var/folders)/"
    ),
    "a package registry": re.compile(
        "|".join(
            (
                "pypi" + r"\.org",
                "python" + "hosted",
                "maven" + r"\.(?:apache\.)?org",
                "npm" + "js",
                "arti" + "factory",
                "nex" + "us",
            )
        )
    ),
    "a network address": re.compile(
        r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])(?!\.jar)"
    ),
    "a numbered issue": re.compile(r"\bissues? +(?:no\. *)?#?\d", re.IGNORECASE),
}
VERSIONS = {
    Path("constraints.txt"),
    Path("streaming/jars.lock.json"),
}  # four-part version numbers look like addresses


@pytest.mark.parametrize("path", MEASURED, ids=str)
def test_a_module_fits_one_sitting(path: Path) -> None:
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path} has {lines} lines; split it by what changes together"


def test_modules_are_named_for_what_they_hold() -> None:
    assert [str(path) for path in EVERY if path.stem in BARRED_NAMES] == []
    assert not (ROOT / "headrace").exists(), "a folder of that name shadows the mapped packages"


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in EVERY if not (ast.get_docstring(parsed(path)) or "").strip()]
    assert silent == []


def test_typed_decoders_are_made_when_a_module_is_imported() -> None:
    """Not at first use: msgspec reads a class's fields then, and another thread that decodes in the middle of it crashes the process."""
    plain = {"Any", "bool", "bytes", "dict", "float", "int", "list", "str", "tuple"}
    late = [
        f"{path}:{call.lineno}"
        for path in modules(*ROOMS)
        for call in ast.walk(parsed(path))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "decode"
        for keyword in call.keywords
        if keyword.arg == "type"
        and not {node.id for node in ast.walk(keyword.value) if isinstance(node, ast.Name)} <= plain
    ]
    assert late == []


def test_nothing_is_left_for_later() -> None:
    found = _found(UNFINISHED, TEXT)
    raised = [
        f"{path}:{node.lineno}"
        for path in modules(*ROOMS, "benchmarks")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Name) and node.id == "NotImplemented" + "Error"
    ]
    assert found + raised == []


@pytest.mark.parametrize("what", ADDRESSES)
def test_the_project_speaks_of_itself_alone(what: str) -> None:
    texts = [path for path in TEXT if path not in VERSIONS] if what == "a network address" else TEXT
    assert _found(ADDRESSES[what], texts) == []


def _found(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{path}:{number}: {match[0]}"
        for path in paths
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


BASES = {
    "headrace.jobs.errors.JobError",
    "headrace.scheduler.errors.SchedulerError",
    "headrace.storage.errors.StorageError",
    "headrace.storage.encodings.errors.EncodingError",
    "headrace.streaming.errors.StreamingError",
    "headrace.streaming.learners.errors.LearnerError",
}


def _errors() -> list[type[Exception]]:
    """Every public exception class that a module of the rooms defines."""
    loaded = [importlib.import_module(import_name(path)) for path in modules(*ROOMS)]
    return [
        value
        for module in loaded
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__
        if not value.__name__.startswith("_")  # a module's own way of leaving a loop
    ]


def test_one_base_of_errors_a_room_and_each_error_is_a_builtin_too() -> None:
    builtin = {value for value in vars(builtins).values() if isinstance(value, type)} - {Exception}
    found = _errors()
    specific = {error for error in found if any(parent in builtin for parent in error.__mro__[1:-3])}
    bases = {f"{error.__module__}.{error.__qualname__}" for error in found if error not in specific}
    assert bases == BASES
    strangers = [
        error
        for error in specific
        if not any(f"{parent.__module__}.{parent.__qualname__}" in BASES for parent in error.__mro__)
    ]
    assert strangers == []


def test_bases_of_errors_are_never_raised_themselves() -> None:
    names = {base.rpartition(".")[2] for base in BASES}
    raised = [
        f"{path}:{node.lineno}"
        for path in modules(*ROOMS)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in names
    ]
    assert raised == []


def _with_examples() -> list[Path]:
    shown = re.compile(r"^ *>>> (?!.*doctest: \+SKIP)", re.MULTILINE)
    return [path for path in modules(*ROOMS) if shown.search((ROOT / path).read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", _with_examples(), ids=str)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(import_name(path)))
    assert result.attempted > 0
    assert result.failed == 0


BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCES = re.compile(r"^```", re.MULTILINE)
RUN = """
import json, sys
names = {"__name__": "__main__"}
for line, source in json.load(sys.stdin):
    exec(compile("\\n" * line + source, sys.argv[1], "exec"), names)
"""


def _blocks(path: Path) -> list[tuple[int, str, str]]:
    """Line, words after `python` on the fence, and source of each block."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [
        (text[: match.start(2)].count("\n"), match[1].strip(), match[2]) for match in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_python_in_documents_compiles_and_runs(path: Path, tmp_path: Path) -> None:
    """Blocks of one document run in order, in one namespace and an empty folder; `python no-run` on a fence opts out."""
    assert len(FENCES.findall((ROOT / path).read_text(encoding="utf-8"))) % 2 == 0, "a fence is not closed"
    runnable = []
    for line, words, source in _blocks(path):
        assert words in ("", "no-run"), (
            f"{path}:{line}: expected nothing or no-run after python, found {words!r}"
        )
        compile("\n" * line + source, str(path), "exec")
        if not words:
            runnable.append((line, source))
    if not runnable:
        return
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(path)],
        input=json.dumps(runnable),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not re.match(r"[a-z]+:", target) and not (ROOT / path.parent / target).exists():
                broken.append(f"{path}: {target}")
    assert broken == []
