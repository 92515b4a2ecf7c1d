"""Spark reads and writes tables: the Python data source ``headrace``, for batches and for streams.

    register(spark)
    spark.read.format("headrace").option("columns", "user,price").load(path)
    frame.write.format("headrace").mode("append").save(path)

Rows travel as Arrow batches; executors stage files, the driver commits them in one manifest. Spark hands a Python data
source no list of columns, so projection is an option. Writing to a path without a table makes one. Types that Spark
lacks come widened (unsigned integers) or in its own unit (timestamps, microseconds in UTC) and go back the same way.
A stream's commits are keyed by its query and batch, so a batch that Spark repeats is committed once. Reading a stream
follows appended files version by version. Of a write that fails, the files that tasks reported are removed; one whose
task Spark killed before it reported stays, listed by no version and seen by no reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    DataSourceStreamArrowWriter,
    DataSourceStreamReader,
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    InputPartition,
    IsNotNull,
    IsNull,
    LessThan,
    LessThanOrEqual,
    WriterCommitMessage,
)
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.streaming.datasource import ReadLimit, SupportsTriggerAvailableNow
from pyspark.sql.types import StructType

from headrace.storage import opening
from headrace.storage.beginning import create
from headrace.storage.errors import NoSuchColumn, SchemaMismatch, TableExists, TableNotFound, TaskLost
from headrace.storage.layout import GROUP_ROWS
from headrace.storage.manifest import DATA, DataFile
from headrace.storage.paths import inside
from headrace.storage.sparktypes import from_spark, plain_type, spark_type, to_spark
from headrace.storage.table import Table

PARTITION_GROUPS = 16  # about a million rows a task

_PUSHED = {EqualTo: "==", GreaterThan: ">", GreaterThanOrEqual: ">=", LessThan: "<", LessThanOrEqual: "<="}


def register(spark: SparkSession) -> None:
    """Make the format ``headrace`` known to a session."""
    spark.dataSource.register(HeadraceSource)


def spark_schema(schema: pa.Schema) -> StructType:
    """A table's schema as Spark sees it."""
    fields = [pa.field(field.name, spark_type(field.type), field.nullable) for field in schema]
    found: StructType = from_arrow_schema(pa.schema(fields))
    return found


def read(
    spark: SparkSession,
    path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    version: int | None = None,
    stream: bool = False,
) -> DataFrame:
    """A table as a frame that reads no other columns than these: they go with a narrow schema of their own.

    Spark asks a Python data source for every column of its schema, whatever a query selects. Filters are handed down.

    Args:
        spark: the session; the format is made known to it.
        path: the table.
        columns: names, or patterns such as ``price_*``; None is all.
        version: an earlier one, for a batch.
        stream: follow what is appended.
    """
    register(spark)
    if str(spark.conf.get("spark.sql.python.filterPushdown.enabled", "false")).lower() != "true":
        spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    narrow = opening.open(Path(path), version).scan(columns).schema
    reader: Any = (spark.readStream if stream else spark.read).format("headrace")
    if version is not None:
        reader = reader.option("version", str(version))
    frame: DataFrame = (
        reader.schema(spark_schema(narrow)).option("columns", ",".join(narrow.names)).load(str(path))
    )
    return frame


def _path(options: Mapping[str, str]) -> Path:
    given = options.get("path")
    if not given:
        raise ValueError("format headrace needs a path: use .load(path) or .save(path)")
    parsed = urlparse(given)
    if parsed.scheme not in ("", "file"):
        raise ValueError(f"format headrace reads and writes local and mounted file systems, got {given!r}")
    return Path(parsed.path)


class HeadraceSource(DataSource):
    """The format ``headrace``. Options: ``path``, ``columns`` (names, comma-separated), ``version``, ``queryId``."""

    @classmethod
    def name(cls) -> str:
        return "headrace"

    def _table(self) -> Table:
        version = self.options.get("version")
        return opening.open(_path(self.options), int(version) if version else None)

    def schema(self) -> StructType:
        table = self._table()
        wanted = self.options.get("columns")
        names = [name.strip() for name in wanted.split(",")] if wanted else table.schema.names
        return spark_schema(table.scan(names).schema)

    def reader(self, schema: StructType) -> DataSourceReader:
        return _Reader(self._table(), schema)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:
        return _StreamReader(self._table(), schema)

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceArrowWriter:
        return _Writer(_open_or_create(_path(self.options), schema), overwrite)

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamArrowWriter:
        query_id = stream_id(self.options)
        return _StreamWriter(_open_or_create(_path(self.options), schema), overwrite, query_id)


def _open_or_create(path: Path, schema: StructType) -> Table:
    try:
        return opening.open(path)
    except TableNotFound:
        arrow = to_arrow_schema(schema, timezone="UTC")
        fields = [pa.field(field.name, plain_type(field.type)) for field in arrow]
        try:
            return create(path, pa.schema(fields))
        except TableExists:  # another writer was faster
            return opening.open(path)


def stream_id(options: Mapping[str, str]) -> str:
    """What a stream's commits are keyed by: the option ``queryId``, or the id that Spark keeps in the checkpoint.

    Raises:
        ValueError: neither is there. A name or a path would not do: with a new checkpoint batch numbers start again at
            0, and new rows would be taken for a replay of old ones.
    """
    if given := options.get("queryId"):
        return given
    checkpoint = options.get("checkpointLocation")
    metadata = Path(urlparse(checkpoint).path) / "metadata" if checkpoint else None
    if metadata is None or not metadata.is_file():
        raise ValueError(
            "a stream into headrace needs to know its query: set the option checkpointLocation to a folder on a local or "
            "mounted file system, or the option queryId to something new for each new checkpoint"
        )
    return str(json.loads(metadata.read_text())["id"])


@dataclass
class _Part(InputPartition):
    """Some row groups of one file: those that start in rows first..last."""

    file: DataFile
    first_row: int
    last_row: int


def _parts(files: Iterable[DataFile]) -> list[_Part]:
    step = PARTITION_GROUPS * GROUP_ROWS
    return [
        _Part(file, first, min(first + step, file.rows))
        for file in files
        for first in range(0, file.rows, step)
    ]


def _read(
    table: Table, schema: StructType, condition: pc.Expression | None, part: _Part
) -> Iterator[pa.RecordBatch]:
    target = to_arrow_schema(schema, timezone="UTC")
    scan = table._scan((part.file,), target.names, condition)
    for batch in scan.rows_from(part.first_row, part.last_row):
        yield to_spark(batch, target)


def _fitting(table: Table, schema: StructType) -> None:
    """Refuse a schema given by the user that is not a part of the table's."""
    known = spark_schema(table.schema)
    for field in schema:
        if field.name not in known.fieldNames():
            raise NoSuchColumn(
                f"{table.path}: has no column {field.name!r}; it has {known.fieldNames()[:20]}"
            )
        if known[field.name].dataType != field.dataType:
            raise SchemaMismatch(
                f"{table.path}: column {field.name!r} is {known[field.name].dataType.simpleString()}, asked for as "
                f"{field.dataType.simpleString()}; read it as it is and cast it in Spark"
            )


class _Reader(DataSourceReader):
    def __init__(self, table: Table, schema: StructType) -> None:
        _fitting(table, schema)
        self.table, self.schema = table, schema
        self.conditions: list[Any] = []

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:
        """Take over what means exactly the same in Arrow; Spark applies the rest itself."""
        for given in filters:
            condition = pushed(given, self.table.schema)
            if condition is None:
                yield given
            else:
                self.conditions.append(condition)

    def partitions(self) -> Sequence[InputPartition]:
        return _parts(self.table.files)

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        if not isinstance(partition, _Part):
            return iter(())  # a table without rows has no parts, and Spark then asks for one of its own
        condition = None
        for name, op, value in self.conditions:
            term = _term(name, op, value)
            condition = term if condition is None else condition & term
        return _read(self.table, self.schema, condition, partition)


def pushed(given: Filter, schema: pa.Schema) -> tuple[str, str, Any] | None:
    """A filter as (column, op, value), or None if Spark must apply it.

    Only whole numbers, booleans, strings and dates: for floats Spark orders NaN above all and equal to itself, Arrow
    does not, and a timestamp's value depends on the session's time zone.
    """
    name = getattr(given, "attribute", ("", ""))
    if len(name) != 1 or name[0] not in schema.names:
        return None
    type_ = schema.field(name[0]).type
    if isinstance(given, IsNull | IsNotNull):
        return name[0], "null" if isinstance(given, IsNull) else "not null", None
    plain = pa.types.is_integer(type_) or type_ in (pa.bool_(), pa.string(), pa.date32())
    if not plain or type_ == pa.uint64():
        return None
    if isinstance(given, In) and all(value is not None for value in given.value):
        return name[0], "in", list(given.value)
    op = _PUSHED.get(type(given))
    return None if op is None or given.value is None else (name[0], op, given.value)


def _term(name: str, op: str, value: Any) -> Any:
    field = pc.field(name)
    match op:
        case "null":
            return field.is_null()
        case "not null":
            return field.is_valid()
        case "in":
            return field.isin(value)
        case "==":
            return field == value
        case ">":
            return field > value
        case ">=":
            return field >= value
        case "<":
            return field < value
    return field <= value


class _StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Follows appended files; a position is the version up to which they were read."""

    def __init__(self, table: Table, schema: StructType) -> None:
        _fitting(table, schema)
        self.table, self.schema = table, schema
        self.stop_at: int | None = None

    def initialOffset(self) -> dict[str, int]:
        return {"version": 0}

    def prepareForTriggerAvailableNow(self) -> None:
        self.stop_at = self.table.refresh().version

    def latestOffset(self, start: dict[str, int], limit: ReadLimit) -> dict[str, int]:
        newest = self.table.refresh().version if self.stop_at is None else self.stop_at
        return {"version": max(newest, start["version"])}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> Sequence[InputPartition]:
        if end["version"] <= start["version"]:
            return []
        return _parts(opening.open(self.table.path, end["version"]).added(start["version"]))

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Part)
        return _read(self.table, self.schema, None, partition)


@dataclass
class Staged(WriterCommitMessage):
    """What a task sends to the driver: its file, or none if it had no rows."""

    files: tuple[DataFile, ...]


def _stage(table: Table, batches: Iterator[pa.RecordBatch]) -> Staged:
    schema = table.schema
    staged = table.stage_parts(from_spark(batch, schema) for batch in batches)
    for empty in staged:
        if not empty.rows:
            inside(table.path, empty.path, DATA).unlink()
    return Staged(tuple(file for file in staged if file.rows))


def _files(messages: Sequence[WriterCommitMessage | None]) -> list[DataFile]:
    found: list[DataFile] = []
    for number, message in enumerate(messages):
        if not isinstance(message, Staged):
            raise TaskLost(
                f"task {number} of {len(messages)} reported no file; nothing was committed, write again"
            )
        found += message.files
    return found


def _discard(table: Table, messages: Sequence[WriterCommitMessage | None]) -> None:
    """Remove the staged files of an aborted write, except those that a commit of unknown outcome did publish."""
    published = {file.path for file in opening.open(table.path).files}
    for message in messages:
        if isinstance(message, Staged):
            for file in message.files:
                if file.path not in published:
                    inside(table.path, file.path, DATA).unlink(missing_ok=True)


class _Writer(DataSourceArrowWriter):
    def __init__(self, table: Table, overwrite: bool) -> None:
        self.table, self.overwrite = table, overwrite

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        return _stage(self.table, iterator)

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        self.table.commit(_files(messages), replace_all=self.overwrite)

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        _discard(self.table, messages)


class _StreamWriter(DataSourceStreamArrowWriter):
    def __init__(self, table: Table, overwrite: bool, query_id: str) -> None:
        if overwrite:
            raise ValueError(
                "a stream into headrace appends; output mode complete would replace all rows every batch"
            )
        self.table, self.query_id = table, query_id

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        return _stage(self.table, iterator)

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        done = self.table.commit(_files(messages), key=(self.query_id, batchId))
        if done.replayed:
            _discard(self.table, messages)

    def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        _discard(self.table, messages)
