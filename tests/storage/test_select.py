"""Which cascade a shape of data picks, that the pick is never a loss, and what profiles change."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace.storage.encodings import BY_ID, DTYPES, UnsupportedArray
from headrace.storage.select import PROFILES, Plan, choose, encode, explain, sample

from .streams import describe

Array = NDArray[Any]

RNG = np.random.default_rng(20)
N = 65_536
BALANCED, SIZE, TRAIN, COMPLIANCE = (PROFILES[name] for name in ("balanced", "size", "train", "compliance"))


def outliers() -> Array:
    values = RNG.integers(0, 200, N)
    values[RNG.integers(0, N, 300)] = 2**40
    return values


def sparse(dtype: str) -> Array:
    values = np.zeros(N, dtype)
    values[RNG.integers(0, N, N // 10)] = RNG.random(N // 10)
    return values


PICKS: dict[str, tuple[Array, str]] = {
    "nothing": (np.empty(0), "plain"),
    "one byte": (np.array([7], np.uint8), "plain"),
    "a default": (np.full(N, -1), "constant"),
    "a missing float": (np.full(N, np.nan), "constant"),
    "hashes": (RNG.integers(0, 2**63, N, dtype=np.uint64), "plain"),
    "hashes of 32 bits": (RNG.integers(0, 2**32, N, dtype=np.uint32), "plain"),
    "dense small ids": (RNG.integers(0, 512, N), "bitpack"),
    "row numbers": (np.arange(N), "delta"),
    "small numbers and some huge": (outliers(), "pfor"),
    "clicks": (RNG.random(N) < 0.3, "bitmap"),
    "rare clicks": (RNG.random(N) < 0.001, "sparse_bool"),
    "sessions": (np.repeat(RNG.integers(0, 2**40, N // 32), 32), "rle"),
    "sorted keys": (np.sort(RNG.integers(0, 60, N)), "rle"),
    "a flag that flips once": (np.arange(N) > 5000, "sparse_bool"),
    "prices": (np.round(RNG.lognormal(1, 1, N), 2), "alp"),
    "ratings": (RNG.integers(1, 11, N).astype(np.float32) / 2, "alp"),
    "embeddings": (RNG.normal(size=N).astype(np.float32), "byte_split"),
    "mostly zero": (sparse("f4"), "mainly_constant"),
}


def written(values: Array, plan: Plan) -> Array:
    number, payload = encode(plan, values)
    out = np.empty(len(values), values.dtype)
    BY_ID[number].decode(np.frombuffer(payload, np.uint8), out)
    return out


@pytest.mark.parametrize("shape", PICKS)
def test_shape_picks(shape: str) -> None:
    values, expected = PICKS[shape]
    plan = choose(values, BALANCED)
    assert plan.encoding.name == expected, [str(one) for one in explain(values, BALANCED)[:3]]
    assert written(values, plan).tobytes() == values.tobytes()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("shape", PICKS)
def test_every_profile_gives_the_values_back(shape: str, profile: str) -> None:
    values, _ = PICKS[shape]
    plan = choose(values, PROFILES[profile], in_place=PROFILES[profile].in_place)
    assert written(values, plan).tobytes() == values.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_never_larger_than_plain(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    raw = data.draw(hnp.arrays(f"u{dtype.itemsize}", st.integers(0, 3000)))
    values = raw % 2 == 1 if dtype.kind == "b" else raw.view(dtype)
    values = np.repeat(values, data.draw(st.integers(1, 5)))
    profile = PROFILES[data.draw(st.sampled_from(sorted(PROFILES)))]
    plan = choose(values, profile)
    assert len(encode(plan, values)[1]) <= values.nbytes * 1.01
    assert written(values, plan).tobytes() == values.tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_not_tried_would_not_have_been_chosen(data: st.DataObject) -> None:
    """Of values of which a sample is all, the choice is that among everything that can write them."""
    dtype = data.draw(st.sampled_from(DTYPES))
    width = data.draw(st.integers(1, 8 * dtype.itemsize))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    raw = rng.integers(0, 2**width, data.draw(st.integers(1, 2048)), dtype=np.uint64)
    shape = data.draw(st.sampled_from(["any", "sorted", "runs", "rare", "decimals"]))
    if shape == "sorted":
        raw.sort()
    elif shape == "runs":
        raw = np.repeat(raw, 9)[: len(raw)]
    elif shape == "rare":
        raw[rng.random(len(raw)) < 0.9] = 7
    narrow = raw.astype(f"u{dtype.itemsize}")
    values = narrow % 2 == 1 if dtype.kind == "b" else narrow.view(dtype)
    if shape == "decimals" and dtype.kind == "f" and dtype.itemsize > 2:
        values = (raw % 10_000 / 100).astype(dtype)
    profile = PROFILES[data.draw(st.sampled_from(sorted(PROFILES)))]
    plan = choose(values, profile, in_place=profile.in_place)
    for other in explain(values, profile, in_place=profile.in_place):
        assert (
            plan.cost(profile) <= other.predicted_bytes * profile.ns_per_byte + other.decode_us * 1000 + 1e-6
        )


def test_a_plan_made_elsewhere_still_writes_anything() -> None:
    """A chunk's plan is kept for the next one, whose values may be of quite another kind."""
    plans = [choose(values, SIZE) for values, _ in PICKS.values() if values.dtype == np.int64]
    for values, _ in PICKS.values():
        if values.dtype == np.int64:
            for plan in plans:
                assert len(encode(plan, values)[1]) <= values.nbytes * 1.01
                assert written(values, plan).tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", PICKS)
def test_explain_shows_the_choice(shape: str) -> None:
    values, _ = PICKS[shape]
    rows = explain(values, BALANCED)
    if not len(values):
        return
    plan = choose(values, BALANCED)
    assert [row.chosen for row in rows] == [True] + [False] * (len(rows) - 1)
    assert (rows[0].plan, rows[0].predicted_bytes) == (str(plan), plan.predicted_bytes)
    number, payload = encode(plan, values)
    shown = describe(number, np.frombuffer(payload, np.uint8), len(values), values.dtype)
    assert shown.startswith(str(plan).rstrip(")"))
    # Where there is no closed form a small sample is written for trial, headers and all.
    assert len(payload) == pytest.approx(plan.predicted_bytes, rel=0.2, abs=values.nbytes // 100)


def test_bytes_are_worth_more_in_a_smaller_profile() -> None:
    for values, _ in PICKS.values():
        sizes = [len(encode(choose(values, profile), values)[1]) for profile in (SIZE, BALANCED, TRAIN)]
        assert sizes[0] <= sizes[1] * 1.02 <= sizes[2] * 1.05


def test_a_compressor_is_last_and_only_where_bytes_are_dear() -> None:
    skewed = (RNG.pareto(1.2, N) * 40).astype(np.int64)
    assert "zstd" in str(choose(skewed, SIZE))
    assert "zstd" not in str(choose(skewed, TRAIN))
    text = np.frombuffer(b"".join(b"model-%04d/os %d" % (i % 977, i % 13) for i in range(9000)), np.uint8)
    assert choose(text, TRAIN, kind="text").encoding.name == "plain"
    assert choose(text, SIZE, kind="text").encoding.name in ("fsst", "zstd")


def erasable(plan: Plan) -> bool:
    return plan.encoding.in_place and all(map(erasable, plan.children))


@pytest.mark.parametrize("shape", PICKS)
def test_in_place_gives_only_what_can_be_erased_in_place(shape: str) -> None:
    values, _ = PICKS[shape]
    assert erasable(choose(values, COMPLIANCE, in_place=True))


def test_nothing_is_larger_than_plain_and_a_hundredth_even_where_the_caller_insists() -> None:
    noise = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, N)
    for name in ("varint", "rle", "delta", "mainly_constant"):
        plan = choose(noise, BALANCED, only=name)
        number, payload = encode(plan, noise)
        assert len(payload) <= noise.nbytes * 1.01, name
        if name == "varint":
            assert (plan.encoding.name, BY_ID[number].name) == ("varint", "plain")


def test_what_no_sample_saw_costs_no_more_than_itself() -> None:
    """Steps are equal but for one, which is in none of the blocks that were looked at: as where two series were joined."""
    values = np.arange(N, dtype=np.int64) * 7919
    for at in range(5_000, N, 11_000):
        broken = values.copy()
        broken[at:] -= 1_000_000_007
        plan = choose(broken, BALANCED)
        number, payload = encode(plan, broken)
        assert BY_ID[number].name == "delta"
        assert len(payload) < N // 4, "steps that are bit-packed take thirty bits each"
        assert written(broken, plan).tobytes() == broken.tobytes()


def test_the_caller_may_insist() -> None:
    values = RNG.integers(0, 500, N)
    assert choose(values, BALANCED, only="varint").encoding.name == "varint"
    assert choose(values, BALANCED, only="alp").encoding.name != "alp", "integers cannot be written so"


def test_equal_values_choose_equally_and_another_sample_hardly_differs() -> None:
    for values, _ in PICKS.values():
        spread = np.zeros(2 * len(values), values.dtype)[::2]
        spread[:] = values
        assert str(choose(values, SIZE)) == str(choose(values.copy(), SIZE)) == str(choose(spread, SIZE))
        sizes = [len(encode(choose(values, SIZE, seed=seed), values)[1]) for seed in range(3)]
        assert max(sizes) <= min(sizes) * 1.1 + 64


def test_a_sample_is_runs_of_neighbours_from_everywhere() -> None:
    few = sample(np.arange(N), seed=3)
    starts = few[::64]
    assert len(few) == 16 * 64
    assert (np.diff(few.reshape(16, 64), axis=1) == 1).all()
    assert (starts // (N // 16) == np.arange(16)).all()


def test_what_is_no_stream_has_no_choice() -> None:
    with pytest.raises(UnsupportedArray, match="flatten lists"):
        choose(np.zeros((2, 2)), BALANCED)
