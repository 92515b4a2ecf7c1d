"""Every state that a disk may be found in after the power failed at any moment of a workload.

The model is that of ALICE (Pillai and others, OSDI 2014) and CrashMonkey (Mohan and others, OSDI 2018): a file holds what it
held when it was last synced, or any later part of it; a folder has the names of its last sync, with any of the later
changes of names. States are taken after each fsync, link, rename, unlink and new folder. Where the changes that are
under way are too many to take every subset, all prefixes, each one alone, and each one left out are taken.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALL_SUBSETS = 8  # changes under way of which every subset is taken
FULL, SECTOR = 8, 512  # a write may stop at any sector; eight places of each file are tried
_HOOKED = ("fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir")


@dataclass
class Inode:
    """A file or a folder, as it is, and as it is for certain."""

    synced: bytes | None = None
    current: bytes = b""
    is_folder: bool = False
    names: dict[str, int] = field(default_factory=dict)
    """Of a folder: as synced."""
    pending: list[tuple[str, str, int]] = field(default_factory=list)
    """Of a folder: ("add" or "del", name, inode) since then."""
    seen: dict[str, int] = field(default_factory=dict)


State = tuple[tuple[str, str | None], ...]
"""Paths below the root with the hash of their contents, None for folders."""


class Disk:
    """Follows what happens below ``root``; ``on_states`` gets the states possible after each step."""

    def __init__(self, root: Path, on_states: Callable[[Disk, Iterator[State]], None]) -> None:
        self.root, self.on_states = root, on_states
        self.inodes: dict[int, Inode] = {root.stat().st_ino: Inode(is_folder=True)}
        self.contents: dict[str, bytes] = {}
        self.sites: dict[str, int] = {}
        self.skip: str | None = None
        self._looking = False

    @contextmanager
    def recording(self) -> Iterator[Disk]:
        """Follow every call of this process until the end of the block."""
        kept = {name: getattr(os, name) for name in _HOOKED}

        def hooked(name: str, keep: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **how: Any) -> Any:
                if self._looking:  # whoever judges the states makes files of his own
                    return keep(*args, **how)
                site = f"{name} in {_site()}"
                self.sites[site] = self.sites.get(site, 0) + 1
                if self.skip == site and name == "fsync":
                    return None
                self._look()
                self.judge()
                done = keep(*args, **how)
                self._look()
                if name == "fsync":
                    self._synced(args[0])
                self.judge()
                return done

            return call

        for name, keep in kept.items():
            setattr(os, name, hooked(name, keep))
        try:
            yield self
        finally:
            for name, keep in kept.items():
                setattr(os, name, keep)

    def judge(self) -> None:
        """Show the states possible now."""
        self._looking = True
        try:
            self.on_states(self, self.states())
        finally:
            self._looking = False

    def _look(self) -> None:
        """Note which names came and went, and what files hold."""
        found: set[int] = set()
        self._look_at(self.root, self.root.stat().st_ino, found)

    def _look_at(self, folder: Path, number: int, found: set[int]) -> None:
        inode = self.inodes[number]
        with os.scandir(folder) as entries:
            now = {entry.name: entry for entry in entries}
        for name in [name for name in inode.seen if name not in now]:
            inode.pending.append(("del", name, inode.seen.pop(name)))
        for name, entry in now.items():
            at = entry.inode()
            if inode.seen.get(name) != at:
                inode.seen[name] = at
                inode.pending.append(("add", name, at))
                known = self.inodes.get(at)
                if known is None or known.is_folder != entry.is_dir():
                    self.inodes[at] = Inode(is_folder=entry.is_dir())
            if entry.is_dir():
                self._look_at(Path(entry.path), at, found)
            elif at not in found:
                found.add(at)
                self.inodes[at].current = Path(entry.path).read_bytes()

    def _synced(self, fd: int) -> None:
        status = os.fstat(fd)
        inode = self.inodes.get(status.st_ino)
        if inode is None:
            return
        if stat.S_ISDIR(status.st_mode):
            inode.names, inode.pending = dict(inode.seen), []
        else:
            inode.synced = inode.current

    def states(self) -> Iterator[State]:
        """All states that the disk may be found in now."""
        changes = [(number, at) for number, inode in self.inodes.items() for at in range(len(inode.pending))]
        unsynced = [n for n, i in self.inodes.items() if not i.is_folder and i.synced != i.current]
        seen: set[State] = set()
        for kept in _subsets(changes):
            for cut in _cuts(unsynced):
                state = tuple(sorted(self._paths(self.root.stat().st_ino, "", set(kept), cut)))
                if state not in seen:
                    seen.add(state)
                    yield state

    def _paths(
        self, number: int, prefix: str, kept: set[tuple[int, int]], cut: dict[int, int]
    ) -> Iterator[tuple[str, str | None]]:
        inode = self.inodes[number]
        names = dict(inode.names)
        for at, (what, name, child) in enumerate(inode.pending):
            if (number, at) in kept:
                if what == "add":
                    names[name] = child
                elif names.get(name) == child:
                    del names[name]
        for name, child in names.items():
            if self.inodes[child].is_folder:
                yield f"{prefix}{name}", None
                yield from self._paths(child, f"{prefix}{name}/", kept, cut)
            else:
                data = self._held(self.inodes[child], cut.get(child, FULL))
                key = hashlib.blake2b(data, digest_size=16).hexdigest()
                self.contents[key] = data
                yield f"{prefix}{name}", key

    @staticmethod
    def _held(inode: Inode, cut: int) -> bytes:
        if inode.synced == inode.current or cut == FULL:
            return inode.current
        if not cut:
            return inode.synced or b""
        return inode.current[
            : max(len(inode.current) * cut // FULL // SECTOR * SECTOR, min(SECTOR, len(inode.current) - 1))
        ]

    def make(self, state: State, target: Path) -> None:
        """Put a state below ``target``."""
        target.mkdir()
        for path, key in state:
            if key is None:
                (target / path).mkdir(exist_ok=True)
            else:
                (target / path).write_bytes(self.contents[key])


def _site() -> str:
    """The innermost function of the store that is calling, and who called that."""
    frame = sys._getframe(2)
    names: list[str] = []
    while frame is not None and len(names) < 3:
        path = frame.f_code.co_filename
        if "storage/" in path and "/tests/" not in path:
            names.append(f"{Path(path).stem}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names)


def _subsets(changes: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    if len(changes) <= ALL_SUBSETS:
        for size in range(len(changes) + 1):
            yield from itertools.combinations(changes, size)
        return
    for at in range(len(changes) + 1):
        yield tuple(changes[:at])
    for at, one in enumerate(changes):
        yield (one,)
        yield tuple(changes[:at] + changes[at + 1 :])


def _cuts(unsynced: list[int]) -> Iterator[dict[int, int]]:
    """How much of each file that was not synced is there: nothing new, up to some sector, or all."""
    if not unsynced:
        yield {}
        return
    if len(unsynced) <= 2:
        for cuts in itertools.product(range(FULL + 1), repeat=len(unsynced)):
            yield dict(zip(unsynced, cuts, strict=True))
        return
    for cut in range(FULL + 1):
        yield dict.fromkeys(unsynced, cut)
        for one in unsynced:
            yield {number: cut if number == one else FULL for number in unsynced}
