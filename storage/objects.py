"""Objects in a store, named like paths: S3 and its like through obstore, anything else through fsspec.

A table's folder may be an ``ObjectPath`` instead of a ``Path``: it has the few verbs that tables and their log use.
What pathlib lacks is ``create``, which puts an object only where none is, so that two writers never publish the same
version. An object that was put is durable; there are no folders. obstore is imported here alone, when a URL or a store
needs it; fsspec filesystems come from outside and can only be read. Ranges of bytes are counted and kept in ``source``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from headrace.storage.errors import BadLocation, ExtraMissing, SourceFailed

_T = TypeVar("_T")


@dataclass(frozen=True)
class Stat:
    """What a store says of an object; ``tag`` changes with its bytes, and is None where the store has none."""

    st_size: int
    tag: str | None = None


class ObjectPath(ABC):
    """An object, or a common beginning of names, in a store.

    Attributes:
        key: its name in the store.
        url: what messages call it.
    """

    def __init__(self, key: str, url: str) -> None:
        self.key = key.strip("/")
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __truediv__(self, name: str) -> ObjectPath:
        return self._at(f"{self.key}/{name}" if self.key else name, f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return PurePosixPath(self.key).name

    @abstractmethod
    def _at(self, key: str, url: str) -> ObjectPath:
        """Another name in the same store."""

    @abstractmethod
    def stat(self) -> Stat:
        """Size and tag.

        Raises:
            FileNotFoundError: there is no such object.
        """

    @abstractmethod
    def tail(self, length: int) -> tuple[Stat, bytes]:
        """The last bytes, at most ``length``, and what ``stat`` says; in one request where the store can.

        Raises:
            FileNotFoundError: there is no such object.
        """

    @abstractmethod
    def read(self, offset: int, length: int, tag: str | None = None) -> bytes:
        """Bytes within the object, of the very object with that tag.

        Raises:
            SourceFailed: the store did not answer, or has another object by now.
        """

    @abstractmethod
    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            FileNotFoundError: there is no such object.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Names that stand directly below this one."""

    @abstractmethod
    def create(self, data: bytes) -> None:
        """Put an object where none is, in one step.

        Raises:
            FileExistsError: there is one; nothing changed.
            SourceFailed: the store did not say whether it did.
        """

    @abstractmethod
    def put(self, file: Path) -> None:
        """Put a local file's bytes, in parts if it is long, over whatever is there."""

    @abstractmethod
    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; a store does not mind that there is none."""

    def exists(self) -> bool:
        """Whether there is an object of exactly this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    is_file = exists


Place: TypeAlias = Path | ObjectPath
"""Where a table or one of its files is."""
Location: TypeAlias = "str | os.PathLike[str] | tuple[Any, str] | ObjectPath | Any"
"""What callers say for it: a path, a ``file://`` or ``s3://`` URL, (obstore store or fsspec filesystem, name in it), or,
for a single file to read, a binary file that is open."""


class ObstorePath(ObjectPath):
    """A name in an obstore store."""

    def __init__(self, store: Any, key: str, url: str | None = None) -> None:
        super().__init__(key, key or type(store).__name__ if url is None else url)
        self._store = store

    def __reduce__(self) -> tuple[Any, ...]:
        return ObstorePath, (self._store, self.key, self.url)

    def _at(self, key: str, url: str) -> ObjectPath:
        return ObstorePath(self._store, key, url)

    def stat(self) -> Stat:
        def head() -> Stat:
            import obstore

            found = obstore.head(self._store, self.key)
            return Stat(found["size"], found["e_tag"])

        return answered(self.url, head)

    def tail(self, length: int) -> tuple[Stat, bytes]:
        return answered(self.url, lambda: self._tail(length))

    def _tail(self, length: int) -> tuple[Stat, bytes]:
        import obstore
        from obstore.exceptions import GenericError, NotSupportedError

        try:
            result = obstore.get(self._store, self.key, options={"range": {"suffix": length}})
        except (GenericError, NotSupportedError):
            # A store that cannot count from the end, or an object without bytes, of which none can be asked for.
            size = obstore.head(self._store, self.key)["size"]
            if not size:
                return Stat(0), b""
            result = obstore.get(self._store, self.key, options={"range": (max(size - length, 0), size)})
        return Stat(result.meta["size"], result.meta["e_tag"]), bytes(result.bytes())

    def read(self, offset: int, length: int, tag: str | None = None) -> bytes:
        def get() -> bytes:
            import obstore

            options: Any = {"range": (offset, offset + length)}
            if tag is not None:
                options["if_match"] = tag
            return bytes(obstore.get(self._store, self.key, options=options).bytes())

        return answered(self.url, get)

    def read_bytes(self) -> bytes:
        def get() -> bytes:
            import obstore

            return bytes(obstore.get(self._store, self.key).bytes())

        return answered(self.url, get)

    def names(self) -> list[str]:
        def listed() -> list[str]:
            import obstore

            found = obstore.list_with_delimiter(self._store, self.key or None)
            return [PurePosixPath(entry["path"]).name for entry in found["objects"]] + [
                PurePosixPath(prefix).name for prefix in found["common_prefixes"]
            ]

        return answered(self.url, listed)

    def create(self, data: bytes) -> None:
        def put() -> None:
            import obstore

            obstore.put(self._store, self.key, data, mode="create", use_multipart=False)

        answered(self.url, put)

    def put(self, file: Path) -> None:
        def put() -> None:
            import obstore

            obstore.put(self._store, self.key, file)

        answered(self.url, put)

    def unlink(self, missing_ok: bool = False) -> None:
        def delete() -> None:
            import obstore

            obstore.delete(self._store, self.key)

        answered(self.url, delete)


class FsspecPath(ObjectPath):
    """A name in an fsspec filesystem; read only, since not all of them can create what must not exist yet."""

    def __init__(self, filesystem: Any, key: str) -> None:
        super().__init__(key, str(filesystem.unstrip_protocol(key)))
        self._filesystem = filesystem
        self._path = key  # as the filesystem wants it, with its leading slash if it has one

    def __reduce__(self) -> tuple[Any, ...]:
        return FsspecPath, (self._filesystem, self._path)

    def _at(self, key: str, url: str) -> ObjectPath:
        return FsspecPath(self._filesystem, f"/{key}" if self._path.startswith("/") else key)

    def stat(self) -> Stat:
        return Stat(int(self._filesystem.info(self._path)["size"] or 0))

    def exists(self) -> bool:
        return bool(self._filesystem.isfile(self._path))

    is_file = exists

    def tail(self, length: int) -> tuple[Stat, bytes]:
        found = self.stat()
        start = max(found.st_size - length, 0)
        return found, self.read(start, found.st_size - start)

    def read(self, offset: int, length: int, tag: str | None = None) -> bytes:
        return (
            bytes(self._filesystem.cat_file(self._path, start=offset, end=offset + length)) if length else b""
        )

    def read_bytes(self) -> bytes:
        return bytes(self._filesystem.cat_file(self._path))

    def names(self) -> list[str]:
        return [PurePosixPath(name).name for name in self._filesystem.ls(self._path, detail=False)]

    def create(self, data: bytes) -> None:
        raise self._refused()

    def put(self, file: Path) -> None:
        raise self._refused()

    def unlink(self, missing_ok: bool = False) -> None:
        raise self._refused()

    def _refused(self) -> SourceFailed:
        return SourceFailed(
            f"{self.url}: expected a folder of this machine, s3:// or an obstore store to write to, got an fsspec "
            "filesystem, which can only be read: not all of them can create a file only where none is"
        )


def place(location: Location) -> Place:
    """Where a path, a URL or a pair of a store or filesystem and a name in it leads.

    Raises:
        BadLocation: a URL of a scheme that is not known, or without a bucket.
        ExtraMissing: it needs an extra that is not installed.
        TypeError: none of these.
    """
    match location:
        case ObjectPath():
            return location
        case str() | os.PathLike():
            return local_path(location) or _of_url(os.fspath(location))
        case (holder, str(name)):
            return FsspecPath(holder, name) if hasattr(holder, "cat_file") else ObstorePath(holder, name)
    raise TypeError(
        f"expected a path, a file:// or s3:// URL, or (store, name), got {type(location).__name__}"
    )


def local_path(location: str | os.PathLike[str]) -> Path | None:
    """The path on this machine that a path or ``file://`` URL names; None for another URL.

    Raises:
        BadLocation: a ``file://`` URL of another machine.
    """
    text = os.fspath(location)
    if "://" not in text:
        return Path(text)
    if not text.startswith("file://"):
        return None
    url = urlsplit(text)
    if url.netloc not in ("", "localhost"):
        raise BadLocation(
            f"{text}: expected file:///path, got the machine {url.netloc!r}; mount its folder here"
        )
    return Path(unquote(url.path))


def _of_url(url: str) -> ObjectPath:
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in ("s3", "s3a"):
        raise BadLocation(
            f"{url}: expected a path, file:// or s3://, got {scheme}://; open its store with obstore or fsspec and hand "
            "over (store, name)"
        )
    if not bucket:
        raise BadLocation(f"{url}: expected s3://bucket/name, got no bucket")
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ExtraMissing(f"{url}: needs obstore; pip install 'headrace[s3]'") from error
    return ObstorePath(answered(url, lambda: S3Store(bucket)), key, url)


def answered(name: str, ask: Callable[[], _T]) -> _T:
    """What ``ask`` returns, with obstore's errors told in one line.

    Raises:
        FileNotFoundError: the store has nothing under that name.
        FileExistsError: it has something that must not be there.
        SourceFailed: anything else it complains of.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

    try:
        return ask()
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{name}: expected an object here, the store has none") from error
    except AlreadyExistsError as error:
        raise FileExistsError(f"{name}: the store has an object of this name") from error
    except BaseError as error:
        said = " ".join(str(error).partition("Debug source:")[0].split())
        raise SourceFailed(
            f"{name}: the store did not answer as expected: {said}; check endpoint, region and credentials"
        ) from error
