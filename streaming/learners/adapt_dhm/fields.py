"""An event's values as keys and numbers: dicts, frames and Arrow batches, whatever is missing or of an odd type in them.

In the flow: before `table`, on executors and driver alike; a pure function of values and `Fields`. A value that is no id (None, NaN, a list)
is absent and counts for nothing; a number that is no number is NaN, which the model replaces by the mean. Both are counted, nothing
is raised: a bad event is an event. A column that an Arrow batch lacks raises WrongFeatures, since a batch has a schema and that is a mistake in a program.
"""

import numbers as abstract
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from headrace.streaming.learners.embedding.keys import ABSENT, U64, key_of, keys_of
from headrace.streaming.learners.errors import BadId, WrongFeatures

F32 = npt.NDArray[np.float32]


class Inputs(NamedTuple):
    """Events as a learner sees them. keys: uint64[n, F, 2]; numbers: float32[n, N]; missing: values that were none."""

    keys: U64
    numbers: F32
    missing: int


@dataclass(frozen=True)
class Fields:
    """ids: names of the id fields, in their order; numbers: of the dense ones."""

    ids: tuple[str, ...]
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = (*self.ids, *self.numbers)
        if len(set(named)) != len(named) or not named or len(self.ids) > 254:
            raise ValueError(
                f"expected distinct fields, at least one, at most 254 of ids, came {', '.join(named) or 'none'}"
            )

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "Fields":
        """The fields of an example: numbers are dense, everything else is an id; by name, since a dict's order is no order."""
        names = sorted(str(name) for name in row)
        dense = {str(name) for name, value in row.items() if _is_number(value)}
        return cls(
            tuple(name for name in names if name not in dense),
            tuple(name for name in names if name in dense),
        )

    def places(self, names: Sequence[str]) -> tuple[int, ...]:
        """Where ids of these names stand. Raises ValueError for what is no id."""
        for name in names:
            if name not in self.ids:
                raise ValueError(f"expected a name among the ids {', '.join(self.ids)}, came {name!r}")
        return tuple(self.ids.index(name) for name in names)

    def rows(self, rows: Sequence[Mapping[Any, Any]]) -> Inputs:
        """Of dicts; a name that is absent is a missing value, further names are not looked at."""
        named = [{str(name): value for name, value in row.items()} for row in rows]
        return self._inputs(
            len(named), {n: [row.get(n) for row in named] for n in (*self.ids, *self.numbers)}
        )

    def frame(self, frame: pd.DataFrame) -> Inputs:
        """Of a frame, in which features come and go as in dicts."""
        named = {str(name): frame[name] for name in frame.columns}
        columns: dict[str, Any] = {}
        for name in (*self.ids, *self.numbers):
            if name not in named:
                columns[name] = [None] * len(frame)
                continue
            values = named[name].to_numpy()
            columns[name] = values if values.dtype.kind in "iubf" else values.tolist()
        return self._inputs(len(frame), columns)

    def arrow(self, batch: pa.RecordBatch) -> Inputs:
        """Of a batch; a dictionary's entries are hashed once each, whole numbers are not copied. Raises WrongFeatures."""
        self._must_have(batch.schema.names)
        return self._inputs(batch.num_rows, {n: batch.column(n) for n in (*self.ids, *self.numbers)})

    def _must_have(self, names: Sequence[str]) -> None:
        missing = [name for name in (*self.ids, *self.numbers) if name not in names]
        if missing:
            raise WrongFeatures(
                f"expected the columns {', '.join((*self.ids, *self.numbers))}; {', '.join(missing)} is not among {', '.join(names)}"
            )

    def _inputs(self, n: int, columns: Mapping[str, Any]) -> Inputs:
        keys = np.empty((n, max(1, len(self.ids)), 2), np.uint64)
        keys[:, 0, 1] = ABSENT  # where there is no id field at all
        for place, name in enumerate(self.ids):
            keys[:, place] = _keys(columns[name], place, n)
        values = np.empty((n, len(self.numbers)), np.float32)
        for place, name in enumerate(self.numbers):
            values[:, place] = _floats(columns[name])
        missing = int((keys[:, : len(self.ids), 1] == ABSENT).sum()) + int((~np.isfinite(values)).sum())
        return Inputs(keys, values, missing)


def event_keys(ids: Any) -> tuple[U64, npt.NDArray[np.bool_]]:
    """Keys of the ids of events, `uint64[n, 2]`, and which are ids at all, `bool[n]`."""
    keys = _keys(ids, 0, len(ids))
    return keys, keys[:, 1] != ABSENT


def _keys(values: Any, field: int, n: int) -> U64:
    """Keys of a column, those of what is no id absent."""
    keys = np.zeros((n, 2), np.uint64)
    keys[:, 1] = ABSENT
    if isinstance(values, pa.Array):
        there = values.is_valid().to_numpy(zero_copy_only=False)
        try:
            keys[there] = keys_of(values if there.all() else values.filter(pa.array(there)), field)
            return keys
        except BadId:
            values = values.to_pylist()
    try:
        keys[:] = keys_of(values, field)
        return keys
    except BadId:
        pass
    known: dict[Any, Any] = {}
    for at, value in enumerate(values):
        try:
            if value not in known:
                known[value] = key_of(value, field)
            keys[at] = known[value]
        except (BadId, TypeError):
            continue
    return keys


def _floats(values: Any) -> Any:
    if isinstance(values, pa.Array):
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            numeric = values.cast(pa.int8()) if pa.types.is_boolean(kind) else values
            return numeric.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values.to_pylist()
    if isinstance(values, np.ndarray):
        return values
    return [float(value) if _is_number(value) or isinstance(value, bool) else np.nan for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, abstract.Real) and not isinstance(value, bool | np.bool_)
