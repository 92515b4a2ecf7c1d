"""Verbs of the stream: ``broker``, ``produce``, ``replay``, ``contract``, ``dlq``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.jobs.terminal import console, say

if TYPE_CHECKING:  # these take seconds to import, and most verbs need none of them
    from headrace.jobs.settings import Settings
    from headrace.streaming.contracts import Contract
    from headrace.streaming.producer import Producer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file; see `headrace setup`.")]
Bootstrap = Annotated[str | None, typer.Option(help="host:port of the broker; the settings' by default.")]
Topic = Annotated[str | None, typer.Option(help="Topic; the settings' by default.")]
Folder = Annotated[Path, typer.Option(help="The broker's data folder.")]

broker = typer.Typer(no_args_is_help=True, help="The embedded Kafka broker: one node, loopback only.")
contract = typer.Typer(no_args_is_help=True, help="Contracts: what a topic promises.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: what a contract rejected, and why.")

_DATA = Path(".headrace/broker")


@broker.command("start")
def broker_start(
    data: Folder = _DATA,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9092,
    topics: Annotated[
        str | None, typer.Option(help="Comma-separated topics to make, 4 partitions each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a broker in the background, or find the one that runs on this folder."""
    from headrace.jobs.places import cache, fetch_jars, java
    from headrace.streaming import jars
    from headrace.streaming.broker import Settings, start
    from headrace.streaming.source import create_topics

    fetch_jars()
    state = start(data, jars.broker_classpath(cache()), java().path, Settings(port=port))
    if topics:
        create_topics(state.bootstrap, dict.fromkeys(topics.split(","), 4))
    say(
        {"bootstrap": state.bootstrap, "pid": state.pid},
        as_json,
        lambda: f"Kafka answers at {state.bootstrap} (pid {state.pid}); end it with `headrace broker stop`",
    )


@broker.command("stop")
def broker_stop(data: Folder = _DATA, as_json: Json = False) -> None:
    """End the broker of this folder."""
    from headrace.streaming.broker import stop

    stopped = stop(data)
    say({"stopped": stopped}, as_json, lambda: "stopped" if stopped else f"no broker runs on {data}")


@broker.command("status")
def broker_status(data: Folder = _DATA, as_json: Json = False) -> None:
    """Whether a broker runs on this folder; exit code 1 where none does."""
    from headrace.streaming.broker import log_file, status

    state = status(data)
    found = {"bootstrap": state.bootstrap, "pid": state.pid, "log": str(log_file(data))} if state else None
    say(
        found,
        as_json,
        lambda: f"runs at {state.bootstrap}, pid {state.pid}" if state else f"no broker runs on {data}",
    )
    if state is None:
        raise typer.Exit(1)


def produce(
    events: Annotated[int, typer.Option(min=1, help="Messages to send, broken ones among them.")] = 10_000,
    per_s: Annotated[
        float | None, typer.Option(help="Messages per second; as fast as possible by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the events.")] = 0,
    broken_share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of broken messages.")] = 0.01,
    form: Annotated[
        str, typer.Option("--format", help="json, or arrow: many rows a message, none broken.")
    ] = "json",
    bootstrap: Bootstrap = None,
    topic: Topic = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send generated ad events to a topic."""
    from headrace.jobs.feed import generate, generate_arrow
    from headrace.jobs.settings import read_settings
    from headrace.streaming.contracts import load

    settings = read_settings(config)
    where = topic or settings.stream.topic
    if dry_run:
        plan = {"messages": events, "topic": where, "bootstrap": bootstrap or settings.kafka.bootstrap}
        say(plan, as_json, lambda: f"would send {events} messages to {where} at {plan['bootstrap']}")
        return
    with _producer(settings, load("ad_feed"), bootstrap, where) as producer:
        if form == "arrow":
            generate_arrow(producer, events, seed)
        else:
            generate(producer, lambda _: None, events, seed, per_s=per_s, broken_share=broken_share)
        report = producer.flush()
    say(
        report,
        as_json,
        lambda: f"{report.rows} events in {report.acknowledged} messages, {report.bytes} bytes",
    )


def replay(
    path: Annotated[Path, typer.Argument(help="The file; for MovieLens u.data or *.inter.")],
    as_: Annotated[
        str | None, typer.Option("--as", help="movielens, csv, jsonl or parquet; guessed by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--contract", help="The topic's contract; the settings' by default.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-6, help="Event seconds per second; by default at once.")
    ] = None,
    form: Annotated[
        Literal["json", "arrow"], typer.Option("--format", help="arrow: many rows a message.")
    ] = "json",
    bootstrap: Bootstrap = None,
    topic: Annotated[str | None, typer.Option(help="Topic; the contract's by default.")] = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send the rows of a real file to a topic, in the order of their event time."""
    from headrace.jobs.feed import form_of
    from headrace.jobs.settings import read_settings
    from headrace.streaming import replay as replaying
    from headrace.streaming.contracts import load

    settings = read_settings(config)
    chosen = form_of(path, as_)
    loaded = load(name or ("movielens" if chosen == "movielens" else settings.stream.contract))
    if dry_run:
        events = replaying.read_events(path, chosen, loaded)
        plan = {"rows": len(events.times_us), "raw_rows": len(events.raw), "topic": topic or loaded.topic}
        say(plan, as_json, lambda: f"would send {plan['rows']} rows of {path} to {plan['topic']}")
        return
    with _producer(settings, loaded, bootstrap, topic or loaded.topic) as producer:
        sent = replaying.replay(path, chosen, loaded, producer, speed=speed, format=form)
    say(
        sent,
        as_json,
        lambda: (
            f"{sent.rows} rows sent ({sent.raw_rows} of them as they stood, because they could not be written as events) in {sent.elapsed_s:.1f} s"
        ),
    )


def _producer(settings: Settings, contract: Contract, bootstrap: str | None, topic: str) -> Producer:
    from headrace.streaming.producer import Producer

    return Producer(
        bootstrap or settings.kafka.bootstrap, contract, topic=topic, **settings.kafka.client_options()
    )


@contract.command("init")
def contract_init(
    source: Annotated[Path, typer.Option("--from", help="A Parquet, CSV or JSON-lines file of events.")],
    out: Annotated[Path | None, typer.Option(help="File to write; printed by default.")] = None,
) -> None:
    """Write a first contract for the events of a file."""
    from headrace.streaming.contracts.init import infer

    text = infer(source)
    if out is None:
        print(text, end="")
        return
    out.write_text(text)
    console.print(
        f"wrote {out}; read it, tighten its rules, then `headrace contract check {out} --data {source}`",
        soft_wrap=True,
    )


@contract.command("check")
def contract_check(
    name: Annotated[str, typer.Argument(help="A shipped contract's name, or a file.")],
    data: Annotated[Path | None, typer.Option(help="Events to hold to it.")] = None,
    as_json: Json = False,
) -> None:
    """Read a contract, and hold a file's events to it; exit code 1 where one is rejected."""
    from headrace.streaming.contracts import gate, load
    from headrace.streaming.contracts.init import read_events

    loaded = load(name)
    found = {"topic": loaded.topic, "version": loaded.version, "rows": 0, "rejected": 0, "reasons": {}}
    if data is not None:
        batch = read_events(data, loaded)
        verdict = gate(batch, loaded)
        found |= {"rows": batch.num_rows, "rejected": verdict.keep.false_count, "reasons": verdict.failures}
    say(found, as_json, lambda: ", ".join(f"{key} {value}" for key, value in found.items()))
    if found["rejected"]:
        raise typer.Exit(1)


@contract.command("show")
def contract_show(name: Annotated[str, typer.Argument(help="A shipped contract's name, or a file.")]) -> None:
    """A contract as a reference page."""
    from headrace.streaming.contracts import load
    from headrace.streaming.contracts.reference import to_markdown

    print(to_markdown(load(name)))


@dlq.command("show")
def dlq_show(
    limit: Annotated[int, typer.Option(min=1, help="Letters to show.")] = 10,
    reason: Annotated[str | None, typer.Option(help="Only letters with this reason.")] = None,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Dead letters with their reason and origin. Original bytes may be personal data: they are shown escaped and cut."""
    letters = (
        letter
        for letter in _letters(bootstrap, topic, config)
        if reason is None or reason in letter["reason"].split(",")
    )
    shown = list(itertools.islice(letters, limit))
    say(
        shown,
        as_json,
        lambda: (
            "\n".join(f"{one['key']}  {one['reason']}  {one['value'][:120]}" for one in shown)
            or "no dead letters"
        ),
    )


@dlq.command("stats")
def dlq_stats(
    bootstrap: Bootstrap = None, topic: Topic = None, config: Config = None, as_json: Json = False
) -> None:
    """Dead letters by reason; a letter that was sent twice counts once."""
    reasons: Counter[str] = Counter()
    for letter in _letters(bootstrap, topic, config):
        reasons.update(letter["reason"].split(","))
    say(
        dict(reasons),
        as_json,
        lambda: "\n".join(f"{n:8d}  {r}" for r, n in reasons.most_common()) or "no dead letters",
    )


def _letters(bootstrap: str | None, topic: str | None, config: Path | None) -> Iterator[dict[str, str]]:
    """Each dead letter once, whatever a replayed batch has sent again."""
    from headrace.jobs.dead_letters import CONTRACT, REASON
    from headrace.jobs.settings import read_settings
    from headrace.streaming.source import read

    settings = read_settings(config)
    seen: set[bytes] = set()
    for message in read(
        bootstrap or settings.kafka.bootstrap,
        topic or settings.stream.dead_letters,
        **settings.kafka.client_options(),
    ):
        key = message.key or b""
        if key not in seen:
            seen.add(key)
            headers = {name: value.decode(errors="replace") for name, value in message.headers}
            yield {
                "key": key.decode(errors="replace"),
                "reason": headers.get(REASON, ""),
                "contract": headers.get(CONTRACT, ""),
                "value": (message.value or b"").decode(errors="backslashreplace"),
            }


def register(app: typer.Typer) -> None:
    """Add these verbs to ``app``."""
    app.add_typer(broker, name="broker")
    app.add_typer(contract, name="contract")
    app.add_typer(dlq, name="dlq")
    app.command()(produce)
    app.command()(replay)
