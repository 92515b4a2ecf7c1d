"""Compaction keeps every row and puts them in the order asked for; the best rows are a prefix of what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import compaction
from headrace.storage.compaction import compact, plan
from headrace.storage.conflicts import CONFLICTS, OPERATIONS, Verdict, verdict
from headrace.storage.errors import NoSuchColumn, PlanOutdated, SchemaMismatch
from headrace.storage.evolution import Add, Rename, evolve
from headrace.storage.quality import above, best
from headrace.storage.table import Table

from .bits import same_table


def rows(seed: int, n: int = 3000) -> pa.Table:
    rng = np.random.default_rng(seed)
    quality = rng.random(n)
    quality[:3] = np.nan
    return pa.table(
        {
            "user": pa.array(rng.integers(0, 50, n)),
            "quality": pa.array(quality, mask=np.arange(n) == 5),
            "n": pa.array(np.arange(n) + seed * n),
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    found = storage.create(tmp_path / "t", rows(0).schema, erase_key="user")
    for seed in range(6):
        found.append(rows(seed))
    return found


def test_one_persons_rows_lie_together_in_the_order_they_came(table: Table) -> None:
    before = table.to_table()
    assert [len(part.files) for part in plan(table, cluster_by="user")] == [6]
    done = compact(table, cluster_by="user", memory_bytes=1 << 18)  # several pieces
    assert (done.files_before, done.files_after, done.rows) == (6, 1, 18_000)
    after = table.to_table()
    users = after["user"].to_numpy()
    assert (np.diff(users) >= 0).all()
    assert all((np.diff(after["n"].to_numpy()[users == user]) > 0).all() for user in range(50))
    assert same_table(after.sort_by("n"), before.sort_by("n"))
    assert same_table(storage.open(table.path, 7).to_table(), before)
    assert compact(table, cluster_by="user").commit is None, "it is so already"
    assert table.files[0].order is not None
    assert not table.files[0].order.values, "no person's key in a manifest"


KEYS = {
    "int": pa.array([3, None, 1, 2] * 700, pa.int64()),
    "float": pa.array([0.5, np.nan, None, -np.inf] * 700),
    "bool": pa.array([True, None, False, True] * 700),
    "word": pa.array(["b", "a", None, ""] * 700),
    "code": pa.array(["b", "a", None, "c"] * 700).dictionary_encode(),
    "decimal": pa.array([1, 3, None, 2] * 700, pa.int64()).cast(pa.decimal128(21, 2)),
    "bytes": pa.array([b"b", b"a", None, b"c"] * 700, pa.binary(1)),
}


@pytest.mark.parametrize("column", KEYS)
def test_memory_changes_no_order(column: str, tmp_path: Path) -> None:
    """At once or piece by piece: ascending, nulls last, rows of equal keys as they came."""
    came = pa.table({column: KEYS[column], "row": np.arange(2800)})
    found = []
    for memory in (1 << 30, 4096):
        table = storage.write(tmp_path / f"{memory}", came.slice(0, 1000))
        for start in range(1000, 2800, 600):
            table.append(came.slice(start, 600))
        compact(table, cluster_by=column, memory_bytes=memory)
        found.append(table.to_table())
    assert found[0]["row"].equals(found[1]["row"])
    keys, rows = found[0][column].to_pylist(), found[0]["row"].to_pylist()
    rank = [(key is None, key != key, 0 if key is None or key != key else key) for key in keys]
    assert list(zip(rank, rows, strict=True)) == sorted(zip(rank, rows, strict=True))


def test_files_of_the_target_size_are_left_alone(table: Table) -> None:
    size = table.files[0].bytes
    assert compact(table, target_bytes=size).commit is None
    assert compact(table, target_bytes=size * 100).files_after == 1
    table.append(rows(9, 10))
    assert compact(table, target_bytes=size * 2).commit is None, "one small file alone is no reason"
    assert compact(table, everything=True).files_before == 2


def test_parts_are_compacted_apart(tmp_path: Path) -> None:
    table = storage.create(tmp_path / "t", rows(0).schema, partition_by=["bucket(user, 3)"])
    for seed in range(3):
        table.append(rows(seed))
    compact(table, cluster_by="user")
    assert sorted(file.partition["user"] for file in table.files) == [0, 1, 2]
    assert table.scan(filter=[("user", "==", 7)]).to_table().num_rows == sum(
        rows(seed)["user"].to_pylist().count(7) for seed in range(3)
    )


def test_joined_columns_end_up_in_one_file(table: Table) -> None:
    evolve(
        table, [Add("twice", pa.int64(), lambda b: pa.array(b["n"].to_numpy() * 2), ("n",)), Rename("n", "m")]
    )
    before = table.to_table()
    compact(table, cluster_by="user")
    assert [file.families for file in table.files] == [()]
    assert same_table(table.to_table().sort_by("m"), before.sort_by("m"))


def test_the_best_rows_are_a_prefix(table: Table) -> None:
    compact(table, quality="quality")
    quality = np.nan_to_num(table.to_table()["quality"].to_numpy(zero_copy_only=False), nan=-1.0)
    assert (np.diff(quality) <= 0).all()
    found = best(table, "quality", 0.3)
    assert [count for _, count in found.prefixes] == [5400]
    assert found.to_table()["n"].to_pylist() == table.scan(rows=range(5400)).to_table()["n"].to_pylist()
    assert above(table, "quality", 0.5, ["n"]).to_table().num_rows == int((quality >= 0.5).sum())
    assert above(table, "quality", 2.0).to_table().num_rows == 0
    assert best(table, "quality", 1).to_table().num_rows == 18_000, "nulls and NaN last"


def test_rows_that_came_later_are_among_the_best(table: Table) -> None:
    compact(table, quality="quality")
    table.append(pa.table({"user": [1, 2], "quality": [0.99, 0.01], "n": [-1, -2]}))
    every = np.nan_to_num(table.to_table()["quality"].to_numpy(zero_copy_only=False), nan=-1.0)
    found = best(table, "quality", 0.25)
    assert found.threshold == np.sort(every)[::-1][int(np.ceil(0.25 * len(every))) - 1]
    numbers = found.to_table()["n"].to_pylist()
    assert -1 in numbers
    assert -2 not in numbers
    assert len(numbers) == int((every >= found.threshold).sum())
    assert pa.table(found).num_rows == len(numbers)
    with pytest.raises(ValueError, match="share"):
        best(table, "quality", 0)


def test_what_cannot_be_an_order(table: Table) -> None:
    with pytest.raises(NoSuchColumn):
        compact(table, cluster_by="nope")
    with pytest.raises(ValueError, match="one order"):
        compact(table, cluster_by="user", quality="quality")
    evolve(table, [Add("word", pa.string()), Add("list", pa.list_(pa.int8()))])
    with pytest.raises(SchemaMismatch, match="number"):
        compact(table, quality="word")
    with pytest.raises(SchemaMismatch, match="order"):
        compact(table, cluster_by="list")


def test_every_pair_of_operations_has_a_verdict() -> None:
    assert len(CONFLICTS) == len(OPERATIONS) ** 2
    assert all(
        CONFLICTS[mine, "erase"] is not Verdict.PASS for mine in ("overwrite", "compact", "evolve", "repair")
    )
    assert verdict("append", OPERATIONS)[0] is Verdict.PASS
    assert verdict("compact", ["a newer operation"])[0] is Verdict.REPLAN


def test_compaction_meets_others(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append in between stays; another compaction or an evolution makes it plan again; an overwrite ends it."""
    keep = compaction._rewritten
    meets = iter(("append", "compact", "evolve", "overwrite", "none", "none"))
    other = storage.open(table.path)
    met = []

    def meeting(*args: object) -> object:
        done = keep(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(compaction, "_rewritten", keep)
        met.append(what := next(meets))
        other.refresh()
        if what == "append":
            other.append(rows(20, 5))
        elif what == "compact":
            compact(other, everything=True)
        elif what == "evolve":
            evolve(other, [Add("twice", pa.int64(), lambda b: b["n"], ("n",))])
        elif what == "overwrite":
            other.overwrite(pa.table({"user": [1], "quality": [0.5], "n": [7], "twice": [7]}))
        return done

    def again(expected: int) -> None:
        monkeypatch.setattr(compaction, "_rewritten", meeting)
        before = storage.open(table.path).num_rows
        compact(table, cluster_by="user", everything=True)
        assert storage.open(table.path).num_rows == before + expected

    again(5)
    again(0)
    again(0)
    assert "twice" in table.schema.names
    monkeypatch.setattr(compaction, "_rewritten", meeting)
    compact(table, cluster_by="user", everything=True)
    assert met == ["append", "compact", "evolve", "overwrite"]
    assert storage.open(table.path).to_table()["n"].to_pylist() == [7]
    listed = {file.path for version in storage.open(table.path).history() for file in version.files}
    present = {f"data/{path.name}" for path in (table.folder / "data").iterdir()}
    families = {f.path for file in storage.open(table.path, 9).files for f in file.families}
    assert len(present - listed - families) <= 1, "what was thrown away is removed"


def test_a_compaction_that_never_gets_through_says_so(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, other = compaction._rewritten, storage.open(table.path)

    def meeting(*args: object) -> object:
        done = keep(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(compaction, "_rewritten", keep)
        compact(other, everything=True)
        monkeypatch.setattr(compaction, "_rewritten", meeting)
        return done

    monkeypatch.setattr(compaction, "_rewritten", meeting)
    with pytest.raises(PlanOutdated, match="8 times"):
        compact(table, everything=True)
