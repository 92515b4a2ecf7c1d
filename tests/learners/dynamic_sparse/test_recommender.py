"""The recommender: learns what is wanted, stays inside its bytes, and goes on after a restart as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from river import checks

from headrace.streaming.learners.dynamic_sparse import state
from headrace.streaming.learners.dynamic_sparse.explore import Explorer
from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
from headrace.streaming.learners.dynamic_sparse.schedule import Schedule
from headrace.streaming.learners.dynamic_sparse.serving import Recommender
from headrace.streaming.learners.errors import BadCheckpoint, BudgetTooSmall, Diverged, WrongFeatures

GOLDEN = Path(__file__).parent / "golden"
BUDGET = 60_000
BUSY = Schedule(every=150, horizon=10)


def made(**options) -> DSLRecommender:
    return DSLRecommender(
        **{"budget_bytes": BUDGET, "rows": 200, "admit_after": 1, "schedule": BUSY, "seed": 3} | options
    )


def taste(n: int, seed: int = 0, users: int = 60, items: int = 40, texts: bool = False) -> pa.RecordBatch:
    """Users want items of their own parity, low numbers more often."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n)
    item = (rng.zipf(1.5, n) % (items // 2)) * 2 + user % 2
    column = pa.array([f"item {i}" for i in item]) if texts else pa.array(item)
    return pa.record_batch({"user_id": user, "item_id": column})


@pytest.mark.parametrize("code", ["fp32", "bf16", "int8"])
def test_it_learns_what_is_wanted_inside_its_bytes(code):
    model = made(code=code, lr=0.1, reg=0.005, first_blocks=1)
    for seed in range(30):
        model.learn_arrow(taste(300, seed))
        assert model.nbytes <= BUDGET
    assert model.explorer.moved > 50
    assert model.store.live_blocks > model.store.live_rows
    said = model.recommend_many(range(60), k=5, exclude_seen=False)
    assert np.mean([item % 2 == user % 2 for user, items in enumerate(said) for item in items]) > 0.95
    pairs = pd.DataFrame({"user_id": [2, 2], "item_id": [2, 3]}, index=[7, 9])
    p = model.predict_proba_many(pairs)
    assert p.index.tolist() == [7, 9]
    assert p[True].iloc[0] > 0.5 > p[True].iloc[1]
    np.testing.assert_allclose(p[True] + p[False], 1.0)
    assert model.predict_proba_one({"user_id": 2, "item_id": 2}) == {
        False: p[False].iloc[0],
        True: p[True].iloc[0],
    }


def test_a_new_row_has_as_many_blocks_as_it_is_to_have_at_first():
    batch = taste(400)
    for first in (1, 3):
        model = made(rows=120, first_blocks=first, schedule=None)
        model.learn_arrow(batch)
        assert set(model.store.arrays.blocks[model.store.arrays.blocks > 0]) == {first}
        again = DSLRecommender.from_bytes(model.to_bytes())
        again.learn_one({"user_id": 1_000, "item_id": 2})
        assert again.store.arrays.blocks[again.store.rows_of([1_000], 0)[0]] == first


def test_what_was_wanted_before_is_left_out_on_request():
    model = made(seen_bytes=16_000)
    batch = taste(400)
    model.learn_arrow(batch)
    had = set(zip(batch["user_id"].to_pylist(), batch["item_id"].to_pylist(), strict=True))
    said = model.recommend_many(range(60), k=40)
    assert not {(user, item) for user, items in enumerate(said) for item in items} & had
    everything = model.recommend_many(range(60), k=40, exclude_seen=False)
    assert all(len(items) == len({i for _, i in had}) for items in everything)


def test_unknown_users_get_what_is_popular_and_unknown_items_a_half():
    model = made()
    assert model.recommend_many([1, None], k=3) == [[], []]
    model.learn_arrow(taste(400))
    counts = pd.Series(taste(400)["item_id"].to_pylist()).value_counts()
    for nobody in ("stranger", None, float("nan"), 10**30):
        said = model.recommend_many([nobody], k=2)[0]
        assert [counts[item] for item in said] == counts.iloc[:2].tolist()
    assert model.predict_proba_one({"user_id": 1, "item_id": "none such"})[True] == 0.5
    assert model.predict_proba_one({})[True] == 0.5
    with pytest.raises(ValueError, match="expected k of at least 1, came 0"):
        model.recommend_many([1], k=0)


def test_unknown_users_get_what_is_popular_now_and_not_what_once_was():
    model = made(half_life=50.0)
    for item, n in (("once", 200), ("now", 60)):
        for at in range(n):
            model.learn_one({"user_id": at % 20, "item_id": item})
    touches, items = model.store.arrays.touches, model.store.rows_in(1)
    assert touches[items].argmax() == 0, "the count of what is met no more stands where it stood"
    for asked in (model, Recommender(model.to_bytes())):
        assert asked.recommend_many(["a stranger"]) == [["now", "once"]]


def test_bad_events_are_counted_and_teach_nothing():
    model = made(time="at")
    model.learn_arrow(taste(200).append_column("at", pa.array(np.arange(200.0))))
    before = model.to_bytes()
    for bad in (
        {},
        {"user_id": 1},
        {"user_id": None, "item_id": 2, "at": 1},
        {"user_id": 1, "item_id": [2], "at": 1},
    ):
        model.learn_one(bad, True)
    model.learn_one({"user_id": 1, "item_id": 2, "at": float("nan")}, True)
    model.learn_one({"user_id": 1, "item_id": 2, "at": 1.0}, float("nan"))
    assert model.n_refused == 6
    model.n_refused = 0
    assert model.to_bytes() == before
    model.learn_arrow(taste(0).append_column("at", pa.array([], pa.float64())))
    model.learn_many(pd.DataFrame({"user_id": [], "item_id": [], "at": []}), pd.Series([], dtype=bool))
    assert model.to_bytes() == before
    with pytest.raises(WrongFeatures, match="expected the columns user_id, item_id, at; at is not there"):
        model.learn_arrow(taste(3))
    with pytest.raises(WrongFeatures, match="item_id is not there"):
        model.predict_proba_many(pd.DataFrame({"user_id": [1]}))


NO_TIMES = [1.0, None, float("inf"), float("nan"), 5.0, 6.0, 7.0]
NO_LABELS = [True, True, True, True, None, True, False]


def test_a_time_or_a_label_that_is_no_number_costs_its_row_and_nothing_else():
    ids = {"user_id": range(7), "item_id": range(10, 17)}
    rows = pa.record_batch(ids | {"at": pa.array(NO_TIMES, pa.float64()), "y": NO_LABELS})
    model, clean = made(time="at"), made(time="at")
    model.learn_arrow(rows, label="y")
    clean.learn_arrow(rows.take(pa.array([0, 5, 6])), label="y")
    assert (model.n_refused, model.n_learned, model.now) == (4, 3, 7.0)
    frame = made(time="at")
    frame.learn_many(rows.to_pandas(), pd.Series(NO_LABELS, dtype=object))
    for one in (model, frame):
        assert one.n_refused == 4
        one.n_refused = 0
        assert one.to_bytes() == clean.to_bytes()


def test_labels_are_numbers_and_say_yes_above_0():
    ids = {"user_id": [1, 2, 3, 4], "item_id": [5, 6, 7, 8]}
    whole = made()
    whole.learn_arrow(pa.record_batch(ids | {"y": [True, False, False, True]}), label="y")
    for labels in ([1, 0, -1, 300], [0.5, 0.0, -0.5, 1.0]):
        model, frame = made(), made()
        model.learn_arrow(pa.record_batch(ids | {"y": labels}), label="y")
        frame.learn_many(pd.DataFrame(ids), pd.Series(labels))
        assert model.to_bytes() == frame.to_bytes() == whole.to_bytes()
    with pytest.raises(WrongFeatures, match="expected numbers in column 'y', came string"):
        made().learn_arrow(pa.record_batch(ids | {"y": ["a", "b", "c", "d"]}), label="y")
    texts = made()
    texts.learn_many(pd.DataFrame(ids), pd.Series(["a", "b", "c", "d"]))
    assert (texts.n_refused, texts.n_learned) == (4, 0)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_unit_are_seconds_in_frames_too(unit):
    when = pd.Timestamp("2024-05-01T10:00:00Z")
    at = pa.array([when, when + pd.Timedelta(1500, "ms")], pa.timestamp("ns", "UTC")).cast(
        pa.timestamp(unit, "UTC"), safe=False
    )
    rows = pa.record_batch({"user_id": [1, 2], "item_id": [3, 4], "at": at})
    model, frame = made(time="at"), made(time="at")
    model.learn_arrow(rows)
    frame.learn_many(rows.to_pandas())
    assert model.now == when.timestamp() + (1 if unit == "s" else 1.5)
    assert frame.to_bytes() == model.to_bytes()
    naive = made(time="at")
    naive.learn_one({"user_id": 1, "item_id": 3, "at": when.to_pydatetime().replace(tzinfo=None)})
    naive.learn_one({"user_id": 1, "item_id": 3, "at": pd.NaT})
    assert (naive.now, naive.n_refused) == (when.timestamp(), 1)


def test_a_bad_row_does_not_cost_its_batch():
    model, clean = made(), made()
    rows = {"user_id": [1, None, 2, 3], "item_id": [4, 5, None, 6]}
    model.learn_arrow(pa.record_batch(rows))
    clean.learn_arrow(pa.record_batch({"user_id": [1, 3], "item_id": [4, 6]}))
    assert model.n_refused == 2
    model.n_refused = 0
    assert model.to_bytes() == clean.to_bytes()
    frame = made()
    frame.learn_many(pd.DataFrame(rows))
    assert frame.n_refused == 2
    frame.n_refused = 0
    assert frame.to_bytes() == clean.to_bytes()


def test_one_by_one_learns_like_a_frame_and_like_arrow():
    batch = taste(120)
    frame = batch.to_pandas()
    ways = [made(schedule=None) for _ in range(3)]
    for model in ways:  # rows and pairs are there before, since a batch admits its ids at its beginning
        model.learn_arrow(batch)
    ways[0].learn_arrow(batch)
    ways[1].learn_many(frame, pd.Series(True, index=frame.index))
    for row in frame.to_dict("records"):
        ways[2].learn_one(row, True)
    assert ways[0].to_bytes() == ways[1].to_bytes()
    np.testing.assert_array_equal(ways[0].store.arrays.fp32, ways[2].store.arrays.fp32)


def test_what_was_shown_and_not_wanted_is_pushed_down():
    model = made(reg=0.0)
    both = {"user_id": [1] * 30 + [1] * 30, "item_id": [4] * 30 + [5] * 30, "click": [1] * 30 + [0] * 30}
    model.learn_arrow(pa.record_batch(both), label="click")
    assert model.recommend_many([1], k=1, exclude_seen=False) == [[4]]
    assert model.predict_proba_one({"user_id": 1, "item_id": 5})[True] < 0.4


def test_negatives_may_come_from_elsewhere():
    model = made(reg=0.0)
    for _ in range(30):
        model.learn_arrow(
            pa.record_batch(
                {
                    "user_id": [1, 2],
                    "item_id": [4, 5],
                    "others": pa.array([[5, 6], [4]], pa.list_(pa.int64())),
                }
            ),
            negatives="others",
        )
    assert model.recommend_many([1, 2], k=1, exclude_seen=False) == [[4], [5]]
    with pytest.raises(WrongFeatures, match="expected a column 'none'"):
        model.learn_arrow(taste(3), negatives="none")


def test_a_step_too_large_is_not_taken():
    model = made()
    model.learn_arrow(taste(50))
    before = model.store.gather(np.arange(1, 8, dtype=np.uint32), 8)
    model.lr = 1e30
    with pytest.raises(Diverged, match="lower lr"):
        model.learn_arrow(taste(50))
    assert (model.store.gather(np.arange(1, 8, dtype=np.uint32), 8) == before).all()
    assert np.isfinite(model.store.arrays.square).all()
    assert model.n_learned == 50


def test_river_agrees():
    for check in (checks.common.check_repr, checks.common.check_str, checks.common.check_tags):
        check(made())
    model = made()
    model.learn_arrow(taste(50))
    fresh = model.clone()
    assert fresh._get_params() == model._get_params()
    assert fresh.n_learned == 0


def test_forgetting_leaves_no_name_and_no_row():
    model = made(name_bytes=9_000)
    model.learn_arrow(taste(300, texts=True))
    assert b"item 2" in model.to_bytes()
    assert model.forget(user=3, item="item 2")
    assert not model.forget(user=3, item="item 2")
    kept = model.to_bytes()
    assert b"item 2\x00" not in kept
    assert "item 2" not in {i for items in model.recommend_many(range(60), 40, False) for i in items}
    model.learn_arrow(taste(300, 1, texts=True))
    assert "item 2" in {i for items in model.recommend_many(range(60), 40, False) for i in items}


def test_forgetting_a_user_forgets_whom_it_has_met():
    model, rows = made(seen_bytes=8_192), taste(300)
    model.learn_arrow(rows)
    pairs = set(zip(*(rows.column(name).to_pylist() for name in ("user_id", "item_id")), strict=True))
    marks = np.count_nonzero(model._seen.table)
    assert marks == len(pairs)
    model.forget(user=3)
    assert np.count_nonzero(model._seen.table) == marks - sum(user == 3 for user, _ in pairs)
    for user in range(60):
        model.forget(user=user)
    assert not model._seen.table.any()


def test_items_whose_names_do_not_fit_have_no_row():
    model = made(name_bytes=0)
    model.learn_arrow(taste(300, texts=True))
    assert model.n_unnamed > 0
    assert model.recommend_many([1], 5) == [[]]


@pytest.mark.parametrize("code", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(
    "options", [{}, {"name_bytes": 0, "seen_bytes": 0}, {"name_bytes": 0}, {"rows": None}]
)
def test_no_budget_is_exceeded_by_a_byte(code, options):
    for budget in range(40_000, 40_070, 7):
        assert made(budget_bytes=budget, code=code, **options).nbytes <= budget


def test_items_come_and_go_and_names_with_them():
    model = made(rows=60, half_life=200.0, name_bytes=6_000)
    for seed in range(20):
        batch = taste(60, seed, users=20, texts=True)
        texts = pa.array([f"{name.as_py()} of {seed}" for name in batch["item_id"]])
        model.learn_arrow(pa.record_batch({"user_id": batch["user_id"], "item_id": texts}))
    said = model.recommend_many(range(20), k=60, exclude_seen=False)
    assert model.store.counts["evicted"] > 100
    assert all(isinstance(item, str) for items in said for item in items)
    assert any(item.endswith("of 19") for item in said[0])


def test_items_met_a_little_more_often_do_not_take_the_rows_of_users():
    model = made(rows=41, admit_after=1, negatives=1)
    quiet = pd.DataFrame({"user_id": range(20), "item_id": [user % 5 for user in range(20)]})
    model.learn_many(pd.concat([quiet, quiet]))
    for wave in range(6):
        items = np.repeat(np.arange(10, 20), 2 + wave) + 10 * wave
        model.learn_many(pd.DataFrame({"user_id": 20, "item_id": items}))
    assert model.store.counts["evicted"] > 20
    assert model.store.rows_of(range(21), state.USER).all()


@pytest.mark.parametrize(
    ("budget", "options"), [(100, {}), (5_000, {"rows": 1_000}), (-5, {}), (4_000, {"seen_bytes": 4_096})]
)
def test_a_budget_too_small_is_refused_in_one_sentence(budget, options):
    with pytest.raises(BudgetTooSmall, match=r"expected (at least|more than) \d+ bytes .*; grant more"):
        DSLRecommender(budget_bytes=budget, **options)


def test_blocks_move_to_whom_they_pay_and_an_alarm_moves_more():
    explorer = Explorer(Schedule(every=10, start=0.4, least=0.01, horizon=5, look=10))
    shares = []
    for _ in range(7):
        shares.append(explorer.share)
        explorer.turn += 1
    assert shares[0] == pytest.approx(0.4)
    assert shares[5] == shares[6] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(shares[:6]))
    rng = np.random.default_rng(0)
    assert not any(explorer.watch(0.5 + 0.05 * rng.normal(), 10) for _ in range(500))
    assert explorer.is_due()
    assert any(explorer.watch(0.9 + 0.05 * rng.normal(), 10) for _ in range(100))
    assert explorer.alarms == 1
    assert explorer.share == pytest.approx(0.2)


def test_growth_goes_to_rows_with_the_largest_pull_and_never_exceeds_the_budget():
    model = made(rows=50, budget_bytes=14_000, seen_bytes=0, name_bytes=0, max_blocks=4)
    store = model.store
    rows = store.locate(np.arange(49), 1, 1.0)
    explorer = Explorer(Schedule(every=1, start=0.5, least=0.5))
    for turn in range(12):
        store.arrays.gain[:] = 0.0
        favoured = rows[(np.arange(10) + turn) % 49]
        store.arrays.gain[favoured] = np.arange(10, 0, -1)
        before = store.arrays.blocks[favoured].copy()
        explorer.explore(store, 1.0)
        store.check()
        if before[0] < 4:
            assert store.arrays.blocks[favoured[0]] == before[0] + 1
    assert store.live_blocks <= store.layout.n_blocks
    assert (store.arrays.blocks[rows] >= 1).all()


# ---- keeping


@pytest.mark.parametrize("code", ["fp32", "int8"])
def test_a_restored_recommender_goes_on_as_the_kept_one_would(code):
    model = made(code=code, ttl=500.0, half_life=300.0, rows=70, filter_newcomers=code == "fp32")
    for seed in range(6):
        model.learn_arrow(taste(200, seed))
    kept = model.to_bytes()
    restored = DSLRecommender.from_bytes(kept)
    assert restored.to_bytes() == kept
    assert restored._get_params() == model._get_params()
    for each in (model, restored):
        for seed in range(6, 10):
            each.learn_arrow(taste(200, seed))
    assert restored.to_bytes() == model.to_bytes() != kept
    assert restored.recommend_many(range(9), 7) == model.recommend_many(range(9), 7)


@pytest.mark.parametrize("texts", [False, True])
def test_the_serving_loader_gives_the_same_answers(tmp_path, texts):
    model = made()
    for seed in range(6):
        model.learn_arrow(taste(200, seed, texts=texts))
    model.save(tmp_path / "model.safetensors")
    served = Recommender.load(tmp_path / "model.safetensors")
    users = [*range(20), "stranger", None]
    for exclude in (True, False):
        mine = model.recommend_many(users, 5, exclude)
        assert served.recommend_many(users, 5, exclude) == mine
    assert served.n_learned == model.n_learned
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_serving_loader_needs_torch_and_no_stream(tmp_path):
    model = made()
    model.learn_arrow(taste(100))
    model.save(tmp_path / "m")
    code = (
        "import sys; from headrace.streaming.learners.dynamic_sparse.serving import Recommender;"
        f"print(len(Recommender.load({str(tmp_path / 'm')!r}).recommend_many([1], 3)[0]));"
        "print(*sorted({'river', 'pandas', 'pyspark', 'kafka', 'pyarrow.dataset'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]


def test_damaged_and_foreign_checkpoints_are_refused_in_one_sentence():
    model = made()
    model.learn_arrow(taste(100))
    data = model.to_bytes()
    rng = np.random.default_rng(0)
    cuts = [data[:n] for n in (0, 3, 8, 60, len(data) // 2, len(data) - 1)] + [
        data + b"x",
        b"HRLC" + data,
        b"\xff" * 100,
    ]
    for at in rng.integers(0, len(data), 40).tolist():
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        cuts.append(bytes(changed))
    for bad in cuts:
        with pytest.raises(BadCheckpoint):
            DSLRecommender.from_bytes(bad)
    with pytest.raises(BadCheckpoint):
        Recommender(cuts[4])


def test_a_checkpoint_with_nan_weights_is_refused():
    model = made()
    model.learn_arrow(taste(100))
    model.store.arrays.fp32[3] = np.nan
    with pytest.raises(BadCheckpoint, match=r"store.fp32 holds NaN or infinite numbers"):
        DSLRecommender.from_bytes(model.to_bytes())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.safetensors")), ids=lambda path: path.stem)
def test_earlier_checkpoints_still_open(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    model = DSLRecommender.load(path)
    assert model.n_learned == expected["n_learned"]
    assert model.recommend_many(range(5), 4, exclude_seen=False) == expected["said"]
    assert model.to_bytes() == path.read_bytes() or int(path.stem.split("-")[0]) < state.FORMAT
    assert Recommender.load(path).recommend_many(range(5), 4, exclude_seen=False) == expected["said"]


def test_there_is_a_golden_checkpoint_of_this_format():
    assert list(GOLDEN.glob(f"{state.FORMAT}-*.safetensors"))


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recommender import DSLRecommender, begun, taste
path, batches, kills = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
random.seed(int(sys.argv[5]))

def go_on():
    model = DSLRecommender.load(path) if path.exists() else begun()
    for seed in range(model.n_learned // 100, batches):
        model.learn_arrow(taste(100, seed))
        model.save(path)

warm = begun()  # the kernels are compiled before anybody is killed
for seed in range(5):
    warm.learn_arrow(taste(100, seed))

def place():
    return DSLRecommender.load(path).n_learned // 100 if path.exists() else 0

places = set()
for target in sorted(random.sample(range(1, batches), kills)):
    child = os.fork()
    if not child:
        go_on()
        os._exit(0)
    patience = time.monotonic() + 60
    while place() < target:  # not by the clock: how far it gets in a time is the machine's
        assert time.monotonic() < patience
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.01))  # somewhere between two checkpoints, or in one
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    places.add(place())
go_on()
print(len(places))
"""


def begun() -> DSLRecommender:
    return made(rows=80, half_life=300.0, ttl=900.0, filter_newcomers=True)


def killed_and_continued(folder: Path, kills: int, batches: int, seed: int) -> tuple[bytes, int]:
    """The checkpoint after `batches` of a process that was killed so often on its way, and at how many places it stood then."""
    path = folder / "model.safetensors"
    arguments = [str(path), str(Path(__file__).parent), *map(str, (batches, kills, seed))]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path.read_bytes(), int(done.stdout)


def uninterrupted(batches: int) -> bytes:
    model = begun()
    for seed in range(batches):
        model.learn_arrow(taste(100, seed))
    return model.to_bytes()


def test_killed_at_any_point_it_ends_where_an_uninterrupted_run_does(tmp_path):
    ended, places = killed_and_continued(tmp_path, kills=5, batches=60, seed=0)
    assert ended == uninterrupted(60)
    assert places > 2
