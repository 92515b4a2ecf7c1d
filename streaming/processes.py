"""Which process is the broker of a folder, whether it lives, and its end.

Used by `broker` alone. A process counts as a broker of ours only by its whole tail of a command line, and as the
*same* process only with its start time; psutil then refuses to signal a pid that was reused in between.

Not here: starting anything.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from headrace.streaming import kraft

WARDEN = Path(__file__).with_name("warden.py")


def is_broker(folder: Path, pid: int, started_s: float) -> bool:
    """Whether the process of that pid and start time (Unix seconds) runs a broker on this folder."""
    return lives(pid, started_s) and _runs_broker(psutil.Process(pid), folder)


def lives(pid: int, started_s: float | None) -> bool:
    """Whether that very process is still there; a second of difference allows for a clock that was set."""
    try:
        process = psutil.Process(pid)
        same = started_s is None or abs(process.create_time() - started_s) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def started_s(pid: int) -> float | None:
    """A process's start time in Unix seconds, or None when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def end_brokers(folder: Path, timeout_s: float, started: tuple[int, float] | None = None) -> bool:
    """SIGTERM, and SIGKILL after `timeout_s`, for every broker of this folder; False when there was none.

    Args:
        started: pid and start time of one that began just now, whose command line may not show yet.
    """
    found = set(_brokers_of(folder))
    if started is not None and lives(*started):
        found.add(psutil.Process(started[0]))
    for end in (psutil.Process.terminate, psutil.Process.kill):
        deadline_s = time.monotonic() + timeout_s
        for process in found:
            with suppress(psutil.NoSuchProcess):
                end(process)
        while any(_alive(process) for process in found) and time.monotonic() < deadline_s:
            time.sleep(0.05)
    return bool(found)


def _brokers_of(folder: Path) -> Iterator[psutil.Process]:
    """Every live broker of this folder, recorded in a state file or not."""
    for process in psutil.process_iter():
        if _runs_broker(process, folder):
            yield process


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _runs_broker(process: psutil.Process, folder: Path) -> bool:
    """By command line; a warden's ends the same way, but it names the warden's script early."""
    try:
        line: list[str] = process.cmdline()
        gone = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    ours = line[-2:] == [kraft.MAIN, str(kraft.settings_file(folder))]
    return ours and str(WARDEN) not in line[:5] and not gone
