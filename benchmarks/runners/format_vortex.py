"""Vortex files, by default or in its compact form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import vortex  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import vortex.expr as expressions  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

from benchmarks.runners.cells import BATCH_ROWS, start
from benchmarks.runners.protocol import serve


class Vortex:
    """Written from record batches of ``BATCH_ROWS`` rows."""

    def __init__(self, compact: bool) -> None:
        self.key = "vortex-compact" if compact else "vortex"
        self._compact = compact

    def write(self, table: pa.Table, path: Path) -> None:
        reader = table.to_reader(BATCH_ROWS)
        if self._compact:
            vortex.io.VortexWriteOptions.compact().write(reader, str(path))
        else:
            vortex.io.write(reader, str(path))

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        return vortex.open(str(path)).scan(columns).read_all().to_arrow_table()

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        indices = vortex.array(pa.array(rows.astype(np.uint64)))
        return vortex.open(str(path)).scan(columns, indices=indices).read_all().to_arrow_table()

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        wanted = expressions.column(column) == expressions.literal(vortex.int_(32), value)
        return vortex.open(str(path)).scan(columns, expr=wanted).read_all().to_arrow_table()


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: Vortex(args["compact"])))
