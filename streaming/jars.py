"""The Java archives of the embedded broker and of Spark's Kafka connector: resolved once, checked always.

Where in the flow: before anything starts. `resolve` lets Ivy (see `ivy`) bring exactly the jars that
`jars.lock.json` lists; each must have the locked SHA-256 before it enters the cache. `broker_classpath` and
`connector_jars` check it again on every call (under 0.1 s) and never use the network.

The two sets stay apart: a newer kafka-clients on Spark's class path would replace the one its connector was
built for; the wire protocol joins them well enough.

Not here: reading environment variables (the caller passes the cache and a private repository's root).
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from headrace.streaming import ivy
from headrace.streaming import java as javas
from headrace.streaming.errors import StreamingError
from headrace.streaming.locks import exclusive

LOCK = Path(__file__).with_name("jars.lock.json")

_BROKER_ROOTS = (
    ("org.apache.kafka", "kafka_2.13", "4.3.1"),
    # Kafka logs through slf4j 1.7; its closure has log4j 2 but no binding, and logs nothing without this.
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),
)
_CONNECTOR_ROOTS = (  # everything else that they need is among pyspark's own jars
    ("org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0"),
    ("org.apache.spark", "spark-token-provider-kafka-0-10_2.13", "4.2.0"),
    ("org.apache.kafka", "kafka-clients", "3.9.2"),
    ("org.apache.commons", "commons-pool2", "2.13.1"),
)


class JarsMissing(StreamingError, FileNotFoundError):
    """Jars that the lock lists are not in the cache."""


class JarChanged(StreamingError, ValueError):
    """A jar whose bytes are not those that the lock names."""


class CacheUnwritable(StreamingError, PermissionError):
    """The cache folder cannot be written."""


@dataclass(frozen=True, order=True)
class Jar:
    """One locked archive: Maven coordinates, file name, SHA-256 in hex, size."""

    org: str
    name: str
    version: str
    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Lock:
    """What jars.lock.json holds: the broker's whole runtime closure, and what Spark lacks for Kafka."""

    broker: tuple[Jar, ...]
    connector: tuple[Jar, ...]

    @property
    def all(self) -> tuple[Jar, ...]:
        return self.broker + self.connector


_LOCK = msgspec.json.Decoder(Lock)


@dataclass(frozen=True)
class Resolved:
    """What one `resolve` did: jars that were already there, jars fetched, bytes fetched."""

    kept: int
    fetched: int
    fetched_bytes: int


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The per-user cache: HEADRACE_CACHE, else headrace under XDG_CACHE_HOME, else under ~/.cache.

    >>> str(cache_folder({"HEADRACE_CACHE": "/srv/cache", "HOME": "/home/ada"}))
    '/srv/cache'
    >>> str(cache_folder({"HOME": "/home/ada"}))
    '/home/ada/.cache/headrace'
    """
    if named := environment.get("HEADRACE_CACHE"):
        return Path(named)
    base = environment.get("XDG_CACHE_HOME")
    home = environment.get("HOME")
    return (Path(base) if base else (Path(home) if home else Path.home()) / ".cache") / "headrace"


def read_lock(path: Path = LOCK) -> Lock:
    """The committed lock.

    Raises:
        JarChanged: the file is not a lock.
    """
    try:
        return _LOCK.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise JarChanged(f"{path} is not a jar lock ({error}); restore it from the release") from error


def broker_classpath(cache: Path, lock: Lock | None = None) -> tuple[Path, ...]:
    """The broker's jars in the cache, each checked against the lock.

    Raises:
        JarsMissing: at least one is absent.
        JarChanged: at least one has other bytes.
    """
    return _checked(cache, (lock or read_lock()).broker)


def connector_jars(cache: Path, lock: Lock | None = None) -> tuple[Path, ...]:
    """The jars for Spark's `spark.jars`, each checked against the lock; raises as `broker_classpath` does."""
    return _checked(cache, (lock or read_lock()).connector)


def resolve(
    cache: Path, *, java: Path | None = None, repository: str | None = None, lock: Lock | None = None
) -> Resolved:
    """Bring every locked jar into the cache; what is there and intact is kept, without touching the network.

    Safe to call from several processes at once (one resolves, the others wait and find the result) and safe
    to interrupt: a jar enters the cache whole, by rename, after its hash was checked, or not at all.

    Args:
        cache: the per-user cache folder; jars land in its `jars/`.
        java: an executable java; None takes the first on the path.
        repository: the root of a private Maven-layout repository, instead of Ivy's public default.

    Raises:
        ResolveFailed: Ivy could not fetch a jar.
        JarChanged: a fetched jar has other bytes than the lock names; it was not kept.
        CacheUnwritable: the cache folder cannot be written.
        JavaMissing, JavaTooOld, IvyMissing: there is nothing to run Ivy with.
    """
    jars = (lock or read_lock()).all
    folder = _jar_folder(cache)
    absent = [jar for jar, path in zip(jars, _paths(cache, jars), strict=True) if not _intact(path, jar)]
    if not absent:
        return Resolved(kept=len(jars), fetched=0, fetched_bytes=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".lock"):
            # Another process may have brought them while this one waited for the lock.
            absent = [jar for jar in absent if not _intact(folder / jar.file, jar)]
            for stale in folder.glob(".resolve-*"):  # left by a process that was killed: its lock is gone
                shutil.rmtree(stale, ignore_errors=True)
            if absent:
                executable = java or javas.find().path
                with tempfile.TemporaryDirectory(prefix=".resolve-", dir=folder) as working:
                    _fetch(absent, Path(working), folder, executable, repository)
    except PermissionError as error:
        raise CacheUnwritable(
            f"the jar cache {folder} cannot be written ({error.strerror}); choose another with HEADRACE_CACHE"
        ) from error
    return Resolved(
        kept=len(jars) - len(absent), fetched=len(absent), fetched_bytes=sum(jar.bytes for jar in absent)
    )


def _fetch(
    jars: Sequence[Jar], working: Path, folder: Path, executable: Path, repository: str | None
) -> None:
    entries = [(jar.org, jar.name, jar.version) for jar in jars]
    out = ivy.run(entries, working, executable, repository, transitive=False)
    for jar in jars:
        fetched = out / jar.file
        if not fetched.is_file():
            raise ivy.ResolveFailed(
                f"Ivy reported success but brought no {jar.file}; check that the repository has {_name(jar)}"
            )
        if not _intact(fetched, jar):
            raise JarChanged(
                f"{_name(jar)}: expected {jar.bytes} bytes with SHA-256 {jar.sha256}, the repository sent "
                f"{fetched.stat().st_size} bytes with {_sha256(fetched)}; not kept. "
                "Check the repository (a proxy's error page, or a tampered file)"
            )
    for jar in jars:  # only after all are known to be good
        (out / jar.file).replace(folder / jar.file)


def _jar_folder(cache: Path) -> Path:
    return cache / "jars"


def _paths(cache: Path, jars: Iterable[Jar]) -> list[Path]:
    return [_jar_folder(cache) / jar.file for jar in jars]


def _checked(cache: Path, jars: Sequence[Jar]) -> tuple[Path, ...]:
    paths = _paths(cache, jars)
    missing = [jar for jar, path in zip(jars, paths, strict=True) if not path.is_file()]
    if missing:
        raise JarsMissing(
            f"{len(missing)} of {len(jars)} jars are not in {_jar_folder(cache)}, first {missing[0].file}; "
            "run `headrace setup` once while online"
        )
    with ThreadPoolExecutor(4) as threads:  # hashing leaves the interpreter lock
        intact = list(threads.map(_intact, paths, jars))
    for jar, good in zip(jars, intact, strict=True):
        if not good:
            raise JarChanged(
                f"{jar.file} in {_jar_folder(cache)} is not the locked one (SHA-256 {jar.sha256}); "
                "run `headrace setup` to fetch it again"
            )
    return tuple(paths)


def _intact(path: Path, jar: Jar) -> bool:
    try:
        return path.stat().st_size == jar.bytes and _sha256(path) == jar.sha256
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _name(jar: Jar) -> str:
    return f"{jar.org}:{jar.name}:{jar.version}"


def lock_jars(path: Path = LOCK, *, java: Path | None = None, repository: str | None = None) -> Lock:
    """Maintainers, after changing a version above: resolve the closures anew and write the lock.

    Raises:
        ResolveFailed: Ivy could not fetch a jar.
    """
    executable = java or javas.find().path
    sets: dict[str, tuple[Jar, ...]] = {}
    for name, roots, transitive in (("broker", _BROKER_ROOTS, True), ("connector", _CONNECTOR_ROOTS, False)):
        with tempfile.TemporaryDirectory(prefix="headrace-lock-") as folder:
            out = ivy.run(roots, Path(folder), executable, repository, transitive=transitive)
            sets[name] = tuple(sorted(_locked(out, entry) for entry in ivy.report(Path(folder))))
    lock = Lock(**sets)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(lock), indent=1) + b"\n")
    return lock


def _locked(out: Path, entry: ivy.Coordinates) -> Jar:
    org, name, version = entry
    file = f"{name}-{version}.jar"
    path = out / file
    return Jar(org, name, version, file, sha256=_sha256(path), bytes=path.stat().st_size)


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m headrace.streaming.jars lock")
    written = lock_jars()
    sys.stdout.write(
        f"{LOCK.name}: {len(written.broker)} jars of Kafka, {len(written.connector)} for Spark\n"
    )
