"""`IHOMER`: many labels per row, one row at a time; the River face of `core`.

In the flow: predicts the labels of a row before they are known and learns them when they come, on the driver of a Spark job, in a
notebook, or wherever River's models run. Sneves and others, "iHOMER: incremental hierarchy of multi-label classifiers", 2025,
is where the parts come from that have a hierarchy in them: label clusters, a global tree, drift that restructures both. What
decides by default is one linear block with thresholds, persistence and joint decoding on top, since that is what predicts best;
the hierarchy is kept for what it shows, and each of its forms can be switched on: `docs/explanation/ihomer.md` has the numbers.

Ways in: dicts (`*_one`), and DataFrames, CSR matrices, arrays or Arrow tables (`*_many`); see `rows` for what each value means.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from river import base

from headrace.streaming.learners.ihomer import describe, state
from headrace.streaming.learners.ihomer.clustered import Use
from headrace.streaming.learners.ihomer.core import Core, Kind, Options
from headrace.streaming.learners.ihomer.decision import Want
from headrace.streaming.learners.ihomer.global_tree import Growing
from headrace.streaming.learners.ihomer.label_odac import LabelODAC
from headrace.streaming.learners.ihomer.rows import (
    BadBatch,
    Names,
    Reader,
    Refused,
    Rows,
    first_row,
    label_table,
    labels_of,
    table,
)
from headrace.streaming.learners.ihomer.splitting import SplitTest
from headrace.streaming.learners.ihomer.watching import EDGE

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["scaling", "persistence", "replay", "near", "stacker", "joint", "before"]
PARTS: tuple[Part, ...] = get_args(Part)
_SPARSE_BELOW = 0.3
_REFUSED_KEPT = 100


class IHOMER(base.MultiLabelClassifier):
    """Online multi-label classification with label clusters, a global tree, drift handling and an ensemble, each optional.

    Parameters
    ----------
    decision
        What `predict_one` is to be good at: "f1" (micro and macro), "hamming" (each label for itself) or "subset" (the whole
        labelset exactly right).
    ensemble
        Three more learners, a stacker, and a choice between them row by row: better, and about ten times slower. None: while
        there are at most 300 labels.
    partition
        Which labels share a cluster: "odac" learns it online (`LabelODAC`); "one", "singletons" and "random" (as odac's sizes) are
        controls; "none" keeps no statistics; a list of sets of labels is taken as it is, other labels sharing one more cluster.
    clusters_for
        "inspection", or the learner that uses them: "conditional", "prune", "chain" or "meta" (see `clustered`).
    tree
        Lead rows to the leaves of a global tree, each with a learner of its own.
    drift
        Watch losses; forget label correlations and replace learners of single clusters when they rise.
    sparse
        Whether a feature that is absent is 0. None: decided from the first row, dense where more than 30 % of it is not 0. Say True
        where dicts hold only what is not 0.
    without
        Parts of the recipe to leave out, to see what each is worth: "scaling", "persistence" (labels of earlier rows as features, and
        as a candidate), and of the ensemble "replay", "near", "stacker", "joint" (joint decoding) and "before" (the row before).
        Without thresholds: decision="hamming".
    learning_rate
        AdaGrad's. None: 1 for dense streams, 2 for sparse ones; rows are scaled, so it seldom needs another value.
    n_min, cluster_delta, split_test, min_cluster_size, max_cluster_size, decay
        Of the label clusters: see `LabelODAC`. n_min is a multiple of 50.
    grace_period, tree_delta, tau, max_leaves
        Of the global tree: rows between looks at a leaf, delta and tie of the Hoeffding bound, leaves at most.
    seed
        Of replay and of random partitions.

    Attributes
    ----------
    n_learned, n_refused
        Rows learnt, and rows refused for a value that is no finite number or no truth value; the last hundred are in `refused`.

    Examples
    --------
    >>> model = IHOMER(sparse=True)
    >>> for _ in range(100):
    ...     model.learn_one({"goal": 1, "team": 1}, {"sport"})
    ...     model.learn_one({"vote": 1, "team": 1}, {"politics"})
    >>> model.predict_one({"goal": 1})
    {'sport': True, 'politics': False}

    """

    def __init__(
        self,
        decision: Want = "f1",
        ensemble: bool | None = None,
        partition: Kind | list[set[Any]] = "odac",
        clusters_for: Use | Literal["inspection"] = "inspection",
        tree: bool = False,
        drift: bool = True,
        sparse: bool | None = None,
        without: set[Part] | None = None,
        learning_rate: float | None = None,
        n_min: int = 200,
        cluster_delta: float = 0.05,
        split_test: SplitTest = "share",
        min_cluster_size: int = 0,
        max_cluster_size: int = 64,
        decay: float = 1.0,
        grace_period: int = 200,
        tree_delta: float = 1e-7,
        tau: float = 0.05,
        max_leaves: int = 16,
        seed: int = 0,
    ) -> None:
        self.decision: Want = decision
        self.ensemble = ensemble
        self.partition: Kind | list[set[Any]] = partition
        self.clusters_for: Use | Literal["inspection"] = clusters_for
        self.tree, self.drift, self.sparse, self.learning_rate = tree, drift, sparse, learning_rate
        self.n_min, self.cluster_delta, self.split_test, self.decay = n_min, cluster_delta, split_test, decay
        self.min_cluster_size, self.max_cluster_size = min_cluster_size, max_cluster_size
        self.grace_period, self.tree_delta, self.tau, self.max_leaves = (
            grace_period,
            tree_delta,
            tau,
            max_leaves,
        )
        self.seed, self.without = seed, without
        self._check()
        self.n_learned = self.n_refused = 0
        self.refused: deque[Refused] = deque(maxlen=_REFUSED_KEPT)
        self._features, self._labels = Names(), Names()
        self._reader = Reader(self._features)
        self._odac = LabelODAC(
            n_min,
            cluster_delta,
            split_test=split_test,
            min_size=min_cluster_size,
            max_size=max_cluster_size,
            decay=decay,
        )
        self._core: Core | None = None

    def _check(self) -> None:
        choices: dict[str, tuple[Any, tuple[str, ...]]] = {
            "decision": (self.decision, ("f1", "hamming", "subset")),
            "clusters_for": (self.clusters_for, ("inspection", "conditional", "prune", "chain", "meta")),
        }
        if not isinstance(self.partition, list | tuple):
            choices["partition"] = (self.partition, ("odac", "random", "one", "singletons", "none"))
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, came {value!r}")
        for part in self.without or ():
            if part not in PARTS:
                raise ValueError(f"without: expected some of {', '.join(PARTS)}, came {part!r}")
        if self.n_min % EDGE or self.n_min < EDGE:
            raise ValueError(f"n_min: expected a positive multiple of {EDGE}, came {self.n_min}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number, came {self.learning_rate}")
        if isinstance(self.partition, list | tuple):
            every = [label for members in self.partition for label in members]
            if len(every) != len(set(every)):
                raise ValueError("partition: expected disjoint sets, but a label is in two of them")

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn one row: features by name, and its labels as a dict of bools (None: not known) or as the set of those set.

        A row with a value that cannot be used is refused, counted and kept in `refused`. Raises BadBatch for what is no row at all.
        """
        said, why = labels_of(y, self._labels)
        sparse = self._is_sparse(x)
        rows = self._reader.one(x, sparse, learning=True)
        if why is not None:
            rows.refused = {0: why}
        self._learn(rows, said[None, :], sparse)

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, bool]:
        """The labels decided on, by name; {} before anything was learnt."""
        if self._core is None:
            return {}
        _, said = self._core.predict(self._reader.one(x, self._core.sparse, learning=False))
        return dict(zip(self._labels.names, said[0].astype(bool).tolist(), strict=True))

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, dict[bool, float]]:
        """The probability of each label, by name; {} before anything was learnt."""
        if self._core is None:
            return {}
        z, _ = self._core.predict(self._reader.one(x, self._core.sparse, learning=False))
        p = _sigmoid(z[0]).tolist()
        return {
            name: {False: 1.0 - value, True: value} for name, value in zip(self._labels.names, p, strict=True)
        }

    def learn_many(self, X: Any, Y: Any) -> None:
        """Learn m rows in order, to the last bit as `learn_one` would one by one.

        X and Y are DataFrames, CSR matrices, 2-D arrays or Arrow tables with as many rows, or sequences of dicts; columns of
        arrays and CSR matrices are named 0, 1, …. Raises BadBatch, and learns nothing, where the shapes or kinds do not fit.
        """
        count = len(X) if not hasattr(X, "indptr") else X.shape[0]
        truths = len(Y) if not hasattr(Y, "indptr") else Y.shape[0]
        if count != truths:
            raise BadBatch(
                f"expected as many rows of labels as of features, came {truths} and {count}; nothing was learnt"
            )
        if isinstance(X, list | tuple) or isinstance(Y, list | tuple):
            for x, y in zip(_dicts(X), _dicts(Y), strict=True):
                self.learn_one(x, y)
            return
        if not count:
            return
        sparse = self._core.sparse if self._core is not None else self._is_sparse_table(X)
        rows = self._reader.many(X, sparse, learning=True)
        said, refused = label_table(Y, self._labels)
        rows.refused |= refused
        self._learn(rows, said, sparse)

    def predict_many(self, X: Any) -> "pd.DataFrame":
        """The labels decided on, bool[m, L] by name; no columns before anything was learnt."""
        return self._frame(X, lambda z, said: said.astype(bool))

    def predict_proba_many(self, X: Any) -> "pd.DataFrame":
        """The probability that each label is set, float32[m, L] by name."""
        return self._frame(X, lambda z, said: _sigmoid(z))

    def _frame(self, X: Any, of: Any) -> "pd.DataFrame":
        import pandas as pd  # here and nowhere above: a process that goes row by row does without its 100 MB

        index = X.index if isinstance(X, pd.DataFrame) else None
        if self._core is None:
            return pd.DataFrame(
                index=index if index is not None else range(X.shape[0] if hasattr(X, "shape") else len(X))
            )
        z, said = self._core.predict(self._reader.many(X, self._core.sparse, learning=False))
        return pd.DataFrame(of(z, said), index=index, columns=pd.Index(self._labels.names, dtype=object))

    def drop_label(self, label: Any) -> None:
        """Forget a label: its column, its counts and its place in every cluster. Raises KeyError where it is not known."""
        if label not in self._labels.index:
            raise KeyError(f"label {label!r} was never seen; known are {self._labels.names[:10]}")
        at = self._labels.drop(label)
        self._odac.drop_label(label)
        if self._core is not None:
            self._core.drop(at)

    def forget_rows(self) -> int:
        """Let go of every row kept as it came, for replay and neighbours (at most 1,000); how many there were.

        For a person who is to be forgotten: a row does not say whose it is, so all of them go. Weights and counts stay, in which
        no row can be told from the others.
        """
        return 0 if self._core is None else self._core.forget_rows()

    @property
    def clusters(self) -> list[set[Any]]:
        """Which labels come together: disjoint sets that cover every label seen."""
        if self._core is None:
            return []
        return [{self._labels.names[i] for i in members} for members in self._core.partition()]

    @property
    def events(self) -> list[describe.Event]:
        """Splits and merges of clusters, drift, alarms and swaps, in order."""
        return describe.events(self._odac, self._core, self._labels.names)

    @property
    def summary(self) -> dict[str, int]:
        """Counts: rows, features, labels, clusters and their tree's height, splits, merges, drifts, swaps, tree leaves."""
        return describe.summary(self)

    def render_ascii(self) -> str:
        """The label clusters as a tree of text."""
        return describe.render_ascii(self._odac, self.clusters)

    def plot(self, axes: Any) -> Any:
        """Draw clusters over time on matplotlib axes: a line per label, its colour the cluster; drift as dashed lines."""
        return describe.plot(self, axes)

    def to_bytes(self) -> bytes:
        """The whole state as a checkpoint of plain data."""
        return state.dump(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "IHOMER":
        """The model that `to_bytes` wrote; it goes on to the last bit as that one would. Raises BadCheckpoint."""
        model: IHOMER = state.load(cls, data)
        return model

    def _is_sparse(self, x: Any) -> bool:
        if self._core is not None:
            return self._core.sparse
        if self.sparse is not None:
            return self.sparse
        if not isinstance(x, dict):
            return False
        filled = sum(value is not None and value == value and value != 0 for value in x.values())
        return bool(filled <= _SPARSE_BELOW * len(x))

    def _is_sparse_table(self, X: Any) -> bool:
        if self.sparse is not None:
            return self.sparse
        if hasattr(X, "indptr"):
            return bool(np.count_nonzero(X.data[: X.indptr[1]]) <= _SPARSE_BELOW * X.shape[1])
        names = Names()
        rows = Reader(names).many(first_row(X), sparse=False, learning=True)
        return bool(np.count_nonzero(rows.value) <= _SPARSE_BELOW * len(names))

    def _learn(self, rows: Rows, y: Any, sparse: bool) -> None:
        for at, (column, why) in sorted(rows.refused.items()):
            self.refused.append(Refused(self.n_learned + self.n_refused + at, column, why))
        if rows.refused:
            keep = np.array([at not in rows.refused for at in range(len(rows))])
            self.n_refused += len(rows.refused)
            rows, y = rows.only(keep), y[keep]
        if not len(rows):
            return
        if self._core is None:
            self._core = self._begin(sparse)
        for label in self._labels.names[len(self._odac.labels) :]:
            self._odac.add_label(label)
        self._core.given = self._given()
        self._core.grow(len(self._features), len(self._labels))
        self._core.learn(rows, y)
        self.n_learned += len(rows)

    def _given(self) -> list[list[int]]:
        """The user's partition by label numbers, as far as they are known."""
        if isinstance(self.partition, str):
            return []
        known = self._labels.index
        return [sorted(known[label] for label in members if label in known) for members in self.partition]

    def _begin(self, sparse: bool) -> Core:
        growing = Growing(self.grace_period, self.tree_delta, self.tau, self.max_leaves)
        partition: Kind = self.partition if isinstance(self.partition, str) else "given"
        options = Options(
            self.decision,
            self.ensemble,
            partition,
            self.clusters_for,
            self.tree,
            self.drift,
            self.learning_rate,
            growing,
            self.seed,
            frozenset(self.without or ()),
        )
        return Core(options, self._odac, sparse)


def _sigmoid(z: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-z))


def _dicts(data: Any) -> list[Any]:
    """Rows as `learn_one` takes them, where only one side of a mini-batch came as a sequence."""
    if isinstance(data, list | tuple):
        return list(data)
    names, values = table(data, "rows")
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]
