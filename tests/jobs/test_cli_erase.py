"""Forgetting at the command line: the whole way of a request, what is refused, and that no id is ever repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer

from headrace import storage
from headrace.jobs.cli_erase import register
from headrace.jobs.erasing import ELSEWHERE
from headrace.jobs.terminal import run
from headrace.storage.register import Register
from headrace.storage.signing import Signer

from .test_cli_store import Said, Verb

FIRST = 7_000_000_000_001
IDS = [FIRST + n for n in range(40)]


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Verb:
    """Calls one verb of ``erase``, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Said:
        app = typer.Typer(add_completion=False)
        register(app)
        monkeypatch.setattr("sys.argv", ["headrace", "erase", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(app)
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return call


@pytest.fixture
def asked(headrace: Verb, tmp_path: Path) -> Callable[..., Path]:
    """A table of 40 persons, a register, and signed requests for some of them."""
    rows = pa.table({"user": IDS * 30, "n": range(1200)})
    storage.write(tmp_path / "clicks", rows, erase_key="user").append(rows.slice(0, 80))
    assert headrace("keys").code == 0
    made = 0

    def request(*ids: object, **options: str) -> Path:
        nonlocal made
        made += 1
        Path("ids.txt").write_text("\n".join(map(str, ids)))
        out = tmp_path / f"request-{made}.json"
        more = [part for name, value in options.items() for part in (f"--{name}", value)]
        said = headrace("request", "clicks", "--ids", "ids.txt", "--basis", "GDPR 17", "--out", out, *more)
        assert said.code == 0, said.err
        return out

    return request


def users() -> set[int]:
    return set(storage.open("clicks").to_table()["user"].to_pylist())


@pytest.mark.parametrize("level", ["suppressed", "erased", "canonical"])
def test_the_whole_way_of_a_request(headrace: Verb, asked: Callable[..., Path], level: str) -> None:
    request = asked(IDS[3], IDS[7], 99, level=level)
    assert headrace("verify", "clicks", "--ids", "ids.txt").code == 2
    before = {path: path.read_bytes() for path in Path("clicks").rglob("*") if path.is_file()}
    planned = headrace("plan", "clicks", request, "--json").json
    assert (planned["subjects"], planned["found"], planned["rows"]) == (3, 2, 64)
    assert headrace("run", "clicks", request, "--dry-run", "--json").json == planned
    assert {path: path.read_bytes() for path in Path("clicks").rglob("*") if path.is_file()} == before
    done = headrace("run", "clicks", request, "--json").json
    assert [one["level"] for one in done] == ["suppressed", level][: 1 + (level != "suppressed")]
    assert {(one["found"], one["rows"]) for one in done} == {("2 of 3", 64)}
    assert users() == set(IDS) - {IDS[3], IDS[7]}
    found = headrace("verify", "clicks", "--ids", "ids.txt", "--json")
    assert found.code == (2 if level == "suppressed" else 0)
    status = headrace("status", "--json").json
    assert (status["open"], status["done"], status["overdue"]) == (0, 1, 0)
    again = headrace("run", "clicks", request)
    assert again.code == 4
    assert "handed in before" in again.err
    assert headrace("run", "clicks", "--json").json == []


def test_a_receipt_is_checked_without_register_or_table(headrace: Verb, asked: Callable[..., Path]) -> None:
    headrace("run", "clicks", asked(IDS[3]), "--topics-days", 7)
    assert headrace("receipt", 1, "--out", "proof.json").code == 0
    (public,) = Register(Path(".headrace/erasures")).policy().receipts.values()
    Path(".headrace").rename("away")
    Path("clicks").rename("gone")
    said = headrace("verify-receipt", "proof.json", "--public", public)
    assert said.code == 0, said.err
    assert "holds: signed" in said.out
    found = headrace("verify-receipt", "proof.json", "--public", public, "--json").json["receipt"]
    assert found["n_found"] == 1
    assert {one["state"] for one in found["reach"]} == {"aged out", "out of scope"}
    assert headrace("verify-receipt", "proof.json", "--public", "00" * 32).code == 2
    Path("proof.json").write_text(Path("proof.json").read_text().replace('"path":["', '"path":["00'))
    assert headrace("verify-receipt", "proof.json", "--public", public).code == 2
    assert headrace("verify-receipt", "nothing.json", "--public", public).code == 1
    assert headrace("receipt", 9, "--out", "x.json", "--register", "away/erasures").code == 4


def test_nothing_is_claimed_of_topics_whose_retention_was_not_told(
    headrace: Verb, asked: Callable[..., Path]
) -> None:
    headrace("run", "clicks", asked(IDS[3]))
    assert {one.state for one in Register(Path(".headrace/erasures")).receipts()[-1].reach} == {
        "out of scope"
    }


def test_each_place_has_the_date_that_was_told_for_it(headrace: Verb, asked: Callable[..., Path]) -> None:
    policy = Path(".headrace/erasures/policy.json")
    told = {"dead-letter topic": 7, "Spark's local folders": 1, "a copy in the warehouse": 40}
    policy.write_text(json.dumps(json.loads(policy.read_text()) | {"ages_out": told}))
    headrace("run", "clicks", asked(IDS[3]), "--topics-days", 30)
    receipt = Register(Path(".headrace/erasures")).receipts()[-1]
    done = datetime.fromtimestamp(receipt.done_at_ms / 1e3, UTC)
    until = {one.place: one.until for one in receipt.reach if one.state == "aged out"}
    days = dict.fromkeys(ELSEWHERE, 30) | told
    assert until == {
        place: (done + timedelta(days=after)).date().isoformat() for place, after in days.items()
    }
    headrace("run", "clicks", asked(IDS[4]))
    left = {
        one.place
        for one in Register(Path(".headrace/erasures")).receipts()[-1].reach
        if one.state == "aged out"
    }
    assert left == set(told), "nothing is claimed of the others"


def test_no_id_stands_anywhere_but_where_it_was_given(headrace: Verb, asked: Callable[..., Path]) -> None:
    said = []
    request = asked(IDS[3], IDS[7])
    for verb in (
        ("plan", "clicks", request),
        ("run", "clicks", request),
        ("status",),
        ("receipt", 1, "--out", "p"),
    ):
        one = headrace(*verb)
        said.append(one.out + one.err)
    Path("ids.txt").unlink()
    files = [path for path in Path().rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files) + "".join(map(str, [*said, *files])).encode()
    for one in (IDS[3], IDS[7]):
        assert str(one).encode() not in everything
        assert one.to_bytes(8, "little") not in everything


def test_what_was_killed_between_its_steps_is_finished(
    headrace: Verb, asked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.jobs import erasing

    for at, step in enumerate(("suppress", "erase", "_receipt")):
        request = asked(IDS[at])

        def killed(*_: Any, **__: Any) -> None:
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(erasing.Office if step == "_receipt" else erasing, step, killed)
            assert headrace("run", "clicks", request).code == 1
        assert headrace("status", "--json").json["open"] == 1
        assert headrace("run", "clicks", "--json").json[-1]["level"] == "erased"
        assert headrace("status", "--json").json["open"] == 0
        assert users() == set(IDS[at + 1 :])


def test_an_overdue_request_is_told_by_the_exit_code(
    headrace: Verb, asked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.jobs import cli_erase, erasing

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase", lambda *_, **__: (_ for _ in ()).throw(OSError("later")))
        headrace("run", "clicks", asked(IDS[3], deadline="1h"))
    assert headrace("status").code == 0
    monkeypatch.setattr(cli_erase, "now_ms", lambda: 32_000_000_000_000)
    late = headrace("status")
    assert late.code == 1
    assert "1 overdue" in late.out


def test_holds_and_approvals(headrace: Verb, asked: Callable[..., Path], tmp_path: Path) -> None:
    request = asked(IDS[3], IDS[4])
    Path("held.txt").write_text(str(IDS[4]))
    assert headrace("hold", "clicks", "--ids", "held.txt", "--reason", "litigation 12/3").code == 0
    refused = headrace("run", "clicks", request)
    assert refused.code == 4
    assert "litigation 12/3" in refused.err
    Path(".headrace/erasures/holds.json").write_text("[]")
    policy = Path(".headrace/erasures/policy.json")
    approver = Signer.create(tmp_path / "approver.key")
    rules = json.loads(policy.read_text()) | {"approve_above": 1}
    policy.write_text(json.dumps(rules | {"approvers": {approver.key_id: approver.public.hex()}}))
    refused = headrace("run", "clicks", request)
    assert refused.code == 4
    assert "second key" in refused.err
    assert users() == set(IDS)
    assert headrace("approve", request, "--out", "both.json", "--key", "approver.key").code == 0
    assert headrace("run", "clicks", "both.json").code == 0
    assert users() == set(IDS) - {IDS[3], IDS[4]}


def test_what_is_misused_is_answered_in_one_sentence(headrace: Verb, asked: Callable[..., Path]) -> None:
    request = asked(IDS[3])
    storage.write("plain", pa.table({"x": [1.5]}))
    storage.write("words", pa.table({"user": ["ann"]}), erase_key="user")
    Path("not.json").write_text("[]")
    Path("words.txt").write_text("ann@example.org")
    Path("empty.txt").write_text("\n")
    for arguments, code, says in (
        (("run", "plain", request), 1, "without an erase key"),
        (("run", "words", request), 4, "for table 'clicks'"),
        (("run", "clicks", "not.json"), 4, "expected a signed envelope"),
        (("run", "clicks", "absent.json"), 1, "no file absent.json"),
        (("run", "clicks", "--dry-run"), 1, "expected a request"),
        (("run", "clicks", request, "--register", "elsewhere"), 1, "headrace erase keys"),
        (("verify", "clicks", "--ids", "words.txt"), 4, "expected a whole number"),
        (("verify", "clicks", "--ids", "empty.txt"), 1, "no ids"),
        (("keys",), 1, "a register already"),
        (("verify", "clicks", "--ids", "ids.txt", "--kept", "x"), 1, "SIZE:ROOT"),
    ):
        said = headrace(*arguments)
        assert said.code == code, (arguments, said.err)
        assert says in " ".join(said.err.replace("│", " ").split()), (arguments, said.err)
        assert "ann@example.org" not in said.err
        assert "Traceback" not in said.err
    assert users() == set(IDS)


def test_a_changed_log_is_seen_by_verify(headrace: Verb, asked: Callable[..., Path]) -> None:
    headrace("run", "clicks", asked(IDS[3]))
    kept = headrace("verify", "clicks", "--ids", "ids.txt", "--json").json["log"]
    log = Path(".headrace/erasures/receipts.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.index(b"\n") + 1])
    assert headrace("verify", "clicks", "--ids", "ids.txt").code == 2
    log.write_bytes(whole)
    assert headrace("verify", "clicks", "--ids", "ids.txt", "--kept", kept).code == 0
    assert headrace("verify", "clicks", "--ids", "ids.txt", "--kept", f"9:{'0' * 64}").code == 2
