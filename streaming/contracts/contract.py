"""What one topic promises: its columns, their rules, and the part each column plays in learning.

A contract is the only description of a topic. The decoder, the row masks, the expectation suite, the sample
events, the reference page and Spark's schema are all derived from the dataclasses below, so that they cannot
drift apart. Contracts are written as TOML, see `toml_file.py`, and come first in the flow: nothing can be read
from a topic without one.

Deliberately absent: defaults for missing values, renames, computed columns and versions side by side. A
contract may only grow by columns that are not required; everything else is a new topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

import pyarrow as pa

Bound = int | float | datetime

SCALARS: dict[str, pa.DataType] = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
# A list of floats would need a finiteness rule per item; no topic has asked for one.
LISTS: dict[str, pa.DataType] = {
    f"list<{name}>": pa.list_(type_)
    for name, type_ in SCALARS.items()
    if name == "string" or pa.types.is_integer(type_)
}
TYPES: dict[str, pa.DataType] = {**SCALARS, **LISTS}
"""Every type a column may have, by its name in the TOML file."""

RESERVED = frozenset({"prediction", "baseline", "model_version"})
"""Names the pipeline adds to each row, beside all names that begin with an underscore."""

VERSION_HEADER = "contract_version"
"""Kafka header with the producer's contract version in decimal ASCII; without it the newest is assumed."""

_SPARK = {
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INT",
    "int64": "BIGINT",
    # Spark has no unsigned integers: the next wider type holds every value.
    "uint8": "SMALLINT",
    "uint16": "INT",
    "uint32": "BIGINT",
    "uint64": "DECIMAL(20,0)",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "string": "STRING",
    "timestamp": "TIMESTAMP",
}


@dataclass(frozen=True)
class Column:
    """One column and the rules each of its values must pass.

    A rule other than `required` says nothing about a missing value. Bounds are inclusive. A value of a float
    column must be finite, whether or not it has bounds.

    Attributes:
        type: one of `TYPES`.
        required: True, False, or the kinds of event that must carry it.
        between: lowest and highest value, for numbers and timestamps; those of float32 are float32 numbers.
        in_set: the allowed values, for strings and integers.
        max_length: characters of a string (Unicode code points) or items of a list.
        pattern: `^…$`, matched against the whole string, with ASCII classes, for strings.
    """

    name: str
    type: pa.DataType
    doc: str = ""
    required: bool | tuple[str, ...] = False
    between: tuple[Bound, Bound] | None = None
    in_set: tuple[str, ...] | tuple[int, ...] | None = None
    max_length: int | None = None
    pattern: str | None = None

    @property
    def type_name(self) -> str:
        """The type's name in the TOML file, such as `list<int64>`."""
        return next(name for name, type_ in TYPES.items() if type_ == self.type)

    @property
    def is_list(self) -> bool:
        return bool(pa.types.is_list(self.type))

    @property
    def is_float(self) -> bool:
        return bool(pa.types.is_floating(self.type))

    @property
    def rules(self) -> tuple[str, ...]:
        """Ids of the rules that apply to this column, in the order in which reasons are listed."""
        named = (
            ("required", self.required),
            ("finite", self.is_float and self.between is None),  # within bounds it is finite
            ("between", self.between is not None),
            ("in_set", self.in_set is not None),
            ("max_length", self.max_length is not None),
            ("pattern", self.pattern is not None),
        )
        return tuple(f"{rule}:{self.name}" for rule, applies in named if applies)


@dataclass(frozen=True)
class Label:
    """Where the truth comes from: a column of the same event, or another event that may still come.

    inline: positive when `column` ≥ `positive_at`. joined: positive when an event of kind `click` names the
    event of kind `impression` in its column `refers_to` within `window_s` seconds, else negative.
    """

    kind: Literal["inline", "joined"]
    column: str | None = None
    positive_at: float | None = None
    impression: str | None = None
    click: str | None = None
    refers_to: str | None = None
    window_s: float | None = None


@dataclass(frozen=True)
class FeatureMap:
    """Which column plays which part; every field holds column names, `None` or `()` where nothing plays it.

    Attributes:
        event_id: unique per event, for dropping duplicates.
        key: the Kafka message key; its events arrive in order.
        kind: tells the kinds of event on one topic apart.
        erase_key: names the person whose events can be erased; `personal` lists what then must go.
        domain: splits the traffic for learners with one head per domain.
        item: what is shown or rated.
        ids, dense, histories: hashed categories, real-valued features, lists of earlier items (newest first).
    """

    event_id: str
    event_time: str
    key: str
    kind: str | None = None
    erase_key: str | None = None
    personal: tuple[str, ...] = ()
    domain: str | None = None
    item: str | None = None
    ids: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    label: Label | None = None


@dataclass(frozen=True)
class Contract:
    """A topic's columns and feature map; hashable, picklable, and safe to send to executors.

    >>> from headrace.streaming.contracts import load
    >>> load("movielens").schema.field("rating").type
    DataType(float)
    """

    topic: str
    version: int
    doc: str
    columns: tuple[Column, ...]
    features: FeatureMap

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema in contract order; all fields are nullable, since a rejected row is a row of nulls."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def rules(self) -> tuple[str, ...]:
        """Ids of all row rules, column by column."""
        return tuple(rule for column in self.columns for rule in column.rules)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of event on the topic; empty where events are not told apart."""
        if self.features.kind is None:
            return ()
        return tuple(str(kind) for kind in self.column(self.features.kind).in_set or ())

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            KeyError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"topic {self.topic} has no column {name!r}; it has {', '.join(self.names)}")

    def spark_ddl(self) -> str:
        """The schema as Spark DDL text, for `StructType.fromDDL` and `mapInArrow`."""
        return ", ".join(f"`{column.name}` {_spark_type(column.type_name)}" for column in self.columns)


def _spark_type(name: str) -> str:
    if name.startswith("list<"):
        return f"ARRAY<{_SPARK[name[5:-1]]}>"
    return _SPARK[name]


def check_version(header: bytes | None, contract: Contract) -> str | None:
    """Reason why a message of that contract version cannot be read, or None.

    Older versions are read, because a contract only ever gains columns that are not required; newer versions,
    and anything that is no version, are not.

    Args:
        header: value of the header `VERSION_HEADER`, decimal ASCII without sign; None if it was not sent.

    Returns:
        `"unknown_version"` or None.
    """
    if header is None:
        return None
    known = len(header) <= 9 and header.isdigit() and 1 <= int(header) <= contract.version
    return None if known else "unknown_version"
