"""Topics and what is in them: create, count, read; the reading side of kafka-python.

Where in the flow: beside it. The job reads its topics through Spark; this module prepares topics for it, tells how
far they reach (offsets, so "n events of 4 partitions"), and reads messages one by one for people and for tests:
the dead letters, mostly.

Not here: consumer groups and commits; a reader says where to begin, and stops at the end it saw when it began.
"""

# The type checker's own stubs describe kafka-python 2.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalOperand=false
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from headrace.streaming.errors import BrokerUnreachable, TopicMissing, TopicRefused

with warnings.catch_warnings():  # it reads its own schemas, while it is imported, by a deprecated function
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaAdminClient, KafkaConsumer, OffsetSpec, TopicPartition
    from kafka import errors as kafka_errors

_POLL_MS = 200


@dataclass(frozen=True)
class Message:
    """One message as Kafka holds it.

    Attributes:
        timestamp_ms: milliseconds since 1970, UTC.
        headers: in the order in which they were sent; a name may come twice.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def create_topics(
    bootstrap: str,
    partitions: Mapping[str, int],
    config: Mapping[str, str] | None = None,
    **client_options: Any,
) -> tuple[str, ...]:
    """Create the topics that do not exist yet and wait until they can be written.

    Args:
        partitions: number of partitions per topic.
        config: Kafka's topic settings for each of them, such as {"retention.ms": "3600000"}.
        client_options: kafka-python's connection settings, such as `security_protocol`.

    Returns:
        The topics that were made; one that exists is left as it is, whatever its settings.

    Raises:
        BrokerUnreachable: no Kafka answers.
        TopicRefused: a name or a setting that Kafka does not take.
    """
    made = []
    with _admin(bootstrap, client_options) as admin:
        present = set(admin.list_topics())
        for topic, count in partitions.items():
            if topic in present:
                continue
            wanted = {topic: {"num_partitions": count, "configs": dict(config or {})}}
            try:
                admin.create_topics(wanted, wait_for_metadata=True)
            except kafka_errors.TopicAlreadyExistsError:  # another process was faster
                continue
            except kafka_errors.KafkaError as error:
                raise TopicRefused(
                    f"Kafka refused to create topic {topic!r} with {count} partitions: {error}; correct the name or the settings"
                ) from error
            made.append(topic)
    return tuple(made)


def begin_offsets(bootstrap: str, topics: Sequence[str], **client_options: Any) -> dict[str, dict[int, int]]:
    """Per topic and partition the first offset that is still kept; raises as `end_offsets` does."""
    return _offsets(bootstrap, topics, OffsetSpec.EARLIEST, client_options)


def end_offsets(bootstrap: str, topics: Sequence[str], **client_options: Any) -> dict[str, dict[int, int]]:
    """Per topic and partition the offset that the next message will get.

    Raises:
        TopicMissing: one of the topics does not exist.
        BrokerUnreachable: no Kafka answers.
    """
    return _offsets(bootstrap, topics, OffsetSpec.LATEST, client_options)


def topic_counts(bootstrap: str, topics: Sequence[str], **client_options: Any) -> dict[str, int]:
    """Messages kept per topic (an Arrow message counts once, whatever its rows); raises as `end_offsets` does."""
    first = begin_offsets(bootstrap, topics, **client_options)
    last = end_offsets(bootstrap, topics, **client_options)
    return {topic: sum(last[topic].values()) - sum(first[topic].values()) for topic in topics}


def read(
    bootstrap: str,
    topic: str,
    *,
    begin: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
    **client_options: Any,
) -> Iterator[Message]:
    """The messages of a topic, each partition in its order, up to the end that was seen at the call.

    Args:
        begin: first offset per partition; a partition that is not named begins with the first one kept.
        end: offset per partition to stop before; a partition that is not named stops at its present end.

    Raises:
        TopicMissing: the topic does not exist.
        BrokerUnreachable: no Kafka answers.
    """
    first = begin_offsets(bootstrap, [topic], **client_options)[topic] | dict(begin or {})
    stop = end_offsets(bootstrap, [topic], **client_options)[topic] | dict(end or {})
    waiting = {partition for partition in stop if first[partition] < stop[partition]}
    if not waiting:
        return
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", **client_options
    )
    with closing(consumer):
        consumer.assign([TopicPartition(topic, partition) for partition in waiting])
        for partition in waiting:
            consumer.seek(TopicPartition(topic, partition), first[partition])
        while waiting:
            for place, records in consumer.poll(timeout_ms=_POLL_MS, max_records=2_000).items():
                for record in records:
                    if record.offset < stop[place.partition]:
                        yield Message(
                            topic,
                            record.partition,
                            record.offset,
                            record.timestamp,
                            record.key,
                            record.value,
                            tuple(record.headers),
                        )
            # By position, not by the last record: a transaction's marker takes an offset but is no record.
            for partition in tuple(waiting):
                place = TopicPartition(topic, partition)
                if consumer.position(place) >= stop[partition]:
                    waiting.discard(partition)
                    consumer.pause(place)


def _offsets(
    bootstrap: str, topics: Sequence[str], which: OffsetSpec, client_options: Mapping[str, Any]
) -> dict[str, dict[int, int]]:
    with _admin(bootstrap, client_options) as admin:
        present = {topic["name"]: topic["partitions"] for topic in admin.describe_topics()}
        for topic in topics:
            if topic not in present:
                raise TopicMissing(
                    f"topic {topic!r} does not exist at {bootstrap}; create it first (`headrace broker start --topics {topic}` does, on the embedded broker)"
                )
        wanted = {
            TopicPartition(topic, part["partition_index"]): which
            for topic in topics
            for part in present[topic]
        }
        found = admin.list_partition_offsets(wanted) if wanted else {}
    offsets: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    for place, answer in found.items():
        offsets[place.topic][place.partition] = answer.offset
    return offsets


@contextmanager
def _admin(bootstrap: str, client_options: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    require_reachable(bootstrap, client_options)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=10_000, **client_options)
    except kafka_errors.KafkaError as error:
        raise unreachable(bootstrap, error) from error
    with closing(admin):
        yield admin


def require_reachable(bootstrap: str, client_options: Mapping[str, Any], timeout_s: float = 10.0) -> None:
    """Try the addresses one by one; kafka-python would retry for long, and leave its sockets open in the end.

    Raises:
        BrokerUnreachable: none of them accepts a connection.
    """
    if client_options.get("proxy_url"):
        return  # then the addresses need not be reachable from here
    refusal = OSError("no address given")
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout_s):
                return
        except (OSError, ValueError) as error:
            refusal = OSError(f"{address.strip()}: {error}")
    raise unreachable(bootstrap, refusal)


def unreachable(bootstrap: str, error: Exception) -> BrokerUnreachable:
    """The error to raise when kafka-python could not connect."""
    return BrokerUnreachable(
        f"no Kafka answers at {bootstrap} ({error or type(error).__name__}); start one with "
        "`headrace broker start`, or check the address and the security settings"
    )
