"""Verbs that look at a table or a file: ``schema``, ``ls``, ``history``, ``head``; registers those of the other modules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from headrace import storage
from headrace.jobs.terminal import console, say
from headrace.storage.paths import is_table
from headrace.storage.reader import File

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[str, typer.Argument(help="A table's folder; a path, or a file:// or s3:// URL.")]
Either = Annotated[
    str, typer.Argument(help="A table's folder or a single file; a path, or a file:// or s3:// URL.")
]
Version = Annotated[int | None, typer.Option(help="An earlier version of a table.")]
Columns = Annotated[
    str | None, typer.Option(help="Comma-separated names, or patterns such as 'price_*'; all by default.")
]


def schema(path: Either, version: Version = None, as_json: Json = False) -> None:
    """Columns, and which of them name or describe a person."""
    if is_table(path):
        opened = storage.open(path, version)
        marks = dict.fromkeys(opened.personal, "personal") | {opened.erase_key: "erase key"}
        fields = list(opened.schema)
    else:
        with File(path) as file:
            found = file.footer.columns()
            fields = list(file.schema())
        marks = {
            c.name: "erase key" if c.erase_key else "personal" for c in found if c.erase_key or c.personal
        }
    columns = [{"name": f.name, "type": str(f.type), "mark": marks.get(f.name)} for f in fields]
    say(columns, as_json, lambda: grid(columns))


def ls(table: Where, version: Version = None, as_json: Json = False) -> None:
    """Data files of a table."""
    files = [
        {"path": f.path, "rows": f.rows, "bytes": f.bytes, "root": f.root, "erase_epoch": f.erase_epoch}
        for f in storage.open(table, version).files
    ]
    say(files, as_json, lambda: grid(files))


def history(
    table: Where,
    limit: Annotated[int, typer.Option(min=1, help="Newest versions to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Versions of a table, newest first, and what committed them."""
    commits = [
        {
            "version": c.version,
            "operation": c.operation,
            "rows": c.num_rows,
            "files": len(c.files),
            "query": c.key[0] if c.key else None,
            "batch": c.key[1] if c.key else None,
            "committed_at": datetime.fromtimestamp(c.committed_at_ms / 1e3, UTC).isoformat(
                timespec="seconds"
            ),
        }
        for c in itertools.islice(storage.open(table).history(), limit)
    ]
    say(commits, as_json, lambda: grid(commits))


def head(
    path: Either,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 5,
    columns: Columns = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """First rows."""
    wanted = columns.split(",") if columns else None
    first: list[dict[str, Any]] = []
    with batches(path, wanted, version, rows=max(rows, 1024)) as found:
        for batch in found:
            first += batch.slice(0, rows - len(first)).to_pylist()
            if len(first) == rows:
                break
    shown = [{name: str(value) for name, value in row.items()} for row in first]
    say(
        shown,
        as_json,
        lambda: "\n\n".join("\n".join(f"{n}: {v[:100]}" for n, v in row.items()) for row in shown),
    )


@contextmanager
def batches(
    path: str, columns: list[str] | None = None, version: int | None = None, *, rows: int = 65_536
) -> Iterator[Iterator[Any]]:
    """The batches of a table or a file, of at most so many rows."""
    if is_table(path):
        yield iter(storage.open(path, version).scan(columns, batch_rows=rows))
        return
    with File(path) as file:
        yield file.batches(columns, batch_rows=rows)


def register(app: typer.Typer) -> None:
    """Add these verbs to ``app``."""
    from headrace.jobs.cli_anatomy import explain, stats, tree
    from headrace.jobs.cli_convert import convert

    for verb in (schema, ls, history, head, tree, stats, explain, convert):
        app.command()(verb)


def grid(rows: list[dict[str, Any]]) -> str:
    """Rows as a table whose cells are never cut, so that ids and paths can be copied."""
    if not rows:
        return "nothing"
    found = Grid(*rows[0])
    for row in rows:
        found.add_row(*("" if value is None else str(value) for value in row.values()))
    wide = Console(width=max(console.width, 160), highlight=False)
    with wide.capture() as captured:
        wide.print(found)
    return captured.get().rstrip()
