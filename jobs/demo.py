"""``headrace demo``: the whole way of the data on one machine, watched.

In the flow: starts a broker, submits the main job exactly as ``headrace run`` does, sends events, shows what each commit
says, ends the job once everything is accounted for, and prints one summary. Nothing it starts outlives it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
from rich.console import Console

from headrace import storage
from headrace.jobs.accounts import accounts_text, read_accounts
from headrace.jobs.errors import JobError
from headrace.jobs.feed import Feed, feed_of
from headrace.jobs.install import write_conf
from headrace.jobs.live import LiveView, Sight
from headrace.jobs.places import cache, fetch_jars, java
from headrace.jobs.progress import PROGRESS, Progress, last_commit, read_progress
from headrace.jobs.settings import Clicks, Kafka, Scheduler, Settings, Stream
from headrace.jobs.submit import submit_line
from headrace.jobs.summary import Summary, sizes
from headrace.jobs.terminal import console as terminal
from headrace.storage.errors import TableNotFound
from headrace.streaming import jars
from headrace.streaming.ad_feed import ROUTED_BY, STEP_EVENTS
from headrace.streaming.broker import EmbeddedBroker, create_topics
from headrace.streaming.contracts import load

PARTITIONS = 4
ANALYSTS = 2
LOOK_EVERY_S = 0.5
WEIGH_EVERY_S = 5.0
"""Asking a dozen processes for their memory takes a good part of a second of CPU, which the job can use better."""
STOP_WITHIN_S = 600.0
"""The running batch commits first, and on a machine that is busy with other things it takes minutes."""
_MARK = "made-by-headrace-demo"


class DemoFailed(JobError, RuntimeError):
    """The demo cannot begin, or its job ended before the events were through."""


def run_demo(
    root: Path,
    *,
    events: int,
    data: Path | None,
    form: str | None,
    seed: int,
    policy: str = "uwfq",
    console: Console = terminal,
) -> int:
    """Run the demo below ``root`` (emptied first, if an earlier demo made it); the exit code.

    Two analysts query the table while it is filled; ``policy`` says in what order all users' jobs go.
    """
    runtime = java()
    _prepare(root)
    feed = feed_of(events, data, form, seed, root / "contracts")
    contract = load(feed.contract)
    console.print(
        "headrace demo: fetching jars (55 MB, the first time only), then starting Kafka and Spark …"
    )
    connector = fetch_jars()
    with EmbeddedBroker(root / "broker", jars.broker_classpath(cache()), runtime.path) as broker:
        # Small batches, so that a person sees the learner learn.
        stream = Stream(
            topic=contract.topic,
            contract=feed.contract,
            table=root / "tables" / contract.topic,
            checkpoint=root / "checkpoints" / contract.topic,
            max_events_per_batch=10_000,
        )
        # AdaptDHM learns beside the linear model where torch is installed; nothing else of the demo needs it.
        clicks = Clicks(
            enabled=find_spec("torch") is not None and contract.topic == "ad_feed",
            context=ROUTED_BY,
            batch=STEP_EVENTS,
            # Of five events four are impressions, and halfway the tastes change: the third window, the last to be full, lies after
            # that. In windows of a tenth the two networks differ by chance more than by routing.
            window_events=max(100, events // 4),
        )
        fair = Scheduler.model_validate({"policy": policy})
        settings = Settings(
            kafka=Kafka(bootstrap=broker.bootstrap), stream=stream, scheduler=fair, clicks=clicks, seed=seed
        )
        installed = write_conf(root / "conf", settings, connector)
        create_topics(broker.bootstrap, {stream.topic: PARTITIONS, stream.dead_letters: PARTITIONS})
        line = submit_line(
            installed.settings, stop_file=root / "stop", analysts=ANALYSTS, accounts=root / "accounts.json"
        )
        console.print(line.text(), soft_wrap=True)
        watch = _Watch(settings, feed, root / "job.log", root / "stop")
        with line.start(watch.log) as job:
            watch.run(job, console)
    summary = watch.summary(contract.features.event_id)
    text = summary.text() if summary is not None else f"nothing was stored yet; log: {watch.log}"
    console.print(f"\n{text}", soft_wrap=True, markup=False)
    shared = accounts_text(read_accounts(root / "accounts.json"), policy)
    console.print(f"\n{shared}", soft_wrap=True, markup=False)
    return 0


def _prepare(root: Path) -> None:
    mark = root / _MARK
    if root.exists() and any(root.iterdir()):
        if not mark.exists():
            raise DemoFailed(
                f"'{root}' is not empty and no earlier demo made it; name another folder with --root"
            )
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    mark.touch()


class _Watch:
    """Sends the events while the job runs, looks at what it commits, and ends it when all is accounted for."""

    def __init__(self, settings: Settings, feed: Feed, log: Path, stop_file: Path) -> None:
        self.log = log
        self._settings = settings
        self._feed = feed
        self._stop_file = stop_file
        self._progress: Progress | None = None
        self._began = time.monotonic()
        self._ended = self._began
        self._memory_bytes = self._peak_memory_bytes = 0
        self._weighed = -WEIGH_EVERY_S

    def run(self, job: subprocess.Popen[bytes], console: Console) -> None:
        """Return when the job has ended in order.

        Raises:
            DemoFailed: it ended by itself, or did not end when told to.
        """
        self._feed.start(self._settings.kafka.bootstrap, self._settings.stream.topic)
        try:
            with LiveView(console) as view:
                while True:
                    sent = self._feed.done()  # before the look, which counts what was sent
                    sight = self._look("Ctrl-C ends it early")
                    if sent and sight.lag == 0:
                        break
                    if job.poll() is not None:
                        raise DemoFailed(
                            f"the job ended early: {_last_line(self.log)} (whole log: {self.log})"
                        )
                    view.show(sight)
                    time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            console.print("ending after the running batch …")
            self._stop_file.touch()  # the job need not wait until all that was sent is acknowledged
            self._feed.stop()
        finally:
            self._stop_file.touch()
        try:
            job.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            job.kill()  # its warden; the job ends with it
            raise DemoFailed(f"the job did not end within {STOP_WITHIN_S:.0f} s; see {self.log}") from None
        self._look("ended")
        self._ended = time.monotonic()

    def summary(self, event_id: str) -> Summary | None:
        """The figures of the run; ``None`` where it ended before its first commit."""
        if self._progress is None:
            return None
        table = storage.open(self._settings.stream.table)
        ours, parquet = sizes(table)
        return Summary(
            produced=self._feed.produced,
            progress=self._progress,
            table=self._settings.stream.table,
            event_id=event_id,
            log=self.log,
            seconds=self._ended - self._began,
            peak_memory_bytes=self._peak_memory_bytes,
            store_bytes=ours,
            parquet_bytes=parquet,
        )

    def _look(self, note: str) -> Sight:
        try:
            commit = last_commit(storage.open(self._settings.stream.table))
        except TableNotFound:
            commit = None  # the job is still starting
        if commit is not None:
            self._progress = read_progress(commit.attachment(PROGRESS))
        elapsed_s = time.monotonic() - self._began
        if elapsed_s - self._weighed >= WEIGH_EVERY_S:
            self._weighed, self._memory_bytes = elapsed_s, _memory_bytes()
            self._peak_memory_bytes = max(self._peak_memory_bytes, self._memory_bytes)
        waiting = "Spark is starting" if self._progress is None else note
        return Sight(self._feed.produced, self._progress, elapsed_s, self._memory_bytes, waiting)


def _memory_bytes() -> int:
    """Memory of this process and everything below it; what Spark's forked workers share is counted once."""
    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # it ended between listing and looking
    return total


def _last_line(log: Path) -> str:
    lines = (
        [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if log.exists()
        else []
    )
    return lines[-1] if lines else "it printed nothing"
