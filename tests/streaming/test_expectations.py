"""great-expectations and the masks: they agree on every row, and a lie of either is found."""

import json
import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.streaming.contracts import (
    SHIPPED,
    Contract,
    GateBroken,
    Verdict,
    decode_json,
    gate,
    load,
    masks,
)
from headrace.streaming.contracts.encode import encode_json
from headrace.streaming.contracts.expectations import (
    DECODE_ERROR,
    Checker,
    Disagreement,
    GateResult,
    suite,
    suite_json,
)
from headrace.streaming.contracts.samples import sample_events

CONTRACT = load(Path(__file__).parent / "contracts_for_tests" / "every_type.toml")
SUITES = Path(__file__).parents[2] / "streaming" / "contracts" / "suites"

EDGES = [
    datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2100, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
]
# Values that are right, wrong, on the edge, or a trap of one of the two engines.
POOL: dict[str, list[Any]] = {
    "id": ["e1", "e2", "e12345678", "x", "", "e1\n", "e１", None],
    "time": [datetime(2026, 1, 1, tzinfo=UTC), *EDGES, None],
    "user": [0, 1, 2**63, 2**64 - 1, None],
    "sort": ["shown", "shown", "clicked", "bought", "", "other", None],
    "of": ["e1", "e2345", "", None],
    "int8": [-6, -5, 0, 5, 6, 127, -128, None],
    "int16": [1, 0, 3, -32768, 32767, None],
    "int32": [0, -(2**31), None],
    "int64": [0, -(2**63), 2**53 - 1, 2**53, 2**63 - 1, None],
    "uint8": [0, 1, 255, None],
    "uint16": [0, 65535, None],
    "uint32": [0, 2**32 - 1, None],
    "float32": [0.0, -0.0, 0.1, 0.10000002, -0.1, math.nan, math.inf, -math.inf, None],
    "float64": [0.0, 1.7976931348623157e308, math.nan, math.inf, -math.inf, None],
    "bounded64": [0.0, -0.0, -5e-324, 1e300, 1.1e300, math.nan, math.inf, -math.inf, None],
    "flag": [True, False, None],
    "text": ["", "äöü", "äöüß", "😀😀😀", "😀😀😀😀", "nan", "None", None],
    "code": ["12", "123", "１２", "a", "abc!", "ab c", "ab\n", "aé", "", None],
    "items": [[], [1], [1, 2, 3], [1, 2, 3, 4], None],
    "bytes": [[], [255], None],
    "big": [[2**64 - 1], None],
    "words": [[], ["a", "b"], ["a", "b", "c"], ["", ""], None],
}


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(CONTRACT)


def wild_batch(n: int, seed: int) -> pa.RecordBatch:
    rng = random.Random(seed)
    rows = [{name: rng.choice(POOL[name]) for name in CONTRACT.names} for _ in range(n)]
    return pa.RecordBatch.from_pylist(rows, CONTRACT.schema)


def no_errors(batch: pa.RecordBatch) -> pa.StringArray:
    return pa.nulls(batch.num_rows, pa.string())


def test_the_pool_breaks_every_rule() -> None:
    verdict = gate(wild_batch(400, 0), CONTRACT)
    assert set(verdict.failures) == set(CONTRACT.rules)


@pytest.mark.parametrize("seed", range(3))
def test_engines_agree_on_wild_rows(checker: Checker, seed: int) -> None:
    batch = wild_batch(300, seed)
    errors = pa.array([["bad_json", None, None, "wrong_type:id"][row % 4] for row in range(300)], pa.string())
    batch = pa.RecordBatch.from_arrays(
        [
            pa.compute.if_else(errors.is_null(), column, pa.scalar(None, column.type))
            for column in batch.columns
        ],
        schema=batch.schema,
    )
    null_key = pa.array([row % 5 == 0 for row in range(300)])
    verdict = gate(batch, CONTRACT, error=errors, null_key=null_key)
    result = checker.check(batch, errors, verdict.reasons)
    assert result.disagreements == ()
    assert result.rows == 300
    rules = {rule: count for rule, count in verdict.failures.items() if rule in CONTRACT.rules}
    assert result.failures == {**rules, DECODE_ERROR: 150}
    only_key = sum(reasons == ["null_key"] for reasons in verdict.reasons.to_pylist())
    assert result.rejected == 300 - sum(verdict.keep.to_pylist()) - only_key


@pytest.mark.parametrize("name", SHIPPED)
def test_engines_agree_on_shipped_topics(name: str) -> None:
    contract = load(name)
    good = sample_events(contract, 60, seed=2)
    texts = [json.loads(text) for text in encode_json(good)]
    rng = random.Random(name)
    for row in range(0, 60, 3):
        broken = rng.choice([column for column in contract.names if column in texts[row]])
        texts[row][broken] = rng.choice([None, -1, -1.5, "?" * 300, [1] * 300, 1e30])
    decoded = decode_json(pa.array([json.dumps(text).encode() for text in texts], pa.binary()), contract)
    verdict = gate(decoded.batch, contract, error=decoded.error)
    assert sum(verdict.failures.values()) > 5
    result = Checker(contract).check(decoded.batch, decoded.error, verdict.reasons)
    assert result.disagreements == ()
    assert result.rejected == 60 - sum(verdict.keep.to_pylist()) > 5


@pytest.mark.parametrize("rule", ["required", "finite", "between", "in_set", "max_length", "pattern"])
def test_a_mask_that_lets_all_pass_is_found(
    checker: Checker, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = wild_batch(120, 7)
    honest = gate(batch, CONTRACT).failures
    monkeypatch.setitem(masks.VIOLATIONS, rule, lambda values: None)
    blind = gate(batch, CONTRACT)
    result = checker.check(batch, no_errors(batch), blind.reasons)
    missed = {name: count for name, count in honest.items() if name.startswith(f"{rule}:")}
    assert missed
    assert result.disagreements == tuple(Disagreement(name, 0, missed[name]) for name in sorted(missed))


def test_a_mask_that_rejects_too_much_is_found(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = sample_rows(10)
    monkeypatch.setitem(masks.VIOLATIONS, "finite", lambda values: np.arange(len(values.values)) < 4)
    result = checker.check(batch, no_errors(batch), gate(batch, CONTRACT).reasons)
    assert result.disagreements == (Disagreement("finite:float64", 4, 0),)


def test_a_decoder_that_forgets_its_reason_is_found(checker: Checker) -> None:
    batch = sample_rows(3)
    error = pa.array([None, "bad_json", None], pa.string())
    reasons = pa.array([[], [], ["bad_json"]], pa.list_(pa.string()))
    result = checker.check(batch, error, reasons)
    assert result.disagreements == (Disagreement(DECODE_ERROR, 1, 1),)


def sample_rows(n: int) -> pa.RecordBatch:
    row = {"id": "e1", "time": datetime(2026, 1, 1, tzinfo=UTC), "user": 1, "sort": "shown"}
    row |= {"int32": 1, "bounded64": 1.0, "items": [1], "float64": 1.0}
    return pa.RecordBatch.from_pylist([row] * n, CONTRACT.schema)


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows(checker: Checker, rows: int) -> None:
    batch = sample_rows(rows)
    result = checker.check(batch, no_errors(batch), gate(batch, CONTRACT).reasons)
    assert (result.rows, result.rejected, result.failures, result.disagreements) == (rows, 0, {}, ())
    undecoded = pa.RecordBatch.from_arrays(
        [pa.nulls(2, f.type) for f in CONTRACT.schema], schema=CONTRACT.schema
    )
    error = pa.array(["empty", "bad_json"])
    result = checker.check(undecoded, error, gate(undecoded, CONTRACT, error=error).reasons)
    assert (result.rejected, result.failures, result.disagreements) == (2, {DECODE_ERROR: 2}, ())


def test_an_error_inside_a_rule_is_no_judgement(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    import great_expectations.expectations as gxe

    broken = gxe.ExpectColumnValuesToBeBetween(column="nowhere", min_value=0, meta={"rule": "between:int8"})
    monkeypatch.setitem(checker._expectations, "between:int8", broken)
    batch = sample_rows(3)
    with pytest.raises(GateBroken, match=r"rule between:int8.*an error of its own") as caught:
        checker.check(batch, no_errors(batch), gate(batch, CONTRACT).reasons)
    assert "nowhere" not in str(caught.value)


def test_results_hold_no_values(checker: Checker) -> None:
    secret = "SECRET"
    row = dict.fromkeys(("id", "sort", "of", "text", "code"), secret) | {
        "int64": 2**62 + 4711,
        "words": [secret] * 3,
    }
    batch = pa.RecordBatch.from_pylist([row] * 5, CONTRACT.schema)
    result = checker.check(batch, no_errors(batch), gate(batch, CONTRACT).reasons)
    assert result.rejected == 5
    data = result.to_json()
    assert b"SECRET" not in data
    assert str(2**62 + 4711).encode() not in data
    assert GateResult.from_json(data) == result


def test_the_clock_is_an_argument() -> None:
    ticks = iter([10.0, 12.5])
    batch = sample_rows(0)
    result = Checker(CONTRACT, clock=lambda: next(ticks)).check(
        batch, no_errors(batch), gate(batch, CONTRACT).reasons
    )
    assert result.seconds == 2.5


@pytest.mark.parametrize("name", SHIPPED)
def test_committed_suite_is_the_contract(name: str) -> None:
    assert (SUITES / f"{name}.json").read_bytes() == suite_json(load(name))


@pytest.mark.parametrize("contract", [CONTRACT, *map(load, SHIPPED)], ids=lambda contract: contract.topic)
def test_suite_has_each_rule_once(contract: Contract) -> None:
    rules = [entry["meta"]["rule"] for entry in suite(contract)["expectations"]]
    assert rules == [DECODE_ERROR, *contract.rules]


def test_the_suite_alone_gives_the_same_rows(checker: Checker) -> None:
    """The committed suite, run by someone else with its row conditions, on a frame made by hand."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    verdict: Verdict = gate(batch := wild_batch(80, 3), CONTRACT)
    kept = [
        entry for entry in suite(CONTRACT)["expectations"] if entry["meta"]["rule"].startswith("required:")
    ]
    frame = pd.DataFrame(index=range(80))
    for column in CONTRACT.columns:
        # pandas takes NaN for missing, so whoever runs the suite must hand over something else.
        plain = [math.inf if value != value else value for value in batch.column(column.name).to_pylist()]
        values = pd.Series(plain, dtype=object)
        frame[f"_length_{column.name}" if column.is_list else column.name] = values
    expectations = [ExpectationConfiguration(**entry).to_domain_obj() for entry in kept]
    context = gx.get_context(mode="ephemeral")
    source = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )
    validation: Any = source.get_batch({"dataframe": frame}).validate(
        gx.ExpectationSuite(name="s", expectations=expectations), result_format={"result_format": "COMPLETE"}
    )
    found: Mapping[str, int] = {
        result.expectation_config.meta["rule"]: len(result.result["unexpected_index_list"])
        for result in validation.results
    }
    assert {rule: count for rule, count in found.items() if count} == {
        rule: count for rule, count in verdict.failures.items() if rule.startswith("required:")
    }
