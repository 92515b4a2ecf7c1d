"""The few system calls that make a commit survive power loss, each in one small function.

Every file and folder that a manifest will speak of is synced before the manifest is published, and publishing is one
``link`` that fails if the name exists. Nothing here retries or cleans up: an error leaves the decision to the caller,
who knows whether an outcome is unknown. Tests record and drop these calls one by one. An object in a store is durable
once it was put, so for those there is nothing to sync.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.storage.objects import ObjectPath, Place


def sync_file(fd: int) -> None:
    """Bring an open file's bytes and length to the disk."""
    os.fsync(fd)


def sync_dir(folder: Place) -> None:
    """Bring a folder's entries to the disk: without it a new file may be nameless after a power loss."""
    if isinstance(folder, ObjectPath):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(folder: Place) -> None:
    """Create a folder and its missing parents, each one's name brought to the disk.

    A folder that is there already may have been made by a writer that died, or has yet to go on, before it synced the
    name, so that is synced too. Names further up are safe: whoever made something under a folder synced its name first.
    """
    if isinstance(folder, ObjectPath):
        return  # a store has no folders
    if not folder.is_dir():
        make_dir(folder.parent)
        folder.mkdir(exist_ok=True)
    elif not os.access(folder.parent, os.W_OK):
        return  # no writer of ours could have made that name
    sync_dir(folder.parent)


def write_file_synced(path: Place, data: bytes) -> None:
    """Create a file that must not exist yet, with these bytes, synced; its folder is not."""
    if isinstance(path, ObjectPath):
        path.create(data)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        sync_file(fd)
    finally:
        os.close(fd)


def publish_exclusive(temporary: Path, final: Path) -> None:
    """Give a synced file its public name, in one step.

    Raises:
        FileExistsError: somebody published that name before; nothing changed.
        OSError: anything else means the outcome is unknown until the name is read back.
    """
    os.link(temporary, final)


@contextmanager
def staged(final: Place) -> Iterator[Path]:
    """A path to write a new file at: ``final`` itself, or one that is put there at the end, if all went well.

    Raises:
        FileExistsError: the store has an object of that name.
    """
    if not isinstance(final, ObjectPath):
        yield final
        return
    if final.exists():
        raise FileExistsError(f"{final}: the store has an object of this name")
    import tempfile  # for writers to stores alone

    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        written = Path(folder, final.name)
        yield written
        final.put(written)
