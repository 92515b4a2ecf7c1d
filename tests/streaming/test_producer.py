"""The producer against a real broker: what was sent is there, in order, keyed, and the report tells the truth."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.streaming import jars, source
from headrace.streaming.contracts import VERSION_HEADER, Contract, decode_arrow, decode_json, load
from headrace.streaming.errors import BrokerUnreachable, TopicMissing
from headrace.streaming.partitioning import murmur2, partition_of_keys
from headrace.streaming.producer import DeliveryFailed, Producer

PARTITIONS = 3


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load("movielens")


@pytest.fixture
def topic(kafka: str, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    name = request.node.name.replace("[", "-").replace("]", "")
    source.create_topics(kafka, {name: PARTITIONS})
    return str(name)


def ratings(contract: Contract, n: int, users: int = 7) -> pa.RecordBatch:
    rng = random.Random(n)
    rows = [
        {
            "event_id": f"ml-{number}",
            "event_time": datetime(2026, 1, 1, tzinfo=UTC),
            "user_id": rng.randrange(users),
            "item_id": number,
            "rating": rng.choice([0.5, 3.0, 4.5]),
            "genres": rng.choice([None, [], ["Drama", "War"]]),
        }
        for number in range(n)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=contract.schema)


def by_item(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.sort_by("item_id")


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_murmur2_is_that_of_kafka(keys: list[bytes]) -> None:
    from kafka.partitioner.default import murmur2 as slow

    assert murmur2(pa.array(keys, pa.binary())).tolist() == [slow(key) for key in keys]


@given(st.lists(st.binary(max_size=9), min_size=2, max_size=9), st.integers(1, 12))
def test_a_key_has_one_partition_wherever_it_stands(keys: list[bytes], n_partitions: int) -> None:
    whole = pa.array(keys, pa.binary())
    places = partition_of_keys(whole, n_partitions)
    assert partition_of_keys(whole.slice(1), n_partitions).tolist() == places[1:].tolist()
    assert all(0 <= place < n_partitions for place in places.tolist())


@pytest.mark.broker
def test_json_rows_arrive_whole_keyed_and_in_order(kafka: str, topic: str, contract: Contract) -> None:
    batch = ratings(contract, 500)
    with Producer(kafka, contract, topic=topic) as producer:
        producer.send_batch(batch)
        report = producer.flush()
    messages = list(source.read(kafka, topic))
    assert (report.sent, report.acknowledged, report.failed, report.rows) == (500, 500, 0, 500)
    assert report.bytes == sum(len(m.key or b"") + len(m.value or b"") for m in messages)
    assert {m.headers for m in messages} == {((VERSION_HEADER, b"1"), ("format", b"json"))}
    decoded = decode_json(pa.array([m.value for m in messages], pa.binary()), contract)
    assert decoded.error.null_count == 500
    assert by_item(decoded.batch) == batch
    order = defaultdict(list)
    for message, row in zip(messages, decoded.batch.to_pylist(), strict=True):
        assert message.key == str(row["user_id"]).encode()
        order[row["user_id"]].append((message.partition, row["item_id"]))
    for sent in order.values():
        assert len({partition for partition, _ in sent}) == 1
        assert sent == sorted(sent)


@pytest.mark.broker
def test_arrow_messages_hold_one_partition_each(kafka: str, topic: str, contract: Contract) -> None:
    batch = ratings(contract, 400)
    with Producer(kafka, contract, topic=topic) as producer:
        producer.send_batch(batch, "arrow")
        for row in batch.slice(0, 50).to_pylist():  # JSON of the same users must meet them in their partition
            producer.send(row)
        report = producer.flush()
    messages = list(source.read(kafka, topic))
    arrow = [m for m in messages if dict(m.headers)["format"] == b"arrow"]
    assert 1 < len(arrow) <= PARTITIONS
    assert (report.sent, report.rows) == (len(arrow) + 50, 450)
    place = {}
    parts = []
    for message in arrow:
        part = decode_arrow(message.value or b"", contract).batch
        assert dict(message.headers)["rows"] == str(part.num_rows).encode()
        assert part.column("item_id").to_pylist() == sorted(part.column("item_id").to_pylist())
        assert message.key == str(part.column("user_id")[0]).encode()
        place |= dict.fromkeys(part.column("user_id").to_pylist(), message.partition)
        parts.append(part)
    assert by_item(pa.concat_batches(parts)) == batch
    for message in messages:
        if message not in arrow:
            assert message.partition == place[int(message.key or b"")]


@pytest.mark.broker
def test_large_arrow_batches_are_cut(kafka: str, topic: str, contract: Contract) -> None:
    batch = ratings(contract, 3_000, users=1)
    with Producer(kafka, contract, topic=topic, message_bytes=20_000) as producer:
        producer.send_batch(batch, "arrow")
    messages = list(source.read(kafka, topic))
    assert len(messages) > 4
    assert max(len(m.value or b"") for m in messages) <= 20_000
    parts = [decode_arrow(m.value or b"", contract).batch for m in messages]
    assert pa.concat_batches(parts) == batch  # the order of the one user


@pytest.mark.broker
@pytest.mark.parametrize("format", ["json", "arrow"])
def test_rows_without_a_key_are_sent_without_one(
    kafka: str, topic: str, contract: Contract, format: str
) -> None:
    rows = [{"event_id": f"ml-{n}", "item_id": n, "user_id": None if n % 2 else 5} for n in range(20)]
    batch = pa.RecordBatch.from_pylist(rows, schema=contract.schema)
    with Producer(kafka, contract, topic=topic) as producer:
        producer.send_batch(batch, "arrow" if format == "arrow" else "json")
        producer.send_batch(batch.slice(0, 0))
    messages = list(source.read(kafka, topic))
    assert {m.partition for m in messages} == set(range(PARTITIONS))
    assert {m.key for m in messages} == {None, b"5"}
    if format == "json":
        assert sum(m.key is None for m in messages) == 10


@pytest.mark.broker
def test_an_event_may_be_any_mapping(kafka: str, topic: str, contract: Contract) -> None:
    with Producer(kafka, contract, topic=topic) as producer:
        producer.send(
            {"user_id": 3, "event_time": datetime(2026, 1, 1, tzinfo=UTC), "age": None, "extra": [1]}
        )
        producer.send({"user_id": "not a number"})
        producer.send({})
        producer.send_raw(b"k", None, [("reason", b"gone")])
    messages = {m.key: m for m in source.read(kafka, topic)}
    assert messages[b"3"].value == b'{"user_id":3,"event_time":"2026-01-01T00:00:00Z","extra":[1]}'
    assert messages[b"not a number"].value == b'{"user_id":"not a number"}'
    assert messages[None].value == b"{}"
    assert messages[b"k"].headers == (("reason", b"gone"),)
    assert messages[b"k"].value is None


@pytest.mark.broker
def test_the_buffer_is_bounded(kafka: str, topic: str) -> None:
    with Producer(kafka, topic=topic, buffer_bytes=10_000, linger_ms=0) as producer:
        most = 0
        for _ in range(300):
            producer.send_raw(b"k", bytes(500))
            most = max(most, producer.waiting_bytes)
        assert most <= 10_000
        assert producer.flush().acknowledged == 300
        assert producer.waiting_bytes == 0


@pytest.mark.broker
def test_too_large_a_message_is_reported_not_raised(kafka: str, topic: str) -> None:
    producer = Producer(kafka, topic=topic)
    producer.send_raw(b"k", bytes(2 << 20))
    producer.send_raw(b"k", b"small")
    report = producer.flush()
    assert (report.sent, report.acknowledged, report.failed) == (2, 1, 1)
    assert report.errors == {"MessageSizeTooLargeError": 1}
    with pytest.raises(DeliveryFailed, match=r"1 of 2 messages .*MessageSizeTooLargeError: 1"):
        producer.close()


def in_a_process_of_its_own(script: str, *arguments: str) -> str:
    """What a script prints; kafka-python forgets to close sockets that were refused, which is an error here."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, timeout=100, check=True
    ).stdout


_DYING = """
import sys
from pathlib import Path
from headrace.streaming import broker, java
from headrace.streaming.producer import Producer
data, home, *classpath = sys.argv[1:]
with broker.EmbeddedBroker(Path(data), classpath, java.find(home or None).path) as dying:
    broker.create_topics(dying.bootstrap, {"t": 1})
    producer = Producer(
        dying.bootstrap, topic="t", delivery_timeout_ms=1_500, request_timeout_ms=1_000, timeout_s=1.0
    )
    producer.send_raw(b"k", b"there")
    print(producer.flush().acknowledged)
    broker.stop(Path(data))
    for _ in range(5):
        producer.send_raw(b"k", b"not there")
    report = producer.flush()
    print(report.sent, report.acknowledged, report.failed, sum(report.errors.values()))
    try:
        producer.close()
    except OSError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.broker
def test_what_a_dead_broker_never_had_is_reported(tmp_path: Path) -> None:
    classpath = jars.broker_classpath(jars.cache_folder(os.environ))
    printed = in_a_process_of_its_own(
        _DYING, str(tmp_path), os.environ.get("JAVA_HOME", ""), *map(str, classpath)
    ).splitlines()
    assert printed[:2] == ["1", "6 1 5 5"]
    assert printed[2].startswith("DeliveryFailed 5 of 6 messages to topic t were not acknowledged")


@pytest.mark.broker
def test_a_first_error_is_not_hidden_by_a_second(kafka: str, topic: str) -> None:
    def send_and_fail() -> None:
        with Producer(kafka, topic=topic) as producer:
            producer.send_raw(b"k", bytes(2 << 20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send_and_fail()


@pytest.mark.broker
def test_a_missing_topic_is_named(kafka: str, contract: Contract) -> None:
    with pytest.raises(TopicMissing, match="'no-such-topic' does not exist"):
        Producer(kafka, topic="no-such-topic", timeout_s=0.5)
    with pytest.raises(TopicMissing, match="'no-such-topic' does not exist"):
        source.end_offsets(kafka, ["no-such-topic"])
    assert "no-such-topic" not in source.create_topics(kafka, {})


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:9", "127.0.0.1:9, [::1]:9", "nonsense"])
def test_no_broker_is_said_in_a_sentence(bootstrap: str) -> None:
    with pytest.raises(BrokerUnreachable, match=r"no Kafka answers at .*headrace broker start"):
        Producer(bootstrap, topic="t", timeout_s=0.3)
    with pytest.raises(BrokerUnreachable, match=r"no Kafka answers at .*headrace broker start"):
        source.topic_counts(bootstrap, ["t"])


_STRANGER = """
import sys
from headrace.streaming.producer import Producer
try:
    Producer("127.0.0.1:" + sys.argv[1], topic="t", timeout_s=0.5)
except ConnectionError as error:
    print(type(error).__name__, error)
"""


def test_an_open_port_without_kafka_is_no_broker() -> None:
    def hang_up(server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up, args=(server,))
        thread.start()
        printed = in_a_process_of_its_own(_STRANGER, str(server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert printed.startswith("BrokerUnreachable no Kafka answers at 127.0.0.1:")


def test_a_producer_needs_a_topic_and_for_rows_a_contract() -> None:
    with pytest.raises(ValueError, match="expected a contract or a topic"):
        Producer("127.0.0.1:9")


@pytest.mark.broker
def test_wrong_use_is_refused(kafka: str, topic: str, contract: Contract) -> None:
    with Producer(kafka, topic=topic) as producer, pytest.raises(TypeError, match="need a contract"):
        producer.send({})
    with Producer(kafka, contract, topic=topic) as producer:
        with pytest.raises(KeyError, match="user_id"):
            producer.send_batch(pa.RecordBatch.from_pydict({"a": [1]}))
        with pytest.raises(ValueError, match="finite"):
            producer.send_batch(pa.RecordBatch.from_pydict({"user_id": [1], "rating": [float("nan")]}))
        assert producer.flush().sent == 0


@pytest.mark.broker
def test_topics_are_made_once_counted_and_read_from_an_offset(kafka: str, topic: str) -> None:
    assert source.create_topics(kafka, {topic: 9, f"{topic}-2": 1}, {"retention.ms": "3600000"}) == (
        f"{topic}-2",
    )
    assert list(source.read(kafka, topic)) == []
    with Producer(kafka, topic=f"{topic}-2") as producer:
        for number in range(5_000):
            producer.send_raw(None, str(number).encode())
    assert source.topic_counts(kafka, [topic, f"{topic}-2"]) == {topic: 0, f"{topic}-2": 5_000}
    assert source.end_offsets(kafka, [topic, f"{topic}-2"]) == {
        topic: {0: 0, 1: 0, 2: 0},
        f"{topic}-2": {0: 5_000},
    }
    some = source.read(kafka, f"{topic}-2", begin={0: 2_990}, end={0: 4_010})
    assert [int(message.value or b"") for message in some] == list(range(2_990, 4_010))
