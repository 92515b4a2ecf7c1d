"""The main job: one topic through its contract into its table, with a learner that predicts before it learns.

    spark-submit jobs/pipeline.py --config conf/headrace.toml

In the flow: sets up the query and waits. What happens to a batch is in ``microbatch`` (driver) and ``stage`` (executors).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from headrace import storage
from headrace.jobs._session import require_kafka, session
from headrace.jobs.accounts import PIPELINE, Accounts
from headrace.jobs.analysts import Analysts
from headrace.jobs.check import clear
from headrace.jobs.errors import CheckpointLost, ContractChanged
from headrace.jobs.learners import open_learners
from headrace.jobs.linear import open_linear
from headrace.jobs.microbatch import MicroBatch, Stopped
from headrace.jobs.progress import PROGRESS, Progress, last_commit, read_progress
from headrace.jobs.settings import Settings, read_settings
from headrace.jobs.stage import stored_schema
from headrace.jobs.terminal import OURS, exit_code
from headrace.storage.errors import CommitFenced, TableNotFound
from headrace.streaming.contracts import Contract, load
from headrace.streaming.source import end_offsets

POLL_S = 1
_FROM_THE_START = -2  # Spark's name for the earliest offset of a partition


@dataclass(frozen=True)
class Options:
    """How a run begins and ends.

    Attributes:
        adopt: go on from the table's own offsets with a new checkpoint.
        caught_up: end once everything that was in the topic at the start is committed.
        stop_file: end after the running batch once this file exists.
        analysts: how many people query the table meanwhile, as users of their own.
        accounts: where to leave each user's response times and share, as JSON.
    """

    adopt: bool = False
    caught_up: bool = False
    stop_file: Path | None = None
    analysts: int = 0
    accounts: Path | None = None


def run(
    spark: SparkSession,
    settings: Settings,
    options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Run the query until it is told to end; the progress it reached.

    Raises:
        CheckpointLost: table and checkpoint do not belong together.
        ContractChanged: the table has other columns than the contract.
        ConnectorMissing: Spark cannot read Kafka.
        BrokerUnreachable, TopicMissing: before anything is started.
    """
    options = options or Options()
    require_kafka(spark.sparkContext)
    wanted = [settings.stream.topic, settings.stream.dead_letters]
    end_offsets(
        settings.kafka.bootstrap, wanted, **settings.kafka.client_options()
    )  # both are there, or it raises
    contract = load(settings.stream.contract)
    accounts = Accounts(spark)
    while (reached := _run(spark, settings, options, contract, report, accounts)) is None:
        pass
    if options.accounts is not None:
        accounts.write(options.accounts)
    return reached


def _run(
    spark: SparkSession,
    settings: Settings,
    options: Options,
    contract: Contract,
    report: Callable[[Progress], None],
    accounts: Accounts,
) -> Progress | None:
    """From the table's last commit until the end; ``None`` where an erasure has set the query aside meanwhile."""
    table = open_table(settings, contract)
    clear(table.folder)
    progress = _last_progress(table, settings, contract)
    starting = _starting_offsets(settings, progress, options.adopt)
    linear = open_linear(table, contract, settings.learner, settings.seed)
    others = open_learners(spark.sparkContext, table, contract, settings)
    batch = MicroBatch(spark, settings, contract, table, progress, linear, others, report, accounts)
    with accounts.acting(PIPELINE, f"stream {contract.topic}"):  # the query's thread inherits it
        query = _start(spark, settings, batch, starting, options.caught_up)
    try:
        with Analysts(spark, settings.stream.table, options.analysts, accounts):
            return _wait(query, batch, options.stop_file)
    except CommitFenced:
        if not batch.is_set_aside():
            raise
        return None


def open_table(settings: Settings, contract: Contract) -> storage.Table:
    """The contract's table, made when it is not there.

    Raises:
        ContractChanged: its columns differ from the contract's.
    """
    schema = stored_schema(contract)
    path = settings.stream.table
    try:
        table = storage.open(path)
    except TableNotFound:
        features = contract.features
        return storage.create(path, schema, erase_key=features.erase_key, personal=features.personal)
    if table.schema.names != schema.names or table.schema.types != schema.types:
        differing = sorted(set(map(str, table.schema)) ^ set(map(str, schema)))
        raise ContractChanged(
            f"table '{path}' does not have the columns of contract '{contract.topic}' v{contract.version}: "
            f"{', '.join(differing)} differ. Write the new contract's events to another table"
        )
    return table


def _last_progress(table: storage.Table, settings: Settings, contract: Contract) -> Progress:
    last = last_commit(table)
    if last is None:
        return Progress(settings.stream.topic, contract.version, query_id="", batch_id=-1)
    progress = read_progress(last.attachment(PROGRESS))
    if progress.topic != settings.stream.topic:
        raise CheckpointLost(
            f"table '{table.path}' holds topic '{progress.topic}', these settings name '{settings.stream.topic}'; "
            "give each topic a table of its own"
        )
    return progress


def _starting_offsets(settings: Settings, progress: Progress, adopt: bool) -> str:
    """Where a query without a checkpoint begins; refuses a checkpoint that is not the table's.

    Raises:
        CheckpointLost: and how to go on.
    """
    metadata = settings.stream.checkpoint / "metadata"
    checkpoint = json.loads(metadata.read_text())["id"] if metadata.exists() else None
    if not progress.query_id:
        if checkpoint is not None and _has_begun(settings.stream.checkpoint):
            raise CheckpointLost(
                f"checkpoint '{settings.stream.checkpoint}' has run before, but table '{settings.stream.table}' is empty: "
                "events before its offsets would be missing. Restore the table, or remove the checkpoint to read from the start"
            )
        return "earliest"
    if checkpoint == progress.query_id:
        return "earliest"  # not looked at: the checkpoint says where to go on
    if not adopt:
        came = f"belongs to query {checkpoint}" if checkpoint else "is gone"
        raise CheckpointLost(
            f"table '{settings.stream.table}' was written by query {progress.query_id} up to batch {progress.batch_id}, but the "
            f"checkpoint '{settings.stream.checkpoint}' {came}. Put the checkpoint back, or start with --adopt (and no checkpoint "
            "there) to go on from the offsets that the table has recorded: nothing is read twice and nothing is skipped"
        )
    if checkpoint is not None:
        raise CheckpointLost(
            f"--adopt begins a new checkpoint, but '{settings.stream.checkpoint}' exists; remove it or name another"
        )
    topic = settings.stream.topic
    ends = end_offsets(settings.kafka.bootstrap, [topic], **settings.kafka.client_options())
    begin = {
        str(partition): progress.next_offsets.get(partition, _FROM_THE_START) for partition in ends[topic]
    }
    return json.dumps({topic: begin})


def _has_begun(checkpoint: Path) -> bool:
    commits = checkpoint / "commits"
    return commits.is_dir() and any(entry.name.isdigit() for entry in commits.iterdir())


def _start(
    spark: SparkSession, settings: Settings, batch: MicroBatch, starting: str, caught_up: bool
) -> StreamingQuery:
    stream = settings.stream
    messages = (
        spark.readStream.format("kafka")
        .options(**settings.kafka.spark_options())
        .option("subscribe", stream.topic)
        .option("startingOffsets", starting)
        .option("includeHeaders", "true")
        .option("maxOffsetsPerTrigger", stream.max_events_per_batch)
        .load()
    )
    writer = (
        messages.writeStream.queryName(stream.topic)
        .option("checkpointLocation", str(stream.checkpoint.absolute()))
        .foreachBatch(batch)
    )
    if caught_up:
        return writer.trigger(availableNow=True).start()
    return writer.trigger(processingTime=f"{stream.trigger_ms} milliseconds").start()


def _wait(query: StreamingQuery, batch: MicroBatch, stop_file: Path | None) -> Progress:
    try:
        while not query.awaitTermination(POLL_S):
            if stop_file is not None and stop_file.exists():
                _stop(query, batch)
                break
    except KeyboardInterrupt:
        _stop(query, batch)
    except StreamingQueryException:
        if isinstance(batch.failure, Stopped):
            return batch.progress
        if batch.failure is not None:
            raise batch.failure from None
        raise
    return batch.progress


def _stop(query: StreamingQuery, batch: MicroBatch) -> None:
    """Let the running batch commit, let no other begin, end the query."""
    batch.request_stop()
    query.stop()


def main(
    argv: Sequence[str] | None = None,
    *,
    prepare: Callable[[Settings], Settings] = lambda settings: settings,
    name: str = "pipeline.py",
) -> int:
    """Entry point of ``spark-submit``; 0 after an orderly end, else one sentence and the exit code for it.

    ``prepare`` makes the settings of another job, called ``name``, from those that were read.
    """
    parser = argparse.ArgumentParser(prog=name, description="Kafka topic → contract → learner → table")
    parser.add_argument("--config", type=Path, help="settings file that `headrace setup` wrote")
    parser.add_argument(
        "--adopt", action="store_true", help="go on from the table's offsets with a new checkpoint"
    )
    parser.add_argument(
        "--caught-up", action="store_true", help="end once the topic's present events are committed"
    )
    parser.add_argument("--stop-file", type=Path, help="end after the running batch once this file exists")
    parser.add_argument("--analysts", type=int, default=0, help="people who query the table meanwhile")
    parser.add_argument("--accounts", type=Path, help="leave each user's response times and share here")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    try:
        settings = prepare(read_settings(arguments.config))
        spark = session(settings.spark, fair=settings.scheduler)
        options = Options(
            arguments.adopt,
            arguments.caught_up,
            arguments.stop_file,
            arguments.analysts,
            arguments.accounts,
        )
        progress = run(spark, settings, options, report=lambda p: print(line(p), flush=True))
    except OURS as error:
        if arguments.debug:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 0
    print(
        f"ended after batch {progress.batch_id}, {time.monotonic() - began:.1f} s; a restart goes on from there",
        flush=True,
    )
    spark.stop()
    return 0


def line(progress: Progress) -> str:
    """One batch in one line, for people and logs."""
    batch = progress.batch
    text = (
        f"batch {progress.batch_id}: {batch.events} events, {batch.stored} stored, {batch.dead} dead, {batch.late} late, "
        f"{batch.duplicates} duplicates, "
    )
    if batch.forgotten:
        text += f"{batch.forgotten} forgotten, "
    return f"{text}{progress.seconds.get('batch', 0.0):.1f} s"


if __name__ == "__main__":
    sys.exit(main())
