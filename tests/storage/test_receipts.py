"""The register: receipts chained and signed, proofs that hold offline, and every way of tampering seen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.storage import durable, transparency
from headrace.storage.erase_requests import Hold, Policy, signed
from headrace.storage.errors import BadKey, RegisterTampered, RequestMalformed, RequestRefused
from headrace.storage.receipts import OUT_OF_SCOPE, Head, Receipt, Touched, check_proof, sign_receipt
from headrace.storage.register import HEAD, HOLDS, POLICY, RECEIPTS, Register
from headrace.storage.signing import Signer

from .test_requests import APPROVES, ASKS, KEY, NOW, STRANGER, request

DAY = 86_400_000
SIGNS = Signer.from_seed(b"r" * 32)
TRUSTED = {SIGNS.key_id: SIGNS.public.hex()}
POLICY_OF_IT = Policy(
    requesters={ASKS.key_id: ASKS.public.hex()},
    approvers={APPROVES.key_id: APPROVES.public.hex()},
    receipts=TRUSTED,
)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register.create(tmp_path / "erasures", POLICY_OF_IT)


def receipt(number: int = 0, level: str = "erased", done: int = NOW + DAY) -> Receipt:
    asked = request((number,), request_id=f"{number:032x}")
    return Receipt(
        sequence=-1,
        previous="",
        request_id=asked.request_id,
        request_blake3=asked.blake3(),
        subjects_blake3=asked.subjects_blake3(),
        n_subjects=1,
        n_found=1,
        level=level,  # type: ignore[arg-type]
        table="clicks",
        version_before=3,
        version_after=4,
        root_before="a" * 64,
        root_after="b" * 64,
        erase_epoch=1,
        rows=12,
        files=(Touched("data/x.hrc", "in place", 12, 4, 16_384, "c" * 64, "d" * 64),),
        versions_closed=(),
        reach=OUT_OF_SCOPE,
        requested_at_ms=NOW,
        deadline_ms=NOW + 5000,
        done_at_ms=done,
    )


def filled(register: Register, n: int) -> Register:
    for number in range(n):
        register.append(receipt(number), SIGNS)
    return register


def test_receipts_stand_in_a_chain_that_verifies(register: Register) -> None:
    filled(register, 5)
    receipts, head = register.verify()
    assert [found.sequence for found in receipts] == [0, 1, 2, 3, 4]
    assert len({found.previous for found in receipts}) == 5
    assert head.size == 5
    assert register.verify(Head(3, _root(register, 3)))[1] == head


def _root(register: Register, n: int) -> str:
    lines = (register.folder / RECEIPTS).read_bytes().splitlines()
    return transparency.root([transparency.leaf(line) for line in lines[:n]]).hex()


def test_a_proof_is_all_that_is_needed(register: Register) -> None:
    filled(register, 6)
    proofs = [register.proof(number).to_json() for number in range(6)]
    shutil.rmtree(register.folder)
    for number, proof in enumerate(proofs):
        found, head = check_proof(proof, TRUSTED)
        assert (found.sequence, head.size) == (number, 6)


def test_every_changed_byte_of_a_proof_is_seen(register: Register) -> None:
    raw = filled(register, 3).proof(1).to_json()
    expected = check_proof(raw, TRUSTED)
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 2]) + raw[at + 1 :]
        try:
            # Hex digits may come in either case: what was proven is then still the same.
            assert check_proof(changed, TRUSTED) == expected
            assert changed.lower() == raw.lower()
        except (RegisterTampered, RequestMalformed):
            pass


def test_proofs_of_other_signers_are_refused(register: Register) -> None:
    raw = filled(register, 2).proof(0).to_json()
    with pytest.raises(RegisterTampered, match="no key trusted"):
        check_proof(raw, {STRANGER.key_id: STRANGER.public.hex()})
    for data in (b"", b"{}", b"[1]", msgspec.json.encode({"receipt": 1, "head": 2, "path": []})):
        with pytest.raises(RequestMalformed, match="expected a receipt"):
            check_proof(data, TRUSTED)


def test_each_way_of_tampering_is_seen(register: Register) -> None:
    filled(register, 4)
    kept = register.verify()[1]
    log, head = register.folder / RECEIPTS, register.folder / HEAD
    lines, signed_head = log.read_bytes().splitlines(keepends=True), head.read_bytes()
    forged = sign_receipt(dataclasses.replace(receipt(9), sequence=3), STRANGER).to_json() + b"\n"
    for name, changed in {
        "dropped last": lines[:3],
        "dropped first": lines[1:],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "doubled": [*lines, lines[3]],
        "edited": [*lines[:3], lines[3].replace(b'"keyid":"', b'"keyid":"0')],
        "forged": [*lines[:3], forged],
        "cut off": [*lines[:3], lines[3][:-9]],
        "more": [*lines, lines[3], lines[3]],
        "rubbish": [*lines, b"{}\n"],
        "empty": [],
    }.items():
        log.write_bytes(b"".join(changed))
        with pytest.raises(RegisterTampered):
            register.verify()
        if name != "doubled":  # a writer may find one entry that the head does not know, but never this one
            with pytest.raises((RegisterTampered, RequestMalformed)):
                register.append(receipt(5), SIGNS)
    log.write_bytes(b"".join([*lines, lines[3]]))
    with pytest.raises(RegisterTampered):
        register.append(receipt(5), SIGNS)
    log.write_bytes(b"".join(lines))
    head.write_bytes(signed_head.replace(b"payload", b"Payload"))
    with pytest.raises(RegisterTampered, match=HEAD):
        register.verify()
    head.unlink()
    with pytest.raises(RegisterTampered, match="gone"):
        register.verify()
    head.write_bytes(signed_head)
    assert register.verify()[1] == kept


def test_a_log_and_head_rolled_back_together_are_seen_by_who_kept_a_head(register: Register) -> None:
    filled(register, 2)
    old = {name: (register.folder / name).read_bytes() for name in (RECEIPTS, HEAD)}
    kept = filled(register, 2).verify()[1]
    for name, data in old.items():
        (register.folder / name).write_bytes(data)
    assert register.verify()[1].size == 2
    with pytest.raises(RegisterTampered, match="seen earlier"):
        register.verify(kept)


@pytest.mark.parametrize("torn", [False, True], ids=["before the head", "half a line"])
def test_a_crash_while_appending_is_mended_by_the_next(
    register: Register, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(register, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Register, "_write_head", lambda *_: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            register.append(receipt(2), SIGNS)
    log = register.folder / RECEIPTS
    if torn:
        log.write_bytes(log.read_bytes()[:-20])
    receipts, head = register.verify()
    assert (len(receipts), head.size) == (2 if torn else 3, 2)
    register.mend(SIGNS)
    assert register.verify()[1].size == len(receipts)
    assert log.read_bytes().count(b"\n") == len(receipts)
    register.append(receipt(3), SIGNS)
    asked = [found.request_id for found in register.receipts()]
    assert asked == [f"{n:032x}" for n in ((0, 1, 3) if torn else (0, 1, 2, 3))]


def test_a_crash_at_the_first_receipt_is_no_tampering(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Register, "_write_head", lambda *_: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            register.append(receipt(0), SIGNS)
    assert register.verify()[1].size == 0
    with pytest.raises(RequestRefused, match="no receipt 0"):
        register.proof(0)
    register.mend(SIGNS)
    check_proof(register.proof(0).to_json(), TRUSTED)


def test_a_receipt_is_synced_before_the_head(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(durable, "sync_file", lambda fd: steps.append("sync"))
    before = Register._write_head
    monkeypatch.setattr(Register, "_write_head", lambda *given: (steps.append("head"), before(*given))[1])
    register.append(receipt(), SIGNS)
    assert steps[:2] == ["sync", "head"]


def test_only_keys_of_the_policy_sign_receipts(register: Register) -> None:
    with pytest.raises(BadKey, match="not trusted with receipts"):
        register.append(receipt(), STRANGER)
    assert register.receipts() == []
    with pytest.raises(RequestRefused, match="no receipt 0"):
        register.proof(0)


def test_a_request_is_admitted_once_and_kept(register: Register) -> None:
    envelope = signed(request(), ASKS)
    how = {"table": "clicks", "key_kind": "integer", "now_ms": NOW}
    assert register.preview(envelope, **how) == request()  # type: ignore[arg-type]
    assert register.submit(envelope, **how) == request()  # type: ignore[arg-type]
    with pytest.raises(RequestRefused, match="before"):
        register.submit(envelope, **how)  # type: ignore[arg-type]
    assert register.requests() == [request()]
    (register.folder / HOLDS).write_bytes(msgspec.json.encode([Hold(KEY.digest(3), "audit")]))
    with pytest.raises(RequestRefused, match="audit"):
        register.submit(signed(request((3,), request_id="b" * 32), ASKS), **how)  # type: ignore[arg-type]
    (register.folder / HOLDS).write_text("[")
    with pytest.raises(RequestRefused, match="until it is corrected"):
        register.submit(signed(request((4,), request_id="c" * 32), ASKS), **how)  # type: ignore[arg-type]
    assert len(register.requests()) == 1


def test_status_counts_what_is_open_late_and_how_long_it_took(register: Register) -> None:
    how = {"table": "clicks", "key_kind": "integer", "now_ms": NOW}
    for number, level in enumerate(("erased", "canonical", "suppressed", "erased")):
        asked = request((number,), request_id=f"{number:032x}", level=level)
        register.submit(signed(asked, ASKS), **how)  # type: ignore[arg-type]
    register.append(receipt(0, "suppressed", NOW + DAY), SIGNS)
    register.append(receipt(0, "erased", NOW + 3 * DAY), SIGNS)
    register.append(receipt(1, "erased", NOW + 2 * DAY), SIGNS)  # canonical was asked for
    register.append(receipt(2, "suppressed", NOW + DAY), SIGNS)
    found = register.status(NOW + 4 * DAY)
    assert (found.open, found.done, found.overdue) == (2, 2, 2)
    assert (found.median_days_to_suppressed, found.median_days_to_done) == (1.0, 2.0)
    assert [case.level for case in found.cases] == ["erased", "erased", "suppressed", None]
    assert register.status(NOW).overdue == 0


def test_a_folder_without_policy_is_no_register(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match=POLICY):
        Register(tmp_path).policy()
    (tmp_path / POLICY).write_text("{")
    with pytest.raises(BadKey, match="not a policy"):
        Register(tmp_path).policy()
    (tmp_path / "requests").mkdir()
    with pytest.raises(FileExistsError):
        Register.create(tmp_path, POLICY_OF_IT)


# -- the tree ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=40), st.data())
def test_inclusion_and_consistency_hold_for_every_tree_and_for_no_other(
    entries: list[bytes], data: st.DataObject
) -> None:
    leaves = [transparency.leaf(entry) for entry in entries]
    head, n = transparency.root(leaves), len(leaves)
    at = data.draw(st.integers(0, n - 1))
    proof = transparency.inclusion(leaves, at)
    assert transparency.includes(head, n, at, leaves[at], proof)
    assert not transparency.includes(head, n, at, transparency.leaf(b"none of them"), proof)
    assert not transparency.includes(head, n, n, leaves[at], proof)
    assert not transparency.includes(head, n, at, leaves[at], (*proof, head))
    old = data.draw(st.integers(1, n))
    before, shown = transparency.root(leaves[:old]), transparency.consistency(leaves, old)
    assert transparency.extends(before, old, head, n, shown)
    assert not transparency.extends(transparency.leaf(b"none of them"), old, head, n, shown)
    assert not transparency.extends(before, old, transparency.leaf(b"nor this"), n, shown)


def test_a_leaf_is_never_a_node() -> None:
    two = [transparency.leaf(b"a"), transparency.leaf(b"b")]
    assert transparency.root([transparency.leaf(b"".join(two))]) != transparency.root(two)
