"""Steps of a read, decoded by several threads and ahead of the caller.

Kernels, hashes, reads and decompression let go of the interpreter, so threads help, but only from a few tenths of a
millisecond of work on: columns are bundled until a bundle is worth handing over, and a small read stays on the
caller's thread altogether. One step is decoded while the caller has the one before, no more, so two quarters of the
memory granted are steps and the rest is for pages being read. Which rows a step holds is decided in ``group_read``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from headrace.storage.errors import CorruptFooter, CorruptPage
from headrace.storage.group_read import Selected, Step

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

MEMORY_BYTES = 512 << 20
BUNDLE_BYTES = 2 << 20
"""Decoded bytes that are worth a task: half a millisecond or more."""

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()


class Steps(Protocol):
    """What is read, in order, and how to go on when the file changed."""

    def __iter__(self) -> Iterator[Step]: ...

    def after(self, step: Step) -> Iterator[Step]:
        """This step and all that follow, planned anew."""
        ...

    def is_stale(self) -> bool:
        """Whether the file changed since it was looked at; if so, it is looked at again."""
        ...


def default_threads() -> int:
    """Processors this process may use, up to 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pool(threads: int) -> ThreadPoolExecutor:
    """A pool of so many threads, made once per process: also in one that was forked, where no thread survives."""
    from concurrent.futures import ThreadPoolExecutor  # which small reads do without

    key = (os.getpid(), threads)
    with _lock:
        found = _pools.get(key)
        if found is None:
            found = _pools[key] = ThreadPoolExecutor(threads, "headrace-decode")
        return found


_Task = tuple[Step, "list[Future[Selected]]"]


def ahead(steps: Steps, threads: int) -> Iterator[tuple[Step, Selected]]:
    """Each step with its columns' arrays.

    Raises:
        CorruptPage, CorruptFooter: damage, unless the file was changed meanwhile; then the step is read again.
    """
    plan = iter(steps)
    waiting: _Task | None = None
    early = False
    step = next(plan, None)
    while step is not None:
        following = None
        try:
            if waiting is not None:
                tasks, waiting = waiting[1], None
            else:
                tasks = _submit(step, threads) if threads > 1 and step.n_bytes >= 2 * BUNDLE_BYTES else []
            if tasks:
                following = next(plan, None)
                if following is not None:
                    waiting = (following, _submit(following, threads))
                found = _collected(tasks)
                if early and steps.is_stale():
                    # It was decoded before the caller had the step before, perhaps with rows that are erased by now.
                    raise _Stale
            else:
                found = step.decode(0, len(step.group.parts))
            early = bool(tasks)
        except (CorruptPage, CorruptFooter, _Stale) as error:
            if not isinstance(error, _Stale) and not steps.is_stale():
                raise
            waiting, early = None, False
            plan = steps.after(step)
            step = next(plan, None)
            if step is None:
                return
            found, following = step.decode(0, len(step.group.parts)), None
        yield step, found
        del found
        step = following or next(plan, None)


class _Stale(Exception):
    """What was decoded ahead is from before an erase."""


def _submit(step: Step, threads: int) -> list[Future[Selected]]:
    bundle = max(BUNDLE_BYTES, step.n_bytes // (4 * threads))
    executor = pool(threads)
    return [executor.submit(step.decode, first, last) for first, last in step.bundles(bundle)]


def _collected(tasks: list[Future[Selected]]) -> Selected:
    parts = [task.result() for task in tasks]
    return Selected([column for part in parts for column in part.columns], parts[0].n_rows)
