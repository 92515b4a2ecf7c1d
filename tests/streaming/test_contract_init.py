"""Drafts of contracts: they load, and they accept the file they were drafted from."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.contracts import BadContract, gate
from headrace.streaming.contracts.init import infer, read_events
from headrace.streaming.contracts.toml_file import parse

START = datetime(2026, 1, 1, tzinfo=UTC)


def table(n: int = 50) -> pa.Table:
    return pa.table(
        {
            "note": [f"SECRET {row % 7}" if row % 3 else None for row in range(n)],
            "userId": [row % 5 for row in range(n)],
            "movieId": [row % 9 for row in range(n)],
            "rating": [row % 10 / 2 for row in range(n)],
            "when": [START + timedelta(seconds=row) for row in range(n)],
            "number": pa.array(range(100, 100 + n), pa.int32()),
        }
    )


def write(path: Path, events: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(events, path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(events, path)
    else:
        rows = [
            {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
            for row in events.to_pylist()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["seen ratings.parquet", "seen ratings.csv", "seen ratings.jsonl"])
def test_a_draft_accepts_its_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, table())
    text = infer(path)
    contract = parse(text)
    assert contract.topic == "seen_ratings"
    assert contract.names == ("note", "userId", "movieId", "rating", "when", "number")
    assert contract.features.event_id == "number"
    assert contract.features.event_time == "when"
    assert contract.features.key == contract.features.erase_key == "userId"
    assert contract.features.item == "movieId"
    assert contract.column("note").required is False
    assert contract.column("rating").required is True
    assert contract.column("rating").is_float
    batch = read_events(path, contract)
    assert batch.num_rows == 50
    assert gate(batch, contract).failures == {}
    assert batch.column("when").to_pylist()[0] == START
    assert "SECRET" not in text
    assert "# missing in 17 of 50 events" in text
    assert "# seen: between = [0, 4.5]" in text or "# seen: between = [0.0, 4.5]" in text
    assert "# seen: max_length = 8, 7 different values" in text


def test_parquet_types(tmp_path: Path) -> None:
    events = pa.table(
        {
            "id": pa.array(["a", "b"]).dictionary_encode(),
            "day": pa.array([START.date()] * 2, pa.date32()),
            "half": pa.array([1.0, 2.0], pa.float32()).cast(pa.float16()),
            "large": pa.array(["x", "y"], pa.large_string()),
            "nothing": pa.nulls(2),
            "list": pa.array([[1], [2, 3]], pa.large_list(pa.uint16())),
            "flag": [True, None],
        }
    )
    path = write(tmp_path / "t.parquet", events)
    contract = parse(infer(path))
    assert [column.type_name for column in contract.columns] == [
        "string",
        "timestamp",
        "float32",
        "string",
        "string",
        "list<uint16>",
        "bool",
    ]
    batch = read_events(path, contract)
    assert gate(batch, contract).failures == {}
    assert batch.column("list").to_pylist() == [[1], [2, 3]]


COLUMNS = {
    "count": st.integers(-(2**63), 2**63 - 1),
    "share": st.floats(allow_nan=False, allow_infinity=False),
    "text": st.text(max_size=4),
    "words": st.lists(st.text(max_size=3), max_size=3),
}


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({n: st.none() | s for n, s in COLUMNS.items()}), min_size=1, max_size=5
    )
)
def test_any_draft_accepts_its_file(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    types = [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.string())]
    events = pa.Table.from_pylist(rows, pa.schema(list(zip(COLUMNS, types, strict=True))))
    events = events.append_column("id", pa.array(range(len(rows)))).append_column(
        "at", pa.array([START] * len(rows))
    )
    path = write(tmp_path_factory.mktemp("draft") / "events.parquet", events)
    contract = parse(infer(path))
    assert gate(read_events(path, contract), contract).failures == {}


@pytest.mark.parametrize(
    ("name", "events", "expected"),
    [
        ("a.txt", {"id": [1]}, "a name ending in"),
        ("a.parquet", {"id": [], "at": []}, "at least one event"),
        ("a.parquet", {"id": [1]}, "a column of timestamps"),
        ("a.parquet", {"id": [1, None], "at": [START, START]}, "text or integers without nulls"),
        ("a.parquet", {"id": [1], "at": [START], "x y": [1]}, "letters, digits"),
        ("a.parquet", {"id": [1], "at": [START], "_x": [1]}, "letters, digits"),
        ("a.parquet", {"id": [1], "at": [START], "x": [{"y": 1}]}, "one of the types"),
        ("a.parquet", {"id": [1], "at": [START], "x": [[0.5]]}, "one of the types"),
        ("a.parquet", None, "a parquet file"),
        ("a.jsonl", None, "a jsonl file"),
    ],
)
def test_files_without_a_contract(
    tmp_path: Path, name: str, events: dict[str, Any] | None, expected: str
) -> None:
    path = tmp_path / name
    if events is None:
        path.write_bytes(b'{"secret": ')
    elif path.suffix == ".parquet":
        write(path, pa.table(events))
    with pytest.raises(BadContract) as caught:
        infer(path)
    assert expected in caught.value.expected
    assert str(path) == caught.value.file


def test_a_file_that_does_not_fit_the_contract(tmp_path: Path) -> None:
    contract = parse(infer(write(tmp_path / "a.parquet", table())))
    other = write(
        tmp_path / "b.parquet", table().set_column(1, "userId", pa.array(["x"] * 50)).drop_columns(["rating"])
    )
    with pytest.raises(BadContract, match=r"b\.parquet: userId: expected int64, got string"):
        read_events(other, contract)
    fewer = write(tmp_path / "c.parquet", table().drop_columns(["rating"]))
    assert gate(read_events(fewer, contract), contract).failures == {"required:rating": 50}
