"""Ours: erased in place, or written anew, as ``kind`` says; every retained version is cleaned."""

from __future__ import annotations

import time
from pathlib import Path

import headrace.storage as storage
from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve
from headrace.storage import erase
from headrace.storage.residue import search


class Ours(Erasing):
    """``kind``: profile, and ``anew`` for the level canonical."""

    def make(self, folder: Path) -> None:
        profile = self.args["kind"].removesuffix(" anew")
        cluster = {"cluster_by": "user_id"} if self.args["clustered"] else {}
        storage.write(folder, self.rows, erase_key="user_id", profile=profile, **cluster)

    def forget(self, folder: Path) -> dict[str, float]:
        level: erase.Level = "canonical" if self.args["kind"].endswith("anew") else "erased"
        table, began = storage.open(folder), time.perf_counter()
        done = erase.erase(table, self.ids, level=level)
        return {"blocks": sum(file.data_blocks for file in done.files), "s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        return sum(one.times for one in search(storage.open(folder), self.ids).residues)

    def rows_left(self, folder: Path) -> int:
        return storage.open(folder).to_table().num_rows


if __name__ == "__main__":
    serve(Ours)
