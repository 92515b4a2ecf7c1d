"""The wheel holds the rooms, whole, and nothing else; the archive of the source builds the same one."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from .tree import ROOMS, ROOT, files

SHIPPED = [
    *(path for path in files() if path.parts[0] in ROOMS and path.suffix == ".py"),
    *(path for path in files() if path.parts[0] in ROOMS and path.name == "py.typed"),
    Path("storage/FORMAT.md"),
    *(path for path in files() if path.parts[0] == "scheduler" and path.suffix == ".java"),
    Path("streaming/jars.lock.json"),
    Path("streaming/ivysettings.xml"),
    *(path for path in files() if path.parent.name in ("topics", "suites") and path.parts[0] == "streaming"),
]
JAR = "headrace/scheduler/jars/headrace-scheduler.jar"
"""Compiled while the wheel is built, from the sources beside it."""
# Written in pieces, so that this file passes the test of the house that looks for the same.
MACHINE = re.compile(
    rb"(?<![\w.~}*-])/(?:tm"
    + rb"p|wor"
    + rb"k|roo"
    + rb"t|Users)/|pypi"
    + rb"\.org|python"
    + rb"hosted|maven"
    + rb"\.org"
)


@dataclass(frozen=True)
class Built:
    """A copy of the tree and what was built of it."""

    tree: Path
    wheel: Path
    source: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One archive of the source and one wheel for the whole run."""
    return _build(tmp_path_factory.getbasetemp())


@functools.cache
def _build(scratch: Path) -> Built:
    """Build where neither the checkout nor the network is looked at."""
    folder = scratch / "wheel"
    tree = folder / "tree"
    for path in files():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tree / path)
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    _run([sys.executable, "-W", "ignore", "-c", script, str(folder / "source")], tree)
    _pip_wheel(tree, folder / "wheel")
    [source], [wheel] = (folder / "source").iterdir(), (folder / "wheel").iterdir()
    return Built(tree, wheel, source)


def _pip_wheel(source: Path, into: Path) -> None:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    _run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(into), str(source)], into.parent)


def _run(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of a wheel by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_every_file_of_the_rooms_is_in_the_wheel_and_no_other(built: Built) -> None:
    expected = {
        f"headrace/{path}": (built.tree / path).read_bytes()
        for path in SHIPPED
        if (built.tree / path).exists()
    }
    found = {name: data for name, data in contents(built.wheel).items() if ".dist-info/" not in name}
    assert found.pop(JAR) == (built.tree / "scheduler/jars/headrace-scheduler.jar").read_bytes()
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def test_what_a_room_needs_beside_python_is_there() -> None:
    others = {str(path.relative_to(path.parts[0])) for path in SHIPPED if path.suffix != ".py"}
    assert {
        "py.typed",
        "FORMAT.md",
        "jars.lock.json",
        "ivysettings.xml",
        "contracts/topics/ad_feed.toml",
    } <= others
    assert any(path.parent.name == "suites" for path in SHIPPED), "no derived suite is shipped"
    forgotten = [
        str(path)
        for path in files()
        if path.parts[0] in ROOMS and path not in SHIPPED and path.suffix not in (".md", ".ipynb")
    ]
    assert forgotten == [], "a file of a room that no wheel will hold"


def test_the_wheel_says_what_the_project_says(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = contents(built.wheel)
    info = f"headrace-{project['version']}.dist-info"
    inside = {name for name in found if ".dist-info/" in name}
    wanted = {"METADATA", "WHEEL", "RECORD", "top_level.txt", "entry_points.txt", "licenses/LICENSE"}
    assert inside == {f"{info}/{name}" for name in wanted}
    assert found[f"{info}/top_level.txt"].split() == [b"headrace"]
    assert b"headrace = headrace.jobs.cli:main" in found[f"{info}/entry_points.txt"]
    metadata = found[f"{info}/METADATA"].decode().partition("\n\n")[0]
    base = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    names = {re.split(r"[\s<>=!\[;]", line.removeprefix("Requires-Dist: "), maxsplit=1)[0] for line in base}
    assert names == {re.split(r"[<>=!\[;]", promise, maxsplit=1)[0] for promise in project["dependencies"]}
    assert "License-Expression: Apache-2.0" in metadata
    assert b"Tag: py3-none-any" in found[f"{info}/WHEEL"]


def test_no_file_of_the_wheel_knows_the_machine_it_was_built_on(built: Built) -> None:
    private = [str(path).encode() for path in (ROOT, built.tree, Path.home())]
    told = [
        name
        for name, data in contents(built.wheel).items()
        if MACHINE.search(data) or any(path in data for path in private)
    ]
    assert told == []


def test_the_archive_of_the_source_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.source) as archive:
        archive.extractall(tmp_path, filter="data")
        [folder] = {Path(name).parts[0] for name in archive.getnames()}
    rebuilt = tmp_path / "wheels"
    _pip_wheel(tmp_path / folder, rebuilt)
    [wheel] = rebuilt.iterdir()
    assert contents(wheel) == contents(built.wheel)
    held = {path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("*") if path.is_file()}
    left_out = {path for path in files(built.tree) if path.parts[0] not in (".git",)} - held
    assert {path for path in left_out if path.name != ".gitkeep"} == set()
