"""`Tagger`: IHOMER on Arrow rows whose labels are a list column, scored before it learns; what a Spark query runs on its driver.

In the flow: `jobs` feeds it the stored rows of a micro-batch in order and publishes what it returns. Features are the named
columns: where some are ids, everything is hashed (`features.hash_features`) and the stream is sparse; where all are numbers, they
are taken as they are and the stream is dense. A row whose list is null has no truth and is passed over; an empty list is a truth.

Rows are predicted and then learnt `STEP` at a time, counted from the beginning of the stream, so that what is learnt and scored
does not depend on how a stream was cut into micro-batches.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.columns import numbers
from headrace.streaming.learners.errors import BadCheckpoint, WrongFeatures
from headrace.streaming.learners.features import FeatureSpec, hash_features
from headrace.streaming.learners.ihomer.model import IHOMER
from headrace.streaming.learners.ihomer.prequential import LabelScores
from headrace.streaming.learners.ihomer.rows import Rows

STEP: Final = 50
LEARNER: Final = "tagger"
ROWS = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("subset_accuracy", pa.float64()),
        pa.field("hamming_loss", pa.float64()),
        pa.field("example_f1", pa.float64()),
        pa.field("micro_f1", pa.float64()),
        pa.field("macro_f1", pa.float64()),
        pa.field("before", pa.list_(pa.string())),
        pa.field("after", pa.list_(pa.string())),
    ]
)
"""What `Tagger.report` returns: kind "window" with its scores, or an event with the clusters before and after, each as text."""


@dataclass(frozen=True)
class TagTask:
    """What is learnt: the list column of labels, and the features. window_rows: rows of a window of scores."""

    label: str
    features: FeatureSpec
    window_rows: int = 1000

    @property
    def is_hashed(self) -> bool:
        """Whether ids are among the features."""
        return bool(self.features.ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `feed` needs."""
        return (self.label, *self.features.columns)


class Tagger:
    """The learner of one stream of tagged rows; see the module. `options` are IHOMER's."""

    def __init__(self, task: TagTask, **options: Any) -> None:
        self.task = task
        self.model = IHOMER(sparse=task.is_hashed, **options)
        self._features(self.model)
        self._scores = LabelScores()
        self._windows: list[dict[str, Any]] = []
        self._reported = 0
        self._waiting: list[pa.RecordBatch] = []

    def feed(self, batch: pa.RecordBatch) -> None:
        """Take rows in their order. Raises WrongFeatures where a column is absent or of a type that cannot be used."""
        missing = [name for name in self.task.columns if name not in batch.schema.names]
        if missing:
            raise WrongFeatures(
                f"expected the columns {', '.join(self.task.columns)}; {', '.join(missing)} is not there"
            )
        rows = batch.select(list(self.task.columns)).filter(batch.column(self.task.label).is_valid())
        self._waiting.append(rows)
        self._work(whole_steps=True)

    def report(self) -> pa.Table:
        """Windows completed and events since last asked, as rows of `ROWS`; nothing is reported twice."""
        events = self.model.events
        rows = self._windows + [_event_row(event) for event in events[self._reported :]]
        self._windows, self._reported = [], len(events)
        return pa.Table.from_pylist(sorted(rows, key=lambda row: row["row"]), schema=ROWS)

    def forget_rows(self) -> int:
        """Let go of the rows that are kept as they came, those that wait unlearnt; how many there were. See `IHOMER.forget_rows`."""
        forgotten: int = self.model.forget_rows() + sum(rows.num_rows for rows in self._waiting)
        self._waiting = []
        return forgotten

    def to_bytes(self) -> bytes:
        """The whole state; rows that wait for a full step are part of it."""
        waiting = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._waiting) if self._waiting else None
        if table is not None:
            with pa.ipc.new_stream(waiting, table.schema) as writer:
                writer.write_table(table)
        scores = msgspec.json.encode(
            [
                self._scores.rows,
                self._scores.exact,
                self._scores.wrong,
                self._scores.example,
                list(self._scores.labels.items()),
            ]
        )
        parts = {"model": self.model.to_bytes(), "waiting": waiting.getvalue().to_pybytes(), "scores": scores}
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        params = {"task": msgspec.json.encode(self.task).decode()}
        return checkpoint.dump(
            checkpoint.State(LEARNER, self._reported, self.model.n_learned, params, arrays)
        )

    @classmethod
    def from_bytes(cls, data: bytes, task: TagTask | None = None) -> "Tagger":
        """The tagger that `to_bytes` wrote; `task` is for states that do not say theirs, as the first ones. Raises BadCheckpoint."""
        kept = checkpoint.load(data, LEARNER)
        said = kept.params.get("task")
        if said is None and task is None:
            raise BadCheckpoint(
                f"a state of {LEARNER!r} by an early release does not say its task: give the task, or read what its job commits next"
            )
        try:
            tagger = cls(task if task is not None and said is None else _TASK.decode(str(said)))
            tagger.model = IHOMER.from_bytes(kept.arrays["model"].tobytes())
            tagger._reported = kept.version
            rows, exact, wrong, example, labels = msgspec.json.decode(kept.arrays["scores"].tobytes())
            tagger._scores = LabelScores(rows, exact, wrong, example, dict(labels))
            waiting = kept.arrays["waiting"].tobytes()
            tagger._waiting = list(pa.ipc.open_stream(waiting)) if waiting else []
        except (KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
            raise BadCheckpoint(f"not a state of {LEARNER!r}: {error!r}") from error
        return tagger

    def finish(self) -> None:
        """Work off the rows that wait for a full step: the stream has ended."""
        self._work(whole_steps=False)
        if self._scores.rows:
            self._close_window()

    def _work(self, whole_steps: bool) -> None:
        table = pa.Table.from_batches(self._waiting) if self._waiting else None
        if table is None:
            return
        self._waiting = []
        at, n = 0, table.num_rows
        while n - at >= STEP or (not whole_steps and at < n):
            self._step(table.slice(at, STEP).combine_chunks().to_batches()[0])
            at += STEP
        if at < n:
            self._waiting = table.slice(at).combine_chunks().to_batches()

    def _step(self, batch: pa.RecordBatch) -> None:
        """Predict these rows, score them, learn them."""
        truths = batch.column(self.task.label).to_pylist()
        names = self.model._labels
        for label in sorted({label for truth in truths for label in truth}, key=str):
            names.add(label)
        rows = self._rows(batch)
        said = np.zeros((len(truths), len(names)), np.uint8)
        if self.model._core is not None:
            _, known = self.model._core.predict(rows)
            said[:, : known.shape[1]] = known
        y = np.zeros_like(said)
        for at, truth in enumerate(truths):
            y[at, [names.index[label] for label in truth]] = 1
            self._scores.add(
                dict(zip(names.names, y[at].tolist(), strict=True)),
                dict(zip(names.names, said[at].tolist(), strict=True)),
            )
            if self._scores.rows == self.task.window_rows:
                self._close_window(self.model.n_learned + at + 1)
        self.model._learn(rows, y, self.task.is_hashed)

    def _close_window(self, row: int | None = None) -> None:
        scores = self._scores.as_dict()
        self._windows.append(
            {"row": self.model.n_learned if row is None else row, "kind": "window"}
            | scores
            | {"rows": int(scores["rows"])}
        )
        self._scores = LabelScores()

    def _features(self, model: IHOMER) -> None:
        """All names of features are known before the first row."""
        spec = self.task.features
        for name in range(1 << spec.bits) if self.task.is_hashed else spec.dense:
            model._features.add(name)

    def _rows(self, batch: pa.RecordBatch) -> Rows:
        n, spec = batch.num_rows, self.task.features
        if self.task.is_hashed:
            ids = np.sort(hash_features(batch, spec).astype(np.int32), axis=1)
            start = np.arange(n + 1, dtype=np.int64) * spec.width
            return Rows(start, np.ascontiguousarray(ids.ravel()), np.ones(ids.size))
        values = np.column_stack([numbers(batch, name) for name in spec.dense])
        keep = np.isfinite(values)
        start = np.concatenate([[0], np.cumsum(keep.sum(1))])
        index = np.broadcast_to(np.arange(len(spec.dense), dtype=np.int32), values.shape)
        return Rows(start, np.ascontiguousarray(index[keep]), np.ascontiguousarray(values[keep]))


_TASK: Final = msgspec.json.Decoder(TagTask)


def _event_row(event: Any) -> dict[str, Any]:
    found = event.as_row()
    return {
        "row": found["row"],
        "kind": found["kind"],
        "before": [", ".join(cluster) for cluster in found["before"]],
        "after": [", ".join(cluster) for cluster in found["after"]],
    }
