"""Message bytes to rows: strict, one row per message, a reason instead of a row where a message is no event.

First step of the gate, on the executors. Types are never coerced: `"5"` is no integer, `3.0` is none either,
`true` is no number; an integer is a fine float. Floats must fit a double, integers their type. Unknown keys are
ignored but must be valid JSON; of a key that is there twice the last one counts, and every one must have the
right type, except that of lists of integers only the last is looked at. A reason is a short code with at most a column's name and never holds a value, because values are
personal data.

Speed comes from msgspec, which parses straight into one typed struct per message; columns are then built from
the structs' transpose, those of integer lists by `int_lists`. Values are judged by `masks.gate`, not here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from headrace.streaming.contracts.contract import Column, Contract
from headrace.streaming.contracts.int_lists import read_int_lists

MAX_VALUE_BYTES = 1 << 20
MAX_DEPTH = 64

REASONS = (
    "empty",
    "too_large",
    "bad_utf8",
    "too_deep",
    "bad_json",
    "not_an_object",
    "wrong_type",
    "out_of_range",
    "bad_arrow",
    "wrong_schema",
)
"""Every code, before the `:column` that some carry, that a decoder here may give."""

# The rows of a chunk and the columns made of them stay in the processor's cache.
_CHUNK_ROWS = 512
_CHUNK_BYTES = 4 << 20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_UINT64_LIST = pa.list_(pa.uint64())
_PATH = re.compile(r"at `\$\.([A-Za-z][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Decoded:
    """Rows and, beside them, why some are none.

    Attributes:
        batch: the contract's schema; a row is all null where `error` is not null.
        error: string per row, null where the message was an event.
    """

    batch: pa.RecordBatch
    error: pa.StringArray


def decode_json(values: pa.BinaryArray, contract: Contract, *, max_bytes: int = MAX_VALUE_BYTES) -> Decoded:
    """Decode one JSON object per message.

    Args:
        values: n message values, binary or large_binary, null for a message without a value.
        max_bytes: longer values are not looked at; reason `too_large`.

    Returns:
        n rows in the order of `values`.
    """
    parse = _parser(contract)
    content, ends = _content(values)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    errors: list[str | None] = []
    chunks = []
    start, rows = 0, len(values)
    while start < rows:
        # A chunk is bounded in bytes too: parsed lists of integers are several times as large as their text.
        fitting = int(np.searchsorted(ends, ends[start] + _CHUNK_BYTES, "right")) - 1
        stop = min(rows, start + _CHUNK_ROWS, max(fitting, start + 1))
        bounds = ends[start : stop + 1]
        view = memoryview(content[bounds[0] : bounds[-1]])  # type: ignore[arg-type]
        bounds = bounds - bounds[0]
        messages = [view[low:high] for low, high in pairwise(bounds.tolist())]
        reasons = _screen(view, messages, bounds, missing[start:stop], max_bytes)
        chunks.append(_rows(parse, contract, messages, reasons))
        errors += reasons
        start = stop
    batch = pa.concat_batches(chunks) if chunks else _nulls(contract.schema, 0)
    return Decoded(batch, pa.array(errors, pa.string()))


def decode_arrow(value: bytes, contract: Contract, *, max_bytes: int = 64 * MAX_VALUE_BYTES) -> Decoded:
    """Decode one message that holds an Arrow IPC stream of many rows.

    Every offset and every string is verified before a row is returned. Compressed batches are refused: whatever
    size they state would be allocated before it could be checked. Others are views of the message.

    Args:
        value: the IPC stream; its schema's names and types must be exactly the contract's.
        max_bytes: a longer message is not looked at; reason `too_large`.

    Returns:
        As many rows as the stream has, or one failed row that stands for the whole message.
    """
    if not value or len(value) > max_bytes:
        return _failed(contract, "too_large" if value else "empty")
    if not value.endswith(_END_OF_STREAM):
        return _failed(contract, "bad_arrow")  # or batches cut off at the end would not be missed
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(value))
        first = messages.read_next_message()
        if first.type != "schema":  # the library would read any other header as one, wherever that leads
            return _failed(contract, "bad_arrow")
        schema = pa.ipc.read_schema(first)
        wrong = _wrong_schema(schema, contract)
        if wrong is not None:
            return _failed(contract, wrong)
        batches = []
        for message in messages:
            if message.type != "record batch" or _is_compressed(message.metadata):
                return _failed(contract, "bad_arrow")
            batches.append(pa.ipc.read_record_batch(message, schema))
            batches[-1].validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, StopIteration, struct.error):
        # The library's text may quote values, so only the code goes on.
        return _failed(contract, "bad_arrow")
    table = pa.Table.from_batches([batch.cast(contract.schema) for batch in batches], contract.schema)
    for column in contract.columns:
        if column.is_list and table[column.name].combine_chunks().flatten().null_count:
            return _failed(contract, f"wrong_type:{column.name}")
    rows = table.combine_chunks().to_batches()
    batch = rows[0] if rows else _nulls(contract.schema, 0)
    return Decoded(batch, pa.nulls(batch.num_rows, pa.string()))


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a record batch's header names a compression.

    The library offers no such question, so the flatbuffer is followed by hand: root table `Message`, its field 2
    `header`, a table `RecordBatch`, its field 3 `compression` (Arrow columnar format, Message.fbs).
    """
    message = int(struct.unpack_from("<I", metadata, 0)[0])
    place = _field(metadata, message, 2)
    header = place + int(struct.unpack_from("<I", metadata, place)[0])
    return _field(metadata, header, 3) != header


def _field(metadata: pa.Buffer, table: int, number: int) -> int:
    """Where a field of a flatbuffer table is stored, or the table's own place where it is absent."""
    vtable = table - int(struct.unpack_from("<i", metadata, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", metadata, vtable)[0]:
        return table
    return table + int(struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0])


def _wrong_schema(schema: pa.Schema, contract: Contract) -> str | None:
    for field in schema:
        if field.name not in contract.names:
            # Not the stranger's own name: it comes from outside and may be anything.
            return "wrong_schema:unknown_column"
    for expected in contract.schema:
        indices = schema.get_all_field_indices(expected.name)
        if len(indices) != 1 or schema.field(indices[0]).type != expected.type:
            return f"wrong_schema:{expected.name}"
    return None if schema.names == contract.schema.names else "wrong_schema:order"


def _failed(contract: Contract, reason: str) -> Decoded:
    return Decoded(_nulls(contract.schema, 1), pa.array([reason], pa.string()))


def _nulls(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)


def _content(values: pa.BinaryArray) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All bytes, uint8, and where each message begins and the last one ends, int64 of one more than messages."""
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        raise TypeError(f"expected binary or large_binary message values, got {values.type}; cast them first")
    _, offsets, data = values.buffers()
    if len(values) == 0 or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(values) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int64 if pa.types.is_large_binary(values.type) else np.int32)
    return np.frombuffer(data, np.uint8), ends[values.offset : values.offset + len(values) + 1].astype(
        np.int64
    )


def _screen(
    view: memoryview,
    messages: Sequence[memoryview],
    bounds: np.ndarray[Any, Any],
    missing: np.ndarray[Any, Any],
    max_bytes: int,
) -> list[str | None]:
    """Reasons of the messages that must not reach the parser, found without looking at each byte in Python."""
    reasons: list[str | None] = [None] * len(messages)
    sizes = np.diff(bounds)
    for row in np.flatnonzero(missing | (sizes == 0) | (sizes > max_bytes)).tolist():
        reasons[row] = "empty" if missing[row] or sizes[row] == 0 else "too_large"
    content = np.frombuffer(view, np.uint8)
    # The parser checks UTF-8 only in what it keeps, so messages with other than ASCII are checked here.
    for row in _rows_with(content >= 0x80, bounds, 1):
        if reasons[row] is None and not _is_utf8(messages[row]):
            reasons[row] = "bad_utf8"
    # 0x5B is [ and 0x7B is {: both are 0x5B once bit 5 is cleared, and nothing else is.
    for row in _rows_with((content & 0xDF) == 0x5B, bounds, MAX_DEPTH + 1):
        if reasons[row] is None and _depth(messages[row]) > MAX_DEPTH:
            reasons[row] = "too_deep"
    return reasons


def _rows_with(marked: np.ndarray[Any, Any], bounds: np.ndarray[Any, Any], at_least: int) -> list[int]:
    counts = np.diff(np.searchsorted(np.flatnonzero(marked), bounds))
    return [int(row) for row in np.flatnonzero(counts >= at_least)]


def _is_utf8(message: memoryview) -> bool:
    try:
        str(message, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _depth(message: memoryview) -> int:
    """Deepest nesting of brackets outside strings."""
    bare = np.frombuffer(re.sub(rb'"(?:[^"\\]|\\.)*"', b"", bytes(message), flags=re.DOTALL), np.uint8)
    steps = ((bare & 0xDF) == 0x5B).astype(np.int64) - ((bare & 0xDF) == 0x5D)
    return int(np.cumsum(steps).max(initial=0))


def _rows(
    parse: Callable[[memoryview], Any],
    contract: Contract,
    messages: Sequence[memoryview],
    reasons: list[str | None],
) -> pa.RecordBatch:
    """Rows of the messages without a reason yet; those that fail get theirs in `reasons`."""
    astuple = msgspec.structs.astuple
    blank = (None,) * len(contract.columns)
    rows = []
    for row, message in enumerate(messages):
        if reasons[row] is None:
            try:
                rows.append(astuple(parse(message)))
                continue
            except (msgspec.DecodeError, RecursionError) as error:
                reasons[row] = _reason(error)
        rows.append(blank)
    for place, column in enumerate(contract.columns):
        if column.type == pa.uint64():
            for row, values in enumerate(rows):
                if values[place] is not None and values[place] >> 64:
                    reasons[row], rows[row] = f"out_of_range:{column.name}", blank
    int_lists = _int_lists(contract, rows, reasons)
    types = contract.schema.types
    arrays = [
        int_lists[place] if place in int_lists else pa.array(column, types[place])
        for place, column in enumerate(zip(*rows, strict=True))
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=contract.schema)


def _int_lists(
    contract: Contract, rows: list[tuple[Any, ...]], reasons: list[str | None]
) -> dict[int, pa.ListArray]:
    """The columns of integer lists, by place, from their raw texts; rows that have none get a reason and go blank."""
    arrays: dict[int, pa.ListArray] = {}
    places = [place for place, column in enumerate(contract.columns) if _is_int_list(column.type)]
    while len(arrays) < len(places):
        place = places[len(arrays)]
        column = contract.columns[place]
        array = read_int_lists([row[place] for row in rows], column.type)
        if array is None:
            lists, refused = _one_by_one(column, [row[place] for row in rows])
            for row, reason in refused.items():
                reasons[row], rows[row] = f"{reason}:{column.name}", (None,) * len(contract.columns)
            if refused:
                arrays.clear()  # a row that goes blank does so in every column
                continue
            array = pa.array(lists, column.type)
        arrays[place] = array
    return arrays


def _one_by_one(column: Column, texts: Sequence[msgspec.Raw | None]) -> tuple[list[Any], dict[int, str]]:
    """Each text's list, None where it is none, and why those are refused."""
    decode = _list_decoder(column.type)
    lists: list[Any] = []
    refused: dict[int, str] = {}
    for row, text in enumerate(texts):
        items = None
        try:
            items = None if text is None else decode(text)
        except msgspec.ValidationError as error:
            refused[row] = "out_of_range" if _is_out_of_range(error) else "wrong_type"
        if column.type == _UINT64_LIST and items and max(items) >> 64:
            items, refused[row] = None, "out_of_range"
        lists.append(items)
    return lists, refused


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too_deep"
    if not isinstance(error, msgspec.ValidationError):
        return "bad_json"
    path = _PATH.search(str(error))
    if path is None:
        return "not_an_object"
    return f"out_of_range:{path[1]}" if _is_out_of_range(error) else f"wrong_type:{path[1]}"


def _is_out_of_range(error: msgspec.ValidationError) -> bool:
    text = str(error)
    return "out of range" in text or "` <= " in text or "` >= " in text


@lru_cache(maxsize=64)
def _parser(contract: Contract) -> Callable[[memoryview], Any]:
    fields = [
        (column.name, msgspec.Raw if _is_int_list(column.type) else _python_type(column.type) | None, None)
        for column in contract.columns
    ]
    # Rows of plain values make no cycles: keeping them from the garbage collector saves it a walk over each.
    row = msgspec.defstruct("Row", fields, gc=False)
    decode: Callable[[memoryview], Any] = msgspec.json.Decoder(row).decode
    return decode


@lru_cache(maxsize=64)
def _list_decoder(type_: pa.DataType) -> Callable[[msgspec.Raw], Any]:
    decode: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(_python_type(type_) | None).decode
    return decode


def _is_int_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) and pa.types.is_integer(type_.value_type))


def _python_type(type_: pa.DataType) -> Any:
    if pa.types.is_list(type_):
        return list[_python_type(type_.value_type)]  # type: ignore[misc]
    if pa.types.is_integer(type_):
        bits = type_.bit_width
        if pa.types.is_signed_integer(type_):
            return Annotated[int, msgspec.Meta(ge=-(1 << bits - 1), le=(1 << bits - 1) - 1)]
        if bits == 64:  # msgspec's bounds are int64; the upper one is checked in `_rows`
            return Annotated[int, msgspec.Meta(ge=0)]
        return Annotated[int, msgspec.Meta(ge=0, le=(1 << bits) - 1)]
    if pa.types.is_timestamp(type_):
        return Annotated[datetime, msgspec.Meta(tz=True)]
    return {pa.bool_(): bool, pa.string(): str}.get(type_, float)
