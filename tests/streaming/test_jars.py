"""The jars: brought by the real Ivy from a repository in a folder, held to the lock, never half there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from headrace.streaming import ivy, jars, java
from headrace.streaming.jars import Jar, Lock

NOWHERE = Path("/nonexistent/java")


def make_jar(root: Path, org: str, name: str, version: str, content: bytes) -> Jar:
    """Put a file into a Maven-layout repository and describe it."""
    file = f"{name}-{version}.jar"
    place = root.joinpath(*org.split("."), name, version, file)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return Jar(org, name, version, file, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def lock(repository: Path) -> Lock:
    return Lock(
        broker=(
            make_jar(repository, "org.example", "wheel", "2.0", b"new wheel"),
            make_jar(repository, "org.example.deep", "race_2.13", "4.3.1", b"race" * 5_000),
        ),
        # The same module in another version, as kafka-clients is wanted twice.
        connector=(make_jar(repository, "org.example", "wheel", "1.5", b"old wheel"),),
    )


def test_resolve_brings_exactly_the_locked_jars(tmp_path: Path, repository: Path, lock: Lock) -> None:
    make_jar(repository, "org.example", "unwanted", "1.0", b"not in the lock")
    cache = tmp_path / "cache"
    done = jars.resolve(cache, repository=repository.as_uri(), lock=lock)
    assert (done.kept, done.fetched) == (0, 3)
    assert done.fetched_bytes == sum(jar.bytes for jar in lock.all)
    assert [path.name for path in jars.broker_classpath(cache, lock)] == [
        "wheel-2.0.jar",
        "race_2.13-4.3.1.jar",
    ]
    assert jars.connector_jars(cache, lock)[0].read_bytes() == b"old wheel"
    assert {path.name for path in (cache / "jars").iterdir()} == {*(jar.file for jar in lock.all), ".lock"}


def test_a_warm_cache_needs_neither_java_nor_network(tmp_path: Path, repository: Path, lock: Lock) -> None:
    cache = tmp_path / "cache"
    jars.resolve(cache, repository=repository.as_uri(), lock=lock)
    again = jars.resolve(cache, java=NOWHERE, repository="file:///nonexistent", lock=lock)
    assert (again.kept, again.fetched) == (3, 0)


def test_only_what_is_missing_or_damaged_is_fetched(tmp_path: Path, repository: Path, lock: Lock) -> None:
    cache = tmp_path / "cache"
    jars.resolve(cache, repository=repository.as_uri(), lock=lock)
    damaged, missing = cache / "jars" / lock.broker[1].file, cache / "jars" / lock.connector[0].file
    damaged.write_bytes(b"rac")  # as a copy that was cut off
    missing.unlink()
    (cache / "jars" / ".resolve-killed").mkdir()
    with pytest.raises(jars.JarChanged, match=r"race_2\.13-4\.3\.1\.jar.*headrace setup"):
        jars.broker_classpath(cache, lock)
    with pytest.raises(jars.JarsMissing, match=r"1 of 1 jars.*wheel-1\.5\.jar.*headrace setup"):
        jars.connector_jars(cache, lock)
    done = jars.resolve(cache, repository=repository.as_uri(), lock=lock)
    assert (done.kept, done.fetched) == (1, 2)
    assert jars.broker_classpath(cache, lock)[1].read_bytes() == b"race" * 5_000
    assert not list((cache / "jars").glob(".resolve-*"))


def test_other_bytes_than_locked_are_refused_and_nothing_is_kept(
    tmp_path: Path, repository: Path, lock: Lock
) -> None:
    make_jar(repository, "org.example", "wheel", "2.0", b"bad wheel")  # same length, same name
    cache = tmp_path / "cache"
    with pytest.raises(jars.JarChanged, match=r"org\.example:wheel:2\.0.*SHA-256.*not kept"):
        jars.resolve(cache, repository=repository.as_uri(), lock=lock)
    assert not list((cache / "jars").glob("*.jar"))


def test_a_repository_without_the_jar_says_what_to_do(tmp_path: Path, lock: Lock) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        ivy.ResolveFailed, match=r"not found: org.example#wheel;.*network.*private repository"
    ):
        jars.resolve(tmp_path / "cache", repository=empty.as_uri(), lock=lock)
    assert not list((tmp_path / "cache" / "jars").glob("*.jar"))


def test_an_unreachable_repository_says_so(tmp_path: Path, lock: Lock) -> None:
    with pytest.raises(ivy.ResolveFailed, match=r"Connection refused"):
        jars.resolve(tmp_path / "cache", repository="http://127.0.0.1:9/maven", lock=lock)


_RESOLVE = """
import sys
from pathlib import Path
from headrace.streaming import jars
jars.resolve(Path(sys.argv[1]), repository=sys.argv[2], lock=jars.read_lock(Path(sys.argv[3])))
"""


def test_two_processes_at_once_share_one_cache(tmp_path: Path, repository: Path, lock: Lock) -> None:
    cache = tmp_path / "cache"
    written = tmp_path / "lock.json"
    written.write_bytes(msgspec.json.encode(lock))
    command = [sys.executable, "-c", _RESOLVE, str(cache), repository.as_uri(), str(written)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(jars.broker_classpath(cache, lock)) == 2


def test_the_home_folder_is_left_alone(
    tmp_path: Path, repository: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".m2" / "repository").mkdir(parents=True)
    make_jar(home / ".m2" / "repository", "org.example", "wheel", "2.0", b"wheel of a stale Maven folder")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Duser.home={home}")
    jars.resolve(tmp_path / "cache", repository=repository.as_uri(), lock=lock)
    assert [path.name for path in home.iterdir()] == [".m2"]
    assert jars.broker_classpath(tmp_path / "cache", lock)[0].read_bytes() == b"new wheel"


def test_an_unwritable_cache_says_so(tmp_path: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(jars.CacheUnwritable, match="HEADRACE_CACHE"):
        jars.resolve(tmp_path / "cache", lock=lock)


def test_the_committed_lock_holds_both_sets_and_no_address() -> None:
    lock = jars.read_lock()
    files = [jar.file for jar in lock.all]
    assert len(set(files)) == len(files)
    versions = {(jar.name, jar.version) for jar in lock.broker}
    assert {("kafka_2.13", "4.3.1"), ("kafka-clients", "4.3.1"), ("log4j-slf4j-impl", "2.25.4")} <= versions
    assert [(jar.name, jar.version) for jar in lock.connector] == [
        ("commons-pool2", "2.13.1"),
        ("kafka-clients", "3.9.2"),
        ("spark-sql-kafka-0-10_2.13", "4.2.0"),
        ("spark-token-provider-kafka-0-10_2.13", "4.2.0"),
    ]
    assert all(jar.file == f"{jar.name}-{jar.version}.jar" and len(jar.sha256) == 64 for jar in lock.all)
    for text in (jars.LOCK.read_text(), ivy.SETTINGS.read_text()):
        assert "://" not in text


def test_the_real_cache_is_checked_quickly(kafka_cache: Path) -> None:
    jars.broker_classpath(kafka_cache)  # the first reading may come from the disk
    began = time.process_time()
    assert len(jars.broker_classpath(kafka_cache) + jars.connector_jars(kafka_cache)) == 50
    assert time.process_time() - began < 1.0


@pytest.fixture
def kafka_cache() -> Path:
    """The user's own cache; filled once when it is empty."""
    import os

    cache = jars.cache_folder(os.environ)
    jars.resolve(cache)
    return cache


def test_a_broken_lock_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "jars.lock.json"
    broken.write_text('{"broker": [{"org": 1}]}')
    with pytest.raises(jars.JarChanged, match="not a jar lock"):
        jars.read_lock(broken)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HEADRACE_CACHE": "/srv/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/srv/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/headrace"),
        ({"HOME": "/h"}, "/h/.cache/headrace"),
    ],
)
def test_cache_folder(environment: dict[str, str], folder: str) -> None:
    assert jars.cache_folder(environment) == Path(folder)


def fake_java(folder: Path, text: str, status: int = 0) -> Path:
    """A Java home whose java answers `text` on standard error."""
    binary = folder / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{text}\nEND\nexit {status}\n")
    binary.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("text", "release"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('openjdk version "21-ea" 2023-09-19', 21)],
)
def test_java_of_a_home_is_found(tmp_path: Path, text: str, release: int) -> None:
    found = java.find(fake_java(tmp_path, text))
    assert (found.release, found.path) == (release, tmp_path / "bin" / "java")


@pytest.mark.parametrize("text", ['java version "1.8.0_402"', 'openjdk version "11.0.2" 2019-01-15'])
def test_an_old_java_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(java.JavaTooOld, match=r"Java 17 or newer, found Java (8|11)"):
        java.find(fake_java(tmp_path, text))


def test_no_java_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(java.JavaMissing, match=r"install a JDK 17"):
        java.find(path=str(tmp_path))
    with pytest.raises(java.JavaMissing, match=r"point JAVA_HOME at a JDK 17"):
        java.find(tmp_path / "gone")
    with pytest.raises(java.JavaMissing, match="does not run"):
        java.find(fake_java(tmp_path / "broken", "no", status=1))
    with pytest.raises(java.JavaMissing, match="does not answer like a Java"):
        java.find(fake_java(tmp_path / "other", "hello"))
