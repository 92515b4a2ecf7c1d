"""Predict, score, learn: the loop that one query runs, without Spark and without a store.

    executors   Snapshot.predict(batch)          version N  → columns prediction, baseline, model_version
    driver      Loop.feed(partition, chunk)      rows come back, labels are joined,
                                                 each resolved row is scored with its stored prediction, then learnt
    driver      Loop.finish_batch()              version N+1: its bytes, its metrics; committed with the rows

Data flows one way. A row is scored with the prediction that was stored when it was served, by a version that had
not learnt it: a version is published only between batches, and a batch is learnt only after all of it was predicted.
`feed` refuses a prediction of a version that is not published yet.

The model starts from the baseline's logit and learns what that leaves open (an offset, in the language of generalised
linear models): a new item is known as soon as its rate is, and weights carry only what is special about a user or a
context.

Everything is a function of the rows fed and their order: no clock, no randomness. A restart loads the last committed
snapshot and feeds the rows from `replay_from` on to `replay`, which rebuilds the impressions that wait.

Deliberately absent: where the rows and the bytes are kept, and forgetting what a person's rows have taught.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming.contracts.contract import Contract
from headrace.streaming.errors import StreamingError
from headrace.streaming.ids import plain
from headrace.streaming.joins import InlineLabel, JoinCounts, JoinedLabel, LabelJoin, inline_labels
from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.features import U32, FeatureSpec, hash_features
from headrace.streaming.learners.ftrl import F32, Ftrl, Rates, logit
from headrace.streaming.learners.popularity import Popularity
from headrace.streaming.metrics import Prequential

PREDICTIONS = pa.schema(
    [
        pa.field("prediction", pa.float32()),
        pa.field("baseline", pa.float32()),
        pa.field("model_version", pa.int64()),
    ]
)
"""What `Snapshot.with_predictions` adds to a row; null where the row is no impression."""
OFFSET = "_offset"
_IDS, _ITEM, _DOMAIN = "_ids", "_item", "_domain"
_LEARNER = "loop"


class LoopError(StreamingError, ValueError):
    """Rows that cannot be learnt from: unpredicted, or predicted by a version that does not exist yet."""


@dataclass(frozen=True)
class Task:
    """What is learnt from which columns; written into every snapshot.

    item: the column whose click-through rate is the baseline. domain: the column by which metrics are split.
    rates: of the click model. strength: the baseline's prior in views. window_rows: of the windowed metrics.
    """

    features: FeatureSpec
    label: InlineLabel | JoinedLabel
    event_id: str = "event_id"
    event_time: str = "event_time"
    item: str | None = None
    domain: str | None = None
    rates: Rates = field(default_factory=Rates)
    strength: float = 20.0
    window_rows: int = 5000

    def __post_init__(self) -> None:
        if not self.features.width:
            raise ValueError("a task needs at least one feature; name ids, dense or histories")

    @property
    def item_features(self) -> FeatureSpec:
        ids = () if self.item is None else (self.item,)
        return FeatureSpec(ids=ids, bits=self.features.bits, seed=self.features.seed)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a stored row that `Loop.feed` and `Loop.replay` need."""
        label = self.label
        own = (label.column,) if isinstance(label, InlineLabel) else (label.kind, label.refers_to, OFFSET)
        named = tuple(name for name in (self.item, self.domain) if name is not None)
        every = (self.event_id, self.event_time, *own, *named, *self.features.columns, *PREDICTIONS.names)
        return tuple(dict.fromkeys(every))

    def shown(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which rows are impressions, `bool[n]`: those that are predicted. All of them, if the label is inline."""
        if isinstance(self.label, InlineLabel):
            return np.ones(batch.num_rows, dtype=np.bool_)
        kinds = plain(batch.column(self.label.kind))
        equal = pc.call_function("equal", [kinds, pa.scalar(self.label.impression)])
        shown: npt.NDArray[np.bool_] = equal.fill_null(False).to_numpy(zero_copy_only=False)
        return shown


def task_of(
    contract: Contract, *, bits: int = 18, seed: int = 0, crosses: tuple[tuple[str, ...], ...] = ()
) -> Task:
    """The task that a contract's `[features]` describe, with `crosses` of its columns if wanted.

    Raises ValueError if the contract names no label.
    """
    features = contract.features
    if features.label is None:
        raise ValueError(f"contract {contract.topic!r} names no label: there is nothing to learn")
    label: InlineLabel | JoinedLabel
    if features.label.kind == "inline":
        label = InlineLabel(str(features.label.column), float(features.label.positive_at or 0.0))
    else:
        label = JoinedLabel(
            round(float(features.label.window_s or 0.0) * 1e6),
            str(features.kind),
            str(features.label.impression),
            str(features.label.click),
            str(features.label.refers_to),
        )
    spec = FeatureSpec(features.ids, features.dense, features.histories, bits, seed, crosses)
    return Task(spec, label, features.event_id, features.event_time, features.item, features.domain)


@dataclass(frozen=True)
class Snapshot:
    """One published version: what an executor needs to predict. `version` counts finished batches from 0."""

    task: Task
    version: int
    model: Ftrl
    popularity: Popularity

    @classmethod
    def empty(cls, task: Task) -> "Snapshot":
        """Version 0, which has learnt nothing and predicts 0.5."""
        bits = task.features.bits
        return cls(task, 0, Ftrl(bits, task.rates), Popularity(bits, task.strength))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Snapshot":
        """The version that `Published.data` holds. Raises BadCheckpoint."""
        return _read(checkpoint.load(data, _LEARNER))

    def predict(self, batch: pa.RecordBatch) -> tuple[F32, F32]:
        """The model's and the baseline's click probability for each row, two `float32[n]`; a pure function."""
        ids, items = _hash(batch, self.task)
        baseline = self.popularity.predict_hashed(items)
        return self.model.predict(ids, logit(baseline)), baseline

    def with_predictions(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with the columns of `PREDICTIONS`, null in rows that are no impressions."""
        shown = self.task.shown(batch)
        prediction, baseline = self.predict(batch)
        versions = np.full(batch.num_rows, self.version, dtype=np.int64)
        added = [pa.array(values, mask=~shown) for values in (prediction, baseline, versions)]
        fields = [*batch.schema, *PREDICTIONS]
        return pa.RecordBatch.from_arrays(
            [*batch.columns, *added], schema=pa.schema(fields, batch.schema.metadata)
        )


@dataclass(frozen=True)
class Published:
    """A version as it leaves the loop: `data` for the commit and the executors, `metrics` as plain JSON for people."""

    version: int
    data: bytes
    metrics: dict[str, Any]


class Loop:
    """Joins, scores and learns the rows of one query, on the driver; see the module.

    `snapshot`: the bytes of the last committed version, to go on from; its task must be `task`, or BadCheckpoint
    is raised: another task is another model, and starts from nothing in a query of its own.
    """

    def __init__(self, task: Task, snapshot: bytes | None = None) -> None:
        state = None if snapshot is None else checkpoint.load(snapshot, _LEARNER)
        start = Snapshot.empty(task) if state is None else _read(state)
        if start.task != task:
            raise BadCheckpoint(f"the snapshot learnt another task: expected {task}, came {start.task}")
        memory = _Memory() if state is None else _read_memory(state)
        self.task = task
        self.version = start.version
        self.model, self.popularity = start.model, start.popularity
        self.metrics = (
            Prequential(task.window_rows) if state is None else Prequential.from_dict(memory.metrics)
        )
        self.replay_from: dict[int, int] = memory.replay_from
        self.counts = memory.counts
        self._join: LabelJoin | None = None
        if isinstance(task.label, JoinedLabel):
            carry = (*PREDICTIONS.names, task.event_id, task.event_time, _DOMAIN, _ITEM, _IDS, OFFSET)
            self._join = LabelJoin(
                task.label,
                carry,
                event_id=task.event_id,
                event_time=task.event_time,
                watermarks_us=memory.watermarks_us,
                counts=self.counts,
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a chunk must have."""
        return self.task.columns

    def feed(self, partition: int, chunk: pa.RecordBatch) -> int:
        """Take a partition's next stored rows, in the order of their offsets; returns how many labels they resolved.

        Resolved rows are scored with their stored predictions, then learnt. Raises LoopError for impressions
        without a prediction, or with one of a version that is not published yet.
        """
        rows = self._rows(chunk)
        if self._join is not None:
            resolved = self._join.feed(partition, rows)
        else:
            assert isinstance(self.task.label, InlineLabel)
            labels = inline_labels(chunk, self.task.label)
            resolved = rows.append_column("label", pa.array(labels))
            positives = int(labels.sum())
            self.counts.impressions += len(labels)
            self.counts.positives += positives
            self.counts.negatives += len(labels) - positives
        self._learn(resolved)
        return len(resolved)

    def replay(self, partition: int, chunk: pa.RecordBatch) -> None:
        """Take rows again that were fed before a restart: impressions wait again, nothing is scored or learnt.

        Feed each partition in `replay_from` its rows from that offset on, in order, before the first `feed`.
        """
        if self._join is not None:
            self._join.replay(partition, self._rows(chunk))

    def finish_batch(self) -> Published:
        """Publish what has been learnt as the next version."""
        self.version += 1
        if self._join is not None:
            oldest = {partition: self._join.oldest(partition, OFFSET) for partition in self._join.partitions}
            self.replay_from = {
                partition: offset for partition, offset in oldest.items() if offset is not None
            }
        waiting = self._join.waiting if self._join is not None else 0
        metrics = {
            "version": self.version,
            "learnt": self.model.n_learned,
            "waiting": waiting,
            **asdict(self.counts),
            **self.metrics.row(),
        }
        return Published(self.version, self._to_bytes(), metrics)

    def flush(self) -> int:
        """End every waiting impression as not clicked, score and learn it; for a stream that has ended."""
        flushed = 0
        for resolved in self._join.flush() if self._join is not None else ():
            self._learn(resolved)
            flushed += resolved.num_rows
        return flushed

    def _rows(self, chunk: pa.RecordBatch) -> pa.RecordBatch:
        """What the join needs of a chunk, with its features hashed."""
        task = self.task
        shown = task.shown(chunk)
        for name in PREDICTIONS.names:
            missing = chunk.column(name).is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
            if (missing & shown).any():
                raise LoopError(
                    f"{(missing & shown).sum()} impressions without a {name}: "
                    "feed rows as `Snapshot.with_predictions` leaves them"
                )
        newest = pc.call_function("max", [chunk.column("model_version")]).as_py()
        if newest is not None and newest > self.version:
            raise LoopError(
                f"a prediction by version {newest}, but the last published is {self.version}: "
                "it would be scored on rows it may have learnt; restore the loop from the newest snapshot"
            )
        ids, items = _hash(chunk, task)
        width = 4 * task.features.width
        packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(ids), [None, pa.py_buffer(ids)])
        columns = {name: chunk.column(name) for name in (*PREDICTIONS.names, task.event_id, task.event_time)}
        columns |= {_IDS: packed, _ITEM: pa.array(items), _DOMAIN: _domains(chunk, task.domain)}
        if isinstance(task.label, JoinedLabel):
            columns |= {name: chunk.column(name) for name in (task.label.kind, task.label.refers_to, OFFSET)}
        return pa.RecordBatch.from_pydict(columns)

    def _learn(self, resolved: pa.RecordBatch) -> None:
        """Score, then learn: in this order, and each row once."""
        if not resolved.num_rows:
            return
        prediction, baseline, label = (
            resolved.column(name).to_numpy(zero_copy_only=False)
            for name in ("prediction", "baseline", "label")
        )
        self.metrics.update(prediction, baseline, label, resolved.column(_DOMAIN))
        packed = resolved.column(_IDS)
        width = self.task.features.width
        start = packed.offset * width
        ids = np.frombuffer(packed.buffers()[1], dtype=np.uint32)[start : start + len(packed) * width]
        rates = self.popularity.learn_hashed(resolved.column(_ITEM).to_numpy(), label)
        self.model.learn(ids.reshape(-1, width), label, logit(rates))

    def _to_bytes(self) -> bytes:
        watermarks_us = self._join.watermarks_us if self._join is not None else {}
        memory = _Memory(self.metrics.to_dict(), self.counts, watermarks_us, self.replay_from)
        model, popularity = self.model.state(), self.popularity.state()
        raw = np.frombuffer(msgspec.json.encode(memory), dtype=np.uint8)
        params = {f"popularity.{name}": value for name, value in popularity.params.items()}
        params |= {f"model.{name}": value for name, value in model.params.items()}
        params |= {"task": msgspec.json.encode(self.task).decode(), "popularity.rows": popularity.n_learned}
        arrays = {f"model.{name}": array for name, array in model.arrays.items()}
        arrays |= {f"popularity.{name}": array for name, array in popularity.arrays.items()} | {"memory": raw}
        return checkpoint.dump(checkpoint.State(_LEARNER, self.version, self.model.n_learned, params, arrays))


class _Memory(msgspec.Struct):
    """What only the driver needs of a snapshot."""

    metrics: dict[str, Any] = {}
    counts: JoinCounts = msgspec.field(default_factory=JoinCounts)
    watermarks_us: dict[int, int] = {}
    replay_from: dict[int, int] = {}


_MEMORY = msgspec.json.Decoder(_Memory)
_TASK = msgspec.json.Decoder(Task)


def _read_memory(state: checkpoint.State) -> _Memory:
    try:
        return _MEMORY.decode(state.arrays["memory"].tobytes())
    except (KeyError, msgspec.MsgspecError) as error:
        raise BadCheckpoint(f"not a snapshot of this loop: {error!r}") from error


def _read(state: checkpoint.State) -> Snapshot:
    try:
        task = _TASK.decode(str(state.params["task"]))
        popularity = _part(state, "popularity", int(state.params["popularity.rows"]))
    except (KeyError, TypeError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BadCheckpoint(f"not a snapshot of this loop: {error!r}") from error
    model = Ftrl.from_state(_part(state, "model", state.n_learned))
    return Snapshot(task, state.version, model, Popularity.from_state(popularity))


def _part(state: checkpoint.State, name: str, n_learned: int) -> checkpoint.State:
    """The state of one of the two learners within the loop's."""
    prefix = f"{name}."
    params = {
        key.removeprefix(prefix): value for key, value in state.params.items() if key.startswith(prefix)
    }
    arrays = {
        key.removeprefix(prefix): value for key, value in state.arrays.items() if key.startswith(prefix)
    }
    return checkpoint.State(name, state.version, n_learned, params, arrays)


def _hash(batch: pa.RecordBatch, task: Task) -> tuple[U32, U32]:
    """Feature ids `uint32[n, F]` and item buckets `uint32[n]`; without an item column all share bucket 0."""
    items = hash_features(batch, task.item_features)
    return hash_features(batch, task.features), items[:, 0].copy() if items.shape[1] else np.zeros(
        len(items), np.uint32
    )


def _domains(batch: pa.RecordBatch, domain: str | None) -> pa.Array:
    if domain is None:
        return pa.nulls(batch.num_rows, pa.string())
    return plain(batch.column(domain)).cast(pa.string()).fill_null("(null)")
