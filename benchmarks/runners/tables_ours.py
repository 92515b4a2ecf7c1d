"""headrace tables, as shipped: every page checked, every commit synced to the disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa

import headrace.storage as storage
from benchmarks.runners.protocol import serve
from benchmarks.runners.tables import Cell
from headrace.storage.compaction import compact
from headrace.storage.log import Log
from headrace.storage.manifest import Manifest
from headrace.storage.quality import best
from headrace.storage.verify import verify

_beaten = threading.local()
_publish = Log.publish


def _counted(log: Log, manifest: Manifest) -> bool:
    won = _publish(log, manifest)
    _beaten.times = getattr(_beaten, "times", 0) + (not won)
    return won


Log.publish = _counted  # type: ignore[method-assign, assignment]


class Ours:
    """``Tables`` of this project."""

    def create(self, path: Path, rows: pa.Table) -> None:
        storage.write(path, rows, erase_key="user")

    def append(self, path: Path, rows: pa.Table) -> int:
        _beaten.times = 0
        storage.open(path).append(rows)
        return int(_beaten.times)

    def append_files(self, path: Path, rows: pa.Table, files: int) -> None:
        each = -(-len(rows) // files)
        table = storage.open(path) if path.exists() else storage.create(path, rows.schema)
        table.commit([table.stage(rows.slice(at, each).to_batches()) for at in range(0, len(rows), each)])

    def first_batch(self, path: Path) -> int:
        return int(next(iter(storage.open(path).scan())).num_rows)

    def compact(self, path: Path, key: str | None) -> None:
        table = storage.open(path)
        if key == "quality-first":
            compact(table, quality="quality")
        else:
            compact(table, cluster_by=key)

    def rows(self, path: Path) -> int:
        return storage.open(path).num_rows

    def live_bytes(self, path: Path) -> int:
        return sum(file.bytes for file in storage.open(path).files)

    def check(self, path: Path) -> int:
        found = verify(storage.open(path))
        if found.findings:
            raise ValueError(f"expected a sound table, got {found.findings}")
        return found.bytes

    def best(self, path: Path, column: str, threshold: float, share: float) -> pa.Table:
        return best(storage.open(path), column, share).to_table()


if __name__ == "__main__":
    serve(lambda args: Cell(Ours(), args))
