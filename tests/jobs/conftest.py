"""A pipeline over topics of its own, for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from headrace import storage
from headrace.jobs.pipeline import Options, run
from headrace.jobs.progress import Progress
from headrace.jobs.settings import Kafka, Learner, Settings, Stream
from headrace.streaming.contracts import load
from headrace.streaming.producer import Producer
from headrace.streaming.source import Message, create_topics, read

_numbers = itertools.count()


@dataclass
class Pipeline:
    """One topic, one table, one checkpoint; ``run`` reads the topic to its present end."""

    spark: SparkSession
    settings: Settings

    def run(self, **options: Any) -> Progress:
        return run(self.spark, self.settings, Options(caught_up=True, **options))

    def producer(self) -> Producer:
        stream, kafka = self.settings.stream, self.settings.kafka
        return Producer(kafka.bootstrap, load(stream.contract), topic=stream.topic, **kafka.client_options())

    def send(self, messages: Iterable[tuple[bytes | None, bytes | None, Any]]) -> None:
        with self.producer() as producer:
            for key, value, headers in messages:
                producer.send_raw(key, value, headers)

    def rows(self) -> pa.Table:
        return storage.open(self.settings.stream.table).to_table()

    def letters(self) -> list[Message]:
        kafka = self.settings.kafka
        return list(read(kafka.bootstrap, self.settings.stream.dead_letters, **kafka.client_options()))


@pytest.fixture
def pipeline(spark: SparkSession, kafka: str, tmp_path: Path) -> Callable[..., Pipeline]:
    """Makes a pipeline; keyword arguments go to the stream's settings."""

    def make(
        contract: str | Path = "ad_feed", partitions: int = 2, learner: Learner | None = None, **stream: Any
    ) -> Pipeline:
        topic = f"topic-{next(_numbers)}"
        settings = Settings(
            kafka=Kafka(bootstrap=kafka),
            stream=Stream(
                topic=topic,
                contract=str(contract),
                table=tmp_path / topic,
                checkpoint=tmp_path / f"{topic}.checkpoint",
                **{"max_events_per_batch": 4_000, **stream},
            ),
            learner=learner or Learner(bits=16),
        )
        create_topics(kafka, {topic: partitions, settings.stream.dead_letters: 1})
        return Pipeline(spark, settings)

    return make
