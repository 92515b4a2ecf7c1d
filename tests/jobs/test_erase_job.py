"""The erasure topic: requests are answered once and in order, bad ones are told and passed by, a restart goes on."""

# ruff: noqa: F811 (a fixture is taken by its own name)

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from headrace import storage
from headrace.jobs import erase as job
from headrace.jobs import forgetting
from headrace.jobs.progress import PROGRESS, RECOMMENDER, last_attachment
from headrace.storage.errors import CommitConflict
from headrace.storage.register import Register

from .test_cli_erase import IDS, Verb, asked, headrace, users  # noqa: F401 (fixtures)


class Sent(NamedTuple):
    """As much of a message as the job looks at."""

    offset: int
    value: bytes | None
    partition: int = 0
    topic: str = "erasures"


class Topic:
    """A topic in memory that says from where it was read."""

    def __init__(self, *values: bytes | None) -> None:
        self.values, self.begun = list(values), list[dict[int, int]]()

    def __call__(self, bootstrap: str, topic: str, *, begin: dict[int, int], **_: Any) -> Iterable[Sent]:
        self.begun.append(begin)
        return [Sent(at, value) for at, value in enumerate(self.values) if at >= begin.get(0, 0)]


Ask = Callable[..., Path]


def answered(topic: Topic, *more: str) -> int:
    return job.main(["clicks", "--caught-up", *more], source=topic)


def test_requests_are_answered_once(asked: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (asked(IDS[n]).read_bytes() for n in (0, 1))
    topic = Topic(first, b"no request", None, first, second)
    assert answered(topic) == 0
    said = capsys.readouterr()
    assert users() == set(IDS[2:])
    assert said.out.count("erased: ") == 2
    told = said.err.splitlines()
    assert [line.split(":")[0] for line in told] == ["erasures/0/1", "erasures/0/2", "erasures/0/3"]
    assert "handed in before" in told[2]
    topic.values.append(asked(IDS[2]).read_bytes())
    assert answered(topic) == 0
    assert topic.begun == [{}, {0: 5}]
    assert users() == set(IDS[3:])


def test_lost_offsets_bring_nothing_twice(asked: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    topic = Topic(asked(IDS[0]).read_bytes())
    answered(topic)
    Path(".headrace/erasures/offsets.json").write_text("{")
    version = storage.open("clicks").version
    assert answered(topic) == 0
    assert "handed in before" in capsys.readouterr().err
    assert storage.open("clicks").version == version


def test_each_topic_has_its_own_offsets(tmp_path: Path) -> None:
    book = Register(tmp_path)
    job.keep_offsets(book, "a", {0: 3})
    job.keep_offsets(book, "b", {1: 4})
    assert [job.read_offsets(book, name) for name in "abc"] == [{0: 3}, {1: 4}, {}]


def test_a_failed_store_ends_the_job_and_the_next_finishes(
    asked: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.jobs import erasing

    topic = Topic(asked(IDS[0]).read_bytes(), asked(IDS[1]).read_bytes())
    with monkeypatch.context() as patch:

        def busy(*_: Any, **__: Any) -> None:
            raise CommitConflict("somebody else")

        patch.setattr(erasing, "erase", busy)
        assert answered(topic) == 3
    assert users() == set(IDS[1:]), "suppressed all the same"
    assert answered(topic) == 0
    assert users() == set(IDS[2:])
    levels = [one.level for one in Register(Path(".headrace/erasures")).receipts()]
    assert levels == ["suppressed", "erased", "suppressed", "erased"]


def test_erasing_while_the_stream_writes(asked: Ask) -> None:
    """Between any two steps a writer that knows nothing of it adds rows of the person."""
    table = storage.open("clicks")
    rows = pa.table({"user": IDS, "n": range(40)})
    waiting = table.stage(rows.to_batches())
    table.append(rows)
    request = asked(IDS[5])

    def while_it_runs(*_: Any, **__: Any) -> Iterable[Sent]:
        yield Sent(0, request.read_bytes())
        table.append(rows)

    assert job.main(["clicks", "--caught-up"], source=while_it_runs) == 0
    table.commit([waiting])
    storage.open("clicks").append(rows)
    assert users() == set(IDS) - {IDS[5]}


def test_a_job_that_cannot_begin_says_why(asked: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["nowhere", "--caught-up"], source=Topic()) == 1
    assert answered(Topic(), "--register", "nowhere") == 1
    assert "headrace erase keys" in capsys.readouterr().err


# -- learners ----------------------------------------------------------------------------------------------------------


def test_learners_are_named_for_what_they_can_forget(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    assert forgetting.forget_in_learners(table, [1]) == ()
    table.commit([], attachments={PROGRESS: b"{}", "learner": b"w", "tags": b"t"})
    assert {one.state for one in forgetting.forget_in_learners(table, [1])} == {"approximate"}


def test_the_recommender_forgets_exactly(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender

    def learnt() -> DSLRecommender:
        model = DSLRecommender(
            budget_bytes=1 << 16, user="user", item="item", time="at", admit_after=1, seed=1
        )
        model.learn_arrow(
            pa.RecordBatch.from_pydict({"user": [1, 2, 1], "item": [5, 6, 6], "at": [1.0, 2.0, 3.0]})
        )
        return model

    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    table.commit([], attachments={PROGRESS: b"{}", RECOMMENDER: learnt().to_bytes(), "gate": b"g"})
    (said,) = forgetting.forget_in_learners(table, [1, 99])
    assert (said.state, said.note[:2]) == ("exact", "1 ")
    kept = last_attachment(storage.open(table.path), RECOMMENDER)
    assert kept is not None
    assert not DSLRecommender.from_bytes(kept).forget(user=1)
    assert DSLRecommender.from_bytes(kept).forget(user=2)
    assert last_attachment(storage.open(table.path), "gate") == b"g"
