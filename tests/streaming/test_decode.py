"""The decoder against a twin that reads one message at a time with the standard library."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streaming.contracts import Contract, decode, decode_arrow, decode_json, load
from headrace.streaming.contracts.decode import REASONS
from headrace.streaming.contracts.encode import encode_arrow, encode_json
from headrace.streaming.contracts.samples import sample_events

CONTRACT = load(Path(__file__).parent / "contracts_for_tests" / "every_type.toml")
AD_FEED = load("ad_feed")
INT_LISTS = {"items", "bytes", "big", "clicked_items"}
INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):?(\d\d))", re.ASCII
)


class Wrong(Exception):
    pass


def slow_decode(
    value: bytes | None, contract: Contract, max_bytes: int
) -> tuple[dict[str, Any] | None, set[str]]:
    """The slow twin: the event, or every reason that may be given for there being none."""
    if not value:
        return None, {"empty"}
    if len(value) > max_bytes:
        return None, {"too_large"}
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None, {"bad_utf8"}
    if depth(text) > 64:
        return None, {"too_deep"}
    try:
        event = json.loads(
            text, object_pairs_hook=Pairs, parse_constant=refuse, parse_int=Int, parse_float=Float
        )
        json.dumps(event, default=str, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    except (ValueError, RecursionError):
        # What comes before the error may be complained of first.
        return None, {"bad_json"} | {
            f"{code}:{n}" for code in ("wrong_type", "out_of_range") for n in contract.names
        } | {"not_an_object"}
    if not isinstance(event, Pairs):
        return None, {"not_an_object"}
    row: dict[str, Any] = dict.fromkeys(contract.names)
    reasons = set()
    for place, (name, item) in enumerate(event):
        # Of a repeated list of integers only the last one is looked at.
        repeated = name in INT_LISTS and name in [later for later, _ in event[place + 1 :]]
        if name in row and not repeated:
            try:
                row[name] = slow_value(item, contract.schema.field(name).type)
            except Wrong as wrong:
                reasons.add(f"{wrong}:{name}")
    return (None, reasons) if reasons else (row, set())


class Pairs(list[tuple[str, Any]]):
    """A JSON object, its repeated keys kept."""


class Int(str):
    """Digits of a JSON integer."""


class Float(str):
    """Text of a JSON number with a fraction or an exponent."""


def refuse(text: str) -> None:
    raise ValueError(text)


def depth(text: str) -> int:
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)
    level = deepest = 0
    for character in bare:
        level += (character in "[{") - (character in "]}")
        deepest = max(deepest, level)
    return deepest


def slow_value(item: Any, type_: pa.DataType) -> Any:
    if item is None:
        return None
    if pa.types.is_list(type_):
        if not isinstance(item, list) or isinstance(item, Pairs) or None in item:
            raise Wrong("wrong_type")
        return [slow_value(part, type_.value_type) for part in item]
    if pa.types.is_integer(type_):
        if not isinstance(item, Int):
            raise Wrong("wrong_type")
        bits, signed = type_.bit_width, pa.types.is_signed_integer(type_)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if len(item) > 30 or not low <= int(item) <= high:
            raise Wrong("out_of_range")
        return int(item)
    if pa.types.is_floating(type_):
        if not isinstance(item, Int | Float):
            raise Wrong("wrong_type")
        if not np.isfinite(float(item)):
            raise Wrong("out_of_range")
        return float(item)
    if pa.types.is_boolean(type_):
        if not isinstance(item, bool):
            raise Wrong("wrong_type")
        return item
    if not isinstance(item, str) or isinstance(item, Int | Float):
        raise Wrong("wrong_type")
    return slow_instant(item) if pa.types.is_timestamp(type_) else item


def slow_instant(text: str) -> datetime:
    found = INSTANT.fullmatch(text)
    if found is None:
        raise Wrong("wrong_type")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        away = timedelta(hours=int(found[9] or 0), minutes=int(found[10] or 0))
        if int(found[9] or 0) > 23 or int(found[10] or 0) > 59:
            raise Wrong("wrong_type")
        zoned = local.replace(tzinfo=timezone(-away if found[8] == "-" else away))
    except ValueError:
        raise Wrong("wrong_type") from None
    fraction = (found[7] or "").ljust(9, "0")
    micros = int(fraction[:6]) + (int(fraction[6:]) >= 500)
    return zoned.replace(microsecond=0) + timedelta(microseconds=micros)


def assert_like_twin(values: list[bytes | None], contract: Contract, max_bytes: int = 1 << 20) -> None:
    decoded = decode_json(pa.array(values, pa.binary()), contract, max_bytes=max_bytes)
    decoded.batch.validate(full=True)
    assert decoded.batch.schema == contract.schema
    slow = [slow_decode(value, contract, max_bytes) for value in values]
    for value, error, (row, reasons) in zip(values, decoded.error.to_pylist(), slow, strict=True):
        if row is None:
            assert error in reasons, value
            assert error.partition(":")[0] in REASONS
        else:
            assert error is None, value
    expected = [row or dict.fromkeys(contract.names) for row, _ in slow]
    for name in contract.names:
        column = pa.array([row[name] for row in expected], contract.schema.field(name).type)
        assert decoded.batch.column(name).equals(column), name


INSTANTS = st.one_of(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.isoformat() + "Z"),
    st.sampled_from(
        [
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.123Z",
            "2026-01-01t00:00:00.1234564z",
            "2026-01-01T00:00:00.1234567+05:30",
            "2026-01-01 00:00:00-23:59",
            "2026-02-29T00:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01",
            "1767225600",
            "now",
        ]
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e39, 1e308, 5e-324, 3.0]),
    st.text(max_size=6),
    INSTANTS,
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def right(type_: pa.DataType) -> st.SearchStrategy[Any]:
    """Mostly values of that type."""
    if pa.types.is_list(type_):
        return st.lists(right(type_.value_type), max_size=4)
    if pa.types.is_integer(type_):
        return st.integers(0, 127)
    if pa.types.is_floating(type_):
        return st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70))
    if pa.types.is_boolean(type_):
        return st.booleans()
    return INSTANTS if pa.types.is_timestamp(type_) else st.text(max_size=6)


RIGHT = st.fixed_dictionaries({field.name: right(field.type) | st.none() for field in CONTRACT.schema})
# What a lenient reader would take for something else.
NEARLY = st.sampled_from(
    ["5", "1.5", "true", "", "null", 3.0, 3.7, True, 128, -1, 2**64, 1e39, [3.0], ["3"], [[3]], {}]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """An event as JSON, sometimes with repeated keys, sometimes with a few bytes changed."""
    event = draw(RIGHT)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        event[draw(st.sampled_from([*CONTRACT.names, "unknown", ""]))] = draw(st.one_of(NEARLY, ANYTHING))
    if draw(st.integers(0, 9)) == 9:
        event = draw(ANYTHING)
    ascii_only, spaces = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (" , ", "\n:\t")]))
    text = json.dumps(event, ensure_ascii=ascii_only, separators=spaces)
    if isinstance(event, dict) and event and draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(sorted(event)))
        again = json.dumps({name: draw(ANYTHING)}, ensure_ascii=ascii_only)
        text = text[:-1] + "," + again[1:]
    message = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(message)))
        cut = draw(st.integers(0, 2))
        message[place : place + cut] = draw(
            st.one_of(
                st.binary(max_size=2),
                st.sampled_from([b"NaN", b"-", b"0", b"e9", b'"', b"\\u", b"\\", b"{", b"]", b"\n"]),
            )
        )
    return bytes(message)


@settings(max_examples=250, deadline=None)
@given(values=st.lists(st.one_of(messages(), messages(), st.none(), st.just(b"")), max_size=5))
def test_decodes_like_the_twin(values: list[bytes | None]) -> None:
    assert_like_twin(values, CONTRACT, max_bytes=4096)


def reason_of(value: bytes | None, contract: Contract = CONTRACT, max_bytes: int = 1 << 20) -> str | None:
    reason: str | None = (
        decode_json(pa.array([value], pa.binary()), contract, max_bytes=max_bytes).error[0].as_py()
    )
    return reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{}", None),
        (b" {} \n", None),
        (b'{"int8":5}', None),
        (b'{"int8":null}', None),
        (b'{"float32":5}', None),
        (b'{"int8":1,"int8":2}', None),
        (b'{"other":{"int8":"x"}}', None),
        (b'{"other":1e999}', None),
        (b'{"\\u0069nt8":5}', None),
        (b'{"big":[18446744073709551615]}', None),
        (None, "empty"),
        (b"", "empty"),
        (b"  ", "bad_json"),
        (b"{}\n{}", "bad_json"),
        (b"{} {}", "bad_json"),
        (b'{"int8":5', "bad_json"),
        (b'{"int8":5,}', "bad_json"),
        (b"{'int8':5}", "bad_json"),
        (b'\xef\xbb\xbf{"int8":5}', "bad_json"),
        (b'{"float32":NaN}', "bad_json"),
        (b'{"float32":Infinity}', "bad_json"),
        (b'{"float32":-Infinity}', "bad_json"),
        (b'{"text":"\x00"}', "bad_json"),
        (b'{"text":"\\ud800"}', "bad_json"),
        (b'{"other":"\\udc00"}', "bad_json"),
        (b'{"text":"\xff"}', "bad_utf8"),
        (b'{"other":"\xc0\x80"}', "bad_utf8"),
        (b'{"other":"\xed\xa0\x80"}', "bad_utf8"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"5", "not_an_object"),
        (b'"{}"', "not_an_object"),
        (b'{"int8":"5"}', "wrong_type:int8"),
        (b'{"int8":3.7}', "wrong_type:int8"),
        (b'{"int8":3.0}', "wrong_type:int8"),
        (b'{"int8":1e1}', "wrong_type:int8"),
        (b'{"int8":true}', "wrong_type:int8"),
        (b'{"int8":[]}', "wrong_type:int8"),
        (b'{"int8":"x","int8":2}', "wrong_type:int8"),
        (b'{"float32":"5"}', "wrong_type:float32"),
        (b'{"float32":false}', "wrong_type:float32"),
        (b'{"flag":0}', "wrong_type:flag"),
        (b'{"flag":"true"}', "wrong_type:flag"),
        (b'{"text":5}', "wrong_type:text"),
        (b'{"text":{}}', "wrong_type:text"),
        (b'{"time":1767225600}', "wrong_type:time"),
        (b'{"time":"2026-01-01T00:00:00"}', "wrong_type:time"),
        (b'{"items":{}}', "wrong_type:items"),
        (b'{"items":[1,null]}', "wrong_type:items"),
        (b'{"items":[1,[2]]}', "wrong_type:items"),
        (b'{"items":["1"]}', "wrong_type:items"),
        (b'{"items":[1.0]}', "wrong_type:items"),
        (b'{"items":[1e2]}', "wrong_type:items"),
        (b'{"items":3}', "wrong_type:items"),
        (b'{"items":"[1]"}', "wrong_type:items"),
        (b'{"items":["],["]}', "wrong_type:items"),
        (b'{"items":[1,]}', "bad_json"),
        (b'{"items":[01]}', "bad_json"),
        (b'{"items":[9223372036854775808]}', "out_of_range:items"),
        (b'{"items":[-0]}', None),
        (b'{"items": [ 1 ,\t2\n] }', None),
        (b'{"items":null}', None),
        (b'{"items":"x","items":[1]}', None),
        (b'{"words":[1]}', "wrong_type:words"),
        (b'{"int8":128}', "out_of_range:int8"),
        (b'{"int64":9223372036854775808}', "out_of_range:int64"),
        (b'{"user":-1}', "out_of_range:user"),
        (b'{"user":18446744073709551616}', "out_of_range:user"),
        (b'{"big":[1,18446744073709551616]}', "out_of_range:big"),
        (b'{"bytes":[256]}', "out_of_range:bytes"),
        (b'{"float64":1e309}', "out_of_range:float64"),
        (b'{"float32":' + b"9" * 400 + b"}", "out_of_range:float32"),
        (b'{"int64":' + b"9" * 5000 + b"}", "out_of_range:int64"),
        (b'{"other":' + b"[" * 64 + b"]" * 64 + b"}", "too_deep"),
        (b'{"other":' + b"[" * 63 + b"]" * 63 + b"}", None),
        (b'{"other":' + b'{"a":' * 64 + b"1" + b"}" * 65, "too_deep"),
        (b'{"other":' + b"[" * 500_000, "too_deep"),
        (b'{"other":"' + b"[{" * 100 + b'"}', None),
        (b'{"other":"\\"' + b"[" * 100 + b'"}', None),
        (b'{"other":[' + b"[]," * 100 + b"[]]}", None),
        (b'{"other":"' + b"x" * (1 << 20) + b'"}', "too_large"),
    ],
)
def test_reasons(value: bytes | None, reason: str | None) -> None:
    assert reason_of(value) == reason
    if value is None or len(value) < 10_000:
        assert_like_twin([value, b'{"int8":1}', value], CONTRACT)


def test_lists_read_one_by_one_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        b'{"items":[1,2]}',
        b'{"big":[18446744073709551615],"items":[]}',
        b'{"items":null}',
        b'{"bytes":[1,-1]}',
    ]
    values = pa.array(texts, pa.binary())
    fast = decode_json(values, CONTRACT)
    monkeypatch.setattr(decode, "read_int_lists", lambda texts, type_: None)
    slow = decode_json(values, CONTRACT)
    assert fast.error.to_pylist() == slow.error.to_pylist() == [None, None, None, "out_of_range:bytes"]
    assert fast.batch.equals(slow.batch)
    assert fast.batch.column("items").to_pylist() == [[1, 2], [], None, None]


def test_the_size_limit_is_an_argument() -> None:
    assert reason_of(b'{"int8": 5}', max_bytes=11) is None
    assert reason_of(b'{"int8": 5}', max_bytes=10) == "too_large"


def test_reasons_hold_no_values() -> None:
    secret = "SECRET-4711"
    values = [
        json.dumps({name: item}).encode()
        for name in CONTRACT.names
        for item in (secret, [secret], {secret: secret}, 4711_4711_4711_4711_4711, secret + "Z")
    ]
    values += [b'{"text":"' + secret.encode(), secret.encode(), b'{"' + secret.encode() + b'":}']
    errors = [
        error for error in decode_json(pa.array(values, pa.binary()), CONTRACT).error.to_pylist() if error
    ]
    assert len(errors) > 60
    assert not [error for error in errors if "SECRET" in error or "4711" in error]


def test_many_chunks_slices_and_large_binary() -> None:
    rng = np.random.default_rng(0)
    events = encode_json(sample_events(AD_FEED, 1_100, seed=1))
    values: list[bytes | None] = [
        [b"{", b"", None, b'{"price":"x"}', b"\xff", b'{"tags":["' + b"y" * 5_000_000 + b'"]}'][
            rng.integers(6)
        ]
        if rng.random() < 0.02
        else event
        for event in events
    ]
    array = pa.array(values, pa.binary())
    whole = decode_json(array, AD_FEED, max_bytes=8_000_000)
    alone = [decode_json(pa.array([value], pa.binary()), AD_FEED, max_bytes=8_000_000) for value in values]
    assert whole.error.to_pylist() == [one.error[0].as_py() for one in alone]
    assert whole.batch.equals(pa.concat_batches([one.batch for one in alone]))
    assert 0 < whole.error.null_count < len(values)
    for other in (array.cast(pa.large_binary()), pa.concat_arrays([array.slice(0, 7), array]).slice(7)):
        again = decode_json(other, AD_FEED, max_bytes=8_000_000)
        assert again.batch.equals(whole.batch)
        assert again.error.equals(whole.error)


def test_no_messages_and_no_bytes() -> None:
    for values in ([], [None, None]):
        decoded = decode_json(pa.array(values, pa.binary()), CONTRACT)
        assert decoded.batch.num_rows == len(values)
        assert decoded.batch.schema == CONTRACT.schema
        assert decoded.error.to_pylist() == ["empty"] * len(values)
    with pytest.raises(TypeError, match="binary or large_binary"):
        decode_json(pa.array(["{}"]), CONTRACT)


ROWS = st.fixed_dictionaries(
    {
        "id": st.text(max_size=4) | st.none(),
        "time": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(
            lambda at: at.replace(tzinfo=UTC)
        )
        | st.none(),
        "user": st.integers(0, 2**64 - 1) | st.none(),
        "int64": st.integers(-(2**63), 2**63 - 1) | st.none(),
        "float32": st.floats(width=32, allow_nan=False, allow_infinity=False) | st.none(),
        "float64": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        "flag": st.booleans() | st.none(),
        "items": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4) | st.none(),
        "big": st.lists(st.integers(0, 2**64 - 1), max_size=4) | st.none(),
        "words": st.lists(st.text(max_size=4), max_size=3) | st.none(),
    }
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROWS, max_size=4))
def test_what_is_encoded_is_decoded(rows: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, CONTRACT.schema)
    decoded = decode_json(pa.array(encode_json(batch), pa.binary()), CONTRACT)
    assert decoded.error.null_count == len(rows)
    assert decoded.batch.equals(batch)
    if rows:
        part = batch.slice(1)
        assert decode_json(pa.array(encode_json(part), pa.binary()), CONTRACT).batch.equals(part)
    arrow = decode_arrow(encode_arrow(batch), CONTRACT)
    assert arrow.batch.equals(batch)
    assert arrow.error.null_count == len(rows)


def test_json_has_no_word_for_nan() -> None:
    batch = pa.RecordBatch.from_pylist([{"float32": float("nan")}], CONTRACT.schema)
    with pytest.raises(ValueError, match="finite"):
        encode_json(batch)


def arrow_reason(value: bytes, contract: Contract = CONTRACT, max_bytes: int = 1 << 26) -> str | None:
    decoded = decode_arrow(value, contract, max_bytes=max_bytes)
    reason: str | None = decoded.error[0].as_py() if decoded.batch.num_rows else None
    if reason is not None:
        assert decoded.batch.num_rows == 1
        assert all(value is None for value in decoded.batch.to_pylist()[0].values())
    assert decoded.batch.schema == contract.schema
    return reason


def test_arrow_messages_that_are_refused() -> None:
    batch = sample_events(AD_FEED, 50)
    good = encode_arrow(batch)
    assert arrow_reason(good, AD_FEED) is None
    assert arrow_reason(b"", AD_FEED) == "empty"
    assert arrow_reason(good, AD_FEED, max_bytes=len(good) - 1) == "too_large"
    assert arrow_reason(b"no arrow", AD_FEED) == "bad_arrow"
    for size in (1, 4, 8, 100, len(good) // 2, len(good) - 8, len(good) - 1):
        assert arrow_reason(good[:size], AD_FEED) == "bad_arrow"
    two = [encode_arrow(part) for part in (batch.slice(0, 20), batch.slice(20))]
    assert decode_arrow(two[0][:-8] + two[1][two[1].index(b"\xff\xff\xff\xff", 8) :], AD_FEED).batch.equals(
        batch
    )
    assert arrow_reason(two[0][:-8], AD_FEED) == "bad_arrow"
    wrong = batch.set_column(4, "user_id", batch.column("user_id").cast(pa.string()))
    assert arrow_reason(encode_arrow(wrong), AD_FEED) == "wrong_schema:user_id"
    assert arrow_reason(encode_arrow(batch.drop_columns(["price"])), AD_FEED) == "wrong_schema:price"
    assert (
        arrow_reason(encode_arrow(batch.append_column("x", batch.column(0))), AD_FEED)
        == "wrong_schema:unknown_column"
    )
    assert arrow_reason(encode_arrow(batch.select(AD_FEED.names[::-1])), AD_FEED) == "wrong_schema:order"
    nulls = pa.array([[None]] * 50, pa.list_(pa.int64()))
    nulled = batch.set_column(
        AD_FEED.names.index("clicked_items"), AD_FEED.schema.field("clicked_items"), nulls
    )
    assert arrow_reason(encode_arrow(nulled), AD_FEED) == "wrong_type:clicked_items"


def test_compressed_arrow_is_refused() -> None:
    # A hundred bytes may claim to hold a hundred gigabytes: they must be refused before that is believed.
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist([{"text": "x"}] * 100_000, CONTRACT.schema)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, CONTRACT.schema, options=options) as stream:
        stream.write_batch(batch)
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    assert arrow_reason(bytes(sink.getvalue())) == "bad_arrow"
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() <= max(peak, before + 4096)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 9, 127, 255])
def test_a_stream_that_begins_with_no_schema_is_refused(kind: int) -> None:
    """Read as a schema, another header's fields end the process."""
    good = encode_arrow(
        pa.RecordBatch.from_pylist([{"id": "e1", "items": [1, 2], "words": ["a"]}] * 3, CONTRACT.schema)
    )
    header_type = 29
    assert good[header_type] == 1, "Schema, in the flatbuffer of the first message"
    message = bytearray(good)
    message[header_type] = kind
    for at, byte in ((212, 127), (675, 194), (771, 1)):  # together with these it did
        message[at] = byte
    assert arrow_reason(bytes(message), CONTRACT) == "bad_arrow"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_mutated_arrow_messages_never_pass_unchecked(data: st.DataObject) -> None:
    good = encode_arrow(
        pa.RecordBatch.from_pylist([{"id": "e1", "items": [1, 2], "words": ["a"]}] * 3, CONTRACT.schema)
    )
    message = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    decoded = decode_arrow(bytes(message), CONTRACT)
    decoded.batch.validate(full=True)
    assert decoded.batch.nbytes <= 4 * len(good) + 4096
    decoded.batch.to_pylist()
