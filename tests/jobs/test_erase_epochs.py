# ruff: noqa: F811 (fixtures are imported)
"""The signed chain of epochs: an erase is not taken for tampering, nor tampering for an erase."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from headrace import storage
from headrace.jobs import erasing
from headrace.storage import committing, erase, erase_file, redo
from headrace.storage.compaction import compact
from headrace.storage.entropy import Entropy
from headrace.storage.erase_work import Work
from headrace.storage.log import Change
from headrace.storage.media import REFERENCE, side_file
from headrace.storage.register import Register
from headrace.storage.verify import Verified, verify

from .test_cli_erase import IDS, Verb, asked, headrace  # noqa: F401 (fixtures)

REGISTER = Path(".headrace/erasures")


def checked() -> Verified:
    return verify(storage.open("clicks"), every_version=True, receipts=Register(REGISTER).receipts())


def findings() -> str:
    return " ".join(f"{one.path}: {one.what}" for one in checked().findings)


def tampered(path: Path, person: int) -> None:
    """What somebody does who can write the file: rows go, every hash and the epoch fit, and no version says so."""
    plan = erase_file.plan(path, pa.array([person]))
    assert plan is not None
    redo.write_over(path, plan.images)


@pytest.mark.parametrize("level", ["suppressed", "erased", "canonical"])
def test_erasures_that_were_signed_are_sound(
    headrace: Verb,
    asked: Callable[..., Path],
    level: str,
) -> None:
    for one in IDS[:2]:
        assert headrace("run", "clicks", asked(one, level=level)).code == 0
        compact(storage.open("clicks"), everything=True)
        storage.open("clicks").append(pa.table({"user": IDS, "n": range(40)}))
    assert headrace("run", "clicks", asked(IDS[5], level="erased")).code == 0
    assert checked().findings == ()
    said = headrace("verify", "clicks", "--ids", "ids.txt", "--json")
    assert (said.code, said.json["findings"]) == (0, [])


@pytest.mark.parametrize("listed", [True, False])
def test_a_later_epoch_that_no_version_speaks_of(
    headrace: Verb,
    asked: Callable[..., Path],
    listed: bool,
) -> None:
    table = storage.open("clicks")
    path = table.folder / table.files[0].path
    headrace("run", "clicks", asked(IDS[3]))
    if not listed:
        table.refresh().overwrite(pa.table({"user": IDS, "n": range(40)}))
    assert findings() == ""
    tampered(path, IDS[9])
    assert "has erase epoch 2" in findings()
    assert "no version speaks of a later one than 1" in findings()
    assert IDS[9] not in storage.open("clicks", 1).to_table()["user"].to_pylist(), "readers cannot tell"


def test_an_erasure_that_nobody_signed(headrace: Verb, asked: Callable[..., Path]) -> None:
    headrace("run", "clicks", asked(IDS[3]))
    erase.erase(storage.open("clicks"), [IDS[4]])
    assert "an erasure that no signed receipt speaks of" in findings()
    headrace("run", "clicks", asked(IDS[5]))
    assert "no signed receipt leads from root" in findings(), "a receipt that comes later does not cover it"


def test_a_root_that_was_changed_in_a_version(headrace: Verb, asked: Callable[..., Path]) -> None:
    """Somebody erases on his own and puts what came of it under an ordinary commit."""
    headrace("run", "clicks", asked(IDS[3]))
    table = storage.open("clicks")
    first = table.files[0]
    tampered(table.folder / first.path, IDS[9])
    new = verify(table)
    assert new.findings
    swapped = Work(table, pa.array([IDS[9]]), "erased", False, Entropy(1))
    swapped.over(lambda done, of: None)
    added, removed = swapped.entries()
    committing.publish(
        table,
        lambda: Change(added, (), "x", None, False, 0, operation="compact", removed=removed),
    )
    assert "no version speaks of" not in findings()
    assert "no signed receipt leads from root" in findings()


def test_a_kill_at_each_step_leaves_a_chain_that_holds(
    headrace: Verb,
    asked: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = erase._commit

    def killed(*_: object, **__: object) -> None:
        raise OSError("killed")

    def killed_after_suppressing(*given: object, **named: object) -> object:
        return killed() if named else commit(*given, **named)  # type: ignore[arg-type]

    steps = (
        (erasing, "suppress", killed),
        (erasing, "erase", killed),
        (erasing.Office, "_receipt", killed),
        (erase, "_commit", killed_after_suppressing),
    )
    for at, (where, step, how) in enumerate(steps):
        request = asked(IDS[at])
        with monkeypatch.context() as patch:
            patch.setattr(where, step, how)
            assert headrace("run", "clicks", request).code == 1
        assert headrace("run", "clicks", "--json").json[-1]["level"] == "erased"
        assert findings() == ""


def test_nothing_is_signed_on_top_of_what_nobody_asked_for(
    headrace: Verb,
    asked: Callable[..., Path],
) -> None:
    table = storage.open("clicks")
    tampered(table.folder / table.files[0].path, IDS[9])
    said = headrace("run", "clicks", asked(IDS[3]))
    assert said.code != 0
    assert "no request to this register is unfinished" in " ".join(said.err.replace("│", " ").split())
    assert Register(REGISTER).receipts() == []
    assert storage.open("clicks").version == 2


def test_a_table_that_was_rolled_back(
    headrace: Verb,
    asked: Callable[..., Path],
    tmp_path: Path,
) -> None:
    shutil.copytree("clicks", tmp_path / "kept")
    headrace("run", "clicks", asked(IDS[3]))
    shutil.rmtree("clicks")
    (tmp_path / "kept").rename("clicks")
    assert "speaks of version 5: rolled back" in findings()
    assert IDS[3] in storage.open("clicks").to_table()["user"].to_pylist()


def test_media_are_part_of_the_chain(headrace: Verb, asked: Callable[..., Path]) -> None:
    shutil.rmtree("clicks")
    schema = pa.schema([("user", pa.int64()), ("n", pa.int64()), ("image", REFERENCE)])
    table = storage.create("clicks", schema, erase_key="user")
    with side_file(table) as side:
        images = pa.array([side.put(str(one).encode() * 500) for one in IDS], REFERENCE)
    rows = pa.table({"user": IDS, "n": range(40), "image": images}, schema)
    table.commit([side.of(table.stage(rows.to_batches()))])
    headrace("run", "clicks", asked(IDS[3]))
    assert findings() == ""
    erase.erase(storage.open("clicks"), [IDS[4]])
    headrace("run", "clicks", asked(IDS[5]))
    assert f"{side.name}: no signed receipt leads from root" in findings()
