"""What comes in becomes rows of numbers: dicts, DataFrames, CSR matrices, arrays and Arrow tables, features and labels.

One convention for all of them. Features: a number or a bool; NaN and None are "not known here" and count for nothing, in a sparse
stream 0 does too. An infinite value or something that is no number makes its row *refused*: it is predicted without that value,
and never learnt. Labels: names are str, int or bool; a value is true or false, None or NaN where it is not known; a label that a row
does not mention is not set. A container of the wrong kind or shape raises instead, before anything is learnt.

Nothing of scipy, pandas or Arrow is imported: a CSR matrix is what has `indptr`, a DataFrame what has `iloc`.
"""

import array
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headrace.streaming.learners.errors import LearnerError

UNKNOWN: Final = 2


class BadBatch(LearnerError, ValueError):
    """A mini-batch, a row or a labelset is not of a form that can be learnt; nothing was."""


@dataclass(frozen=True)
class Refused:
    """A row that was not learnt. row: how many rows had come before it; column: the feature or label; why: in words."""

    row: int
    column: Any
    why: str


class Names:
    """Names and their numbers, in the order in which they came."""

    def __init__(self, names: Iterable[Any] = ()) -> None:
        self.names: list[Any] = []
        self.index: dict[Any, int] = {}
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: Any) -> int:
        """The number of a name, new or not. Raises BadBatch for a name that a checkpoint could not hold."""
        at = self.index.get(name)
        if at is None:
            if isinstance(name, np.generic):
                return self.add(name.item())
            if not isinstance(name, str | int):
                raise BadBatch(
                    f"expected names that are str or int, came {name!r} of type {type(name).__name__}"
                )
            at = self.index[name] = len(self.names)
            self.names.append(name)
        return at

    def drop(self, name: Any) -> int:
        """Take a name out; those behind it move up by one. Raises KeyError."""
        at = self.index[name]
        del self.names[at]
        self.index = {name: i for i, name in enumerate(self.names)}
        return at


@dataclass
class Rows:
    """Rows in compressed form: start int64[m+1], index int32, value float64; `refused` by row, with column and reason."""

    start: Any
    index: Any
    value: Any
    refused: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start) - 1

    def part(self, begin: int, end: int) -> "Rows":
        """Rows begin to end."""
        at, to = int(self.start[begin]), int(self.start[end])
        return Rows(self.start[begin : end + 1] - at, self.index[at:to], self.value[at:to])

    def known(self) -> "Rows":
        """The rows without features that have no number."""
        keep = self.index >= 0
        if keep.all():
            return self
        counts = np.concatenate([[0], np.cumsum(keep)])
        return Rows(counts[self.start], self.index[keep], self.value[keep])

    def only(self, keep: Any) -> "Rows":
        """The rows where `keep: bool[m]`."""
        lengths = np.diff(self.start)
        values = np.repeat(keep, lengths)
        start = np.concatenate([[0], np.cumsum(lengths[keep])])
        return Rows(start, self.index[values], self.value[values])


class Reader:
    """Rows by name of feature; learning adds names, predicting leaves out those it does not know.

    A sparse row keeps them with the number -1: they are part of its length, by which it is scaled.
    """

    def __init__(self, features: Names) -> None:
        self.features = features
        self._last: tuple[tuple[Any, ...], int, Any] = ((), -1, np.zeros(0, np.int32))

    def one(self, x: Mapping[Any, Any], sparse: bool | None, learning: bool) -> Rows:
        """A dict as one row; `sparse` leaves zeros out."""
        if not isinstance(x, Mapping):
            raise BadBatch(
                f"expected a dict of features, came {type(x).__name__}; mini-batches go to the *_many forms"
            )
        refused: dict[int, tuple[Any, str]] = {}
        try:
            value = np.frombuffer(array.array("d", x.values()), np.float64) if x else np.zeros(0)
        except TypeError:
            value, refused = self._slowly(x)
        index = self._index(tuple(x), learning)
        infinite = np.isinf(value)
        if infinite.any():
            column = list(x)[int(np.argmax(infinite))]
            refused = {0: (column, "expected a finite number, came an infinite one")}
        keep = np.isfinite(value) & (value != 0.0 if sparse else index >= 0)
        if not keep.all():
            value, index = value[keep], index[keep]
        return Rows(np.array([0, len(index)]), index, value, refused)

    def many(self, X: Any, sparse: bool | None, learning: bool) -> Rows:
        """A DataFrame, CSR matrix, 2-D array, Arrow table or sequence of dicts. Raises BadBatch."""
        if hasattr(X, "indptr"):
            return self._csr(X, sparse, learning)
        if isinstance(X, Sequence) and not isinstance(X, str | bytes):
            return joined([self.one(x, sparse, learning) for x in X])
        names, values = table(X, "features")
        index = self._index(tuple(names), learning)
        refused = {
            int(row): (
                names[int(np.argmax(np.isinf(values[row])))],
                "expected a finite number, came an infinite one",
            )
            for row in np.flatnonzero(np.isinf(values).any(1))
        }
        keep = np.isfinite(values) & (values != 0.0 if sparse else (index >= 0)[None, :])
        start = np.concatenate([[0], np.cumsum(keep.sum(1))])
        spread = np.broadcast_to(index, values.shape)
        return Rows(start, np.ascontiguousarray(spread[keep]), np.ascontiguousarray(values[keep]), refused)

    def _csr(self, X: Any, sparse: bool | None, learning: bool) -> Rows:
        if X.dtype.kind not in "fiub":
            raise BadBatch(f"expected a CSR matrix of numbers, came dtype {X.dtype}")
        if not sparse:
            return self.many(X.toarray(), sparse, learning)
        index = self._index(tuple(range(X.shape[1])), learning)[X.indices]
        value = np.asarray(X.data, np.float64)
        row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
        refused = {
            int(row[at]): (int(X.indices[at]), "expected a finite number, came an infinite one")
            for at in np.flatnonzero(np.isinf(value))
        }
        keep = np.isfinite(value) & (value != 0.0)
        start = np.concatenate([[0], np.cumsum(np.bincount(row[keep], minlength=X.shape[0]))])
        return Rows(start, np.ascontiguousarray(index[keep]), np.ascontiguousarray(value[keep]), refused)

    def _index(self, names: tuple[Any, ...], learning: bool) -> Any:
        """int32[k]: the numbers of the names, -1 for one not known; a stream's rows mostly have the same names."""
        last, known, index = self._last
        if names == last and known == len(self.features):
            return index
        numbers = [
            self.features.add(name) if learning else self.features.index.get(name, -1) for name in names
        ]
        index = np.array(numbers, np.int32)
        if learning:  # what a prediction does not know, learning has to add
            self._last = (names, len(self.features), index)
        return index

    def _slowly(self, x: Mapping[Any, Any]) -> tuple[Any, dict[int, tuple[Any, str]]]:
        refused: dict[int, tuple[Any, str]] = {}
        values = []
        for name, value in x.items():
            try:
                values.append(math.nan if value is None else array.array("d", [value])[0])
            except TypeError:
                refused[0] = (name, f"expected a number, came {value!r} of type {type(value).__name__}")
                values.append(math.nan)
        return np.array(values), refused


def joined(rows: list[Rows]) -> Rows:
    """Single rows one below the other."""
    if not rows:
        return Rows(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))
    start = np.concatenate([[0], np.cumsum([len(row.index) for row in rows])])
    refused = {at: row.refused[0] for at, row in enumerate(rows) if row.refused}
    return Rows(
        start,
        np.concatenate([row.index for row in rows]),
        np.concatenate([row.value for row in rows]),
        refused,
    )


def table(data: Any, what: str) -> tuple[list[Any], Any]:
    """The column names of a DataFrame, array, CSR matrix or Arrow table, and its values float64[m, k]. Raises BadBatch."""
    if hasattr(data, "toarray"):
        data = data.toarray()
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or data.dtype.kind not in "fiub":
            raise BadBatch(f"expected a 2-D array of numbers as {what}, came {data.dtype}{list(data.shape)}")
        return list(range(data.shape[1])), data.astype(np.float64)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        columns = [(name, data[name].to_numpy()) for name in data.columns]
    elif hasattr(data, "column_names"):
        columns = [(name, np.asarray(data.column(name))) for name in data.column_names]
    else:
        raise BadBatch(
            f"expected a DataFrame, CSR matrix, 2-D array or Arrow table as {what}, came {type(data).__name__}"
        )
    out = np.empty((len(data), len(columns)))
    for at, (name, values) in enumerate(columns):
        try:
            if values.dtype.kind not in "fiubO":
                raise TypeError(str(values.dtype))
            if values.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in values):
                raise TypeError("text")
            out[:, at] = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise BadBatch(
                f"column {name!r} of the {what}: expected numbers, came {error}; nothing was learnt"
            ) from None
    return [name for name, _ in columns], out


def first_row(data: Any) -> Any:
    """The first row of a DataFrame, array or Arrow table, as one of its kind."""
    if hasattr(data, "iloc"):
        return data.iloc[:1]
    return data.slice(0, 1) if hasattr(data, "slice") else data[:1]


def labels_of(y: Any, known: Names) -> tuple[Any, tuple[Any, str] | None]:
    """`uint8[L]` of one row's labels, adding names to `known`, and the label that makes the row refused, with the reason.

    y is a dict of label to bool or None, or a set of labels. Raises BadBatch where it is neither.
    """
    if isinstance(y, Mapping):
        items = list(y.items())
    elif isinstance(y, set | frozenset | list | tuple):
        # A set has no order of its own; new labels must get their numbers in the same one wherever this runs.
        fresh = isinstance(y, set | frozenset) and any(label not in known.index for label in y)
        items = [(label, True) for label in (sorted(y, key=str) if fresh else y)]
    else:
        raise BadBatch(f"expected a dict of labels to bools, or a set of labels, came {type(y).__name__}")
    try:
        numbers = [known.index[label] for label, _ in items]
    except (KeyError, TypeError):
        numbers = [known.add(label) for label, _ in items]
    out = np.zeros(len(known), np.uint8)
    refused = None
    for at, (label, value) in zip(numbers, items, strict=True):
        if value is True or value is False:
            out[at] = value
        elif (truth := _truth(value)) is not None:
            out[at] = truth
        else:
            refused = (label, f"expected True, False or None, came {value!r}")
    return out, refused


def _truth(value: Any) -> int | None:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return UNKNOWN
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | float | np.number) and value in (0, 1)):
        return int(value)
    return None


def label_table(Y: Any, known: Names) -> tuple[Any, dict[int, tuple[Any, str]]]:
    """`uint8[m, L]` of a mini-batch's labels, adding names to `known`, and the rows refused, with label and reason.

    Y is a DataFrame, CSR matrix, 2-D array, Arrow table, or a sequence of what `labels_of` takes. Raises BadBatch.
    """
    if isinstance(Y, Sequence) and not isinstance(Y, str | bytes):
        each = [labels_of(y, known) for y in Y]
        out = np.zeros((len(each), len(known)), np.uint8)
        for at, (row, _) in enumerate(each):
            out[at, : len(row)] = row
        return out, {at: why for at, (_, why) in enumerate(each) if why is not None}
    names, values = table(Y, "labels")
    wrong = ~(np.isnan(values) | (values == 0.0) | (values == 1.0))
    refused = {
        int(row): (
            names[int(np.argmax(wrong[row]))],
            f"expected 0, 1 or nothing, came {values[row][wrong[row]][0]}",
        )
        for row in np.flatnonzero(wrong.any(1))
    }
    numbers = [known.add(name) for name in names]
    out = np.zeros((len(values), len(known)), np.uint8)
    out[:, numbers] = np.where(np.isnan(values), UNKNOWN, values == 1.0).astype(np.uint8)
    return out, refused
