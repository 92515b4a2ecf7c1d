"""What forgetting will cost: the formula against throws, the expected layouts against measured ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage.erase_cost import advise, touched
from headrace.storage.errors import NoEraseKey


@pytest.mark.parametrize(("places", "blocks"), [(1, 50), (30, 50), (500, 50), (3, 1)])
def test_touched_blocks_are_those_of_throws(places: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    thrown = [len(np.unique(rng.integers(0, blocks, places))) for _ in range(2000)]
    assert touched(places, blocks) == pytest.approx(np.mean(thrown), rel=0.03)


def of(folder: Path, clustered: bool) -> storage.Table:
    rng = np.random.default_rng(1)
    users = rng.integers(0, 1000, 60_000)
    rows = pa.table(
        {"user": np.sort(users) if clustered else users, **{f"x{n}": rng.random(60_000) for n in range(6)}}
    )
    return storage.write(folder, rows, erase_key="user", profile="compliance")


def test_what_is_expected_is_near_what_is_measured(tmp_path: Path) -> None:
    for clustered, name in ((False, "scattered"), (True, "side by side")):
        table = of(tmp_path / name, clustered)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        costs = {cost.layout: cost for cost in advise(table, 0.02, [1])}
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert costs["as it lies"].persons == 20
        assert 0.5 < costs[name].blocks / costs["as it lies"].blocks < 1.5
        assert costs["side by side"].blocks < costs["scattered"].blocks
        assert costs["as it lies"].blocks <= costs["rewrite"].blocks


def test_fewer_runs_cost_less(tmp_path: Path) -> None:
    costs = advise(of(tmp_path / "t", clustered=False), 0.2)
    year = [cost.bytes_a_year for cost in costs]
    assert year == sorted(year)
    lies = {cost.runs: cost.bytes_a_year for cost in costs if cost.layout == "as it lies"}
    assert lies[13] < lies[52] < lies[365]


def test_what_cannot_be_advised(tmp_path: Path) -> None:
    plain = storage.write(tmp_path / "p", pa.table({"x": [1]}))
    with pytest.raises(NoEraseKey, match="without an erase key"):
        advise(plain, 0.1)
    empty = storage.write(tmp_path / "e", pa.table({"user": pa.array([], pa.int64())}), erase_key="user")
    with pytest.raises(NoEraseKey, match="nobody's rows"):
        advise(empty, 0.1)
    for share, cadences in ((0.0, [1]), (1.5, [1]), (0.1, [0])):
        with pytest.raises(ValueError, match="expected a share"):
            advise(empty, share, cadences)
