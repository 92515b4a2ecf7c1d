"""The runner's side of a race: wait for "go", run once, answer with one JSON line; standard library only.

    harness                         runner
    (starts the process)            prepare()          {"ready": true}
    go                              run()    (timed)   {"wall_s": 1.2, "values": {…}, "parts": {…}}
                                    finish(), prepare()  {"ready": true}
    (closes stdin)                  close()

Between its answer "ready" and the next "go" a contestant does nothing, so that others run undisturbed. A failure is answered
with ``{"failed": "reason"}``. The real standard output is kept for these lines; whatever else the process, its libraries or
its child processes print goes to standard error, which the harness keeps as a log.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

Args = Mapping[str, Any]
"""The JSON object on the runner's command line."""


@dataclass(frozen=True)
class Result:
    """What one repetition counted (``values``) and, where known, its seconds by phase (``parts``)."""

    values: Mapping[str, float]
    parts: Mapping[str, float] = field(default_factory=dict)


class Runner:
    """One contestant; only ``run`` is timed."""

    def prepare(self) -> None:
        """Before each repetition: fresh folders, nothing cached that should not be."""

    def run(self) -> Result:
        """One repetition."""
        raise TypeError(f"{type(self).__name__} has no run(); every runner defines one")

    def finish(self) -> None:
        """After each repetition: check what was done (raise if it is wrong), clean up."""

    def close(self) -> None:
        """At the end."""


def quickest(call: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of ``times`` calls, for work of milliseconds: one turn holds many. Results are let go untimed."""
    least_s = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        result = call()
        least_s = min(least_s, time.perf_counter() - began)
        del result
    return least_s


def serve(start: Callable[[Args], Runner]) -> None:
    """Be the contestant that ``start`` makes from the command line's arguments, until the harness closes stdin."""
    answers = _claim_stdout()
    try:
        runner = start(json.loads(sys.argv[1]))
        try:
            _take_turns(runner, answers)
        finally:
            runner.close()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this contestant's cell
        traceback.print_exc()
        _answer(answers, {"failed": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def _take_turns(runner: Runner, answers: TextIO) -> None:
    runner.prepare()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        if line.strip() != "go":
            raise ValueError(f"expected 'go' on stdin, got {line!r}")
        began = time.perf_counter()
        result = runner.run()
        wall_s = time.perf_counter() - began
        _answer(answers, {"wall_s": wall_s, "values": dict(result.values), "parts": dict(result.parts)})
        runner.finish()
        runner.prepare()
        _answer(answers, {"ready": True})


def _claim_stdout() -> TextIO:
    """Keep the pipe to the harness for ourselves and give everyone else, child processes too, standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, message: Mapping[str, Any]) -> None:
    try:
        # The line break first: whatever was printed before this pipe was ours may have ended in the middle of a line.
        print(f"\n{json.dumps(message)}", file=answers, flush=True)
    except BrokenPipeError:
        sys.exit(1)  # the harness is gone
