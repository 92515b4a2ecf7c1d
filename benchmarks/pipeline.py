"""Table ``pipeline``: what contract, gate, dead letters, learner and our store cost on top of plain Spark.

Both contestants read the same topic of generated ad-feed events from its beginning, with the same Spark settings and the
same number of messages per micro-batch. The broker's CPU seconds count for neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Parts, Profile, Repetition, Table
from headrace.streaming import jars
from headrace.streaming.ad_feed import AdFeed, Produced
from headrace.streaming.broker import EmbeddedBroker
from headrace.streaming.contracts import load
from headrace.streaming.java import find
from headrace.streaming.producer import Producer
from headrace.streaming.source import create_topics

CONTRACT = "ad_feed"
PARTITIONS = 4
SEED = 20
BROKEN_SHARE = 0.01
HUGE_BYTES = 600 * 1024
"""Above what the job accepts, below what the broker does."""
SPARK = {"master": "local[2]", "driver_memory": "1g"}
PACKAGES = ("pyspark", "pyarrow", "numpy")


def events_per_s(repetition: Repetition) -> float:
    return repetition.values["events"] / repetition.wall_s


def events_per_cpu_s(repetition: Repetition) -> float:
    return repetition.values["events"] / repetition.cpu_s


def cases(profile: Profile) -> tuple[Case, ...]:
    """The topic's size grows with the profile; ``full`` varies the micro-batch too."""
    if profile is Profile.QUICK:
        return (_case(10_000, 10_000, repetitions=3, expected_s=3.0),)
    if profile is Profile.DEFAULT:
        return (_case(200_000, 50_000, repetitions=5, expected_s=25.0),)
    return (
        _case(200_000, 10_000, repetitions=7, expected_s=40.0),
        _case(200_000, 50_000, repetitions=7, expected_s=25.0),
        _case(1_000_000, 50_000, repetitions=5, expected_s=120.0),
    )


def _case(events: int, per_batch: int, repetitions: int, expected_s: float) -> Case:
    size = f"{events // 1000}k events, {per_batch // 1000}k a batch"
    return Case(
        name=size.replace(",", "").replace(" ", "-"),
        contestants=(
            Contestant(
                OURS,
                "benchmarks.runners.pipeline_ours",
                packages=("headrace", *PACKAGES, "numba", "great-expectations", "kafka-python"),
            ),
            Contestant("spark + parquet", "benchmarks.runners.pipeline_parquet", packages=PACKAGES),
        ),
        metrics=(
            Metric(f"[pipeline] events per second, {size}", "events/s", "higher", events_per_s),
            Metric(f"[pipeline] events per CPU second, {size}", "events/s", "higher", events_per_cpu_s),
        ),
        repetitions=repetitions,
        discard=2,
        expected_s=expected_s,
        parts=Parts(
            f"[pipeline] time, {size}",
            "s/100k events",
            per="events",
            scale=100_000.0,
            cpu=("parse", "gate", "predict", "encode", "learn"),
            wall=("check", "commit"),
            rest="Spark and the rest",
        ),
        args={
            **SPARK,
            "events": events,
            "topic": f"{CONTRACT}_{events}",
            "dead_letters": f"{CONTRACT}_{events}.dlq",
            "contract": CONTRACT,
            "max_events_per_batch": per_batch,
            "partitions": PARTITIONS,
            "seed": SEED,
            "broken_share": BROKEN_SHARE,
        },
    )


@contextmanager
def ground(pending: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Json]]:
    """A broker with the topics that ``pending`` reads, each filled once."""
    cache = jars.cache_folder(os.environ)
    java = find(os.environ.get("JAVA_HOME"), os.environ.get("PATH"))
    jars.resolve(cache, java=java.path, repository=os.environ.get("HEADRACE_REPOSITORY"))
    with EmbeddedBroker(scratch / "broker", jars.broker_classpath(cache), java.path) as broker:
        topics = {case.args["topic"]: case for case in pending}
        yield {
            "bootstrap": broker.bootstrap,
            "connector": [str(jar) for jar in jars.connector_jars(cache)],
            "ddl": load(CONTRACT).spark_ddl(),
            "messages": {topic: _fill(broker.bootstrap, case) for topic, case in topics.items()},
        }


def _fill(bootstrap: str, case: Case) -> int:
    """Create a case's topics and send its events; how many messages that were."""
    topic, good = case.args["topic"], round(case.args["events"] / (1 + BROKEN_SHARE))
    create_topics(bootstrap, {topic: PARTITIONS, case.args["dead_letters"]: PARTITIONS})
    feed = AdFeed(seed=SEED, broken_share=BROKEN_SHARE, huge_bytes=HUGE_BYTES)
    produced = Produced()
    with Producer(bootstrap, topic=topic) as producer:
        for key, value, headers in feed.messages(good, produced):
            producer.send_raw(key, value, headers)
    return produced.messages


TABLE = Table(
    name="pipeline",
    title="The main job against plain Spark writing Parquet, from the same topic",
    cases=cases,
    ground=ground,
    notes=(
        "spark + parquet: from_json, foreachBatch, Parquet with zstd; no contract, no dead letters, no learner, and a batch",
        "that is replayed after a crash is stored twice. CPU seconds are those of driver, JVM and Python workers.",
        "parse to learn are CPU seconds; check runs beside learning and is, like commit, the wall time the batch waits for it.",
    ),
)
