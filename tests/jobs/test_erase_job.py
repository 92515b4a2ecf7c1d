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
from headrace.jobs.progress import (
    CLICKS,
    CLICKS_CONTROL,
    PROGRESS,
    RECOMMENDER,
    TAGS,
    Progress,
    attached,
    last_commit,
)
from headrace.storage.errors import CommitConflict
from headrace.storage.register import Register
from headrace.streaming.learners.features import FeatureSpec
from headrace.streaming.learners.ihomer.tagging import Tagger, TagTask

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


REACHED = Progress("topic", 1, query_id="q", batch_id=0).to_json()


def test_learners_are_named_for_what_they_can_forget(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    assert forgetting.forget_in_learners(table, [1]) == ()
    table.commit([], attachments={PROGRESS: b"{}", "learner": b"w"})
    assert {one.state for one in forgetting.forget_in_learners(table, [1])} == {"approximate"}


def test_the_recommender_forgets_exactly(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender

    model = DSLRecommender(budget_bytes=1 << 16, user="user", item="item", time="at", admit_after=2, seed=1)
    model.learn_arrow(
        pa.RecordBatch.from_pydict(
            {"user": [1, 2, 1, 2, 3], "item": [5, 6, 6, 5, 5], "at": [1.0, 2, 3, 4, 5]}
        )
    )
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    table.commit([], attachments={PROGRESS: REACHED, RECOMMENDER: model.to_bytes(), "gate": b"g"})
    said = forgetting.forget_in_learners(table, [1, 3, 99])
    assert [(one.state, one.place) for one in said] == [
        ("exact", "snapshot 'recommender'"),
        ("approximate", "snapshot 'recommender', rows of items"),
    ]
    assert said[0].note.startswith("1 embedding rows")
    last = last_commit(storage.open(table.path))
    kept = attached(last, RECOMMENDER)
    assert kept is not None
    assert not DSLRecommender.from_bytes(kept).forget(user=1)
    assert DSLRecommender.from_bytes(kept).forget(user=2)
    assert attached(last, "gate") == b"g"
    forgetting.forget_in_learners(storage.open(table.path), [1, 3])
    again = last_commit(storage.open(table.path))
    assert (again.version if again else 0) == (last.version if last else 0) > 1, (
        "3, met once, is forgotten too"
    )


def test_the_tag_learner_lets_go_of_every_row_it_keeps(tmp_path: Path) -> None:
    task = TagTask("labels", FeatureSpec(dense=("n",)), window_rows=40)
    tagger = Tagger(task)
    rows = {"n": [float(n) for n in range(70)], "labels": [["odd"] if n % 2 else [] for n in range(70)]}
    tagger.feed(pa.RecordBatch.from_pydict(rows))
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    table.commit([], attachments={PROGRESS: REACHED, TAGS: tagger.to_bytes(), "gate": b"g"})
    said = forgetting.forget_in_learners(table, [1])
    assert [(one.state, one.place) for one in said] == [
        ("exact", "snapshot 'tags'"),
        ("approximate", "snapshot 'tags', what is shared"),
    ]
    assert said[0].note.startswith("70 rows dropped")
    last = last_commit(storage.open(table.path))
    kept = attached(last, TAGS)
    assert kept is not None
    left = Tagger.from_bytes(kept)
    assert left.forget_rows() == 0
    assert left.model.n_learned == 50
    assert left._scores.rows == 10, "scores are of all persons together, and stay"
    assert attached(last, "gate") == b"g"


def shown(*users: int) -> pa.RecordBatch:
    """An impression of each user, in seconds from 0."""
    n = len(users)
    columns = {"event_id": list(range(n)), "event_time": [float(at) for at in range(n)], "user": list(users)}
    return pa.RecordBatch.from_pydict({**columns, "item": [at % 3 for at in range(n)]})


@pytest.mark.parametrize("field", ["user", "group"])
def test_click_models_forget_rows_and_what_waits(tmp_path: Path, field: str) -> None:
    """Of both the learner and its control; ``group``: the person is no feature, so that only what waits is theirs."""
    pytest.importorskip("torch")
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier

    ids = ("user", "item") if field == "user" else ("item",)
    model, control = (
        AdaptDHMClassifier(ids=ids, group="user", window=4.0, routing=routing, seed=1)
        for routing in ("lar", "none")
    )
    model.show(shown(1, 2, 1, 2, 1, 3, 2))
    control.learn_resolved(model.resolve(7.0).rows)
    assert model.pending.waiting == 3
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    kept = {CLICKS: model.to_bytes(), CLICKS_CONTROL: control.to_bytes()}
    table.commit([], attachments={PROGRESS: REACHED, "gate": b"g", **kept})
    said = {one.place: one for one in forgetting.forget_in_learners(table, [1, 99])}
    rows = 1 if field == "user" else 0
    assert said["snapshot 'clicks'"].state == "exact"
    assert said["snapshot 'clicks'"].note.startswith(f"{rows} embedding rows")
    assert "1 impressions" in said["snapshot 'clicks'"].note
    assert "0 impressions" in said["snapshot 'clicks-control'"].note
    assert said["snapshot 'clicks', what is shared"].state == "approximate"
    last = last_commit(storage.open(table.path))
    for name, waiting in ((CLICKS, 2), (CLICKS_CONTROL, 0)):
        data = attached(last, name)
        assert data is not None
        left = AdaptDHMClassifier.from_bytes(data)
        assert left.pending.waiting == waiting
        assert left.forget(1, "user") == (0, False)
        assert left.forget(2, "user") == (1 if waiting else 0, field == "user")
    assert attached(last, "gate") == b"g"


def test_a_model_that_does_not_know_the_erase_key_says_so(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender

    recommender = DSLRecommender(budget_bytes=1 << 16, user="visit", item="item", time="at", admit_after=1)
    recommender.learn_arrow(pa.RecordBatch.from_pydict({"visit": [1], "item": [5], "at": [1.0]}))
    clicks = AdaptDHMClassifier(ids=("item",), routing="none")
    table = storage.write(tmp_path / "t", pa.table({"user": [1]}), erase_key="user")
    kept = {RECOMMENDER: recommender.to_bytes(), CLICKS: clicks.to_bytes()}
    table.commit([], attachments={PROGRESS: REACHED, **kept})
    said = forgetting.forget_in_learners(table, [1])
    assert [one.state for one in said] == ["approximate", "approximate"]
    assert "named by 'user', the model knows ids of visit" in said[0].note
    assert attached(last_commit(storage.open(table.path)), RECOMMENDER) == kept[RECOMMENDER]
