"""Verbs that say where the bytes of a table or file are, and why: ``tree``, ``stats``, ``explain``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace import storage
from headrace.jobs.cli_store import Columns, Either, Json, Version, grid
from headrace.jobs.terminal import say
from headrace.storage import anatomy
from headrace.storage.anatomy import ColumnPart, Stream
from headrace.storage.footer import Column
from headrace.storage.paths import inside, is_table
from headrace.storage.reader import File
from headrace.storage.statistics import unpack

if TYPE_CHECKING:
    from headrace.storage.explain import ColumnChoice


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


def explain(path: Either, columns: Columns = None, version: Version = None, as_json: Json = False) -> None:
    """How each column is stored, and which encodings there were to choose from."""
    from headrace.storage.explain import explain as explained

    wanted = columns.split(",") if columns else None
    found = []
    for file in _files(path, version):
        with file:
            found.append((file.footer.file, explained(file, wanted)))
    say(
        [{"file": name, "columns": choices} for name, choices in found],
        as_json,
        lambda: "\n\n".join(_choices(name, choices) for name, choices in found),
    )


def _choices(name: str, columns: Sequence[ColumnChoice]) -> str:
    lines = [f"{name}: * is what the first row group's values got, with the bytes that were foreseen for it"]
    for column in columns:
        mark = f" ({column.mark})" if column.mark else ""
        lines.append(
            f"  {column.name} {column.type}{mark}: {column.layout}, {column.raw_bytes:,} bytes in memory, "
            f"{column.stored_bytes:,} in the file"
        )
        for stream in column.streams:
            written = ", ".join(f"{cascade} x {pages}" for cascade, pages in stream.cascades.items())
            lines.append(f"    {stream.role}: {written}, {stream.bytes:,} bytes")
            for one in stream.candidates:
                chosen = "*" if one.chosen else " "
                lines.append(
                    f"    {chosen} {one.predicted_bytes:>12,} bytes {one.decode_us:>9,.1f} us  {one.plan}"
                )
    return "\n".join(lines)


def stats(path: Either, columns: Columns = None, version: Version = None, as_json: Json = False) -> None:
    """Rows, nulls, bytes in memory and in the file, smallest and largest value where they are kept, by column."""
    wanted = columns.split(",") if columns else None
    found: dict[str, dict[str, Any]] = {}
    bounds: dict[str, tuple[Any, Any] | None] = {}
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
                bounds[column.name] = _wider(bounds.get(column.name), _bounds(file, column))
    rows = [
        row | {"ratio": round(row["raw"] / max(row["stored"], 1), 2)} | _shown(bounds[name])
        for name, row in found.items()
    ]
    if len(rows) > 1:
        raw, stored = (sum(row[key] for row in rows) for key in ("raw", "stored"))
        total = {
            "name": "all",
            "type": "",
            "rows": rows[0]["rows"],
            "nulls": sum(row["nulls"] for row in rows),
        }
        ratio = {"ratio": round(raw / max(stored, 1), 2)}
        rows.append(total | {"raw": raw, "stored": stored} | ratio | _shown(None))
    say(rows[: len(found)], as_json, lambda: grid(rows))


def _bounds(file: File, column: Column) -> tuple[Any, Any] | None:
    """Smallest and largest value of a column, as far as its statistics tell; strings by their first eight bytes."""
    lows: list[Any] = []
    highs: list[Any] = []
    for group in range(file.footer.n_groups if column.stats is not None else 0):
        raw = file.footer.statistics(column, file.footer.chunk(column, group))
        for page in unpack(raw, column.type) if raw is not None else ():
            if page.low is not None and page.high is not None:
                lows.append(page.low)
                highs.append(page.high)
    if not lows:
        return None
    return _value(min(lows), column), _value(max(highs), column)


def _value(bound: int | float | bytes, column: Column) -> Any:
    if isinstance(bound, bytes):
        return bound.rstrip(b"\0").decode(errors="replace")
    dtype, type_ = column.type.leaf.dtype, column.type.leaf.arrow
    if not pa.types.is_temporal(type_) or dtype is None:
        return bool(bound) if pa.types.is_boolean(type_) else bound
    return str(pa.array([bound], pa.from_numpy_dtype(dtype)).view(type_)[0])


def _wider(one: tuple[Any, Any] | None, other: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _shown(bounds: tuple[Any, Any] | None) -> dict[str, Any]:
    return {"min": bounds[0] if bounds else None, "max": bounds[1] if bounds else None}


def _files(path: str, version: int | None) -> Iterator[File]:
    if not is_table(path):
        yield File(path)
        return
    table = storage.open(path, version)
    for entry in table.files:
        yield File(inside(table.path, entry.path, "data"))
