"""Where a demo's events come from: the generator, or a file; sent by a thread of their own.

In the flow: the very beginning. ``produced`` counts events as they are handed to the producer, which is what the pipeline's
counters must add up to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast, get_args

from headrace.jobs.errors import JobError
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.contracts import load
from headrace.streaming.contracts.init import infer
from headrace.streaming.producer import Producer
from headrace.streaming.replay import Form, replay

PER_S = 4_000  # leaves half of two cores to Spark, and a demo of 200,000 events still ends within two minutes
HUGE_BYTES = 600 * 1024  # above what the job accepts, below what the broker does
BROKEN_SHARE = 0.01

Count = Callable[[int], None]


class UnknownData(JobError, ValueError):
    """A file whose form cannot be guessed from its name."""


class Feed:
    """Events on their way to a topic, sent by a thread once ``start`` is called.

    Args:
        contract: what the events are, a shipped contract's name or a file.
        send: sends everything through a producer, telling the given function of events before it sends them; that function
            raises ``_Stopped`` when no more is wanted.
    """

    def __init__(self, contract: str, send: Callable[[Producer, Count], None]) -> None:
        self.contract = contract
        self.produced = 0
        self._send = send
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self, bootstrap: str, topic: str) -> None:
        """Begin to send to ``topic``."""
        self._thread = threading.Thread(target=self._run, args=(bootstrap, topic), name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more; return when what was sent is acknowledged."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def done(self) -> bool:
        """Whether everything was sent and acknowledged; raises what went wrong in the thread."""
        if self._failure is not None:
            raise self._failure
        return self._thread is not None and not self._thread.is_alive()

    def _run(self, bootstrap: str, topic: str) -> None:
        try:
            contract = load(self.contract)
            # Stopped or not, leaving the producer's block delivers what was counted.
            with Producer(bootstrap, contract, topic=topic) as producer, suppress(_Stopped):
                self._send(producer, self._count)
        except Exception as error:  # noqa: BLE001  it is raised again where the thread is watched
            self._failure = error

    def _count(self, events: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self.produced += events


class _Stopped(Exception):
    """No more events are wanted."""


def feed_of(events: int, data: Path | None, form: str | None, seed: int, drafts: Path) -> Feed:
    """Generated ad events, or the rows of ``data``.

    A file that is no MovieLens gets a contract drafted from its rows, written to the folder ``drafts``.

    Raises:
        UnknownData: the form of ``data`` was not named and its name does not tell.
    """
    if data is None:
        return Feed("ad_feed", lambda producer, count: generate(producer, count, events, seed, per_s=PER_S))
    as_ = form_of(data, form)
    if as_ == "movielens":
        contract = "movielens"
    else:
        drafts.mkdir(parents=True, exist_ok=True)
        draft = drafts / f"{data.stem}.toml"
        draft.write_text(infer(data))
        contract = str(draft)

    def send(producer: Producer, count: Count) -> None:
        replay(data, as_, load(contract), producer, on_rows=count)

    return Feed(contract, send)


def form_of(data: Path, named: str | None) -> Form:
    """What a file is, as named, else by its name.

    Raises:
        UnknownData: neither tells.
    """
    if named in get_args(Form):
        return cast("Form", named)
    name = data.name.lower()
    if named is None and (name == "u.data" or name.endswith(".inter")):
        return "movielens"
    forms: dict[str, Form] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    if named is None and data.suffix.lower() in forms:
        return forms[data.suffix.lower()]
    raise UnknownData(
        f"what '{data}' holds does not show from its name{f', and {named!r} is no form' if named else ''}; "
        f"say --as {', '.join(get_args(Form))}"
    )


def generate(
    producer: Producer,
    count: Count,
    events: int,
    seed: int,
    *,
    per_s: float | None = None,
    broken_share: float = BROKEN_SHARE,
) -> None:
    """Send ``events`` messages of the ad feed, broken ones among them, telling ``count`` of each."""
    feed = AdFeed(seed=seed, broken_share=broken_share, huge_bytes=HUGE_BYTES)
    began = time.monotonic()
    good = round(events / (1 + broken_share))
    for number, (key, value, headers) in enumerate(feed.messages(good)):
        count(1)
        producer.send_raw(key, value, headers)
        if per_s is not None and number % 200 == 0:
            time.sleep(max(0.0, began + number / per_s - time.monotonic()))


def generate_arrow(producer: Producer, events: int, seed: int) -> None:
    """Send ``events`` good events of the ad feed as Arrow messages of many rows."""
    for batch in AdFeed(seed=seed).batches(events):
        producer.send_batch(batch, format="arrow")
