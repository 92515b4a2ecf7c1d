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
from headrace.storage import durable, stores
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

    def _begin(self, image: Path) -> None:
        """Whatever a dead writer left, the next one can make the table."""
        try:
            again = storage.write(image / "t", pa.Table.from_pylist([], SCHEMA), erase_key="user")
            assert storage.open(again.path).schema == SCHEMA
        except Exception as error:
            raise Lost(f"the next writer cannot make the table: {error}") from error
        finally:
            shutil.rmtree(image)

    def _open(self, disk: Disk, state: State) -> tuple[int, int]:
        image = self.scratch / f"{next(self.images)}"
        disk.make(state, image)
        try:
            table = storage.open(image / "t")
        except TableNotFound:
            self._begin(image)
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


def appends(path: Path, watch: Watch, scale: int) -> Table:
    table = storage.create(path, SCHEMA, erase_key="user")
    watch.acknowledge(table)
    for number in range(3 * scale):
        staged = [table.stage(rows(number, number + 10).to_batches()) for _ in range(1 + number % 2)]
        attached = {"progress": str(number).encode(), "model": b"m" * 2000}
        table.commit(staged, key=("q", number), attachments=attached if number % 3 else {})
        watch.acknowledge(table)
    table.overwrite(rows(99))
    watch.acknowledge(table)
    return table


def compactions(path: Path, watch: Watch, scale: int) -> Table:
    table = storage.write(path, rows(3, 1))
    watch.acknowledge(table)
    for cycle in range(scale):
        for number in range(2, 4):
            table.append(rows(number, cycle))
            watch.acknowledge(table)
        compact(table, cluster_by="user")
        watch.acknowledge(table)
        for kept in (2, 1):
            table.append(rows(7))
            watch.acknowledge(table)
            collect(table, keep_versions=kept)
            watch.acknowledge(table)
    return table


def evolutions(path: Path, watch: Watch, scale: int) -> Table:
    table = storage.write(path, rows(1))
    watch.acknowledge(table)
    for cycle in range(scale):
        table.append(rows(2) if not cycle else pa.table({"user": [2], "text": ["w2"], "word": ["x"]}))
        watch.acknowledge(table)
        evolve(table, [Add("twice", pa.int64(), lambda batch: pc.multiply(batch["user"], 2), ("user",))])
        watch.acknowledge(table)
        if not cycle:
            evolve(table, [Rename("word", "text"), Add("word", pa.string())])
            watch.acknowledge(table)
        evolve(table, [Drop("twice")])
        watch.acknowledge(table)
    return table


WORKLOADS: dict[str, Callable[[Path, Watch, int], Table]] = {
    "append": appends,
    "compact": compactions,
    "evolve": evolutions,
}


SCALE = {"append": 2, "compact": 5, "evolve": 2}  # of the tests; the soak's is larger
LEAST = {"append": 700, "compact": 4000, "evolve": 400}

ELSEWHERE = {
    "stores.sync < committing.append": "what was staged here was synced here; needed when another machine staged it",
    "durable.make_dir < durable.make_dir": "the folder's parent is on the disk already in this model's root",
    "stores.sync < collecting._sweep": "removals that did not reach the disk are removed by the next run",
    "stores.keep < collecting._sweep": "the marker only explains manifests that are gone, and their removal is not synced yet",
    "durable.make_dir < stores.make < collecting": "as the marker in it",
}
"""Syncs that these workloads alone cannot show to be needed, and why; ``test_power_loss`` has cases of the first two."""


def run(workload: str, folder: Path, scale: int, skip: str | None = None) -> tuple[Watch, Disk]:
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
        WORKLOADS[workload](root / "t", watch, scale)
        disk.judge()
    return watch, disk


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_state_loses_anything(workload: str, tmp_path: Path) -> None:
    watch, _ = run(workload, tmp_path, SCALE[workload])
    assert watch.states >= LEAST[workload]
    assert watch.acknowledged == max(watch.contents)


def test_there_are_enough_states() -> None:
    assert sum(LEAST.values()) >= 5000


def _loses(workload: str, folder: Path, site: str) -> bool:
    folder.mkdir()
    try:
        run(workload, folder, 1, skip=site)
    except Lost:
        return True
    return False


def test_each_sync_left_out_is_seen(tmp_path: Path) -> None:
    """The harness has teeth: without any one of them some state has lost something."""
    seen: dict[str, set[str]] = {}
    for workload in WORKLOADS:
        (tmp_path / workload).mkdir()
        _, disk = run(workload, tmp_path / workload, 1)
        for site in disk.sites:
            if site.startswith("fsync"):
                seen.setdefault(site, set()).add(workload)
    missed = []
    for number, (site, workloads) in enumerate(sorted(seen.items())):
        if any(part in site for part in ELSEWHERE):
            continue
        if not any(
            _loses(workload, tmp_path / f"{number}{workload}", site) for workload in sorted(workloads)
        ):
            missed.append(site)
    assert not missed
    assert len(seen) >= 12


def _written_in_place(self: stores.PosixStore, name: str, data: bytes, token: str) -> None:
    """A manifest or schema without the rename: under its own name from its first byte on."""
    durable.write_file_synced(self.root / name, data)
    durable.sync_dir((self.root / name).parent)


@pytest.mark.parametrize("renaming", ["create", "keep"])
def test_each_rename_left_out_is_seen(renaming: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.PosixStore, renaming, _written_in_place)
    with pytest.raises(Lost):
        run("append", tmp_path, 1)
