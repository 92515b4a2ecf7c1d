"""The files that one KRaft node reads, and the commands that format and run it.

Used by `broker` alone. Everything here is a function of the data folder, two ports and a few numbers; nothing is
started except `format_storage`, which runs Kafka's own StorageTool to its end.

Not here: processes, states and ports; those are `broker`'s.
"""

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

HOST = "127.0.0.1"
MAIN = "kafka.Kafka"
"""The class whose name, with the settings file after it, ends the command line of every broker of ours."""

_STORAGE_TOOL = "kafka.tools.StorageTool"

# One node holds every replica, so each internal topic must be content with one; few threads and partitions, since
# this node shares its cores with Spark; the cleaner's buffer would by default be half of the heap.
_SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=2
background.threads=2
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
log.retention.bytes={retention_bytes}
log.retention.check.interval.ms=30000
"""

_LOG4J = """\
status=ERROR
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.1
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c{{1}})%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=16MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
logger.server.name=kafka.server
logger.server.level=INFO
"""


def settings_file(folder: Path) -> Path:
    """The last argument of a broker's command line; it marks a process as the broker of this folder."""
    return folder / "server.properties"


def is_formatted(folder: Path) -> bool:
    """Whether this folder holds a formatted node."""
    return (_logs(folder) / "meta.properties").is_file()


def write_settings(folder: Path, port: int, controller_port: int, retention_bytes: int) -> None:
    """Write server.properties and log4j2.properties anew; the ports may differ from start to start."""
    _write_server(settings_file(folder), _logs(folder), port, controller_port, retention_bytes)
    log = _escaped(folder / "broker.log")
    _log4j_file(folder).write_text(_LOG4J.format(log=log), encoding="latin-1")


def format_storage(
    folder: Path, java: Path, classpath: Sequence[Path], port: int, controller_port: int
) -> None:
    """Give an unformatted folder a cluster id; an interrupted format leaves it unformatted.

    Raises:
        subprocess.CalledProcessError: the tool failed; its output says why.
    """
    fresh = (
        folder / "logs.new"
    )  # formatted aside, then renamed: meta.properties is not the last file it writes
    shutil.rmtree(fresh, ignore_errors=True)
    config = folder / "format.properties"
    _write_server(config, fresh, port, controller_port, retention_bytes=-1)
    cluster = "-"
    while cluster.startswith("-"):  # the tool would read it as an option
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    arguments = [_STORAGE_TOOL, "format", "-t", cluster, "-c", str(config)]
    subprocess.run(
        _java_command(folder, java, classpath, heap_mb=96) + arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    fresh.rename(_logs(folder))
    config.unlink()


def broker_command(folder: Path, java: Path, classpath: Sequence[Path], heap_mb: int) -> list[str]:
    """The command that runs the node in the foreground."""
    return [*_java_command(folder, java, classpath, heap_mb), MAIN, str(settings_file(folder))]


def _java_command(folder: Path, java: Path, classpath: Sequence[Path], heap_mb: int) -> list[str]:
    return [
        str(java),
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",  # one collector thread and one compiler tier: the cores belong to Spark
        "-XX:TieredStopAtLevel=1",
        "-Djava.awt.headless=true",
        "-Djava.net.preferIPv4Stack=true",
        f"-Dlog4j2.configurationFile={_log4j_file(folder).as_uri()}",
        "-cp",
        os.pathsep.join(str(jar) for jar in classpath),
    ]


def _write_server(path: Path, logs: Path, port: int, controller_port: int, retention_bytes: int) -> None:
    text = _SERVER.format(
        host=HOST,
        port=port,
        controller_port=controller_port,
        logs=_escaped(logs),
        retention_bytes=retention_bytes,
    )
    path.write_text(text, encoding="latin-1")


def _logs(folder: Path) -> Path:
    return folder / "logs"


def _log4j_file(folder: Path) -> Path:
    return folder / "log4j2.properties"


def _escaped(path: Path) -> str:
    """A path as a value of a Java properties file, which is Latin-1 with \\uXXXX for the rest."""
    units = str(path).replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)
