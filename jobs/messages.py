"""Kafka rows as Spark hands them to Python, cut into segments that decode alike.

In the flow: first step on the executors. A segment holds consecutive messages of one partition in one format, so the order
within a partition, and with it a user's order, is kept. A JSON message is one event; an Arrow message (an IPC stream) holds
many, and what is wrong with the message as a whole is said once, for as many events as its ``rows`` header claims.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.streaming.contracts import VERSION_HEADER, Contract, check_version, decode_arrow, decode_json
from headrace.streaming.producer import FORMAT_HEADER, ROWS_HEADER

ARROW = b"arrow"
_MAX_CLAIMED_ROWS = 1 << 20  # a header is no proof; this bounds what a hostile one can add to the counters


def _header(name: str) -> str:
    return f"get(filter(headers, h -> h.key = '{name}'), 0).value"


MESSAGE_COLUMNS = (
    "key",
    "value",
    "partition",
    "offset",
    "unix_micros(timestamp) AS sent_us",
    f"{_header(VERSION_HEADER)} AS version",
    f"{_header(FORMAT_HEADER)} AS format",
    f"{_header(ROWS_HEADER)} AS rows",
)
"""What to select from Spark's Kafka source (with ``includeHeaders``)."""


@dataclass(frozen=True)
class Rows:
    """The decoded events of a segment: n rows from m messages.

    Attributes:
        batch: n rows in the contract's schema; all null where ``error`` is not.
        error: n strings, null where the row was decoded.
        null_key: bool[n], the message had no key.
        message: int64[n], which message of the segment the row came from.
        row: int64[n], which row of that message it is.
        events: int64[n], how many events the row stands for; above 1 only for an Arrow message that cannot be read.
    """

    batch: pa.RecordBatch
    error: pa.StringArray
    null_key: pa.BooleanArray
    message: NDArray[np.int64]
    row: NDArray[np.int64]
    events: NDArray[np.int64]

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """The rows where ``keep``, bool[n], holds."""
        mask = pa.array(keep)
        return Rows(
            self.batch.filter(mask),
            self.error.filter(mask),
            self.null_key.filter(mask),
            self.message[keep],
            self.row[keep],
            self.events[keep],
        )


@dataclass(frozen=True)
class Segment:
    """Consecutive messages of one partition and one format."""

    partition: int
    is_arrow: bool
    messages: pa.RecordBatch

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[m], ascending."""
        return self.messages.column("offset").to_numpy()  # type: ignore[no-any-return]

    @property
    def sent_us(self) -> NDArray[np.int64]:
        """int64[m], when each was sent by its producer's clock or the broker's, microseconds since 1970; below 0 where none says."""
        return self.messages.column("sent_us").to_numpy()  # type: ignore[no-any-return]

    def decode(self, contract: Contract, max_event_bytes: int) -> Rows:
        """Decode every message; nothing is dropped and nothing raises for what a message holds.

        A JSON message above ``max_event_bytes`` is not looked at; what bounds an Arrow message is the broker's own limit.
        """
        unknown = self._unknown_versions(contract)
        keys_missing = pc.is_null(self.messages.column("key"))
        if self.is_arrow:
            return self._decode_arrow(contract, unknown, keys_missing)
        values = self.messages.column("value")
        if unknown is not None:
            values = pc.if_else(pc.is_null(unknown), values, pa.scalar(None, values.type))
        decoded = decode_json(values, contract, max_bytes=max_event_bytes)
        error = decoded.error if unknown is None else pc.coalesce(unknown, decoded.error)
        n = self.messages.num_rows
        return Rows(
            decoded.batch,
            error,
            keys_missing,
            np.arange(n),
            np.zeros(n, np.int64),
            np.ones(n, np.int64),
        )

    def _unknown_versions(self, contract: Contract) -> pa.StringArray | None:
        """Per message the reason its version cannot be read, or ``None`` where all can; few distinct headers occur."""
        encoded = self.messages.column("version").dictionary_encode()
        reasons = [check_version(header, contract) for header in encoded.dictionary.to_pylist()]
        if not any(reasons):
            return None
        return pa.array(reasons, pa.string()).take(encoded.indices)

    def _decode_arrow(
        self,
        contract: Contract,
        unknown: pa.StringArray | None,
        keys_missing: pa.BooleanArray,
    ) -> Rows:
        batches: list[pa.RecordBatch] = []
        errors: list[pa.StringArray] = []
        events: list[NDArray[np.int64]] = []
        for index, value in enumerate(self.messages.column("value").to_pylist()):
            refused = None if unknown is None else unknown[index].as_py()
            decoded = decode_arrow(b"" if refused else value or b"", contract)
            n = decoded.batch.num_rows
            error = pa.array([refused], pa.string()) if refused else decoded.error
            whole = n == 1 and error[0].is_valid
            batches.append(decoded.batch)
            errors.append(error)
            events.append(np.full(n, self._claimed_rows(index) if whole else 1, np.int64))
        message = np.repeat(np.arange(len(batches)), [b.num_rows for b in batches])
        starts = np.cumsum([0, *(b.num_rows for b in batches)])
        table = pa.Table.from_batches(batches, contract.schema).combine_chunks()
        return Rows(
            table.to_batches()[0]
            if table.num_rows
            else pa.RecordBatch.from_pylist([], schema=contract.schema),
            pa.concat_arrays(errors),
            keys_missing.take(pa.array(message)),
            message,
            np.arange(len(message)) - starts[message],
            np.concatenate(events) if events else np.zeros(0, np.int64),
        )

    def _claimed_rows(self, index: int) -> int:
        header = self.messages.column("rows")[index].as_py()
        claimed = int(header) if header and len(header) <= 7 and header.isdigit() else 1
        return min(max(claimed, 1), _MAX_CLAIMED_ROWS)


def segments(messages: pa.RecordBatch) -> Iterator[Segment]:
    """Cut ``messages`` (columns of ``MESSAGE_COLUMNS``) where the partition or the format changes."""
    if not messages.num_rows:
        return
    partitions = messages.column("partition").to_numpy()
    is_arrow = pc.fill_null(
        pc.equal(messages.column("format"), pa.scalar(ARROW, pa.binary())), False
    ).to_numpy(zero_copy_only=False)
    changes = (np.diff(partitions) != 0) | (np.diff(is_arrow.astype(np.int8)) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), messages.num_rows]
    for start, end in itertools.pairwise(edges):
        yield Segment(int(partitions[start]), bool(is_arrow[start]), messages.slice(start, end - start))
