"""A real Apache Kafka for demos, tests and a laptop: one KRaft node as a plain JVM process, on loopback only.

Where in the flow: before it. Everything else knows Kafka only by its bootstrap address, and a real cluster takes
this module's place without another change. One data folder holds one broker: its topics, `broker.log`, its
settings and a state file. `start` is safe to call twice (the running broker is returned), and it first ends what
a killed owner may have left on the same folder.

Two ways to run: detached (`start`) lives until `stop`; `EmbeddedBroker` ends with the process that entered it, even
by `kill -9` (see `warden`). A process is taken for a broker of ours only when its command line ends in the path
of this folder's own settings file, never by a remembered pid alone.

Not here: replication, TLS, authentication, several nodes. Topics and offsets are `source`'s, jars are `jars`'s.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from headrace.streaming import kraft, processes
from headrace.streaming.errors import StreamingError
from headrace.streaming.locks import exclusive
from headrace.streaming.source import create_topics, end_offsets

__all__ = [
    "BrokerFailed",
    "BrokerSlow",
    "DataUnwritable",
    "DiskFull",
    "EmbeddedBroker",
    "PortBusy",
    "Settings",
    "State",
    "answers",
    "create_topics",
    "end_offsets",
    "log_file",
    "start",
    "status",
    "stop",
]

_PORT_TRIES = 3


class BrokerFailed(StreamingError, RuntimeError):
    """The broker ended while it started; the message quotes its log and names the file."""


class BrokerSlow(StreamingError, TimeoutError):
    """The broker runs but did not answer in time; it was ended."""


class PortBusy(StreamingError, OSError):
    """Another process listens on the port that was asked for."""


class DataUnwritable(StreamingError, PermissionError):
    """The broker's data folder cannot be made or written."""


class DiskFull(StreamingError, OSError):
    """Too little room for the broker's data."""


@dataclass(frozen=True)
class State:
    """A broker of one data folder, as its state file records it.

    `started_s` is the process's own start time (Unix seconds): with the pid it names one process for ever.
    `owner_pid` and `owner_started_s` name the process it ends with, or are None when it is detached.
    """

    pid: int
    started_s: float
    port: int
    owner_pid: int | None = None
    owner_started_s: float | None = None

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"{kraft.HOST}:{self.port}"


_STATE = msgspec.json.Decoder(State)


@dataclass(frozen=True)
class Settings:
    """What may differ between two embedded brokers.

    Attributes:
        port: 0 takes any free one.
        heap_mb: the JVM's largest heap; 64 boots, 256 serves a demo.
        retention_bytes: kept per partition, in segments of 64 MB.
        timeout_s: how long a start may take until the broker answers.
        free_bytes: a start wants this much room on the data folder's disk.
    """

    port: int = 0
    heap_mb: int = 256
    retention_bytes: int = 1 << 30
    timeout_s: float = 60.0
    free_bytes: int = 512 << 20


@dataclass
class EmbeddedBroker:
    """A broker for the length of a `with` block: it ends with the block, or with this process.

    When the data folder's broker already runs, that one is used and left running at the end.

    >>> with EmbeddedBroker(Path("kafka"), classpath, java) as broker:  # doctest: +SKIP
    ...     print(broker.bootstrap)
    127.0.0.1:40123
    """

    data: Path
    classpath: Sequence[Path]
    java: Path
    settings: Settings = Settings()
    _state: State | None = field(default=None, init=False)
    _warden: "subprocess.Popen[str] | None" = field(default=None, init=False)

    @property
    def bootstrap(self) -> str:
        """host:port for clients; only inside the `with` block.

        Raises:
            BrokerFailed: outside of it.
        """
        if self._state is None:
            raise BrokerFailed(f"the broker of {self.data} is not started; use it inside its with block")
        return self._state.bootstrap

    def __enter__(self) -> "EmbeddedBroker":
        self._state, self._warden = _start(
            self.data, self.classpath, self.java, self.settings, detached=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        warden, self._warden, self._state = self._warden, None, None
        if warden is not None:  # else it ran before, and is not ours to end
            stop(self.data)
            _dismiss(warden)


def start(data: Path, classpath: Sequence[Path], java: Path, settings: Settings | None = None) -> State:
    """Start a detached broker, or return the one that already runs on this data folder.

    Args:
        data: the broker's own folder, made when absent. What it held before is served again.
        classpath: `jars.broker_classpath(cache)`.
        java: an executable java of release 17 or newer, from `java.find`.

    Raises:
        PortBusy, DataUnwritable, DiskFull: nothing was started; the message says what to do.
        BrokerFailed, BrokerSlow: it was started and has ended again; the message names the log.
    """
    return _start(data, classpath, java, settings or Settings(), detached=True)[0]


def status(data: Path) -> State | None:
    """The broker process of this data folder, or None; `answers` tells whether it serves."""
    folder = data.absolute()
    state = _read_state(folder)
    return state if state is not None and processes.is_broker(folder, state.pid, state.started_s) else None


def stop(data: Path, timeout_s: float = 20.0) -> bool:
    """End the broker of this data folder: SIGTERM, then SIGKILL after `timeout_s`; False when none ran."""
    folder = data.absolute()
    if not folder.is_dir():
        return False
    with exclusive(folder / ".start.lock"):
        return _end(folder, timeout_s)


def log_file(data: Path) -> Path:
    """Where the broker of this data folder writes what goes wrong."""
    return data.absolute() / "broker.log"


def answers(port: int, timeout_s: float = 1.0) -> bool:
    """Whether a Kafka on this loopback port answers a metadata request and counts itself as a live broker.

    An open port alone says little: the listener is up before the node may serve.
    """
    # Metadata, version 1, no topics: api key 3, version, correlation id, null client id, empty array.
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection((kraft.HOST, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                _, _, brokers = struct.unpack(">iii", stream.read(12))
    except (OSError, struct.error):
        return False
    return bool(brokers >= 1)


def _start(
    data: Path, classpath: Sequence[Path], java: Path, settings: Settings, *, detached: bool
) -> tuple[State, "subprocess.Popen[str] | None"]:
    """The state, and the warden that was started for it (None: detached, or it ran already)."""
    folder = data.absolute()
    _prepare(folder, settings)
    with exclusive(folder / ".start.lock"):
        running = _usable(folder)
        if running is not None:
            return running, None
        _end(folder, timeout_s=10.0)  # what a killed owner or an interrupted start left behind
        if settings.port:
            _require_free(settings.port)
        for attempt in range(1, _PORT_TRIES + 1):
            try:
                return _launch(folder, classpath, java, settings, detached=detached)
            except PortBusy:  # someone took the port between our look and the broker's own
                if settings.port or attempt == _PORT_TRIES:
                    raise
    raise AssertionError("the last attempt returned or raised")


def _prepare(folder: Path, settings: Settings) -> None:
    if "," in str(folder):
        raise DataUnwritable(f"Kafka splits its folders at commas; choose a data folder without: {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".start.lock").touch()
    except OSError as error:
        raise DataUnwritable(
            f"the broker's data folder {folder} cannot be written ({error.strerror}); choose another one"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < settings.free_bytes:
        raise DiskFull(
            f"the broker wants {settings.free_bytes >> 20} MB free for {folder}, its disk has {free >> 20} MB; "
            "free some room or choose a data folder on another disk"
        )


def _usable(folder: Path) -> State | None:
    """The running broker when it answers and its owner, if it has one, still lives."""
    state = _read_state(folder)
    if state is None or not processes.is_broker(folder, state.pid, state.started_s):
        return None
    if state.owner_pid is not None and not processes.lives(state.owner_pid, state.owner_started_s):
        return None  # its warden is about to end it
    return state if any(answers(state.port) for _ in range(3)) else None


def _launch(
    folder: Path, classpath: Sequence[Path], java: Path, settings: Settings, *, detached: bool
) -> tuple[State, "subprocess.Popen[str] | None"]:
    port, controller_port = settings.port or _free_port(), _free_port()
    kraft.write_settings(folder, port, controller_port, settings.retention_bytes)
    log = log_file(folder)
    if not kraft.is_formatted(folder):
        try:
            kraft.format_storage(folder, java, classpath, port, controller_port)
        except subprocess.CalledProcessError as error:
            raise _failure(str(error.output), "format its folder", log, port) from error
    seen_bytes = log.stat().st_size if log.exists() else 0
    command = kraft.broker_command(folder, java, classpath, settings.heap_mb)
    warden = _run_warden(command, log, detached=detached)
    state = None
    try:
        state = _first_state(warden, port, detached=detached)
        if state is not None:
            _write_state(folder, state)
            deadline_s = time.monotonic() + settings.timeout_s
            # Not by its command line, which the kernel shows empty for a moment after it began.
            while processes.lives(state.pid, state.started_s):
                if answers(port):
                    return state, None if detached else warden
                if time.monotonic() > deadline_s:
                    raise BrokerSlow(
                        f"the broker did not answer on port {port} within {settings.timeout_s:.0f} s; "
                        f"give it more time or look into {log}"
                    )
                time.sleep(0.05)
        with log.open("rb") as stream:
            stream.seek(seen_bytes)
            raise _failure(stream.read().decode(errors="replace"), "start", log, port)
    except BaseException:  # Ctrl-C too: no half-started broker stays behind
        _end(folder, timeout_s=5.0, state=state)
        _dismiss(warden)
        raise


def _run_warden(command: list[str], log: Path, *, detached: bool) -> "subprocess.Popen[str]":
    mode = "detached" if detached else "attached"
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(processes.WARDEN), mode, *command],
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # Ctrl-C in a terminal is for the owner, who then stops the broker in order
            text=True,
        )


def _first_state(warden: "subprocess.Popen[str]", port: int, *, detached: bool) -> State | None:
    """The new broker's state, or None when it is gone already."""
    assert warden.stdout is not None
    with warden.stdout as stream:
        line = stream.read()  # the warden closes it after the pid
    if detached:
        warden.wait()
    if not line.strip():
        return None
    pid, owner = int(line), None if detached else os.getpid()
    started_s = processes.started_s(pid)
    if started_s is None:
        return None
    return State(pid, started_s, port, owner, owner and processes.started_s(owner))


def _dismiss(warden: "subprocess.Popen[str]") -> None:
    """Let a warden go: its broker has ended, or ends when this closes the pipe."""
    if warden.stdin is not None:
        with suppress(BrokenPipeError):
            warden.stdin.close()
    warden.wait()


def _failure(text: str, task: str, log: Path, port: int) -> StreamingError:
    """The error that says best why a broker that wrote `text` could not do its task."""
    if "Address already in use" in text:
        return PortBusy(f"port {port} was taken while the broker started; choose another port, or 0 for any")
    if "No space left on device" in text:
        return DiskFull(f"the disk of {log.parent} is full; free some room or choose a data folder elsewhere")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if "Exception" in line or "rror" in line), None)
    reason = telling or (lines[-1] if lines else "it said nothing")
    return BrokerFailed(f"the broker could not {task}: {reason}; the whole story is in {log}")


def _end(folder: Path, timeout_s: float, state: State | None = None) -> bool:
    started = None if state is None else (state.pid, state.started_s)
    ended = processes.end_brokers(folder, timeout_s, started)
    _state_file(folder).unlink(missing_ok=True)
    return ended


def _state_file(folder: Path) -> Path:
    return folder / "broker.json"


def _read_state(folder: Path) -> State | None:
    try:
        return _STATE.decode(_state_file(folder).read_bytes())
    except (OSError, msgspec.DecodeError):  # none, or not ours: the process list is asked instead
        return None


def _write_state(folder: Path, state: State) -> None:
    fresh = folder / "broker.json.new"
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(_state_file(folder))


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((kraft.HOST, port))
        except OSError as error:
            raise PortBusy(
                f"port {port} on {kraft.HOST} is not free ({error.strerror}); choose another one, or 0 for any"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((kraft.HOST, 0))
        port: int = probe.getsockname()[1]
        return port
