"""What a writer counts before it chooses: extremes, runs, widths and distinct values, by kernels and by their twins."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from headrace.storage import entries, group
from headrace.storage.encodings import _jit, counting
from headrace.storage.encodings.distinct import SLOTS, Distinct
from headrace.storage.entries import FileEntries, number
from headrace.storage.logical import column_type
from headrace.storage.writer import Writer

from .streams import noise

Array = NDArray[Any]
DTYPES = [np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)]


def counted(function: Any, values: Array, totals: int) -> list[list[int]]:
    stored = values.view(f"u{values.itemsize}")
    stored.flags.writeable = False
    n_blocks = -(-len(values) // 1024)
    made = [np.empty(n_blocks, stored.dtype), np.empty(n_blocks, stored.dtype), np.zeros(totals, np.uint64)]
    sign = 1 << (8 * values.itemsize - 1) if values.dtype.kind == "i" else 0
    with np.errstate(over="ignore"):
        function(stored, np.uint64(sign), *made)
    return [one.tolist() for one in made]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counting_equals_twin_and_plain_python(dtype: np.dtype[Any]) -> None:
    for n in (1, 2, 1023, 1025):
        for values in (noise(dtype, n), np.repeat(noise(dtype, n) % 5, 3)[:n], np.full(n, -1).astype(dtype)):
            for totals in (4, 68):
                results = [
                    counted(function, values, totals)
                    for function in (counting._measure_numpy, counting._measure, counting._measure.function)
                ]
                assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_counted_is_so(dtype: np.dtype[Any]) -> None:
    values = np.sort(noise(dtype, 2500))[::-1].copy()
    values[::7] = 3
    found = counting.blocks(values, lengths=True)
    numbers = values.tolist()
    parts = [numbers[start : start + 1024] for start in range(0, 2500, 1024)]
    assert found.lows.view(dtype).tolist() == [min(part) for part in parts]
    assert found.highs.view(dtype).tolist() == [max(part) for part in parts]
    assert (found.low, found.high) == (min(numbers), max(numbers))
    assert found.n_changes == sum(a != b for a, b in zip(numbers[1:], numbers[:-1], strict=True))
    lengths = [(value - min(part)).bit_length() for part in parts for value in part]
    assert found.lengths is not None
    assert list(found.lengths) == [lengths.count(k) for k in range(max(lengths) + 1)]
    assert found.width_bits == max(lengths)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_values_are_numbered_as_they_come(size: int) -> None:
    values = noise(np.dtype(f"u{size}"), 5 * SLOTS) % 40_000
    table, naive = Distinct(), dict[int, int]()
    for part in np.array_split(values, 3):
        expected = [naive.setdefault(value, len(naive) + 1) for value in part.tolist()]
        assert table.assign(part).tolist() == expected
    assert table.n_entries == len(naive) > SLOTS
    assert table.entries(values.dtype).tolist() == list(naive)


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "float32", "int16"])
def test_kernels_number_values_as_arrow_does(
    dtype: str, *, by_frequency: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = column_type(pa.from_numpy_dtype(np.dtype(dtype)), "").leaf
    rng = np.random.default_rng(4)
    chunks = [np.floor(rng.pareto(1, 3000) * 9).clip(0, 30_000).astype(dtype) for _ in range(4)]
    if dtype == "float32":
        chunks[0][:9] = [np.nan, -0.0, 0.0, np.inf, -np.nan, 1, 1, -1, -np.inf]
    made: list[list[bytes]] = []
    # The last way: kernels are loaded, and unloaded, while a file is being written.
    for way in ((False,) * 4, (True,) * 4, (False, True, False, True)):
        shared, steps = FileEntries(leaf, "frequency" if by_frequency else "value"), []
        for chunk, compiled in zip(chunks, way, strict=True):
            monkeypatch.setattr(_jit, "_preferred", compiled)
            numbered = number(chunk, leaf, "frequency" if by_frequency else "value")
            assert numbered.entries[numbered.codes - 1].tobytes() == chunk.tobytes()
            codes = shared.add(chunk)
            assert codes is not None
            steps += [numbered.entries.tobytes(), numbered.codes.tobytes(), codes.tobytes()]
        found = shared.entries()
        assert found[codes - 1].tobytes() == chunks[-1].tobytes()
        made.append([*steps, found.tobytes()])
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_files_dictionary_has_an_end(*, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jit, "_preferred", compiled)
    monkeypatch.setattr(entries, "FILE_ENTRIES", 100)
    leaf = column_type(pa.int64(), "").leaf
    shared = FileEntries(leaf)
    assert shared.add(np.arange(90)) is not None
    assert shared.add(np.arange(50, 150)) is None
    codes = shared.add(np.array([95, 3]))
    assert codes is not None
    assert codes.tolist() == [91, 4]
    assert len(shared.entries()) == 91


def rows(n: int) -> pa.RecordBatch:
    rng = np.random.default_rng(7)
    columns = {
        "key": np.repeat(np.arange(n // 8), 8),
        "item": rng.integers(0, 2**62, 700)[rng.integers(0, 700, n)],
        "price": np.round(rng.random(n) * 100, 2),
        "noise": rng.standard_normal(n).astype(np.float32),
        "sparse": np.where(rng.random(n) < 0.02, rng.integers(0, 2**40, n), 0),
    }
    return pa.RecordBatch.from_pydict(
        {
            name: pa.array(values.tolist(), pa.from_numpy_dtype(values.dtype))
            for name, values in columns.items()
        }
    )


def test_bytes_depend_on_neither_kernels_nor_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, found = rows(8192), []
    for compiled in (False, True):
        for parallel in (0, 1 << 40):
            monkeypatch.setattr(_jit, "_preferred", compiled)
            monkeypatch.setattr(group, "PARALLEL_VALUES", parallel)
            path = tmp_path / f"{compiled}{parallel}"
            with Writer(path, batch.schema, erase_key="key", seed=5, group_rows=2048) as writer:
                writer.write(batch)
                writer.close()
            found.append(path.read_bytes())
    assert found[0] == found[1] == found[2] == found[3]


def test_what_stops_a_row_group_from_being_written_is_raised_by_the_next_or_by_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = rows(2048)

    def full(self: Writer, body: bytes) -> tuple[int, int, int, bytes]:
        raise OSError(28, "No space left on device")

    def write(group_rows: int) -> None:
        with Writer(tmp_path / "f", batch.schema, seed=5, group_rows=group_rows) as writer:
            monkeypatch.setattr(Writer, "_put_slot", full)
            writer.write(batch)
            writer.close()

    for group_rows in (2048, 1024):
        with pytest.raises(OSError, match="No space left"):
            write(group_rows)
        assert not (tmp_path / "f").exists()
