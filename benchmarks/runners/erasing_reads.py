"""Reads of all rows before and after an erasure in place, of the same table: ``kind`` is ``before`` or ``after``."""

from __future__ import annotations

import shutil
from pathlib import Path

import headrace.storage as storage
from benchmarks.runners.erasing_ours import Ours
from benchmarks.runners.protocol import Result, quickest, serve
from headrace.storage import erase

TIMES = 20


class Reads(Ours):
    """Made once for both kinds alike; then persons are erased from one of the two."""

    def prepare(self) -> None:
        if self.folder.exists():
            return
        self.make(self.folder)
        if self.args["kind"] == "after":
            erase.erase(storage.open(self.folder), self.ids)
        self.read()

    def make(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        cluster = "user_id" if self.args["clustered"] else None
        storage.write(folder, self.rows, erase_key="user_id", profile="compliance", cluster_by=cluster)

    def read(self) -> int:
        """Rows that a scan gave."""
        return int(storage.open(self.folder).to_table().num_rows)

    def run(self) -> Result:
        rows = self.read()
        return Result({"s": quickest(self.read, TIMES), "rows": rows})

    def finish(self) -> None:
        pass


if __name__ == "__main__":
    serve(Reads)
