"""The files of the project as a checkout holds them: what `.gitignore` hides is not part of it.

Read by the tests of the house itself. It asks the file system and not git, so that it also works in an unpacked archive.
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("jobs", "scheduler", "storage", "streaming")


def files(root: Path = ROOT) -> list[Path]:
    """Every file under `root` that `.gitignore` does not hide, relative to it and sorted."""
    hidden = [line for line in (root / ".gitignore").read_text().split() if not line.startswith("#")]
    folders = (".git", *(pattern.rstrip("/") for pattern in hidden if pattern.endswith("/")))
    names = (*(pattern for pattern in hidden if not pattern.endswith("/")), ".git")
    return sorted(path.relative_to(root) for path in _walk(root, folders, names))


def _walk(folder: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not any(fnmatch(entry.name, pattern) for pattern in folders):
                    yield from _walk(Path(entry.path), folders, names)
            elif not any(fnmatch(entry.name, pattern) for pattern in names):
                yield Path(entry.path)


def modules(*folders: str) -> list[Path]:
    """The Python files under the given top-level folders, relative to the root."""
    return [path for path in files() if path.suffix == ".py" and path.parts[0] in folders]


def import_name(path: Path) -> str:
    """`storage/encodings/__init__.py` is imported as `headrace.storage.encodings`."""
    parts = path.with_suffix("").parts
    return ".".join(("headrace", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file of the project."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))
