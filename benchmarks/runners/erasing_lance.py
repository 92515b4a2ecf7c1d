"""Lance: delete, then all that its guide asks for until old bytes go: compact with materialised deletions, clean up versions."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import lance  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.runners.erasing import Erasing
from benchmarks.runners.protocol import serve


class Lance(Erasing):
    """``kind``: ``cleaned``, or ``deleted`` for the delete alone."""

    def make(self, folder: Path) -> None:
        lance.write_dataset(self.rows, str(folder), data_storage_version="2.1")

    def forget(self, folder: Path) -> dict[str, float]:
        began, dataset = time.perf_counter(), lance.dataset(str(folder))
        dataset.delete(f"user_id IN ({', '.join(map(str, self.ids))})")
        if self.args["kind"] == "cleaned":
            dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
            dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        return {"s": time.perf_counter() - began}

    def found(self, folder: Path) -> int:
        n, wanted = 0, pa.array(self.ids)
        for version in lance.dataset(str(folder)).versions():
            users = lance.dataset(str(folder), version=version["version"]).to_table(columns=["user_id"])[
                "user_id"
            ]
            n += int(pc.sum(pc.is_in(users, value_set=wanted)).as_py() or 0)
        return n

    def rows_left(self, folder: Path) -> int:
        return int(lance.dataset(str(folder)).count_rows())


if __name__ == "__main__":
    serve(Lance)
