"""Carry out what comes on an erasure topic: one signed request a message, judged, suppressed, erased, with signed receipts.

    spark-submit jobs/erase.py TABLE --topic erasures --bootstrap 127.0.0.1:9092

In the flow: beside the pipeline, which goes on writing meanwhile; it needs no Spark session of its own. Messages hold envelopes as
``headrace erase request`` writes them, so the topic never sees an id. Delivery is at least once: how far each partition was read
is kept in the register after its messages are done, and a request that comes again is refused as a replay. A message that is
refused or is no request is told on standard error by its place and reason, and the job goes on with the next one; an error of
the store ends it, and the next start finishes what was begun.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from headrace import storage
from headrace.jobs.cli_erase_requests import KEYS, RECEIPTS, REGISTER, SUBJECTS
from headrace.jobs.erasing import Office
from headrace.jobs.settings import read_settings
from headrace.jobs.terminal import OURS, exit_code
from headrace.storage import durable
from headrace.storage.errors import RequestMalformed, RequestRefused, WrongKeyType
from headrace.storage.receipts import Receipt
from headrace.storage.register import Register
from headrace.storage.signing import Signer, parse_envelope
from headrace.storage.subjects import SubjectKey

POLL_S = 1.0
_OFFSETS = "offsets.json"


class Asked(Protocol):
    """What is needed of a message; ``headrace.streaming.source.Message`` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class Answer:
    """What became of one message: receipts, or why it was refused."""

    place: str
    receipts: tuple[Receipt, ...] = ()
    refused: str | None = None


def answer(office: Office, message: Asked) -> Answer:
    """Carry out one message, or refuse it; other errors are the job's end."""
    place = f"{message.topic}/{message.partition}/{message.offset}"
    try:
        return Answer(place, tuple(office.run(parse_envelope(message.value or b""))))
    except (RequestMalformed, RequestRefused, WrongKeyType) as error:
        return Answer(place, refused=f"{type(error).__name__}: {error}")


def read_offsets(register: Register, topic: str) -> dict[int, int]:
    """By partition, the first offset that was not answered yet."""
    return _all_offsets(register).get(topic, {})


def _all_offsets(register: Register) -> dict[str, dict[int, int]]:
    try:
        return msgspec.json.decode((register.folder / _OFFSETS).read_bytes(), type=dict[str, dict[int, int]])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}  # read from the start: what was done is refused as a replay


def keep_offsets(register: Register, topic: str, offsets: dict[int, int]) -> None:
    """Remember how far a topic was answered; synced."""
    path = register.folder / _OFFSETS
    temporary = path.with_name(f".{_OFFSETS}.tmp")
    temporary.unlink(missing_ok=True)
    durable.write_file_synced(temporary, msgspec.json.encode({**_all_offsets(register), topic: offsets}))
    temporary.replace(path)
    durable.sync_dir(register.folder)


def consume(
    office: Office,
    topic: str,
    messages: Callable[[dict[int, int]], Iterable[Asked]],
    told: Callable[[Answer], None],
) -> int:
    """Answer what waits on a topic, from where the register stopped; how many messages that were.

    Args:
        office: what carries requests out.
        topic: its name.
        messages: those from some offsets by partition up to the topic's present end.
        told: is handed each answer.
    """
    offsets, n = read_offsets(office.register, topic), 0
    for message in messages(dict(offsets)):
        told(answer(office, message))
        offsets[message.partition] = message.offset + 1
        keep_offsets(office.register, topic, offsets)
        n += 1
    return n


def show(found: Answer) -> None:
    """One line for each message."""
    if found.refused is not None:
        print(f"{found.place}: {found.refused}", file=sys.stderr, flush=True)
        return
    for receipt in found.receipts:
        print(
            f"{found.place}: receipt {receipt.sequence}, {receipt.level}: {receipt.rows} rows of {receipt.n_found} of "
            f"{receipt.n_subjects} persons, version {receipt.version_after}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None, *, source: Callable[..., Iterable[Any]] | None = None) -> int:
    """Entry point of ``spark-submit``; 0 after an orderly end, else one sentence and the exit code for it."""
    parser = argparse.ArgumentParser(prog="erase.py", description="erasure topic → table → signed receipts")
    parser.add_argument("table", help="the table's folder")
    parser.add_argument("--topic", default="erasures")
    parser.add_argument("--bootstrap", help="host:port of the broker; the settings' by default")
    parser.add_argument("--config", type=Path, help="settings file that `headrace setup` wrote")
    parser.add_argument("--register", type=Path, default=REGISTER)
    parser.add_argument("--topics-days", type=int, help="after how many days topics hold nothing old")
    parser.add_argument(
        "--caught-up", action="store_true", help="end once the topic's present requests are answered"
    )
    parser.add_argument("--stop-file", type=Path, help="end after the running request once this file exists")
    arguments = parser.parse_args(argv)
    if source is None:
        from headrace.streaming.source import read

        source = read
    read_topic = source  # which a type checker follows into the function below
    try:
        kafka = read_settings(arguments.config).kafka
        bootstrap = arguments.bootstrap or kafka.bootstrap
        folder = arguments.register / KEYS
        office = Office(
            Register(arguments.register),
            storage.open(arguments.table),
            Signer.load(folder / RECEIPTS),
            SubjectKey.load(folder / SUBJECTS),
            topics_days=arguments.topics_days,
        )
        show(Answer("unfinished", tuple(office.resume())))
        while True:
            consume(
                office,
                arguments.topic,
                lambda begin: read_topic(bootstrap, arguments.topic, begin=begin, **kafka.client_options()),
                show,
            )
            if arguments.caught_up or (arguments.stop_file is not None and arguments.stop_file.exists()):
                return 0
            time.sleep(POLL_S)
    except OURS as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
