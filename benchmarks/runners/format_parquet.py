"""Parquet by pyarrow: zstd at level 3, or tuned: per column the encoding that is smallest on a sample, and zstd at level 9."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.runners.answers import is_list
from benchmarks.runners.cells import BATCH_ROWS, start
from benchmarks.runners.protocol import serve

SAMPLE_ROWS = 16_384
TUNED_LEVEL = 9
TUNED_PAGE_BYTES = 1 << 20
TUNED_DICTIONARY_BYTES = 8 << 20
DICTIONARY = "dictionary"


class Parquet:
    """Row groups of ``BATCH_ROWS`` rows."""

    def __init__(self, tuned: bool) -> None:
        self.key = "parquet-tuned" if tuned else "parquet-zstd3"
        self._tuned = tuned

    def write(self, table: pa.Table, path: Path) -> None:
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
        if self._tuned:
            options = tuned(table)
        pq.write_table(table, path, row_group_size=BATCH_ROWS, **options)

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        return pq.read_table(path, columns=columns)

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        return ds.dataset(path, format="parquet").take(pa.array(rows), columns=columns)

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        return pq.read_table(path, columns=columns, filters=pc.field(column) == value)


def tuned(table: pa.Table) -> dict[str, Any]:
    """Arguments for ``write_table``: each column's encoding is the smallest of those that fit its type, by a trial."""
    chosen = {_leaf(field): _smallest(table.select([field.name])) for field in table.schema}
    return {
        "compression": "zstd",
        "compression_level": TUNED_LEVEL,
        "data_page_size": TUNED_PAGE_BYTES,
        "dictionary_pagesize_limit": TUNED_DICTIONARY_BYTES,
        "write_page_index": True,
        "use_dictionary": [leaf for leaf, encoding in chosen.items() if encoding == DICTIONARY],
        "column_encoding": {leaf: encoding for leaf, encoding in chosen.items() if encoding != DICTIONARY},
    }


def _smallest(column: pa.Table) -> str:
    sample = column.slice(0, SAMPLE_ROWS)
    return min(_candidates(sample.schema.field(0).type), key=lambda encoding: _trial_bytes(sample, encoding))


def _candidates(kind: pa.DataType) -> Iterator[str]:
    if is_list(kind):
        kind = kind.value_type
    yield DICTIONARY
    yield "PLAIN"
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        if kind.bit_width >= 32:
            yield "BYTE_STREAM_SPLIT"
        if not pa.types.is_floating(kind):
            yield "DELTA_BINARY_PACKED"
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        yield "DELTA_LENGTH_BYTE_ARRAY"
        yield "DELTA_BYTE_ARRAY"


def _trial_bytes(sample: pa.Table, encoding: str) -> int:
    sink, leaf = pa.BufferOutputStream(), _leaf(sample.schema.field(0))
    options: dict[str, Any] = {"use_dictionary": True}
    if encoding != DICTIONARY:
        options = {"use_dictionary": False, "column_encoding": {leaf: encoding}}
    pq.write_table(sample, sink, compression="zstd", compression_level=3, **options)
    return int(sink.tell())


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if is_list(field.type) else str(field.name)


if __name__ == "__main__":
    serve(lambda args: start(args, lambda profile: Parquet(args["tuned"])))
