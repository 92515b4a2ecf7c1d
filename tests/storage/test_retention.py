"""Retention classes: rows of a class that end together lie in files of their own, and go with them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import headrace.storage as storage
from headrace.storage import erase, retention
from headrace.storage.compaction import compact
from headrace.storage.errors import ClockDoubtful, NoSuchVersion, StorageError
from headrace.storage.evolution import Drop, Rename, evolve
from headrace.storage.parting import Retention

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAYS = Retention("kind", "at", {"short": 7, "long": 365})
ADAY_MS = 86_400_000


def _ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def _rows(n: int = 400, days: int = 20) -> pa.Table:
    """Two declared classes, one that was not, and some without class or time; 20 days of arrivals."""
    rng = np.random.default_rng(3)
    kinds = [("short", "long", "other", None)[k] for k in rng.choice(4, n, p=[0.6, 0.3, 0.05, 0.05])]
    times = [START + timedelta(days=float(k)) for k in np.sort(rng.random(n)) * days]
    return pa.table(
        {
            "user": rng.integers(0, 40, n),
            "kind": pa.array(kinds),
            "at": pa.array(
                [None if i % 97 == 5 else t for i, t in enumerate(times)], pa.timestamp("us", "UTC")
            ),
            "n": np.arange(n),
        }
    )


def _table(path: Path, rows: pa.Table, kept: Retention = DAYS) -> storage.Table:
    table = storage.create(path, rows.schema, erase_key="user", retention=kept, clock_ms=lambda: _ms(START))
    half = rows.num_rows // 2
    for part in (rows.slice(0, half), rows.slice(half)):
        table.commit(table.stage_parts(part.to_batches()))
    return table


def _ended(rows: pa.Table, now: datetime, every: int = 1) -> set[int]:
    """Slowly, by the words of the declaration: what may not be there any more."""
    found = set()
    for row in rows.to_pylist():
        if row["at"] is None or row["kind"] not in DAYS.days:
            continue
        begun = (row["at"] - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(days=1)
        day = -(-(int(np.ceil(begun)) + DAYS.days[row["kind"]]) // every) * every
        if now >= datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day):
            found.add(row["n"])
    return found


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_has_ended_goes_whole_and_nothing_else_does(tmp_path: Path, compacted: bool, every: int) -> None:
    rows = _rows()
    table = _table(tmp_path / "t", rows, Retention("kind", "at", DAYS.days, every))
    if compacted:
        compact(table, cluster_by="user", everything=True)
    for days in (3, 8, 15, 60, 372, 400):
        now = START + timedelta(days=days)
        paths, n_rows = {file.path for file in table.files}, table.num_rows
        done = retention.expire(table, clock_ms=lambda now=now: _ms(now))  # type: ignore[misc]
        assert set(done.files) >= paths - {file.path for file in table.files}
        shown = set(storage.open(tmp_path / "t").to_table()["n"].to_pylist())
        assert shown == set(range(rows.num_rows)) - _ended(rows, now, every)
        assert done.rows == n_rows - table.num_rows
        if done.version:  # the bytes are gone from every version
            assert not any((tmp_path / "t" / path).exists() for path in done.files)
            assert done.closed_before == done.version
            with pytest.raises(NoSuchVersion, match="closed"):
                storage.open(tmp_path / "t", done.version - 1)


def test_no_row_goes_early_and_none_outlives_its_period_by_a_day_and_the_grouping() -> None:
    rows = _rows().to_batches()[0]
    days = retention.deadlines(rows, Retention("kind", "at", DAYS.days, 3)).to_pylist()
    for row, day in zip(rows.to_pylist(), days, strict=True):
        if row["at"] is None or row["kind"] not in DAYS.days:
            assert day is None
            continue
        over = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day) - row["at"]
        assert timedelta() <= over - timedelta(days=DAYS.days[row["kind"]]) < timedelta(days=4)


def test_dates_count_from_their_midnight(tmp_path: Path) -> None:
    rows = pa.record_batch({"kind": ["short"], "at": pa.array([date(1970, 1, 2)])})
    assert retention.deadlines(rows, DAYS).to_pylist() == [8]


def test_a_file_is_of_one_class_and_one_day_and_a_filter_leaves_others_out(tmp_path: Path) -> None:
    table = _table(tmp_path / "t", _rows())
    compact(table, everything=True)
    for file in table.files:
        mine = table._scan((file,)).to_table()
        assert len(mine["kind"].unique()) == 1
        assert (
            len(
                {str(d) for d in retention.deadlines(mine.combine_chunks().to_batches()[0], DAYS).to_pylist()}
            )
            == 1
        )
    some = table.scan(["n"], [("kind", "==", "long")])
    assert 0 < len(some.files) < len(table.files)
    assert some.to_table().num_rows == table.to_table()["kind"].to_pylist().count("long")


def test_persons_stay_forgotten_and_what_is_left_is_counted(tmp_path: Path) -> None:
    rows = _rows()
    table = _table(tmp_path / "t", rows)
    erase.erase(table, [1, 2, 3])
    now = START + timedelta(days=12)
    before = retention.standing(table, clock_ms=lambda: _ms(now))
    done = retention.expire(table, clock_ms=lambda: _ms(now))
    assert sum(one.due_rows for one in before) == done.rows > 0
    assert [one.name for one in before] == ["short", "long", None]
    after = retention.standing(table, clock_ms=lambda: _ms(now))
    assert sum(one.due_rows for one in after) == 0
    assert sum(one.rows for one in after) == table.num_rows
    assert after[0].next_on is not None
    assert after[0].next_on > now.date().isoformat()
    assert not set(storage.open(tmp_path / "t").to_table()["user"].to_pylist()) & {1, 2, 3}
    late = storage.open(tmp_path / "t")
    late.commit(late.stage_parts(rows.filter(pa.array(np.asarray(rows["user"]) == 1)).to_batches()))
    assert 1 not in late.to_table()["user"].to_pylist()


def test_a_dry_run_writes_nothing_and_a_doubtful_clock_removes_nothing(tmp_path: Path) -> None:
    table = _table(tmp_path / "t", _rows())
    now = START + timedelta(days=100)
    planned = retention.expire(table, dry_run=True, clock_ms=lambda: _ms(now))
    assert planned.rows
    assert planned.version == 0
    assert table.version == storage.open(tmp_path / "t").version
    newest = next(iter(table.history())).committed_at_ms
    with pytest.raises(ClockDoubtful, match="nothing was removed"):
        retention.expire(table, clock_ms=lambda: newest + 401 * ADAY_MS)
    assert storage.open(tmp_path / "t").num_rows == 400


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (Retention("sort", "at", {"a": 1}), "sort"),
        (Retention("kind", "when", {"a": 1}), "when"),
        (Retention("n", "at", {"a": 1}), "a retention class is a string"),
        (Retention("kind", "n", {"a": 1}), "a timestamp or a date"),
        (Retention("kind", "at", {}), "no class"),
        (Retention("kind", "at", {"a": 0}), "whole days from 1"),
        (Retention("kind", "at", {"a": 2.5}), "whole days from 1"),  # type: ignore[dict-item]
        (Retention("kind", "at", {"a": 10**6}), "whole days from 1"),
        (Retention("kind", "at", {"a": 7}, 8), "to the shortest period, 7"),
    ],
)
def test_a_bad_declaration_is_refused_in_one_sentence(tmp_path: Path, declared: Retention, says: str) -> None:
    with pytest.raises((StorageError, ValueError), match=says) as caught:
        storage.create(tmp_path / "t", _rows().schema, retention=declared)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_class_that_tells_of_a_person_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="tells of a person"):
        storage.create(tmp_path / "t", _rows().schema, personal=["kind"], retention=DAYS)


def test_a_declared_table_keeps_its_columns_and_its_way_of_writing(tmp_path: Path) -> None:
    table = _table(tmp_path / "t", _rows())
    for change in (Drop("kind"), Rename("at", "seen")):
        with pytest.raises(StorageError, match="retention is declared by"):
            evolve(table, [change])
    with pytest.raises(StorageError, match="stage_parts"):
        table.stage(_rows().to_batches())


def test_a_table_without_a_declaration_says_so(tmp_path: Path) -> None:
    table = storage.write(tmp_path / "t", _rows())
    assert retention.standing(table) == []
    with pytest.raises(StorageError, match="declares no retention"):
        retention.expire(table)
