"""Changed files for the fuzzers: where bytes are worth changing, and the file with some changed and every hash right again.

What is read of them, and what may come of it, is here too, so that both fuzzers judge alike.
"""

from __future__ import annotations

import resource
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from headrace.storage import layout
from headrace.storage.errors import StorageError

from .forge import Forged
from .rich import rich, write_rich

LIMIT_BYTES = (
    4 << 30
)  # address space; a tracer, a compiler and Arrow's pool take more than a gigabyte of it untouched
GROWTH_BYTES = 512 << 20
ROWS = 60
SECONDS = 10
MAX_PATCHES = 4
PATCH = struct.Struct("<BIB")


def seeds(folder: Path) -> list[bytes]:
    """The files that are changed: few rows, every kind of page."""
    files = []
    for number, profile in enumerate(("balanced", "size", "compliance")):
        folder.joinpath(str(number)).mkdir()
        files.append(write_rich(folder / str(number) / "f", rich(ROWS, users=5), profile))
    return files


def places(raw: bytes) -> list[tuple[int, int]]:
    """Where bytes are worth changing: pages and dictionaries, then the footer."""
    forged = Forged(raw)
    found = []
    for section in (layout.PAGE, layout.DICT):
        for row in forged.rows(section):
            found.append((int(row["off"]) + layout.NONCE_BYTES, int(row["used_len"]) - layout.NONCE_BYTES))
    found.append((forged.trailer.footer_off, forged.trailer.footer_len))
    return found


def changed(raw: bytes, where: list[tuple[int, int]], data: bytes) -> bytes | None:
    """The file with an input's patches, its hashes right again; None where the footer no longer says where pages are.

    An input is up to four patches: which place, which byte of it, how many bytes, and these.
    """
    forged = Forged(raw)
    at = 0
    for _ in range(MAX_PATCHES):
        if at + PATCH.size > len(data):
            break
        region, offset, length = PATCH.unpack_from(data, at)
        at += PATCH.size
        piece = data[at : at + 1 + length % 9]
        at += len(piece)
        start, size = where[region % len(where)]
        offset %= size
        forged.patch(start + offset, piece[: size - offset])
    try:
        return forged.bytes()
    except (KeyError, ValueError):
        return None


class Judge:
    """Counts what reading a changed file gave; raises where that is no error of the store, or took too much."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        self._base = _resident()

    def read(self, size: int, how: Callable[[], int]) -> None:
        """Read a file of some bytes; ``how`` says how many rows came."""
        started = time.monotonic()
        try:
            rows = how()
        except StorageError as error:
            self.seen[type(error).__name__] += 1
        else:
            self.seen["read"] += 1
            if rows > ROWS:
                raise AssertionError(f"{rows} rows came out of a file of {ROWS}")
        taken = time.monotonic() - started
        if taken > SECONDS:
            raise AssertionError(f"a file of {size} bytes took {taken:.1f} s")
        if (grown := _resident() - self._base) > GROWTH_BYTES:
            raise MemoryError(f"{grown >> 20} MiB more were taken")
        self.seen["runs"] += 1


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
