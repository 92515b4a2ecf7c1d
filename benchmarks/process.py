"""The harness's side of one contestant: start its process, let it run once, count its CPU seconds, end it.

The process leads a session of its own and is followed by its whole tree: Spark's JVM and Python workers belong to the
contestant that started them. What speaks on its standard output besides the protocol's JSON objects is ignored; standard
error goes to a log file that failures name.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

import psutil

from benchmarks.case import Json, Repetition

ROOT = Path(__file__).resolve().parents[1]
CLOSE_S = 5.0
REASON_CHARS = 160


def environment() -> dict[str, str]:
    """This process's environment, but that Python keeps its byte code.

    Rivals were installed by pip, which compiles them; ours runs from the checkout, and where byte code is never written it
    would be compiled anew by every process, in the time of its first read.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class ContestantFailed(Exception):
    """The contestant said so, ended, or did not answer in time."""

    @property
    def line(self) -> str:
        """What its cell says: the text's first line, the last where it holds a traceback. The log has all of it."""
        lines = str(self).strip().splitlines() or ["no reason given"]
        traced = any("Traceback (most recent call last)" in line for line in lines)
        line = (lines[-1] if traced else lines[0]).strip()
        return line if len(line) <= REASON_CHARS else line[: REASON_CHARS - 1] + "…"


class TimedOut(ContestantFailed):
    """It did not answer in time."""


class Process:
    """A running contestant.

    Args:
        command: the interpreter and its arguments, run in the project's root folder.
        log: receives standard error, appended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        self._closed = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the harness, which then ends its contestants
                text=True,
                errors="replace",
            )
        self._tree = psutil.Process(self._process.pid)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_s: float) -> None:
        """Return once it waits for its next turn.

        Raises:
            ContestantFailed: it never will.
        """
        self._answer("ready", timeout_s)

    def repeat(self, timeout_s: float) -> Repetition:
        """Let it run once; the caller awaits ``wait_ready`` before and after.

        Raises:
            ContestantFailed: there is no result.
        """
        assert self._process.stdin is not None
        load_before, cpu_before = os.getloadavg()[0], self._cpu_s()
        with suppress(BrokenPipeError):  # it has ended: the answer says why
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        answer = self._answer("wall_s", timeout_s)
        return Repetition(
            wall_s=float(answer["wall_s"]),
            cpu_s=self._cpu_s() - cpu_before,
            values=_numbers(answer.get("values", {})),
            parts=_numbers(answer.get("parts", {})),
            load_before=load_before,
            load_after=os.getloadavg()[0],
        )

    def dismiss(self) -> None:
        """Ask it to end by itself; the caller closes it soon."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self, grace_s: float = CLOSE_S) -> None:
        """Let it end by itself, then end what is left of its tree. A second call does nothing."""
        if self._closed:
            return
        tree = self._members()
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        for member in {*tree, *self._members()}:
            with suppress(psutil.NoSuchProcess):  # psutil never signals a pid that was reused meanwhile
                member.kill()
        self._process.wait()
        self._closed = True
        self._reader.join(CLOSE_S)
        assert self._process.stdout is not None
        if not self._reader.is_alive():  # else a process that left the tree holds the pipe
            self._process.stdout.close()

    def _answer(self, wanted: str, timeout_s: float) -> dict[str, Json]:
        """The next protocol message that has the key ``wanted``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimedOut(f"no answer within {timeout_s:.0f} s") from None
            if line is None:
                raise ContestantFailed(self._how_it_ended())
            message = _message(line)
            if "failed" in message:
                raise ContestantFailed(str(message["failed"]))
            if wanted in message:
                return message

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            return f"closed its standard output but lives on; see {self._log.name}"
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 4096))
            lines = [
                line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()
            ]
        return f"ended with code {code}: {lines[-1] if lines else 'it said nothing'}"

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._tree, *self._tree.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _cpu_s(self) -> float:
        """User and system seconds of the tree so far, with those of its members that ended and were waited for."""
        total = 0.0
        for member in self._members():
            with suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


def _message(line: str) -> dict[str, Json]:
    """The protocol message in ``line``; empty for noise."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return cast("dict[str, Any]", message) if isinstance(message, dict) else {}


def _numbers(values: Mapping[str, Json]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
