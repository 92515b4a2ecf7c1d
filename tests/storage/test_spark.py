"""Spark over tables: what is written comes back, batches commit once, only what means the same is pushed down."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import headrace.storage as storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

UTC = dt.UTC


@pytest.fixture(scope="module")
def session(spark: SparkSession) -> SparkSession:
    from headrace.storage.spark import register

    register(spark)
    return spark


def every_type() -> pa.Table:
    at = dt.datetime(2026, 11, 23, 7, 8, 9, 123456, tzinfo=UTC)
    return pa.table(
        {
            "flag": pa.array([True, None, False]),
            "small": pa.array([-128, None, 127], pa.int8()),
            "count": pa.array([0, None, 255], pa.uint8()),
            "port": pa.array([0, None, 65535], pa.uint16()),
            "hash32": pa.array([0, None, 2**32 - 1], pa.uint32()),
            "hash64": pa.array([0, None, 2**64 - 1], pa.uint64()),
            "user": pa.array([1, 2, 3]),
            "price": pa.array([1.5, None, -0.0], pa.float32()),
            "word": pa.array(["a", None, "déjà"]),
            "raw": pa.array([b"\0", None, b""]),
            "day": pa.array([dt.date(2026, 11, 23), None, dt.date(1969, 1, 1)]),
            "at_us": pa.array([at, None, at], pa.timestamp("us", "UTC")),
            "at_ms": pa.array([at, None, at], pa.timestamp("us", "UTC")).cast(
                pa.timestamp("ms", "UTC"), safe=False
            ),
            "local": pa.array([at.replace(tzinfo=None), None, None], pa.timestamp("us")),
            "items": pa.array([[1, None], None, []], pa.list_(pa.int64())),
            "ids": pa.array([[7], [8, 9], None], pa.list_(pa.uint32())),
            "words": pa.array([["x", None], None, []], pa.list_(pa.string())),
        }
    )


def test_every_type_to_spark_and_back(session: SparkSession, tmp_path: Path) -> None:
    table = storage.write(tmp_path / "a", every_type())
    frame = session.read.format("headrace").load(str(tmp_path / "a"))
    assert frame.orderBy("user").toArrow().column("word").to_pylist() == ["a", None, "déjà"]
    assert dict(frame.dtypes)["hash64"] == "decimal(20,0)"
    assert dict(frame.dtypes)["at_ms"] == "timestamp"
    assert dict(frame.dtypes)["local"] == "timestamp_ntz"
    storage.create(tmp_path / "b", table.schema)
    frame.write.format("headrace").mode("append").save(str(tmp_path / "b"))
    back = storage.open(tmp_path / "b").to_table().sort_by("user")
    assert back.schema == table.schema
    assert back.to_pylist() == every_type().to_pylist()


def test_a_new_path_becomes_a_table(session: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    frame = session.range(0, 1000, numPartitions=3).selectExpr(
        "id", "cast(id % 7 as string) word", "timestamp_millis(id) at"
    )
    frame.write.format("headrace").mode("append").save(path)
    table = storage.open(path)
    assert table.schema.types == [pa.int64(), pa.string(), pa.timestamp("us", "UTC")]
    assert (table.version, table.num_rows, len(table.files)) == (2, 1000, 3)
    frame.where("id < 0").write.format("headrace").mode("append").save(path)
    assert (storage.open(path).version, len(storage.open(path).files)) == (3, 3)  # empty tasks leave no file
    assert len(list((tmp_path / "new" / "data").iterdir())) == 3


def test_a_table_without_rows_has_none_in_spark(session: SparkSession, tmp_path: Path) -> None:
    storage.create(tmp_path / "t", pa.schema({"id": pa.int64(), "word": pa.string()}))
    frame = session.read.format("headrace").load(str(tmp_path / "t"))
    assert dict(frame.dtypes) == {"id": "bigint", "word": "string"}
    assert frame.collect() == []
    assert frame.where("id > 3").groupBy("word").count().collect() == []


def test_a_stream_waits_for_a_tables_first_rows(session: SparkSession, tmp_path: Path) -> None:
    table = storage.create(tmp_path / "source", pa.schema({"x": pa.int64()}))
    frame = session.readStream.format("headrace").load(str(tmp_path / "source"))
    run(session, frame, tmp_path / "target", tmp_path / "checkpoint")
    table.append(pa.table({"x": [1, 2]}))
    run(session, frame, tmp_path / "target", tmp_path / "checkpoint")
    assert sorted(storage.open(tmp_path / "target").to_table()["x"].to_pylist()) == [1, 2]


def test_overwrite_replaces_and_keeps_the_old_version(session: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    for n in (10, 3):
        session.range(n).write.format("headrace").mode("overwrite").save(path)
    assert [storage.open(path, version=version).num_rows for version in (1, 2, 3)] == [0, 10, 3]
    read = session.read.format("headrace")
    assert read.load(path).count() == 3
    assert read.option("version", "2").load(path).count() == 10


def test_projection_is_an_option(session: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    storage.write(path, every_type())
    frame = session.read.format("headrace").option("columns", "word, user").load(path)
    assert frame.columns == ["word", "user"]
    assert sorted(row["user"] for row in frame.collect()) == [1, 2, 3]
    given = session.read.format("headrace").schema("user bigint").load(path)
    assert sorted(row["user"] for row in given.collect()) == [1, 2, 3]
    for wrong, said in (
        ("user string", "is bigint, asked for as string"),
        ("nobody int", "no column 'nobody'"),
    ):
        with pytest.raises(Exception, match=said):
            session.read.format("headrace").schema(wrong).load(path).collect()


@pytest.mark.parametrize(
    "condition",
    [
        "user = 500",
        "user >= 10 and user < 13",
        "user in (1, 5, 4000, -3)",
        "word = 'w3' and user < 20",
        "word is null and user < 100",
        "word is not null and user < 10",
        "price > 990",
        "price = double('NaN')",
        "user <=> 3",
        "flag and user < 10",
        "day = date'2026-01-03' and user < 2000",
        "word like 'w1%' and user < 40",
        "not (user > 10)",
        "user < 5 or word = 'w9'",
    ],
)
def test_filters_give_what_spark_gives_without_them(
    condition: str, session: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "filtered"
    if not path.exists():
        n = 2000
        columns = {
            "user": list(range(n)),
            "word": [f"w{i % 11}" if i % 5 else None for i in range(n)],
            "price": [float("nan") if i % 97 == 0 else float(i) for i in range(n)],
            "flag": [i % 2 == 0 for i in range(n)],
            "day": [dt.date(2026, 1, 1 + i % 28) for i in range(n)],
        }
        storage.write(path, pa.table(columns))
    frame = session.read.format("headrace").load(str(path))
    plain = session.createDataFrame(storage.open(path).to_table())
    found = sorted(row["user"] for row in frame.where(condition).collect())
    assert found == sorted(row["user"] for row in plain.where(condition).collect())


def test_only_what_means_the_same_is_pushed() -> None:
    from pyspark.sql.datasource import EqualTo, GreaterThan, In, IsNotNull, IsNull, StringContains

    from headrace.storage.spark import pushed

    schema = every_type().schema
    cases: list[tuple[Any, Any]] = [
        (EqualTo(("user",), 3), ("user", "==", 3)),
        (GreaterThan(("word",), "a"), ("word", ">", "a")),
        (In(("user",), (1, 2)), ("user", "in", [1, 2])),
        (IsNull(("price",)), ("price", "null", None)),
        (IsNotNull(("items",)), ("items", "not null", None)),
        (EqualTo(("price",), 1.5), None),
        (EqualTo(("at_us",), dt.datetime(2026, 1, 1, tzinfo=UTC)), None),
        (EqualTo(("hash64",), 3), None),
        (In(("user",), (1, None)), None),
        (EqualTo(("user",), None), None),
        (EqualTo(("items", "x"), 1), None),
        (EqualTo(("nobody",), 1), None),
        (StringContains(("word",), "a"), None),
    ]
    for given, expected in cases:
        assert pushed(given, schema) == expected, given


def test_big_files_are_split_by_row_groups(session: SparkSession, tmp_path: Path) -> None:
    from headrace.storage import spark as source

    rows = 70_000
    table = storage.write(tmp_path / "t", pa.table({"x": list(range(rows))}))
    parts = source._parts(table.files)
    assert [(part.first_row, part.last_row) for part in parts] == [(0, rows)]
    scan = table.scan()
    halves = [
        sum(batch.num_rows for batch in scan.rows_from(*part)) for part in ((0, 65_536), (65_536, rows))
    ]
    assert halves == [65_536, rows - 65_536]
    frame = session.read.format("headrace").load(str(tmp_path / "t"))
    assert frame.selectExpr("sum(x)", "count(*)").collect()[0] == (rows * (rows - 1) // 2, rows)


def _after_another_task(frame: Any, data: Path) -> Any:
    """The rows of ``frame``, those from 50 on only when another task has written its file and reported it.

    Spark kills what runs beside a task that fails, and nobody hears of a file whose task was killed before it reported.
    """
    before = set(data.iterdir())

    def whole(path: Path) -> bool:
        try:
            return sum(batch.num_rows for batch in storage.read_file(path)) == 50
        except storage.StorageError:  # still being written
            return False

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.column(0)[0].as_py() >= 50:
                deadline = time.monotonic() + 60
                while not any(whole(path) for path in set(data.iterdir()) - before):
                    assert time.monotonic() < deadline, "the other task wrote nothing"
                    time.sleep(0.05)
                time.sleep(2)  # its message is on its way
            yield batch

    return frame.mapInArrow(wait, frame.schema)


def test_a_failed_write_commits_nothing_and_leaves_no_file(session: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "t"
    session.range(4).write.format("headrace").mode("append").save(str(path))
    bad = _after_another_task(session.range(0, 100, numPartitions=2), path / "data").selectExpr(
        "id div (id - 99) as id"
    )
    with pytest.raises(Exception, match=r"DIVIDE_BY_ZERO|Division by zero"):
        bad.write.format("headrace").mode("append").save(str(path))
    table = storage.open(path)
    assert (table.version, table.num_rows) == (2, 4)
    listed = {path / file.path for file in table.files}
    assert set((path / "data").iterdir()) == listed
    with pytest.raises(Exception, match="'id' has type string, expected int64"):
        session.sql("select 'x' as id").write.format("headrace").mode("append").save(str(path))


def test_a_task_that_reports_nothing_stops_the_commit(tmp_path: Path) -> None:
    from headrace.storage.errors import TaskLost
    from headrace.storage.spark import Staged, _Writer

    table = storage.write(tmp_path / "t", pa.table({"x": [1]}))
    staged = Staged((table.stage(pa.table({"x": [2]}).to_batches()),))
    with pytest.raises(TaskLost, match="task 1 of 2"):
        _Writer(table, overwrite=False).commit([staged, None])
    assert storage.open(table.path).version == 1


def run(session: SparkSession, source: Any, target: Path, checkpoint: Path) -> None:
    query = (
        source.writeStream.format("headrace")
        .option("checkpointLocation", str(checkpoint))
        .trigger(availableNow=True)
        .start(str(target))
    )
    assert query.awaitTermination(120)


def test_streams_follow_a_table_and_commit_each_batch_once(session: SparkSession, tmp_path: Path) -> None:
    source, target, checkpoint = tmp_path / "source", tmp_path / "target", tmp_path / "checkpoint"
    table = storage.write(source, pa.table({"x": [1, 2, 3]}))
    frame = session.readStream.format("headrace").load(str(source))
    run(session, frame, target, checkpoint)
    table.append(pa.table({"x": [4]}))
    table.append(pa.table({"x": [5, 6]}))
    run(session, frame, target, checkpoint)
    written = storage.open(target)
    assert sorted(written.to_table()["x"].to_pylist()) == [1, 2, 3, 4, 5, 6]
    keys = [commit.key for commit in written.history() if commit.key]
    assert len({query for query, _ in keys}) == 1
    assert [batch for _, batch in keys] == list(range(len(keys) - 1, -1, -1))
    last = written.last_commit(keys[0][0])
    assert last is not None
    assert last.key == keys[0]
    # Spark forgets that it finished the last batch: it runs again and must change nothing.
    newest = max((checkpoint / "commits").glob("[0-9]*"), key=lambda path: int(path.name))
    newest.unlink()
    (checkpoint / "commits" / f".{newest.name}.crc").unlink(missing_ok=True)
    run(session, frame, target, checkpoint)
    again = storage.open(target)
    assert (again.version, again.num_rows) == (written.version, 6)
    assert len(list((target / "data").iterdir())) == len(again.files)
    # A new checkpoint is a new query: its batch 0 is no replay.
    run(session, frame, target, tmp_path / "checkpoint2")
    assert storage.open(target).num_rows == 12


def test_a_stream_does_not_follow_across_an_overwrite(session: SparkSession, tmp_path: Path) -> None:
    table = storage.write(tmp_path / "source", pa.table({"x": [1]}))
    frame = session.readStream.format("headrace").load(str(tmp_path / "source"))
    run(session, frame, tmp_path / "target", tmp_path / "checkpoint")
    table.overwrite(pa.table({"x": [2]}))
    with pytest.raises(Exception, match="replaced all rows"):
        run(session, frame, tmp_path / "target", tmp_path / "checkpoint")
    assert storage.open(tmp_path / "target").to_table()["x"].to_pylist() == [1]


def test_a_stream_needs_to_know_its_query(tmp_path: Path) -> None:
    from headrace.storage.spark import stream_id

    assert stream_id({"queryId": "mine"}) == "mine"
    (tmp_path / "metadata").write_text('{"id":"7f0d"}')
    assert stream_id({"checkpointLocation": f"file://{tmp_path}"}) == "7f0d"
    for options in ({}, {"checkpointLocation": str(tmp_path / "nowhere")}, {"queryName": "name"}):
        with pytest.raises(ValueError, match="needs to know its query"):
            stream_id(options)
