"""Paths found in manifests are hostile until shown otherwise: relative, plain, inside the table, through no symlink."""

from __future__ import annotations

import os
import re
from pathlib import Path

from headrace.storage.errors import UnsafePath
from headrace.storage.source import local_path

# No leading dot, so neither ".." nor a hidden file; no separator, percent sign, colon, space or control character.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


def inside(root: Path, relative: str, folder: str) -> Path:
    """The file that ``relative`` names in ``folder`` of the table at ``root``.

    Raises:
        UnsafePath: the path is not of that shape, or a symlink on the way leads elsewhere.
    """
    parts = relative.split("/")
    if len(parts) < 2 or parts[0] != folder or not all(_PART.fullmatch(part) for part in parts):
        raise UnsafePath(
            f"{root}: expected a path like {folder}/NAME of letters, digits, '.', '_' and '-', got {relative!r}; "
            "the manifest was not written by headrace, do not use this table"
        )
    path = root / relative
    real_root = os.path.realpath(root)
    if os.path.realpath(path) != os.path.join(real_root, *parts):  # noqa: PTH118 (realpath has no pathlib twin)
        raise UnsafePath(
            f"{root}: {relative!r} leads outside the table through a symbolic link; remove the link"
        )
    return path


def is_table(location: object) -> bool:
    """Whether a table, and not a single file, is meant: a folder on this machine, or a URL that does not end in .hrc."""
    if not isinstance(location, str | os.PathLike):
        return False
    path = local_path(location)
    return path.is_dir() if path is not None else not os.fspath(location).endswith(".hrc")
