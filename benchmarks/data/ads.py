"""A table as ad platforms train on it: one row per impression, with keys, features, click histories, strings and an embedding.

Fifty columns in six families, see ``FAMILIES``. 200,000 rows are 702 MB in Arrow, 602 MB of them the three histories of clicked
ids. Without noise the rows are ordered by user and time, and a history is a window over the user's clicks, newest first,
that slides on by the clicks since the row before. With ``Noise`` each user's click log is edited as it grows, see ``clicks``,
and the rows are in the order of time, users mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.data.clicks import Noise, noisy_windows, windows

Ints = npt.NDArray[np.int64]

CATEGORIES = (3, 10, 50, 200, 1_000, 5_000, 20_000, 100_000, 500_000, 1_000_000)
"""How many values ``cat_00`` to ``cat_09`` take, and again ``cat_10`` to ``cat_19``."""
FAMILIES = {
    "key": ("user_id", "ts", "label"),
    "cat": tuple(f"cat_{i:02d}" for i in range(20)),
    "den": tuple(f"den_{i:02d}" for i in range(20)),
    "seq": ("seq_a", "seq_b", "seq_c"),
    "str": ("country", "device", "query"),
    "emb": ("emb",),
}


@dataclass(frozen=True)
class History:
    """A column of click histories: at most ``cap`` ids out of ``vocabulary``, drawn by Zipf's law."""

    name: str
    cap: int
    vocabulary: int
    hashed: bool


HISTORIES = (
    History("seq_a", 256, 1 << 24, hashed=False),
    History("seq_b", 256, 1 << 20, hashed=True),
    History("seq_c", 96, 1 << 16, hashed=False),
)


@dataclass(frozen=True)
class Ads:
    """What to generate.

    Attributes:
        noise: how the click logs change beside growing; None: they only grow.
        rows_per_user: mean of a geometric distribution.
        clicks_per_row: mean of a Poisson distribution, for each history.
        click_share: how many labels are 1.
        embedding: float32 values in each row of ``emb``.
    """

    rows: int = 200_000
    seed: int = 2024
    noise: Noise | None = None
    rows_per_user: float = 20.0
    clicks_per_row: float = 1.5
    click_share: float = 0.03
    embedding: int = 64


@dataclass(frozen=True)
class _Events:
    """Who was shown something when; ``start`` is, for each row, the number of its user's first row."""

    user: Ints
    start: Ints
    ts: Ints

    @property
    def first(self) -> npt.NDArray[np.bool_]:
        own: npt.NDArray[np.bool_] = self.start == np.arange(len(self.start))
        return own


def ads(spec: Ads) -> pa.Table:
    """The table, one chunk per column; the same for the same ``spec`` wherever numpy is the same.

    >>> ads(Ads(rows=100)).num_columns
    50
    """
    # Each family draws from a generator of its own, so that one can change without moving the others.
    draws = dict(zip(FAMILIES, np.random.default_rng(spec.seed).spawn(len(FAMILIES)), strict=True))
    events = _events(spec, draws["key"])
    columns = {
        "user_id": pa.array(events.user),
        "ts": pa.array(events.ts, pa.timestamp("us")),
        "label": pa.array((draws["key"].random(spec.rows) < spec.click_share).astype(np.int8)),
        **_categories(events, draws["cat"]),
        **_numbers(events, draws["den"]),
        **_histories(spec, events, draws["seq"]),
        **_strings(spec.rows, draws["str"]),
    }
    vectors = draws["emb"].standard_normal(spec.rows * spec.embedding, dtype=np.float32) * np.float32(0.1)
    columns["emb"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors), spec.embedding)
    table = pa.table(columns)
    if spec.noise is None:
        return table
    return table.take(pa.array(np.argsort(events.ts, kind="stable"))).combine_chunks()


def _events(spec: Ads, rng: np.random.Generator) -> _Events:
    """Users with ids below 2**40, each with a start within twelve days and rows an hour apart on average."""
    lengths = rng.geometric(1 / spec.rows_per_user, spec.rows)  # enough: each is at least 1
    n_users = int(np.searchsorted(np.cumsum(lengths), spec.rows)) + 1
    ids = np.unique(rng.integers(0, 1 << 40, 2 * n_users))
    ids = np.sort(rng.permutation(ids)[:n_users])
    owner = np.repeat(np.arange(n_users), lengths[:n_users])[: spec.rows]
    starts = np.cumsum(lengths[:n_users]) - lengths[:n_users]
    start = starts[owner]
    began = 1_700_000_000_000_000 + rng.integers(0, 10**12, n_users)
    clock = np.cumsum(rng.exponential(3.6e9, spec.rows).astype(np.int64))
    return _Events(ids[owner], start, began[owner] + clock - clock[start])


def _categories(events: _Events, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Zipf's law; every fourth is the user's own and constant in his rows, every fifth a hashed 63-bit id, the others int32."""
    columns = {}
    for number, name in enumerate(FAMILIES["cat"]):
        values = zipf(rng, len(events.user), CATEGORIES[number % 10], 1.1)
        if number % 4 == 3:
            values = values[events.start]
        columns[name] = pa.array(hashed(values) if number % 5 == 4 else values.astype(np.int32))
    return columns


def _numbers(events: _Events, rng: np.random.Generator) -> dict[str, pa.Array]:
    """float32 in five kinds, in turn: normal, money in cents, uniform per user, seven of ten zero, and tenths of a count."""
    rows = len(events.user)
    columns = {}
    for number, name in enumerate(FAMILIES["den"]):
        kind = number % 5
        if kind == 0:
            values = rng.standard_normal(rows)
        elif kind == 1:
            values = np.round(rng.lognormal(1.0, 1.0, rows), 2)
        elif kind == 2:
            values = rng.random(rows)[events.start]
        elif kind == 3:
            values = np.where(rng.random(rows) < 0.7, 0.0, rng.random(rows))
        else:
            values = rng.poisson(3.0, rows) / 10.0
        columns[name] = pa.array(values.astype(np.float32))
    return columns


def _histories(spec: Ads, events: _Events, rng: np.random.Generator) -> dict[str, pa.Array]:
    """A user's first row finds 0 to ``cap`` earlier clicks in his log, each later one those since the row before."""
    columns = {}
    for history in HISTORIES:
        came = rng.poisson(spec.clicks_per_row, spec.rows)
        came += np.where(events.first, rng.integers(0, history.cap + 1, spec.rows), 0)
        ids = zipf(rng, int(came.sum()), history.vocabulary, 0.8)
        if history.hashed:
            ids = hashed(ids)
        if spec.noise is None:
            columns[history.name] = windows(ids, came, events.start, history.cap)
        else:
            columns[history.name] = noisy_windows(ids, came, events.start, history.cap, spec.noise, rng)
    return columns


def _strings(rows: int, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Sixty countries and two thousand devices by Zipf's law, and queries of which hardly two are alike."""
    countries = pa.array([f"C{i:02d}" for i in range(60)])
    devices = pa.array([f"model-{i:04d}/os {i % 13}.{i % 7}" for i in range(2_000)])
    words = zip(
        rng.integers(0, 999, rows).tolist(),
        zipf(rng, rows, 5_000, 1.1).tolist(),
        rng.integers(0, 1 << 32, rows).tolist(),
        strict=True,
    )
    return {
        "country": countries.take(pa.array(zipf(rng, rows, 60, 1.1))),
        "device": devices.take(pa.array(zipf(rng, rows, 2_000, 1.1))),
        "query": pa.array([f"q{topic} term{term} {session:x}" for topic, term, session in words]),
    }


def zipf(rng: np.random.Generator, n: int, k: int, exponent: float) -> Ints:
    """``n`` draws from 0..k-1, the probability of value v proportional to (v + 1) ** -exponent."""
    cumulated = np.cumsum(np.arange(1, k + 1, dtype=np.float64) ** -exponent)
    drawn: Ints = np.searchsorted(cumulated, rng.random(n) * cumulated[-1])
    return np.minimum(drawn, k - 1)


def hashed(values: Ints) -> Ints:
    """Each value as a 63-bit hash of itself: the finaliser of splitmix64."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
