"""A first draft of a contract from a file of events, for a person to correct.

Before everything else: `headrace contract init` prints it. Types and what is always present are read from the whole
file; which column is the id, the time, the key is guessed from names and values, and said to be a guess. Ranges are
given as comments, since what was seen is not yet a rule. No text of the file is written out, because it may be
personal data.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from __future__ import annotations

import keyword
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from headrace.streaming.contracts.contract import LISTS, RESERVED, TYPES, Contract
from headrace.streaming.contracts.errors import BadContract

FORMATS = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")
"""File names that can be read; the JSON ones hold one object per line."""

_ID_NAMES = ("event_id", "id", "uuid", "message_id")
_TIME_NAMES = ("event_time", "timestamp", "time", "ts", "created_at", "date")
_KEY_NAMES = ("user_id", "userid", "customer_id", "account_id", "session_id", "member_id")
_ITEM_NAMES = ("item_id", "itemid", "movie_id", "movieid", "product_id", "ad_id")


def infer(path: str | Path) -> str:
    """TOML text of a contract that accepts every row of the file whose floats are finite.

    Args:
        path: a file named as in `FORMATS`.

    Raises:
        BadContract: the file cannot be read, has no rows, or has no column that a contract needs: one with a time,
            and one that is always present to tell events apart.
    """
    file = Path(path)
    table = _read(file)
    if table.num_rows == 0:
        raise BadContract(str(file), "(rows)", "at least one event", "none", "give a file with some events")
    types = {field.name: _type_name(str(file), field.name, field.type) for field in table.schema}
    table = _read_as(table, types, str(file))
    full = [name for name in table.column_names if table[name].null_count == 0]
    times = [name for name in full if types[name] == "timestamp"]
    ids = [name for name in full if types[name] == "string" or pa.types.is_integer(TYPES[types[name]])]
    if not times:
        advice = "write event times as ISO-8601 text or as Parquet timestamps, in every row"
        raise BadContract(
            str(file), "(columns)", "a column of timestamps without nulls", f"{_listed(types)}", advice
        )
    if not ids:
        advice = "add a column that names each event"
        raise BadContract(
            str(file), "(columns)", "text or integers without nulls", f"{_listed(types)}", advice
        )
    unique = [name for name in ids if pc.count_distinct(table[name]).as_py() == table.num_rows]
    event_id = _named(_ID_NAMES, unique) or (unique or ids)[0]
    key = _named(_KEY_NAMES, ids) or next((name for name in ids if name != event_id), event_id)
    lines = [
        f'topic = "{_topic(file)}"',
        "version = 1",
        f'doc = "Drafted from {table.num_rows} events; correct the guesses, add rules and meanings."',
        "",
    ]
    for name in table.column_names:
        lines += _column(name, types[name], table[name])
    lines += ["[features]  # guesses from names and values"]
    doubt = "" if event_id in unique else "  # is not unique in this file: duplicates will be dropped"
    lines += [f'event_id = "{event_id}"{doubt}', f'event_time = "{_named(_TIME_NAMES, times) or times[0]}"']
    lines += [f'key = "{key}"', f'erase_key = "{key}"', f'personal = ["{key}"]']
    item = _named(_ITEM_NAMES, ids)
    if item is not None:
        lines.append(f'item = "{item}"')
    return "\n".join(lines) + "\n"


def read_events(path: str | Path, contract: Contract) -> pa.RecordBatch:
    """The file's rows in the contract's schema, for its gate to judge.

    Args:
        path: a file named as in `FORMATS`; times without a zone are taken as UTC, columns that are absent as null.

    Raises:
        BadContract: the file cannot be read, or a column cannot be given the contract's type.
    """
    table = _read(Path(path))
    for column in contract.columns:
        if column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(table.num_rows, column.type))
    table = _read_as(table, {column.name: column.type_name for column in contract.columns}, str(path))
    return pa.RecordBatch.from_arrays(
        [table[name].combine_chunks() for name in contract.names], schema=contract.schema
    )


def _read_as(table: pa.Table, types: dict[str, str], file: str) -> pa.Table:
    """The columns named in `types`, in those types."""
    columns = {}
    for name, type_name in types.items():
        try:
            columns[name] = table[name].cast(TYPES[type_name])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            got = str(table.schema.field(name).type)
            raise BadContract(file, name, type_name, got, "change the contract's type or the file") from error
    return pa.table(columns)


def _read(file: Path) -> pa.Table:
    if file.suffix not in FORMATS:
        raise BadContract(
            str(file), "(file)", f"a name ending in {', '.join(FORMATS)}", file.suffix, "convert the file"
        )
    try:
        if file.suffix == ".parquet":
            return pyarrow.parquet.read_table(file)
        if file.suffix == ".csv":
            # An empty field of a column of text is as missing as one of a column of numbers.
            return pyarrow.csv.read_csv(
                file, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
            )
        return pyarrow.json.read_json(file)
    except (pa.ArrowException, OSError) as error:
        kind = type(error).__name__
        raise BadContract(
            str(file), "(file)", f"a {file.suffix[1:]} file", kind, "check that it is whole"
        ) from error


def _type_name(file: str, name: str, type_: pa.DataType) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", name) or keyword.iskeyword(name) or name in RESERVED:
        advice = "rename the column in the file"
        raise BadContract(
            file, repr(name), "letters, digits and _ after a letter", "another column name", advice
        )
    plain = _plain(type_)
    for known, candidate in TYPES.items():
        if candidate == plain:
            return known
    advice = "leave the column out or flatten it"
    raise BadContract(file, name, f"one of the types {', '.join(TYPES)}", str(type_), advice)


def _plain(type_: pa.DataType) -> pa.DataType:
    """The contract type that holds the values of a file's type, or the type itself where there is none."""
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_null(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return TYPES["timestamp"]
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        items = pa.list_(_plain(type_.value_type))
        return items if items in LISTS.values() else type_
    return type_


def _column(name: str, type_name: str, values: pa.ChunkedArray) -> list[str]:
    type_ = TYPES[type_name]
    lines = ["[[columns]]", f'name = "{name}"', f'type = "{type_name}"', 'doc = ""']
    if values.null_count == 0:
        lines.append("required = true")
    elif values.null_count < len(values):
        lines.append(f"# missing in {values.null_count} of {len(values)} events")
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        # NaN is left out of the extremes, and no event of JSON could hold it.
        seen = pc.min_max(values)
        lines.append(f"# seen: between = [{seen['min']}, {seen['max']}]")
    elif pa.types.is_list(type_):
        lines.append(f"# seen: max_length = {pc.max(pc.list_value_length(values))}")
    elif type_name == "string" and values.null_count < len(values):
        longest, distinct = pc.max(pc.utf8_length(values)), pc.count_distinct(values)
        lines.append(f"# seen: max_length = {longest}, {distinct} different values")
    return [*lines, ""]


def _named(names: tuple[str, ...], candidates: list[str]) -> str | None:
    """The first candidate of one of these names, in the order of the names."""
    by_lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _topic(file: Path) -> str:
    return re.sub("[^A-Za-z0-9._-]", "_", file.stem).strip(".")[:200] or "topic"


def _listed(types: dict[str, str]) -> str:
    return ", ".join(f"{name} {type_name}" for name, type_name in types.items())
