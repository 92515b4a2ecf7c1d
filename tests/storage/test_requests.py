"""Requests to forget: who may ask, what is refused, and that nothing but digests is ever written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.storage.erase_requests import PAYLOAD_TYPE, Hold, Policy, Request, admit, decode, encode, signed
from headrace.storage.errors import BadKey, RequestMalformed, RequestRefused, WrongKeyType
from headrace.storage.signing import Envelope, Signature, Signer, parse_envelope, signers
from headrace.storage.subjects import SubjectKey, kind_of, parse_id

NOW = 1_800_000_000_000
ASKS, APPROVES, STRANGER = (Signer.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
KEY = SubjectKey(b"k" * 32)
POLICY = Policy(
    requesters={ASKS.key_id: ASKS.public.hex()},
    approvers={APPROVES.key_id: APPROVES.public.hex(), ASKS.key_id: ASKS.public.hex()},
    approve_above=3,
    most_subjects=50,
)


def request(ids: Any = (7,), **other: Any) -> Request:
    plain = Request(
        request_id="0" * 31 + "a",
        table="clicks",
        key_kind="integer",
        subjects=tuple(sorted(KEY.digest(one) for one in ids)),
        level="erased",
        basis="GDPR 17(1)(b)",
        requester="case 4711",
        issued_at_ms=NOW,
        expires_at_ms=NOW + 1000,
        deadline_ms=NOW + 5000,
    )
    return dataclasses.replace(plain, **other)


def judged(envelope: Envelope, **other: Any) -> Request:
    how: dict[str, Any] = {"table": "clicks", "key_kind": "integer", "now_ms": NOW, "seen": ()}
    return admit(envelope, POLICY, **{**how, **other})


def test_a_request_that_may_be_done_comes_back_as_it_was_signed() -> None:
    mine = request(range(3))
    assert judged(parse_envelope(signed(mine, ASKS).to_json())) == mine


def test_every_changed_byte_of_an_envelope_is_refused() -> None:
    raw = signed(request(), ASKS).to_json()
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises((RequestRefused, RequestMalformed)):
            judged(parse_envelope(changed))


@pytest.mark.parametrize(
    ("made", "how", "says"),
    [
        (lambda: signed(request(), STRANGER), {}, "must be signed by a requester"),
        (lambda: msgspec.structs.replace(signed(request(), ASKS), signatures=()), {}, "must be signed"),
        (lambda: signed(request(), ASKS), {"seen": {"0" * 31 + "a"}}, "handed in before"),
        (lambda: signed(request(), ASKS), {"now_ms": NOW + 1001}, "has expired"),
        (lambda: signed(request(), ASKS), {"now_ms": NOW - 300_001}, "issued in the future"),
        (lambda: signed(request(), ASKS), {"table": "orders"}, "is for table 'clicks'"),
        (lambda: signed(request(range(4)), ASKS), {}, "an approver must sign"),
        (lambda: signed(request(range(51)), ASKS), {}, "more than 50"),
    ],
    ids=["stranger", "unsigned", "replayed", "expired", "future", "table", "unapproved", "too many"],
)
def test_what_may_not_be_done_is_refused_in_one_sentence(made: Any, how: Any, says: str) -> None:
    with pytest.raises(RequestRefused, match=says):
        judged(made(), **how)


def test_beyond_a_number_of_persons_a_second_key_must_sign() -> None:
    many = signed(request(range(4)), ASKS)
    assert len(judged(APPROVES.sign_too(many)).subjects) == 4
    # The requester is an approver too, but nobody approves of his own request.
    with pytest.raises(RequestRefused, match="second key"):
        judged(ASKS.sign_too(many))
    forged = Signature(APPROVES.key_id, many.signatures[0].sig)
    with pytest.raises(RequestRefused, match="second key"):
        judged(msgspec.structs.replace(many, signatures=(*many.signatures, forged)))


def test_a_hold_refuses_the_whole_request_until_it_ends() -> None:
    held = Hold(KEY.digest(8), "litigation", until_ms=NOW + 10)
    envelope = signed(request((7, 8)), ASKS)
    with pytest.raises(RequestRefused, match=r"1 held persons.*litigation"):
        judged(envelope, holds=[held])
    judged(signed(request((7,)), ASKS), holds=[held])
    judged(envelope, holds=[dataclasses.replace(held, until_ms=NOW)])


def test_ids_of_another_kind_are_refused() -> None:
    with pytest.raises(WrongKeyType, match="holds text"):
        judged(signed(request(), ASKS), key_kind="text")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("request_id", "../../etc", "request_id"),
        ("subjects", ("Anna Smith",), "subjects"),
        ("subjects", (), "at least one"),
        ("subjects", ("b" * 32, "a" * 32), "in order"),
        ("subjects", ("a" * 32, "a" * 32), "in order"),
        ("expires_at_ms", NOW, "expiry"),
        ("deadline_ms", -5, "times"),
        ("requester", "a\nb", "printable"),
        ("format", 2, "format 1"),
        ("level", "deleted", "level"),
        ("key_kind", "float", "key_kind"),
    ],
)
def test_malformed_requests_are_named_by_what_is_wrong(field: str, value: Any, says: str) -> None:
    with pytest.raises(RequestMalformed, match=says) as raised:
        judged(signed(request(**{field: value}), ASKS))
    assert "Anna" not in str(raised.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for parse in (decode, parse_envelope):
        with pytest.raises(RequestMalformed):
            parse(data)


def test_a_receipt_is_no_request() -> None:
    with pytest.raises(RequestMalformed, match=PAYLOAD_TYPE.replace("+", r"\+")):
        judged(ASKS.sign("application/vnd.headrace.erase-receipt+json", encode(request())))


def test_what_is_signed_is_also_what_it_is() -> None:
    one = ASKS.sign("a", b"bc")
    assert signers(one, {ASKS.key_id: ASKS.public}) == {ASKS.key_id}
    assert not signers(msgspec.structs.replace(one, payload_type="b"), {ASKS.key_id: ASKS.public})
    assert not signers(one, {ASKS.key_id: STRANGER.public})


# -- keys and persons --------------------------------------------------------------------------------------------------


def test_keys_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signer.key"
    made = Signer.create(path)
    assert Signer.load(path).key_id == made.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        SubjectKey.create(path)
    path.chmod(0o640)
    with pytest.raises(BadKey, match="chmod 600"):
        Signer.load(path)
    path.chmod(0o600)
    path.write_text("secret but short")
    with pytest.raises(BadKey, match="64 hex digits") as raised:
        SubjectKey.load(path)
    assert "secret but" not in str(raised.value)
    with pytest.raises(BadKey, match="found none"):
        Signer.load(tmp_path / "absent.key")


def test_a_digest_names_one_person_of_one_kind_under_one_key() -> None:
    ids = [1, -1, 2**63, "1", "", "é", b"1", b""]
    assert len({KEY.digest(one) for one in ids}) == len(ids)
    assert KEY.digest(1) != SubjectKey(b"x" * 32).digest(1)
    assert "k" * 8 not in repr(KEY)


def test_digests_are_found_among_the_ids_there_are() -> None:
    values = pa.array([5, 7, None, 7, 9])
    assert KEY.find(values, [KEY.digest(7), KEY.digest(8)]) == {KEY.digest(7): 7}


@pytest.mark.parametrize(
    ("type_", "kind", "text", "id_"),
    [
        (pa.int8(), "integer", "-5", -5),
        (pa.large_string(), "text", "5", "5"),
        (pa.dictionary(pa.int8(), pa.string()), "text", "x", "x"),
        (pa.binary(2), "bytes", "00ff", b"\0\xff"),
    ],
)
def test_kinds_of_ids(type_: pa.DataType, kind: Any, text: str, id_: Any) -> None:
    assert kind_of(type_) == kind
    assert parse_id(text, kind) == id_


def test_what_names_no_person() -> None:
    with pytest.raises(WrongKeyType, match="double"):
        kind_of(pa.float64())
    for kind in ("integer", "bytes"):
        with pytest.raises(WrongKeyType, match="9 characters") as raised:
            parse_id("anna@home", kind)  # type: ignore[arg-type]
        assert "anna" not in str(raised.value)
