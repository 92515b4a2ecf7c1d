"""Ed25519 signatures over typed bytes: who asked for an erasure, and who says what was done.

In the flow: below ``erase_requests`` and ``receipts``; the one module that knows the package ``cryptography`` (extra
``[erase]``). What is signed travels as a DSSE envelope: the bytes themselves, what they are, and signatures over both, so that
no JSON has to be written twice in the same way, and a receipt can never be handed in as a request. Keys are named by a hash
of their public half. Sources: RFC 8032; DSSE 1.0 (secure-systems-lab), its pre-authentication encoding.

Deliberately absent: whom to trust, which the caller says, and key servers.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3

from headrace.storage import durable
from headrace.storage.errors import BadKey, ExtraMissing, RequestMalformed

PUBLIC_BYTES: Final = 32
_KEY_ID_BYTES: Final = 16


class Signature(msgspec.Struct, frozen=True):
    """One signature: ``keyid`` in hex, ``sig`` in base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Bytes, what they are, and who signed both."""

    payload_type: str
    payload: str
    signatures: tuple[Signature, ...]

    def to_json(self) -> bytes:
        """One line."""
        return msgspec.json.encode(self)

    def body(self) -> bytes:
        """The bytes that were signed.

        Raises:
            RequestMalformed: they are not base64.
        """
        return _from_base64(self.payload, "payload")


_ENVELOPE = msgspec.json.Decoder(Envelope)


def parse_envelope(data: bytes) -> Envelope:
    """An envelope from JSON; its signatures are not looked at.

    Raises:
        RequestMalformed: it is none.
    """
    try:
        return _ENVELOPE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestMalformed(
            f"expected a signed envelope (payloadType, payload, signatures), got something else: {error}; "
            "make it with headrace erase request"
        ) from None


def key_id(public: bytes) -> str:
    """What a public key is called.

    >>> key_id(bytes(32))
    '2ada83c1819a5372dae1238fc1ded123'
    """
    return str(blake3(public).hexdigest(length=_KEY_ID_BYTES))


class Signer:
    """Whoever holds a private key."""

    def __init__(self, private: Any) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()
        self.key_id = key_id(self.public)

    def __repr__(self) -> str:
        return f"Signer({self.key_id})"

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """The key of 32 secret bytes."""
        return cls(_ed25519().Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> Signer:
        """Draw a key and keep it in a new file that only its owner can read.

        Raises:
            FileExistsError: there is a file; a key is never overwritten.
        """
        seed = os.urandom(32)
        write_secret(path, seed)
        return cls.from_seed(seed)

    @classmethod
    def load(cls, path: Path) -> Signer:
        """The key in a file.

        Raises:
            BadKey: there is none, or others may read it.
        """
        return cls.from_seed(read_secret(path))

    def sign(self, payload_type: str, body: bytes) -> Envelope:
        """A new envelope with one signature."""
        return self.sign_too(Envelope(payload_type, base64.b64encode(body).decode(), ()))

    def sign_too(self, envelope: Envelope) -> Envelope:
        """The envelope with this signature as well; once, however often it is asked for."""
        signature = self._private.sign(_signed_bytes(envelope.payload_type, envelope.body()))
        others = tuple(found for found in envelope.signatures if found.keyid != self.key_id)
        mine = Signature(self.key_id, base64.b64encode(signature).decode())
        return msgspec.structs.replace(envelope, signatures=(*others, mine))


def signers(envelope: Envelope, trusted: Mapping[str, bytes]) -> frozenset[str]:
    """Ids of the trusted keys whose signature holds; a signature of another key counts as none.

    Args:
        envelope: what was signed.
        trusted: public keys, 32 bytes each, by id.
    """
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    message, found = _signed_bytes(envelope.payload_type, envelope.body()), set[str]()
    for signature in envelope.signatures:
        public = trusted.get(signature.keyid)
        if public is None:
            continue
        try:
            raw = base64.b64decode(signature.sig, validate=True)
            ed25519.Ed25519PublicKey.from_public_bytes(public).verify(raw, message)
        except (InvalidSignature, binascii.Error, ValueError):
            continue
        found.add(signature.keyid)
    return frozenset(found)


def write_secret(path: Path, secret: bytes) -> None:
    """Keep 32 secret bytes, in hex, in a new file that only its owner can read; synced.

    Raises:
        FileExistsError: there is a file already.
    """
    durable.make_dir(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secret.hex().encode() + b"\n")
        durable.sync_file(fd)
    finally:
        os.close(fd)
    durable.sync_dir(path.parent)


def read_secret(path: Path) -> bytes:
    """What ``write_secret`` kept.

    Raises:
        BadKey: there is no such file, it holds something else, or others may read it.
    """
    try:
        text, mode = path.read_text(), path.stat().st_mode
    except (FileNotFoundError, UnicodeDecodeError):
        raise BadKey(
            f"{path}: expected a key file of 64 hex digits, found none; make it with headrace erase keys"
        ) from None
    if mode & 0o077:
        raise BadKey(f"{path}: others than its owner may read this key (mode {mode & 0o777:o}); chmod 600 it")
    return parse_key(text, str(path))


def parse_key(text: str, where: str) -> bytes:
    """32 bytes from 64 hex digits.

    Raises:
        BadKey: it is something else; the message does not repeat it.
    """
    try:
        found = bytes.fromhex(text.strip())
    except ValueError:
        found = b""
    if len(found) != PUBLIC_BYTES:
        raise BadKey(
            f"{where}: expected a key of 64 hex digits, got {len(text.strip())} characters that are none"
        )
    return found


def _signed_bytes(payload_type: str, body: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestMalformed(
            f"expected {what} in base64, got something else; send it again as it was made"
        ) from None


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ExtraMissing("signatures need cryptography; pip install 'headrace[erase]'") from error
    return ed25519
