"""The one small interface between a table and the place it lies in: create, list, get, put, delete, sync.

A table's log, its commits and its maintenance go through a ``Store``; names are relative to the table's folder, with
slashes. ``PosixStore`` makes each promise with the calls of ``durable``, ``ObjectStore`` with the requests of
``objects`` (obstore inside, whose conditional put is what keeps two writers apart). Nothing here retries, and nothing
is removed because an outcome is unknown: who asked decides, by reading back. Rows are read through ``source``.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.storage import durable
from headrace.storage.objects import ObjectPath, Place

TURN_S = 1.0
"""How long a writer that was beaten waits for its turn."""


class Store(ABC):
    """Where a table lies.

    Attributes:
        root: the table's folder, or the beginning of its objects' names.
    """

    def __init__(self, root: Place) -> None:
        self.root = root

    @abstractmethod
    def create(self, name: str, data: bytes, token: str) -> None:
        """Put bytes under a name that must be free, in one step, durably; ``token`` names what is made on the way.

        Raises:
            FileExistsError: the name is taken, perhaps by this very call if a request was repeated: read it back.
            OSError: the outcome is unknown until it is read back.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put bytes under a name that nobody else can think of; durable once its folder is synced."""

    @abstractmethod
    def keep(self, name: str, data: bytes, token: str) -> None:
        """As ``create``, of bytes that their name is made of: whoever else put it there, put the same."""

    def get(self, name: str) -> bytes:
        """What lies under a name.

        Raises:
            FileNotFoundError: nothing does.
        """
        return (self.root / name).read_bytes()

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names directly in a folder; none if there is no such folder."""

    def exists(self, name: str) -> bool:
        """Whether something lies under a name."""
        return (self.root / name).exists()

    @abstractmethod
    def stat(self, name: str) -> tuple[int, int | None]:
        """Bytes under a name, and when they were put there by the store's own clock, in ms since 1970, if it says so.

        Raises:
            FileNotFoundError: there is nothing.
        """

    def delete(self, name: str) -> None:
        """Remove what lies under a name; nothing may lie there."""
        (self.root / name).unlink(missing_ok=True)

    def delete_all(self, names: Collection[str]) -> None:
        """As ``delete``, of several, durably."""
        for name in sorted(names):
            self.delete(name)
        for folder in {name.split("/", 1)[0] for name in names}:
            self.sync(folder)

    @abstractmethod
    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty and the store has any."""

    def sync(self, folder: str) -> None:
        """Make the names of a folder durable."""
        durable.sync_dir(self.root / folder)

    def make(self, folder: str) -> None:
        """Make a folder, durably, where the store has any."""
        durable.make_dir(self.root / folder)

    @contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        """Be the only writer that has the turn of a folder, if that can be had soon.

        Saves vain work and promises nothing: whoever waited too long, or lies in a store without turns, goes on as if
        it had it.
        """
        yield

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A local path to write a new file at, which lies under ``name`` afterwards; its folder is yet to be synced.

        Raises:
            FileExistsError: something lies there already.
        """
        with durable.staged(self.root / name) as path:
            yield path


class PosixStore(Store):
    """A folder of a mounted file system."""

    root: Path

    def create(self, name: str, data: bytes, token: str) -> None:
        final = self.root / name
        temporary = final.parent / f".{token}.tmp"
        try:
            durable.write_file_synced(temporary, data)
            durable.publish_exclusive(temporary, final)
            durable.sync_dir(final.parent)
        finally:
            with suppress(OSError):  # a second name of the same bytes, or half of them: nobody needs it
                temporary.unlink()

    def keep(self, name: str, data: bytes, token: str) -> None:
        final = self.root / name
        temporary = final.parent / f".{token}.tmp"
        try:
            durable.write_file_synced(temporary, data)
            temporary.replace(final)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        durable.sync_dir(final.parent)

    def write(self, name: str, data: bytes) -> None:
        try:
            durable.write_file_synced(self.root / name, data)
        except FileExistsError:
            raise
        except OSError:
            with suppress(OSError):
                (self.root / name).unlink()
            raise

    def prune(self, folder: str) -> None:
        with suppress(OSError):
            (self.root / folder).rmdir()

    @contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        fd = os.open(self.root / folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            give_up = time.monotonic() + TURN_S  # its holder may have been stopped
            while time.monotonic() < give_up:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(random.uniform(0.001, 0.005))
                except OSError:  # a file system without locks
                    break
                else:
                    break
            yield
        finally:
            os.close(fd)

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return [entry.name for entry in entries]
        except FileNotFoundError:
            return []

    def stat(self, name: str) -> tuple[int, int | None]:
        found = (self.root / name).stat()
        return found.st_size, found.st_mtime_ns // 1_000_000


class ObjectStore(Store):
    """Names below a prefix in a store of objects."""

    root: ObjectPath

    def create(self, name: str, data: bytes, token: str) -> None:
        (self.root / name).create(data)

    def keep(self, name: str, data: bytes, token: str) -> None:
        with suppress(FileExistsError):
            (self.root / name).create(data)

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).create(data)

    def prune(self, folder: str) -> None:
        """A store has no folders."""

    def names(self, folder: str) -> list[str]:
        return (self.root / folder).names()

    def stat(self, name: str) -> tuple[int, int | None]:
        return (self.root / name).stat().st_size, None


def store_of(root: Place) -> Store:
    """The store that a table's folder lies in."""
    return ObjectStore(root) if isinstance(root, ObjectPath) else PosixStore(root)
