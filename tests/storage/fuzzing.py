"""The process that `test_fuzz` starts: ``python -m tests.storage.fuzzing FOLDER ANSWER SECONDS SEED``.

An input is a choice of a file, then patches: where (a byte of the footer, of a page's head and tables, or anywhere in
a page) and what to put there.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import atheris

LIMIT_BYTES = 4 << 30  # address space; the tracer and Arrow's pool take more than a gigabyte of it untouched
GROWTH_BYTES = 512 << 20
MAX_PATCHES = 4
PATCH = struct.Struct("<BIB")

with atheris.instrument_imports(include=["headrace.storage"]):
    from headrace.storage import fetch, layout
    from headrace.storage.encodings import _jit
    from headrace.storage.errors import StorageError
    from headrace.storage.reader import read_file

from .forge import Forged  # noqa: E402
from .rich import rich, write_rich  # noqa: E402


def seeds(folder: Path) -> list[bytes]:
    """The files that are changed: few rows, every kind of page."""
    files = []
    for number, profile in enumerate(("balanced", "size", "compliance")):
        folder.joinpath(str(number)).mkdir()
        files.append(write_rich(folder / str(number) / "f", rich(60, users=5), profile))
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
    """The file with the input's patches, its hashes right again; None where the footer no longer says where pages are."""
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


def main(folder: Path, answer: Path, seconds: int, seed: int) -> None:
    """Fuzz, then write down how often the reader said what."""
    # Traced code cannot be compiled: numpy's twins of the kernels read all streams.
    _jit.SMALL_VALUES = fetch.KERNELS_FROM_VALUES = 1 << 60  # type: ignore[misc]
    files = [(raw, places(raw)) for raw in seeds(folder)]
    path, seen = folder / "changed", Counter[str]()
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, (_, where) in enumerate(files):
        for region in range(len(where)):
            (corpus / f"{number}.{region}").write_bytes(
                bytes([number]) + PATCH.pack(region, 17 * region, 3) + bytes(4)
            )
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    until = time.monotonic() + seconds

    def one(data: bytes) -> None:
        if time.monotonic() > until + 30:
            raise TimeoutError("the fuzzer did not stop in time")
        if not data:
            return
        raw, where = files[data[0] % len(files)]
        hostile = changed(raw, where, data[1:])
        if hostile is None:
            return
        path.write_bytes(hostile)
        started = time.monotonic()
        try:
            rows = sum(batch.num_rows for batch in read_file(path))
        except StorageError as error:
            seen[type(error).__name__] += 1
        else:
            seen["read"] += 1
            if rows > 60:
                raise AssertionError(f"{rows} rows came out of a file of 60")
        taken = time.monotonic() - started
        if taken > 10:
            raise AssertionError(f"a file of {len(hostile)} bytes took {taken:.1f} s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - base
        if grown > GROWTH_BYTES:
            raise MemoryError(f"{grown >> 20} MiB more were taken")
        seen["runs"] += 1
        if seen["runs"] % 50 == 0:
            answer.write_text(json.dumps(seen))

    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=64", "-verbosity=0"]
    arguments += [f"-artifact_prefix={folder}/", "-rss_limit_mb=0", str(corpus)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
