"""What must be true of a machine before the jobs can run, each as one check with a remedy.

Used by `headrace doctor` and shown when a start fails. Nothing is changed and nothing is downloaded; environment
values come in as arguments.

Not here: a cluster's machines; this looks at the one it runs on.
"""

import importlib.metadata
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.streaming import jars, java
from headrace.streaming.errors import StreamingError
from headrace.streaming.kraft import HOST

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
DISK_BYTES = 2 << 30
"""Jars, a broker's topics, checkpoints and a demo's table."""
MEMORY_BYTES = 2 << 30
"""Spark's driver with 1 GB, the broker with 256 MB, Python workers."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` is what to do, empty when it is well."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def checks(
    *,
    cache: Path,
    data: Path,
    java_home: str | None = None,
    path: str | None = None,
    pyspark_python: str | None = None,
) -> tuple[Check, ...]:
    """Look at everything, in the order in which a newcomer would set it up; never raises.

    Args:
        cache: the jar cache, `jars.cache_folder(os.environ)`.
        data: where tables and topics will be written; need not exist yet.
        java_home, path, pyspark_python: what JAVA_HOME, PATH and PYSPARK_PYTHON say.
    """
    return (
        check_python(sys.version_info[:2]),
        check_java(java_home, path),
        check_make(path),
        check_disk(data),
        check_memory(psutil.virtual_memory().available),
        check_ports(),
        check_writable("cache", cache, "set HEADRACE_CACHE to a folder that you may write"),
        check_writable("data folder", data, "choose another folder, or change who may write to it"),
        check_jars(cache),
        check_crc32c(),
        check_connector(_installed("pyspark")),
        check_interpreter(pyspark_python, sys.executable, path),
    )


def check_python(version: tuple[int, int]) -> Check:
    """The interpreter's release."""
    ok = OLDEST_PYTHON <= version <= NEWEST_PYTHON
    wanted = f"{_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}"
    return Check("python", ok, _dotted(version), "" if ok else f"make an environment with Python {wanted}")


def check_java(java_home: str | None, path: str | None) -> Check:
    """A JDK of release 17 or newer."""
    try:
        found = java.find(java_home, path)
    except StreamingError as error:
        return Check("java", False, "none that fits", str(error))
    return Check("java", True, f"{found.release} at {found.path}")


def check_make(path: str | None) -> Check:
    """make; never a fault, since only the repository's own shortcuts need it."""
    found = shutil.which("make", path=path)
    return Check("make", True, found or "none: type the commands of the Makefile instead")


def check_disk(folder: Path, wanted_bytes: int = DISK_BYTES) -> Check:
    """Room on the disk of a folder."""
    free = shutil.disk_usage(_existing(folder)).free
    remedy = f"free {_gb(wanted_bytes)} on the disk of {folder}, or choose a folder on another one"
    return Check("disk", free >= wanted_bytes, f"{_gb(free)} free", "" if free >= wanted_bytes else remedy)


def check_memory(available_bytes: int, wanted_bytes: int = MEMORY_BYTES) -> Check:
    """Memory that programs may still take."""
    ok = available_bytes >= wanted_bytes
    remedy = f"end other programs until {_gb(wanted_bytes)} are available, or give Spark's driver less memory"
    return Check("memory", ok, f"{_gb(available_bytes)} available", "" if ok else remedy)


def check_ports() -> Check:
    """Whether a server may listen on loopback, and be reached there."""
    remedy = f"allow connections to {HOST} (a firewall or a container's settings forbid them)"
    try:
        with socket.create_server((HOST, 0)) as server:
            server.settimeout(2.0)
            with socket.create_connection(server.getsockname(), timeout=2.0):
                server.accept()[0].close()
    except OSError as error:
        return Check("loopback", False, f"{HOST}: {error}", remedy)
    return Check("loopback", True, f"{HOST} can listen and connect")


def check_writable(name: str, folder: Path, remedy: str) -> Check:
    """Whether files can be made in a folder, or where it would be made."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Check(name, True, f"{folder} can be written")
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}", remedy)


def check_jars(cache: Path) -> Check:
    """Every jar in the cache, with the bytes that the lock names."""
    try:
        count = len(jars.broker_classpath(cache)) + len(jars.connector_jars(cache))
    except StreamingError as error:
        return Check("jars", False, str(error), "run `headrace setup` once while online")
    return Check("jars", True, f"{count} jars, all as locked")


def check_crc32c(has: Callable[[str], object] = importlib.util.find_spec) -> Check:
    """The package that computes Kafka's checksums in C."""
    if has("crc32c"):
        return Check("crc32c", True, "installed")
    return Check("crc32c", False, "missing: Kafka's client is about four times slower", "pip install crc32c")


def check_connector(pyspark: str | None, lock: jars.Lock | None = None) -> Check:
    """That Spark's Kafka connector in the lock is made for the installed pyspark."""
    connectors = [jar for jar in (lock or jars.read_lock()).connector if jar.org == "org.apache.spark"]
    wanted = connectors[0].version
    if pyspark is None:
        return Check("pyspark", False, "not installed", "pip install 'headrace[stream]'")
    ok = pyspark == wanted
    return Check(
        "pyspark", ok, pyspark, "" if ok else f"pip install pyspark=={wanted}: its connector is locked"
    )


def check_interpreter(pyspark_python: str | None, executable: str, path: str | None) -> Check:
    """That Spark's Python workers will run this environment, not the first python3 of the path."""
    if not pyspark_python:
        return Check(
            "workers' python",
            True,
            f"PYSPARK_PYTHON is not set; headrace's own commands set it, "
            f"for a plain spark-submit export PYSPARK_PYTHON={executable}",
        )
    found = shutil.which(pyspark_python, path=path)
    if found is not None and _prefix(found) == _prefix(executable):
        return Check("workers' python", True, found)
    return Check(
        "workers' python",
        False,
        f"PYSPARK_PYTHON={pyspark_python} is not this environment",
        f"export PYSPARK_PYTHON={executable}",
    )


def _prefix(executable: str) -> str:
    """The environment an interpreter belongs to; two links in one environment give the same."""
    asked = subprocess.run(
        [executable, "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, timeout=60
    )
    return asked.stdout.strip() if asked.returncode == 0 else f"{executable} does not run"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _gb(count_bytes: int) -> str:
    return f"{count_bytes / (1 << 30):.1f} GB"
