"""What is said about a file is what is in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.storage.explain import explain
from headrace.storage.reader import File
from headrace.storage.writer import Writer

N = 20_000


def test_explain_says_layout_cascade_and_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    vocabulary = rng.integers(0, 2**60, 300)
    data = pa.table(
        {
            "user": pa.array(np.repeat(np.arange(N // 20), 20)),
            "hashed": pa.array(rng.choice(vocabulary, N)),
            "price": pa.array(np.round(rng.random(N) * 1e4, 2)),
            "noise": pa.array(rng.integers(0, 2**63, N)),
            "clicks": pa.array([[7] * 0 if i % 20 == 0 else list(range(i - i % 20, i)) for i in range(N)]),
            "vector": pa.array(rng.normal(size=N).astype(np.float32)),
            "place": pa.StructArray.from_arrays([pa.array(rng.integers(0, 9, N))], ["row"]),
        }
    )
    with Writer(tmp_path / "f", data.schema, erase_key="user", quantise={"vector": "bf16"}, seed=1) as writer:
        writer.write(data)
        writer.close()
    with File(tmp_path / "f") as file:
        choices = {one.name: one for one in explain(file)}
    layouts = {name: one.layout for name, one in choices.items()}
    assert layouts == {
        "user": "values",
        "hashed": "dictionary",
        "price": "values",
        "noise": "values",
        "clicks": "sequence",
        "vector": "quantised",
        "place": "values",
        "place.row": "values",
    }
    assert choices["user"].mark == "erase key"
    assert choices["clicks"].raw_bytes > 5 * choices["clicks"].stored_bytes
    for name, expected in (("price", "alp"), ("noise", "plain"), ("user", "rle")):
        (values,) = choices[name].streams
        assert next(iter(values.cascades)).startswith(expected)
        chosen = values.candidates[0]
        assert chosen.chosen
        assert chosen.name == expected
        assert abs(chosen.predicted_bytes - values.bytes) <= 0.1 * values.bytes + 512, (
            "one group: all of its pages"
        )
        assert [one.predicted_bytes for one in values.candidates if one.name == "plain"] == [N * 8]
    assert sum(sum(one.cascades.values()) for one in choices["hashed"].streams) >= 1


def test_an_empty_file_is_explained_too(tmp_path: Path) -> None:
    with Writer(tmp_path / "f", pa.schema([("a", pa.int64())]), seed=1) as writer:
        writer.close()
    with File(tmp_path / "f") as file:
        (one,) = explain(file)
    assert (one.name, one.stored_bytes, one.streams) == ("a", 0, ())


def test_each_column_may_be_told_its_encoding(tmp_path: Path) -> None:
    """Whatever the cascade would have made of equal values."""
    n = 5000
    values = np.arange(n) // 7
    asked = [
        "plain",
        "bitpack",
        "pfor",
        "rle",
        "delta",
        "varint",
        "mainly_constant",
        "byte_split",
        "zstd",
        "dictionary",
    ]
    data = pa.table(dict.fromkeys(asked, values))
    with Writer(tmp_path / "f", data.schema, encodings={name: name for name in asked}, seed=1) as writer:
        writer.write(data)
        writer.close()
    with File(tmp_path / "f") as file:
        assert pa.Table.from_batches(file.batches()).equals(data)
        for choice in explain(file):
            if choice.name == "dictionary":
                assert choice.layout == "dictionary"
                continue
            [stream] = choice.streams
            assert {cascade.split("(")[0] for cascade in stream.cascades} == {choice.name}
