"""The seeded sample: which rows it keeps must not depend on how they came."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.jobs.sample import RANK, LowestRanks, ranks


def rows(drawn: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"row": np.arange(len(drawn)), RANK: pa.array(drawn, pa.uint64())})


def test_every_rejected_row_is_kept_and_as_many_others_as_asked() -> None:
    drawn = ranks(7, 3, np.arange(5_000), np.zeros(5_000, np.int64))
    drawn[::50] = 0
    sample = LowestRanks(200)
    for start in range(0, 5_000, 333):
        sample.add(rows(drawn).slice(start, 333))
    kept = sample.table()
    assert kept is not None
    taken = kept.column("row").to_numpy()
    assert set(range(0, 5_000, 50)) <= set(taken.tolist())
    assert len(taken) == 100 + 200
    others = np.sort(drawn[drawn > 0])[:200]
    assert set(others.tolist()) == set(drawn[taken][drawn[taken] > 0].tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 300),
)
def test_the_cut_into_batches_does_not_matter(drawn: list[int], keep: int, cut: int) -> None:
    batch = rows(np.array(drawn, np.uint64))
    whole, parts = LowestRanks(keep), LowestRanks(keep)
    whole.add(batch)
    for start in range(0, len(drawn), cut):
        parts.add(batch.slice(start, cut))
    one, other = whole.table(), parts.table()
    assert one is not None
    assert other is not None
    assert one.column(RANK).to_pylist() == other.column(RANK).to_pylist()


def test_ranks_differ_by_seed_partition_offset_and_row_and_are_never_zero() -> None:
    offsets, zeros = np.arange(10_000), np.zeros(10_000, np.int64)
    base = ranks(0, 0, offsets, zeros)
    assert len(np.unique(base)) == 10_000
    assert base.min() >= 1
    for other in (ranks(1, 0, offsets, zeros), ranks(0, 1, offsets, zeros), ranks(0, 0, offsets, zeros + 1)):
        assert not np.any(other == base)
    assert abs(base.astype(np.float64).mean() / 2**64 - 0.5) < 0.01
