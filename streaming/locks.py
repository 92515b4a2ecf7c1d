"""One advisory file lock, shared by what several processes may do at once: resolve jars, start a broker.

The kernel releases it when its holder dies, however it dies, so there is nothing stale to clean up.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, made when absent, for the length of the block; waits for it.

    The descriptor is not inherited by child processes: a broker started inside the block does not hold the lock.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
