"""A store that fails, tears, delays, reorders and lies about outcomes, by a seed or by the number of a call.

It stands around another store, and does to its calls what networks and disks do. Faults of one call:

- ``before``: an error, nothing was done;
- ``after``: it was done, and an error is reported (an ambiguous PUT);
- ``late``: an error is reported, and it is done some calls later, unless the name was taken by then;
- ``twice``: it is sent twice, so that the second meets what the first one made;
- ``torn``: of a plain write, half is there, and an error is reported.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace.storage.objects import Place
from headrace.storage.stores import PosixStore, Store

FAULTS = ("before", "after", "late", "twice", "torn")


class FaultStore(PosixStore):
    """A folder whose conditional creation is a request that may go wrong; ``fault`` says how, call by call."""

    def __init__(self, root: Place, fault: Callable[[str, str], str | None], error: int = errno.EIO) -> None:
        Store.__init__(self, root)
        self.fault, self.error = fault, error
        self.late: list[Callable[[], None]] = []
        self.deleted: list[str] = []

    def _failed(self) -> OSError:
        return OSError(self.error, os.strerror(self.error))

    def _do(
        self, call: str, name: str, act: Callable[[], None], tear: Callable[[], None] | None = None
    ) -> None:
        for waiting in [self.late.pop(0) for _ in range(len(self.late)) if len(self.late) > 1]:
            waiting()
        match self.fault(call, name):
            case None:
                act()
            case "before":
                raise self._failed()
            case "after":
                act()
                raise self._failed()
            case "late":
                self.late.append(lambda: _whatever(act))
                raise self._failed()
            case "twice":
                act()
                act()
            case "torn":
                (tear or (lambda: None))()
                raise self._failed()
            case other:
                raise AssertionError(other)

    def settle(self) -> None:
        """Let everything that is late happen."""
        while self.late:
            self.late.pop(0)()

    def create(self, name: str, data: bytes, token: str) -> None:
        self._do("create", name, lambda: PosixStore.create(self, name, data, token))

    def write(self, name: str, data: bytes) -> None:
        def tear() -> None:
            (Path(self.root) / name).write_bytes(data[: len(data) // 2])

        def act() -> None:
            (Path(self.root) / name).write_bytes(data)

        self._do("write", name, act, tear)

    def delete(self, name: str) -> None:
        self.deleted.append(name)
        self._do("delete", name, lambda: PosixStore.delete(self, name))

    def names(self, folder: str) -> list[str]:
        found = PosixStore.names(self, folder)
        random.Random(len(found)).shuffle(found)
        return found


def _whatever(act: Callable[[], None]) -> None:
    with suppress(OSError):
        act()


def by_seed(
    seed: int, share: float, calls: tuple[str, ...] = ("create",)
) -> Callable[[str, str], str | None]:
    """Faults for a share of some calls."""
    draw = random.Random(seed)

    def fault(call: str, name: str) -> str | None:
        if call not in calls or draw.random() >= share:
            return None
        return draw.choice([kind for kind in FAULTS if call != "create" or kind != "torn"])

    return fault


def wrapped(fault: Callable[[str, str], str | None], **how: Any) -> Callable[[Place], FaultStore]:
    """For ``stores.store_of``: every table's store with these faults."""
    return lambda root: FaultStore(root, fault, **how)
