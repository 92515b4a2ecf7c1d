"""Quantised columns handed out as they are stored: the very codes, whatever way rows are asked for; converted elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from headrace import storage
from headrace.storage.as_stored import AFFINE, FORMAT_KEY, TYPE_KEY
from headrace.storage.encodings import cast, int8
from headrace.storage.errors import CorruptPage, UnsupportedType
from headrace.storage.evolution import Add, Drop, Rename, Widen, evolve
from headrace.storage.reader import File
from headrace.storage.writer import Writer

from .bits import same_table

N, K = 5000, 24
FORMATS = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8")
LEAF = {
    "fp16": pa.float16(),
    "bf16": pa.uint16(),
    "fp8_e4m3": pa.uint8(),
    "fp8_e5m2": pa.uint8(),
    "int8": AFFINE,
}


def floats() -> NDArray[np.float32]:
    values = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    values[17, :3] = [np.nan, np.inf, -np.inf]
    return values


def rows() -> pa.Table:
    values = floats()
    absent = np.random.default_rng(1).random(N) < 0.2
    columns: dict[str, Any] = {"user": pa.array(np.arange(N) // 10)}
    for at, form in enumerate(FORMATS):
        columns[form] = pa.array(values[:, at], mask=absent)
        columns[f"{form} double"] = pa.array(values[:, at].astype(np.float64))
        columns[f"{form} vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), K)
        lists = [row[: i % 5].tolist() if i % 7 else None for i, row in enumerate(values)]
        columns[f"{form} list"] = pa.array(lists, pa.large_list(pa.float32()))
        columns[f"{form} constant"] = pa.array(np.ones(N, np.float32))
    return pa.table(columns)


def formats(names: list[str]) -> dict[str, str]:
    return {name: name.split()[0] for name in names if name != "user"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> storage.Table:
    data = rows()
    quantise = formats(data.column_names)
    made = storage.write(tmp_path_factory.mktemp("as") / "t", data, quantise=quantise, seed=1)
    made.append(data.slice(0, 300), quantise=quantise, seed=2)
    return made


def numbers(array: pa.Array, form: str) -> NDArray[np.float64]:
    """What the valid leaves of an as-stored array stand for, by the formats' own definitions."""
    while pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
        array = array.flatten()
    array = array.drop_null()
    if form == "int8":
        code, scale, zero = (array.field(name).to_numpy().astype(np.float64) for name in AFFINE.names)
        special = np.select([code == 253, code == 254, code == 255], [-np.inf, np.inf, np.nan], 0)
        return np.where(code > 252, special, zero + scale * code)
    codes = np.frombuffer(array.buffers()[1], f"u{array.type.bit_width // 8}")[array.offset :][: len(array)]
    out = np.empty(len(codes), np.float32)
    cast.widen(codes, form, out)  # type: ignore[arg-type]
    return out.astype(np.float64)


def converted(array: pa.Array) -> NDArray[np.float64]:
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array.drop_null().to_numpy().astype(np.float64)  # type: ignore[no-any-return]


def same_numbers(stored: pa.Table, plain: pa.Table) -> None:
    assert stored.num_rows == plain.num_rows
    for name, form in formats(stored.column_names).items():
        mine, theirs = stored[name].combine_chunks(), plain[name].combine_chunks()
        assert mine.is_valid().equals(theirs.is_valid()), name
        got, want = numbers(mine, form), converted(theirs)
        if form == "int8" and plain.schema.field(name).type != pa.float64():
            got = got.astype(np.float32).astype(np.float64)
        assert np.array_equal(got, want, equal_nan=True), name


def test_every_format_and_shape_comes_as_it_is_stored(table: storage.Table) -> None:
    scan = table.scan(as_stored=True)
    found = scan.to_table()
    found.validate(full=True)
    assert found.schema.equals(scan.schema, check_metadata=True)
    for name, form in formats(found.column_names).items():
        field = found.schema.field(name)
        double = "double" in name
        assert field.metadata == {FORMAT_KEY: form.encode(), TYPE_KEY: b"double" if double else b"float"}
        if "vector" in name:
            assert field.type == pa.list_(LEAF[form], K)
        elif "list" in name:
            assert field.type == pa.large_list(LEAF[form])
        else:
            assert field.type == LEAF[form]
    same_numbers(found, table.to_table())
    assert found["user"].equals(table.to_table()["user"])


def test_codes_are_those_that_the_formats_give(table: storage.Table) -> None:
    values = floats()
    found = table.scan(as_stored=True, rows=range(N)).to_table()
    for at, form in enumerate(FORMATS[:-1]):
        stored = found[f"{form} double"].combine_chunks()
        want = cast.narrow(values[:, at].astype(np.float64), form)  # type: ignore[arg-type]
        assert np.array_equal(np.frombuffer(stored.buffers()[1], want.dtype)[:N], want)
    codes, scales, zeros = int8.narrow(values[:, 4].astype(np.float64))
    stored = found["int8 double"].combine_chunks()
    blocks = np.arange(N) // 1024
    for name, want in (("code", codes), ("scale", scales[blocks]), ("zero", zeros[blocks])):
        assert np.array_equal(stored.field(name).to_numpy(), want)


@pytest.mark.parametrize("at", [[5299, 0, 4096, 17, 17, 1023, 5001], list(range(0, 5300, 3))])
def test_taken_rows_are_those_of_a_scan(table: storage.Table, at: list[int]) -> None:
    taken = table.take(at, as_stored=True)
    whole = table.scan(as_stored=True).to_table()
    assert taken.schema.equals(whole.schema, check_metadata=True)
    same_numbers(taken, table.take(at))
    for name in taken.column_names:
        assert repr(taken[name].to_pylist()) == repr(whole[name].take(pa.array(at)).to_pylist()), name


def test_filters_ranges_views_and_small_steps(table: storage.Table) -> None:
    names = ["bf16", "int8", "int8 vector", "fp8_e4m3 list"]
    for options in (
        {"filter": [("bf16", ">", 1.0)]},
        {"filter": [("int8", "<", -2.5)]},
        {"rows": range(700, 2900)},
        {"batch_rows": 512, "memory_bytes": 1 << 16},
        {"list_view": True},
    ):
        stored = table.scan(names, as_stored=True, **options)  # type: ignore[arg-type]
        found = stored.to_table()
        assert found.num_rows > 5
        assert found.schema.equals(stored.schema, check_metadata=True)
        same_numbers(found, table.scan(names, **options).to_table())  # type: ignore[arg-type]


def test_what_no_one_format_holds_comes_converted(tmp_path: Path) -> None:
    data = rows().select(["user", "bf16", "int8"])
    made = storage.write(tmp_path / "t", data, quantise={"bf16": "bf16", "int8": "int8"}, seed=1)
    made.append(data, quantise={"bf16": "fp16", "int8": "int8"}, seed=2)
    assert made.scan(as_stored=True).schema.types == [pa.int64(), pa.float32(), AFFINE]
    assert same_table(made.scan(["bf16"], as_stored=True).to_table(), made.scan(["bf16"]).to_table())
    made.append(data, seed=3)  # exact
    assert made.scan(as_stored=True).schema.equals(made.schema)
    assert made.take([0, 9999, 14_999], as_stored=True).schema.equals(made.schema)
    # A bound that its format does not keep everywhere.
    values = np.concatenate([np.zeros(2048), np.random.default_rng(0).standard_normal(100) * 1e9])
    mixed = pa.table({"x": pa.array(values)})
    with Writer(
        tmp_path / "f", mixed.schema, seed=1, group_rows=1024, quantise={"x": {"max_abs_err": 1e-6}}
    ) as writer:
        writer.write(mixed)
        writer.close()
    with File(tmp_path / "f") as file:
        [column] = file.footer.columns(["x"])
        report = file.footer.report(column)
        assert report is not None
        assert report.kind == "mixed"
        assert file.schema(as_stored=True).types == [pa.float64()]
        back = pa.Table.from_batches(file.batches(as_stored=True))
    assert same_table(back, mixed)


def test_histories_of_scores_are_quantised_where_they_slide(tmp_path: Path) -> None:
    """Edits of a list keep its shape, the format its new items: neither is given up for the other."""
    rng = np.random.default_rng(3)
    scores, ids, history, seen = [], [], list[float](), list[int]()
    for row in range(2000):
        history = [float(value) for value in rng.standard_normal(2)] + history[:40]
        seen = [2 * row, 2 * row + 1, *seen[:40]]
        scores.append(history)
        ids.append(seen)
    data = pa.table({"ids": ids, "scores": pa.array(scores, pa.list_(pa.float32()))})
    for form in ("bf16", "int8", "fp8_e5m2"):
        made = storage.write(tmp_path / form, data, quantise={"scores": form}, seed=1)
        path = tmp_path / form / made.files[0].path
        with File(path) as file:
            [column] = file.footer.columns(["scores"])
            report = file.footer.report(column)
        assert report is not None
        assert (report.kind, column.follows) == (form, True)
        assert report.n < 10_000  # new items alone
        plain, stored = made.to_table(), made.scan(as_stored=True).to_table()
        got, want = (
            numbers(stored["scores"].combine_chunks(), form),
            converted(plain["scores"].combine_chunks()),
        )
        assert np.array_equal(got.astype(np.float32), want.astype(np.float32))
        error = np.abs(converted(data["scores"].combine_chunks()) - want).max()
        assert 0 < error <= report.max_abs_err
        views = made.scan(["scores"], as_stored=True, list_view=True).to_table()
        shared = {len(chunk.values) for chunk in views["scores"].chunks}
        assert max(shared) <= 5000  # no item twice
        assert repr(views["scores"].to_pylist()) == repr(stored["scores"].to_pylist())
        assert path.stat().st_size < 40_000


def test_a_page_in_another_format_than_the_footer_says_is_damage(tmp_path: Path) -> None:
    from .forge import Forged

    data = pa.table({"x": pa.array(floats()[:, 0])})
    with Writer(tmp_path / "f", data.schema, seed=1, quantise={"x": "bf16"}) as writer:
        writer.write(data)
        writer.close()
    raw = (tmp_path / "f").read_bytes()
    forged = Forged(raw)
    row = forged.rows(5)[0]
    body = bytes(raw[int(row["off"]) : int(row["off"]) + int(row["used_len"])])
    at = body.index(N.to_bytes(4, "little") + b"\2\4")  # the header of `cast`: count, bf16, itemsize
    forged.patch(int(row["off"]) + at + 4, b"\1")
    (tmp_path / "f").write_bytes(forged.bytes())
    with File(tmp_path / "f") as file, pytest.raises(CorruptPage, match=r"values in bf16.*found fp16"):
        list(file.batches(as_stored=True))
    with File(tmp_path / "f") as file, pytest.raises(CorruptPage, match=r"values in bf16.*found fp16"):
        file.take([3], as_stored=True)


def test_only_floats_are_quantised(tmp_path: Path) -> None:
    data = pa.table({"a": [1], "s": [{"x": 1.0}], "t": ["x"], "h": pa.array([1.0], pa.float16())})
    for name in data.column_names:
        with pytest.raises(UnsupportedType, match=f"column '{name}'.*cannot be quantised"):
            Writer(tmp_path / "f", data.schema, quantise={name: "bf16"})
    assert not (tmp_path / "f").exists()


def same(column: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """NaNs too."""
    return column.type == other.type and str(column.to_pylist()) == str(other.to_pylist())


@pytest.mark.parametrize("form", FORMATS)
def test_after_evolution_too(form: str, tmp_path: Path) -> None:
    """Renamed, joined from a file of their own, and beside columns that came, went or grew: the same codes as before."""
    data = rows().select(["user", form, f"{form} vector", f"{form} list", f"{form} constant"]).slice(0, 2000)
    names = [name for name in data.column_names if name != "user"]
    table = storage.write(tmp_path / "t", data, quantise=dict.fromkeys(names, form), seed=1)
    before = table.scan(as_stored=True).to_table()
    edits = [
        Rename(form, "score"),
        Drop(f"{form} constant"),
        Add("more", pa.int64(), lambda batch: batch["user"]),
        Add("absent", pa.float32()),
    ]
    evolve(table, edits)
    scan = table.scan(["more", "score", f"{form} list", "absent"], as_stored=True)
    found = scan.to_table()
    assert found.schema.equals(scan.schema, check_metadata=True)
    assert same(found["score"], before[form])
    assert same(found[f"{form} list"], before[f"{form} list"])
    assert scan.schema.field("score").metadata == {FORMAT_KEY: form.encode(), TYPE_KEY: b"float"}
    assert (found["absent"].null_count, found["absent"].type) == (2000, pa.float32())
    at = [1999, 3, 3, 700]
    taken = table.take(at, ["score", "more"], as_stored=True)
    assert taken["score"].to_pylist() == [before[form][row].as_py() for row in at]

    table.append(table.to_table().slice(0, 100), quantise={"score": form, f"{form} list": form}, seed=2)
    both = table.scan(["score"], as_stored=True).to_table()["score"]
    assert both.type == before[form].type
    assert same(both[:2000], before[form])
    exact = table.scan(["score"], filter=[("score", ">", 0.25), ("user", "<", 150)]).to_table()
    asked = table.scan(
        ["score"], filter=[("score", ">", 0.25), ("user", "<", 150)], as_stored=True
    ).to_table()
    assert len(asked) == len(exact) > 100
    assert np.allclose(numbers(asked["score"].combine_chunks(), form), exact["score"], rtol=1e-6)

    evolve(table, [Rename("score", "s")])
    assert same(table.scan(["s"], as_stored=True).to_table()["s"], both)
    plain = table.to_table().slice(0, 100)
    table.append(plain, seed=3)  # exactly, so that no format holds all of it any more
    assert table.scan(["s"], as_stored=True).to_table()["s"].type == pa.float32()


def test_a_column_that_grew_comes_converted(tmp_path: Path) -> None:
    data = rows().select(["user", "fp16", "bf16"]).slice(0, 500)
    table = storage.write(tmp_path / "t", data, quantise={"fp16": "fp16", "bf16": "bf16"}, seed=1)
    evolve(table, [Widen("fp16", pa.float64())])
    found = table.scan(as_stored=True).to_table()
    assert (found["fp16"].type, found["bf16"].type) == (pa.float64(), pa.uint16())
    assert same(found["fp16"], table.to_table()["fp16"])
