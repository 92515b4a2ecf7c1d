"""Arrow IPC files with zstd, by pyarrow, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.runners.cells import BATCH_ROWS, start
from benchmarks.runners.protocol import serve


class Ipc:
    """Record batches of ``BATCH_ROWS`` rows; only the asked columns are decompressed."""

    key = "ipc-zstd"

    def write(self, table: pa.Table, path: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=options) as writer,
        ):
            writer.write_table(table, max_chunksize=BATCH_ROWS)

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        file = pa.memory_map(str(path))
        if columns is None:
            return pa.ipc.open_file(file).read_all()
        schema = pa.ipc.open_file(file).schema
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
        return pa.ipc.open_file(file, options=options).read_all().select(columns)

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return self.read(path, columns).take(pa.array(rows))

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        found = self.read(path, [*columns, column])
        return found.filter(pc.equal(found[column], value)).select(columns)


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: Ipc()))
