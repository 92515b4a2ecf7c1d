"""A recommender learnt beside the stream: each batch is ranked by the newest snapshot on the executors, scored, then learnt.

In the flow: one of the learners of a ``MicroBatch``. Executors read the staged rows, keep those that say somebody wanted something,
rank each by the last published snapshot (Recall@20 and NDCG@20 of the next interaction) and draw its negatives; the driver learns what
they return and publishes the next snapshot in the batch's own manifest. Scores go to a table of their own, under the batch's key.

An interaction is a click where the contract joins clicks, and a row whose label is positive where it stands in the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    RECOMMENDER,
    Progress,
    attached,
    attachment_path,
    last_commit,
    report_table,
)
from headrace.jobs.settings import Recommend
from headrace.jobs.sink import Sink
from headrace.streaming.contracts import Contract
from headrace.streaming.joins import InlineLabel, JoinedLabel, inline_labels, rows_of_kind
from headrace.streaming.loop import task_of

if TYPE_CHECKING:
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
    from headrace.streaming.learners.dynamic_sparse.serving import Recommender

TOP = 20
NEGATIVES = "negatives"
ROWS = pa.schema(
    [
        pa.field("batch", pa.int64()),
        pa.field("interactions", pa.int64()),
        pa.field("ranked", pa.int64()),
        pa.field("recall_20", pa.float64()),
        pa.field("ndcg_20", pa.float64()),
        pa.field("learnt", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("blocks", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("alarms", pa.int64()),
    ]
)
"""A row per batch. ranked: interactions that a snapshot ranked before they were learnt; the scores are null where there were none."""


@dataclass(frozen=True)
class Wanted:
    """Which rows are interactions, and which of their columns say who wanted what, and when."""

    user: str
    item: str
    time: str
    label: InlineLabel | JoinedLabel

    @classmethod
    def of(cls, contract: Contract) -> Wanted:
        """What a contract says. Raises BadSettings where it has no label or no item."""
        features = contract.features
        if features.item is None or features.label is None:
            raise BadSettings(
                f"expected features.item and features.label in contract '{contract.topic}', which say what somebody wanted; "
                "name them there, or leave recommend.enabled off"
            )
        return cls(features.key, features.item, features.event_time, task_of(contract).label)

    @property
    def columns(self) -> list[str]:
        """What has to be read."""
        more = [self.label.column] if isinstance(self.label, InlineLabel) else [self.label.kind]
        return list(dict.fromkeys([self.user, self.item, self.time, *more]))

    def interactions(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """User, item and time of the rows that are interactions."""
        if isinstance(self.label, InlineLabel):
            wanted = np.flatnonzero(inline_labels(rows, self.label))
        else:
            wanted = rows_of_kind(rows.column(self.label.kind), self.label.click)
        return rows.select([self.user, self.item, self.time]).take(pa.array(wanted))


class _Ranked(msgspec.Struct):
    """What an executor made of one staged file."""

    rows: bytes
    ranked: int
    hits: float
    gains: float


_RANKED = msgspec.msgpack.Decoder(_Ranked)


class RecommendQuery:
    """The recommender of one table.

    Attributes:
        table: where scores go, a row per batch.
    """

    name = "recommender"

    def __init__(
        self, context: SparkContext, model: DSLRecommender, wanted: Wanted, table: storage.Table, seed: int
    ) -> None:
        self.model, self.table, self._sink = model, table, Sink(table)
        self._context, self._wanted, self._seed = context, wanted, seed
        self._snapshot: Path | None = None
        self._report = ROWS.empty_table()

    def committed(self, commit: storage.Commit | None) -> None:
        """Rank by the snapshot of this commit from now on."""
        self._snapshot = attachment_path(commit, RECOMMENDER)

    def feed(self, paths: Sequence[Path], after: Progress) -> None:
        """Rank and score the staged files by the last snapshot on the executors, then learn them in their order."""
        ranked: list[_Ranked] = []
        if paths:
            wanted, negatives, seed = self._wanted, self.model.negatives, (self._seed, after.batch_id)
            work = [(at, str(path)) for at, path in enumerate(paths)]
            name = None if self._snapshot is None else str(self._snapshot)
            found = (
                self._context.parallelize(work, len(work))
                .map(lambda part: _rank(part[1], name, wanted, negatives, (*seed, part[0])))
                .collect()
            )
            ranked = [_RANKED.decode(data) for data in found]
        interactions = 0
        for part in ranked:
            for batch in pa.ipc.open_stream(part.rows):
                interactions += batch.num_rows
                self.model.learn_arrow(batch, negatives=NEGATIVES)
        n = sum(part.ranked for part in ranked)
        store = self.model.store
        row = {
            "batch": after.batch_id,
            "interactions": interactions,
            "ranked": n,
            "recall_20": sum(part.hits for part in ranked) / n if n else None,
            "ndcg_20": sum(part.gains for part in ranked) / n if n else None,
            "learnt": self.model.n_learned,
            "rows": store.live_rows,
            "blocks": store.live_blocks,
            "bytes": self.model.nbytes,
            "alarms": self.model.explorer.alarms,
        }
        self._report = pa.Table.from_pylist([row], schema=ROWS)

    def publish(self, after: Progress) -> dict[str, bytes]:
        """Commit what there is to report under the batch's key; the snapshot for the batch's own manifest."""
        self._sink.commit([self.table.stage(self._report.to_batches())], after.key)
        return {RECOMMENDER: self.model.to_bytes()}


def open_recommender(
    context: SparkContext, table: storage.Table, contract: Contract, recommend: Recommend, seed: int
) -> RecommendQuery:
    """The recommender of ``table`` as of its last commit.

    Raises:
        BadSettings: the contract does not say who wanted what, or torch is not installed.
        LearnerChanged: the snapshot was made with other settings.
    """
    wanted = Wanted.of(contract)
    with torch_for("the recommender"):
        import_module("torch")  # the executors' need; found out here, before anything is read
        from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
    params: dict[str, Any] = {
        "budget_bytes": recommend.budget_bytes,
        "user": wanted.user,
        "item": wanted.item,
        "time": wanted.time,
        "rows": recommend.rows,
        "code": recommend.code,
        "lr": recommend.learning_rate,
        "reg": recommend.penalty,
        "negatives": recommend.negatives,
        "admit_after": recommend.admit_after,
        "ttl": recommend.ttl_s,
        "half_life": recommend.half_life_s,
        "seed": seed,
    }
    last = last_commit(table)
    kept = attached(last, RECOMMENDER)
    model = DSLRecommender(**params) if kept is None else restored(kept, params, str(table.path))
    report = report_table(table, "recommender", recommend.table, ROWS)
    query = RecommendQuery(context, model, wanted, report, seed)
    query.committed(last)
    return query


def restored(kept: bytes, params: Mapping[str, Any], path: str) -> DSLRecommender:
    """The recommender of a snapshot, which must have been made with ``params``; what no setting names may be an earlier release's.

    Raises:
        LearnerChanged: it was made with others.
    """
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender

    model = DSLRecommender.from_bytes(kept)
    differing = [name for name, value in params.items() if getattr(model, name) != value]
    if differing:
        raise LearnerChanged(
            f"table '{path}' has a recommender made otherwise: {', '.join(differing)} differ. Put them back, or write to a new "
            "table (and checkpoint) to begin with an empty one"
        )
    return model


def _rank(path: str, snapshot: str | None, wanted: Wanted, negatives: int, seed: tuple[int, ...]) -> bytes:
    """On an executor: the interactions of one file with their negatives, and how the snapshot would have ranked them."""
    parts = [wanted.interactions(rows) for rows in storage.read_file(Path(path), columns=wanted.columns)]
    schema = parts[0].schema if parts else pa.schema([])
    rows = pa.Table.from_batches(parts, schema).combine_chunks()
    model = _snapshot(snapshot) if snapshot is not None else None
    random = np.random.default_rng(np.random.SeedSequence([abs(number) for number in seed]))
    hits, gains = 0.0, 0.0
    known = model is not None and len(model.items.rows) > 0
    if rows.num_rows:
        items = rows.column(wanted.item).to_pylist()
        if model is not None and known:
            said = model.recommend_many(rows.column(wanted.user).to_pylist(), TOP)
            for item, answer in zip(items, said, strict=True):
                if item in answer:
                    hits += 1.0
                    gains += 1.0 / float(np.log2(answer.index(item) + 2.0))
            pool = model.item_ids
        else:
            pool = sorted(set(items), key=str)
        drawn = random.integers(0, len(pool), (rows.num_rows, negatives))
        lists = [
            [pool[at] for at in places if pool[at] != item] for places, item in zip(drawn, items, strict=True)
        ]
        kind = rows.schema.field(wanted.item).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        rows = rows.append_column(NEGATIVES, pa.array(lists, pa.list_(kind)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        if rows.num_rows:
            writer.write_table(rows)
    ranked = rows.num_rows if known else 0
    return msgspec.msgpack.encode(_Ranked(sink.getvalue().to_pybytes(), ranked, hits, gains))


@lru_cache(maxsize=1)
def _snapshot(path: str) -> Recommender:
    """The newest snapshot, opened once per version and worker process."""
    from headrace.streaming.learners.dynamic_sparse.serving import Recommender

    import_module("torch").set_num_threads(1)  # Spark counts a task as one core
    return Recommender.load(path)
