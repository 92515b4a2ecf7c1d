"""Events to a Kafka topic, keyed, in order, each delivered once or reported: the writing side of kafka-python.

Where in the flow: the very beginning (`replay`, the generated feed, other people's code), and where dead letters
leave it. Idempotent with acks=all: the broker has each message once, in the order of the calls per partition, or
the report says how many it does not have. `send` blocks while too many bytes wait for their acknowledgement.

A message is one event as JSON, or many events of one partition as an Arrow stream. Nothing is judged here: the
gate on the reading side decides what is good. Message timestamps are the time of sending, not the event's time: by
the latter Kafka would drop a replayed old data set at once.

Not here: creating topics, transactions, threads (one producer serves one thread).
"""

# The type checker's own stubs describe kafka-python 2.
# pyright: reportCallIssue=false
import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.streaming.contracts import VERSION_HEADER
from headrace.streaming.contracts.encode import encode_arrow, encode_json
from headrace.streaming.errors import StreamingError, TopicMissing
from headrace.streaming.partitioning import partition_of_keys
from headrace.streaming.source import require_reachable, unreachable

with warnings.catch_warnings():  # it reads its own schemas, while it is imported, by a deprecated function
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaProducer
    from kafka import errors as kafka_errors

Headers = Sequence[tuple[str, bytes]]
Format = Literal["json", "arrow"]

FORMAT_HEADER, ROWS_HEADER = "format", "rows"
_DRAIN_EVERY = 256
_CLOSE_S = 5.0


class DeliveryFailed(StreamingError, OSError):
    """Messages were not acknowledged; the report says how many and why."""


class _Features(Protocol):
    @property
    def key(self) -> str: ...


class TopicContract(Protocol):
    """What a producer needs to know of a contract; `headrace.streaming.contracts.Contract` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def features(self) -> _Features: ...


@dataclass(frozen=True)
class Report:
    """What became of everything sent so far; `sent` = `acknowledged` + `failed` after a flush.

    Attributes:
        sent: messages, an Arrow message counting once.
        rows: events in them.
        bytes: of keys and values, before compression.
        errors: failed messages by the name of Kafka's error.
    """

    sent: int
    acknowledged: int
    failed: int
    rows: int
    bytes: int
    errors: Mapping[str, int]


class Producer:
    """Sends to one topic; a context manager that delivers everything before it ends.

    >>> with Producer("127.0.0.1:9092", load("movielens")) as producer:  # doctest: +SKIP
    ...     producer.send({"event_id": "ml-1", "user_id": 7, "item_id": 3, "rating": 4.0})
    ...     producer.flush()
    Report(sent=1, acknowledged=1, failed=0, rows=1, bytes=59, errors={})
    """

    def __init__(
        self,
        bootstrap: str,
        contract: TopicContract | None = None,
        *,
        topic: str | None = None,
        buffer_bytes: int = 32 << 20,
        batch_bytes: int = 256 << 10,
        message_bytes: int = 900 << 10,
        linger_ms: int = 20,
        compression: Literal["gzip", "lz4", "zstd"] | None = None,
        timeout_s: float = 10.0,
        **client_options: Any,
    ) -> None:
        """Connect, and look the topic up.

        Args:
            contract: names the topic and the key column; without it only `send_raw` works.
            topic: instead of the contract's.
            buffer_bytes: sent and not yet acknowledged; above it `send` blocks.
            batch_bytes: per partition and request.
            message_bytes: Arrow messages are cut to stay below this.
            compression: None, or a codec whose package is installed.
            timeout_s: for connecting and for finding the topic.
            client_options: kafka-python's connection settings, such as `security_protocol`.

        Raises:
            BrokerUnreachable: no Kafka answers.
            TopicMissing: the topic does not exist.
            ValueError: neither contract nor topic is given.
        """
        if topic is None and contract is None:
            raise ValueError("expected a contract or a topic, got neither")
        self.topic: str = topic if topic is not None or contract is None else contract.topic  # type: ignore[assignment]
        self._contract = contract
        self._buffer_bytes = buffer_bytes
        self._message_bytes = message_bytes
        self._encode = msgspec.json.Encoder().encode
        version = [] if contract is None else [(VERSION_HEADER, str(contract.version).encode())]
        self._headers = {name: [*version, (FORMAT_HEADER, name.encode())] for name in ("json", "arrow")}
        self._waiting: deque[tuple[Any, int]] = deque()
        self._waiting_bytes = 0
        self._since_drain = 0
        self._keyless = 0
        self._sent = self._acknowledged = self._rows = self._bytes = 0
        self._errors: Counter[str] = Counter()
        require_reachable(bootstrap, client_options, timeout_s)
        try:
            self._kafka = KafkaProducer(
                bootstrap_servers=bootstrap,
                enable_idempotence=True,
                acks="all",
                batch_size=batch_bytes,
                linger_ms=linger_ms,
                compression_type=compression,
                max_block_ms=int(timeout_s * 1000),
                bootstrap_timeout_ms=int(timeout_s * 1000),
                metrics_enabled=False,  # a tenth of the processor time of small messages
                **client_options,
            )
        except kafka_errors.KafkaError as error:
            raise unreachable(bootstrap, error) from error
        self._require_topic(bootstrap)

    def send(self, event: Mapping[str, Any]) -> None:
        """Send one event as JSON, keyed by the contract's key column; a value of None is left out.

        Blocks while the buffer is full. The event is not checked.

        Raises:
            TypeError: a value cannot be written as JSON.
        """
        present = {name: value for name, value in event.items() if value is not None}
        self.send_raw(
            _key_bytes(present.get(self._key_column())), self._encode(present), self._headers["json"]
        )

    def send_batch(self, batch: pa.RecordBatch, format: Format = "json") -> None:
        """Send every row, as JSON one message each, or as Arrow one message per partition.

        Args:
            batch: with the contract's key column.
            format: "arrow" keeps the batch's order within a partition, and so each key's order.

        Raises:
            ValueError: a float is NaN or infinite and the format is JSON.
            KeyError: the batch lacks the key column.
        """
        if not batch.num_rows:
            return
        place = batch.schema.get_field_index(self._key_column())
        if place < 0:
            raise KeyError(
                f"expected the key column {self._key_column()!r} of topic {self.topic}, "
                f"the batch has {', '.join(batch.schema.names)}"
            )
        keys, partitions = self._keys(batch.column(place))
        if format == "json":
            values = encode_json(batch)
            for key, value, partition in zip(keys.to_pylist(), values, partitions.tolist(), strict=True):
                self._send(key, value, self._headers["json"], partition, 1)
            return
        order = np.argsort(partitions, kind="stable")
        edges = np.flatnonzero(np.diff(partitions[order], prepend=-1, append=-1))
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            rows = order[begin:end]
            part, part_keys = batch.take(pa.array(rows)), keys.take(pa.array(rows))
            self._send_arrow(part, part_keys, int(partitions[rows[0]]))

    def send_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> None:
        """Send bytes as they are: dead letters, broken events, other people's formats. Blocks as `send` does.

        Args:
            headers: None gives those of a JSON event of the contract.
            partition: None takes the key's, or for a message without a key each in turn.
        """
        if partition is None and key is None:
            partition = self._next_keyless()
        self._send(key, value, self._headers["json"] if headers is None else list(headers), partition, 1)

    def flush(self) -> Report:
        """Wait until every message was acknowledged or has failed, and say what became of all of them."""
        self._kafka.flush()
        self._drain(down_to_bytes=0)
        return Report(
            sent=self._sent,
            acknowledged=self._acknowledged,
            failed=self._errors.total(),
            rows=self._rows,
            bytes=self._bytes,
            errors=dict(self._errors),
        )

    def close(self) -> Report:
        """Flush and disconnect.

        Raises:
            DeliveryFailed: a message was not acknowledged, now or earlier.
        """
        try:
            report = self.flush()
        finally:
            self._kafka.close()
        if report.failed:
            raise DeliveryFailed(
                f"{report.failed} of {report.sent} messages to topic {self.topic} were not acknowledged "
                f"({', '.join(f'{name}: {count}' for name, count in report.errors.items())}); "
                "look at the broker's log and send them again"
            )
        return report

    def __enter__(self) -> "Producer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # the first error is the one to see; what was sent before it may still arrive
            self._kafka.close(timeout=_CLOSE_S)

    @property
    def waiting_bytes(self) -> int:
        """Bytes sent and not known to be acknowledged; `send` blocks before it passes `buffer_bytes`."""
        return self._waiting_bytes

    def _require_topic(self, bootstrap: str) -> None:
        try:
            self._partitions: list[int] = sorted(self._kafka.partitions_for(self.topic) or ())
        except kafka_errors.KafkaError:
            self._partitions = []
        if not self._partitions:
            self._kafka.close(timeout=_CLOSE_S)
            raise TopicMissing(
                f"topic {self.topic!r} does not exist at {bootstrap}; create it (`headrace broker start --topics {self.topic}` does, on the embedded broker), or correct the name"
            )

    def _key_column(self) -> str:
        if self._contract is None:
            raise TypeError("send and send_batch need a contract to know the key; without one use send_raw")
        return self._contract.features.key

    def _keys(self, column: pa.Array) -> tuple[pa.BinaryArray, NDArray[np.int64]]:
        """The message keys, and each one's partition; rows without a key take partitions in turn."""
        keys = column.cast(pa.string()).cast(pa.binary())
        filled = keys.fill_null(b"") if keys.null_count else keys
        places = partition_of_keys(filled, len(self._partitions))
        if keys.null_count:
            missing = keys.is_null().to_numpy(zero_copy_only=False)
            turn = np.arange(self._keyless, self._keyless + keys.null_count)
            self._keyless += keys.null_count
            places[missing] = turn % len(self._partitions)
        return keys, np.asarray(self._partitions, np.int64)[places]

    def _next_keyless(self) -> int:
        self._keyless += 1
        return self._partitions[(self._keyless - 1) % len(self._partitions)]

    def _send_arrow(self, batch: pa.RecordBatch, keys: pa.BinaryArray, partition: int) -> None:
        """One message, or several when it would be too large; keyed by its first row that has a key."""
        value = encode_arrow(batch)
        if len(value) > self._message_bytes and batch.num_rows > 1:
            half = batch.num_rows // 2
            self._send_arrow(batch.slice(0, half), keys.slice(0, half), partition)
            self._send_arrow(batch.slice(half), keys.slice(half), partition)
            return
        present = keys.drop_null()
        headers = [*self._headers["arrow"], (ROWS_HEADER, str(batch.num_rows).encode())]
        key = present[0].as_py() if len(present) else None
        self._send(key, value, headers, partition, batch.num_rows)

    def _send(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        partition: int | None,
        rows: int,
    ) -> None:
        size = len(key or b"") + len(value or b"")
        if self._waiting_bytes + size > self._buffer_bytes:
            self._drain(down_to_bytes=self._buffer_bytes // 2)
        self._sent += 1
        self._rows += rows
        self._bytes += size
        try:
            future = self._kafka.send(self.topic, value, key, headers, partition)
        except (
            kafka_errors.MessageSizeTooLargeError
        ) as error:  # too large is a fact about an event, not a fault
            self._errors[type(error).__name__] += 1
            return
        self._waiting.append((future, size))
        self._waiting_bytes += size
        self._since_drain += 1
        if self._since_drain >= _DRAIN_EVERY:
            self._drain(down_to_bytes=self._waiting_bytes)

    def _drain(self, down_to_bytes: int) -> None:
        """Take acknowledged messages off the front; wait for them while more than `down_to_bytes` are left."""
        self._since_drain = 0
        waiting = self._waiting
        while waiting:
            future, size = waiting[0]
            if not future.is_done:
                if self._waiting_bytes <= down_to_bytes:
                    return
                try:
                    future.get()  # ends at the latest with Kafka's own delivery timeout
                except kafka_errors.KafkaError:
                    continue  # it is done now, and counted below
            waiting.popleft()
            self._waiting_bytes -= size
            if future.succeeded():
                self._acknowledged += 1
            else:
                self._errors[type(future.exception).__name__] += 1


def _key_bytes(value: Any) -> bytes | None:
    """A key as its text: what the key column's cast to string gives for a whole batch."""
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
