"""Packs the environment that executors need into one archive, which Spark unpacks beside each of them.

In the flow: once before a cluster is used whose machines do not have this project installed (``spark.archives``). The
archive has the distributions that headrace needs, each with the files that its installer noted, and an interpreter's
door, ``bin/python``, which is a line of shell: the machine's own Python of the same version, which then finds the
packed distributions first. pyspark is left out, Spark brings its own to its executors. Nothing is compiled or fetched,
and an editable installation is packed as the files it stands for.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headrace.jobs.errors import PackFailed

LEFT_OUT = frozenset({"pyspark", "py4j", "pip", "setuptools"})
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
DOOR = f"""#!/bin/sh
# The machine's own Python {_VERSION}, with what is packed here before everything else.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here/lib${{PYTHONPATH:+:$PYTHONPATH}}" exec "${{HEADRACE_PYTHON:-python{_VERSION}}}" "$@"
"""


@dataclass(frozen=True)
class Packed:
    """What was packed: distributions with their versions, files and the archive's bytes."""

    path: Path
    distributions: tuple[str, ...]
    files: int
    bytes: int


def closure(extras: tuple[str, ...] = (), root: str = "headrace") -> list[metadata.Distribution]:
    """The installed distributions that ``root`` with these extras needs, itself first.

    Raises:
        PackFailed: one is not installed here.
    """
    found: dict[str, metadata.Distribution] = {}
    wanted = [(root, extras)]
    while wanted:
        name, asked = wanted.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            needs = f"'{root}[{','.join(extras)}]'" if extras else root
            raise PackFailed(
                f"expected {name} to be installed here, it is not; pip install {needs} first"
            ) from error
        key = canonicalize_name(name)
        if key in found and not asked:
            continue
        found[key] = distribution
        for line in distribution.requires or ():
            need = Requirement(line)
            applies = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in (*asked, "")
            )
            if applies and canonicalize_name(need.name) not in {*found, *LEFT_OUT}:
                wanted.append((need.name, tuple(need.extras)))
    return list(found.values())


def files_of(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """A distribution's files, as (name below site-packages, where it is)."""
    if canonicalize_name(distribution.metadata["Name"]) == "headrace":
        yield from _own()
    for file in distribution.files or ():
        place = Path(str(file.locate()))
        outside = file.parts[0] in ("..", "/") or place.suffix in (".pth", ".pyc")
        if not outside and "__editable__" not in file.parts[0] and place.is_file():
            yield str(file), place


def _own() -> Iterator[tuple[str, Path]]:
    """This project's modules wherever they are imported from, installed or editable."""
    for room in ("jobs", "scheduler", "storage", "streaming"):
        try:
            imported = import_module(f"headrace.{room}")
        except ImportError:
            continue
        folder = Path(next(iter(imported.__path__)))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".pyi") and "jvm" not in path.parts:
                yield f"headrace/{room}/{path.relative_to(folder)}", path.resolve()


def pack(
    path: Path,
    *,
    extras: tuple[str, ...] = (),
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Packed:
    """Write the archive.

    Args:
        path: a ``.tar.gz`` that must not exist.
        extras: of headrace, such as ``torch``, if executors need them.
        on_progress: is told how many files of how many are packed.

    Raises:
        PackFailed: a distribution is not installed here, or there is a file of that name.
    """
    if path.exists():
        raise PackFailed(f"{path}: there is a file of this name; remove it or choose another")
    distributions = closure(extras)
    found: dict[str, Path] = {}
    for distribution in distributions:
        found.update(files_of(distribution))
    half = path.with_name(f".{path.name}.tmp")
    try:
        with tarfile.open(half, "w:gz", compresslevel=3, dereference=True) as archive:
            door = tarfile.TarInfo("bin/python")
            door.mode, door.size = 0o755, len(DOOR)
            archive.addfile(door, io.BytesIO(DOOR.encode()))
            for done, (name, place) in enumerate(sorted(found.items()), 1):
                archive.add(place, f"lib/{name}", recursive=False)
                on_progress(done, len(found))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    named = tuple(f"{d.metadata['Name']}=={d.version}" for d in distributions)
    return Packed(path, named, len(found) + 1, path.stat().st_size)
