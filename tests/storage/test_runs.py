"""Rows that stay when some go: moved in place, against Arrow's own filter; and scans that leave rows out, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyroaring import BitMap

import headrace.storage as storage
from headrace.storage import runs
from headrace.storage.exact import plain
from headrace.storage.logical import column_type
from headrace.storage.reader import File
from headrace.storage.runs import Runs
from tests.storage.every_type import DICTIONARIES, LEAVES, NESTED, array, bits, lists_of, same
from tests.storage.rich import rich

N = 300
LISTS = [list_ for item in (pa.int32(), pa.string(), pa.bool_()) for list_ in lists_of(item)]


def _gone(rng: np.random.Generator, n: int, kind: str) -> np.ndarray:
    """Few, many, all but one, a stretch, none."""
    if kind == "stretch":
        return (np.arange(n) >= n // 3) & (np.arange(n) < n // 2)
    share = {"few": 0.03, "many": 0.6, "none": 0.0}[kind]
    return rng.random(n) < share


@pytest.mark.parametrize("kind", ["few", "many", "stretch", "none"])
@pytest.mark.parametrize("nulls", [0.0, 0.3, 1.0])
def test_what_stays_is_what_arrow_s_filter_gives(kind: str, nulls: float) -> None:
    rng = np.random.default_rng(5)
    for type_ in [*LEAVES, *LISTS]:
        column = column_type(type_, "x")
        if column.is_nested:
            continue
        gone = _gone(rng, N, kind)
        values = plain(array(rng, type_, N, nulls), column.plain)
        want = values.filter(pa.array(~gone))
        own = values.take(pa.array(np.arange(N)))  # in memory that nobody else holds
        found = runs.kept(own, Runs.without(gone))
        found.validate(full=True)
        assert same(found, want), type_


def test_numbers_of_rows_survive_cuts() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        gone = rng.random(N) < rng.random()
        whole = Runs.without(gone)
        first, last = sorted(rng.integers(0, N + 1, 2).tolist())
        assert whole.rows.tolist() == np.flatnonzero(~gone).tolist()
        assert whole.cut(first, last).rows.tolist() == np.flatnonzero(~gone[first:last]).tolist()
        assert whole.before(last) == np.count_nonzero(~gone[:last])


def test_the_kernel_and_its_twin_move_alike() -> None:
    rng = np.random.default_rng(9)
    for width in (1, 3, 8):
        kept = Runs.without(_gone(rng, N, "few"))
        one, other = (np.arange(N * width, dtype=np.uint32) for _ in range(2))
        runs._keep(one, kept.begins, kept.ends, width)
        runs._keep_numpy(other, kept.begins, kept.ends, width)
        n = kept.n * width
        assert (one[:n] == other[:n]).all()
        assert (one[:n].reshape(-1, width)[:, 0] // width == kept.rows).all()


@pytest.mark.parametrize("memory_bytes", [1 << 29, 1 << 17])
def test_hidden_rows_are_left_out_of_every_column_whatever_the_steps(
    tmp_path: Path, memory_bytes: int
) -> None:
    rng = np.random.default_rng(4)
    types = [*LEAVES, *DICTIONARIES, *NESTED]
    n = 1300
    columns = {f"c{at}": array(rng, type_, n, 0.1) for at, type_ in enumerate(types)}
    table = pa.table(columns)
    storage.write(tmp_path / "t", table)
    gone = rng.random(n) < 0.02
    kept = np.flatnonzero(~gone)
    with File(next((tmp_path / "t" / "data").glob("*.hrc"))) as file:
        file.hide(BitMap(np.flatnonzero(gone).tolist()).serialize())
        for name in columns:
            parts = list(file.batches([name], memory_bytes=memory_bytes, batch_rows=1024))
            want = storage.open(tmp_path / "t").scan([name]).take(kept)[name]
            assert [one for part in parts for one in bits(part.column(0))] == [
                one for chunk in want.chunks for one in bits(chunk)
            ]


def test_persons_in_clustered_histories_and_text_are_left_out(tmp_path: Path) -> None:
    table = rich(1300)
    key = table.schema.names[0]
    storage.write(tmp_path / "t", table, erase_key=key)
    gone = np.zeros(table.num_rows, np.bool_)
    gone[7::40] = True
    with File(next((tmp_path / "t" / "data").glob("*.hrc"))) as file:
        want = list(file.batches())
        file.hide(BitMap(np.flatnonzero(gone).tolist()).serialize())
        for memory_bytes in (1 << 29, 1 << 17):
            found = pa.Table.from_batches(list(file.batches(memory_bytes=memory_bytes)))
            whole = pa.Table.from_batches(want)
            rows = pa.array(np.flatnonzero(~gone))
            for name in table.schema.names:
                assert found[name].equals(whole[name].take(rows)), name
