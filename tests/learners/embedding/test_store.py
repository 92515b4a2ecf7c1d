"""The embedding table: exact ids, a budget that holds whatever happens, and nothing left of who is gone."""

from __future__ import annotations

import resource
import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.learners.embedding import index, moments
from headrace.streaming.learners.embedding import rows as kernels
from headrace.streaming.learners.embedding.export import pack, to_csr, to_int8
from headrace.streaming.learners.embedding.keys import keys_of
from headrace.streaming.learners.embedding.layout import CODES, Layout
from headrace.streaming.learners.embedding.seen import SeenPairs
from headrace.streaming.learners.embedding.store import EmbeddingStore
from headrace.streaming.learners.errors import BadCheckpoint, BadId, BudgetExceeded, BudgetTooSmall

BUDGET = 12_000


def small(code: str = "fp32", **options) -> EmbeddingStore:
    made = {name: options.pop(name) for name in ("optimiser", "counted") if name in options}
    layout = Layout.within(BUDGET, rows=40, code=code, max_blocks=4, **made)
    return EmbeddingStore(layout, budget_bytes=BUDGET, **({"admit_after": 1} | options))


def sound(store: EmbeddingStore, budget: int = BUDGET) -> None:
    """The table checks its own links when it is restored; bytes and blocks are counted here once more."""
    arrays = store.arrays
    store.restore({name: array.copy() for name, array in arrays._asdict().items()})
    live = arrays.blocks > 0
    assert sum(array.nbytes for array in arrays) == store.nbytes == store.layout.nbytes <= budget
    assert store.live_blocks == int(arrays.blocks.sum()) <= store.layout.n_blocks
    assert store.live_rows == int(live.sum())
    assert (arrays.blocks <= store.layout.max_blocks).all()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("optimiser", "counted"), [("adagrad", False), ("adagrad", True), ("adam", False)])
def test_the_budget_is_exact_after_a_thousand_random_operations(code, optimiser, counted):
    store = small(code, optimiser=optimiser, counted=counted, ttl=50.0, half_life=20.0, floor=3)
    rng = np.random.default_rng(5)
    rows_per_id: dict[int, int] = {}
    for now in range(1_000):
        what = rng.integers(5)
        live = np.flatnonzero(store.arrays.blocks).astype(np.uint32)
        some = rng.choice(live, min(len(live), 6), replace=False) if len(live) else live
        if what <= 1:
            ids = rng.integers(0, 120, rng.integers(1, 30))
            rows = store.locate(ids, field=0, now=float(now))
            rows_per_id = dict(zip(ids.tolist(), rows.tolist(), strict=True))
        elif what == 2:
            store.give(some)
        elif what == 3:
            store.take_back(store.least(4, float(now)))
        elif rng.random() < 0.3:
            store.expire(float(now))
        elif len(some):
            store.evict(some[:2].tolist())
        store.check()
        if now % 20 == 0:
            sound(store)
    sound(store)
    assert rows_per_id
    assert store.counts["evicted"] > 100
    with pytest.raises(BudgetExceeded, match="expected at most 100 bytes"):
        EmbeddingStore(store.layout, budget_bytes=100)


def test_what_is_said_to_be_held_is_what_is_allocated():
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = EmbeddingStore(Layout.within(8_000_000, rows=30_000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.nbytes <= grown <= store.nbytes + 20_000
    assert 7_900_000 < store.nbytes <= 8_000_000


LIMITED = """
import resource
import numpy as np
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.store import EmbeddingStore
warm = EmbeddingStore(Layout.within(100_000, rows=50), admit_after=1)
warm.locate(np.arange(60), 0, 1.0); warm.give(np.array([1, 2], np.uint32)); warm.take_back(warm.least(2, 1.0)); warm.gather(np.array([1], np.uint32))
store = EmbeddingStore(Layout.within(64_000_000, rows=200_000), admit_after=1, half_life=100.0)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 24_000_000, held + 24_000_000))
rng = np.random.default_rng(0)
for now in range(80):
    rows = np.unique(store.locate(rng.integers(0, 10**9, 4_000), 0, float(now)))
    store.scatter(rows, store.gather(rows))
print(store.counts["evicted"], store.nbytes)
"""


def test_three_hundred_thousand_ids_fit_an_address_space_with_no_room_to_grow():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    evicted, held = map(int, done.stdout.split())
    assert evicted > 100_000
    assert held <= 64_000_000
    assert resource.RLIMIT_AS  # the limit is the child's alone


def test_ids_of_any_type_and_length_have_rows_of_their_own():
    ids = [0, -1, 2**63 - 1, 2**64 + 5, "0", "-1", "", "ü" * 100_000, b"0", 0.5, -(2**63), "\ud800", 10**40]
    store = small(admit_after=1)
    rows = store.locate(ids, field=0, now=1.0)
    assert len(set(rows.tolist())) == len(ids)
    assert (store.rows_of(ids, field=0) == rows).all()
    assert (store.rows_of(ids, field=1) == 0).all()
    assert (store.rows_of([0.0, False, np.int8(-1), np.float32(0.5)], 0) == rows[[0, 0, 1, 9]]).all()


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), [1], {}, object()])
def test_what_is_no_id_is_refused_and_nothing_changes(bad):
    store = small()
    before = [array.copy() for array in store.arrays]
    with pytest.raises(BadId, match="id 1: expected a number, a text"):
        store.locate([1, bad], field=0, now=1.0)
    assert all((mine == then).all() for mine, then in zip(store.arrays, before, strict=True))


def test_arrow_columns_and_python_values_have_the_same_keys():
    words = ["ski", "", "tea", "ski"]
    for array in (
        pa.array(words),
        pa.array(words).dictionary_encode(),
        pa.chunked_array([words[:1], words[1:]]),
    ):
        assert (keys_of(array, 1) == keys_of(words, 1)).all()
    assert (keys_of(pa.array([5, -6], pa.int16()), 0) == keys_of([5, -6], 0)).all()
    assert (keys_of(np.array([2**64 - 1], np.uint64), 0) == keys_of([2**64 - 1], 0)).all()
    with pytest.raises(BadId, match="id 1: expected an id, came null"):
        keys_of(pa.array([1, None]), 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(-50, 50), max_size=20), max_size=20))
def test_the_index_is_a_dictionary(batches):
    store = small(admit_after=1)
    for now, ids in enumerate(batches):
        rows = store.locate(np.array(ids, np.int64), field=0, now=float(now))
        found = store.rows_of(np.arange(-50, 51), field=0)
        live = found[found > 0]
        assert len(set(live.tolist())) == len(live) == store.live_rows
        assert (store.arrays.keys[live, 0].view(np.int64) == np.arange(-50, 51)[found > 0]).all()
        # 39 rows for at most 20 distinct ids a batch: nobody in the batch is turned away or evicted.
        assert (rows > 0).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=40))
def test_distinct_keys_are_listed_as_they_first_occur(pairs):
    keys = np.array(pairs, np.uint64).reshape(-1, 2)
    counted = Counter(pairs)  # in the order of first occurrence
    for tally in (index.tally, index.tally.function):
        first, times = np.empty((2, len(keys)), np.int64)
        n = tally(keys, np.zeros(1 << len(keys).bit_length(), np.int64), first, times)
        assert [pairs[at] for at in first[:n]] == list(counted)
        assert first[:n].tolist() == [pairs.index(pair) for pair in counted]
        assert times[:n].tolist() == list(counted.values())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 50), st.lists(st.integers(0, 6), max_size=12)), max_size=8),
    st.integers(1, 5),
)
def test_touches_halve_with_each_half_life_and_late_events_do_not_age_them(batches, weight):
    for touch in (kernels.touch, kernels.touch.function):
        store = small(admit_after=1)
        rows = store.locate(np.arange(6), 0, 0.0)
        expected, seen = dict.fromkeys(rows.tolist(), 1.0), dict.fromkeys(rows.tolist(), 0.0)
        for now, picked in batches:
            met = np.array([0, *rows])[picked].astype(np.uint32)
            touch(store.arrays, met, now, 7.0, weight)
            for row in met[met > 0].tolist():
                expected[row] = expected[row] * 0.5 ** (max(0.0, now - seen[row]) / 7.0) + weight
                seen[row] = max(seen[row], now)
        assert store.arrays.touches[rows] == pytest.approx(list(expected.values()), rel=1e-5)
        assert store.arrays.seen[rows].tolist() == list(seen.values())
        assert store.arrays.touches[0] == 0.0


def test_an_id_is_admitted_at_its_second_sighting():
    store = small(admit_after=2)
    assert store.locate(["a", "b", "b"], 0, 1.0).tolist()[1:] == [1, 1]
    assert store.rows_of(["a"], 0)[0] == 0
    assert store.locate(["a"], 0, 2.0)[0] > 0


def test_eviction_takes_who_is_seen_least_and_never_a_row_in_use():
    store = small(admit_after=1)
    everybody = np.arange(store.layout.rows - 2)
    store.locate(np.repeat(everybody, 3)[3:], 0, 1.0)  # 0 has been seen least, and is in the next batch
    store.locate(everybody[1:], 0, 2.0)
    first = store.locate([0, 1_000], 0, 3.0)
    assert (first > 0).all()
    assert store.counts["evicted"] == 0  # there was one free row
    rows = store.locate([0, 2_000], 0, 4.0)
    assert (rows > 0).all()
    assert rows[0] == first[0]
    assert store.rows_of([1_000], 0)[0] == 0
    full = store.locate(np.arange(5_000, 5_100), 0, 5.0)
    assert (full > 0).sum() == store.layout.rows - 1
    assert store.counts["refused"] == 100 - (store.layout.rows - 1)


def test_touches_of_every_row_age_whether_it_is_met_or_not():
    store = EmbeddingStore(Layout.within(10_000, rows=50), admit_after=1, half_life=10.0)
    once, _ = store.locate(["then", "now"], 0, 0.0)
    for _ in range(3):
        store.locate(["then"], 0, 0.0)
    store.locate(["now"], 0, 40.0)
    assert store.aged_touches(40.0)[once] == 4 / 16
    assert store.arrays.touches[once] == 4
    assert store.aged_touches(40.0).argmax() == store.rows_of(["now"], 0)[0]


def test_what_comes_late_leaves_the_floor_and_a_reader_can_tell():
    store = small(ttl=10.0, floor=3)
    rows = store.locate(np.arange(8), 0, 1.0)
    generations = store.arrays.generation[rows].copy()
    assert store.is_current(rows, generations).all()
    assert store.expire(11.0) == 0
    assert store.expire(12.0) == 5
    assert store.live_rows == 3
    assert store.is_current(rows, generations).tolist() == [False] * 5 + [True] * 3
    again = store.locate(np.arange(100, 105), 0, 13.0)
    assert sorted(again.tolist()) == sorted(rows[:5].tolist())
    assert not store.is_current(rows[:5], generations[:5]).any()


@pytest.mark.parametrize("optimiser", ["adagrad", "adam"])
def test_a_recycled_row_remembers_nothing(optimiser):
    from headrace.streaming.learners.embedding.module import BlockEmbedding

    store = small(optimiser=optimiser)
    import torch

    row = store.locate([7], 0, 1.0)
    store.give(row)
    module = BlockEmbedding(store)
    (module(torch.tensor([int(row[0])])).sum() * 3).backward()
    assert module.step() == 1
    before = [array.copy() for array in store.arrays]
    assert store.arrays.square[row[0]] > 0
    assert store.forget(7, field=0)
    assert not store.forget(7, field=0)
    for name in ("fp32", "keys", "square", "touches", "gain", "seen", "door"):
        assert not getattr(store.arrays, name).any(), name
    other = store.locate([8], 0, 2.0)
    store.give(other)
    assert other[0] == row[0]
    assert store.arrays.square[other[0]] == 0
    blocks = np.flatnonzero(np.abs(store.arrays.fp32).sum(1))
    assert len(blocks) == 2
    if optimiser == "adam":
        assert before[store.arrays._fields.index("first")].any()
        assert not store.arrays.first[blocks].any()
        assert not store.arrays.second[blocks].any()


@pytest.mark.parametrize(
    "steps", [0, 1, 100, moments.CORRECTED - 2, moments.CORRECTED, 2 * moments.CORRECTED]
)
def test_adams_corrections_are_those_of_its_formula_where_they_are_looked_up_and_beyond(steps):
    store = small(optimiser="adam")
    row = int(store.locate([7], 0, 1.0)[0])
    store.arrays.square[row] = steps
    betas = (0.9, 0.9999)  # still a correction beyond the table
    rates = np.array([0.01, *betas])
    for t in (steps + 1, steps + 2):
        rate = moments.adam_rate(store.arrays.square, row, rates, moments.corrections(betas))
        assert store.arrays.square[row] == t
        assert rate == pytest.approx(0.01 * np.sqrt(1 - 0.9999**t) / (1 - 0.9**t), rel=1e-12)


@pytest.mark.parametrize(("code", "within"), [("fp32", 0.0), ("bf16", 2**-7), ("int8", 1 / 127)])
def test_codes_round_to_a_neighbour_and_to_the_value_on_average(code, within):
    store = small(code)
    rows = np.unique(store.locate(np.arange(10), 0, 1.0))
    store.give(rows)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 16)).astype(np.float32)
    reads = []
    for _ in range(400):
        store.scatter(rows, values)
        reads.append(store.gather(rows))
    largest = np.abs(values).reshape(10, 2, 8).max(2).repeat(8, axis=1)
    assert (np.abs(reads[0] - values) <= within * largest + 1e-12).all()
    # The mean of 400 draws, each off by less than a step: four standard errors of a fair coin.
    assert (
        np.abs(np.mean(reads, 0, dtype=np.float64) - values) <= within * largest * 4 * 0.5 / 20 + 1e-6
    ).all()
    assert (reads[0] == reads[1]).all() == (code == "fp32")


def test_blocks_given_and_taken_many_at_once_are_those_of_one_at_a_time():
    many, single = (EmbeddingStore(Layout(40, 90, 4), admit_after=1) for _ in range(2))
    fresh = np.random.default_rng(0).normal(size=(39, 8)).astype(np.float32)
    for store in (many, single):
        rows = store.locate(np.arange(39), 0, 1.0)

    def one_at_a_time(chosen) -> int:
        return sum(single.give(chosen[at : at + 1], fresh[at : at + 1]) for at in range(len(chosen)))

    def same() -> None:
        single.arrays.free[4] = many.arrays.free[4]  # scatters and gifts so far
        for ours, theirs in zip(many.arrays, single.arrays, strict=True):
            assert ours.tobytes() == theirs.tobytes()

    for chosen, n_given in ((rows[::2], 20), (rows[::3], 13), (rows[::2], 18), (rows, 0)):
        assert many.give(chosen, fresh[: len(chosen)]) == one_at_a_time(chosen) == n_given
        same()
    assert many.take_back(rows[:10]) == sum(single.take_back(rows[at : at + 1]) for at in range(10)) == 7
    same()
    with pytest.raises(ValueError, match=r"expected 8 weights for each of 39 rows, came \(38, 8\)"):
        many.give(rows, fresh[:38])


@pytest.mark.parametrize(
    ("n_blocks", "held"), [(200, [3] * 39), (90, [3] * 25 + [2] + [1] * 13), (40, [2] + [1] * 38)]
)
def test_a_new_row_has_its_first_blocks_where_none_lacks_one_for_it(n_blocks, held):
    store = EmbeddingStore(Layout(40, n_blocks, 4), admit_after=1, first_blocks=3)
    rows = store.locate(np.arange(39), 0, 1.0)
    assert store.arrays.blocks[rows].tolist() == held
    sound(store, store.layout.nbytes)
    weights = store.gather(rows, 4).reshape(39, 4, 8)
    assert (weights != 0).any(2).sum(1).tolist() == held
    store.forget(7, 0)
    again = store.locate([1_000], 0, 2.0)
    assert store.arrays.blocks[again[0]] == held[7]  # there is room, or the blocks of who is forgotten
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=f"expected first_blocks from 1 to 4, came {wrong}"):
            EmbeddingStore(store.layout, first_blocks=wrong)


@pytest.mark.parametrize("code", CODES)
def test_exports_say_what_the_table_says(code):
    store = small(code)
    rows = np.unique(store.locate(np.arange(20), 0, 1.0))
    store.give(rows[::2])
    dense = store.gather(rows, store.layout.max_blocks)
    packed = pack(store, rows)
    assert packed.nbytes == packed.rows.nbytes + 4 * 8 * int(store.arrays.blocks[rows].sum())
    import torch

    queries = torch.randn(3, dense.shape[1], generator=torch.Generator().manual_seed(0))
    place = {int(row): at for at, row in enumerate(rows)}
    expected = (queries.numpy() @ dense.T)[:, [place[int(row)] for row in packed.rows]]
    np.testing.assert_allclose(packed.score(queries).numpy(), expected, atol=1e-6)
    indptr, indices, data = to_csr(store, rows)
    sparse = np.zeros_like(dense)
    for at in range(len(rows)):
        sparse[at, indices[indptr[at] : indptr[at + 1]]] = data[indptr[at] : indptr[at + 1]]
    assert (sparse == dense).all()
    whole, scale = to_int8(store, rows)
    assert (np.abs(whole * scale[:, None] - dense[:, : whole.shape[1]]) <= scale[:, None] / 2 + 1e-7).all()
    assert pack(store, rows[:0]).score(queries).shape == (3, 0)


@pytest.mark.parametrize("budget", [0, 500, 5_000])
def test_a_budget_too_small_for_its_rows_names_what_would_do(budget):
    with pytest.raises(
        BudgetTooSmall, match=r"expected at least \d+ bytes for 100 rows of one fp32 block"
    ) as found:
        Layout.within(budget, rows=100)
    least = int(str(found.value).split()[3])
    assert Layout.within(least, rows=100).nbytes == least


@given(
    st.integers(3_000, 300_000),
    st.sampled_from(list(CODES)),
    st.sampled_from(["adagrad", "adam"]),
    st.booleans(),
)
def test_a_layout_uses_its_budget_and_no_more(budget, code, optimiser, counted):
    layout = Layout.within(budget, code=code, optimiser=optimiser, counted=counted)
    assert 0.9 * budget < layout.nbytes <= budget
    each = {"adam": 2}.get(optimiser, 5 if code == "fp32" else 8)
    assert layout.rows == 2 or each * layout.rows <= layout.n_blocks < (each + 1) * layout.rows
    assert Layout.within(budget, layout.rows, code=code, optimiser=optimiser, counted=counted) == layout
    whole = {name: (dtype, shape) for name, (dtype, shape) in layout.arrays().items()}
    assert layout.nbytes == sum(np.zeros(shape, dtype).nbytes for dtype, shape in whole.values())


def test_pairs_seen_are_remembered_in_their_bytes():
    seen = SeenPairs(4_000)
    assert 2_000 < seen.nbytes <= 4_000
    generations = np.zeros(200, np.uint32)
    left, right = np.arange(1, 101, dtype=np.uint32), np.arange(1, 101, dtype=np.uint32)[::-1].copy()
    seen.add(left, right, generations)
    met = seen.met(left, right, generations)
    assert np.diag(met).mean() > 0.99
    assert met.sum() == np.diag(met).sum()
    generations[5] += 1
    assert not seen.met(left[4:5], right, generations).any()
    assert not SeenPairs(0).met(left, right, generations).any()


def test_pairs_of_a_row_are_forgotten_with_rows_that_others_had_since_too():
    seen, generations = SeenPairs(4_000), np.zeros(60, np.uint32)
    everybody = np.arange(1, 60, dtype=np.uint32)
    for row in (7, 8):
        seen.add(np.full(59, row, np.uint32), everybody, generations)
    seen.add(everybody, np.full(59, 7, np.uint32), generations)
    before, own = seen.met(everybody, everybody, generations), np.array([7], np.uint32)
    assert before[6].all()
    assert before[:, 6].all()
    generations[30:] += 2
    newer = generations.copy()
    seen.add(own, np.array([40], np.uint32), generations)
    seen.forget(7, generations)
    for at in (np.zeros_like(generations), newer):
        assert not seen.met(own, everybody, at).any()
        assert not seen.met(everybody, own, at).any()
    left = before.copy()
    left[6], left[:, 6] = False, False
    np.testing.assert_array_equal(seen.met(everybody, everybody, np.zeros(60, np.uint32)), left)
    SeenPairs(0).forget(7, generations)


@pytest.mark.parametrize("name", ["chain", "head", "table", "blocks", "free", "keys"])
def test_links_that_lead_astray_are_refused(name):
    store = small()
    store.locate(np.arange(20), 0, 1.0)
    rng = np.random.default_rng(1)
    arrays = {key: array.copy() for key, array in store.arrays._asdict().items()}
    flat = arrays[name].reshape(-1)
    flat[:] = rng.permutation(flat) if name != "free" else flat + 7
    with pytest.raises(BadCheckpoint):
        store.restore(arrays)
