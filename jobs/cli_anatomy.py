"""Verbs that say where the bytes of a table or file are, and why: ``tree``, ``stats``, ``explain``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from headrace import storage
from headrace.jobs.cli_store import Columns, Either, Json, Version, grid
from headrace.jobs.terminal import say
from headrace.storage import anatomy
from headrace.storage.anatomy import ColumnPart, Stream
from headrace.storage.paths import inside, is_table
from headrace.storage.reader import File


def tree(path: Either, columns: Columns = None, version: Version = None, as_json: Json = False) -> None:
    """Sections, columns, pages and streams with the encodings within encodings, and the bytes of each."""
    wanted = columns.split(",") if columns else None
    found = []
    for file in _files(path, version):
        with file:
            found.append((anatomy.outline(file), list(anatomy.columns(file, wanted))))
    say(
        [{"file": outline, "columns": parts} for outline, parts in found],
        as_json,
        lambda: "\n\n".join(_tree(outline, parts) for outline, parts in found),
    )


def _tree(outline: anatomy.FileParts, columns: list[ColumnPart]) -> str:
    deleted = f", {outline.n_deleted:,} of them deleted" if outline.n_deleted else ""
    lines = [
        f"{outline.file}: {outline.bytes:,} bytes, {outline.n_rows:,} rows{deleted} in {outline.n_groups:,} groups, "
        f"{outline.n_columns:,} columns, {outline.n_pages:,} pages",
        "  footer: " + ", ".join(f"{name} {length:,}" for name, length in outline.sections.items() if length),
    ]
    for column in columns:
        mark = f" ({column.mark})" if column.mark else ""
        pages = sum(part.number >= 0 for part in column.pages)
        lines.append(f"  {column.name} {column.type}{mark}: {column.bytes:,} bytes in {pages} pages")
        for (where, role, cascade), (count, length) in _streams(column).items():
            times = f" in {count} {where if count == 1 else _PLURAL[where]}"
            lines.append(f"    {role}: {cascade}, {length:,} bytes{times}")
    return "\n".join(lines)


_PLURAL = {"page": "pages", "dictionary": "dictionaries"}


def _streams(column: ColumnPart) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Pages and bytes by kind of page, role and cascade, the largest first."""
    found: dict[tuple[str, str, str], list[Stream]] = defaultdict(list)
    for part in column.pages:
        for stream in part.streams:
            found["page" if part.number >= 0 else "dictionary", stream.role, stream.cascade].append(stream)
    sums = {key: (len(streams), sum(stream.bytes for stream in streams)) for key, streams in found.items()}
    return dict(sorted(sums.items(), key=lambda entry: -entry[1][1]))


def stats(path: Either, columns: Columns = None, version: Version = None, as_json: Json = False) -> None:
    """Rows, nulls, and bytes in memory and in the file, by column."""
    wanted = columns.split(",") if columns else None
    found: dict[str, dict[str, Any]] = {}
    for file in _files(path, version):
        with file:
            for column in file.footer.columns(wanted):
                size = anatomy.measured(file, column)
                row = found.setdefault(
                    column.name,
                    {
                        "name": column.name,
                        "type": str(column.type.arrow),
                        "rows": 0,
                        "nulls": 0,
                        "raw": 0,
                        "stored": 0,
                    },
                )
                row["rows"] += file.n_rows - file.footer.n_deleted()
                row["nulls"] += size.n_nulls
                row["raw"] += size.raw_bytes
                row["stored"] += size.stored_bytes
    rows = [row | {"ratio": round(row["raw"] / max(row["stored"], 1), 2)} for row in found.values()]
    if len(rows) > 1:
        raw, stored = (sum(row[key] for row in rows) for key in ("raw", "stored"))
        total = {
            "name": "all",
            "type": "",
            "rows": rows[0]["rows"],
            "nulls": sum(row["nulls"] for row in rows),
        }
        rows.append(total | {"raw": raw, "stored": stored, "ratio": round(raw / max(stored, 1), 2)})
    say(rows[: len(found)], as_json, lambda: grid(rows))


def _files(path: str, version: int | None) -> Iterator[File]:
    if not is_table(path):
        yield File(path)
        return
    table = storage.open(path, version)
    for entry in table.files:
        yield File(inside(table.path, entry.path, "data"))
