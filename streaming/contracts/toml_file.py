"""Reads a contract from its TOML file and refuses, with the key's path, whatever it cannot keep.

Everything is checked here, once, so that decoder, masks and suite may trust a `Contract` blindly: unknown keys
(most often typing errors), rules that do not fit a column's type, names the pipeline needs for itself, a
feature map that points to nothing. It does not look at events; `infer` proposes a contract from a file of them.
"""

from __future__ import annotations

import keyword
import math
import re
import tomllib
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming.contracts.contract import RESERVED, TYPES, Bound, Column, Contract, FeatureMap, Label
from headrace.streaming.contracts.errors import BadContract
from headrace.streaming.contracts.section import Section, Words

SHIPPED = ("ad_feed", "movielens")
"""Topics whose contracts come with the distribution; `load` takes these names."""

_COLUMN_KEYS = ("name", "type", "doc", "required", "between", "in_set", "max_length", "pattern")
_SINGLE = ("event_id", "event_time", "key", "kind", "erase_key", "domain", "item")
_MANY = ("personal", "ids", "dense", "histories")
_INLINE = ("column", "positive_at")
_JOINED = ("impression", "click", "refers_to", "window_s")


def load(name_or_path: str | Path) -> Contract:
    """The contract of a shipped topic, or of a TOML file.

    >>> load("ad_feed").features.key
    'user_id'

    Args:
        name_or_path: a name out of `SHIPPED`, or the path of a `.toml` file.

    Raises:
        BadContract: the file is absent, is no TOML, or breaks a rule of contracts.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        text = (
            resources.files("headrace.streaming.contracts").joinpath(f"topics/{name}.toml").read_text("utf-8")
        )
        return parse(text, file=f"{name}.toml")
    path = Path(name_or_path)
    if not path.is_file():
        expected = f"a shipped topic ({', '.join(SHIPPED)}) or the path of a TOML file"
        raise BadContract(name, "(file)", expected, "no such file", "check the name or the working directory")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadContract(name, "(file)", "UTF-8 text", str(error), "save the file as UTF-8") from error
    return parse(text, file=name)


def parse(text: str, *, file: str = "(text)") -> Contract:
    """The contract written in `text`; `file` is only named in errors.

    Raises:
        BadContract: the text is no TOML, or breaks a rule of contracts.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadContract(file, "(syntax)", "TOML", str(error), "correct the line named") from error
    top = Section(file, "", document)
    top.only("topic", "version", "doc", "columns", "features")
    topic = top.text("topic")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", topic) or topic in (".", ".."):
        top.bad(
            "topic", "1 to 200 of the characters A-Z a-z 0-9 . _ -", topic, "Kafka allows no other topic name"
        )
    version = top.integer("version", 1, 999_999_999)
    tables = top.take("columns", list, "an array of tables, [[columns]]")
    if not tables:
        top.bad("columns", "at least one [[columns]] table", tables, "add the topic's columns")
    columns: list[Column] = []
    for index, table in enumerate(tables):
        columns.append(_column(top.section(f"columns[{index}]", table), columns))
    features = top.section("features", top.take("features", dict, "a table, [features]"))
    contract = Contract(topic, version, top.text("doc", ""), tuple(columns), _features(features, columns))
    _check_kinds(top, contract)
    return contract


def _column(section: Section, before: list[Column]) -> Column:
    section.only(*_COLUMN_KEYS)
    name = section.text("name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name) or name in RESERVED or keyword.iskeyword(name):
        expected = "letters, digits and _ after a letter, no Python keyword, none of " + ", ".join(
            sorted(RESERVED)
        )
        section.bad("name", expected, name, "rename the column; the pipeline adds columns of its own")
    if any(column.name == name for column in before):
        section.bad("name", "a name used once", name, "remove one of the two columns")
    type_name = section.text("type")
    if type_name not in TYPES:
        section.bad(
            "type", f"one of {', '.join(TYPES)}", type_name, "correct the spelling or choose another type"
        )
    type_ = TYPES[type_name]
    required = section.table.get("required", False)
    if not isinstance(required, bool):
        required = section.strings("required")
        if not required:
            section.bad("required", "true, false or the kinds that must carry it", [], "write false")
    return Column(
        name,
        type_,
        section.text("doc", ""),
        required,
        _between(section, type_),
        _in_set(section, type_),
        _max_length(section, type_),
        _pattern(section, type_),
    )


def _fits(section: Section, key: str, fits: bool, types: str) -> bool:
    if key in section.table and not fits:
        type_name = section.table["type"]
        section.bad(key, f"{key} only on {types}", Words(f"type {type_name}"), "remove the rule")
    return key in section.table


def _between(section: Section, type_: pa.DataType) -> tuple[Bound, Bound] | None:
    timestamp, floating = pa.types.is_timestamp(type_), pa.types.is_floating(type_)
    if not _fits(
        section, "between", timestamp or floating or pa.types.is_integer(type_), "numbers and timestamps"
    ):
        return None
    bounds = section.table["between"]
    if timestamp:
        expected = "two offset date-times, such as [2000-01-01T00:00:00Z, 2100-01-01T00:00:00Z]"
        good = _pair(bounds, datetime) and all(bound.tzinfo is not None for bound in bounds)
    elif floating:
        expected, good = "two finite numbers", _pair(bounds, (int, float)) and all(map(math.isfinite, bounds))
    else:
        expected = f"two integers, each smaller than 2**53 or a limit of {type_}"
        good = _pair(bounds, int) and all(_is_exact(bound, type_) for bound in bounds)
    if not good or bounds[0] > bounds[1]:
        section.bad("between", f"{expected}, the lower first", bounds, "correct the bounds")
    if floating:
        # The producer's 0.1 becomes float32(0.1): only a bound rounded alike lets it pass in every engine.
        exact = np.float32 if type_ == pa.float32() else np.float64
        return float(exact(bounds[0])), float(exact(bounds[1]))
    return bounds[0], bounds[1]


def _pair(bounds: object, kind: type | tuple[type, ...]) -> bool:
    if not isinstance(bounds, list) or len(bounds) != 2:
        return False
    return all(isinstance(bound, kind) and not isinstance(bound, bool) for bound in bounds)


def _is_exact(bound: int, type_: pa.DataType) -> bool:
    """Whether the bound is in range, and the same number as a double, in which the check compares."""
    limits = np.iinfo(type_.to_pandas_dtype())
    return bound in (int(limits.min), int(limits.max)) or (
        limits.min <= bound <= limits.max and abs(bound) < 1 << 53
    )


def _in_set(section: Section, type_: pa.DataType) -> tuple[str, ...] | tuple[int, ...] | None:
    integer = pa.types.is_integer(type_)
    if not _fits(section, "in_set", integer or pa.types.is_string(type_), "strings and integers"):
        return None
    kind, word = (int, "integers") if integer else (str, "strings")
    values = section.take("in_set", list, f"an array of {word}")
    if not values or any(type(value) is not kind for value in values) or len(set(values)) < len(values):
        section.bad("in_set", f"a non-empty array of different {word}", values, "correct the values")
    try:
        pa.array(values, type_)
    except (pa.ArrowInvalid, OverflowError):
        section.bad("in_set", f"values of type {type_}", values, "remove those out of range")
    return tuple(values)


def _max_length(section: Section, type_: pa.DataType) -> int | None:
    if not _fits(
        section, "max_length", pa.types.is_string(type_) or pa.types.is_list(type_), "strings and lists"
    ):
        return None
    return section.integer("max_length", 0, 1 << 30)


def _pattern(section: Section, type_: pa.DataType) -> str | None:
    if not _fits(section, "pattern", pa.types.is_string(type_), "strings"):
        return None
    pattern = section.text("pattern")
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        section.bad("pattern", "^…$, which says that the whole string matches", pattern, "add ^ and $")
    # Two engines judge each event: RE2 in the masks, Python's re in the check. They differ on what counts as
    # white space and on folding case, so a pattern may use neither.
    if re.search(r"\\[sS]|\(\?(?!:)|\[\[", pattern):
        section.bad("pattern", "no \\s, no [[ and no group (? but (?:", pattern, "write the characters out")
    try:
        groups = re.compile(f"(?a:{pattern[1:-1]})").groups
        pc.call_function(
            "match_substring_regex", [pa.array([""])], pc.MatchSubstringOptions(f"(?:{pattern[1:-1]})")
        )
    except (re.error, pa.ArrowInvalid) as error:
        section.bad("pattern", "a regular expression of RE2 and of Python", pattern, f"simplify it: {error}")
    if groups:
        section.bad("pattern", "no capturing group", pattern, "write (?: instead of (")
    return pattern


def _features(section: Section, columns: list[Column]) -> FeatureMap:
    section.only(*_SINGLE, *_MANY, "label")
    by_name = {column.name: column for column in columns}

    def named(key: str, name: str) -> Column:
        if name not in by_name:
            section.bad(key, "the name of a column", name, "respell it or add the column")
        return by_name[name]

    single: dict[str, str | None] = {}
    for key in _SINGLE:
        optional = key not in ("event_id", "event_time", "key")
        single[key] = None if optional and key not in section.table else named(key, section.text(key)).name
    many = {key: tuple(named(key, name).name for name in section.strings(key)) for key in _MANY}

    for key in ("event_id", "event_time", "key", "kind", "erase_key"):
        name = single[key]
        if name is not None and by_name[name].required is not True:
            section.bad(key, "a column with required = true", name, "every event must carry it")
    for key in ("event_id", "key", "erase_key", "domain", "item"):
        _typed(section, key, (single[key],), by_name, "a string or an integer", _is_id)
    _typed(section, "kind", (single["kind"],), by_name, "a string", pa.types.is_string)
    _typed(section, "event_time", (single["event_time"],), by_name, "a timestamp", pa.types.is_timestamp)
    _typed(
        section,
        "ids",
        many["ids"],
        by_name,
        "strings, integers or bools",
        lambda t: _is_id(t) or t == pa.bool_(),
    )
    _typed(section, "dense", many["dense"], by_name, "numbers", lambda t: _is_number(t) or t == pa.bool_())
    _typed(section, "histories", many["histories"], by_name, "lists", pa.types.is_list)
    return FeatureMap(
        str(single["event_id"]),
        str(single["event_time"]),
        str(single["key"]),
        single["kind"],
        single["erase_key"],
        many["personal"],
        single["domain"],
        single["item"],
        many["ids"],
        many["dense"],
        many["histories"],
        _label(section, by_name),
    )


def _is_id(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_integer(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))


def _typed(
    section: Section,
    key: str,
    names: tuple[str | None, ...],
    columns: dict[str, Column],
    expected: str,
    fits: Any,
) -> None:
    for name in names:
        if name is not None and not fits(columns[name].type):
            got = Words(f"{name} of type {columns[name].type_name}")
            section.bad(key, f"{expected} column", got, "name another column or change its type")


def _label(features: Section, columns: dict[str, Column]) -> Label | None:
    if "label" not in features.table:
        return None
    section = features.section("label", features.table["label"])
    inline = "column" in section.table
    section.only(*(_INLINE if inline else _JOINED))
    name_key = "column" if inline else "refers_to"
    name = section.text(name_key)
    if name not in columns:
        section.bad(name_key, "the name of a column", name, "respell it or add the column")
    if inline:
        _typed(section, "column", (name,), columns, "a number", _is_number)
        return Label("inline", column=name, positive_at=section.number("positive_at"))
    if "kind" not in features.table:
        features.bad("kind", "the column that tells impressions from clicks", Words("nothing"), "add the key")
    window_s = section.number("window_s")
    if window_s <= 0:
        section.bad("window_s", "a positive number of seconds", window_s, "correct the value")
    impression, click = section.text("impression"), section.text("click")
    return Label("joined", impression=impression, click=click, refers_to=name, window_s=window_s)


def _check_kinds(top: Section, contract: Contract) -> None:
    """Every kind that is named anywhere must be one the kind column allows."""
    kinds, label = contract.kinds, contract.features.label
    if contract.features.kind is not None and not kinds:
        top.bad(
            "features.kind", "a column with in_set", contract.features.kind, "list the kinds in its in_set"
        )
    named = [
        (f"columns[{index}].required", kind)
        for index, column in enumerate(contract.columns)
        if not isinstance(column.required, bool)
        for kind in column.required
    ]
    if label is not None and label.kind == "joined":
        named += [
            ("features.label.impression", str(label.impression)),
            ("features.label.click", str(label.click)),
        ]
        required = contract.column(str(label.refers_to)).required
        if not (required is True or (required and label.click in required)):
            path = "features.label.refers_to"
            top.bad(path, f"a column required for {label.click}", label.refers_to, "require it for that kind")
    for path, kind in named:
        if kind not in kinds:
            expected = (
                f"one of the kinds {', '.join(kinds)}" if kinds else "no kinds, since features.kind is absent"
            )
            top.bad(path, expected, kind, "respell it or add it to the kind column's in_set")
