"""Planted defects, each of which some test must notice: a test suite that passes them all proves nothing.

A mutant is one replacement of text in a copy of the rooms. The copy stands before the real rooms on the import path of a
process of its own, in which the named tests run; a mutant is killed when at least one of them fails by an assertion or an
error of the code under test. Whatever else goes wrong (the text is no longer there, the module no longer imports, the
tests cannot be collected) is an error of the mutant, never a kill.

`python -m tests.mutants` lists them, `python -m tests.mutants NAME …` runs some; `make soak ROOM=mutants` runs all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from headrace.scheduler import build

from .planted import MUTANTS, Mutant
from .tree import ROOMS, ROOT, import_name

TIMEOUT_S = 420
# Mistakes in a mutant rather than findings of a test.
UNFIT = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "NameError")
NOT_THE_COPY, NOT_IMPORTED = 90, 91
CHILD = f"""
import importlib, sys, traceback
name, copy, *arguments = sys.argv[1:]
try:
    found = importlib.import_module(name).__file__
except BaseException:
    traceback.print_exc()
    sys.exit({NOT_IMPORTED})
if not found.startswith(copy):
    print(f"expected {{name}} from {{copy}}, got {{found}}")
    sys.exit({NOT_THE_COPY})
import pytest
sys.exit(pytest.main(arguments))
"""


class MutantError(Exception):
    """A mutant, or the run of its tests, is not what it should be; nothing is known about the tests' worth."""


@dataclass(frozen=True)
class Ran:
    """What the named tests said of a copy of the rooms."""

    failed: tuple[str, ...]
    passed: int
    seconds: float


def mutated(mutant: Mutant) -> str:
    """The mutant's file with its defect.

    Raises:
        MutantError: the text to replace is not there exactly once.
    """
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise MutantError(
            f"mutant {mutant.name!r} no longer applies: expected its text once in {mutant.file}, found it {count} times; "
            "write it anew against the code as it is"
        )
    return text.replace(mutant.old, mutant.new)


def survives(mutant: Mutant, folder: Path) -> Ran:
    """Run the mutant's tests against its defect; it survives if nothing failed."""
    rooms = _copy(folder)
    (rooms / mutant.file).write_text(mutated(mutant), encoding="utf-8")
    if mutant.file.endswith(".java"):
        _compile(rooms / "scheduler")
    return run(folder, mutant.file, mutant.tests, first_only=True)


def unharmed(mutants: tuple[Mutant, ...], folder: Path) -> Ran:
    """Run the tests of several mutants against a copy without any defect: all must pass, or their failing means nothing."""
    _copy(folder)
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    return run(folder, mutants[0].file, tests, first_only=False)


def _copy(folder: Path) -> Path:
    """Copy the rooms to where the namespace package `headrace` finds them."""
    rooms = folder / "headrace"
    for room in ROOMS:
        # Without compiled code: both Python and numba would tell an altered file from its cache by time and size alone.
        shutil.copytree(ROOT / room, rooms / room, ignore=shutil.ignore_patterns("__pycache__"))
    return rooms


def _module(file: str) -> str:
    """What is imported to see that the copy is used: the module, or the room of a source that is none."""
    return import_name(Path(file)) if file.endswith(".py") else f"headrace.{Path(file).parts[0]}"


def _compile(scheduler: Path) -> None:
    """Build the copy's jar from the copy's sources.

    Raises:
        MutantError: the defect does not compile.
    """
    spark = build.spark_jars()
    assert spark is not None
    try:
        build.build(spark, scheduler / "jars" / build.JAR.name, scheduler / "jvm" / "src")
    except RuntimeError as error:
        raise MutantError(str(error)) from error


def run(folder: Path, file: str, tests: tuple[str, ...], *, first_only: bool) -> Ran:
    """Run tests against the copy in `folder`, in a process that has checked that it imports `file` from there.

    Raises:
        MutantError: no test could say anything.
    """
    report = folder / "report.xml"
    arguments = [
        *tests,
        "-q",
        "--no-header",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.soak_profile",
    ]
    arguments += ["--hypothesis-seed=0", f"--timeout={TIMEOUT_S - 10}", f"--junitxml={report}"]
    arguments += [f"--rootdir={ROOT}", f"--basetemp={folder / 'pytest'}", *(["-x"] if first_only else [])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        "HEADRACE_SOAK_SHRINK": "0",
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, _module(file), str(folder / "headrace"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    said = f"exit code {ran.returncode} of {' '.join(tests)}:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
    if ran.returncode not in (0, 1) or not report.exists():
        raise MutantError(f"the tests could not run, {said}")
    failed, broken, passed = [], [], 0
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if (failure := case.find("failure")) is not None:
            if (failure.get("message") or "").startswith(UNFIT):
                raise MutantError(f"{name} did not get to test anything, {said}")
            failed.append(name)
        elif case.find("error") is not None:
            broken.append(name)
        elif case.find("skipped") is None:
            passed += 1
    if not failed and (broken or not passed):
        raise MutantError(f"no test ran, or {broken} could not be set up, {said}")
    return Ran(tuple(failed), passed, time.monotonic() - started)


def main(names: list[str]) -> int:
    """Run the named mutants, or list all; 1 if one of them survived."""
    known = {mutant.name: mutant for mutant in MUTANTS}
    for name in () if names else known:
        print(f"{known[name].room:9}  {name}")
    survived = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="headrace-mutant-") as folder:
            ran = survives(known[name], Path(folder))
        print(
            f"{'killed' if ran.failed else 'SURVIVED':9} {ran.seconds:5.1f} s  {name}: {', '.join(ran.failed)}",
            flush=True,
        )
        survived += [] if ran.failed else [name]
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
