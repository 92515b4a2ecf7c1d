"""A second judgement of the gate's rows by great-expectations, which shares no code with the masks.

Beside the flow: on every rejected row and a sample of the others, once per micro-batch. The contract is written out
as an expectation suite (kept in `suites/`, so that a change of a contract shows up in review as a change of its
suite), the suite is run on pandas, and its verdict is compared with the masks' row by row and rule by rule.

The only module that imports great-expectations, and only when it is first used: that takes seconds. What leaves it
holds rules and counts, never a value, because values are personal data. It rejects nothing itself.
"""

# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see; great-expectations
# documents names that it does not list as exported)
from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.streaming.contracts.contract import Column, Contract
from headrace.streaming.contracts.errors import GateBroken
from headrace.streaming.contracts.masks import NULL_KEY

DECODE_ERROR = "_decode_error"
"""Column that holds the decoder's reason, and the rule that it is null."""

_LENGTH = "_length_"
_MASKED: dict[pa.DataType, str] = {
    pa.int8(): "Int8",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.uint8(): "UInt8",
    pa.uint16(): "UInt16",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.bool_(): "boolean",
}


@dataclass(frozen=True)
class Disagreement:
    """Rows of one rule that only one of the two engines says break it."""

    rule: str
    only_masks: int
    only_expectations: int


@dataclass(frozen=True)
class GateResult:
    """What great-expectations said of one sample; numbers and rule ids only.

    Attributes:
        rows: rows looked at.
        rejected: rows that break at least one rule or were not decoded.
        failures: rows per rule; rules that no row breaks are absent.
        disagreements: empty unless masks and expectations differ on some row; then the batch must not be published.
        seconds: wall time of the check.
    """

    rows: int
    rejected: int
    failures: dict[str, int]
    disagreements: tuple[Disagreement, ...]
    seconds: float

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes) -> GateResult:
        """Reads `to_json` back.

        Raises:
            msgspec.DecodeError: the bytes are something else.
        """
        return _GATE_RESULT.decode(data)


_GATE_RESULT = msgspec.json.Decoder(GateResult)


def suite(contract: Contract) -> dict[str, Any]:
    """The contract's rules as an expectation suite that JSON can hold; each expectation names its rule in `meta`.

    Lists are judged by a column of their lengths, because great-expectations measures their text.
    """
    expectations = [_expectation("expect_column_values_to_be_null", DECODE_ERROR, DECODE_ERROR)]
    for column in contract.columns:
        for rule in column.rules:
            expectations.append(_of_rule(rule, column, contract.features.kind))
    return {"name": contract.topic, "meta": {"version": contract.version}, "expectations": expectations}


def suite_json(contract: Contract) -> bytes:
    """The text kept as `suites/<topic>.json`."""
    return msgspec.json.format(msgspec.json.encode(suite(contract)), indent=1) + b"\n"


def _expectation(type_: str, rule: str, column: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": {"column": column, **kwargs}, "meta": {"rule": rule}}


def _of_rule(rule: str, column: Column, kind: str | None) -> dict[str, Any]:
    name = _LENGTH + column.name if column.is_list else column.name
    match rule.partition(":")[0]:
        case "required":
            condition = {}
            if isinstance(column.required, tuple):
                kinds = {"column": {"name": kind}, "operator": "IN", "parameter": list(column.required)}
                condition = {"row_condition": {"type": "comparison", **kinds}}
            return _expectation("expect_column_values_to_not_be_null", rule, name, **condition)
        case "finite":
            limit = float(np.finfo(np.float64).max)
            bounds = {"min_value": -limit, "max_value": limit}
            return _expectation("expect_column_values_to_be_between", rule, name, **bounds)
        case "between":
            low, high = (
                bound.isoformat() if isinstance(bound, datetime) else bound for bound in column.between or ()
            )
            return _expectation(
                "expect_column_values_to_be_between", rule, name, min_value=low, max_value=high
            )
        case "in_set":
            values = list(column.in_set or ())
            return _expectation("expect_column_values_to_be_in_set", rule, name, value_set=values)
        case "max_length":
            longest = {"max_value": column.max_length}
            if column.is_list:
                return _expectation("expect_column_values_to_be_between", rule, name, **longest)
            return _expectation("expect_column_value_lengths_to_be_between", rule, name, **longest)
        case _:
            body = (column.pattern or "")[1:-1]
            return _expectation("expect_column_values_to_match_regex", rule, name, regex=rf"^(?a:{body})\Z")


class Checker:
    """Runs a contract's suite; made once per process, because great-expectations takes seconds to start.

    Args:
        clock: seconds, for the duration that is reported.
    """

    def __init__(self, contract: Contract, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._contract = contract
        self._clock = clock
        # Must be said before the import, or the library reports its use to its makers.
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        import great_expectations.expectations as gxe
        from great_expectations.data_context.types.base import ProgressBarsConfig

        classes = {
            "expect_column_values_to_be_null": gxe.ExpectColumnValuesToBeNull,
            "expect_column_values_to_not_be_null": gxe.ExpectColumnValuesToNotBeNull,
            "expect_column_values_to_be_between": gxe.ExpectColumnValuesToBeBetween,
            "expect_column_values_to_be_in_set": gxe.ExpectColumnValuesToBeInSet,
            "expect_column_value_lengths_to_be_between": gxe.ExpectColumnValueLengthsToBeBetween,
            "expect_column_values_to_match_regex": gxe.ExpectColumnValuesToMatchRegex,
        }
        self._expectations = {
            entry["meta"]["rule"]: classes[entry["type"]](
                **_unconditional(entry["kwargs"]), meta=entry["meta"]
            )
            for entry in suite(contract)["expectations"]
        }
        self._suite = gx.ExpectationSuite
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        asset = context.data_sources.add_pandas("events").add_dataframe_asset("batch")
        self._batch = asset.add_batch_definition_whole_dataframe("whole")

    def check(self, batch: pa.RecordBatch, error: pa.StringArray, reasons: pa.ListArray) -> GateResult:
        """Judge the rows anew and compare.

        Args:
            batch: n rows in the contract's schema.
            error: the decoder's reason per row, null where there is none; such rows are judged by no other rule.
            reasons: list<string> per row as the gate gave them. `null_key` is not compared, since the batch does
                not show it.

        Raises:
            GateBroken: great-expectations could not carry out a rule.
        """
        began = self._clock()
        decoded = np.flatnonzero(pc.is_null(error).to_numpy(zero_copy_only=False))
        broken: dict[str, set[int]] = {}
        if batch.num_rows:
            errors = pa.RecordBatch.from_arrays([error], [DECODE_ERROR])
            broken |= self._run([DECODE_ERROR], _frame(errors, np.arange(batch.num_rows)))
        if len(decoded):
            frame = _frame(batch.take(pa.array(decoded)), decoded)
            for kinds, rules in _by_kinds(self._contract):
                mine = frame if kinds is None else frame[frame[self._contract.features.kind].isin(kinds)]
                broken |= self._run(rules, mine)
        said = _said(reasons, frozenset(self._contract.rules))
        disagreements = tuple(
            Disagreement(rule, len(masks - ours), len(ours - masks))
            for rule in sorted(broken.keys() | said.keys())
            if (masks := said.get(rule, set())) != (ours := broken.get(rule, set()))
        )
        return GateResult(
            batch.num_rows,
            len(set().union(*broken.values())),
            {rule: len(rows) for rule, rows in broken.items() if rows},
            disagreements,
            self._clock() - began,
        )

    def _run(self, rules: Sequence[str], frame: Any) -> dict[str, set[int]]:
        """Per rule the rows, by the frame's index, that break it.

        First every rule is only asked whether all rows hold it, because the library takes three times as long to
        list rows, even none.
        """
        rows: dict[str, set[int]] = {rule: set() for rule in rules}
        if len(frame):
            failed = [
                rule for rule, result in self._validate(rules, frame, "BOOLEAN_ONLY") if not result.success
            ]
            for rule, result in self._validate(failed, frame, "COMPLETE") if failed else ():
                found = result.result.get("unexpected_index_list")
                if not found:
                    raise GateBroken(self._complaint(rule, "the rows that break it", "none, though some do"))
                rows[rule] = set(found)
        return rows

    def _validate(self, rules: Sequence[str], frame: Any, result_format: str) -> list[tuple[str, Any]]:
        expectations = self._suite(name="rules", expectations=[self._expectations[rule] for rule in rules])
        batch = self._batch.get_batch({"dataframe": frame})
        validation: Any = batch.validate(expectations, result_format={"result_format": result_format})
        results = {result.expectation_config.meta["rule"]: result for result in validation.results}
        for rule in rules:
            if rule not in results:
                raise GateBroken(self._complaint(rule, "a result", "none"))
            if _raised(results[rule].exception_info):
                # Not the library's own words: they may quote values.
                word = _last_word(results[rule].exception_info)
                raise GateBroken(
                    self._complaint(rule, "a judgement of every row", f"an error of its own ({word})")
                )
        return [(rule, results[rule]) for rule in rules]

    def _complaint(self, rule: str, expected: str, got: str) -> str:
        return (
            f"topic {self._contract.topic}, rule {rule}: expected great-expectations to give {expected}, got {got};"
            " check that its version is the pinned one and that it can express the rule"
        )


def _unconditional(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Without the condition on the rows' kind, which is slow there: `_by_kinds` chooses the rows instead."""
    return {
        name: value for name, value in kwargs.items() if name not in ("row_condition", "condition_parser")
    }


def _by_kinds(contract: Contract) -> list[tuple[tuple[str, ...] | None, list[str]]]:
    """The rules by the kinds of event they apply to; those of None apply to all."""
    groups: dict[tuple[str, ...] | None, list[str]] = {}
    for column in contract.columns:
        for rule in column.rules:
            only = isinstance(column.required, tuple) and rule.startswith("required:")
            groups.setdefault(column.required if only else None, []).append(rule)  # type: ignore[arg-type]
    return list(groups.items())


def _said(reasons: pa.ListArray, rules: frozenset[str]) -> dict[str, set[int]]:
    """Per rule the rows the gate's reasons name; whatever is no rule came from the decoder."""
    rows = pc.list_parent_indices(reasons).to_numpy().tolist()
    said: dict[str, set[int]] = {}
    for row, reason in zip(rows, reasons.flatten().to_pylist(), strict=True):
        if reason != NULL_KEY:
            said.setdefault(reason if reason in rules else DECODE_ERROR, set()).add(row)
    return said


def _raised(info: Mapping[str, Any]) -> bool:
    """The library reports one exception flat, and those of metrics one level deeper."""
    nested = any(isinstance(value, Mapping) and _raised(value) for value in info.values())
    return bool(info.get("raised_exception")) or nested


def _last_word(info: Mapping[str, Any]) -> str:
    for value in [info, *info.values()]:
        if isinstance(value, Mapping) and value.get("exception_traceback"):
            return str(value["exception_traceback"]).strip().splitlines()[-1].partition(":")[0]
    return "unnamed"


def _frame(batch: pa.RecordBatch, index: NDArray[np.int64]) -> Any:
    """The batch in pandas, whose null, NaN and lists mean other things than Arrow's."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_list(values.type):
            name, values = _LENGTH + name, pc.list_value_length(values)
        if values.type in _MASKED:
            missing = values.is_null().to_numpy(zero_copy_only=False)
            plain = pc.fill_null(values, False if values.type == pa.bool_() else 0).to_numpy(
                zero_copy_only=False
            )
            array = pd.arrays.BooleanArray if values.type == pa.bool_() else pd.arrays.IntegerArray
            columns[name] = pd.Series(array(plain.copy(), missing), index=index)
        elif pa.types.is_floating(values.type):
            # pandas takes NaN for missing; an infinity is as wrong in every rule and is not overlooked.
            wide = values.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
            wide[np.isnan(wide) & values.is_valid().to_numpy(zero_copy_only=False)] = np.inf
            columns[name] = pd.Series(wide, index=index)
        elif pa.types.is_timestamp(values.type):
            instants = values.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).copy()
            instants[values.is_null().to_numpy(zero_copy_only=False)] = np.iinfo(np.int64).min  # NaT
            columns[name] = pd.Series(instants.view("datetime64[us]"), index=index).dt.tz_localize("UTC")
        else:
            columns[name] = pd.Series(values.to_pylist(), index=index, dtype=object)
    return pd.DataFrame(columns, index=index)
