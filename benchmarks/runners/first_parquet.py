"""pyarrow reads its first Parquet file in a new process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.runners.first import First, source
from benchmarks.runners.protocol import Args, serve


def write(args: Args) -> None:
    """Write the file; runs in a process of its own."""
    from pathlib import Path

    from benchmarks.runners.format_parquet import Parquet

    Parquet(tuned=False).write(source(args), Path(args["path"]))


def load() -> Callable[[str], Any]:
    """Import pyarrow."""
    import pyarrow.parquet

    read: Callable[[str], Any] = pyarrow.parquet.read_table
    return read


if __name__ == "__main__":
    serve(lambda args: First(args, "parquet", "benchmarks.runners.first_parquet", load))
