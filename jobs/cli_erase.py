"""Verbs that carry erasures out and show them: ``erase advise|expire|plan|run|status|verify|receipt|verify-receipt``.

The verbs that come before, which make and approve requests, are in ``cli_erase_requests``; what a request goes through is
``erasing``. Nothing that is printed repeats an id.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace import storage
from headrace.jobs.cli_erase_requests import (
    KEYS,
    RECEIPTS,
    REGISTER,
    SUBJECTS,
    Asked,
    Folder,
    Ids,
    app,
    envelope,
    fresh,
    lines,
)
from headrace.jobs.cli_store import Json, Where, grid
from headrace.jobs.cli_tables import DryRun, progress
from headrace.jobs.erasing import Office, key_kind
from headrace.jobs.terminal import say
from headrace.storage.committing import now_ms
from headrace.storage.erased import WAITING
from headrace.storage.receipts import Head, Receipt, check_proof
from headrace.storage.register import Case, Register
from headrace.storage.signing import Signer, key_id, parse_key
from headrace.storage.subjects import SubjectKey, parse_id

TopicsDays = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="After how many days topics, checkpoints, local folders and logs hold nothing old, where policy.json does not say it.",
    ),
]


@app.command()
def plan(table: Where, asked: Asked, register: Folder = REGISTER, as_json: Json = False) -> None:
    """Say what a request would do: persons found, rows, files, disk blocks, bytes; nothing is changed."""
    _plan(_office(table, register), asked, as_json)


def _plan(office: Office, asked: Path, as_json: bool) -> None:
    judged, found = office.plan(envelope(asked))
    files = [
        {
            "path": file.path,
            "how": file.how,
            "rows": file.rows,
            "blocks": file.data_blocks,
            "bytes": file.bytes_written,
            "of": file.bytes_total,
        }
        for file in found.files
    ]
    said = {
        "request": judged.request_id,
        "level": judged.level,
        "subjects": len(judged.subjects),
        "found": found.subjects,
        "rows": found.rows,
        "bytes": found.bytes_written,
        "files": files,
        "files_waiting": found.waiting,
        "dry_run": True,
    }
    say(
        said,
        as_json,
        lambda: (
            f"would erase {found.rows:,} rows of {found.subjects} of {len(judged.subjects)} persons from {len(files)} files, "
            f"writing {found.bytes_written:,} bytes; level {judged.level}\n"
            + (grid(files) if files else "nothing is there")
            + (
                f"\n{found.waiting} files are in no version and are not looked into: {WAITING}"
                if found.waiting
                else ""
            )
        ),
    )


@app.command()
def run(
    table: Where,
    asked: Annotated[
        Path | None, typer.Argument(help="A signed request; without one, what is unfinished is finished.")
    ] = None,
    topics_days: TopicsDays = None,
    register: Folder = REGISTER,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Carry out a request: suppress at once, then erase, each with a signed receipt."""
    office = _office(table, register, topics_days)
    if dry_run:
        if asked is None:
            raise typer.BadParameter("expected a request to look at; --dry-run does not finish others")
        _plan(office, asked, as_json)
        return
    with progress("erasing", "files", as_json) as tell:
        receipts = office.resume(tell) if asked is None else office.run(envelope(asked), tell)
    say(
        [_short(receipt) for receipt in receipts],
        as_json,
        lambda: (
            grid([_short(receipt) for receipt in receipts])
            + (
                "\nnext: headrace erase verify TABLE --ids FILE, and headrace erase receipt NUMBER --out FILE"
                if receipts
                else ""
            )
        ),
    )


def _short(receipt: Receipt) -> dict[str, Any]:
    return {
        "receipt": receipt.sequence,
        "request": receipt.request_id,
        "level": receipt.level,
        "found": f"{receipt.n_found} of {receipt.n_subjects}",
        "rows": receipt.rows,
        "files": len(receipt.files),
        "bytes": sum(file.bytes_written for file in receipt.files),
        "version": receipt.version_after,
        "versions_closed": len(receipt.versions_closed),
    }


@app.command()
def advise(
    table: Where,
    share: Annotated[float, typer.Option(help="Of all persons, who ask in a year.")] = 0.02,
    as_json: Json = False,
) -> None:
    """Compare what forgetting costs in a year, by layout and by how often requests are carried out together."""
    from headrace.storage.erase_cost import advise as compare

    if not 0 < share <= 1:
        raise typer.BadParameter(f"expected a share above 0 and up to 1, got {share}")
    from headrace.storage.retention import standing

    opened = storage.open(table)
    costs, holdings = compare(opened, share), [dataclasses.asdict(one) for one in standing(opened)]
    rows = [
        {
            "layout": cost.layout,
            "is": "measured" if cost.measured else "at best" if cost.layout == "side by side" else "expected",
            "runs_a_year": cost.runs,
            "persons_a_run": cost.persons,
            "blocks_a_run": round(cost.blocks),
            "MB_a_year": round(cost.bytes_a_year / 1e6, 1),
            "times_all_data": round(cost.times, 2),
        }
        for cost in costs
    ]
    best = costs[0]
    kept = (
        f"{grid([_holding(one) for one in holdings])}\nwhole files of these go at their day, for which nothing is read or written anew: "
        "headrace erase expire TABLE"
        if holdings
        else "no retention is declared: with retention=Retention(...) at a table's making, files of rows that end together go whole"
    )
    say(
        {"costs": rows, "retention": holdings},
        as_json,
        lambda: (
            f"{grid(rows)}\nleast is written with {best.runs} runs a year and rows {best.layout}; hide at once, erase before the "
            f"deadline\nrows come side by side by headrace compact TABLE --cluster-by KEY\n{kept}"
        ),
    )


def _holding(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "class": one["name"] or "none",
        "days": one["days"] or "no limit",
        "files": one["files"],
        "rows": one["rows"],
        "MB": round(one["bytes"] / 1e6, 1),
        "rows_due": one["due_rows"],
        "next_on": one["next_on"] or "",
    }


@app.command()
def expire(table: Where, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Remove the files whose rows have all outlived the period of their retention class; no other file is touched."""
    from headrace.storage.retention import expire as remove

    found = dataclasses.asdict(remove(storage.open(table), dry_run=dry_run))
    say(
        found,
        as_json,
        lambda: (
            f"{'would remove' if dry_run else 'removed'} {len(found['files'])} files with {found['rows']} rows, "
            f"{found['bytes'] / 1e6:.1f} MB"
            + (f"; versions before {found['closed_before']} are closed" if found["version"] else "")
        ),
    )


@app.command()
def status(register: Folder = REGISTER, as_json: Json = False) -> None:
    """Open, done and overdue requests, and how many days they take; exit code 1 where one is overdue."""
    now, book = now_ms(), Register(register)
    found = book.status(now)
    cases = [_case(case, now) for case in found.cases]
    plain = {**dataclasses.asdict(found), "cases": cases}
    days = found.median_days_to_done
    say(
        plain,
        as_json,
        lambda: (
            f"{found.open} open, {found.done} done, {found.overdue} overdue; median days to done: "
            f"{'none yet' if days is None else f'{days:.1f}'}\n" + grid(cases)
        ),
    )
    if found.overdue:
        raise typer.Exit(1)


def _case(case: Case, now: int) -> dict[str, Any]:
    asked = case.request
    left = (asked.deadline_ms - now) / 86_400_000
    return {
        "request": asked.request_id,
        "table": asked.table,
        "subjects": len(asked.subjects),
        "asked": asked.level,
        "reached": case.level,
        "days_left": None if case.is_done else round(left, 1),
        "requester": asked.requester,
    }


@app.command()
def verify(
    table: Where,
    ids: Ids,
    register: Folder = REGISTER,
    kept: Annotated[
        str | None, typer.Option(help="SIZE:ROOT of the log as an earlier run printed it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode and scan everything for persons, check the log of receipts and all that it speaks of; exit code 2 where anything is found."""
    from headrace.storage.residue import search
    from headrace.storage.verify import verify as check

    opened = storage.open(table)
    kind = key_kind(opened)
    found = search(opened, [parse_id(one, kind) for one in lines(ids)])
    head = receipts = None
    if (register / "policy.json").exists():
        receipts, head = Register(register).verify(_head(kept))
    wrong = [dataclasses.asdict(one) for one in check(opened, every_version=True, receipts=receipts).findings]
    places = [dataclasses.asdict(one) for one in found.residues]
    log = None if head is None else f"{head.size}:{head.root}"
    said = {
        "files": found.files,
        "bytes": found.bytes,
        "values": found.values,
        "residues": places,
        "unreadable": found.unreadable,
        "findings": wrong,
        "log": log,
    }
    say(
        said,
        as_json,
        lambda: (
            "".join(grid(rows) + "\n" for rows in (places, wrong) if rows)
            + f"{len(places)} places; {found.values:,} values decoded, {found.bytes:,} bytes of {found.files} files scanned\n"
            + (f"log of receipts holds: {log}" if log else "no register was checked")
        ),
    )
    if places or found.unreadable or wrong:
        raise typer.Exit(2)


@app.command()
def receipt(
    number: Annotated[int, typer.Argument(help="Of the receipt, as headrace erase run printed it.")],
    out: Annotated[Path, typer.Option(help="File to write; must not exist.")],
    register: Folder = REGISTER,
    as_json: Json = False,
) -> None:
    """Write a receipt with its proof, to be checked offline by whoever has the public key."""
    fresh(out).write_bytes(Register(register).proof(number).to_json() + b"\n")
    say(
        {"out": str(out)},
        as_json,
        lambda: f"wrote {out}\nnext: headrace erase verify-receipt {out} --public KEY",
    )


@app.command("verify-receipt")
def verify_receipt(
    path: Annotated[Path, typer.Argument(help="A receipt with its proof.")],
    public: Annotated[
        str, typer.Option(help="Public key of receipts, 64 hex digits, from a place you trust.")
    ],
    as_json: Json = False,
) -> None:
    """Check a receipt offline; exit code 2 where it does not hold."""
    raw = parse_key(public, "--public")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise typer.BadParameter(f"there is no file {path}") from None
    found, head = check_proof(data, {key_id(raw): raw.hex()})
    say(
        {"receipt": found, "log": {"size": head.size, "root": head.root}},
        as_json,
        lambda: (
            grid([_short(found)])
            + "\n"
            + grid(
                [{"place": r.place, "state": r.state, "until": r.until, "note": r.note} for r in found.reach]
            )
            + f"\nholds: signed, and entry {found.sequence} of the log {head.size}:{head.root}"
        ),
    )


def register(main: typer.Typer) -> None:
    """Add these verbs to ``main``."""
    main.add_typer(app, name="erase")


def _office(table: str, folder: Path, topics_days: int | None = None) -> Office:
    keys_of = folder / KEYS
    return Office(
        Register(folder),
        storage.open(table),
        Signer.load(keys_of / RECEIPTS),
        SubjectKey.load(keys_of / SUBJECTS),
        topics_days=topics_days,
    )


def _head(kept: str | None) -> Head | None:
    if kept is None:
        return None
    size, _, root = kept.partition(":")
    if not size.isdigit() or len(root) != 64:
        raise typer.BadParameter(f"expected SIZE:ROOT as headrace erase verify prints it, got {kept!r}")
    return Head(int(size), root)
