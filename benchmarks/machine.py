"""Facts that numbers depend on: the machine, the interpreter, the JDK, and the versions of what is measured."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.process import ROOT

_IMPORT = re.compile(r"^from (benchmarks\.[a-z_.]+) import ", re.MULTILINE)
_JAVA = re.compile(r'with_name\("(\w+\.java)"\)')
ROOMS = ("jobs", "scheduler", "storage", "streaming")


@dataclass(frozen=True)
class Machine:
    """What the header says; part of a kept cell's key."""

    cpu: str
    cores: int
    memory_gib: int
    system: str
    python: str
    jdk: str

    def as_key(self) -> dict[str, object]:
        return asdict(self)


def describe() -> Machine:
    """This machine. Cores are those that this process may use."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        jdk=_jdk(),
    )


def load_average() -> float:
    """Over the last minute."""
    return os.getloadavg()[0]


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of distributions in this environment; ours carries a fingerprint of its sources.

    A package of ours may be named instead of all of it, as `headrace.storage`: then its sources alone count. Or a module, as
    `headrace.streaming.metrics`: then it counts with every module of ours that it imports, and those import.

    Raises:
        importlib.metadata.PackageNotFoundError: one is not installed.
    """
    found = {}
    for name in packages:
        distribution, _, inner = name.partition(".")
        found[name] = version(distribution)
        if distribution == "headrace":
            path = ROOT / inner.replace(".", "/")
            is_module = inner and path.with_suffix(".py").is_file()
            found[name] += f"+{_digest(imported(behind(name)) if is_module else _sources_in(path))}"
    return found


def imported(sources: Iterable[Path]) -> set[Path]:
    """``sources`` and every module of ours that they import, anywhere in their text, with all that those import."""
    found: set[Path] = set()
    pending = list(sources)
    while pending:
        source = pending.pop()
        if source not in found:
            found.add(source)
            pending += _imports(source)
    return found


def _imports(source: Path) -> Iterator[Path]:
    """What is behind the names that one module imports."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]  # a module, or a name in one
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            yield from behind(name)


def behind(name: str) -> Iterator[Path]:
    """The files of ours that are behind a dotted name: the packages around it, and its module."""
    first, *inner = name.split(".")
    for length in range(1, len(inner) + 1) if first == "headrace" else ():
        path = ROOT.joinpath(*inner[:length])
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _sources_in(folder: Path) -> Iterator[Path]:
    rooms = [ROOT / room for room in ROOMS] if folder == ROOT else [folder]
    for path in (path for room in rooms for path in room.rglob("*")):
        if path.suffix in {".py", ".toml", ".java", ".json"} and path.is_file():
            yield path


def _digest(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:10]


def runner_digest(module: str) -> str:
    """Fingerprint of a runner's source, of the benchmark modules that it imports, and of the Java that those name."""
    digest = hashlib.sha256()
    for source in runner_sources(module):
        digest.update(source.read_bytes())
        for java in _JAVA.findall(source.read_text()):
            digest.update(source.with_name(java).read_bytes())
    return digest.hexdigest()[:10]


def runner_sources(module: str) -> list[Path]:
    """A runner's file and those of the benchmark modules that it imports, by name."""
    sources = {module: _source(module)}
    pending = [module]
    while pending:
        for found in _IMPORT.findall(sources[pending.pop()].read_text()):
            if found not in sources:
                sources[found] = _source(found)
                pending.append(found)
    return [source for _, source in sorted(sources.items())]


def _source(module: str) -> Path:
    return (ROOT / Path(*module.split("."))).with_suffix(".py")


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or "unknown"


def _jdk() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        return "none"
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except OSError:
        return "none"
    found = re.search(r'version "([^"]+)"', answer.stderr + answer.stdout)
    return found.group(1) if found else "unknown"
