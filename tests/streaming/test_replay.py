"""Replays: both MovieLens layouts and three formats give the same events, in time order, none dropped."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.streaming.columns import UnmappableColumn, map_column
from headrace.streaming.contracts import Contract, decode_json, gate, load
from headrace.streaming.contracts.encode import encode_json
from headrace.streaming.events import UnknownLayout
from headrace.streaming.replay import Form, Replayed, read_events, replay

SAMPLES = Path(__file__).with_name("samples") / "movielens"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load("movielens")


class Recorder:
    """Takes the producer's place: messages as the topic would hold them, and when they came."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes | None, bytes | None]] = []
        self.sent_s: list[float] = []
        self.now_s = 100.0

    def send_batch(self, batch: pa.RecordBatch, format: Literal["json", "arrow"] = "json") -> None:
        for user, value in zip(batch.column("user_id").to_pylist(), encode_json(batch), strict=True):
            self.send_raw(None if user is None else str(user).encode(), value)

    def send_raw(self, key: bytes | None, value: bytes | None) -> None:
        self.messages.append((key, value))
        self.sent_s.append(self.now_s)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def replayed(
    path: Path, form: Form, contract: Contract, speed: float | None = None
) -> tuple[Recorder, Replayed]:
    recorder = Recorder()
    done = replay(path, form, contract, recorder, speed=speed, clock=recorder.clock, sleep=recorder.sleep)
    assert done.rows == len(recorder.messages)
    return recorder, done


@pytest.mark.parametrize("name", ["u.data", "sample.inter"])
def test_movielens_layouts_become_events_in_time_order(contract: Contract, name: str) -> None:
    events = read_events(SAMPLES / name, "movielens", contract)
    rows = events.batch.to_pylist()
    assert [row["event_id"] for row in rows] == [f"ml-{number}" for number in range(1, 9)]
    # By hand: the samples' ratings sorted by time; the first two share theirs and keep the file's order.
    assert [(row["user_id"], row["item_id"]) for row in rows] == [
        *((1, 2), (1, 1), (2, 1), (3, 4), (2, 2), (3, 5), (2, 3), (1, 5))
    ]
    assert rows[0] == {
        "event_id": "ml-1",
        "event_time": datetime(1998, 7, 9, 16, 1, 40, tzinfo=UTC),
        "user_id": 1,
        "item_id": 2,
        "rating": 5.0,
        "genres": ["Drama", "Romance"],
        "release_year": 1987,
        "age": 24,
        "gender": "F",
        "occupation": "librarian",
    }
    assert (rows[3]["genres"], rows[3]["release_year"]) == (None, None)  # the film of which nothing is known
    assert not events.raw
    assert gate(events.batch, contract).keep.true_count == 8


def test_both_layouts_say_the_same(contract: Contract) -> None:
    ours = read_events(SAMPLES / "u.data", "movielens", contract)
    theirs = read_events(SAMPLES / "sample.inter", "movielens", contract)
    assert ours.batch == theirs.batch


def test_a_folder_is_searched(contract: Contract, tmp_path: Path) -> None:
    assert read_events(SAMPLES, "movielens", contract).batch.num_rows == 8  # u.data comes first
    (tmp_path / "only.inter").write_bytes((SAMPLES / "sample.inter").read_bytes())
    alone = read_events(tmp_path, "movielens", contract).batch
    assert alone.num_rows == 8
    assert alone.column("age").null_count == 8  # nothing beside it
    (tmp_path / "second.inter").touch()
    with pytest.raises(UnknownLayout, match=r"found 2; name the file"):
        read_events(tmp_path, "movielens", contract)


def test_a_file_that_is_no_movielens_is_named(contract: Contract, tmp_path: Path) -> None:
    file = tmp_path / "other.inter"
    file.write_text("user_id:token\tsession:token\n1\t2\n")
    with pytest.raises(UnknownLayout, match=r"item_id, rating, timestamp is missing"):
        read_events(file, "movielens", contract)
    with pytest.raises(FileNotFoundError, match="name the file"):
        read_events(tmp_path / "gone", "movielens", contract)


def test_rows_that_are_no_events_are_sent_as_they_stand(contract: Contract, tmp_path: Path) -> None:
    file = tmp_path / "u.data"
    file.write_bytes(b"1\t1\t4\t300\n2\tsix\t5\t100\n3 three fields\t1\t2\n\n4\t4\tnan\tnever\n5\t\t5\t200\n")
    recorder, done = replayed(file, "movielens", contract)
    values = [value for _, value in recorder.messages]
    assert (done.rows, done.raw_rows) == (5, 3)
    # The line of three fields and the rating without a time stand where they stood: after the row at 100.
    assert [json.loads(v) if v and v.startswith(b"{") else v for v in values] == [
        {
            "event_id": "ml-1",
            "event_time": "1970-01-01T00:01:40Z",
            "user_id": 2,
            "item_id": "six",
            "rating": 5.0,
        },
        b"3 three fields\t1\t2",
        {"event_id": "ml-3", "event_time": "never", "user_id": 4, "item_id": 4, "rating": "nan"},
        {"event_id": "ml-4", "event_time": "1970-01-01T00:03:20.000000Z", "user_id": 5, "rating": 5.0},
        {
            "event_id": "ml-5",
            "event_time": "1970-01-01T00:05:00.000000Z",
            "user_id": 1,
            "item_id": 1,
            "rating": 4.0,
        },
    ]
    assert [key for key, _ in recorder.messages] == [b"2", None, b"4", b"5", b"1"]
    errors = decode_json(pa.array(values, pa.binary()), contract).error.to_pylist()
    assert errors == ["wrong_type:item_id", "not_an_object", "wrong_type:event_time", None, None]


def write_as(form: Form, rows: list[dict[str, object]], contract: Contract, path: Path) -> Path:
    """The same rows in three formats."""
    batch = pa.RecordBatch.from_pylist(rows, schema=contract.schema)
    if form == "jsonl":
        path.write_bytes(b"\n\n".join(encode_json(batch)))
    elif form == "parquet":
        pq.write_table(pa.Table.from_batches([batch]).append_column("extra", pa.nulls(len(rows))), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([*contract.schema.names, "extra"])
            for row in rows:
                genres = row["genres"]
                texts = {**row, "genres": "|".join(genres) if isinstance(genres, list) else None}
                writer.writerow(["" if texts[n] is None else texts[n] for n in contract.schema.names] + ["x"])
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_formats_map_by_name_and_sort_by_time(contract: Contract, tmp_path: Path, form: Form) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    rows: list[dict[str, object]] = [
        {
            "event_id": f"ml-{n}",
            "event_time": began + timedelta(seconds=(n * 7) % 10),
            "user_id": n,
            "item_id": 2**40 + n,
            "rating": 0.5 * n + 0.5,
            "genres": ["A", "B c"] if n % 2 else None,
            "release_year": None if n == 3 else 1990,
            "age": 30,
            "gender": 'say "x", y\nz',
            "occupation": "ü",
        }
        for n in range(10)
    ]
    events = read_events(write_as(form, rows, contract, tmp_path / "file"), form, contract)
    assert events.batch.to_pylist() == sorted(rows, key=lambda row: str(row["event_time"]))
    assert not events.raw
    recorder, done = replayed(tmp_path / "file", form, contract)
    assert (done.rows, done.raw_rows, done.first, done.last) == (10, 0, began, began + timedelta(seconds=9))
    decoded = decode_json(pa.array([value for _, value in recorder.messages], pa.binary()), contract)
    assert decoded.batch == events.batch


def test_json_lines_that_are_no_events_keep_their_bytes(contract: Contract, tmp_path: Path) -> None:
    lines = [
        b'{"user_id": 7, "rating": "five"}',
        b"\xff not json",
        b'{"user_id": 8, "event_time": "2026-01-01T00:00:00Z"}',
        b"[1]",
    ]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    recorder, done = replayed(file, "jsonl", contract)
    assert (done.rows, done.raw_rows) == (4, 3)
    assert [recorder.messages[n] for n in (0, 1, 3)] == [(b"7", lines[0]), (None, lines[1]), (None, lines[3])]


def test_csv_with_too_many_values_or_bad_text_is_not_dropped(contract: Contract, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(b"user_id,event_time,gender\n1,2026-01-01 00:00:05,F\n2,3,4,5\n3,1767225600,\xff\n")
    recorder, done = replayed(file, "csv", contract)
    assert (done.rows, done.raw_rows) == (3, 1)
    assert [value for _, value in recorder.messages] == [
        '{"event_time":"2026-01-01T00:00:00.000000Z","user_id":3,"gender":"�"}'.encode(),
        b'{"event_time":"2026-01-01T00:00:05.000000Z","user_id":1,"gender":"F"}',
        b"2,3,4,5",
    ]


def test_files_with_nothing_of_the_contract_are_refused(contract: Contract, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UnknownLayout, match=r"expected columns of topic movielens .*got a, b"):
        read_events(file, "csv", contract)
    with pytest.raises(UnknownLayout, match="no Parquet file"):
        read_events(file, "parquet", contract)
    pq.write_table(pa.table({"user_id": [[1], [2]]}), file)
    with pytest.raises(UnmappableColumn, match=r"list<.*> cannot become int64"):
        read_events(file, "parquet", contract)
    with pytest.raises(UnknownLayout, match="expected one of movielens, csv, jsonl, parquet"):
        read_events(file, "xml", contract)  # type: ignore[arg-type]
    file.write_text("")
    with pytest.raises(UnknownLayout, match="cannot be read"):
        read_events(file, "csv", contract)
    recorder, done = replayed(file, "jsonl", contract)
    assert (recorder.messages, done.first, done.last) == ([], None, None)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40).map(sorted),
    st.sampled_from([0.5, 1.0, 60.0]),
    st.integers(1, 5),
)
def test_speed_is_kept(times_s: list[int], speed: float, block_rows: int) -> None:
    """The naive twin: event i leaves when its time has come, counted from the first."""
    from headrace.streaming.replay import _due

    recorder = Recorder()
    times_us = np.array(times_s) * 1_000_000
    left_s: list[float] = []
    for begin, end in _due(times_us, speed, block_rows, recorder.clock, recorder.sleep):
        left_s += [recorder.clock()] * (end - begin)
        assert 0 < end - begin <= block_rows
    expected = [100.0 + (second - times_s[0]) / speed for second in times_s]
    assert left_s == pytest.approx(expected, abs=1e-6)


def test_a_slow_producer_is_caught_up_with(contract: Contract) -> None:
    recorder = Recorder()
    counted: list[int] = []

    def take_long(rows: int) -> None:
        counted.append(rows)
        recorder.now_s += 450.0

    replay(
        SAMPLES / "u.data",
        "movielens",
        contract,
        recorder,
        speed=1.0,
        on_rows=take_long,
        clock=recorder.clock,
        sleep=recorder.sleep,
    )
    # Rows due at 0, 0, 200, 400, 500, 600, 800, 1100 s; what became due meanwhile leaves in one go.
    assert counted == [2, 2, 3, 1]


def test_a_stop_ends_the_replay_between_blocks(contract: Contract) -> None:
    recorder = Recorder()

    def stop_at_the_second(rows: int) -> None:
        if recorder.messages:
            raise StopAsyncIteration

    with pytest.raises(StopAsyncIteration):
        replay(SAMPLES / "u.data", "movielens", contract, recorder, block_rows=3, on_rows=stop_at_the_second)
    assert len(recorder.messages) == 3


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_speed_that_goes_nowhere_is_refused(contract: Contract, speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        replay(SAMPLES / "u.data", "movielens", contract, Recorder(), speed=speed)


@pytest.mark.parametrize(
    ("column", "wanted", "values", "bad"),
    [
        (pa.array(["1", "-", ""]), pa.int32(), [1, None, None], [1]),
        (pa.array(["1.5", "inf", "1e39"]), pa.float32(), [1.5, None, None], [1, 2]),
        (pa.array([1.0, 2.5]), pa.int64(), [1, None], [1]),
        (pa.array(["true", "0", "maybe"]), pa.bool_(), [True, False, None], [2]),
        (pa.array(["a|b", None]), pa.list_(pa.string()), [["a", "b"], None], []),
        (pa.array(["1|2", "1|x"]), pa.list_(pa.int64()), [[1, 2], None], [1]),
        (pa.array([b"ok", b"\xff"]), pa.string(), ["ok", "\ufffd"], []),
        (pa.array([1, 2]), pa.string(), ["1", "2"], []),
    ],
)
def test_values_are_mapped_or_marked(
    column: pa.Array, wanted: pa.DataType, values: list[object], bad: list[int]
) -> None:
    mapped, marked = map_column(column, wanted)
    assert mapped.type == wanted
    assert mapped.to_pylist() == values
    assert np.flatnonzero(marked).tolist() == bad


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"]),
        pa.array(["2026-01-01 00:00:00", "2026-01-01"]),
        pa.array(["1767225600", "1767225600.0"]),
        pa.array([1767225600, 1767225600]),
        pa.array([1767225600.0, 1767225600.0]),
        pa.array(["1767225600", "2026-01-01T00:00:00"]),
        pa.array([datetime(2026, 1, 1), datetime(2026, 1, 1)], pa.timestamp("ms")),
    ],
)
def test_times_are_understood(column: pa.Array) -> None:
    mapped, bad = map_column(column, pa.timestamp("us", tz="UTC"))
    assert mapped.to_pylist() == [datetime(2026, 1, 1, tzinfo=UTC)] * 2
    assert not bad.any()


def test_the_real_data_set_is_all_events(datasets: Path, contract: Contract) -> None:
    events = read_events(datasets / "recsys" / "ml-100k", "movielens", contract)
    assert (events.batch.num_rows, len(events.raw)) == (100_000, 0)
    assert gate(events.batch, contract).keep.true_count == 100_000
    assert (np.diff(events.times_us) >= 0).all()
    assert events.batch.column("event_id")[99_999].as_py() == "ml-100000"
    assert len(set(events.batch.column("occupation").to_pylist())) == 21
