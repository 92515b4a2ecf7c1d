"""Find the Java that runs the broker and Ivy, or say in one sentence what to do when there is none that fits.

Used by `jars` (Ivy), `broker` (Kafka) and `doctor`. It looks in the folder it is given, else on the path it
is given; it installs nothing.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.streaming.errors import StreamingError

OLDEST = 17
"""Kafka 4.3 and Spark 4.2 both need Java 17."""


class JavaMissing(StreamingError, FileNotFoundError):
    """No Java where it was looked for."""


class JavaTooOld(StreamingError, RuntimeError):
    """A Java, but an older one than Kafka and Spark need."""


@dataclass(frozen=True)
class Java:
    """An executable `java` and its feature release, such as 17."""

    path: Path
    release: int


def find(java_home: str | Path | None = None, path: str | None = None) -> Java:
    """The Java to use: `java_home`/bin/java when a home is given, else the first `java` on `path`.

    Args:
        java_home: what JAVA_HOME says, or None.
        path: a search path as PATH holds it; None takes the process's own.

    Raises:
        JavaMissing: there is none, or it does not run.
        JavaTooOld: its release is below 17.
    """
    where: Path
    if java_home:
        where = Path(java_home) / "bin" / "java"
        if not where.is_file():
            raise JavaMissing(
                f"expected a JDK in the Java home {java_home}, but {where} does not exist; "
                f"point JAVA_HOME at a JDK {OLDEST} or newer, or unset it"
            )
    else:
        found = shutil.which("java", path=path)
        if found is None:
            raise JavaMissing(
                f"no java on the path and no Java home given; install a JDK {OLDEST} or newer "
                f"(Debian, Ubuntu: apt-get install openjdk-{OLDEST}-jdk-headless) or set JAVA_HOME"
            )
        where = Path(found)
    try:
        answer = subprocess.run([where, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise JavaMissing(f"{where} does not run ({error}); point JAVA_HOME at a working JDK") from error
    release = _release(answer.stderr + answer.stdout)
    if release is None:
        raise JavaMissing(
            f"{where} -version does not answer like a Java; point JAVA_HOME at a JDK {OLDEST} or newer"
        )
    if release < OLDEST:
        raise JavaTooOld(
            f"expected Java {OLDEST} or newer, found Java {release} at {where}; "
            f"install a JDK {OLDEST} and point JAVA_HOME at it"
        )
    return Java(path=where, release=release)


def _release(text: str) -> int | None:
    """The feature release in what `java -version` prints; before Java 9 the text said 1.8 for 8."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None
