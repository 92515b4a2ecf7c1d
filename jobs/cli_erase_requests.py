"""Verbs around a request to forget: ``erase keys|request|approve|hold``; what carries it out is ``cli_erase``.

Ids come from a file or from standard input, one a line, never from the command line, where a shell would remember them; nothing
that is printed or written repeats one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace import storage
from headrace.jobs.cli_store import Json, Where
from headrace.jobs.cli_tables import parse_age
from headrace.jobs.erasing import key_kind
from headrace.jobs.terminal import say
from headrace.storage.committing import now_ms
from headrace.storage.erase_requests import PAYLOAD_TYPE, Hold, Level, Policy, Request, signed
from headrace.storage.errors import RequestMalformed
from headrace.storage.register import HOLDS, Register
from headrace.storage.signing import Envelope, Signer, parse_envelope
from headrace.storage.subjects import SubjectKey, parse_id

app = typer.Typer(no_args_is_help=True, help="Forget persons, and prove it.")

Folder = Annotated[Path, typer.Option("--register", help="Folder of the register of erasures.")]
Ids = Annotated[Path, typer.Option(help="File of ids, one a line; - is standard input.")]
Asked = Annotated[Path, typer.Argument(help="A signed request, as headrace erase request wrote it.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Key file; the register's own by default.")]
REGISTER = Path(".headrace/erasures")
KEYS, SUBJECTS, REQUESTER, RECEIPTS = "keys", "subjects.key", "requester.key", "receipts.key"


@app.command()
def keys(register: Folder = REGISTER, as_json: Json = False) -> None:
    """Make a register with keys of its own: for digests, for requests, for receipts."""
    folder = register / KEYS
    if (register / "policy.json").exists():
        raise typer.BadParameter(f"{register} is a register already; its keys are in {folder}")
    SubjectKey.create(folder / SUBJECTS)
    asks, signs = Signer.create(folder / REQUESTER), Signer.create(folder / RECEIPTS)
    policy = Policy(requesters={asks.key_id: asks.public.hex()}, receipts={signs.key_id: signs.public.hex()})
    Register.create(register, policy)
    found = {"register": str(register), "requester": asks.public.hex(), "receipts": signs.public.hex()}
    say(
        found,
        as_json,
        lambda: (
            f"made {register}; requests are signed by {folder / REQUESTER}, receipts by {folder / RECEIPTS}\n"
            f"public key of receipts: {found['receipts']}\n"
            f"keep {folder / SUBJECTS} secret and safe: without it no digest can be traced to a row\n"
            "next: name approvers in policy.json, then headrace erase request TABLE --ids FILE --basis … --out FILE"
        ),
    )


@app.command()
def request(
    table: Where,
    ids: Ids,
    basis: Annotated[str, typer.Option(help="On what ground, such as 'GDPR 17(1)(b)'.")],
    out: Annotated[Path, typer.Option(help="File to write; must not exist.")],
    requester: Annotated[str, typer.Option(help="Who asked, as a case number; no name.")] = "unnamed",
    level: Annotated[Level, typer.Option(help="How thoroughly.")] = "erased",
    deadline: Annotated[str, typer.Option(help="By when it must be done: 12h, 30d, 4w.")] = "30d",
    valid: Annotated[str, typer.Option(help="How long it may be handed in.")] = "7d",
    key: KeyFile = None,
    register: Folder = REGISTER,
    as_json: Json = False,
) -> None:
    """Write a signed request that names persons by keyed digest alone."""
    opened = storage.open(table)
    kind, digests = key_kind(opened), SubjectKey.load(register / KEYS / SUBJECTS)
    now = now_ms()
    made = Request(
        request_id=os.urandom(16).hex(),
        table=opened.path.name,
        key_kind=kind,
        subjects=tuple(sorted({digests.digest(parse_id(one, kind)) for one in lines(ids)})),
        level=level,
        basis=basis,
        requester=requester,
        issued_at_ms=now,
        expires_at_ms=now + round(parse_age(valid).total_seconds() * 1e3),
        deadline_ms=now + round(parse_age(deadline).total_seconds() * 1e3),
    )
    _write(out, signed(made, Signer.load(key or register / KEYS / REQUESTER)))
    found = {"request": made.request_id, "subjects": len(made.subjects), "out": str(out)}
    say(
        found,
        as_json,
        lambda: (
            f"request {made.request_id} for {len(made.subjects)} persons in {out}\nnext: headrace erase plan {table} {out}"
        ),
    )


@app.command()
def approve(
    asked: Asked,
    out: Annotated[Path, typer.Option(help="File to write; must not exist.")],
    key: Annotated[Path, typer.Option("--key", help="The approver's key file.")],
    as_json: Json = False,
) -> None:
    """Sign a request as a second person."""
    found, signer = envelope(asked), Signer.load(key)
    if found.payload_type != PAYLOAD_TYPE:
        raise RequestMalformed(f"{asked}: expected a request, got {found.payload_type[:100]!r}")
    _write(out, signer.sign_too(found))
    say(
        {"approver": signer.key_id, "out": str(out)}, as_json, lambda: f"signed by {signer.key_id} too: {out}"
    )


@app.command()
def hold(
    table: Where,
    ids: Ids,
    reason: Annotated[str, typer.Option(help="Why their data must stay, such as 'litigation 12/3'.")],
    until: Annotated[
        str | None, typer.Option(help="For how long: 30d, 52w; until lifted by default.")
    ] = None,
    register: Folder = REGISTER,
    as_json: Json = False,
) -> None:
    """Keep persons' data for now: requests that name them are refused."""
    kind, digests = key_kind(storage.open(table)), SubjectKey.load(register / KEYS / SUBJECTS)
    ends = None if until is None else now_ms() + round(parse_age(until).total_seconds() * 1e3)
    book = Register(register)
    added = [Hold(digests.digest(parse_id(one, kind)), reason, ends) for one in lines(ids)]
    book.add_holds(added)
    say(
        {"held": len(added)},
        as_json,
        lambda: f"{len(added)} persons are held; lift it by editing {register / HOLDS}",
    )


def lines(path: Path) -> Sequence[str]:
    """Ids of a file, as they were typed."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except FileNotFoundError:
        raise typer.BadParameter(
            f"there is no file {path}; give one with an id a line, or - for standard input"
        ) from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise typer.BadParameter(f"{path} has no ids; expected one a line")
    return found


def envelope(path: Path) -> Envelope:
    """What a file holds, unjudged."""
    try:
        return parse_envelope(path.read_bytes())
    except FileNotFoundError:
        raise typer.BadParameter(
            f"there is no file {path}; make a request with headrace erase request"
        ) from None


def fresh(path: Path) -> Path:
    """A path at which nothing is yet."""
    if path.exists():
        raise typer.BadParameter(f"{path} is there already; name another file")
    return path


def _write(path: Path, envelope: Envelope) -> None:
    fresh(path).write_bytes(envelope.to_json() + b"\n")
