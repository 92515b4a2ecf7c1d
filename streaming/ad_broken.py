"""Ten ways in which a producer's message can be broken, each made from a good one.

For tests of the whole flow and for demonstrations: the generated ad feed mixes these in, and counts them, so that
what comes out of the gate can be held against what went in. What the gate says of each is in `REASONS`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.streaming.contracts import VERSION_HEADER

Message = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Kafka key, value and headers."""

REASONS = {
    "bad_utf8": "bad_utf8",
    "bad_json": "bad_json",
    "missing": "required:price",
    "wrong_type": "wrong_type:price",
    "out_of_range": "between:position",
    "null_key": "null_key",
    "huge": "too_large",
    "deep": "too_deep",
    "nan": "bad_json",
    "unknown_version": "unknown_version",
}
"""The kinds of broken message, and the reason each is rejected for."""

_DEPTH = 100


def break_message(kind: str, key: bytes, value: bytes, event_id: str, *, huge_bytes: int) -> Message:
    """The message of one impression, made wrong in one way and given an id of its own.

    Args:
        kind: a key of `REASONS`.
        value: the impression as JSON.
        huge_bytes: least size of the value of kind `huge`.

    Raises:
        KeyError: there is no such kind.
    """
    event: dict[str, Any] = msgspec.json.decode(value)
    event["event_id"] = event_id
    headers = [(VERSION_HEADER, b"1")]
    if kind == "bad_utf8":
        return key, msgspec.json.encode(event).replace(b'"category":"', b'"category":"\xff'), headers
    if kind == "bad_json":
        return key, msgspec.json.encode(event)[:-10], headers
    if kind == "nan":
        event["price"] = "NaN"
        return key, msgspec.json.encode(event).replace(b'"price":"NaN"', b'"price":NaN'), headers
    if kind == "null_key":
        return None, msgspec.json.encode(event), headers
    if kind == "unknown_version":
        return key, msgspec.json.encode(event), [(VERSION_HEADER, b"999")]
    if kind == "missing":
        del event["price"]
    elif kind == "deep":
        event["extra"] = msgspec.Raw(b"[" * _DEPTH + b"]" * _DEPTH)
    else:
        name, wrong = {
            "wrong_type": ("price", "12.5"),
            "out_of_range": ("position", 99),
            "huge": ("extra", "x" * huge_bytes),
        }[kind]
        event[name] = wrong
    return key, msgspec.json.encode(event), headers
