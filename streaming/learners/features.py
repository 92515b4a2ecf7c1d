"""Event columns to hashed feature ids: what every learner of this folder sees of an event.

Between the predicting executor and the learning driver nothing travels but columns; both sides call
`hash_features` and must get the same ids, so it is a pure function of the batch and a frozen `FeatureSpec`.
The hashing trick: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009 (their sign
hash is left out: a linear model with its own weight per bucket does not need the inner products unbiased).

Deliberately absent: a vocabulary, or anything else that is fitted and would have to be stored beside the model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.streaming.learners.errors import WrongFeatures
from headrace.streaming.learners.hashing import NULL, U64, hash_values, mix, salt

U32 = npt.NDArray[np.uint32]
MAX_BITS = 28  # 2**28 weights are 1 GiB of float32; more is a mistake in a setting, not a model
_STEPS = 4  # buckets per power of two: neighbours differ by at most a quarter
_EXPONENTS = 40  # 2**-40 … 2**40 (about 1e-12 … 1e12) before values share the outermost bucket


@dataclass(frozen=True)
class FeatureSpec:
    """Which columns become feature ids, and how.

    ids: integer or string columns, one id each. dense: numeric columns, one id per value's bucket (`bucketise`).
    histories: list columns, newest item last; the newest `history_items` items give one id each, and an item has the
    same id at every place. crosses: tuples of column names taken together (a history stands for its newest item).
    bits: ids lie in [0, 2**bits). seed: another seed, other collisions.
    """

    ids: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    bits: int = 18
    seed: int = 0
    crosses: tuple[tuple[str, ...], ...] = ()
    history_items: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must lie in 1…{MAX_BITS}, came {self.bits}")
        if self.history_items < 1:
            raise ValueError(f"history_items must be at least 1, came {self.history_items}")
        named = {*self.ids, *self.dense, *self.histories}
        if len(named) != len(self.ids) + len(self.dense) + len(self.histories):
            raise ValueError(f"a column may be only one of ids, dense and histories: {self}")
        for cross in self.crosses:
            if len(cross) < 2 or not named.issuperset(cross):
                raise ValueError(f"a cross takes two or more of the columns named above it, came {cross}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that `hash_features` reads."""
        return (*self.ids, *self.dense, *self.histories)

    @property
    def width(self) -> int:
        """F, the number of ids of one row."""
        single = len(self.ids) + len(self.dense) + len(self.crosses)
        return single + len(self.histories) * self.history_items


def hash_features(batch: pa.RecordBatch, spec: FeatureSpec) -> U32:
    """Hash the rows of `batch` to `ids: uint32[n, F]`, F = `spec.width`, each below `2**spec.bits`.

    Column order: ids, dense, histories (newest item first), crosses. A null, a missing history item or a NaN has
    its own bucket in its field. Two fields never share a bucket but by collision. Raises WrongFeatures.

    >>> batch = pa.RecordBatch.from_pydict({"user": ["u1", None], "price": [9.5, 0.0]})
    >>> hash_features(batch, FeatureSpec(ids=("user",), dense=("price",), bits=10)).shape
    (2, 2)
    """
    out = np.empty((batch.num_rows, spec.width), dtype=np.uint32)
    shift = np.uint64(64 - spec.bits)
    newest: dict[str, U64] = {}
    place = 0

    def put(values: U64, field: str) -> None:
        nonlocal place
        out[:, place] = mix(values ^ salt(field, spec.seed)) >> shift
        place += 1

    for name in spec.ids:
        newest[name] = hash_values(_column(batch, name))
        put(newest[name], name)
    for name in spec.dense:
        newest[name] = bucketise(_column(batch, name)).view(np.uint64)
        put(newest[name], name)
    for name in spec.histories:
        for age in range(spec.history_items):
            values = _history_item(_column(batch, name), name, age)
            newest.setdefault(name, values)
            put(values, name)
    for cross in spec.crosses:
        values = newest[cross[0]]
        for name in cross[1:]:
            values = mix(values ^ salt("\0cross", spec.seed)) ^ newest[name]
        put(values, "\0".join(cross))
    return out


def bucketise(array: pa.Array) -> npt.NDArray[np.int64]:
    """Give each number of `array: [n]` a bucket, `int64[n]`: four equal steps within each power of two, by sign.

    No quantiles, so nothing is fitted: bucket edges are exact binary fractions and a value's bucket never changes.
    Zero is bucket 0; magnitudes below 2**-40 or from 2**40 (infinities too) share the outermost buckets; null and
    NaN share one bucket of their own. Raises WrongFeatures unless the column is numeric or boolean.

    >>> bucketise(pa.array([0.0, 1.0, 1.2, 1.3, -1.0])).tolist()
    [0, 165, 165, 166, -165]
    """
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise WrongFeatures(f"expected a numeric column among the dense features, came {kind}")
    as_floats = array.cast(pa.int8()) if pa.types.is_boolean(kind) else array
    x = as_floats.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    magnitude = np.clip(np.abs(x), 0.0, 2.0**_EXPONENTS)
    mantissa, exponent = np.frexp(magnitude)  # magnitude = mantissa * 2**exponent, mantissa in [0.5, 1)
    with np.errstate(invalid="ignore"):  # the NaNs, which get their bucket below
        step = ((mantissa - 0.5) * (2 * _STEPS)).astype(np.int64)
        place = (exponent.astype(np.int64) + _EXPONENTS) * _STEPS + step + 1
        bucket: npt.NDArray[np.int64] = np.where(magnitude > 0, np.maximum(place, 1), 0) * np.sign(
            np.nan_to_num(x)
        ).astype(np.int64)
    bucket[np.isnan(x)] = np.uint64(NULL).view(np.int64)
    return bucket


def _history_item(array: pa.Array, name: str, age: int) -> U64:
    """Hash of each list's item `age` places before its end, `uint64[n]`; NULL where there is none."""
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise WrongFeatures(f"expected a list column for the history {name!r}, came {kind}")
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    place = offsets[1:] - 1 - age
    there = place >= offsets[:-1]
    if array.null_count:
        there &= array.is_valid().to_numpy(zero_copy_only=False)
    hashed = np.full(len(array), NULL, dtype=np.uint64)
    hashed[there] = hash_values(array.values.take(pa.array(place[there])))
    return hashed


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    place = batch.schema.get_field_index(name)
    if place < 0:
        raise WrongFeatures(
            f"expected exactly one column {name!r}, as the features name it; the batch has {batch.schema.names}"
        )
    return batch.column(place)
