"""Ours: erased in place, or written anew, as ``kind`` says; every retained version is cleaned."""

from __future__ import annotations

import time
from pathlib import Path

import headrace.storage as storage
from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve
from headrace.storage import erase
from headrace.storage.residue import decoded


class Ours(Erasing):
    """``kind``: profile, and ``anew`` for the level canonical."""

    @property
    def _level(self) -> erase.Level:
        return "canonical" if self.args["kind"].endswith("anew") else "erased"

    def make(self, folder: Path) -> None:
        profile = self.args["kind"].removesuffix(" anew")
        cluster = "user_id" if self.args["clustered"] else None
        storage.write(folder, self.rows, erase_key="user_id", profile=profile, cluster_by=cluster)
        small = folder.with_name(f"{folder.name}-small")  # kernels are loaded before anything is timed
        storage.write(
            small, self.rows.slice(0, 5_000), erase_key="user_id", profile=profile, cluster_by=cluster
        )
        erase.erase(storage.open(small), self.rows["user_id"].slice(0, 9).to_pylist(), level=self._level)

    def forget(self, folder: Path) -> dict[str, float]:
        table, began = storage.open(folder), time.perf_counter()
        done = erase.erase(table, self.ids, level=self._level)
        return {"blocks": sum(file.data_blocks for file in done.files), "s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        files = folder.glob("data/*.hrc")
        return sum(one.times for path in files for one in decoded(path, path.name, self.ids, ())[0])

    def rows_left(self, folder: Path) -> int:
        return int(storage.open(folder).to_table().num_rows)


if __name__ == "__main__":
    serve(Ours)
