"""The embedded broker: starts, is found again, keeps its data, ends with its owner, and blames the right thing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

from headrace.streaming import broker, jars, java, kraft, processes, source
from headrace.streaming.broker import EmbeddedBroker, Settings
from headrace.streaming.producer import Producer

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def classpath() -> tuple[Path, ...]:
    cache = jars.cache_folder(os.environ)
    jars.resolve(cache)
    return jars.broker_classpath(cache)


@pytest.fixture(scope="module")
def real_java() -> Path:
    return java.find(os.environ.get("JAVA_HOME")).path


def wait_until(holds: object, within_s: float = 20.0) -> bool:
    """Ask `holds()` until it is true; whether it became so."""
    assert callable(holds)
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_start_status_restart_stop(tmp_path: Path, classpath: tuple[Path, ...], real_java: Path) -> None:
    data = tmp_path / "Staubecken α"  # a blank and letters beyond ASCII, as folders have them
    assert broker.status(data) is None
    with ThreadPoolExecutor(2) as both:  # two starts at once agree on one broker
        states = list(both.map(lambda _: broker.start(data, classpath, real_java), range(2)))
    state = states[0]
    try:
        assert states[1] == state == broker.status(data) == broker.start(data, classpath, real_java)
        listening = [c.laddr.ip for c in psutil.Process(state.pid).net_connections() if c.status == "LISTEN"]
        assert len(listening) == 2
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        assert source.create_topics(state.bootstrap, {"kept": 1}) == ("kept",)
        with Producer(state.bootstrap, topic="kept") as producer:
            producer.send_raw(b"k", b"survives a restart")
        assert broker.stop(data)
        assert not psutil.pid_exists(state.pid) or not processes.lives(state.pid, state.started_s)
        assert broker.status(data) is None
        assert not broker.stop(data)
        state = broker.start(data, classpath, real_java)
        assert [message.value for message in source.read(state.bootstrap, "kept")] == [b"survives a restart"]
    finally:
        broker.stop(data)
    assert "Kafka Server started" in broker.log_file(data).read_text()


_OWNER = """
import sys, time
from pathlib import Path
from headrace.streaming.broker import EmbeddedBroker
data, java, *classpath = map(Path, sys.argv[1:])
with EmbeddedBroker(data, classpath, java) as broker:
    print(broker.bootstrap, flush=True)
    time.sleep(600)
"""


def start_owner(data: Path, classpath: tuple[Path, ...], real_java: Path) -> subprocess.Popen[str]:
    """A process of its own that holds a demo-style broker."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(data), str(real_java), *map(str, classpath)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("127.0.0.1:")
    return owner


def end(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()


def test_no_broker_outlives_a_killed_owner(
    tmp_path: Path, classpath: tuple[Path, ...], real_java: Path
) -> None:
    owner = start_owner(tmp_path, classpath, real_java)
    try:
        state = broker.status(tmp_path)
        assert state is not None
        assert state.owner_pid == owner.pid
    finally:
        end(owner)  # SIGKILL: no handler, no exit hook
    assert wait_until(lambda: not processes.lives(state.pid, state.started_s))
    assert wait_until(lambda: not warden_of(tmp_path))

    # Worse: the warden is killed first, so that nobody is left to end the broker; the next start does.
    owner = start_owner(tmp_path, classpath, real_java)
    try:
        orphan = broker.status(tmp_path)
        assert orphan is not None
        (warden,) = warden_of(tmp_path)
        warden.kill()
    finally:
        end(owner)
    time.sleep(0.3)
    assert processes.lives(orphan.pid, orphan.started_s)
    (tmp_path / "broker.json").unlink()  # even when the owner died before it wrote this
    with EmbeddedBroker(tmp_path, classpath, real_java) as fresh:
        assert not processes.lives(orphan.pid, orphan.started_s)
        state = broker.status(tmp_path)
        assert state is not None
        assert state.pid != orphan.pid
        assert state.owner_pid == os.getpid()
        assert broker.answers(state.port)
        assert fresh.bootstrap == state.bootstrap
    assert broker.status(tmp_path) is None
    with pytest.raises(broker.BrokerFailed, match="with block"):
        _ = fresh.bootstrap


def warden_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if str(processes.WARDEN) in line[:5] and line[-1] == str(kraft.settings_file(folder)):
            found.append(process)
    return found


def fake_java(folder: Path, format_script: str = "exit 0", run_script: str = "exit 0") -> Path:
    """A java that formats and runs as the scripts say; `$last` is the last argument, the settings file."""
    path = folder / "fake-java"
    path.write_text(
        "#!/bin/sh\n"
        'for last in "$@"; do :; done\n'
        'case " $* " in\n'
        f'*StorageTool*) mkdir -p "$(dirname "$last")/logs.new"; {format_script} ;;\n'
        f"*) {run_script} ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path


def test_a_format_that_fails_is_quoted(tmp_path: Path) -> None:
    failing = fake_java(tmp_path, format_script="echo 'Exception: no such feature'; exit 1")
    with pytest.raises(
        broker.BrokerFailed, match=r"format its folder: Exception: no such feature.*broker\.log"
    ):
        broker.start(tmp_path / "data", (), failing)
    assert not kraft.is_formatted(tmp_path / "data")


def test_a_broker_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    dying = fake_java(tmp_path, run_script="echo 'Fatal error: cannot do it' >&2; echo bye; exit 3")
    with pytest.raises(broker.BrokerFailed, match=r"could not start: Fatal error: cannot do it.*broker\.log"):
        broker.start(tmp_path / "data", (), dying)
    assert broker.status(tmp_path / "data") is None


@pytest.mark.parametrize("detached", [True, False])
def test_a_broker_that_never_answers_is_ended(tmp_path: Path, detached: bool) -> None:
    # Not `exec`: the shell must go on to be the broker, as its command line says.
    hanging = fake_java(
        tmp_path, run_script="echo $$ > " + str(tmp_path / "pid") + "; while :; do sleep 0.1; done"
    )
    settings = Settings(timeout_s=2.0)
    attached = EmbeddedBroker(tmp_path / "data", (), hanging, settings)
    with pytest.raises(broker.BrokerSlow, match=r"did not answer on port \d+ within 2 s.*broker\.log"):
        _ = broker.start(attached.data, (), hanging, settings) if detached else attached.__enter__()
    pid = int((tmp_path / "pid").read_text())
    assert not processes.lives(pid, None)
    assert broker.status(tmp_path / "data") is None


def test_a_port_that_is_lost_is_looked_for_again(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    unlucky = fake_java(tmp_path, run_script=f"echo x >> {tries}; echo 'Address already in use'; exit 1")
    with pytest.raises(broker.PortBusy, match="choose another port"):
        broker.start(tmp_path / "data", (), unlucky)
    assert tries.read_text().count("x") == 3


def test_a_full_disk_while_it_runs_is_named(tmp_path: Path) -> None:
    full = fake_java(tmp_path, run_script="echo 'IOException: No space left on device'; exit 1")
    with pytest.raises(broker.DiskFull, match=r"disk of .* is full"):
        broker.start(tmp_path / "data", (), full)


def test_too_little_room_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(broker.DiskFull, match="free some room"):
        broker.start(tmp_path, (), tmp_path / "java", Settings(free_bytes=1 << 60))
    assert not kraft.settings_file(tmp_path).exists()


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(broker.PortBusy, match=rf"port {port} .* choose another one"):
            broker.start(tmp_path, (), tmp_path / "java", Settings(port=port))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(broker.DataUnwritable, match=r"cannot be written \(Not a directory\)"):
        broker.start(file / "data", (), tmp_path / "java")
    with pytest.raises(broker.DataUnwritable, match="comma"):
        broker.start(tmp_path / "a,b", (), tmp_path / "java")


def test_a_stranger_with_a_remembered_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        started_s = processes.started_s(stranger.pid)
        assert started_s is not None
        state = broker.State(stranger.pid, started_s, 9092)
        (tmp_path / "broker.json").write_bytes(msgspec.json.encode(state))
        assert broker.status(tmp_path) is None
        assert not broker.stop(tmp_path)
        assert stranger.poll() is None
        # Nor is a broker taken for the recorded one when its start time differs.
        assert not processes.lives(stranger.pid, started_s - 60)
        assert processes.lives(stranger.pid, started_s)
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()
    assert not processes.lives(stranger.pid, started_s)


def test_a_state_file_that_cannot_be_read_is_no_broker(tmp_path: Path) -> None:
    (tmp_path / "broker.json").write_text("{")
    assert broker.status(tmp_path) is None
    assert replace(broker.State(1, 2.0, 3), port=4).bootstrap == "127.0.0.1:4"


def test_an_open_port_is_no_answer() -> None:
    def hang_up(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.recv(1)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up, args=(server,))
        thread.start()
        assert not broker.answers(server.getsockname()[1])
        thread.join()
        port = server.getsockname()[1]
    assert not broker.answers(port)
