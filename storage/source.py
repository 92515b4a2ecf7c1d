"""Where the bytes of one file come from: a local path, an object in S3, or anything fsspec or obstore can open.

The lowest layer of reading: the footer and the pages ask a ``Source`` for ranges of bytes and know nothing of paths or
networks, so what a read costs is counted in one place. A remote source starts with one read of the file's end, which
also tells its size, and answers from what it kept as long as it can. Paths and stores are told apart in
``objects``. Nothing here checks what the bytes mean.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from headrace.storage import redo
from headrace.storage.errors import BadFile
from headrace.storage.objects import Location, ObjectPath, place

Range = tuple[int, int]
"""(offset, length) in bytes."""

TAIL_BYTES = 256 << 10  # the first read of a remote file: its trailer, its hash tree, and most footers whole
LOCAL_GAP_BYTES = 4 << 10  # a local read more costs about what copying this much does
REMOTE_GAP_BYTES = 64 << 10  # a round trip more costs far more than these bytes
MERGED_BYTES = 8 << 20  # so that ranges side by side still travel as several requests at once
REQUESTS_AT_ONCE = 8


class Source(ABC):
    """One immutable file's bytes by offset; safe to use from several threads.

    Attributes:
        name: what messages call it.
        remote: whether each read is a round trip.
        size: bytes in the file.
        reads: reads so far that went to where the file is.
        bytes_read: bytes those brought.
    """

    remote = False
    gap_bytes = LOCAL_GAP_BYTES

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.reads = 0
        self.bytes_read = 0
        self._count = threading.Lock()
        self._kept: list[tuple[int, bytes]] = []

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; fewer only where the file ends."""

    def close(self) -> None:
        """Let go of what is open; bytes already returned stay valid."""
        self._kept = []

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``.

        Raises:
            BadFile: the file ends before.
            SourceFailed: the store that holds it did not answer.
        """
        if not length:
            return b""
        for start, data in self._kept:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        data = self._read(offset, length)
        with self._count:
            self.reads += 1
            self.bytes_read += len(data)
        if len(data) != length:
            raise BadFile(
                f"{self.name}: expected {length} bytes at {offset}, got {len(data)}; the file was cut short"
            )
        return data

    def read_into(self, buffer: memoryview, offset: int, length: int) -> bytes | memoryview:
        """As ``read``, by way of a buffer that is large enough: what is returned lasts until that is used again."""
        return self.read(offset, length)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """What ``read`` returns for each range, in order, with ranges that lie close together read as one.

        Raises:
            BadFile: the file ends before one of them.
        """
        spans = _merged(ranges, self.gap_bytes)
        parts = self._read_spans([(offset, length) for offset, length, _ in spans])
        found: list[bytes] = [b""] * len(ranges)
        for (start, length, members), data in zip(spans, parts, strict=True):
            for at in members:
                offset, wanted = ranges[at]
                found[at] = data if wanted == length else data[offset - start : offset - start + wanted]
        return found

    def _read_spans(self, spans: list[Range]) -> list[bytes]:
        return [self.read(offset, length) for offset, length in spans]

    def keep(self, offset: int, length: int) -> None:
        """Read a range now and answer later reads within it from memory; does nothing to what is kept already."""
        for start, data in self._kept:
            if start <= offset < start + len(data):
                length -= min(start + len(data) - offset, length)
                offset = start + len(data)
            elif start < offset + length <= start + len(data):
                length = start - offset
        if length > 0:
            data = self.read(offset, length)
            self._kept = _joined([*self._kept, (offset, data)])


class LocalSource(Source):
    """A file of this machine, read by ``pread``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if redo.journal_of(file := Path(path)).exists():  # an erase runs, or was killed
            redo.finish(file)
        self._fd = os.open(path, os.O_RDONLY)
        super().__init__(os.fspath(path), os.fstat(self._fd).st_size)

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length:
            return data
        parts = [data]
        while data and (length := length - len(data)):  # one pread ends at 2 GiB, or at a signal
            offset += len(data)
            data = os.pread(self._fd, length, offset)
            parts.append(data)
        return b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int, length: int) -> bytes | memoryview:
        """Saves new memory for each read, whose pages cost as much as the reading."""
        if os.preadv(self._fd, [buffer[:length]], offset) != length:
            return self.read(offset, length)  # which goes on, or says where the file ends
        with self._count:
            self.reads += 1
            self.bytes_read += length
        return buffer[:length]

    def close(self) -> None:
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RemoteSource(Source):
    """A file behind a network: its end is read first, ranges close together are one request, others go out at once."""

    remote = True
    gap_bytes = REMOTE_GAP_BYTES

    def __init__(self, name: str, tail: bytes, size: int) -> None:
        super().__init__(name, size)
        self.reads, self.bytes_read = 1, len(tail)
        self._kept = [(size - len(tail), tail)]

    def _read_spans(self, spans: list[Range]) -> list[bytes]:
        if len(spans) < 2:
            return super()._read_spans(spans)
        from concurrent.futures import ThreadPoolExecutor  # which local files do without

        with ThreadPoolExecutor(min(len(spans), REQUESTS_AT_ONCE), "headrace-read") as pool:
            return list(pool.map(lambda span: self.read(*span), spans))


class ObjectSource(RemoteSource):
    """An object in a store.

    Raises:
        FileNotFoundError: there is no such object.
    """

    def __init__(self, path: ObjectPath) -> None:
        found, tail = path.tail(TAIL_BYTES)
        self._path, self._tag = path, found.tag  # another object under this name is not this file
        super().__init__(str(path), tail, found.st_size)

    def _read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        return self._path.read(offset, length, self._tag) if length > 0 else b""


class OpenFileSource(RemoteSource):
    """A binary file somebody else opened, of fsspec or Python, read by ``seek`` and ``read``; closing it is theirs."""

    def __init__(self, file: Any, name: str | None = None) -> None:
        self._file = file
        self._turn = threading.Lock()
        size = int(file.seek(0, os.SEEK_END))
        name = name or str(getattr(file, "name", None) or getattr(file, "path", None) or type(file).__name__)
        start = max(size - TAIL_BYTES, 0)
        super().__init__(name, self._read(start, size - start), size)

    def _read(self, offset: int, length: int) -> bytes:
        parts = []
        with self._turn:
            self._file.seek(offset)
            while length and (part := bytes(self._file.read(length))):
                parts.append(part)
                length -= len(part)
        return b"".join(parts)


def open_source(location: Location) -> Source:
    """Open a file, wherever it is.

    Args:
        location: a local path; ``file://`` or ``s3://`` (extra ``s3``; credentials and endpoint as the AWS tools take
            them from the environment); a pair of an obstore store or fsspec filesystem and a path in it; an fsspec
            ``OpenFile``; or a binary file open for reading.

    Raises:
        FileNotFoundError: there is nothing.
        ExtraMissing: the URL needs an extra that is not installed.
        BadLocation: a URL of another scheme.
        TypeError: none of these.

    >>> import io
    >>> source = open_source(io.BytesIO(b"0123456789"))
    >>> source.read(2, 3), source.size
    (b'234', 10)
    """
    if isinstance(location, Source):
        return location
    if hasattr(location, "seek") and hasattr(location, "read"):
        return OpenFileSource(location)
    filesystem = getattr(location, "fs", None)  # of fsspec's OpenFile
    found = place((filesystem, getattr(location, "path", "")) if filesystem is not None else location)
    return ObjectSource(found) if isinstance(found, ObjectPath) else LocalSource(found)


def _merged(ranges: Sequence[Range], gap_bytes: int) -> list[tuple[int, int, list[int]]]:
    """(offset, length, numbers of the ranges within) of the reads to make, by offset."""
    spans: list[tuple[int, int, list[int]]] = []
    for at in sorted(range(len(ranges)), key=ranges.__getitem__):
        offset, length = ranges[at]
        if spans:
            start, span, members = spans[-1]
            end = max(start + span, offset + length)
            if offset <= start + span + gap_bytes and end - start <= MERGED_BYTES:
                members.append(at)
                spans[-1] = (start, end - start, members)
                continue
        spans.append((offset, length, [at]))
    return spans


def _joined(kept: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Kept ranges with those that touch or overlap made one, so that a read across both is answered from memory."""
    joined: list[tuple[int, bytes]] = []
    for start, data in sorted(kept):
        end = joined[-1][0] + len(joined[-1][1]) if joined else -1
        if start <= end:
            joined[-1] = (joined[-1][0], joined[-1][1] + data[end - start :])
        else:
            joined.append((start, data))
    return joined
