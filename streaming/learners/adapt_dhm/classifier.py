"""`AdaptDHMClassifier`: the click model of a stream; River's verbs, Arrow's rows, and labels that come late.

In the flow: `jobs/ctr.py` and notebooks feed it. Two ways in. Labelled rows: `learn_one`, `learn_many`, `learn_arrow`. A live stream: `show` an
impression (its prediction and the model's version are noted), `click` it when its label comes, `resolve` what has waited for its window:
scored with the noted prediction, then learnt. Metrics over what `resolve` returns are the caller's.

Delays: "wait" learns an impression once, at its window's end; "now" learns it as not clicked with the next `resolve` and, when a click comes, as
clicked, with the fake-negative weights of Ktena et al., "Addressing delayed feedback for continuous training with neural networks in CTR
prediction", RecSys 2019 (arXiv 1907.06558): 1 + p for a click and (1 - p)(1 + p) for none, p the prediction without gradient. `negative_rate` s
learns that share of the negatives and serves z + log s, which is calibrated again.

Deliberately absent: a second pass, a validation set, thresholds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from river import base

from headrace.streaming.learners import tensors
from headrace.streaming.learners.adapt_dhm import state
from headrace.streaming.learners.adapt_dhm.fields import Fields, Inputs, event_keys
from headrace.streaming.learners.adapt_dhm.model import AdaptDHM, Shape
from headrace.streaming.learners.adapt_dhm.noted import OTHER, Noted, domain_places
from headrace.streaming.learners.adapt_dhm.pending import Impressions, Pending
from headrace.streaming.learners.adapt_dhm.routing import Kind
from headrace.streaming.learners.adapt_dhm.watch import DOMAINS, Watch
from headrace.streaming.learners.columns import seconds
from headrace.streaming.learners.embedding.keys import U64, key_of
from headrace.streaming.learners.errors import WrongFeatures
from headrace.streaming.learners.hashing import mix

F32 = npt.NDArray[np.float32]
_ROWS_AT_A_TIME = 4_096


class Resolved(NamedTuple):
    """What `resolve` scored and learnt. rows: see `Impressions`; alarms: domains whose loss rose."""

    rows: Impressions
    alarms: list[str]


class AdaptDHMClassifier(base.MiniBatchClassifier):
    """Clicks of many domains, learnt online; see the module and `Shape`.

    Args:
        ids, numbers: names of the id fields and of the dense ones; where neither is named, those of the first row learnt.
        context: id fields known before an item is chosen, which routing looks at; all ids where none are named.
        crosses: context fields that routing also looks at together, such as (("segment", "hour"),); see `Shape`.
        domain: the field by which alarms and metrics are told apart.
        routing, clusters, hidden, dim, field_gates, guard, rows, contexts, admit_after: see `Shape`.
        lr: Adam's rate. batch: most rows of a step.
        event, time, group: columns of a live stream: the impression's id, its time, and whose it is.
        window: how long an impression waits for its label. delay: "wait" or "now". capacity: impressions that may wait.
        negative_rate: share of the negatives that are learnt, in (0, 1].

    Raises ValueError.

    >>> model = AdaptDHMClassifier(ids=("user", "item"), context=("user",), seed=1)
    >>> for n in range(60):
    ...     model.learn_one({"user": n % 6, "item": n % 2}, n % 2 == 1)
    >>> model.predict_proba_one({"user": 3, "item": 1})[True] > 0.5
    True
    """

    def __init__(
        self,
        ids: tuple[str, ...] | None = None,
        numbers: tuple[str, ...] | None = None,
        context: tuple[str, ...] | None = None,
        domain: str | None = None,
        routing: Kind = "lar",
        clusters: int | None = None,
        hidden: tuple[int, ...] = (64, 32),
        dim: int = 8,
        field_gates: bool = False,
        guard: bool = True,
        lr: float = 6e-3,
        batch: int = 512,
        rows: int = 1 << 16,
        contexts: int = 1 << 12,
        admit_after: int = 1,
        event: str = "event_id",
        time: str = "event_time",
        group: str | None = None,
        window: float = 0.0,
        delay: Literal["wait", "now"] = "wait",
        capacity: int = 1 << 20,
        negative_rate: float = 1.0,
        seed: int = 0,
        crosses: tuple[tuple[str, ...], ...] | None = None,
    ) -> None:
        if batch < 1 or not 0 < negative_rate <= 1 or delay not in ("wait", "now"):
            raise ValueError(
                f"expected batch >= 1, negative_rate in (0, 1] and delay wait or now, came {batch}, {negative_rate}, {delay!r}"
            )
        if delay == "now" and negative_rate < 1:
            raise ValueError(
                "expected delay 'wait' beside a negative_rate below 1: a negative that is learnt at once may still be clicked"
            )
        self.ids, self.numbers, self.context, self.domain = ids, numbers, context, domain
        self.routing: Kind = routing
        self.clusters, self.hidden, self.dim = clusters, hidden, dim
        self.field_gates, self.guard, self.lr, self.batch = field_gates, guard, lr, batch
        self.rows, self.contexts, self.admit_after = rows, contexts, admit_after
        self.event, self.time, self.group, self.window = event, time, group, window
        self.delay, self.capacity, self.negative_rate, self.seed = delay, capacity, negative_rate, seed
        self.crosses = crosses
        self.version = 0
        self.n_learned = 0
        self.n_missing = 0
        self.n_unlabelled = 0
        self.n_seen = 0
        self.pending = Pending(window, capacity)
        self.watch = Watch()
        self.domains: list[str] = []
        # Delay "now": keys, numbers and labels of events that the next `resolve` learns.
        self.fresh: tuple[U64, F32, npt.NDArray[np.uint8]] | None = None
        self.fields: Fields | None = None
        self.model: AdaptDHM | None = None
        if ids is not None or numbers is not None:
            self.build(Fields(tuple(ids or ()), tuple(numbers or ())))

    def build(self, fields: Fields) -> AdaptDHM:
        """Make the network for `fields`. Raises ValueError where context, crosses or domain are not among the ids."""
        places = fields.places(fields.ids if self.context is None else self.context)
        fields.places(() if self.domain is None else (self.domain,))
        # Nothing to route by: numbers alone.
        routing: Kind = self.routing
        if routing == "lar" and not places and self.context is None:
            routing = "none"
        shape = Shape(
            fields=max(1, len(fields.ids)),
            numbers=len(fields.numbers),
            context=places,
            crosses=tuple(map(fields.places, self.crosses or ())),
            routing=routing,
            clusters=self.clusters,
            hidden=tuple(self.hidden),
            dim=self.dim,
            field_gates=self.field_gates,
            guard=self.guard,
            rows=self.rows,
            contexts=self.contexts,
            admit_after=self.admit_after,
        )
        self.fields, self.model = fields, AdaptDHM(shape, self.lr, self.seed)
        return self.model

    def _unit_test_skips(self) -> set[str]:
        # A batch is one step with its mean gradient, not a step a row.
        return {"check_learn_many_matches_learn_one"}

    # River's verbs

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn one labelled event."""
        self._learn_loose(self._fields(x).rows([x]), [y])

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn a frame of labelled events in order."""
        if len(X):
            self._learn_loose(self._fields(X.iloc[0].to_dict()).frame(X), y.tolist())

    def learn_arrow(self, batch: pa.RecordBatch, label: str) -> None:
        """Learn the rows of a batch in order; `label` names the column of 0 and 1. Raises WrongFeatures."""
        if label not in batch.schema.names:
            raise WrongFeatures(f"expected a column {label!r}, came {', '.join(batch.schema.names)}")
        if batch.num_rows:
            first = batch.slice(0, 1).drop_columns([label]).to_pylist()[0]
            self._learn_loose(self._fields(first).arrow(batch), batch.column(label).to_pylist())

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """{False: …, True: …}; 0.5 before anything is learnt."""
        p = float(self.predict(self.fields.rows([x]))[0]) if self.fields is not None else 0.5
        return {False: 1.0 - p, True: p}

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Columns False and True for each row of `X`, whose index is kept."""
        p = np.full(len(X), 0.5)
        if self.fields is not None and len(X):
            p = self.predict(self.fields.frame(X)).astype(np.float64)
        return pd.DataFrame({False: 1.0 - p, True: p}, index=X.index)

    # What they rest on

    def predict(self, inputs: Inputs) -> F32:
        """Click probability of each event, `float32[n]`; changes nothing."""
        assert self.model is not None
        out = np.empty(len(inputs.keys), np.float32)
        with torch.no_grad():
            for start in range(0, len(out), _ROWS_AT_A_TIME):
                part = slice(start, start + _ROWS_AT_A_TIME)
                rows = self.model.table.find(inputs.keys[part])
                logits = self.model.score(rows, torch.from_numpy(inputs.numbers[part]))[0]
                out[part] = torch.sigmoid(logits + float(np.log(self.negative_rate))).numpy()
        return out

    def learn(self, inputs: Inputs, labels: npt.NDArray[Any], fake_negatives: bool = False) -> None:
        """Learn labelled events in order, `labels[n]` of 0 and 1, at most `batch` to a step. Raises Diverged."""
        assert self.model is not None
        self.n_missing += inputs.missing
        keep = self._kept(labels)
        faster = self.watch.faster
        wanted = labels[keep].astype(np.float32)
        keys, numbers = inputs.keys[keep], inputs.numbers[keep]
        for start in range(0, len(wanted), self.batch):
            part = slice(start, start + self.batch)
            rows = self.model.table.locate(keys[part], float(self.n_learned))
            self.model.learn(
                rows,
                torch.from_numpy(numbers[part]),
                torch.from_numpy(wanted[part]),
                fake_negatives=fake_negatives,
                faster=faster,
            )
            self.n_learned += len(rows)

    def _kept(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which rows are learnt: every positive, and negatives by the hash of their number."""
        number = np.arange(self.n_seen, self.n_seen + len(labels), dtype=np.uint64)
        self.n_seen += len(labels)
        if self.negative_rate == 1.0:
            return np.ones(len(labels), bool)
        drawn = mix(number ^ np.uint64(self.seed & (2**64 - 1))) >> np.uint64(11)
        kept: npt.NDArray[np.bool_] = (labels > 0) | (drawn < self.negative_rate * 2.0**53)
        return kept

    def _fields(self, example: dict[Any, Any]) -> Fields:
        if self.fields is None:
            self.build(Fields.of(example))
        assert self.fields is not None
        return self.fields

    def _learn_loose(self, inputs: Inputs, labels: Sequence[Any]) -> None:
        """Rows without a label (None, NaN) are counted and learn nothing."""
        there = np.array([y is not None and y == y for y in labels], bool)
        self.n_unlabelled += int((~there).sum())
        known = np.array([bool(y) for y, t in zip(labels, there, strict=True) if t], np.uint8)
        if len(known):
            self.learn(Inputs(inputs.keys[there], inputs.numbers[there], inputs.missing), known)

    # A live stream

    def show(self, batch: pa.RecordBatch) -> F32:
        """Note impressions with their predictions, which are returned, `float32[n]`. Raises WrongFeatures."""
        if not batch.num_rows:
            return np.zeros(0, np.float32)
        self._fields(batch.slice(0, 1).to_pylist()[0])
        noted = self.note(batch)
        self.take(noted)
        return noted.rows.scores[:, 0]

    def note(self, batch: pa.RecordBatch, *others: F32) -> Noted:
        """What is to be noted of impressions as they arrive; changes nothing, so an executor may do it with a snapshot.

        others: float32[n] each, predictions of other learners, which come out beside this one's. Raises WrongFeatures.
        """
        assert self.fields is not None
        for name in (self.event, self.time, *((self.group,) if self.group is not None else ())):
            if name not in batch.schema.names:
                raise WrongFeatures(f"expected a column {name!r}, came {', '.join(batch.schema.names)}")
        inputs = self.fields.arrow(batch)
        events, is_event = event_keys(batch.column(self.event))
        n = batch.num_rows
        domain, names = np.zeros(n, np.int64), [OTHER]
        if self.domain is not None:
            domain, names = domain_places(batch.column(self.domain))
        group = np.zeros(n, np.uint64)
        if self.group is not None:
            group = event_keys(batch.column(self.group))[0][:, 0]
        time = seconds(batch, self.time)
        rows = Impressions(
            events,
            time,
            inputs.keys,
            inputs.numbers,
            np.stack([self.predict(inputs), *others], 1),
            np.full(n, self.version, np.int64),
            domain,
            group,
            np.zeros(n, np.uint8),
        )
        whole = is_event & np.isfinite(time)
        return Noted(rows.take(whole), names, int((~whole).sum()), inputs.missing)

    def take(self, noted: Noted) -> None:
        """Let noted impressions wait. Raises ValueError for a prediction of a version that is not published yet."""
        rows = noted.rows
        newest = int(rows.version.max(initial=0))
        if newest > self.version:
            raise ValueError(
                f"expected predictions of version {self.version} or earlier, came {newest}: it may have learnt what it is to be scored on"
            )
        self.pending.counts.no_id += noted.no_id
        self.n_missing += noted.missing
        for name in noted.domains:
            if name not in self.domains and name != OTHER and len(self.domains) < DOMAINS - 1:
                self.domains.append(name)
        places = [self.domains.index(name) if name in self.domains else DOMAINS - 1 for name in noted.domains]
        rows = rows._replace(domain=np.array(places, np.int64)[rows.domain])
        waits = self.pending.show(rows)
        if self.delay == "now" and waits.any():
            self._queue(rows.keys[waits], rows.numbers[waits], rows.clicked[waits])

    def click(self, events: Any) -> list[int]:
        """Labels: impressions of these ids were clicked. Places of those that came too late, or without an impression."""
        keys, is_event = event_keys(events)
        self.pending.counts.no_id += int((~is_event).sum())
        places = np.flatnonzero(is_event)
        rows, late = self.pending.join(keys[places])
        if self.delay == "now" and len(rows.time):
            self._queue(rows.keys, rows.numbers, rows.clicked)
        found: list[int] = places[late].tolist()
        return found

    def resolve(self, now: float) -> Resolved:
        """End what has waited for its window at `now`: watch for drift with the noted predictions, then learn."""
        rows = self.pending.resolve(now)
        if self.fresh is not None:
            keys, numbers, labels = self.fresh
            # Negatives and positives in the same steps: Adam would take as long a step for ten clicks alone as for a thousand views.
            order = np.argsort(mix(np.arange(len(labels), dtype=np.uint64)), kind="stable")
            self.fresh = None
            self.learn(Inputs(keys[order], numbers[order], 0), labels[order], True)
        if not len(rows.time):
            return Resolved(rows, [])
        p = np.clip(rows.scores[:, 0].astype(np.float64), 1e-7, 1 - 1e-7)
        losses = -np.where(rows.clicked > 0, np.log(p), np.log1p(-p))
        alarms = self.watch.feed(losses, rows.domain)
        if self.delay == "wait":
            self.learn_resolved(rows)
        return Resolved(rows, [self.domain_name(place) for place in alarms])

    def learn_resolved(self, rows: Impressions) -> None:
        """Learn impressions whose label is known; also for a control that learns beside."""
        self.learn(Inputs(rows.keys, rows.numbers, 0), rows.clicked)

    def _queue(self, keys: U64, numbers: F32, labels: npt.NDArray[np.uint8]) -> None:
        had = self.fresh if self.fresh is not None else (keys[:0], numbers[:0], labels[:0])
        self.fresh = (
            np.concatenate([had[0], keys]),
            np.concatenate([had[1], numbers]),
            np.concatenate([had[2], labels]),
        )

    def domain_name(self, place: int) -> str:
        """The domain of a place in `Impressions.domain`."""
        return self.domains[place] if place < len(self.domains) else OTHER

    def publish(self) -> bytes:
        """The next version, as bytes: predictions by it may be shown from now on."""
        self.version += 1
        return self.to_bytes()

    def forget(self, value: Any, field: str) -> tuple[int, bool]:
        """Clear an id's row and drop what waits of it: how many impressions, and whether there was a row.

        What it taught the network, other rows and crosses stays. field: one of `ids`, or `group`, which may have no rows.
        Raises ValueError for another, BadId.
        """
        if self.fields is None or self.model is None:
            return 0, False
        if field == self.group and field not in self.fields.ids:
            group = np.uint64(key_of(value, 0)[0])
            return self.pending.drop(lambda rows: rows.group == group), False
        (place,) = self.fields.places((field,))
        key = np.array(key_of(value, place), np.uint64)
        dropped = self.pending.drop(lambda rows: (rows.keys[:, place] == key).all(1))
        if self.fresh is not None:
            keys, numbers, labels = self.fresh
            others = (keys[:, place] != key).any(1)
            self.fresh = keys[others], numbers[others], labels[others]
        return dropped, self.model.table.store.forget(value, place)

    def to_bytes(self) -> bytes:
        """Everything, pending labels and optimiser too, to the last bit; see `state`."""
        return state.dump(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "AdaptDHMClassifier":
        """The classifier that `to_bytes` wrote; it goes on as if it had never been away. Raises BadCheckpoint."""
        found: AdaptDHMClassifier = state.load(cls, data)
        return found

    def save(self, path: Path | str) -> None:
        """Write everything to one file, whole or not at all."""
        tensors.write(self.to_bytes(), path)

    @classmethod
    def load(cls, path: Path | str) -> "AdaptDHMClassifier":
        """The classifier of a file. Raises BadCheckpoint, FileNotFoundError."""
        return cls.from_bytes(Path(path).read_bytes())
