"""ORC with zstd, by pyarrow. ORC has no fixed-size lists: such a column is written as lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import orc

from benchmarks.runners.cells import start
from benchmarks.runners.protocol import serve


class Orc:
    """Stripes of the library's own size."""

    key = "orc-zstd"

    def write(self, table: pa.Table, path: Path) -> None:
        for number, field in enumerate(table.schema):
            if pa.types.is_fixed_size_list(field.type):
                lists = table[field.name].cast(pa.list_(field.type.value_type))
                table = table.set_column(number, field.name, lists)
        orc.write_table(table, path, compression="zstd")

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        found = orc.ORCFile(path).read(columns=columns)
        return found if columns is None else found.select(columns)

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return ds.dataset(path, format="orc").take(pa.array(rows), columns=columns)

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        found = orc.ORCFile(path).read(columns=[*columns, column])
        return found.filter(pc.equal(found[column], value)).select(columns)


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: Orc()))
