"""Driver side of one micro-batch: stage, check, learn, and publish everything in one manifest.

In the flow: what Structured Streaming calls for each batch. The order is what makes it exactly once: staged files are durable
but invisible; the manifest names them together with the learner's snapshot and the counters, under (query id, batch id); a
batch that Spark replays finds its manifest and does nothing. Only commit messages, counts and the learner's columns, in
chunks, come to this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pyarrow as pa
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession

from headrace import storage
from headrace.jobs import check
from headrace.jobs.accounts import PIPELINE, QUALITY, Accounts
from headrace.jobs.errors import CheckpointLost, JobError, Overtaken
from headrace.jobs.learners import Learner
from headrace.jobs.linear import LinearQuery
from headrace.jobs.messages import MESSAGE_COLUMNS
from headrace.jobs.progress import GATE, PROGRESS, Progress, last_commit
from headrace.jobs.seen import Recent
from headrace.jobs.settings import Settings
from headrace.jobs.sink import Sink
from headrace.jobs.stage import Plan, Stage, Staged
from headrace.streaming.contracts import Contract, GateDisagreement

_STAGED = msgspec.msgpack.Decoder(Staged)


class Stopped(JobError, RuntimeError):
    """A batch began after the query was asked to stop; it did nothing."""


class MicroBatch:
    """Processes one query's batches in order; ``progress`` is the state after the last committed one.

    Args:
        progress: what the table says of its last commit.
        linear: the learner whose predictions are stored in the rows, or ``None``.
        others: which learn from the same rows once they are staged.
        report: called with the progress after each commit.
        accounts: where the batch's time is noted; its second opinion runs as a user of its own.
    """

    def __init__(
        self,
        session: SparkSession,
        settings: Settings,
        contract: Contract,
        table: storage.Table,
        progress: Progress,
        linear: LinearQuery | None,
        others: Sequence[Learner],
        report: Callable[[Progress], None],
        accounts: Accounts,
    ) -> None:
        self.progress = progress
        self.failure: BaseException | None = None
        self._session = session
        self._settings = settings
        self._contract = contract
        self._table = table
        self._sink = Sink(table)
        self._linear = linear
        self._learners = [*others] if linear is None else [linear, *others]
        self._report = report
        self._accounts = accounts
        self._folder = table.folder
        last = last_commit(table)
        self._went_on_from = last.version if last is not None else 0
        self._recent = Recent(
            table,
            contract,
            progress.watermarks_us,
            settings.stream.lateness_s,
            self._folder / check.STAGING,
        )
        self._one_at_a_time = threading.Lock()
        self._stopping = False
        self._beside = ThreadPoolExecutor(1, "gate-check")

    def __call__(self, messages: DataFrame, batch_id: int) -> None:
        """``foreachBatch``'s function: the Kafka rows of batch ``batch_id``."""
        with self._one_at_a_time:
            try:
                if self._stopping:
                    raise Stopped(f"batch {batch_id} is left to the next start")
                with self._accounts.timed(PIPELINE):
                    self._process(messages, batch_id)
            except BaseException as error:
                self.failure = error  # Spark would only keep its text
                raise

    def request_stop(self) -> None:
        """Return once no batch is in work; none that comes after does anything."""
        self._stopping = True  # before the wait: the next batch may be quicker to the lock
        with self._one_at_a_time:
            pass

    def is_set_aside(self) -> bool:
        """Whether its learners have persons in memory whom an erasure has taken out of their snapshots: begin anew."""
        return self._sink.is_set_aside()

    def _process(self, messages: DataFrame, batch_id: int) -> None:
        query_id = self._session.sparkContext.getLocalProperty("sql.streaming.queryId")
        assert query_id is not None
        if self._is_committed(query_id, batch_id):
            return
        self._take_over(query_id)
        began = time.monotonic()
        staged = self._stage(messages)
        after = self.progress.advanced(
            query_id, batch_id, [pair for task in staged for pair in task.tallies.items()]
        )
        for task in staged:
            for phase, seconds in task.seconds.items():
                after.seconds[phase] = after.seconds.get(phase, 0.0) + seconds
        after.seconds["stage"] = time.monotonic() - began
        verdict = self._check_beside([task.check for task in staged if task.check is not None])
        files = [task.file for task in staged if task.file is not None]
        paths = [self._folder / file.path for file in files]
        for learner in self._learners:
            with _noted(after, learner.name):
                learner.feed(paths, after)
        pa.default_memory_pool().release_unused()
        checking = time.monotonic()
        gate_json = verdict.result() if verdict is not None else b"{}"
        after.seconds["check"] = time.monotonic() - checking
        _require_agreement(gate_json, after)
        committing = time.monotonic()
        attachments: dict[str, bytes] = {}
        for learner in self._learners:
            with _noted(after, learner.name):
                attachments |= learner.publish(after)
        self._commit(files, after, attachments | {PROGRESS: after.to_json(), GATE: gate_json})
        self.progress.seconds["commit"] = time.monotonic() - committing
        self.progress.seconds["batch"] = time.monotonic() - began
        self._report(self.progress)

    def _is_committed(self, query_id: str, batch_id: int) -> bool:
        """Whether the table already holds this batch.

        Raises:
            CheckpointLost: the batch does not follow on the table's last one.
        """
        last = self.progress
        if last.query_id and last.query_id != query_id and batch_id != 0:
            raise CheckpointLost(
                f"table '{self._table.path}' was last written by query {last.query_id}, this checkpoint belongs to {query_id}"
            )
        done = last.batch_id if last.query_id == query_id else -1
        if batch_id > done + 1:
            raise CheckpointLost(
                f"the checkpoint '{self._settings.stream.checkpoint}' goes on at batch {batch_id}, but table "
                f"'{self._table.path}' ends at batch {done}: batches {done + 1} to {batch_id - 1} are missing. Restore the table, "
                "or remove the checkpoint and start with --adopt to read on from the table's own offsets"
            )
        return batch_id <= done

    def _take_over(self, query_id: str) -> None:
        """Before its first batch, keep earlier drivers of the query from committing any more.

        Raises:
            Overtaken: one of them has since the table was read, so that this driver's learners are behind it.
        """
        if not self._sink.take_over(query_id):
            return
        last = last_commit(self._table)
        now = last.version if last is not None else 0
        if now != self._went_on_from:
            raise Overtaken(
                f"table '{self._table.path}' was at version {self._went_on_from} of its query when this driver started, and "
                f"is at {now}: another driver was still at work. It is kept from committing now; start this one again"
            )

    def _stage(self, messages: DataFrame) -> list[Staged]:
        stream = self._settings.stream
        plan = Plan(
            topic=stream.topic,
            contract=self._contract,
            table=self._folder,
            staging=self._folder / check.STAGING,
            task=self._linear.task if self._linear is not None else None,
            snapshot=self._linear.snapshot if self._linear is not None else None,
            watermarks_us=self.progress.watermarks_us,
            recent=self._recent.files(),
            lateness_us=round(stream.lateness_s * 1e6),
            ahead_us=round(stream.ahead_s * 1e6),
            max_event_bytes=stream.max_event_bytes,
            check_rows=stream.check_rows,
            seed=self._settings.seed,
            bootstrap=self._settings.kafka.bootstrap,
            client_options=self._settings.kafka.client_options(),
            dead_letters=stream.dead_letters,
        )
        rows = messages.selectExpr(*MESSAGE_COLUMNS).mapInArrow(Stage(plan), "staged binary").collect()
        return sorted(
            (_STAGED.decode(row.staged) for row in rows),
            key=lambda task: min(task.tallies, default=-1),
        )

    def _check_beside(self, paths: Sequence[str]) -> Future[bytes] | None:
        """Start the second opinion; the executors are idle while this process learns."""
        if not paths:
            return None
        work = inheritable_thread_target(self._session)(self._check)
        return self._beside.submit(work, paths)

    def _check(self, paths: Sequence[str]) -> bytes:
        with self._accounts.acting(QUALITY, "second opinion"), self._accounts.timed(QUALITY):
            return check.check(
                self._session.sparkContext, self._contract, paths, self._settings.stream.check_rows
            )

    def _commit(
        self, files: Sequence[storage.DataFile], after: Progress, attachments: Mapping[str, bytes]
    ) -> None:
        commit = self._sink.commit(files, after.key, attachments)
        self.progress = after
        for learner in self._learners:
            learner.committed(commit)
        self._recent.advance(commit.files, after.watermarks_us)


def _require_agreement(gate_json: bytes, after: Progress) -> None:
    """Raises GateDisagreement where the second opinion differs, before any learner has published what it learnt."""
    disagreements = check.disagreements(gate_json)
    if disagreements:
        raise GateDisagreement(
            f"batch {after.batch_id} of '{after.topic}': great-expectations and the masks disagree on {disagreements}; "
            "nothing of this batch was committed. Report the contract and this line"
        )


@contextmanager
def _noted(after: Progress, name: str) -> Iterator[None]:
    """Add this process's CPU time to the batch's seconds."""
    began = time.process_time()
    yield
    after.seconds[name] = after.seconds.get(name, 0.0) + time.process_time() - began
