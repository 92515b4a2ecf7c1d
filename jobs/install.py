"""``headrace setup``: the folder of settings that makes a plain ``spark-submit`` find everything.

It fetches the jars once, then writes ``spark-defaults.conf`` (found through ``SPARK_CONF_DIR``), ``log4j2.properties`` and a
commented ``headrace.toml``. A settings file that is already there is left alone; the Spark files are ours and written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.jobs._session import DEFAULTS, LOOPBACK, is_local, scheduled
from headrace.jobs.settings import Settings

FILES = ("spark-defaults.conf", "log4j2.properties", "headrace.toml")
"""What ``write_conf`` writes."""

_SETTINGS = """\
# Settings of a headrace job. Any value can be overridden by an environment variable,
# for example HEADRACE_STREAM__TOPIC=clicks. Secrets are read from the environment or from files only.
seed = {seed}

[spark]
master = "{master}"              # or spark://host:7077, yarn, k8s://https://host:6443
driver_memory = "{memory}"

[kafka]
bootstrap = "{bootstrap}"
# security_protocol = "SASL_SSL"
# sasl_mechanism = "SCRAM-SHA-512"
# sasl_username = "headrace"
# sasl_password_file = "kafka.password"   # or HEADRACE_KAFKA__SASL_PASSWORD
# ssl_cafile = "ca.pem"

[stream]
topic = "{topic}"
contract = "{contract}"         # a shipped contract's name, or the path of a contract file
table = "{table}"
checkpoint = "{checkpoint}"
trigger_ms = {trigger_ms}
max_events_per_batch = {max_events}
lateness_s = {lateness_s}

[learner]
enabled = {learner}
bits = {bits}

[clicks]
enabled = {clicks}                # AdaptDHM beside it; needs headrace[torch] on every node
context = {context}   # ids known before an item is chosen; all but the item's where none is named
batch = {clicks_batch}                 # events of a step
window_events = {clicks_window}        # scored events of a window

[scheduler]
policy = "{policy}"                # uwfq, ujf, cfq, fifo, or none for Spark's own order
# weights = {{ pipeline = 2.0 }}    # shares of a busy machine; 1 where none is named
# caps = {{ backfill = 0.5 }}       # the most of all cores that a user may have
# history = "scheduler.json"      # what jobs have cost, kept for the next start
"""

_LOG4J = """\
# Everything Spark says goes to this file; the terminal is the job's own.
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd'T'HH:mm:ss.SSS}} %p %c{{1}}: %m%n%ex
# A query that is stopped inside a batch reports its own interruption as an error; restarts pick that batch up again.
logger.stream.name = org.apache.spark.sql.execution.streaming
logger.stream.level = error
"""


@dataclass(frozen=True)
class Installed:
    """What ``setup`` wrote."""

    conf: Path
    settings: Path
    log: Path
    kept_settings: bool


def write_conf(
    conf: Path, settings: Settings, connector: Sequence[Path], own: Path | None = None
) -> Installed:
    """Write the configuration folder ``conf`` for ``settings``, with ``connector`` as Spark's extra jars.

    ``own``: the user's settings file, copied as it is; without it a commented one is written from ``settings``.
    """
    conf = conf.absolute()
    conf.mkdir(parents=True, exist_ok=True)
    log = conf.parent / "spark.log"
    local = LOOPBACK if is_local(settings.spark.master) else {}
    fair, plugin = scheduled(settings.scheduler)
    defaults = {
        "spark.master": settings.spark.master,
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.jars": ",".join(map(str, (*connector, *plugin))),
        **DEFAULTS,
        **fair,
        **local,
        **settings.spark.conf,
    }
    lines = [f"{key} {value}" for key, value in defaults.items()]
    (conf / "spark-defaults.conf").write_text("# Written by `headrace setup`.\n" + "\n".join(lines) + "\n")
    (conf / "log4j2.properties").write_text(_LOG4J.format(log=log))
    file = conf / "headrace.toml"
    kept = file.exists()
    if not kept:
        file.write_text(own.read_text() if own is not None else settings_text(settings))
    return Installed(conf, file, log, kept)


def settings_text(settings: Settings) -> str:
    """``settings`` as the commented TOML file that users edit."""
    stream = settings.stream
    return _SETTINGS.format(
        seed=settings.seed,
        master=settings.spark.master,
        memory=settings.spark.driver_memory,
        bootstrap=settings.kafka.bootstrap,
        topic=stream.topic,
        contract=stream.contract,
        table=stream.table,
        checkpoint=stream.checkpoint,
        trigger_ms=stream.trigger_ms,
        max_events=stream.max_events_per_batch,
        lateness_s=stream.lateness_s,
        learner=str(settings.learner.enabled).lower(),
        bits=settings.learner.bits,
        clicks=str(settings.clicks.enabled).lower(),
        context=list(settings.clicks.context),
        clicks_batch=settings.clicks.batch,
        clicks_window=settings.clicks.window_events,
        policy=settings.scheduler.policy,
    )
