"""Paths found in manifests are hostile until shown otherwise: relative, plain, inside the table, through no symlink."""

from __future__ import annotations

import os
import re

from headrace.storage.errors import UnsafePath
from headrace.storage.objects import ObjectPath, Place, place

# No leading dot, so neither ".." nor a hidden file; no separator, percent sign, colon, space or control character.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


def inside(root: Place, relative: str, folder: str) -> Place:
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
    if isinstance(root, ObjectPath):
        return path  # a store has no links
    real_root = os.path.realpath(root)
    if os.path.realpath(str(path)) != os.path.join(real_root, *parts):  # noqa: PTH118 (realpath has no pathlib twin)
        raise UnsafePath(
            f"{root}: {relative!r} leads outside the table through a symbolic link; remove the link"
        )
    return path


def is_table(location: object) -> bool:
    """Whether a table, and not a single file, is meant: a folder, or in a store a name that does not end in .hrc."""
    if hasattr(location, "read") or not isinstance(location, str | os.PathLike | tuple | ObjectPath):
        return False
    found = place(location)
    return not found.name.endswith(".hrc") if isinstance(found, ObjectPath) else found.is_dir()
