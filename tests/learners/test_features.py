"""Hashing: the vectorised path against a per-row twin, golden ids, and what every kind of value turns into."""

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.learners.errors import WrongFeatures
from headrace.streaming.learners.features import FeatureSpec, bucketise, hash_features
from headrace.streaming.learners.hashing import GOLDEN, NULL, hash_values, salt

FULL = 2**64 - 1


def mix_one(h: int) -> int:
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & FULL
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & FULL
    return h ^ (h >> 31)


def hash_one(value: int | str | bytes | None) -> int:
    if value is None:
        return NULL
    if isinstance(value, int):
        return value & FULL
    raw = value.encode() if isinstance(value, str) else value
    h = len(raw) ^ 0x3C6EF372FE94F82B
    for start in range(0, len(raw), 8):
        h = mix_one(h ^ struct.unpack("<Q", raw[start : start + 8].ljust(8, b"\0"))[0])
    return mix_one(h)


def salt_one(name: str, seed: int) -> int:
    return mix_one(hash_one(name.encode()) ^ mix_one((seed ^ GOLDEN) & FULL))


def bucket_one(x: float | None) -> int:
    if x is None or math.isnan(x):
        return NULL - 2**64
    if x == 0:
        return 0
    magnitude = min(abs(x), 2.0**40)
    mantissa, exponent = math.frexp(magnitude)
    place = max((exponent + 40) * 4 + math.floor((mantissa - 0.5) * 8) + 1, 1)
    return place if x > 0 else -place


def ids_one(row: dict[str, object], spec: FeatureSpec) -> list[int]:
    """One row's ids, in plain Python."""

    def place(value: int, field: str) -> int:
        return mix_one(value ^ salt_one(field, spec.seed)) >> (64 - spec.bits)

    newest = {name: hash_one(row[name]) for name in spec.ids}  # type: ignore[arg-type]
    newest |= {name: bucket_one(row[name]) & FULL for name in spec.dense}  # type: ignore[arg-type]
    out = [place(newest[name], name) for name in (*spec.ids, *spec.dense)]
    for name in spec.histories:
        items = list(row[name] or [])[::-1][: spec.history_items]  # type: ignore[call-overload]
        items += [None] * (spec.history_items - len(items))
        newest[name] = hash_one(items[0])
        out += [place(hash_one(item), name) for item in items]
    for cross in spec.crosses:
        value = newest[cross[0]]
        for name in cross[1:]:
            value = mix_one(value ^ salt_one("\0cross", spec.seed)) ^ newest[name]
        out.append(place(value, "\0".join(cross)))
    return out


words = st.text("aß€😀\0 ", max_size=9)  # one to four bytes each
rows = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.none() | words,
            "item": st.none() | st.integers(-(2**63), 2**63 - 1),
            "price": st.none() | st.floats(),
            "seen": st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=5),
            "words": st.none() | st.lists(st.none() | words, max_size=5),
        }
    ),
    max_size=12,
)
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.int64()),
        ("price", pa.float64()),
        ("seen", pa.list_(pa.int64())),
        ("words", pa.large_list(pa.string())),
    ]
)
SPEC = FeatureSpec(
    ids=("user", "item"),
    dense=("price",),
    histories=("seen", "words"),
    bits=20,
    seed=7,
    crosses=(("user", "item"), ("seen", "item", "price")),
    history_items=2,
)

GOLDEN_IDS = [
    [123655, 1002939, 22727, 893228, 592694, 15630, 822432, 441882, 682169],
    [538940, 358730, 213885, 7783, 7783, 210341, 210341, 419234, 828631],
]


@settings(deadline=None)
@given(rows=rows, seed=st.integers(-(2**70), 2**70), cut=st.integers(0, 12))
def test_ids_equal_the_per_row_twin_wherever_the_batch_is_cut(rows, seed, cut):
    spec = FeatureSpec(**{**vars(SPEC), "seed": seed})
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    ids = hash_features(batch, spec)
    assert ids.dtype == np.uint32
    assert ids.shape == (len(rows), spec.width)
    assert ids.tolist() == [ids_one(row, spec) for row in rows]
    parts = [hash_features(batch.slice(0, cut), spec), hash_features(batch.slice(cut), spec)]
    assert np.array_equal(np.concatenate(parts), ids)


@settings(deadline=None)
@given(st.lists(st.none() | words | st.text("ab", min_size=7, max_size=17)))
def test_text_hashes_alike_in_every_arrow_form(values):
    expected = [hash_one(value) for value in values]
    plain = pa.array(values, pa.string())
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        assert hash_values(plain.cast(kind)).tolist() == expected
    assert hash_values(plain.dictionary_encode()).tolist() == expected


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()])
def test_whole_numbers_hash_alike_in_every_width(kind):
    assert hash_values(pa.array([0, None, 100], kind)).tolist() == [0, NULL, 100]


def test_other_values_with_an_identity_hash_as_their_stored_integer():
    assert hash_values(pa.array([True, None, False])).tolist() == [1, NULL, 0]
    assert hash_values(pa.array([2**64 - 1], pa.uint64())).tolist() == [2**64 - 1]
    assert hash_values(pa.array([7, None], pa.timestamp("us", "UTC"))).tolist() == [7, NULL]
    assert hash_values(pa.array([3], pa.date32())).tolist() == [3]
    assert hash_values(pa.array([None, None], pa.dictionary(pa.int8(), pa.string()))).tolist() == [NULL] * 2


@settings(deadline=None)
@given(st.lists(st.none() | st.floats() | st.floats(-1e15, 1e15)))
def test_buckets_equal_the_per_value_twin(values):
    assert bucketise(pa.array(values, pa.float64())).tolist() == [bucket_one(value) for value in values]


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=2))
def test_buckets_never_fall_as_values_rise(values):
    buckets = bucketise(pa.array(sorted(values), pa.float64()))
    assert (np.diff(buckets) >= 0).all()


def test_buckets_do_not_depend_on_the_numeric_type():
    expected = bucketise(pa.array([0.0, 3.0, None])).tolist()
    for kind in (pa.int8(), pa.uint64(), pa.float32(), pa.float16()):
        assert bucketise(pa.array([0, 3, None], pa.float64()).cast(kind)).tolist() == expected
    assert bucketise(pa.array([False, True])).tolist() == bucketise(pa.array([0.0, 1.0])).tolist()


def test_golden_ids():
    """Stored models rest on these numbers: if this test fails, every checkpoint there is has lost its meaning."""
    batch = pa.RecordBatch.from_pylist(
        [
            {"user": "u-1", "item": 42, "price": 9.99, "seen": [1, 2, 3], "words": ["ski", "schnee"]},
            {"user": None, "item": None, "price": math.nan, "seen": [], "words": None},
        ],
        schema=SCHEMA,
    )
    assert hash_features(batch, SPEC).tolist() == GOLDEN_IDS


def test_a_null_has_a_bucket_of_its_own_in_each_field():
    batch = pa.RecordBatch.from_pydict(
        {"a": pa.array([None], pa.string()), "b": pa.array([None], pa.string())}
    )
    assert len(set(hash_features(batch, FeatureSpec(ids=("a", "b"), bits=28))[0])) == 2


def test_two_fields_and_two_seeds_do_not_share_ids():
    batch = pa.RecordBatch.from_pydict({"a": list(range(1000)), "b": list(range(1000))})
    ids = hash_features(batch, FeatureSpec(ids=("a", "b"), bits=28))
    other = hash_features(batch, FeatureSpec(ids=("a", "b"), bits=28, seed=1))
    assert len(np.intersect1d(ids[:, 0], ids[:, 1])) < 5
    assert len(np.intersect1d(ids, other)) < 50


def test_ids_spread_evenly():
    batch = pa.RecordBatch.from_pydict({"user": [f"user-{number}" for number in range(64_000)]})
    counts = np.bincount(hash_features(batch, FeatureSpec(ids=("user",), bits=6))[:, 0], minlength=64)
    chi_squared = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert chi_squared < 120  # 63 degrees of freedom: 0.999 lies at 104


@pytest.mark.parametrize(
    ("columns", "spec", "message"),
    [
        ({"a": [1.5]}, FeatureSpec(ids=("a",)), "cannot hash a column of type double"),
        ({"a": ["x"]}, FeatureSpec(dense=("a",)), "expected a numeric column"),
        ({"a": ["x"]}, FeatureSpec(histories=("a",)), "expected a list column for the history 'a'"),
        ({"a": ["x"]}, FeatureSpec(ids=("b",)), "exactly one column 'b'"),
    ],
)
def test_columns_that_cannot_be_hashed_are_refused(columns, spec, message):
    with pytest.raises(WrongFeatures, match=message):
        hash_features(pa.RecordBatch.from_pydict(columns), spec)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 0},
        {"bits": 29},
        {"history_items": 0},
        {"ids": ("a",), "dense": ("a",)},
        {"ids": ("a", "b"), "crosses": (("a",),)},
        {"ids": ("a",), "crosses": (("a", "z"),)},
    ],
)
def test_impossible_specs_are_refused(arguments):
    with pytest.raises(ValueError):
        FeatureSpec(**arguments)


def test_salts_differ_by_name_and_by_seed():
    assert len({int(salt(name, seed)) for name in ("a", "b", "") for seed in (0, 1, -1)}) == 9
    assert int(salt("ü", 5)) == salt_one("ü", 5)
