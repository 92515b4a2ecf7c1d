"""Run the Ivy that ships inside pyspark, by itself, to bring jars into a folder.

Used by `jars` alone. Ivy runs as its own short process with our settings file; its cache, its reports and
what it calls the user's folder stay inside the working folder: ~/.ivy2 and ~/.m2 are neither read nor written.

Not here: which jars, and whether their bytes are right; that is `jars`. Passwords for private repositories.
"""

import importlib.util
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

from headrace.streaming.errors import StreamingError

SETTINGS = Path(__file__).with_name("ivysettings.xml")

Coordinates = tuple[str, str, str]
"""Organisation, name, version."""


class ResolveFailed(StreamingError, ConnectionError):
    """Ivy could not bring the jars: no network, no such repository, or a full disk."""


class IvyMissing(StreamingError, FileNotFoundError):
    """pyspark, whose own Ivy does the resolving, is not installed."""


def run(
    entries: Iterable[Coordinates],
    working: Path,
    executable: Path,
    repository: str | None,
    *,
    transitive: bool,
) -> Path:
    """Resolve `entries` and return the folder, inside `working`, that holds them as name-version.jar.

    Args:
        working: an empty folder of this call alone.
        executable: the java to run Ivy with.
        repository: the root of a private Maven-layout repository; None takes Ivy's public default.
        transitive: read each module's POM and bring what it needs at run time; else bring the modules alone.

    Raises:
        ResolveFailed: Ivy ended with an error; the message quotes its first reason.
        IvyMissing: there is no pyspark to take Ivy from.
    """
    module = working / "ivy.xml"
    module.write_text(_module_file(entries, transitive=transitive), encoding="utf-8")
    out = working / "out"
    defines = {
        "ivy.cache.dir": working / "cache",
        "ivy.default.ivy.user.dir": working / "user",  # keeps Ivy out of the home folder
        "headrace.usepoms": "true" if transitive else "false",
    }
    if repository:
        defines |= {"headrace.resolver": "private", "headrace.repository": repository.rstrip("/") + "/"}
    command = [
        str(executable),
        *(f"-D{name}={value}" for name, value in defines.items()),
        *("-jar", str(ivy_jar()), "-settings", str(SETTINGS), "-ivy", str(module), "-confs", "default"),
        *("-retrieve", f"{out}/[artifact]-[revision].[ext]", "-warn"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=working)
    if ran.returncode != 0:
        raise ResolveFailed(
            f"Ivy could not fetch the jars ({_reason(ran.stdout + ran.stderr)}); a first start needs the "
            "network: check it and any proxy (JAVA_TOOL_OPTIONS=-Dhttps.proxyHost=…), name the root of a "
            "private repository, or copy a filled cache folder from another machine"
        )
    return out


def report(working: Path) -> tuple[Coordinates, ...]:
    """What the last `run` in `working` retrieved: only Ivy's own report knows each file's organisation."""
    tree = ElementTree.parse(working / "cache" / "headrace-jars-default.xml")
    return tuple(
        (module.attrib["organisation"], artifact.attrib["name"], revision.attrib["name"])
        for module in tree.iter("module")
        for revision in module.iter("revision")
        for artifact in revision.iter("artifact")
    )


def ivy_jar() -> Path:
    """The Ivy inside the installed pyspark, found without importing pyspark.

    Raises:
        IvyMissing: pyspark is not installed, or has no Ivy.
    """
    spec = importlib.util.find_spec("pyspark")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(place, "jars").glob("ivy-*.jar")):
            return found
    raise IvyMissing(
        "no ivy-*.jar in an installed pyspark; install the stream extra: pip install 'headrace[stream]'"
    )


def _module_file(entries: Iterable[Coordinates], *, transitive: bool) -> str:
    lines = [
        '<ivy-module version="2.0"><info organisation="headrace" module="jars"/>',
        '<configurations><conf name="default"/></configurations><dependencies>',
    ]
    for org, name, version in entries:
        coordinates = f"org={quoteattr(org)} name={quoteattr(name)} rev={quoteattr(version)}"
        if transitive:
            # Ivy's "runtime" of a POM leaves out the module's own jar ("master"); "default" has both.
            lines.append(f'<dependency {coordinates} conf="default->default"/>')
        else:
            lines.append(
                f'<dependency {coordinates} transitive="false" conf="default->*">'
                f'<artifact name={quoteattr(name)} type="jar" ext="jar"/></dependency>'
            )
    if not transitive:  # the broker and Spark want kafka-clients in two versions: let neither evict the other
        lines.append('<conflict org="*" module="*" manager="all"/>')
    return "\n".join([*lines, "</dependencies></ivy-module>"])


def _reason(output: str) -> str:
    """The line of Ivy's output that says most: a network error, else the first module that was not found."""
    lines = [line.strip(" \t:") for line in output.splitlines()]
    for word in ("Exception", "No space left", "download failed", "not found"):
        for line in lines:
            if word in line:
                return line
    return "it gave no reason"
