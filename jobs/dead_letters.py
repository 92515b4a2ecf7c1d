"""What a topic's contract rejects goes to its dead-letter topic, whole and with the reason.

In the flow: beside the gate, on the executors. A dead letter's value is the original message's bytes (for one bad row of an
Arrow message, that row as an Arrow message of its own); its key is ``topic/partition/offset/row``, so that a batch which is
staged twice sends letters that a reader can tell are the same. Delivery is at least once, and done before the batch commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.jobs.messages import Rows, Segment
from headrace.streaming.contracts import Contract
from headrace.streaming.producer import Producer

TOPIC, PARTITION, OFFSET, ROW = "source_topic", "source_partition", "source_offset", "source_row"
REASON, CONTRACT, FORMAT, EVENTS = "reason", "contract", "format", "events"


class DeadLetters:
    """One task's letters; the producer is made at the first of them, because most tasks of a healthy topic send none."""

    def __init__(
        self, topic: str, bootstrap: str, source: str, contract: Contract, client_options: Mapping[str, Any]
    ) -> None:
        self._topic = topic
        self._source = source
        self._bootstrap = bootstrap
        self._contract = contract
        self._options = dict(client_options)
        self._producer: Producer | None = None

    def send(self, segment: Segment, rows: Rows, index: int, reasons: Sequence[str]) -> None:
        """Send row ``index`` of ``rows`` for ``reasons``; blocks while the producer's buffer is full."""
        if self._producer is None:
            self._producer = Producer(self._bootstrap, topic=self._topic, **self._options)
        message = int(rows.message[index])
        offset, row = int(segment.offsets[message]), int(rows.row[index])
        value = segment.messages.column("value")[message].as_py()
        if segment.is_arrow and rows.error[index].as_py() is None:
            value = _one_row(rows.batch.slice(index, 1))
        headers = {
            TOPIC: self._source,
            PARTITION: str(segment.partition),
            OFFSET: str(offset),
            ROW: str(row),
            REASON: ",".join(reasons),
            CONTRACT: f"{self._contract.topic} v{self._contract.version}",
            FORMAT: "arrow" if segment.is_arrow else "json",
            EVENTS: str(int(rows.events[index])),
        }
        self._producer.send_raw(
            f"{self._source}/{segment.partition}/{offset}/{row}".encode(),
            value,
            [(name, text.encode()) for name, text in headers.items()],
        )

    def close(self) -> None:
        """Wait until the broker has every letter.

        Raises:
            DeliveryFailed: a letter was not acknowledged; the batch must then not commit.
        """
        if self._producer is not None:
            self._producer.close()


def _one_row(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
