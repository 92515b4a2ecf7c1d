"""Imports one module in a new process, and then, if asked, what the first use of one of its names imports."""

from __future__ import annotations

import importlib
import sys
import time

from benchmarks.runners.protocol import Args, Result, Runner, serve


class Import(Runner):
    """``args["module"]``, none of whose parts may have been imported before."""

    def __init__(self, args: Args) -> None:
        self._module, self._name = args["module"], args.get("name")
        if {"numpy", "pyarrow"} & set(sys.modules):
            raise ValueError(
                "numpy or pyarrow is loaded already: this process cannot say what an import costs"
            )

    def run(self) -> Result:
        began = time.perf_counter()
        module = importlib.import_module(self._module)
        imported = time.perf_counter()
        if self._name is not None:
            getattr(module, self._name)
        return Result({"s": imported - began, "used_s": time.perf_counter() - began})


if __name__ == "__main__":
    serve(Import)
