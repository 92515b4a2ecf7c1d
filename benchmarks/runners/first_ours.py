"""Ours reads its first table in a new process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.runners.first import First, source
from benchmarks.runners.protocol import Args, serve


def write(args: Args) -> None:
    """Write the table; runs in a process of its own."""
    import headrace.storage as storage

    storage.write(args["path"], source(args), erase_key="user_id", profile=args["profile"])


def load() -> Callable[[str], Any]:
    """Import the store, with what reading needs of it."""
    from headrace.storage import open as open_table

    return lambda path: open_table(path).scan().to_table()


if __name__ == "__main__":
    serve(lambda args: First(args, "ours", "benchmarks.runners.first_ours", load))
