"""Rivals' environments: ``benchmarks/rivals/<rival>/requirements.txt`` becomes a virtual environment, once.

Each line pins one distribution, name==version, and the whole closure is listed: packages are installed without their
dependencies and pip then checks that none is missing, so that a rival is the same program wherever it is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import ROOT

RIVALS = ROOT / "benchmarks" / "rivals"
CACHE = ROOT / ".headrace" / "rivals"
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


class BadRequirements(ValueError):
    """A rival's requirements.txt is missing or does not pin everything."""


class EnvironmentFailed(RuntimeError):
    """pip could not build a rival's environment."""


@dataclass(frozen=True)
class Environment:
    """An interpreter and the pinned versions it sees."""

    python: Path
    versions: dict[str, str]


def current() -> Environment:
    """The environment of this process, whose versions a contestant names itself."""
    return Environment(Path(sys.executable), {})


def pins(rival: str, rivals: Path = RIVALS) -> dict[str, str]:
    """What a rival's requirements.txt pins, version by name.

    Raises:
        BadRequirements: there is none, or a line is not name==version.
    """
    path = rivals / rival / "requirements.txt"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise BadRequirements(
            f"no '{path}'; a rival pins every distribution it needs there, name==version"
        ) from None
    pinned: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise BadRequirements(
                f"'{path}' line {number}: expected name==version and nothing else, got {text!r}"
            )
        pinned[match.group(1)] = match.group(2)
    return pinned


def environment_of(
    rival: str,
    rivals: Path = RIVALS,
    cache: Path = CACHE,
    say: Callable[[str], None] = lambda line: None,
) -> Environment:
    """The rival's environment, built when its pins or this Python have changed.

    Two runs that need it at once build it once; one that was killed meanwhile is built again.

    Raises:
        BadRequirements: see ``pins``.
        EnvironmentFailed: with pip's own last lines.
    """
    pinned = pins(rival, rivals)
    exact = "\n".join(f"{name}=={version}" for name, version in sorted(pinned.items()))
    digest = hashlib.sha256(f"{platform.python_version()}\n{exact}".encode()).hexdigest()[:12]
    folder = cache / f"{rival}-{digest}"
    python, done = folder / "bin" / "python", folder / ".complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{rival}-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            say(f"building the environment of {rival} ({len(pinned)} packages), once")
            _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], rival)
            pip = [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--python",
                str(python),
            ]
            if pinned:
                requirements = folder / "requirements.txt"
                requirements.write_text(exact + "\n")
                _run([*pip, "install", "--quiet", "--no-deps", "-r", str(requirements)], rival)
                _run([*pip, "check"], rival)
            done.touch()
    return Environment(python, pinned)


def _run(command: list[str], rival: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        lines = (answer.stdout + answer.stderr).strip().splitlines()
        raise EnvironmentFailed(f"environment of {rival}: {' / '.join(lines[-4:]) or 'pip said nothing'}")
