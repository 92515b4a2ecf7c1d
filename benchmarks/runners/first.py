"""The first read in a new process: nothing of the format is imported before the clock runs; the file is written by another one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.runners.protocol import Args, Result, Runner

_WRITE = "import json, sys; from {module} import write; write(json.loads(sys.argv[1]))"


class First(Runner):
    """``load`` imports the library and returns what reads a file into an Arrow table."""

    def __init__(self, args: Args, name: str, module: str, load: Callable[[], Callable[[str], Any]]) -> None:
        self._args, self._load = args, load
        self._path = Path(args["files"]) / f"{args['dataset']}-{args['part']}-{name}"
        self._write = _WRITE.format(module=module)

    def prepare(self) -> None:
        """Once per run: another process writes the file."""
        if self._path.exists():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        args: Mapping[str, Any] = {**self._args, "path": str(self._path)}
        subprocess.run([sys.executable, "-c", self._write, json.dumps(args)], check=True)

    def run(self) -> Result:
        began = time.perf_counter()
        read = self._load()
        imported = time.perf_counter()
        self._found = read(str(self._path))
        ended = time.perf_counter()
        return Result({"s": ended - began, "read_s": ended - imported, "import_s": imported - began})

    def finish(self) -> None:
        """The rows are the source's.

        Raises:
            ValueError: they are not, and where.
        """
        from benchmarks.runners.answers import must_equal

        must_equal(self._found, source(self._args))


def source(args: Args) -> Any:
    """The Arrow table that is written: the first rows of some columns."""
    from benchmarks.runners.cells import Files

    return Files(args).source(args["dataset"], args["columns"]).slice(0, args["first_rows"])
