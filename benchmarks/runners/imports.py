"""Imports one module in a new process, and does nothing else."""

from __future__ import annotations

import importlib
import sys
import time

from benchmarks.runners.protocol import Args, Result, Runner, serve


class Import(Runner):
    """``args["module"]``, none of whose parts may have been imported before."""

    def __init__(self, args: Args) -> None:
        self._module = args["module"]
        if {"numpy", "pyarrow"} & set(sys.modules):
            raise ValueError(
                "numpy or pyarrow is loaded already: this process cannot say what an import costs"
            )

    def run(self) -> Result:
        began = time.perf_counter()
        importlib.import_module(self._module)
        return Result({"s": time.perf_counter() - began})


if __name__ == "__main__":
    serve(Import)
