"""Rows to message bytes: what a producer sends, and exactly what the decoder reads back.

First step of the flow on the producers' side, for replays, samples and the generated ad feed. A missing value is
left out of the JSON; floats are written with the fewest digits that name the same value of their type, so that
`decode_json(encode_json(batch))` is the batch. Nothing is judged here.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def encode_json(batch: pa.RecordBatch) -> list[bytes]:
    """One JSON object per row, its keys in the order of the columns, timestamps as ISO-8601 UTC in microseconds.

    >>> encode_json(pa.RecordBatch.from_pydict({"a": [1, None], "b": ["x", "y"]}))
    [b'{"a":1,"b":"x"}', b'{"b":"y"}']

    Raises:
        ValueError: a float is NaN or infinite, which JSON cannot say.
    """
    row = _row(tuple(batch.schema.names))
    encode = msgspec.json.Encoder().encode
    columns = [_values(batch.column(place)) for place in range(batch.num_columns)]
    return [encode(row(*values)) for values in zip(*columns, strict=True)]


def encode_arrow(batch: pa.RecordBatch) -> bytes:
    """All rows as one Arrow IPC stream, uncompressed, for one Kafka message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


@lru_cache(maxsize=64)
def _row(names: tuple[str, ...]) -> Any:
    fields = [(name, Any, None) for name in names]
    return msgspec.defstruct("Row", fields, omit_defaults=True, gc=False)


def _values(array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(array.type):
        return _plain(pc.binary_replace_slice(array.cast(pa.string()), 10, 11, "T"))
    if pa.types.is_floating(array.type):
        if not pc.all(pc.is_finite(array), min_count=0).as_py():
            raise ValueError("expected finite floats, got NaN or an infinity; JSON has no word for them")
        if pa.types.is_float32(array.type):
            # Through text, because that is where Arrow finds the shortest digits of a float32.
            array = array.cast(pa.string()).cast(pa.float64())
    if pa.types.is_list(array.type) and pa.types.is_integer(array.type.value_type):
        # Histories are most of an event: written here they need not become Python integers first.
        texts = pc.binary_join(array.cast(pa.list_(pa.string())), ",")
        texts = pc.binary_join_element_wise("[", texts, "]", "")
        return [None if text is None else msgspec.Raw(text) for text in texts.to_pylist()]
    if pa.types.is_list(array.type):
        flat = _plain(array.flatten())
        ends = np.concatenate(
            [[0], np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy())]
        ).tolist()
        lists = [flat[start:end] for start, end in pairwise(ends)]
        valid = array.is_valid().to_pylist()
        return (
            lists
            if array.null_count == 0
            else [x if ok else None for x, ok in zip(lists, valid, strict=True)]
        )
    return _plain(array)


def _plain(array: pa.Array) -> list[Any]:
    """`to_pylist`, several times faster where numpy can hold the values."""
    if array.null_count == 0 and (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        plain: list[Any] = array.to_numpy().tolist()
    else:
        plain = array.to_pylist()
    return plain
