"""Lance datasets. Its compaction keeps the order rows came in, and it does not keep rows in order of a quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import pyarrow as pa

from benchmarks.runners.protocol import serve
from benchmarks.runners.tables import Cell, retried


class Lance:
    """``Tables`` of Lance."""

    def create(self, path: Path, rows: pa.Table) -> None:
        lance.write_dataset(rows, str(path))

    def append(self, path: Path, rows: pa.Table) -> int:
        return retried(lambda: lance.write_dataset(rows, str(path), mode="append"), (OSError, RuntimeError))

    def append_files(self, path: Path, rows: pa.Table, files: int) -> None:
        mode = "append" if path.exists() else "create"
        lance.write_dataset(rows, str(path), mode=mode, max_rows_per_file=-(-len(rows) // files))

    def first_batch(self, path: Path) -> int:
        return int(next(iter(lance.dataset(str(path)).to_batches())).num_rows)

    def compact(self, path: Path, key: str | None) -> None:
        lance.dataset(str(path)).optimize.compact_files()

    def rows(self, path: Path) -> int:
        return int(lance.dataset(str(path)).count_rows())

    def live_bytes(self, path: Path) -> int:
        files = [f for fragment in lance.dataset(str(path)).get_fragments() for f in fragment.data_files()]
        return sum((path / "data" / file.path).stat().st_size for file in files)

    def check(self, path: Path) -> int:
        raise TypeError("files without checksums: nothing to hold their pages against")

    def best(self, path: Path, column: str, threshold: float, share: float) -> pa.Table:
        found: Any = lance.dataset(str(path)).to_table(filter=f"{column} >= {threshold!r}")
        return found


if __name__ == "__main__":
    serve(lambda args: Cell(Lance(), args))
