"""A contestant that needs a millisecond, notes its turns in a file, and misbehaves when told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.runners.protocol import Args, Result, Runner, serve


class Fake(Runner):
    def __init__(self, args: Args) -> None:
        self.args = args
        self.turns = 0
        self.note("start")

    def note(self, what: str) -> None:
        with Path(self.args["notes"]).open("a") as notes:
            notes.write(f"{self.args['name']} {what}\n")

    def run(self) -> Result:
        self.turns += 1
        self.note("run")
        if self.turns == self.args.get("raise_at"):
            raise ValueError("it broke on purpose")
        if self.turns == self.args.get("exit_at"):
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        if self.turns == self.args.get("hang_at"):
            time.sleep(600)
        if self.args.get("noise"):
            print("noise without an end", end="", flush=True)
            print('{"wall_s": "noise that looks like an answer"}')
            subprocess.run(["echo", '{"failed": "noise of a child process"}'], check=True)
        burn_s = self.args.get("burn_s", 0.0)
        if burn_s:
            burner = "import time\nwhile time.process_time() < " + str(burn_s) + ": pass"
            subprocess.run([sys.executable, "-c", burner], check=True)
        time.sleep(self.args.get("sleep_s", 0.001))
        return Result({"events": 1000.0 * self.turns}, {"parse": 0.25})

    def finish(self) -> None:
        if self.turns == self.args.get("wrong_at"):
            raise ValueError("expected 5 rows, found 4")

    def close(self) -> None:
        self.note("close")


if __name__ == "__main__":
    print("printed before the protocol began", end="", flush=True)
    serve(Fake)
