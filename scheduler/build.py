"""Compiles the plugin's jar against the Spark of this environment: ``python -m headrace.scheduler.build``.

In the flow: ``setup.py`` calls ``build`` where pyspark is at hand; a person calls it after installing pyspark later. It needs
a JDK, no build tool and no network. The same sources and Spark give the same bytes.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "jvm" / "src"
JAR = HERE / "jars" / "headrace-scheduler.jar"
_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the earliest a jar can say: the bytes must not depend on when they were built


def spark_jars() -> Path | None:
    """The folder of the installed pyspark's jars; ``None`` where there is no pyspark."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "jars"
    return folder if folder.is_dir() else None


def is_stale(jar: Path = JAR, sources: Path = SOURCES) -> bool:
    """Whether the jar is missing or older than a source."""
    newest = max(path.stat().st_mtime for path in sources.rglob("*.java"))
    return not jar.exists() or jar.stat().st_mtime < newest


def build(spark: Path, jar: Path = JAR, sources: Path = SOURCES) -> None:
    """Compile ``sources`` against the jars in ``spark`` and write ``jar``, whole or not at all.

    Raises:
        RuntimeError: there is no ``javac``, or it refused; the message holds what it said.
    """
    javac = shutil.which("javac")
    if javac is None:
        raise RuntimeError("expected javac on the path, found none; install a JDK 17 (a JRE is not enough)")
    files = sorted(sources.rglob("*.java"))
    with tempfile.TemporaryDirectory() as scratch:
        options = [
            "--release",
            "17",
            "-Xlint:all,-path,-classfile,-processing",
            "-Werror",
            "-cp",
            f"{spark}/*",
        ]
        done = subprocess.run(
            [javac, *options, "-d", scratch, *map(str, files)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"javac refused the scheduler's sources against '{spark}':\n{done.stderr}")
        jar.parent.mkdir(parents=True, exist_ok=True)
        fresh = jar.with_suffix(".new")
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", _EPOCH), "Manifest-Version: 1.0\r\n\r\n")
            for path in sorted(Path(scratch).rglob("*.class")):
                archive.writestr(
                    zipfile.ZipInfo(str(path.relative_to(scratch)), _EPOCH),
                    path.read_bytes(),
                    zipfile.ZIP_DEFLATED,
                )
        fresh.replace(jar)


def main() -> int:
    """Build the jar anew; 1 where that is not possible, with one sentence."""
    spark = spark_jars()
    if spark is None:
        sys.stderr.write("expected pyspark in this environment, found none; install headrace[spark] first\n")
        return 1
    try:
        build(spark)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"wrote {JAR}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
