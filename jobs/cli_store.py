"""Verbs that look at a table: ``schema``, ``ls``, ``history``, ``head``."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from headrace import storage
from headrace.jobs.terminal import console, say

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[Path, typer.Argument(help="A table's folder.")]
Version = Annotated[int | None, typer.Option(help="An earlier version.")]


def schema(table: Where, version: Version = None, as_json: Json = False) -> None:
    """Columns of a table, and which of them name or describe a person."""
    opened = storage.open(table, version)
    marks = dict.fromkeys(opened.personal, "personal") | {opened.erase_key: "erase key"}
    columns = [{"name": f.name, "type": str(f.type), "mark": marks.get(f.name)} for f in opened.schema]
    say(columns, as_json, lambda: _grid(columns))


def ls(table: Where, version: Version = None, as_json: Json = False) -> None:
    """Data files of a table."""
    files = [
        {"path": f.path, "rows": f.rows, "bytes": f.bytes, "root": f.root, "erase_epoch": f.erase_epoch}
        for f in storage.open(table, version).files
    ]
    say(files, as_json, lambda: _grid(files))


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
    say(commits, as_json, lambda: _grid(commits))


def head(
    table: Where,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 5,
    columns: Annotated[str | None, typer.Option(help="Comma-separated names; all by default.")] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """First rows of a table."""
    wanted = columns.split(",") if columns else None
    scan = storage.open(table, version).scan(columns=wanted, batch_rows=max(rows, 1024))
    first = list(itertools.islice((row for batch in scan for row in batch.slice(0, rows).to_pylist()), rows))
    shown = [{name: str(value) for name, value in row.items()} for row in first]
    say(
        shown,
        as_json,
        lambda: "\n\n".join("\n".join(f"{n}: {v[:100]}" for n, v in row.items()) for row in shown),
    )


def register(app: typer.Typer) -> None:
    """Add these verbs to ``app``."""
    for verb in (schema, ls, history, head):
        app.command()(verb)


def _grid(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing"
    grid = Grid(*rows[0])
    for row in rows:
        grid.add_row(*("" if value is None else str(value) for value in row.values()))
    wide = Console(width=max(console.width, 160), highlight=False)  # ids and paths stay whole, for copying
    with wide.capture() as captured:
        wide.print(grid)
    return captured.get().rstrip()
