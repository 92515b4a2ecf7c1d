"""AdaptDHM learnt on the stream: impressions predicted on the executors, labels joined, scored, then learnt on the driver.

In the flow: one of the learners of a ``MicroBatch``. Executors read the staged rows and note each impression with the prediction of the last
published snapshots, the learner's and its control's (the same network without routing), opened once per version and worker. The driver
lets impressions wait for their label, scores those whose window has passed with what was noted, learns them, and publishes the next
snapshots in the batch's own manifest. Scores go to a table of their own, under the batch's key. Where the contract joins clicks, the
window is its own; where the label stands in the row, it is joined at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
from pyspark import SparkContext

from headrace import storage
from headrace.jobs.errors import BadSettings, LearnerChanged, torch_for
from headrace.jobs.progress import (
    CLICKS,
    CLICKS_CONTROL,
    CLICKS_METRICS,
    Progress,
    attached,
    attachment_path,
    last_commit,
    report_table,
)
from headrace.jobs.settings import Clicks
from headrace.jobs.sink import Sink
from headrace.streaming.contracts import Contract
from headrace.streaming.joins import InlineLabel, JoinedLabel, inline_labels, rows_of_kind
from headrace.streaming.loop import Task, task_of
from headrace.streaming.metrics import Prequential, gauc

if TYPE_CHECKING:
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier

ROWS = pa.schema(
    [
        pa.field("batch", pa.int64()),
        pa.field("scope", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("positives", pa.int64()),
        *(
            pa.field(f"{who}{name}", pa.float64())
            for name in ("auc", "log_loss", "calibration", "gauc")
            for who in ("", "control_")
        ),
        *(pa.field(name, pa.int64()) for name in ("waiting", "late", "repeated", "learnt", "alarms")),
        pa.field("trust", pa.float64()),
        pa.field("learnt_per_s", pa.float64()),
    ]
)
"""Rows per batch, by scope: "batch" (with the counters and GAUC by user), "total" since the start, "window" (the last full one), and one
for each domain since the start, as "domain:NAME". ``control_`` is the network without routing on the same rows; calibration is predicted
over real clicks. ``learnt_per_s``: events that the driver learns in a CPU second, both networks: what saturates first."""


class _Read(msgspec.Struct):
    """What an executor made of one staged file: noted impressions, and the ids that were clicked."""

    noted: bytes
    clicked: bytes


_READ = msgspec.msgpack.Decoder(_Read)


class ClickQuery:
    """AdaptDHM on one table, with its control. Attributes: table, where scores go."""

    name = "clicks"

    def __init__(
        self,
        context: SparkContext,
        task: Task,
        model: AdaptDHMClassifier,
        control: AdaptDHMClassifier | None,
        metrics: Prequential,
        table: storage.Table,
    ) -> None:
        self.model, self.control, self.metrics, self.table = model, control, metrics, table
        self._context, self._task, self._sink = context, task, Sink(table)
        self._snapshots: tuple[Path | None, Path | None] = (None, None)
        self._report = ROWS.empty_table()

    def committed(self, commit: storage.Commit | None) -> None:
        """Predict by the snapshots of this commit from now on."""
        self._snapshots = attachment_path(commit, CLICKS), attachment_path(commit, CLICKS_CONTROL)

    def feed(self, paths: Sequence[Path], after: Progress) -> None:
        """Predict on the executors; then join, score and learn what has waited for its label."""
        from headrace.streaming.learners.adapt_dhm.noted import Noted

        for part in self._read(paths):
            self.model.take(Noted.from_bytes(part.noted))
            for clicked in pa.ipc.open_stream(part.clicked):
                self.model.click(clicked.column(0))
        began = time.process_time()
        resolved = self.model.resolve(_now_us(after) / 1e6)
        rows = resolved.rows
        if self.control is not None and len(rows.time):
            self.control.learn_resolved(rows)
        learnt = len(rows.time) / max(1e-9, time.process_time() - began)
        if len(rows.time):
            names = pa.array([self.model.domain_name(place) for place in rows.domain.tolist()])
            self.metrics.update(rows.scores[:, 0], rows.scores[:, -1], rows.clicked, names)
        self._report = self._scores(after.batch_id, rows, learnt)

    def publish(self, after: Progress) -> dict[str, bytes]:
        """Commit the scores under the batch's key; both snapshots for the batch's own manifest. ``after`` gets the scores since the start."""
        self._sink.commit([self.table.stage(self._report.to_batches())], after.key)
        after.clicks = {
            **self.metrics.total.summary(),
            "window": self.metrics.last_window,
            "alarms": int(self.model.watch.alarms.sum()),
        }
        published = {
            CLICKS: self.model.publish(),
            CLICKS_METRICS: msgspec.json.encode(self.metrics.to_dict()),
        }
        if self.control is not None:
            self.control.version = self.model.version
            published[CLICKS_CONTROL] = self.control.to_bytes()
        return published

    def _read(self, paths: Sequence[Path]) -> list[_Read]:
        """The files' impressions and clicks, in the order of the files."""
        if not paths:
            return []
        task = self._task
        makers = [
            None if model is None else (None if path is None else str(path), model._get_params())
            for model, path in zip((self.model, self.control), self._snapshots, strict=True)
        ]
        found = (
            self._context.parallelize([(at, str(path)) for at, path in enumerate(paths)], len(paths))
            .map(lambda part: _note(part[1], task, makers))
            .collect()
        )
        return [_READ.decode(data) for data in found]

    def _scores(self, batch: int, rows: Any, learnt_per_s: float) -> pa.Table:
        counts, trust = self.model.pending.counts, getattr(self.model.model.routing, "trust", None)  # type: ignore[union-attr]
        said: list[dict[str, Any]] = []
        scopes: dict[str, Any] = {"total": self.metrics.total.summary()}
        if self.metrics.last_window is not None:
            scopes["window"] = self.metrics.last_window
        scopes |= {f"domain:{name}": duel.summary() for name, duel in sorted(self.metrics.domains.items())}
        for scope, summary in scopes.items():
            row: dict[str, Any] = {
                "batch": batch,
                "scope": scope,
                "rows": summary["rows"],
                "positives": summary["positives"],
            }
            for prefix, who in (("", "model"), ("control_", "baseline")):
                if who == "model" or self.control is not None:
                    row |= {f"{prefix}{n}": summary[who][n] for n in ("auc", "log_loss", "calibration")}
            said.append(row)
        row = {
            "batch": batch,
            "scope": "batch",
            "rows": len(rows.time),
            "positives": int(rows.clicked.sum()),
            "waiting": self.model.pending.waiting,
            "late": counts.late,
            "repeated": counts.repeated,
            "learnt": self.model.n_learned,
            "alarms": int(self.model.watch.alarms.sum()),
            "trust": None if trust is None else float(trust),
            "learnt_per_s": learnt_per_s if len(rows.time) else None,
        }
        for prefix, place in (("", 0), ("control_", -1)):
            if len(rows.time) and (place == 0 or self.control is not None):
                value, n = gauc(rows.group, rows.scores[:, place], rows.clicked)
                row[f"{prefix}gauc"] = value if n else None
        return pa.Table.from_pylist([row, *said], schema=ROWS)


def open_clicks(
    context: SparkContext, table: storage.Table, contract: Contract, clicks: Clicks, seed: int
) -> ClickQuery:
    """AdaptDHM as of the table's last commit.

    Raises:
        BadSettings: the contract has no label, a context field is not among its ids, or torch is not installed.
        LearnerChanged: the snapshot was made with other settings.
    """
    features = contract.features
    if features.label is None:
        raise BadSettings(
            f"expected features.label in contract '{contract.topic}', which says what is clicked; name it there, or leave clicks.enabled off"
        )
    with torch_for("AdaptDHM"):
        # Found out before anything is read. A step is too small to be shared: a second thread would wait for a core that tasks have.
        import_module("torch").set_num_threads(1)
        from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
    task = task_of(contract)
    params = params_of(task, contract, clicks, seed)
    model = AdaptDHMClassifier(**params, routing=clicks.routing)
    control = AdaptDHMClassifier(**params, routing="none") if clicks.control else None
    last = last_commit(table)
    kept = attached(last, CLICKS)
    metrics = Prequential(clicks.window_events)
    if kept is not None:
        model = _restored(table, kept, model)
        beside = attached(last, CLICKS_CONTROL)
        if (beside is None) != (control is None):
            raise LearnerChanged(
                f"table '{table.path}' was learnt {'without' if beside is None else 'with'} a control; put clicks.control back, "
                "or write to a new table (and checkpoint)"
            )
        if control is not None and beside is not None:
            control = _restored(table, beside, control)
        metrics = Prequential.from_dict(msgspec.json.decode(attached(last, CLICKS_METRICS) or b"{}"))
    query = ClickQuery(
        context, task, model, control, metrics, report_table(table, "clicks", clicks.table, ROWS)
    )
    query.committed(last)
    return query


def params_of(task: Task, contract: Contract, clicks: Clicks, seed: int) -> dict[str, Any]:
    """What the settings make of a contract: its ids and numbers are features, and routing looks at ids that are not the item's.

    Raises:
        BadSettings: a context field is none of the ids.
    """
    features = contract.features
    ids = tuple(name for name in features.ids if name != features.event_id)
    unknown = [name for name in clicks.context if name not in ids]
    if unknown:
        raise BadSettings(
            f"clicks.context: {', '.join(unknown)} is no id of contract '{contract.topic}'; it has {', '.join(ids)}"
        )
    context = clicks.context or tuple(name for name in ids if name != features.item)
    unknown = [name for cross in clicks.crosses for name in cross if name not in context]
    if unknown:
        raise BadSettings(
            f"clicks.crosses: {', '.join(unknown)} is not among the context, which is {', '.join(context)}"
        )
    label = task.label
    return {
        "ids": ids,
        "numbers": tuple(features.dense),
        "context": context,
        "crosses": clicks.crosses or None,
        "domain": features.domain if features.domain in ids else None,
        "event": features.event_id,
        "time": features.event_time,
        "group": features.key,
        "window": label.window_us / 1e6 if isinstance(label, JoinedLabel) else 0.0,
        "lr": clicks.learning_rate,
        "batch": clicks.batch,
        "rows": clicks.rows,
        "negative_rate": clicks.negative_rate,
        "delay": clicks.delay,
        "capacity": clicks.capacity,
        "seed": seed,
    }


def _restored(table: storage.Table, kept: bytes, fresh: AdaptDHMClassifier) -> AdaptDHMClassifier:
    model = type(fresh).from_bytes(kept)
    mine, theirs = fresh._get_params(), model._get_params()
    differing = [name for name in mine if mine[name] != theirs[name]]
    if differing:
        raise LearnerChanged(
            f"table '{table.path}' has a click model made otherwise: {', '.join(differing)} differ. Put them back, or write to a new "
            "table (and checkpoint) to begin with an empty one"
        )
    return model


def _now_us(after: Progress) -> int:
    """The event time at which windows end: that of the partition which is furthest behind, so that its clicks can still come.

    A partition that brought nothing in this batch had nothing: it holds nobody up.
    """
    known = after.watermarks_us
    return min((known[place] for place in after.partitions if place in known), default=0)


def _note(path: str, task: Task, makers: Sequence[tuple[str | None, dict[str, Any]] | None]) -> bytes:
    """On an executor: the impressions of one file as the snapshots predict them, and the ids that its clicks name."""
    models = [
        None if maker is None else _snapshot(maker[0], msgspec.json.encode(maker[1])) for maker in makers
    ]
    model, control = models
    assert model is not None
    assert model.fields is not None
    label = task.label
    own = (label.column,) if isinstance(label, InlineLabel) else (label.kind, label.refers_to)
    names = (model.event, model.time, str(model.group), *model.fields.ids, *model.fields.numbers, *own)
    parts = list(storage.read_file(Path(path), columns=list(dict.fromkeys(names))))
    rows = pa.Table.from_batches(parts).combine_chunks() if parts else None
    if rows is None or not rows.num_rows:
        raise ValueError(f"'{path}' was staged without rows")
    batch = rows.to_batches()[0]
    if isinstance(label, InlineLabel):
        shown = np.arange(batch.num_rows)
        clicked = batch.column(model.event).take(pa.array(np.flatnonzero(inline_labels(batch, label))))
    else:
        shown = rows_of_kind(batch.column(label.kind), label.impression)
        clicked = batch.column(label.refers_to).take(
            pa.array(rows_of_kind(batch.column(label.kind), label.click))
        )
    impressions = batch.take(pa.array(shown))
    others = []
    if control is not None:
        others.append(control.predict(control.fields.arrow(impressions)))  # type: ignore[union-attr]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([pa.field("event", clicked.type)])) as writer:
        writer.write_batch(pa.record_batch([clicked], names=["event"]))
    return msgspec.msgpack.encode(
        _Read(model.note(impressions, *others).to_bytes(), sink.getvalue().to_pybytes())
    )


@lru_cache(maxsize=2)
def _snapshot(path: str | None, params: bytes) -> AdaptDHMClassifier:
    """The newest snapshot, opened once per version and worker process; before the first one, what it began as."""
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier

    import_module("torch").set_num_threads(1)  # Spark counts a task as one core
    if path is not None:
        return AdaptDHMClassifier.load(path)
    said: dict[str, Any] = msgspec.json.decode(params)
    plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in said.items()}
    return AdaptDHMClassifier(**plain)
