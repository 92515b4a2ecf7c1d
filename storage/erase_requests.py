"""A request to forget persons: what it says, and what must hold before anything is done about it.

In the flow: made by whoever answers for the data (``headrace erase request``), brought by hand or on an erasure topic, judged
here, carried out by ``jobs``. A request names persons by keyed digest alone, says who asked, on what ground and until when, and
is signed; beyond a number of persons a second key must sign as well. Each is done once. A hold on one person refuses the
whole request, so that none is ever half done; what is refused says why in one sentence and names no id.

Source: the roles, holds and deadlines are those of GDPR articles 12, 17 and 18 and of 11 CCR 7021 and 7022, as an engineer
reads them; an erase API without authorisation is a destruction API.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from blake3 import blake3

from headrace.storage.errors import RequestMalformed, RequestRefused, WrongKeyType
from headrace.storage.signing import Envelope, Signer, parse_key, signers
from headrace.storage.subjects import Kind

PAYLOAD_TYPE: Final = "application/vnd.headrace.erase-request+json"
FORMAT: Final = 1
DAY_MS: Final = 86_400_000
SKEW_MS: Final = 300_000
"""By which the requester's clock may be ahead."""
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
Level = Literal["suppressed", "erased", "canonical"]


@dataclass(frozen=True)
class Request:
    """Who is to be forgotten where, how thoroughly, and by when; times are milliseconds since 1970, UTC.

    Attributes:
        request_id: 32 hex digits, drawn by the requester; each is carried out once.
        table: the name the register knows the table by.
        key_kind: what ids the digests were made of.
        subjects: keyed digests, in order, each once.
        basis: on what ground, such as ``GDPR 17(1)(b)``.
        requester: who asked, as the organisation names its cases; no name of a person.
        expires_at_ms: it is not taken after this.
        deadline_ms: it must be done by this.
    """

    request_id: str
    table: str
    key_kind: Kind
    subjects: tuple[str, ...]
    level: Level
    basis: str
    requester: str
    issued_at_ms: int
    expires_at_ms: int
    deadline_ms: int
    format: int = FORMAT

    def blake3(self) -> str:
        """Hash of what was signed."""
        return str(blake3(encode(self)).hexdigest())

    def subjects_blake3(self) -> str:
        """Hash of the digests: a receipt names its persons by this."""
        return str(blake3("\n".join(self.subjects).encode()).hexdigest())


@dataclass(frozen=True)
class Hold:
    """A person whose data must be kept for now, such as for a court; ``until_ms`` None is until it is lifted."""

    subject: str
    reason: str
    until_ms: int | None = None


@dataclass(frozen=True)
class Policy:
    """Whom a register trusts.

    Attributes:
        requesters, approvers: public keys in hex by key id.
        approve_above: beyond so many persons an approver must have signed too, with another key.
        most_subjects: of one request.
        receipts: public keys of those who sign receipts, by key id.
        ages_out: by place beyond the table, such as ``dead-letter topic``, after how many days it holds nothing old.
    """

    requesters: Mapping[str, str] = field(default_factory=dict)
    approvers: Mapping[str, str] = field(default_factory=dict)
    receipts: Mapping[str, str] = field(default_factory=dict)
    approve_above: int = 100
    most_subjects: int = 5_000_000
    ages_out: Mapping[str, int] = field(default_factory=dict)


_REQUEST = msgspec.json.Decoder(Request)


def encode(request: Request) -> bytes:
    """The bytes that are signed."""
    return msgspec.json.encode(request)


def decode(data: bytes) -> Request:
    """A request from the bytes that were signed.

    Raises:
        RequestMalformed: they are none; the message names what is wrong and repeats no value.
    """
    try:
        request = _REQUEST.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestMalformed(
            f"expected an erasure request, got something else: {error}; make it anew"
        ) from None
    times = (request.issued_at_ms, request.expires_at_ms, request.deadline_ms)
    wrong = [
        what
        for what, sound in (
            (f"format {FORMAT}", request.format == FORMAT),
            ("a request_id of 32 hex digits", bool(_DIGEST.fullmatch(request.request_id))),
            ("subjects of 32 hex digits each", all(map(_DIGEST.fullmatch, request.subjects))),
            ("at least one subject", bool(request.subjects)),
            ("subjects in order, each once", list(request.subjects) == sorted(set(request.subjects))),
            ("times from 1970 to 9999", all(0 < at < 253_402_300_800_000 for at in times)),
            ("an expiry after its issue", request.issued_at_ms < request.expires_at_ms),
            (
                "table, basis and requester of 1 to 200 printable characters",
                all(map(_TEXT.fullmatch, (request.table, request.basis, request.requester))),
            ),
        )
        if not sound
    ]
    if wrong:
        raise RequestMalformed(f"an erasure request must have {wrong[0]}; make it anew and sign that")
    return request


def signed(request: Request, by: Signer) -> Envelope:
    """The request as it is handed in."""
    return by.sign(PAYLOAD_TYPE, encode(request))


def admit(
    envelope: Envelope,
    policy: Policy,
    *,
    table: str,
    key_kind: Kind,
    now_ms: int,
    seen: Collection[str],
    holds: Sequence[Hold] = (),
) -> Request:
    """The request in an envelope, if it may be carried out.

    Args:
        envelope: as it came.
        policy: whom to trust.
        table, key_kind: of the table at hand.
        now_ms: the time.
        seen: ids of requests that were admitted before.
        holds: persons whose data must stay.

    Raises:
        RequestMalformed: it is no request.
        RequestRefused: it may not be carried out; nothing was changed.
        WrongKeyType: its digests were made of ids of another kind.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RequestMalformed(
            f"expected an envelope of {PAYLOAD_TYPE}, got one of {envelope.payload_type[:100]!r}; send the request itself"
        )
    asked = signers(envelope, _keys(policy.requesters))
    approved = signers(envelope, _keys(policy.approvers))
    if not asked:
        raise RequestRefused(
            "an erasure must be signed by a requester that this register trusts, and no signature on this one is; "
            "sign it, or have the key added to the policy"
        )
    request = decode(envelope.body())
    n, name = len(request.subjects), request.request_id
    if n > policy.most_subjects:
        raise RequestRefused(
            f"request {name} names {n} persons, more than {policy.most_subjects}; send several"
        )
    if n > policy.approve_above and not any(approver not in asked or len(asked) > 1 for approver in approved):
        raise RequestRefused(
            f"request {name} names {n} persons, and beyond {policy.approve_above} an approver must sign with a second key; "
            "have it approved"
        )
    if name in seen:
        raise RequestRefused(
            f"request {name} was handed in before; look at headrace erase status, or make a new one"
        )
    if now_ms > request.expires_at_ms:
        raise RequestRefused(f"request {name} has expired; make a new one")
    if request.issued_at_ms > now_ms + SKEW_MS:
        raise RequestRefused(
            f"request {name} was issued in the future; correct the requester's clock and sign it anew"
        )
    if request.table != table:
        raise RequestRefused(
            f"request {name} is for table {request.table!r}, this is {table!r}; hand it in there"
        )
    if request.key_kind != key_kind:
        raise WrongKeyType(
            f"request {name} names persons by {request.key_kind}, the erase key of {table!r} holds {key_kind}; "
            "make it from ids of that kind"
        )
    held = {hold.subject: hold for hold in holds if hold.until_ms is None or hold.until_ms > now_ms}
    met = [held[subject] for subject in request.subjects if subject in held]
    if met:
        raise RequestRefused(
            f"request {name} names {len(met)} held persons, the first is {met[0].subject} ({met[0].reason}); nothing was "
            "done; send the others without them, or lift the hold"
        )
    return request


def _keys(hexes: Mapping[str, str]) -> dict[str, bytes]:
    return {name: parse_key(text, f"key {name} of the policy") for name, text in hexes.items()}


__all__ = [
    "DAY_MS",
    "PAYLOAD_TYPE",
    "Hold",
    "Level",
    "Policy",
    "Request",
    "admit",
    "decode",
    "encode",
    "signed",
]
