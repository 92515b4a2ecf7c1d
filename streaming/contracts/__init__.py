"""Contracts: what a topic promises, and the gate that holds each event to it.

`load` reads a contract, `decode_json` and `decode_arrow` turn message bytes into rows of its schema, `gate`
judges each row. `expectations` repeats the gate's judgement with an independent engine; it is imported by
those who want that, because it is slow to import.
"""

from headrace.streaming.contracts.contract import (
    VERSION_HEADER,
    Column,
    Contract,
    FeatureMap,
    Label,
    check_version,
)
from headrace.streaming.contracts.decode import Decoded, decode_arrow, decode_json
from headrace.streaming.contracts.errors import BadContract, GateBroken, GateDisagreement
from headrace.streaming.contracts.masks import NULL_KEY, Verdict, gate
from headrace.streaming.contracts.toml_file import SHIPPED, load

__all__ = [
    "NULL_KEY",
    "SHIPPED",
    "VERSION_HEADER",
    "BadContract",
    "Column",
    "Contract",
    "Decoded",
    "FeatureMap",
    "GateBroken",
    "GateDisagreement",
    "Label",
    "Verdict",
    "check_version",
    "decode_arrow",
    "decode_json",
    "gate",
    "load",
]
