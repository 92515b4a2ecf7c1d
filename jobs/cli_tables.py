"""Verbs that look after a table: ``compact``, ``gc``, ``verify``, ``repair``, ``evolve``; and ``pack``, for clusters that read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from headrace import storage
from headrace.jobs.cli_store import Json, Where, grid
from headrace.jobs.terminal import err, say

if TYPE_CHECKING:
    from headrace.storage.receipts import Receipt

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
_AGE = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SIZE = re.compile(r"(\d+)\s*([KMG]?)i?B?", re.IGNORECASE)

Told = Callable[[int, int], None]


@contextmanager
def progress(what: str, unit: str, as_json: bool) -> Iterator[Told]:
    """A bar with rate and time left on the terminal's error stream, for what takes longer than a moment."""
    scale = {"MB": 1e6, "rows": 1.0, "files": 1.0}[unit]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=as_json or not err.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None, rate="")

        def tell(done: int, of: int) -> None:
            found = next(found for found in bar.tasks if found.id == task)
            rate = f"{found.speed / scale:,.0f} {unit}/s" if found.speed else ""
            bar.update(task, completed=done, total=of, rate=rate)

        yield tell


def parse_age(given: str) -> timedelta:
    """``30m``, ``12h``, ``7d``, ``2w``."""
    found = _AGE.fullmatch(given.strip())
    if found is None:
        raise typer.BadParameter(f"expected an age such as 30m, 12h, 7d or 2w, got {given!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def parse_size(given: str) -> int:
    """``64M``, ``1GiB``, or bytes."""
    found = _SIZE.fullmatch(given.strip())
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"expected a size such as 64M or 1G, got {given!r}")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()]


def compact(
    table: Where,
    target: Annotated[str, typer.Option(help="About how long files become.")] = "256M",
    cluster_by: Annotated[
        str | None,
        typer.Option(help="Column whose equal values lie together afterwards, such as the erase key."),
    ] = None,
    quality: Annotated[str | None, typer.Option(help="Column by which the best rows come first.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Leave no file alone.")] = False,
    memory: Annotated[str, typer.Option(help="About how much of the rows is held at once.")] = "1G",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn many small files into few good ones; readers and writers go on meanwhile."""
    from headrace.storage.compaction import compact as run
    from headrace.storage.compaction import plan

    opened, size = storage.open(table), parse_size(target)
    if dry_run:
        plans = plan(opened, target_bytes=size, cluster_by=cluster_by, quality=quality, everything=everything)
        parts = [{"files": len(p.files), "rows": p.rows, "bytes": p.bytes} for p in plans]
        say(parts, as_json, lambda: "would read and replace\n" + grid(parts) if parts else "nothing to do")
        return
    with progress("compacting", "rows", as_json) as tell:
        done = run(
            opened,
            target_bytes=size,
            cluster_by=cluster_by,
            quality=quality,
            everything=everything,
            memory_bytes=parse_size(memory),
            on_progress=tell,
        )
    version = done.commit.version if done.commit else None
    found = {
        "version": version,
        "files_before": done.files_before,
        "files_after": done.files_after,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "rows": done.rows,
    }
    say(
        found,
        as_json,
        lambda: (
            f"version {version}: {done.files_before} files of {done.bytes_before:,} bytes are now {done.files_after} of "
            f"{done.bytes_after:,}; the old ones stay for earlier versions until headrace gc"
            if version
            else "nothing to do"
        ),
    )


def gc(
    table: Where,
    keep: Annotated[int | None, typer.Option(min=1, help="So many of the newest versions stay.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only versions replaced longer ago expire: 30m, 12h, 7d, 2w.")
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="A query whose last commit need not be kept; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let old versions expire and remove what only they needed; 7 days are kept by default."""
    from headrace.storage.collecting import collect

    age = parse_age(older_than) if older_than else None if keep else timedelta(days=7)
    with progress("removing", "files", as_json) as tell:
        done = collect(
            storage.open(table),
            keep_versions=keep,
            older_than=age,
            forget=forget or (),
            dry_run=dry_run,
            on_progress=tell,
        )
    found = {
        "version": done.version,
        "oldest_kept": done.horizon,
        "held_back_by": done.held_back_by,
        "expired": done.expired,
        "orphans": done.orphans,
        "noted": done.noted,
        "manifests": len(done.manifests),
        "bytes": done.bytes,
        "dry_run": dry_run,
    }
    say(found, as_json, lambda: _collected(found))


def _collected(found: dict[str, Any]) -> str:
    would = "would remove" if found["dry_run"] else "removed"
    lines = [
        f"oldest version kept: {found['oldest_kept']}",
        f"{would} {len(found['expired'])} files of expired versions, {len(found['orphans'])} that no version has, "
        f"{found['manifests']} manifests; {found['bytes']:,} bytes",
    ]
    if found["held_back_by"]:
        query = found["held_back_by"]
        lines.append(
            f"more is kept because query {query!r} goes on from its last commit; --forget {query} lets it go"
        )
    if found["noted"]:
        lines.append(f"{found['noted']} files that no version has are noted; a later run removes them")
    return "\n".join(lines)


def _receipts(register: Path) -> list[Receipt]:
    from headrace.storage.register import Register

    return Register(register).receipts()


def verify(
    table: Where,
    expect: Annotated[
        str | None,
        typer.Option(help="VERSION:HASH as an earlier run printed it, to see a rolled-back table."),
    ] = None,
    every_version: Annotated[
        bool, typer.Option("--every-version", help="Look at files of all kept versions.")
    ] = False,
    register: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a register of erasures, whose signed receipts must account for each of them."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every manifest, attachment and byte; says everything that is wrong, exit code 2 if anything is."""
    from headrace.storage.verify import verify as run

    version, _, head = (expect or "").partition(":")
    if expect and not (version.isdigit() and len(head) == 64):
        raise typer.BadParameter(f"expected VERSION:HASH as headrace verify prints it, got {expect!r}")
    with progress("verifying", "MB", as_json) as tell:
        done = run(
            storage.open(table),
            expect=(int(version), head) if expect else None,
            every_version=every_version,
            receipts=None if register is None else _receipts(register),
            on_progress=tell,
        )
    wrong = [{"path": f.path, "what": f.what} for f in done.findings]
    found = {
        "version": done.version,
        "head": f"{done.version}:{done.head}",
        "versions": done.versions,
        "files": done.files,
        "bytes": done.bytes,
        "unlisted": done.unlisted,
        "findings": wrong,
    }
    say(
        found,
        as_json,
        lambda: (
            (grid(wrong) + "\n" if wrong else "")
            + f"{len(wrong)} findings in {done.versions} versions and {done.files} files of {done.bytes:,} bytes\n"
            + f"head: {done.version}:{done.head}"
            + ("\nnext: headrace repair TABLE --dry-run, or restore from a copy" if wrong else "")
        ),
    )
    if wrong:
        raise typer.Exit(2)


def repair(table: Where, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Salvage what is readable into a new version and list the rest; removes nothing."""
    from headrace.storage.repair import repair as run

    with progress("looking through", "files", as_json) as tell:
        done = run(table, dry_run=dry_run, on_progress=tell)
    lost = [{"path": x.path, "rows": x.rows, "why": x.why} for x in done.lost]
    version = done.commit.version if done.commit else None
    found = {
        "version": version,
        "base": done.base,
        "damaged": done.damaged,
        "salvaged": done.salvaged,
        "lost": lost,
        "dry_run": dry_run,
    }
    what = (
        f"version {version}" if version else "would write a version" if done.damaged else "nothing is damaged"
    )
    say(
        found,
        as_json,
        lambda: (
            f"{what}, from version {done.base}: {len(done.damaged)} damaged, {done.salvaged:,} rows of them saved, "
            f"{sum(x.rows for x in done.lost):,} lost" + ("\n" + grid(lost) if lost else "")
        ),
    )


def evolve(
    table: Where,
    add: Annotated[list[str] | None, typer.Option(help="NAME:TYPE, null in rows that are there.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="NAME")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD:NEW")] = None,
    widen: Annotated[
        list[str] | None, typer.Option(help="NAME:TYPE, one that holds every old value.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Change columns without touching old bytes; in the order drop, rename, widen, add, in one commit."""
    from headrace.storage import evolution as e

    edits: list[e.Edit] = [e.Drop(name) for name in drop or ()]
    edits += [e.Rename(*_pair(given, "OLD:NEW")) for given in rename or ()]
    edits += [e.Widen(name, _type(type_)) for name, type_ in (_pair(g, "NAME:TYPE") for g in widen or ())]
    edits += [e.Add(name, _type(type_)) for name, type_ in (_pair(g, "NAME:TYPE") for g in add or ())]
    if not edits:
        raise typer.BadParameter("expected --add, --drop, --rename or --widen, got none of them")
    opened = storage.open(table)
    schema = e.planned(opened, edits)
    if not dry_run:
        e.evolve(opened, edits)
    columns = [{"name": field.name, "type": str(field.type)} for field in schema]
    version = None if dry_run else opened.version
    say(
        {"version": version, "columns": columns},
        as_json,
        lambda: (f"version {version}\n" if version else "would have these columns\n") + grid(columns),
    )


def pack(
    path: Annotated[Path, typer.Argument(help="The archive to write.")] = Path("headrace-env.tar.gz"),
    extra: Annotated[
        list[str] | None,
        typer.Option(help="An extra that executors need too, such as torch; may be repeated."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Pack the environment that Spark's executors need, for spark.archives."""
    from headrace.jobs import pack as packing

    extras = tuple(extra or ())
    if dry_run:
        names = [f"{d.metadata['Name']}=={d.version}" for d in packing.closure(extras)]
        say(names, as_json, lambda: f"would pack into {path}:\n" + "\n".join(names))
        return
    with progress("packing", "files", as_json) as tell:
        done = packing.pack(path, extras=extras, on_progress=tell)
    say(
        {
            "path": str(done.path),
            "bytes": done.bytes,
            "files": done.files,
            "distributions": done.distributions,
        },
        as_json,
        lambda: (
            f"packed {len(done.distributions)} distributions, {done.files:,} files, into {done.path} ({done.bytes / 1e6:.0f} MB)\n"
            f"next: spark-submit --archives {done.path}#environment --conf spark.pyspark.python=./environment/bin/python …"
        ),
    )


def _pair(given: str, form: str) -> tuple[str, str]:
    first, _, second = given.partition(":")
    if not first or not second:
        raise typer.BadParameter(f"expected {form}, got {given!r}")
    return first, second


def _type(name: str) -> pa.DataType:
    try:
        return pa.type_for_alias(name)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected an Arrow type such as int64, float or string, got {name!r}"
        ) from error


def register(app: typer.Typer) -> None:
    """Add these verbs to ``app``."""
    for verb in (compact, gc, verify, repair, evolve, pack):
        app.command()(verb)
