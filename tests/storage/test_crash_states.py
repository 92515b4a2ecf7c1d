"""Whatever state the disk is found in after a crash, acknowledged commits are there and every kept version reads.

Workloads: appends with attachments and keys, compaction, evolution, and garbage collection. Each fsync and each rename is
then left out in turn: the same states must show that something is lost. Longer forms run in the soak.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import headrace.storage as storage
from headrace.storage.collecting import collect
from headrace.storage.compaction import compact
from headrace.storage.errors import TableNotFound
from headrace.storage.evolution import Add, Drop, Rename, evolve
from headrace.storage.table import Table

from .crash import Disk, State

SCHEMA = pa.schema([("user", pa.int64()), ("word", pa.string())])


class Lost(AssertionError):
    """A state in which something is lost."""


class Watch:
    """Judges states: the table must show an acknowledged version, or the one that is on its way."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.images = scratch, itertools.count()
        self.acknowledged = 0
        self.contents: dict[int, object] = {}
        self.judged: dict[State, tuple[int, int]] = {}
        self.states = 0

    def acknowledge(self, table: Table) -> None:
        """A commit returned: from now on its version, or a later one, must be there."""
        self.acknowledged = table.version
        self.contents[table.version] = _rows(table)

    def __call__(self, disk: Disk, states: Iterator[State]) -> None:
        for state in states:
            self.states += 1
            found = self.judged.get(state)
            if found is None:
                found = self.judged[state] = self._open(disk, state)
            version, oldest = found
            if version < self.acknowledged:
                raise Lost(f"version {self.acknowledged} was acknowledged, the table is at {version}")
            del oldest

    def _open(self, disk: Disk, state: State) -> tuple[int, int]:
        image = self.scratch / f"{next(self.images)}"
        disk.make(state, image)
        try:
            table = storage.open(image / "t")
        except TableNotFound:
            return 0, 0
        except Exception as error:
            raise Lost(f"the table cannot be opened: {error}") from error
        try:
            history = [commit.version for commit in table.history()]
            for version in history:
                older = storage.open(image / "t", version)
                found = _rows(older)
                if self.contents.setdefault(version, found) != found:
                    raise Lost(f"version {version} holds {found}, expected {self.contents[version]}")
            for commit in table.history():
                for entry in commit.attachments:
                    commit.attachment(entry.name)
        except Lost:
            raise
        except Exception as error:
            raise Lost(f"version {table.version} cannot be read: {error}") from error
        finally:
            shutil.rmtree(image)
        return table.version, history[-1]


def _rows(table: Table) -> object:
    return sorted(map(str, table.to_table().to_pylist()))


def rows(*users: int) -> pa.Table:
    return pa.table({"user": pa.array(users, pa.int64()), "word": [f"w{user}" for user in users]})


def appends(path: Path, watch: Watch) -> Table:
    table = storage.create(path, SCHEMA, erase_key="user")
    watch.acknowledge(table)
    for number in range(4):
        staged = [table.stage(rows(number, number + 10).to_batches(), seed=number)]
        table.commit(staged, key=("q", number), attachments={"progress": str(number).encode(), "m": b"x"})
        watch.acknowledge(table)
    table.overwrite(rows(99), seed=9)
    watch.acknowledge(table)
    return table


def compactions(path: Path, watch: Watch) -> Table:
    table = storage.write(path, rows(3, 1), seed=1)
    watch.acknowledge(table)
    for number in range(2, 5):
        table.append(rows(number, 0), seed=number)
        watch.acknowledge(table)
    compact(table, cluster_by="user")
    watch.acknowledge(table)
    table.append(rows(7), seed=7)
    watch.acknowledge(table)
    collect(table, keep_versions=2)
    watch.acknowledge(table)
    table.append(rows(8), seed=8)
    watch.acknowledge(table)
    collect(table, keep_versions=1)
    watch.acknowledge(table)
    return table


def evolutions(path: Path, watch: Watch) -> Table:
    table = storage.write(path, rows(1), seed=1)
    watch.acknowledge(table)
    table.append(rows(2), seed=2)
    watch.acknowledge(table)
    evolve(table, [Add("twice", pa.int64(), lambda batch: pc.multiply(batch["user"], 2), ("user",))])
    watch.acknowledge(table)
    evolve(table, [Rename("word", "text"), Add("word", pa.int32())])
    watch.acknowledge(table)
    evolve(table, [Drop("twice")])
    watch.acknowledge(table)
    return table


WORKLOADS: dict[str, Callable[[Path, Watch], Table]] = {
    "append": appends,
    "compact": compactions,
    "evolve": evolutions,
}


def run(workload: str, folder: Path, skip: str | None = None) -> tuple[Watch, Disk]:
    """A workload, every state of it judged.

    Raises:
        Lost: in one of them something is lost.
    """
    root = folder / "disk"
    root.mkdir()
    (folder / "images").mkdir()
    watch = Watch(folder / "images")
    disk = Disk(root, watch)
    disk.skip = skip
    with disk.recording():
        WORKLOADS[workload](root / "t", watch)
        disk.judge()
    return watch, disk


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_state_loses_anything(workload: str, tmp_path: Path) -> None:
    watch, _ = run(workload, tmp_path)
    assert watch.states >= {"append": 1, "compact": 1, "evolve": 1}[workload]
    assert watch.acknowledged == max(watch.contents)
