"""Checkpoints: exact round trips, and no byte of damage that goes unnoticed."""

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.learners.checkpoint import State, dump, load
from headrace.streaming.learners.errors import BadCheckpoint, LearnerError

ARRAYS = {
    "weights": np.array([1.5, -0.0, np.nan, np.inf], dtype=np.float32),
    "table": np.arange(6, dtype=np.int64).reshape(2, 3),
    "raw": np.frombuffer(b"abc", dtype=np.uint8),
    "ids": np.array([], dtype=np.uint32),
    "sums": np.array([0.1], dtype=np.float64),
}
STATE = State("click_model", 3, 12, {"bits": 4, "rate": 0.1, "name": "ä", "on": True}, ARRAYS)


def forged(header: object, body: bytes = b"") -> bytes:
    """A checkpoint whose own checksums fit, whatever its header says."""
    raw = msgspec.msgpack.encode(header)
    return b"HRLC" + len(raw).to_bytes(4, "little") + blake3(raw).digest() + raw + body


def header(**changes: object) -> dict[str, object]:
    fields = {"format": 1, "learner": "click_model", "version": 0, "n_learned": 0, "params": {}, "arrays": []}
    return {**fields, **changes}


def entry(body: bytes = b"", **changes: object) -> dict[str, object]:
    fields = {
        "name": "a",
        "dtype": "<f4",
        "shape": [len(body) // 4],
        "offset": 0,
        "blake3": blake3(body).digest(),
    }
    return {**fields, **changes}


def test_a_round_trip_keeps_every_bit():
    restored = load(dump(STATE), "click_model")
    assert (restored.learner, restored.version, restored.n_learned) == ("click_model", 3, 12)
    assert restored.params == STATE.params
    assert list(restored.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert restored.arrays[name].dtype == array.dtype
        assert restored.arrays[name].shape == array.shape
        assert restored.arrays[name].tobytes() == array.tobytes()
        assert restored.arrays[name].flags.writeable
    assert dump(restored) == dump(STATE)


def test_the_layout_is_the_documented_one():
    data = dump(State("x", 0, 0, {}, {"a": np.array([1, 258], dtype=">u4")}))
    length = int.from_bytes(data[4:8], "little")
    assert data[:4] == b"HRLC"
    assert data[8:40] == blake3(data[40 : 40 + length]).digest()
    assert data[40 + length :] == bytes([1, 0, 0, 0, 2, 1, 0, 0])
    assert set(msgspec.msgpack.decode(data[40 : 40 + length])) == set(header())


def test_any_cut_is_noticed():
    data = dump(STATE)
    for length in range(len(data)):
        with pytest.raises(BadCheckpoint):
            load(data[:length], "click_model")


@settings(deadline=None)
@given(st.data())
def test_any_altered_byte_is_noticed(data):
    whole = bytearray(dump(STATE))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadCheckpoint):
        load(bytes(whole), "click_model")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    for candidate in (data, b"HRLC" + data):
        with pytest.raises(BadCheckpoint):
            load(candidate, "click_model")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dump(STATE) + b"\0", "bytes of distinct arrays"),
        (forged(header(format=2)), "expected format 1, came 2"),
        (forged(header(learner="popularity")), "that of 'popularity'"),
        (forged(header(surprise=1)), "not one this release writes"),
        (forged([1, 2]), "not one this release writes"),
        (forged(header(params={"a": [1]})), "not one this release writes"),
        (forged(header(arrays=[entry(shape=[10**18])])), "impossible"),
        (forged(header(arrays=[entry(shape=[-1])])), "impossible"),
        (forged(header(arrays=[entry(shape=[0] * 40)])), "impossible"),
        (forged(header(arrays=[entry(dtype="|O8")])), "impossible"),
        (forged(header(arrays=[entry(b"1234", offset=-4)]), b"1234"), "impossible"),
        (forged(header(arrays=[entry(b"1234", shape=[2])]), b"1234"), "claims 8 bytes, 4 are there"),
        (forged(header(arrays=[entry(b"1234"), entry(b"5678", offset=0)]), b"12345678"), "impossible"),
        (forged(header(arrays=[entry(b"1234"), entry(b"5678", offset=4)]), b"12345678"), "distinct"),
        (forged(header(arrays=[entry(b"1234")]), b"1235"), "array 'a' is damaged"),
    ],
)
def test_headers_that_lie_are_refused(data, message):
    with pytest.raises(BadCheckpoint, match=message):
        load(data, "click_model")


def test_an_array_of_objects_is_not_written():
    with pytest.raises(TypeError, match="expected one of"):
        dump(State("x", 0, 0, {}, {"a": np.array([object()])}))


def test_bad_checkpoints_are_learner_errors_and_value_errors():
    assert issubclass(BadCheckpoint, LearnerError)
    assert issubclass(BadCheckpoint, ValueError)
