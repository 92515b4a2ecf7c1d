"""Training batches: every row exactly once whoever reads, the same stream from the same seed, resumed anywhere."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from headrace import storage
from headrace.storage import ragged
from headrace.storage.epoch import Epoch, Stretch, handed_out, share
from headrace.storage.errors import NoSuchColumn, SchemaMismatch, UnsupportedType
from headrace.storage.torch import Batch, JaggedDataset

ROWS = 5_000
SMALL: dict[str, Any] = {"page_rows": 512, "window_pages": 3, "batch_rows": 100}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> storage.Table:
    """Two files; row i has id i, a list of i % 5 items that tell i, and two numbers side by side."""
    ids = np.arange(ROWS)
    lists = [[int(i) * 10 + k for k in range(i % 5)] for i in ids]
    rows = pa.table({"id": ids, "items": lists, "label": (ids % 2).astype(np.float32), "word": ["x"] * ROWS})
    made = storage.write(tmp_path_factory.mktemp("torch") / "t", rows.slice(0, 3_000), seed=1)
    made.append(rows.slice(3_000), seed=2)
    return made


def ids_of(batches: Sequence[Batch] | Iterator[Batch]) -> list[int]:
    return [i for batch in batches for i in tensor(batch["id"]).tolist()]


def tensor(found: Any) -> torch.Tensor:
    assert isinstance(found, torch.Tensor)
    return found


def lists_of(found: Any) -> list[list[int]]:
    assert isinstance(found, dict)
    values, offsets, sizes = found["values"], found["offsets"].tolist(), found["sizes"].tolist()
    return [values[at : at + size].tolist() for at, size in zip(offsets, sizes, strict=True)]


def same(left: Batch, right: Batch) -> bool:
    return ids_of([left]) == ids_of([right]) and lists_of(left["items"]) == lists_of(right["items"])


def dataset(table: storage.Table, **options: Any) -> JaggedDataset:
    return JaggedDataset(table, ["id", "items", "label"], **{**SMALL, **options})


def test_batches_hold_the_rows_they_name(table: storage.Table) -> None:
    for batch in dataset(table):
        ids = tensor(batch["id"])
        assert ids.dtype == torch.int64
        assert tensor(batch["label"]).dtype == torch.float32
        assert torch.equal(tensor(batch["label"]), (ids % 2).to(torch.float32))
        assert lists_of(batch["items"]) == [[i * 10 + k for k in range(i % 5)] for i in ids.tolist()]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_row_is_handed_out_once(table: storage.Table, shuffle: bool, world_size: int) -> None:
    shares = [
        list(dataset(table, shuffle=shuffle, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(i for batches in shares for i in ids_of(batches)) == list(range(ROWS))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    whole = list(dataset(table, shuffle=shuffle))
    assert [ids_of([b]) for batches in shares for b in batches] == [ids_of([b]) for b in whole]
    assert [len(ids_of([batch])) for batch in whole] == [100] * 50
    if not shuffle:
        assert ids_of(whole) == list(range(ROWS))


def test_dropping_the_last_gives_every_rank_as_many_full_batches(table: storage.Table) -> None:
    shares = [list(dataset(table, batch_rows=130, drop_last=True, rank=r, world_size=4)) for r in range(4)]
    assert [len(batches) for batches in shares] == [9] * 4
    assert {len(ids_of([batch])) for batches in shares for batch in batches} == {130}
    assert len(dataset(table, batch_rows=130, drop_last=True, rank=0, world_size=4)) == 9


def test_seed_and_epoch_decide_the_order(table: storage.Table) -> None:
    def order(epoch: int, seed: int = 0) -> list[int]:
        made = dataset(table, seed=seed)
        made.set_epoch(epoch)
        return ids_of(iter(made))

    assert order(0) == order(0)
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=1)), tuple(range(ROWS))}) == 4
    assert sorted(order(1)) == list(range(ROWS))
    pages = [i // 512 for i in order(0)[: 3 * 512]]
    assert len(set(pages)) <= 5, "the rows of a window come from few pages"
    assert len(set(pages[:50])) > 1, "and are mixed"


@pytest.mark.parametrize("after", [0, 1, 15, 16, 49, 50])
def test_a_loaded_state_goes_on_with_the_very_next_batch(table: storage.Table, after: int) -> None:
    first = dataset(table, seed=3)
    first.set_epoch(2)
    expected = list(first)
    batches = iter(first)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    second = dataset(table, seed=3)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert second.epoch == 2
    rest = list(second)
    assert len(rest) == 50 - after
    assert all(same(a, b) for a, b in zip(rest, expected[after:], strict=True))
    assert len(list(second)) == 50, "the iteration after that starts at the front"


def test_a_state_of_something_else_is_refused(table: storage.Table) -> None:
    state = dataset(table).state_dict()
    for other in (
        dataset(table, seed=1),
        dataset(table, batch_rows=50),
        dataset(table, rank=1, world_size=2),
        JaggedDataset(storage.open(table.path, version=1), ["id", "items", "label"], **SMALL),
    ):
        with pytest.raises(ValueError, match="start the epoch anew"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="workers"):
        dataset(table).loader(workers=2).load_state_dict(dataset(table).loader().state_dict())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_workers_share_the_batches_and_resume(table: storage.Table) -> None:
    whole = list(dataset(table, shuffle=True, seed=5))
    loader = dataset(table, seed=5).loader(workers=2)
    found, state = [], None
    for number, batch in enumerate(loader):
        found.append(ids_of([batch]))
        if number == 6:
            state = loader.state_dict()
    assert sorted(found) == sorted(ids_of([batch]) for batch in whole)
    assert state is not None
    again = dataset(table, seed=5).loader(workers=2)
    again.load_state_dict(state)
    assert [ids_of([batch]) for batch in again] == found[7:]
    assert again.state_dict()["given"] == len(again) == 50


def test_a_loader_without_workers_resumes_too(table: storage.Table) -> None:
    loader = dataset(table).loader()
    found = [ids_of([batch]) for batch in loader]
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    again = dataset(table).loader()
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert [ids_of([batch]) for batch in again] == found[1:]
    again.set_epoch(1)
    assert sorted(ids_of(iter(again))) == list(range(ROWS))
    with pytest.raises(ValueError, match="persistent_workers"):
        dataset(table).loader(workers=1, persistent_workers=True)


def test_a_worker_s_own_state_resumes_that_worker(
    table: storage.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Info:
        id, num_workers = 1, 2

    monkeypatch.setattr("headrace.storage.torch.get_worker_info", lambda: Info)
    first = dataset(table)
    expected = [ids_of([batch]) for batch in first]
    assert len(expected) == 25
    batches = iter(first)
    next(batches)
    second = dataset(table)
    second.load_state_dict(first.state_dict())
    assert [ids_of([batch]) for batch in second] == expected[1:]
    Info.id = 0
    second.load_state_dict(first.state_dict() | {"worker": 1})
    with pytest.raises(ValueError, match="worker"):
        next(iter(second))


def test_a_plain_data_loader_and_a_pickle_work(table: storage.Table) -> None:
    copy = pickle.loads(pickle.dumps(dataset(table)))  # noqa: S301 (this process wrote it)
    assert sorted(ids_of(iter(DataLoader(copy, batch_size=None)))) == list(range(ROWS))


def test_compact_lists_bring_their_own_items_only(table: storage.Table) -> None:
    for shared, own in zip(dataset(table), dataset(table, lists="compact"), strict=True):
        assert same(shared, own)
        items: Any = own["items"]
        assert len(items["values"]) == int(items["sizes"].sum())
        assert items["offsets"].tolist() == (items["sizes"].cumsum(0) - items["sizes"]).tolist()


def test_views_of_a_window_share_one_tensor(table: storage.Table) -> None:
    found: Any = list(dataset(table, shuffle=False, page_rows=1000, window_pages=1))
    assert len({batch["items"]["values"].data_ptr() for batch in found}) <= 5


def test_types_become_tensors_of_their_own_dtype(tmp_path: Path) -> None:
    columns = {
        "flag": pa.array([True, False, True]),
        "small": pa.array([1, 2, 3], pa.uint8()),
        "wide": pa.array([1, 2, 3], pa.uint64()),
        "day": pa.array([1, 2, 3], pa.date32()),
        "at": pa.array([1, 2, 3], pa.timestamp("us")),
        "double": pa.array([0.5, 1.5, -0.0]),
        "flags": pa.array([[True], [], [False, True]]),
    }
    table = storage.write(tmp_path / "t", pa.table(columns))
    [batch] = JaggedDataset(table, shuffle=False)
    found: Any = batch
    dtypes = {name: found[name].dtype for name in columns if name != "flags"}
    assert dtypes == {
        "flag": torch.bool,
        "small": torch.uint8,
        "wide": torch.uint64,
        "day": torch.int32,
        "at": torch.int64,
        "double": torch.float64,
    }
    assert found["flag"].tolist() == [True, False, True]
    assert found["at"].tolist() == found["day"].tolist() == [1, 2, 3]
    assert math.copysign(1, found["double"][2]) == -1
    assert found["flags"]["values"].tolist() == [True, False, True]


def test_what_is_no_tensor_is_refused_by_name(table: storage.Table) -> None:
    with pytest.raises(UnsupportedType, match="'word' is string: strings are no numbers"):
        JaggedDataset(table)
    with pytest.raises(NoSuchColumn, match="lable"):
        JaggedDataset(table, ["lable"])
    with pytest.raises(NoSuchColumn, match="fill"):
        JaggedDataset(table, ["id"], fill={"label": 0})
    for wrong in ({"batch_rows": 0}, {"lists": "padded"}, {"rank": 0}, {"rank": 2, "world_size": 2}):
        with pytest.raises(ValueError, match="expected"):
            JaggedDataset(table, ["id"], **wrong)
    for type_ in (
        pa.list_(pa.list_(pa.int8())),
        pa.list_(pa.string()),
        pa.dictionary(pa.int8(), pa.string()),
    ):
        assert ragged.refusal(type_)


def test_nulls_need_something_to_become(tmp_path: Path) -> None:
    rows = pa.table({"a": [1, None, 3], "items": [[1, None], None, [2]]})
    table = storage.write(tmp_path / "t", rows)
    with pytest.raises(SchemaMismatch, match="'a' has 1 nulls"):
        list(JaggedDataset(table, ["a"]))
    [batch] = JaggedDataset(table, shuffle=False, fill={"a": -1, "items": 0})
    assert tensor(batch["a"]).tolist() == [1, -1, 3]
    assert lists_of(batch["items"]) == [[1, 0], [], [2]]
    with pytest.raises(ValueError, match="NaN"):
        list(JaggedDataset(table, ["a"], fill={"a": math.nan}))


def test_a_file_and_an_empty_table_are_read(table: storage.Table, tmp_path: Path) -> None:
    file = table.path / table.files[0].path
    assert sorted(ids_of(iter(JaggedDataset(file, ["id"], **SMALL)))) == list(range(3_000))
    assert sorted(ids_of(iter(JaggedDataset(table.path, ["id"], **SMALL)))) == list(range(ROWS))
    empty = storage.create(tmp_path / "e", pa.schema([("id", pa.int64())]))
    assert list(JaggedDataset(empty)) == []
    assert len(JaggedDataset(empty)) == 0


MAKERS: dict[str, Callable[[list[Any]], pa.Array]] = {
    "list": lambda lists: pa.array(lists, pa.list_(pa.int16())),
    "large": lambda lists: pa.array(lists, pa.large_list(pa.int16())),
    "view": lambda lists: pa.array(lists, pa.list_view(pa.int16())),
    "fixed": lambda lists: pa.array([(row or [])[:2] + [0] * (2 - len(row or [])) for row in lists], pa.list_(pa.int16(), 2)),
}  # fmt: skip


@given(
    st.lists(st.lists(st.integers(-9, 9), max_size=4) | st.none(), max_size=12),
    st.sampled_from(sorted(MAKERS)),
    st.integers(0, 12),
    st.data(),
)
def test_columns_are_cut_permuted_and_joined(
    lists: list[Any], kind: str, first: int, data: st.DataObject
) -> None:
    array = MAKERS[kind](lists)[first:]
    plain = [row or [] for row in array.to_pylist()]
    column = ragged.from_arrow(array, "x")
    order = np.array(data.draw(st.permutations(range(len(plain)))), np.int64)
    cut = data.draw(st.integers(0, len(plain)))
    found = ragged.joined([column.at(order[:cut]), column.at(order[cut:])])
    expected = [plain[at] for at in order]
    if isinstance(found, ragged.Ragged):
        for form in (found, found.compact()):
            rows = zip(form.offsets.tolist(), form.sizes.tolist(), strict=True)
            assert [form.values[at : at + size].tolist() for at, size in rows] == expected
    else:
        assert found.values.tolist() == expected


@given(
    st.lists(st.integers(0, 30), max_size=20),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_shares_and_windows_cover_the_stream(
    sizes: list[int], window: int, batch_rows: int, ranks: int, workers: int
) -> None:
    stretches = [Stretch(at, 0, rows, rows) for at, rows in enumerate(sizes)]
    epoch = Epoch(stretches, seed=1, number=0, shuffle=True, window=window, batch_rows=batch_rows)
    assert epoch.n_rows == sum(sizes)
    assert sorted(s.file for members in epoch.windows for s in members) == [
        s.file for s in stretches if s.rows
    ]
    shares = [share(range(epoch.n_batches), rank, ranks) for rank in range(ranks)]
    assert [b for part in shares for b in part] == list(range(epoch.n_batches))
    for part in shares:
        first, last = epoch.rows_of(part)
        windows = epoch.windows_of(first, last)
        assert (
            sum(min(last, epoch.start(w + 1)) - max(first, epoch.start(w)) for w in windows) == last - first
        )
        for given_out in range(len(part) + 1):
            counts = [handed_out(given_out, worker, workers) for worker in range(workers)]
            assert sum(counts) == given_out
            assert all(n <= len(share(part, w, workers)) for w, n in enumerate(counts))


def test_quantised_columns_come_in_their_own_dtype(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((700, 6)).astype(np.float32)
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    kinds |= {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2, "int8": torch.float32}
    columns: dict[str, pa.Array] = {}
    for at, kind in enumerate(kinds):
        columns[kind] = pa.array(values[:, at], mask=rng.random(700) < 0.1)
        columns[f"{kind} vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6)
        columns[f"{kind} list"] = pa.array(
            [row[: i % 4].tolist() for i, row in enumerate(values)], pa.list_(pa.float32())
        )
    data = pa.table(columns)
    quantise = {name: name.split()[0] for name in columns}
    table = storage.write(tmp_path / "t", data, quantise=quantise, seed=1)
    file = tmp_path / "t" / table.files[0].path
    options: dict[str, Any] = {
        "batch_rows": 128,
        "page_rows": 256,
        "seed": 3,
        "fill": dict.fromkeys(kinds, -1.5),
    }
    for where in (table, file):
        for lists in ("view", "compact"):
            stored = JaggedDataset(where, as_stored=True, lists=lists, **options)
            floats = JaggedDataset(where, lists=lists, **options)
            for mine, theirs in zip(stored, floats, strict=True):
                for name, kind in quantise.items():
                    got, want = mine[name], theirs[name]
                    if isinstance(got, dict):
                        assert isinstance(want, dict)
                        assert torch.equal(got["offsets"], want["offsets"])
                        assert torch.equal(got["sizes"], want["sizes"])
                        got, want = got["values"], want["values"]
                    assert isinstance(got, torch.Tensor)
                    assert isinstance(want, torch.Tensor)
                    assert got.dtype == kinds[kind], name
                    assert torch.equal(got.float(), want), name
