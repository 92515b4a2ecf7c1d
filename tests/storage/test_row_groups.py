"""What the writer does with whole row groups: sequences, clusters, following lists, dictionaries of files, quantised columns."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.storage import group, layout, page
from headrace.storage.encodings import ALL, _jit
from headrace.storage.errors import SchemaMismatch
from headrace.storage.explain import explain
from headrace.storage.fetch import ChunkReader
from headrace.storage.reader import File
from headrace.storage.writer import Writer

N = 5000


def histories(
    n_users: int, n: int = N, *, order: str = "user", seed: int = 3, cap: int = 60
) -> tuple[np.ndarray[Any, Any], list[list[int]], list[list[float]]]:
    """Users, their histories newest first, and scores of the same items."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(0, n_users, n)) if order == "user" else rng.integers(0, n_users, n)
    seen: dict[int, list[int]] = {}
    items, scores = [], []
    for user in users.tolist():
        history = seen.setdefault(user, rng.integers(0, 10_000, 40).tolist())
        history[:0] = rng.integers(0, 10_000, int(rng.poisson(1.5))).tolist()
        del history[cap:]
        items.append(list(history))
        scores.append([item / 2 for item in history])
    return users, items, scores


def table(users: Any, items: Any, scores: Any) -> pa.Table:
    return pa.table(
        {
            "user": pa.array(users, pa.int64()),
            "items": pa.array(items, pa.list_(pa.int64())),
            "scores": pa.array(scores, pa.list_(pa.float32())),
            "row": pa.array(range(len(items)), pa.int32()),
        }
    )


def write(path: Path, data: pa.Table, **more: Any) -> Writer:
    writer = Writer(path, data.schema, seed=1, **more)
    with writer:
        writer.write(data)
        writer.close()
    return writer


def read(path: Path) -> pa.Table:
    with File(path) as file:
        return pa.Table.from_batches(list(file.batches()), schema=file.schema())


def features(path: Path) -> int:
    with File(path) as file:
        return file.footer.header.required_features


@pytest.mark.parametrize("order", ["user", "arrival"])
def test_histories_cost_little_whatever_their_order(tmp_path: Path, order: str) -> None:
    data = table(*histories(200, order=order))
    write(tmp_path / "f", data, erase_key="user")
    assert read(tmp_path / "f").equals(data)
    plain = write(tmp_path / "plain", data, encodings={"items": "plain", "scores": "plain"})
    assert plain.path.stat().st_size > 8 * (tmp_path / "f").stat().st_size
    wanted = layout.FOLLOWING | (layout.CLUSTERED_LISTS if order == "arrival" else 0)
    assert features(tmp_path / "f") & (layout.FOLLOWING | layout.CLUSTERED_LISTS) == wanted


def test_rows_in_order_of_their_key_are_not_clustered_and_nothing_is_hidden(tmp_path: Path) -> None:
    data = table(*histories(50))
    writer = write(tmp_path / "f", data, erase_key="user")
    assert writer._group.clustered == frozenset()
    with File(tmp_path / "f") as file:
        assert file.schema().names == data.schema.names


def test_several_groups_of_rows_in_order_of_time(tmp_path: Path) -> None:
    users, items, scores = histories(80, order="arrival")
    data = table(users, items, scores)
    write(tmp_path / "f", data, erase_key="user", group_rows=2048)
    assert read(tmp_path / "f").equals(data)
    with File(tmp_path / "f") as file:
        some = list(file.batches(["scores"], batch_rows=700))
    assert pa.Table.from_batches(some).equals(data.select(["scores"])), (
        "a follower needs its leader, not a caller's word"
    )


def test_nulls_empties_and_a_later_group_that_does_not_slide(tmp_path: Path) -> None:
    users, items, scores = histories(40, order="arrival")
    rng = np.random.default_rng(5)
    holes = rng.random(N) < 0.1
    some: list[Any] = [None if hole else list_ for hole, list_ in zip(holes.tolist(), items, strict=True)]
    some[7:9] = [[], []]
    some[4096:] = [rng.integers(0, 9, 3).tolist() for _ in range(N - 4096)]
    data = table(users, some, scores)
    write(tmp_path / "f", data, erase_key="user", group_rows=2048)
    assert read(tmp_path / "f").equals(data)


def test_a_history_never_needs_another_persons_row(tmp_path: Path) -> None:
    """Two files that differ in one person's items differ in no literal of the others, and the chain starts anew at each."""
    users = np.repeat(np.arange(40), 25)
    same = [list(range(i % 25, i % 25 + 20)) for i in range(1000)]
    write(tmp_path / "f", table(users, same, same), erase_key="user")
    with File(tmp_path / "f") as file:
        assert pa.Table.from_batches(list(file.batches(["items"])))["items"].to_pylist() == same
    # Lists that slide on from each person to the next: only the key says where chains end.
    on = [list(range(i + 20, i, -1)) for i in range(1000)]
    write(tmp_path / "on", table(users, on, on), erase_key="user")
    with File(tmp_path / "on") as file:
        [column] = file.footer.columns(["items"])
        reader = ChunkReader(file.source, column, file.footer.chunk(column, 0))
        modes = [page_.stream(page.SEQ_MODE, np.dtype("u4"), page_.n_rows) for page_ in reader.pages([0])]
    assert len(modes[0]) == 1000
    assert (modes[0][::25] == 0).all()
    assert modes[0].sum() == 1000 - 40


def test_one_dictionary_for_a_file_whose_groups_share_their_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    vocabulary = rng.integers(0, 2**62, 12_000)
    ids = vocabulary[np.minimum((rng.pareto(0.7, 60_000) * 300).astype(int), 11_999)]
    data = pa.table({"user": pa.array(range(60_000)), "id": pa.array(ids)})
    write(tmp_path / "f", data, erase_key="user", group_rows=8192)
    write(tmp_path / "chunks", data, erase_key="user", group_rows=8192, profile="train")
    write(tmp_path / "personal", data, erase_key="user", group_rows=8192, personal=["id"])
    assert features(tmp_path / "f") & layout.FILE_DICTIONARIES
    assert not features(tmp_path / "chunks") & layout.FILE_DICTIONARIES
    assert not features(tmp_path / "personal") & layout.FILE_DICTIONARIES, (
        "one person's value in a place all share"
    )
    assert (tmp_path / "f").stat().st_size < 0.8 * (tmp_path / "chunks").stat().st_size
    for name in ("f", "chunks", "personal"):
        assert read(tmp_path / name).equals(data)


def test_nothing_is_lossy_unless_the_user_says_so(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(size=N).astype(np.float32)
    data = pa.table({"x": pa.array(values), "y": pa.array(values)})
    write(tmp_path / "f", data, quantise={"x": "bf16"})
    got = read(tmp_path / "f")
    assert got["y"].equals(data["y"])
    error = np.abs(got["x"].to_numpy() - values)
    assert 0 < error.max() <= 2**-8 * np.abs(values).max()
    assert features(tmp_path / "f") & layout.QUANTISED
    write(tmp_path / "bound", data, quantise={"x": {"max_abs_err": 1e-3}})
    assert np.abs(read(tmp_path / "bound")["x"].to_numpy() - values).max() <= 1e-3


def test_a_bound_that_a_later_group_would_break_holds(tmp_path: Path) -> None:
    small = np.linspace(0, 1, 2048, dtype=np.float32)
    large = np.linspace(0, 1e6, 2048, dtype=np.float32)
    data = pa.table({"x": pa.array(np.concatenate([small, large]))})
    write(tmp_path / "f", data, quantise={"x": {"max_abs_err": 0.01}}, group_rows=2048)
    assert np.abs(read(tmp_path / "f")["x"].to_numpy() - data["x"].to_numpy()).max() <= 0.01


@pytest.mark.parametrize("profile", ["size", "balanced", "train", "compliance"])
def test_every_profile_holds_everything(tmp_path: Path, profile: str) -> None:
    data = table(*histories(60, order="arrival"))
    data = data.append_column("text", pa.array([f"model-{i % 19}/{i}" for i in range(N)]))
    data = data.append_column(
        "vector", pa.array([[float(i), -i] for i in range(N)], pa.list_(pa.float32(), 2))
    )
    write(tmp_path / "f", data, erase_key="user", profile=profile)
    assert read(tmp_path / "f").equals(data)


def test_compliance_keeps_everything_erasable_in_place(tmp_path: Path) -> None:
    """Every stream of every column, whatever its shape, and every encoding within another."""
    n = 4000
    rng = np.random.default_rng(0)
    columns = {
        "key": pa.array(np.arange(n) // 10),
        "constant": pa.array(np.full(n, 7)),
        "runs": pa.array(np.repeat(rng.integers(0, 2**40, n // 40), 40)),
        "time": pa.array(np.cumsum(rng.integers(0, 9, n)) + 2**40),
        "rare": pa.array(np.where(rng.random(n) < 0.02, rng.integers(0, 2**30, n), 0)),
        "price": pa.array(rng.integers(0, 10_000, n) / 100),
        "noise": pa.array(rng.standard_normal(n)),
        "flag": pa.array(rng.random(n) < 0.01),
        "text": pa.array([f"https://example.org/{k}" for k in rng.integers(0, 2**40, n)]),
        "maybe": pa.array(rng.integers(0, 9, n), mask=rng.random(n) < 0.01),
        "lists": pa.array([[k, k + 1] for k in range(n)]),
        "nested": pa.array([{"a": k, "b": [[k]]} for k in range(n)]),
    }
    data = pa.table({**columns, **{f"open {name}": column for name, column in columns.items()}})
    erasable = {encoding.name for encoding in ALL if encoding.in_place}
    used = dict[str, set[str]]()
    for profile in ("compliance", "balanced"):
        options = {"erase_key": "key", "personal": list(columns)[1:], "profile": profile, "seed": 1}
        with Writer(tmp_path / profile, data.schema, **options) as writer:  # type: ignore[arg-type]
            writer.write(data)
            writer.close()
        with File(tmp_path / profile) as file:
            used[profile] = {
                name
                for choice in explain(file)
                for stream in choice.streams
                for text in stream.cascades
                for name in re.findall(r"\w+", text)
            }
    assert used["compliance"] <= erasable
    assert used["balanced"] - erasable  # elsewhere other encodings are welcome


def test_equal_input_gives_equal_files_with_and_without_threads(tmp_path: Path) -> None:
    data = table(*histories(60, order="arrival", n=40_000, cap=12))
    write(tmp_path / "a", data, erase_key="user")
    write(tmp_path / "b", data, erase_key="user")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.int64())])
    with pytest.raises(
        ValueError, match=r"expected a profile of size, balanced, train, compliance, got 'fast'"
    ):
        Writer(tmp_path / "f", schema, profile="fast")
    with pytest.raises(SchemaMismatch, match=r"\['b'\], which are no columns"):
        Writer(tmp_path / "f", schema, encodings={"b": "plain"})
    with pytest.raises(SchemaMismatch, match="clustered by 'b'"):
        Writer(tmp_path / "f", schema, cluster_by="b")
    assert not (tmp_path / "f").exists()


def test_a_process_that_writes_many_small_files_takes_kernels_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(*histories(20, 300))
    monkeypatch.setattr(_jit, "_preferred", False)
    monkeypatch.setattr(group, "ENCODED", _jit.Workload(2 * data.num_columns))
    preferred, written = [], []
    for number in range(4):
        write(tmp_path / f"{number}", data)
        preferred.append(_jit.preferred())
        written.append((tmp_path / f"{number}").read_bytes())
    assert preferred == [False, False, True, True]
    assert written == [written[0]] * 4
