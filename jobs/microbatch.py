"""Driver side of one micro-batch: stage, check, learn, and publish everything in one manifest.

In the flow: what Structured Streaming calls for each batch. The order is what makes it exactly once: staged files are durable
but invisible; the manifest names them together with the learner's snapshot and the counters, under (query id, batch id); a
batch that Spark replays finds its manifest and does nothing. Only commit messages, counts and the learner's columns, in
chunks, come to this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession

from headrace import storage
from headrace.jobs import check
from headrace.jobs.accounts import PIPELINE, QUALITY, Accounts
from headrace.jobs.errors import CheckpointLost, JobError, Overtaken
from headrace.jobs.learn import feed_file
from headrace.jobs.messages import MESSAGE_COLUMNS
from headrace.jobs.progress import (
    GATE,
    LEARNER,
    PROGRESS,
    RECOMMENDER,
    TAGS,
    Progress,
    attachment_path,
    last_commit,
)
from headrace.jobs.seen import recent_files, within_horizon
from headrace.jobs.settings import Settings
from headrace.jobs.sink import Sink
from headrace.jobs.stage import Plan, Stage, Staged
from headrace.streaming.contracts import Contract, GateDisagreement
from headrace.streaming.loop import Loop

if TYPE_CHECKING:
    from headrace.jobs.ctr import ClickQuery
    from headrace.jobs.recommend import RecommendQuery
    from headrace.jobs.tags import TagQuery


_STAGED = msgspec.msgpack.Decoder(Staged)


class Stopped(JobError, RuntimeError):
    """A batch began after the query was asked to stop; it did nothing."""


class MicroBatch:
    """Processes one query's batches in order; ``progress`` is the state after the last committed one.

    Args:
        progress: what the table says of its last commit.
        loop: the learner as of that commit, or ``None`` for a contract without a label.
        tags: the tag learner as of that commit, or ``None``.
        recommender: the recommender as of that commit, or ``None``.
        clicks: AdaptDHM as of that commit, or ``None``.
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
        loop: Loop | None,
        report: Callable[[Progress], None],
        accounts: Accounts,
        tags: TagQuery | None = None,
        recommender: RecommendQuery | None = None,
        clicks: ClickQuery | None = None,
    ) -> None:
        self.progress = progress
        self.failure: BaseException | None = None
        self._session = session
        self._settings = settings
        self._contract = contract
        self._table = table
        self._sink = Sink(table)
        self._loop = loop
        self._tags = tags
        self._recommender = recommender
        self._clicks = clicks
        self._report = report
        self._accounts = accounts
        self._folder = table.folder
        last = last_commit(table)
        self._went_on_from = last.version if last is not None else 0
        self._snapshot = attachment_path(last, LEARNER)
        self._ranked_by = attachment_path(last, RECOMMENDER)
        self._recent = within_horizon(
            recent_files(self._folder, table.files), progress.watermarks_us, settings.stream.lateness_s
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
        snapshot = self._learn(staged, after)
        checking = time.monotonic()
        gate_json = verdict.result() if verdict is not None else b"{}"
        after.seconds["check"] = time.monotonic() - checking
        committing = time.monotonic()
        tags = self._learn_tags(staged, after)
        recommender = self._learn_recommender(staged, after)
        snapshots = {LEARNER: snapshot, TAGS: tags, RECOMMENDER: recommender} | self._learn_clicks(
            staged, after
        )
        self._commit(staged, after, snapshots, gate_json)
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
            task=self._loop.task if self._loop is not None else None,
            snapshot=self._snapshot,
            watermarks_us=self.progress.watermarks_us,
            recent=tuple(self._recent),
            lateness_us=round(stream.lateness_s * 1e6),
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

    def _learn(self, staged: Sequence[Staged], after: Progress) -> bytes | None:
        """Feed the loop the staged rows, a bounded chunk at a time, in order of partition."""
        if self._loop is None:
            return None
        began = time.process_time()
        for task in staged:
            if task.file is not None:
                feed_file(self._folder / task.file.path, self._loop.columns, self._loop.feed)
        published = self._loop.finish_batch()
        after.metrics = published.metrics
        pa.default_memory_pool().release_unused()
        after.seconds["learn"] = time.process_time() - began
        return published.data

    def _learn_tags(self, staged: Sequence[Staged], after: Progress) -> bytes | None:
        """Feed the tag learner the same rows, and publish what it reports."""
        if self._tags is None:
            return None
        began = time.process_time()
        for task in staged:
            if task.file is not None:
                self._tags.feed(self._folder / task.file.path)
        snapshot = self._tags.publish((after.query_id, after.batch_id))
        after.seconds["tags"] = time.process_time() - began
        return snapshot

    def _learn_recommender(self, staged: Sequence[Staged], after: Progress) -> bytes | None:
        """Have the executors rank the batch by the last snapshot, then learn it."""
        if self._recommender is None:
            return None
        began = time.process_time()
        paths = [self._folder / task.file.path for task in staged if task.file is not None]
        self._recommender.feed(paths, self._ranked_by, after.batch_id)
        snapshot = self._recommender.publish((after.query_id, after.batch_id))
        after.seconds["recommender"] = time.process_time() - began
        return snapshot

    def _learn_clicks(self, staged: Sequence[Staged], after: Progress) -> dict[str, bytes | None]:
        """Have the executors predict the batch by the last snapshots, then score and learn what has waited for its label."""
        if self._clicks is None:
            return {}
        paths = [self._folder / task.file.path for task in staged if task.file is not None]
        return self._clicks.run(paths, after)

    def _commit(
        self, staged: Sequence[Staged], after: Progress, snapshots: dict[str, bytes | None], gate_json: bytes
    ) -> None:
        disagreements = check.disagreements(gate_json)
        if disagreements:
            raise GateDisagreement(
                f"batch {after.batch_id} of '{after.topic}': great-expectations and the masks disagree on {disagreements}; "
                "nothing of this batch was committed. Report the contract and this line"
            )
        files = [task.file for task in staged if task.file is not None]
        attachments = {PROGRESS: after.to_json(), GATE: gate_json}
        attachments |= {name: data for name, data in snapshots.items() if data is not None}
        commit = self._sink.commit(files, (after.query_id, after.batch_id), attachments)
        self.progress = after
        self._snapshot = attachment_path(commit, LEARNER)
        self._ranked_by = attachment_path(commit, RECOMMENDER)
        if self._clicks is not None:
            self._clicks.committed(commit)
        self._recent = within_horizon(
            [*self._recent, *recent_files(self._folder, commit.files)],
            after.watermarks_us,
            self._settings.stream.lateness_s,
        )
