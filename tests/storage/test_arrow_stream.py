"""Tables and scans as other engines see them: pandas, polars and DuckDB read the Arrow stream, and write from it too."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from headrace import storage

ROWS = pa.table(
    {
        "user": [1, 2, 3, 4],
        "items": [[7, 9], [], None, [4]],
        "word": ["a", None, "bb", ""],
        "price": [0.5, None, -0.0, 2.0],
        "at": pa.array([1, 2, None, 4], pa.timestamp("us", "UTC")),
        "flag": [True, False, None, True],
    }
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> storage.Table:
    made = storage.write(tmp_path_factory.mktemp("stream") / "t", ROWS, erase_key="user")
    made.append(ROWS)
    return made


def test_pyarrow_takes_tables_and_scans(table: storage.Table) -> None:
    assert pa.table(table).equals(pa.concat_tables([ROWS, ROWS]))
    reader = pa.RecordBatchReader.from_stream(table.scan(["word", "user"], filter=[("user", ">", 2)]))
    assert reader.schema.names == ["word", "user"]
    assert reader.read_all()["user"].to_pylist() == [3, 4, 3, 4]


def test_polars_takes_tables_and_scans(table: storage.Table) -> None:
    frame = pl.DataFrame(table)
    assert frame.to_dicts() == [*ROWS.to_pylist(), *ROWS.to_pylist()]
    some: Any = pl.DataFrame(table.scan(["items"], filter=[("user", "==", 1)]))
    assert some["items"].to_list() == [[7, 9], [7, 9]]
    assert isinstance(frame["at"][0], datetime.datetime)


def test_pandas_takes_tables_and_scans(table: storage.Table) -> None:
    frame = pd.DataFrame.from_records(pa.table(table.scan(["user", "price"])).to_pylist())
    assert frame["user"].tolist() == [1, 2, 3, 4] * 2
    frame = pa.table(table).to_pandas()
    assert frame["word"].tolist() == ["a", None, "bb", ""] * 2
    assert frame["price"].isna().tolist() == [False, True, False, False] * 2


def test_duckdb_takes_tables_and_scans(table: storage.Table) -> None:
    connection = duckdb.connect(config={"threads": 1})
    stream = table.scan(["user", "items", "word"])  # found by its name in this function
    found = connection.execute(
        "select user, len(items), word from stream where user <> 2 order by user, word"
    ).fetchall()
    assert found == [(1, 2, "a"), (1, 2, "a"), (3, None, "bb"), (3, None, "bb"), (4, 1, ""), (4, 1, "")]
    assert stream is not None


def test_what_other_engines_hold_becomes_a_table(tmp_path: Path) -> None:
    from_polars = storage.write(tmp_path / "polars", pl.DataFrame(ROWS))
    assert from_polars.to_table().to_pylist() == ROWS.to_pylist()
    relation = duckdb.connect(config={"threads": 1}).sql("select 1 as a, [1, 2] as b union all select 2, []")
    from_duckdb = storage.write(tmp_path / "duckdb", relation)
    assert sorted(from_duckdb.to_table().to_pylist(), key=lambda row: row["a"]) == [
        {"a": 1, "b": [1, 2]},
        {"a": 2, "b": []},
    ]
    from_pandas = storage.write(tmp_path / "pandas", pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}))
    assert from_pandas.to_table().to_pydict() == {"a": [1, 2], "b": [0.5, 1.5]}
