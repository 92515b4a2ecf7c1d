"""The redo journal of an erase in place: the new bytes of a file, durable before the first of them is written over the old.

In the flow: beside a data file, for as long as an erase of it takes. It holds new images only, since a copy of the old
ones would keep the very bytes that must go; it is emptied and synced before it is removed. A writer that was killed leaves
it behind, and whoever opens the file next finishes the work: applying it twice does what applying it once does. What the
bytes mean is ``erase_file``'s part.

    "HRCJ", u32 version, u64 number of images, u64 bytes in the file; per image u64 offset, u64 length; the images;
    32 bytes BLAKE3 of all before
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from headrace.storage import durable
from headrace.storage.errors import EraseUnfinished

SUFFIX = ".redo"
_HEAD = struct.Struct("<4sIQQ")
_IMAGE = struct.Struct("<QQ")
_MAGIC, _VERSION, _HASH_BYTES = b"HRCJ", 1, 32
_log = logging.getLogger(__name__)
Image = tuple[int, bytes]
"""(offset in the file, new bytes)."""


def journal_of(path: Path) -> Path:
    """Where the journal of a data file lies."""
    return path.with_name(path.name + SUFFIX)


def write_over(path: Path, images: Sequence[Image]) -> int:
    """Replace parts of a file, all of them or, after a crash and the next opening, all of them all the same.

    Args:
        path: a local file.
        images: parts that do not overlap, within the file.

    Returns:
        Bytes of the journal.

    Raises:
        OSError: nothing was changed, or ``finish`` has to be called; which of the two, it finds out itself.
    """
    journal = journal_of(path)
    record = _packed(images, path.stat().st_size)
    fd = os.open(journal, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # until the process ends, so that nobody takes it for a dead one's
        os.ftruncate(fd, 0)
        _write(fd, 0, record)
        durable.sync_file(fd)
        durable.sync_dir(journal.parent)
        apply(path, images)
        _remove(fd, journal)
    finally:
        os.close(fd)
    return len(record)


def finish(path: Path) -> bool:
    """Finish what a killed eraser began with a file, or wait for one that still runs.

    Returns:
        Whether there was anything to finish.

    Raises:
        EraseUnfinished: this process may not write the file.
    """
    journal = journal_of(path)
    try:
        fd = os.open(journal, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EraseUnfinished(
            f"{path}: an erase was interrupted and must be finished first, which needs write access ({error}); "
            "open the table once with it"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not journal.exists():
            return True  # its writer lived, and has removed it
        images = _unpacked(os.pread(fd, os.fstat(fd).st_size, 0), path)
        if images is not None:
            apply(path, images)
        _remove(fd, journal)
        _log.warning(
            "%s: %s",
            path,
            "finished an erase that was interrupted"
            if images is not None
            else "removed an erase's journal that was never whole",
        )
        return True
    finally:
        os.close(fd)


def _packed(images: Sequence[Image], size: int) -> bytes:
    parts = [_HEAD.pack(_MAGIC, _VERSION, len(images), size)]
    parts += [_IMAGE.pack(offset, len(data)) for offset, data in images]
    parts += [data for _, data in images]
    body = b"".join(parts)
    return body + blake3(body).digest(_HASH_BYTES)


def _unpacked(raw: bytes, path: Path) -> list[Image] | None:
    """The images of a whole journal; None of one that its writer did not finish, so that the file is untouched."""
    body = raw[:-_HASH_BYTES]
    if len(body) < _HEAD.size or blake3(body).digest(_HASH_BYTES) != raw[-_HASH_BYTES:]:
        return None
    magic, version, n, size = _HEAD.unpack_from(body)
    if (magic, version) != (_MAGIC, _VERSION) or size != path.stat().st_size:
        raise EraseUnfinished(
            f"{journal_of(path)}: expected a journal of version {_VERSION} for {path.stat().st_size} bytes, got {magic!r} "
            f"{version} for {size}; update headrace, or restore the file that it belongs to"
        )
    places = list(_IMAGE.iter_unpack(body[_HEAD.size : _HEAD.size + n * _IMAGE.size]))
    at, images = _HEAD.size + n * _IMAGE.size, []
    for offset, length in places:
        images.append((offset, body[at : at + length]))
        at += length
    return images


def apply(path: Path, images: Sequence[Image]) -> None:
    """Write images over a file and sync it, with no journal: of a file that nobody reads yet."""
    fd = os.open(path, os.O_WRONLY)
    try:
        for offset, data in images:
            _write(fd, offset, data)
        durable.sync_file(fd)
    finally:
        os.close(fd)


def _write(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def _remove(fd: int, journal: Path) -> None:
    """Emptied and synced before it is unlinked: a name that is gone says nothing of the bytes it had."""
    os.ftruncate(fd, 0)
    durable.sync_file(fd)
    journal.unlink()
    durable.sync_dir(journal.parent)
