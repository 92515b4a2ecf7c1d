"""What was done about a request, signed: what was touched, what it was before and after, and what lies beyond our reach.

In the flow: written by whoever carried out an erasure, kept in the ``register``, handed to whoever asked. A receipt names no
person, only how many and a hash of their digests. With its proof it can be checked offline, by anybody who has the signer's
public key: that the signer wrote it, and that it stands in a log of which the head is signed too (``transparency``).

A receipt is a statement by its signer. That bytes are gone is shown by looking for them (``headrace erase verify``); that nobody
copied them before is shown by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

from headrace.storage import transparency
from headrace.storage.erase_requests import Level
from headrace.storage.errors import RegisterTampered, RequestMalformed
from headrace.storage.signing import Envelope, Signer, parse_key, signers

RECEIPT_TYPE: Final = "application/vnd.headrace.erase-receipt+json"
HEAD_TYPE: Final = "application/vnd.headrace.erase-log-head+json"
FORMAT: Final = 1
_T = TypeVar("_T")
State = Literal["exact", "aged out", "approximate", "out of scope"]


@dataclass(frozen=True)
class Touched:
    """One file of the table: roots are hex, ``how`` is ``in place``, ``rewritten`` or ``removed``."""

    path: str
    how: Literal["in place", "rewritten", "removed"]
    rows: int
    pages: int
    bytes_written: int
    root_before: str
    root_after: str


@dataclass(frozen=True)
class Reach:
    """A place where a person may have been, and what became of it there.

    ``exact``: as if the values had never been. ``aged out``: gone by ``until``, a date. ``approximate``: an effect may remain.
    ``out of scope``: not ours to reach.
    """

    place: str
    state: State
    until: str | None = None
    note: str = ""


OUT_OF_SCOPE: Final = (
    Reach(
        "backups and replicas",
        "out of scope",
        note="restore them through headrace, whose denylist drops the person",
    ),
    Reach("blocks that a solid-state disk keeps spare", "out of scope", note="encrypt the disk"),
    Reach("copies that others made of what they read", "out of scope"),
)


@dataclass(frozen=True)
class Receipt:
    """One step of one request; times are milliseconds since 1970, UTC.

    Attributes:
        sequence: its place in the log, from 0.
        previous: BLAKE3 of the entry before, hex; empty for the first.
        request_blake3, subjects_blake3: hashes of the request and of its digests.
        n_subjects, n_found: persons named, and those of whom the table had rows; 0 says that nothing was there.
        rows: rows that were hidden or erased in files of all kept versions.
        versions_closed: versions that can no longer be read, because a file of theirs was replaced.
        reach: other places, and what is out of scope.
    """

    sequence: int
    previous: str
    request_id: str
    request_blake3: str
    subjects_blake3: str
    n_subjects: int
    n_found: int
    level: Level
    table: str
    version_before: int
    version_after: int
    root_before: str
    root_after: str
    erase_epoch: int
    rows: int
    files: tuple[Touched, ...]
    versions_closed: tuple[int, ...]
    reach: tuple[Reach, ...]
    requested_at_ms: int
    deadline_ms: int
    done_at_ms: int
    format: int = FORMAT


@dataclass(frozen=True)
class Head:
    """What a log is at one time: so many entries, and the root over them, hex."""

    size: int
    root: str


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receipt with all that is needed to check it offline; ``path`` are hashes in hex."""

    receipt: Envelope
    head: Envelope
    path: tuple[str, ...]

    def to_json(self) -> bytes:
        """One line."""
        return msgspec.json.encode(self)


_PROOF = msgspec.json.Decoder(Proof)
_RECEIPT = msgspec.json.Decoder(Receipt)
_HEAD = msgspec.json.Decoder(Head)


def sign_receipt(receipt: Receipt, by: Signer) -> Envelope:
    """The receipt as it is kept and handed out."""
    return by.sign(RECEIPT_TYPE, msgspec.json.encode(receipt))


def sign_head(head: Head, by: Signer) -> Envelope:
    """The head as it is kept and handed out."""
    return by.sign(HEAD_TYPE, msgspec.json.encode(head))


def read_receipt(envelope: Envelope, trusted: Mapping[str, str]) -> Receipt:
    """The receipt in an envelope that a trusted key signed.

    Args:
        envelope: as it was kept.
        trusted: public keys in hex by key id.

    Raises:
        RequestMalformed: it is no receipt.
        RegisterTampered: no trusted key signed these bytes.
    """
    return _read(envelope, trusted, RECEIPT_TYPE, _RECEIPT, "receipt")


def read_head(envelope: Envelope, trusted: Mapping[str, str]) -> Head:
    """As ``read_receipt``, of a head."""
    return _read(envelope, trusted, HEAD_TYPE, _HEAD, "head of a log")


def check_proof(data: bytes, trusted: Mapping[str, str]) -> tuple[Receipt, Head]:
    """Check a receipt with its proof, as ``headrace erase receipt`` wrote it; nothing else is read.

    Args:
        data: JSON of a ``Proof``.
        trusted: public keys of signers of receipts, in hex by key id.

    Returns:
        the receipt, and the head of the log that it stands in.

    Raises:
        RequestMalformed: the bytes are no proof.
        RegisterTampered: a signature or a hash does not hold.
    """
    try:
        proof = _PROOF.decode(data)
        path = [bytes.fromhex(text) for text in proof.path]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RequestMalformed(
            f"expected a receipt with its proof, got something else: {error}; ask for it again"
        ) from None
    receipt, head = read_receipt(proof.receipt, trusted), read_head(proof.head, trusted)
    try:
        root = bytes.fromhex(head.root)
    except ValueError:
        raise RequestMalformed(
            "expected a head with a root in hex, got something else; ask for it again"
        ) from None
    entry = transparency.leaf(proof.receipt.to_json())
    if not transparency.includes(root, head.size, receipt.sequence, entry, path):
        raise RegisterTampered(
            f"receipt {receipt.sequence} does not stand in the log of {head.size} entries with root {head.root}: it or its proof was "
            "changed; ask the register's owner for both again, and keep this copy"
        )
    return receipt, head


def _read(
    envelope: Envelope, trusted: Mapping[str, str], kind: str, decoder: msgspec.json.Decoder[_T], what: str
) -> _T:
    if envelope.payload_type != kind:
        raise RequestMalformed(
            f"expected a {what}, got an envelope of {envelope.payload_type[:100]!r}; ask for it again"
        )
    keys = {name: parse_key(text, f"public key {name}") for name, text in trusted.items()}
    if not signers(envelope, keys):
        raise RegisterTampered(
            f"no key trusted with receipts signed this {what}: it was changed, or the wrong public key was given; compare with a copy"
        )
    try:
        found = decoder.decode(envelope.body())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestMalformed(f"expected a {what}, got something else: {error}; ask for it again") from None
    return found
