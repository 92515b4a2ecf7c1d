"""MLHAT, from the checkout of its published code (CC0) whose folder ``src`` the environment variable HEADRACE_MLHAT names."""

from __future__ import annotations

import importlib
import os
import random
import sys
from typing import Any

from benchmarks.runners.multilabel_stream import OneByOne, Prequential, Stream
from benchmarks.runners.protocol import Args, serve


def make(stream: Stream, args: Args) -> OneByOne:
    """Its own defaults. The seed of its bagging is drawn from ``random`` when its module is imported."""
    folder = os.environ.get("HEADRACE_MLHAT")
    if not folder:
        raise FileNotFoundError("set HEADRACE_MLHAT to the folder src of MLHAT's published code")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    random.seed(args["shuffle"] or 0)
    multioutput: Any = importlib.import_module("multioutput")
    model = multioutput.MLHAT(seed=args["shuffle"] or 0)
    return OneByOne(stream, model)


if __name__ == "__main__":
    serve(lambda args: Prequential(args, make))
