"""A task of the job without Spark and without a broker: what it stores, sends away, counts, and offers to be checked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from headrace import storage
from headrace.jobs import dead_letters
from headrace.jobs.check import REASONS
from headrace.jobs.sample import RANK
from headrace.jobs.seen import Recent, RecentFile, seen_ids
from headrace.jobs.stage import Plan, Stage, Staged, stored_schema
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.erase import suppress
from headrace.streaming.ad_feed import START_US, AdFeed
from headrace.streaming.contracts import decode_json, gate, load
from headrace.streaming.loop import task_of

CONTRACT = load("ad_feed")
CHECK_ROWS = 20
SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("sent_us", pa.int64()),
        ("version", pa.binary()),
        ("format", pa.binary()),
        ("rows", pa.binary()),
    ]
)


class Letterbox:
    """Stands in for the producer of dead letters."""

    sent: ClassVar[list[tuple[bytes, bytes | None, dict[str, str]]]]
    delivers: ClassVar[bool]

    def __init__(self, bootstrap: str, *, topic: str) -> None:
        assert (bootstrap, topic) == ("nowhere:1", "feed.dlq")

    def send_raw(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        self.sent.append((key, value, {name: text.decode() for name, text in headers}))

    def close(self) -> None:
        if not self.delivers:
            raise ConnectionError("a letter was not acknowledged")


@pytest.fixture(autouse=True)
def _letterbox(monkeypatch: pytest.MonkeyPatch) -> None:
    Letterbox.sent, Letterbox.delivers = [], True
    monkeypatch.setattr(dead_letters, "Producer", Letterbox)


def messages(n: int, sent_us: int = 2**60, **feed: Any) -> pa.RecordBatch:
    """What the Kafka source would hand to two tasks' worth of partitions, in order of partition and offset."""
    rows = []
    for key, value, headers in AdFeed(
        seed=4, n_users=60, broken_share=0.04, huge_bytes=3_000, **feed
    ).messages(n):
        named = dict(headers or ())
        partition = 0 if key is None else sum(key) % 2
        rows.append((partition, key, value, named.get("version"), named.get("format"), named.get("rows")))
    rows.sort(key=lambda row: row[0])
    offsets = [sum(row[0] == other[0] for other in rows[:at]) for at, row in enumerate(rows)]
    columns = zip(
        *(
            (k, v, p, o, sent_us, ver, form, r)
            for (p, k, v, ver, form, r), o in zip(rows, offsets, strict=True)
        ),
        strict=True,
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    table = storage.create(tmp_path / "table", stored_schema(CONTRACT), erase_key="user_id")
    return Plan(
        topic="feed",
        contract=CONTRACT,
        table=table.path,
        staging=table.path / "_staging",
        task=task_of(CONTRACT, bits=12),
        snapshot=None,
        watermarks_us={},
        recent=(),
        lateness_us=600_000_000,
        ahead_us=30_000_000,
        max_event_bytes=2_000,
        check_rows=CHECK_ROWS,
        seed=1,
        bootstrap="nowhere:1",
        client_options={},
        dead_letters="feed.dlq",
    )


def staged_of(plan: Plan, batch: pa.RecordBatch, cut: int = 500) -> Staged:
    def cuts() -> Iterator[pa.RecordBatch]:
        for start in range(0, batch.num_rows, cut):
            yield batch.slice(start, cut)

    [answer] = Stage(plan)(cuts())
    return msgspec.msgpack.decode(answer.column("staged")[0].as_py(), type=Staged)


def reasons_of(value: bytes | None, key: bytes | None) -> list[str]:
    """What the gate says of a message by itself."""
    decoded = decode_json(pa.array([value], pa.binary()), CONTRACT, max_bytes=2_000)
    verdict = gate(decoded.batch, CONTRACT, error=decoded.error, null_key=pa.array([key is None]))
    reasons: list[str] = verdict.reasons[0].as_py()
    return reasons


def test_every_event_is_counted_once_and_what_is_stored_is_in_the_file(plan: Plan) -> None:
    batch = messages(2_000)
    staged = staged_of(plan, batch)
    assert sorted(staged.tallies) == [0, 1]
    assert all(tally.balance == 0 for tally in staged.tallies.values())
    assert sum(tally.events for tally in staged.tallies.values()) == batch.num_rows
    assert staged.file is not None
    assert staged.file.rows == sum(tally.stored for tally in staged.tallies.values()) > 1_000
    rows = pa.Table.from_batches(storage.read_file(plan.table / staged.file.path))
    assert pc.count_distinct(rows.column("event_id")).as_py() == rows.num_rows
    for partition, tally in staged.tallies.items():
        mine = rows.filter(pc.field("_partition") == partition)
        offsets = mine.column("_offset").to_pylist()
        assert offsets == sorted(offsets)
        assert tally.next_offset == pc.sum(pc.equal(batch.column("partition"), partition)).as_py()
        assert tally.watermark_us == pc.max(mine.column("event_time")).cast(pa.int64()).as_py()
        source = batch.filter(pc.field("partition") == partition).column("value").to_pylist()
        for offset, event_id in zip(offsets, mine.column("event_id").to_pylist(), strict=True):
            assert f'"{event_id}"'.encode() in source[offset]


def test_a_letter_for_each_rejected_row_says_why_and_holds_the_message(plan: Plan) -> None:
    batch = messages(600)
    staged = staged_of(plan, batch)
    dead = sum(tally.dead for tally in staged.tallies.values())
    assert dead > 15
    wanted = {}
    for row in batch.to_pylist():
        if reasons := reasons_of(row["value"], row["key"]):
            wanted[f"feed/{row['partition']}/{row['offset']}/0".encode()] = (row["value"], ",".join(reasons))
    rejected = [letter for letter in Letterbox.sent if letter[2]["reason"] != "late"]
    assert {key: (value, headers["reason"]) for key, value, headers in rejected} == wanted
    assert len(rejected) == len(wanted) == dead
    assert {headers["contract"] for _, _, headers in rejected} == {"ad_feed v1"}
    counted: Counter[str] = Counter()
    for tally in staged.tallies.values():
        counted.update(tally.reasons)
    assert counted == Counter(reason for _, text in wanted.values() for reason in text.split(","))


def test_the_second_opinion_is_offered_every_rejected_row_and_as_many_others_as_asked(plan: Plan) -> None:
    staged = staged_of(plan, messages(2_000))
    assert staged.check is not None
    with pa.OSFile(staged.check) as source:
        offered = pa.ipc.open_file(source).read_all()
    rejected = offered.filter(pc.greater(pc.list_value_length(offered.column(REASONS)), 0))
    assert rejected.num_rows == sum(tally.dead for tally in staged.tallies.values()) > 2 * CHECK_ROWS
    assert set(rejected.column(RANK).to_pylist()) == {0}
    assert offered.num_rows - rejected.num_rows == CHECK_ROWS


def test_a_task_that_is_repeated_does_the_same_however_its_messages_are_cut(plan: Plan) -> None:
    batch = messages(1_500)
    results = []
    for cut in (1_500, 170):
        Letterbox.sent = []
        staged = staged_of(plan, batch, cut)
        assert staged.file is not None
        assert staged.check is not None
        with pa.OSFile(staged.check) as source:
            offered = (
                pa.ipc.open_file(source).read_all().sort_by([(RANK, "ascending"), ("event_id", "ascending")])
            )
        rows = pa.Table.from_batches(storage.read_file(plan.table / staged.file.path)).combine_chunks()
        results.append(
            (rows, staged.tallies, sorted(Letterbox.sent, key=str), staged.file.tags, offered.to_pylist())
        )
    assert repr(results[0]) == repr(results[1])  # NaN is one of the things that are offered


@pytest.mark.parametrize("since", ["nothing", "compacted", "compacted and collected", "forgotten"])
def test_what_comes_again_is_stored_once_also_in_a_later_batch(
    plan: Plan, tmp_path: Path, since: str
) -> None:
    batch = messages(1_000, duplicate_share=0.0, late_share=0.0)
    first = staged_of(plan, batch)
    assert first.file is not None
    table = storage.open(plan.table)
    table.commit([first.file])
    watermarks = {p: t.watermark_us for p, t in first.tallies.items() if t.watermark_us is not None}

    def opened() -> Recent:
        lateness_s = plan.lateness_us / 1e6
        return Recent(storage.open(plan.table), plan.contract, watermarks, lateness_s, tmp_path / "scratch")

    recent = opened()
    if since.startswith("compacted"):
        assert compact(table, cluster_by="user_id", everything=True).rows == first.file.rows
        recent = opened() if since == "compacted" else recent
    if since == "compacted and collected":
        collect(table, keep_versions=1)
        assert not (plan.table / first.file.path).exists()
    if since == "forgotten":
        suppress(table, table.scan(["user_id"]).to_table().column("user_id").unique().to_pylist())
        compact(table, everything=True)
        assert opened().files() == ()
        return
    known = recent.files()
    assert len(known) == 1
    again = staged_of(replace(plan, recent=known, watermarks_us=watermarks), batch)
    assert again.file is None
    for partition, tally in again.tallies.items():
        assert tally.stored == 0
        assert (
            tally.late + tally.duplicates
            == first.tallies[partition].stored + first.tallies[partition].duplicates
        )
        assert tally.duplicates > 0


def test_a_worker_keeps_the_ids_of_files_that_are_asked_for_and_no_more_than_fit(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    honest = storage.read_file

    def counted(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        read.append(path)
        return honest(path, columns)

    files = []
    for n in (200, 300, 400):
        staged = staged_of(plan, messages(n))
        assert staged.file is not None
        files.append(RecentFile(str(plan.table / staged.file.path), (0, 1), 2**60))
    monkeypatch.setattr(storage, "read_file", counted, raising=False)
    for asked, expected in ((files, 3), (files, 0), (files[1:], 0), (files, 1)):
        read.clear()
        seen = seen_ids(asked, 0, 2**60, 2**60, CONTRACT)
        assert (len(read), len(seen) > 0) == (expected, True)
    monkeypatch.setattr("headrace.jobs.seen.WORKER_BYTES", 0)
    other = [replace(file, path=file.path.replace("/data/", "/data/../data/")) for file in files]
    for _ in range(2):
        read.clear()
        assert len(seen_ids(other, 0, 2**60, 2**60, CONTRACT)) == len(seen)
        assert len(read) == 3


@pytest.mark.parametrize("how_many", ["one", "all"])
def test_of_a_forgotten_person_nothing_is_kept_and_no_letter_sent(plan: Plan, how_many: str) -> None:
    batch = messages(600)
    before = staged_of(plan, batch)
    assert before.file is not None
    table = storage.open(plan.table)
    table.commit([before.file])
    users = table.scan(["user_id"]).to_table().column("user_id").to_pylist()
    persons = set(users) if how_many == "all" else {max(users, key=users.count)}
    suppress(table, list(persons))
    letters, Letterbox.sent = Letterbox.sent, []
    after = staged_of(plan, batch)
    tallies, earlier = after.tallies.values(), before.tallies.values()
    assert [tally.balance for tally in tallies] == [0] * len(tallies)
    assert sum(tally.events for tally in tallies) == batch.num_rows
    kept = sum(user not in persons for user in users)
    assert (after.file.rows if after.file else 0) == sum(tally.stored for tally in tallies) == kept
    assert [tally.next_offset for tally in tallies] == [tally.next_offset for tally in earlier]
    assert sum(tally.forgotten for tally in tallies) >= len(users) - kept > 0

    def of_persons(sent: Sequence[tuple[bytes, bytes | None, dict[str, str]]]) -> int:
        read = [value for _, value, headers in sent if headers["reason"] != "unknown_version"]
        decoded = decode_json(pa.array(read, pa.binary()), CONTRACT, max_bytes=2_000)
        return sum(user in persons for user in decoded.batch.column("user_id").to_pylist())

    assert of_persons(Letterbox.sent) == 0, "but for what cannot be read, and so names nobody"
    assert of_persons(letters) > 0 or how_many == "one"


def test_late_events_are_letters_too(plan: Plan) -> None:
    batch = messages(1_000)
    future = {0: 2**55, 1: 2**55}
    staged = staged_of(replace(plan, watermarks_us=future), batch)
    assert staged.file is None
    late = sum(tally.late for tally in staged.tallies.values())
    assert late == batch.num_rows - sum(tally.dead for tally in staged.tallies.values())
    assert sum(headers["reason"] == "late" for _, _, headers in Letterbox.sent) == late


def test_whose_clock_is_ahead_moves_no_watermark(plan: Plan) -> None:
    whole = staged_of(plan, messages(1_000, sent_us=-1))
    assert whole.file is not None, "what does not say when it was sent is taken at its word"
    limit_us = START_US + 10_000_000
    Letterbox.sent.clear()
    staged = staged_of(plan, messages(1_000, sent_us=limit_us - plan.ahead_us))
    assert staged.file is not None
    rows = pa.Table.from_batches(storage.read_file(plan.table / staged.file.path))
    assert pc.max(rows.column("event_time").cast(pa.int64())).as_py() <= limit_us
    tallies = staged.tallies.values()
    assert all(tally.balance == 0 and (tally.watermark_us or 0) <= limit_us for tally in tallies)
    ahead = sum(tally.reasons.get("ahead", 0) for tally in tallies)
    assert ahead == sum(headers["reason"] == "ahead" for _, _, headers in Letterbox.sent) > 100
    assert sum(tally.dead for tally in tallies) == sum(tally.dead for tally in whole.tallies.values()) + ahead


def test_a_task_whose_letters_are_not_delivered_fails(plan: Plan) -> None:
    Letterbox.delivers = False
    with pytest.raises(ConnectionError):
        staged_of(plan, messages(500))
