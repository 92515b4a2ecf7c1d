"""What formats are asked to do: the right answer is demanded before anything is timed, from ours and from rivals alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.data.ads import Ads, ads
from benchmarks.data.ground import WITHOUT_EMBEDDING, wide
from benchmarks.runners.answers import must_equal, sum_of_ids
from benchmarks.runners.cells import Format, bytes_of, start
from benchmarks.runners.format_ipc import Ipc
from benchmarks.runners.format_orc import Orc
from benchmarks.runners.format_ours import OneFile, Ours
from benchmarks.runners.format_parquet import DICTIONARY, Parquet, tuned
from benchmarks.runners.protocol import quickest

ROWS = 600
FORMATS: dict[str, Callable[[str], Format]] = {
    "ours": Ours,
    "ours, list views": lambda profile: Ours(profile, list_view=True),
    "parquet": lambda profile: Parquet(tuned=False),
    "parquet tuned": lambda profile: Parquet(tuned=True),
    "orc": lambda profile: Orc(),
    "ipc": lambda profile: Ipc(),
}
OPERATIONS: dict[str, dict[str, Any]] = {
    "everything": {"op": "read"},
    "everything, summed": {"op": "read_sum"},
    "projection": {"op": "read", "read_columns": ["user_id", "den_01"]},
    "take": {"op": "take", "rows": 50, "seed": 1, "read_columns": ["user_id", "cat_05", "seq_a"]},
    "take wide": {"op": "take", "rows": 50, "seed": 1},
    "filter": {"op": "filter", "column": "cat_02", "value": 3, "read_columns": ["user_id", "device"]},
}


@pytest.fixture(scope="module")
def source() -> pa.Table:
    return ads(Ads(rows=ROWS))


@pytest.fixture(scope="module")
def ground(source: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ground")
    data = {}
    for name, table in {"ads": source, "wide-40": wide(40, 20)}.items():
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
        data[name] = {"path": str(folder / name)}
    return {"data": data, "files": str(folder / "files"), "scratch": str(folder)}


@pytest.fixture
def args(ground: dict[str, Any]) -> dict[str, Any]:
    whole = {"dataset": "ads", "part": "all", "columns": None}
    return {**ground, **whole, "profile": "balanced", "profiles": ["size", "balanced"], "calls": 1}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_answers_every_question(name: str, operation: str, args: dict[str, Any]) -> None:
    runner = start({**args, **OPERATIONS[operation]}, FORMATS[name])
    runner.prepare()  # compares the answer with the source
    values = runner.run().values
    assert values["s"] > 0
    assert values["bytes"] > 10_000


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_those_of_files_that_hold_the_rows(name: str, args: dict[str, Any]) -> None:
    part = {"op": "size", "part": "flat", "columns": list(WITHOUT_EMBEDDING)}
    runner = start({**args, **part}, FORMATS[name])
    values = runner.run().values
    runner.finish()
    assert set(values) == {"bytes_size", "bytes_balanced"}
    assert all(value > 1_000 for value in values.values())


@pytest.mark.parametrize("name", FORMATS)
def test_writing_and_opening(name: str, args: dict[str, Any]) -> None:
    for op in ({"op": "write"}, {"op": "open", "datasets": ["wide-40"], "read": 5, "seed": 0}):
        make = OneFile if (name, op["op"]) == ("ours", "open") else FORMATS[name]
        runner = start({**args, **op}, make)
        for _ in range(2):
            runner.prepare()
            assert min(runner.run().values.values()) > 0
            runner.finish()


def test_a_wrong_answer_is_never_timed(args: dict[str, Any], source: pa.Table) -> None:
    class Forgetful(Ipc):
        key = "forgetful"

        def read(self, path: Path, columns: Any) -> pa.Table:
            found = super().read(path, columns)
            return found.set_column(0, "user_id", pa.chunked_array([np.zeros(ROWS, np.int64)]))

    runner = start({**args, "op": "read"}, lambda profile: Forgetful())
    with pytest.raises(ValueError, match="column 'user_id' differs"):
        runner.prepare()
    with pytest.raises(ValueError, match="expected 600 rows, got 599"):
        must_equal(source.slice(1), source)
    with pytest.raises(ValueError, match="expected columns"):
        must_equal(source.select(["ts"]), source.select(["label"]))


def test_lists_are_compared_by_what_they_hold() -> None:
    views = pa.ListViewArray.from_arrays(
        pa.array([2, 0, 1], pa.int32()), pa.array([2, 3, 0], pa.int32()), pa.array([1, 2, 3, 4])
    )
    lists = pa.array([[3, 4], [1, 2, 3], []])
    must_equal(pa.table({"x": views}), pa.table({"x": lists}))
    must_equal(pa.table({"x": views[1:]}), pa.table({"x": lists[1:]}))
    for other in ([[3, 4], [1, 2], [3]], [[3, 4], [1, 2, 5], []], [[3, 4], [1, 2, 3], None]):
        with pytest.raises(ValueError, match="'x' differs"):
            must_equal(pa.table({"x": views}), pa.table({"x": pa.array(other)}))


def test_the_sum_reads_every_id_of_every_row() -> None:
    child = pa.array([5, 1, 2, 3, 4])
    starts, sizes = [3, 0, 2, 4, 5, 1], [2, 5, 1, 0, 0, 4]
    views = pa.ListViewArray.from_arrays(pa.array(starts, pa.int32()), pa.array(sizes, pa.int32()), child)
    table = pa.table({"ids": views, "label": [1] * 6, "floats": [[0.5]] * 6})
    expected = sum(sum(row) for row in views.to_pylist())
    assert sum_of_ids(table) == expected
    assert sum_of_ids(pa.table({"ids": pa.array(views.to_pylist())})) == expected
    assert sum_of_ids(table.slice(1, 3)) == sum(sum(row) for row in views.to_pylist()[1:4])


def test_parquet_is_tuned_by_trial(source: pa.Table) -> None:
    options = tuned(source.select(["user_id", "ts", "query", "emb", "cat_00"]))
    assert options["column_encoding"]["emb.list.element"] == "BYTE_STREAM_SPLIT"
    chosen = {*options["column_encoding"], *options["use_dictionary"]}
    assert chosen == {"user_id", "ts", "query", "emb.list.element", "cat_00"}
    assert DICTIONARY not in options["column_encoding"].values()


def test_bytes_are_those_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"123")
    assert bytes_of(tmp_path / "a") == 8
    assert bytes_of(tmp_path / "a" / "one") == 5


def test_the_quickest_call_counts() -> None:
    calls: list[int] = []
    assert 0 <= quickest(lambda: calls.append(1), 7) < 1
    assert len(calls) == 7
